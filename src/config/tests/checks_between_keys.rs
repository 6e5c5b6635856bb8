//! Checks between keys.

use super::*;

#[test]
fn an_outbox_holds_two_events() {
    assert_eq!(
        fault("[events]\nmax_event = \"1MiB\""),
        "f:2: server.outbox (1MiB) does not hold two events of events.max_event (1MiB)"
    );
    assert!(
        fault("[events]\nmax_event = \"1MiB\"\n[server]\noutbox = \"1500KiB\"")
            .starts_with("f:4: server.outbox (1500KiB)")
    );
    good("[events]\nmax_event = \"1MiB\"\n[server]\noutbox = \"2MiB\"");
}

#[test]
fn outbox_total_holds_at_least_one_outbox() {
    assert_eq!(
        fault("[server]\noutbox_total = \"512KiB\""),
        "f:2: server.outbox_total (512KiB) is less than one server.outbox (1MiB)"
    );
    good("[server]\noutbox_total = \"1MiB\"");
}

#[test]
fn the_ring_holds_an_event() {
    assert_eq!(
        fault("[events]\nring = \"255KiB\""),
        "f:2: events.ring (255KiB) does not hold one event of events.max_event (256KiB)"
    );
    good("[events]\nring = \"256KiB\"");
}

#[test]
fn an_event_holds_the_commands_of_a_job() {
    assert_eq!(
        fault("[dispatcher]\nmax_commands = 1025"),
        "f:2: dispatcher.max_commands (1025) do not fit into an event of events.max_event (256KiB): \
         1024 do"
    );
    good("[dispatcher]\nmax_commands = 1024");
    good("[events]\nmax_event = \"64KiB\"");
}

#[test]
fn reports_are_no_more_frequent_than_checks() {
    let fault = fault("[system_state]\ninterval = \"1h\"");
    assert!(
        fault.starts_with(
            "f:2: system_state.report_interval (15m) is shorter than system_state.interval (1h)"
        ),
        "{fault}"
    );
    good("[system_state]\ninterval = \"15m\"");
}

#[test]
fn no_address_is_there_twice() {
    assert_eq!(
        fault("[server]\nlisten = [\n\"127.0.0.1:7\",\n\"[::1]:7\",\n\"127.0.0.1:7\"]"),
        "f:5: server.listen: 127.0.0.1:7 is there twice (server.listen has it too)"
    );
    assert_eq!(
        fault("[server]\nlisten_plain = [\"127.0.0.1:12150\"]"),
        "f:2: server.listen_plain: 127.0.0.1:12150 is there twice (server.listen has it too)"
    );
    assert!(
        fault("[relay]\nlisten = [\"[::1]:1\", \"[0::1]:1\"]")
            .contains("relay.listen: [::1]:1 is there twice")
    );
    good("[server]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]");
    good("[relay]\nlisten = [\"127.0.0.1:12150\"]");
}

#[test]
fn a_wide_address_covers_those_of_its_family() {
    assert_eq!(
        fault("[server]\nlisten = [\"0.0.0.0:7\", \"127.0.0.1:7\"]"),
        "f:2: server.listen: 127.0.0.1:7 and 0.0.0.0:7 of server.listen overlap: keep one of them"
    );
    let relay = fault("[relay]\nlisten = [\n\"[::1]:7\",\n\"[::]:7\"]");
    assert!(relay.starts_with("f:4: relay.listen: [::]:7 and [::1]:7"), "{relay}");
    good("[server]\nlisten = [\"0.0.0.0:7\", \"[::1]:7\", \"127.0.0.1:8\"]");
}

#[test]
fn at_least_one_listener_is_required() {
    let nobody = "[server]\nlisten = []\nsocket = \"\"\n";
    let fault = fault(nobody);
    assert!(fault.starts_with("f:2: this server is unreachable"), "{fault}");
    good("[server]\nlisten = []\n");
    good(&format!("{nobody}listen_plain = [\"127.0.0.1:0\"]"));
    let hex = "0".repeat(64);
    good(&format!("{nobody}[[bridge.link]]\nname='a'\nurl='wss://a'\nfingerprint='{hex}'"));
}

#[test]
fn every_file_and_state_directory_is_its_own() {
    assert_eq!(
        fault("[server]\ncertificate = \"/x.pem\"\nprivate_key = \"/x.pem\""),
        "f:3: server.private_key and server.certificate are both /x.pem: each needs its own"
    );
    assert!(
        fault("[relay]\nprivate_key = \"/usr/local/etc/sysadm-events/key.pem\"")
            .starts_with("f:2: relay.private_key and server.private_key are both ")
    );
    assert!(
        fault("[paths]\nstate = \"/var/db/sysadm-bridge\"")
            .starts_with("f:2: relay.state and paths.state are both ")
    );
}

#[test]
fn group_has_one_role() {
    assert_eq!(
        fault("[auth]\nread_only_groups = [\n\"operator\",\n\"wheel\"]"),
        "f:4: auth.read_only_groups: \"wheel\" is in auth.full_access_groups already"
    );
    assert!(
        fault("[auth]\nfull_access_groups = ['a', 'a']")
            .ends_with("\"a\" is in auth.full_access_groups already")
    );
}

#[test]
fn links_have_names_and_urls_of_their_own() {
    let link = |name: &str, url: &str| {
        format!(
            "[[bridge.link]]\nname = \"{name}\"\nurl = \"{url}\"\nfingerprint = \"{}\"\n",
            "0".repeat(64)
        )
    };
    let one = link("a", "wss://a");
    assert_eq!(
        faults(&format!("{one}{}", link("a", "wss://a:12149/"))),
        [
            "f:6: bridge.link.name: two links have the name \"a\"",
            "f:7: bridge.link.url: two links go to wss://a:12149",
        ]
    );
    assert_eq!(good(&format!("{one}{}", link("b", "wss://a:1"))).bridge.link.len(), 2);
}

#[test]
fn a_faulty_key_takes_no_part_in_them() {
    let all = faults(
        "[events]\nmax_event = \"4MiB\"\nring = \"8MiB\"\n\
         [server]\noutbox = \"8 MiB\"\noutbox_total = \"16 MiB\"",
    );
    assert_eq!(all.len(), 2, "{all:#?}");
    let hex = "0".repeat(64);
    let links =
        format!("[[bridge.link]]\nname='a'\nurl='http://a'\nfingerprint='{hex}'\n").repeat(2);
    let all = faults(&links);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(
        all[0].starts_with("f:3: bridge.link.url: \"http://a\" does not begin with wss://"),
        "{}",
        all[0]
    );
}

#[test]
fn a_slice_of_a_log_holds_eight_lines() {
    assert_eq!(
        fault("[life_preserver]\nslice = \"16KiB\""),
        "f:2: life_preserver.slice (16KiB) does not hold eight lines of \
         life_preserver.max_line (4KiB)"
    );
    good("[life_preserver]\nslice = \"16KiB\"\nmax_line = \"2KiB\"");
}

#[test]
fn check_interval_is_at_least_poll_interval() {
    let fault = fault("[life_preserver]\npoll_interval = \"2m\"");
    assert!(
        fault.starts_with(
            "f:2: life_preserver.check_interval (1m) is shorter than \
             life_preserver.poll_interval (2m)"
        ),
        "{fault}"
    );
    good("[life_preserver]\npoll_interval = \"60s\"");
}

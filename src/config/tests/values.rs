//! Values of single keys, and the messages for invalid ones.

use super::*;

#[test]
fn reach_their_fields() {
    let config = good(
        "[server]\nlisten = [\"0.0.0.0:1\", \"[::]:1\"]\nlisten_plain = [\"127.0.0.1:0\"]\n\
         socket = \"\"\nsocket_mode = \"0660\"\nhosts = [\"NAS.example.org\", \"[::1]\"]\n\
         max_message = 65536\nping_interval = \"1500ms\"\nlock_memory = true\n\
         [life_preserver]\nlog = \"\"\n[log]\nlevel = \"debug\"\ntarget = \"stderr\"\n\
         [bridge]\nallow_legacy_bridge_clients = \"read\"\n[relay]\nuser = \"\"\n\
         [system_state]\nzpool = \"/sbin/zpool\"\ncapacity_warning = 80\nzpool_when = \"always\"\n\
         zpool_output = \"64KiB\"\ndevd = \"\"\nzpool_events = false\nevent_delay = \"1s\"\n\
         event_pause = \"1m\"\n",
    );
    let listen: Vec<String> = config.server.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:1", "[::]:1"]);
    assert_eq!(config.server.listen_plain[0].to_string(), "127.0.0.1:0");
    assert_eq!(config.server.socket, None);
    assert_eq!(config.server.socket_mode, 0o660);
    assert_eq!(config.server.hosts, ["nas.example.org", "::1"]);
    assert_eq!(config.server.max_message, 65536);
    assert_eq!(config.server.ping_interval, Duration::from_millis(1500));
    assert!(config.server.lock_memory);
    assert_eq!(config.life_preserver.log, None);
    assert_eq!(config.log.level, log::LevelFilter::Debug);
    assert_eq!(config.log.target, LogTarget::Stderr);
    assert_eq!(config.bridge.allow_legacy_bridge_clients, LegacyBridgeClients::Read);
    assert_eq!(config.relay.user, None);
    assert_eq!(config.system_state.zpool, Path::new("/sbin/zpool"));
    assert_eq!(config.system_state.capacity_warning, 80);
    assert_eq!(config.system_state.zpool_when, ZpoolWhen::Always);
    assert_eq!(config.system_state.zpool_output, 65536);
    assert_eq!(config.system_state.devd, None);
    assert!(!config.system_state.zpool_events);
    assert_eq!(config.system_state.event_delay, Duration::from_secs(1));
    assert_eq!(config.system_state.event_pause, Duration::from_secs(60));
}

#[test]
fn links_are_normalised() {
    let config = good(&format!(
        "[[bridge.link]]\nname = \"a\"\nurl = \"wss://B\"\nfingerprint = \"SHA256:{}\"\n",
        "AB:".repeat(32).trim_end_matches(':')
    ));
    let link = &config.bridge.link[0];
    assert_eq!((link.url.host.as_str(), link.url.port), ("b", 12149));
    assert_eq!(link.fingerprint, "ab".repeat(32));
}

#[test]
fn values_in_any_toml_form_are_accepted() {
    assert_eq!(good("log.level = \"warn\"\n").log.level, log::LevelFilter::Warn);
    assert_eq!(good("log = { level = \"warn\" }").log.level, log::LevelFilter::Warn);
    assert_eq!(good("\u{feff}[log]\r\nlevel = \"warn\"\r\n").log.level, log::LevelFilter::Warn);
}

#[test]
fn of_a_wrong_type_are_refused() {
    for (line, wanted) in [
        ("[server]\nlisten = \"127.0.0.1:1\"", "listen: a list like [\"…\"] is wanted, not a text"),
        ("[server]\nlisten = [1]", "listen: a text in quotes is wanted, not a whole number"),
        ("[server]\nsocket = false", "socket: a text in quotes is wanted, not true or false"),
        (
            "[server]\nsocket_mode = 666",
            "socket_mode: a text in quotes is wanted, not a whole number",
        ),
        ("[server]\nmax_clients = \"9\"", "max_clients: a whole number is wanted, not a text"),
        ("[server]\nmax_clients = 9.5", "max_clients: a whole number is wanted, not a fraction"),
        ("[server]\noutbox = [1]", "outbox: a size like \"64KiB\" is wanted, not a list"),
        (
            "[server]\nauth_timeout = 30",
            "auth_timeout: a duration like \"30s\" is wanted, not a whole number",
        ),
        (
            "[server]\nauth_timeout = 2026-11-24",
            "auth_timeout: a duration like \"30s\" is wanted, not a date",
        ),
        ("[server]\nlock_memory = 1", "lock_memory: true or false is wanted, not a whole number"),
        ("[server]\nsocket = {a=1}", "socket: a text in quotes is wanted, not a section"),
    ] {
        assert_eq!(fault(line), format!("f:2: server.{wanted}"));
    }
}

#[test]
fn of_a_wrong_form_are_refused() {
    for (line, fragment) in [
        ("outbox = \"64KB\"", "outbox: \"64KB\" is not a size: write a whole number and B, KiB"),
        ("auth_timeout = \"30\"", "auth_timeout: \"30\" is not a duration: write a whole"),
        ("socket = \"run/socket\"", "socket: \"run/socket\" is not an absolute path: begin it"),
        ("certificate = \"\"", "certificate: \"\" is not an absolute path"),
        ("certificate = \"/a\\u0000b\"", "certificate: \"/a\\0b\" has a control character"),
        ("socket_mode = \"0888\"", "socket_mode: \"0888\" is not a mode"),
        ("socket_mode = \"1777\"", "socket_mode: \"1777\" is not a mode"),
        ("socket_mode = \"+666\"", "socket_mode: \"+666\" is not a mode"),
        ("socket_mode = \"\"", "socket_mode: \"\" is not a mode"),
        (
            "listen = [\"localhost:1\"]",
            "listen: \"localhost:1\" is not an address: write a numeric",
        ),
        ("listen = [\"127.0.0.1\"]", "listen: \"127.0.0.1\" is not an address"),
        ("listen = [\"::1:12150\"]", "listen: \"::1:12150\" is not an address"),
        ("listen = [\"127.0.0.1:65536\"]", "listen: \"127.0.0.1:65536\" is not an address"),
        ("listen = [\"[::ffff:127.0.0.1]:1\"]", "is an IPv4 address in IPv6 clothes"),
        ("listen = [\"224.0.0.1:1\"]", "listen: \"224.0.0.1:1\" is a multicast address"),
        ("hosts = [\"https://nas\"]", "hosts: \"https://nas\" is not a host name or IP address"),
    ] {
        let fault = fault(&format!("[server]\n{line}"));
        assert!(fault.starts_with("f:2: server.") && fault.contains(fragment), "{fault}");
    }
}

#[test]
fn names_that_the_host_could_not_know_are_refused() {
    for (text, fragment) in [
        ("[auth]\nread_only_groups = [\"\"]", "read_only_groups: \"\" is not the name of a group"),
        ("[auth]\nread_only_groups = [\"a:b\"]", "it has ':' in it"),
        ("[auth]\npam_service = \"login\"", "admits users without a password"),
        ("[auth]\npam_service = \"system\"", "admits users without a password"),
        ("[auth]\npam_service = \"../x\"", "is not the name of a service"),
        ("[relay]\nuser = \" x\"", "is not the name of a user"),
        ("[system_state]\nzpool = \"sbin/zpool\"", "is not an absolute path"),
        ("[system_state]\nzpool = \"\"", "is not a program"),
    ] {
        let fault = fault(text);
        assert!(fault.starts_with("f:2: ") && fault.contains(fragment), "{fault}");
    }
}

#[test]
fn out_of_bounds_are_refused() {
    for (line, message) in [
        ("max_clients = 0", "max_clients: 0 is out of bounds: 1 to 65536"),
        ("max_clients = -1", "max_clients: -1 is out of bounds: 1 to 65536"),
        (
            "max_clients = 0xffffffffffffffffff",
            "max_clients: 0xffffffffffffffffff is out of bounds: 1 to 65536",
        ),
        ("max_message = 0", "max_message: 0 is out of bounds: 8KiB to 64MiB"),
        ("max_message = \"1GiB\"", "max_message: \"1GiB\" is out of bounds: 8KiB to 64MiB"),
        (
            "max_message = \"99999999999999999999GiB\"",
            "max_message: \"99999999999999999999GiB\" is out of bounds: 8KiB to 64MiB",
        ),
        ("auth_timeout = \"0s\"", "auth_timeout: \"0s\" is out of bounds: 10ms to 1h"),
        (
            "auth_timeout = \"99999999999999999d\"",
            "auth_timeout: \"99999999999999999d\" is out of bounds: 10ms to 1h",
        ),
    ] {
        assert_eq!(fault(&format!("[server]\n\n{line}\n")), format!("f:3: server.{message}"));
    }
    assert!(fault("[events]\nmax_event = \"63KiB\"").contains("64KiB to 64MiB"));
}

#[test]
fn no_limit_can_be_zero() {
    let (known, _) = known_and_written("");
    for key in known {
        let (section, name) = key.rsplit_once('.').unwrap();
        if section.contains('.') {
            continue;
        }
        for zero in ["0", "\"0s\"", "\"0B\""] {
            assert!(
                parse(&format!("[{section}]\n{name} = {zero}")).is_err()
                // A name may be any word, and 0 may switch something off.
                || ["user", "pam_service", "zpool", "retain_environment", "history"]
                    .contains(&name)
                || ["clear_after", "link_after", "certificate_before"].contains(&name),
                "{key} = {zero} was taken"
            );
        }
    }
}

#[test]
fn words_are_suggested() {
    assert_eq!(
        fault("[log]\nlevel = \"wran\""),
        "f:2: log.level: \"wran\" is none of \"off\", \"error\", \"warn\", \"info\", \"debug\", \
         \"trace\"; did you mean \"warn\"?"
    );
    assert_eq!(
        fault("[bridge]\nallow_legacy_bridge_clients = \"everything\""),
        "f:2: bridge.allow_legacy_bridge_clients: \"everything\" is none of \"no\", \"read\", \
         \"full\""
    );
}

#[test]
fn without_tls_only_loopback_is_served() {
    for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[fe80::1]:1"] {
        let fault = fault(&format!("[server]\nlisten_plain = [\n\"127.0.0.1:1\",\n\"{address}\"]"));
        let start = format!("f:4: server.listen_plain: \"{address}\" is not a loopback address");
        assert!(fault.starts_with(&start), "{fault}");
    }
    assert_eq!(
        good("[server]\nlisten_plain = [\"127.9.9.9:1\", \"[::1]:1\"]").server.listen_plain.len(),
        2
    );
}

#[test]
fn a_socket_path_fits_into_an_address() {
    let path = format!("/{}", "x".repeat(102));
    assert_eq!(
        good(&format!("[server]\nsocket = \"{path}\"")).server.socket,
        Some(path.clone().into())
    );
    assert!(
        fault(&format!("[server]\nsocket = \"{path}x\""))
            .ends_with("has 104 bytes: a socket's path has at most 103")
    );
}

#[test]
fn lists_are_bounded() {
    let hosts = "\"a\",".repeat(65);
    assert_eq!(
        fault(&format!("[server]\nhosts = [{hosts}]")),
        "f:2: server.hosts: has 65 entries: at most 64"
    );
    let links = "[[bridge.link]]\n".repeat(65);
    assert_eq!(fault(&links), "f:1: bridge.link: has 65 entries: at most 64");
}

#[test]
fn foreign_values_are_shown_shortened_without_control_characters() {
    let long = "x".repeat(5000);
    let fault = fault(&format!("[server]\noutbox = \"\\u001b[31m{long}\""));
    assert!(fault.contains("\"\\u{1b}[31mxxx") && fault.contains("xxx\"…"), "{fault}");
    assert!(fault.len() < 250, "{fault}");
}

//! Pages of `zpool status` and the resulting priorities.

use super::captures;
use super::status::{Page, parse};

/// The messages of OpenZFS 2.4 (`print_status_reason` in `cmd/zpool/zpool_main.c`), and other
/// wordings of other versions, with the identifier of the page and the priority for an ONLINE pool.
const MESSAGES: [(&str, &str, u8); 38] = [
    (
        "One or more devices could not be opened.  Sufficient replicas exist for\n\tthe pool to continue functioning in a degraded state.",
        "2Q",
        7,
    ),
    (
        "One or more devices could not be opened.  There are insufficient\n\treplicas for the pool to continue functioning.",
        "3C",
        9,
    ),
    (
        "One or more devices could not be used because the label is missing or\n\tinvalid.  Sufficient replicas exist for the pool to continue\n\tfunctioning in a degraded state.",
        "4J",
        7,
    ),
    (
        "One or more devices could not be used because the label is missing \n\tor invalid.  There are insufficient replicas for the pool to continue\n\tfunctioning.",
        "5E",
        9,
    ),
    (
        "One or more devices has experienced an unrecoverable error.  An\n\tattempt was made to correct the error.  Applications are unaffected.",
        "9P",
        7,
    ),
    (
        "One or more devices has been taken offline by the administrator.\n\tSufficient replicas exist for the pool to continue functioning in a\n\tdegraded state.",
        "",
        7,
    ),
    (
        "One or more devices have been removed.\n\tSufficient replicas exist for the pool to continue functioning in a\n\tdegraded state.",
        "",
        7,
    ),
    (
        "One or more devices has been removed by the administrator.\n\tSufficient replicas exist for the pool to continue functioning in a\n\tdegraded state.",
        "",
        7,
    ),
    (
        "One or more devices is currently being resilvered.  The pool will\n\tcontinue to function, possibly in a degraded state.",
        "",
        3,
    ),
    (
        "One or more devices have been sequentially resilvered, scrubbing\n\tthe pool is recommended.",
        "",
        3,
    ),
    (
        "One or more devices has experienced an error resulting in data\n\tcorruption.  Applications may be affected.",
        "8A",
        8,
    ),
    ("The pool metadata is incomplete or corrupted and the pool cannot be opened.", "72", 9),
    ("The pool metadata is corrupted and the pool cannot be opened.", "72", 9),
    (
        "The pool is formatted using a legacy on-disk format.  The pool can\n\tstill be used, but some features are unavailable.",
        "",
        1,
    ),
    (
        "The pool is formatted using an older on-disk format.  The pool can\n\tstill be used, but some features are unavailable.",
        "",
        1,
    ),
    (
        "The pool has been upgraded to a newer, incompatible on-disk version.\n\tThe pool cannot be accessed on this system.",
        "A5",
        9,
    ),
    (
        "Some supported and requested features are not enabled on the pool.\n\tThe pool can still be used, but some features are unavailable.",
        "",
        1,
    ),
    (
        "Some supported features are not enabled on the pool. The pool can\n\tstill be used, but some features are unavailable.",
        "",
        1,
    ),
    (
        "This pool has a compatibility list specified, but it could not be\n\tread/parsed at this time. The pool can still be used, but this\n\tshould be investigated.",
        "",
        3,
    ),
    (
        "One or more features are enabled on the pool despite not being\n\trequested by the 'compatibility' property.",
        "",
        1,
    ),
    (
        "The pool cannot be accessed on this system because it uses the\n\tfollowing feature(s) not supported on this system:\n\tcom.example:new",
        "",
        9,
    ),
    (
        "The pool can only be accessed in read-only mode on this system. It\n\tcannot be accessed in read-write mode because it uses the following\n\tfeature(s) not supported on this system:\n\tcom.example:new",
        "",
        7,
    ),
    (
        "One or more devices are faulted in response to persistent errors.\n\tSufficient replicas exist for the pool to continue functioning in a\n\tdegraded state.",
        "",
        7,
    ),
    (
        "One or more failure domains are faulted. The storage devices may be\n\tintact. Sufficient replicas exist for the pool to continue functioning\n\tin a degraded state.",
        "",
        7,
    ),
    (
        "One or more devices are faulted in response to persistent errors.  There are insufficient replicas for the pool to\n\tcontinue functioning.",
        "",
        9,
    ),
    (
        "The pool is suspended because multihost writes failed or were delayed;\n\tanother system could import the pool undetected.",
        "MM",
        9,
    ),
    (
        "The pool is suspended because multihost writes failed or were delayed;\n\tanother system could import the pool undetected.",
        "",
        9,
    ),
    ("One or more devices are faulted in response to IO failures.", "HC", 9),
    ("One or more devices are faulted in response to IO failures.", "JQ", 9),
    ("Ein Text in einer anderen Sprache.", "JQ", 9),
    (
        "An intent log record could not be read.\n\tWaiting for administrator intervention to fix the faulted pool.",
        "K4",
        9,
    ),
    (
        "One or more devices are configured to use a non-native block size.\n\tExpect reduced performance.",
        "",
        3,
    ),
    (
        "Mismatch between pool hostid and system hostid on imported pool.\n\tThis pool was previously imported into a system with a different hostid,\n\tand then was verbatim imported into this system.",
        "EY",
        3,
    ),
    ("Ein Text in einer anderen Sprache.", "EY", 3),
    (
        "Errata #4 detected.\n\tExisting encrypted snapshots and bookmarks contain an on-disk\n\tincompatibility. This may cause on-disk corruption if they are used\n\twith 'zfs recv'.",
        "ER",
        3,
    ),
    ("The pool was split by aliens.", "", 6),
    ("The pool was split by aliens.", "ZZ", 6),
    ("", "", 6),
];

fn only(text: &str) -> Page {
    let pages = parse(text.as_bytes()).unwrap();
    assert_eq!(pages.len(), 1, "{text}");
    pages.into_iter().next().unwrap()
}

/// A page with these lines before its table, and this table.
fn page(lines: &str, table: &str) -> Page {
    only(&format!(
        "  pool: tank\n state: ONLINE\n{lines}config:\n\n\
         \tNAME                    STATE     READ WRITE CKSUM\n{table}\n\
         errors: No known data errors\n"
    ))
}

const WELL: &str = "\ttank                    ONLINE       0     0     0\n\t  /v/a b                ONLINE       0     0     0\n";

#[test]
fn every_status_message_has_its_priority() {
    for (text, id, priority) in MESSAGES {
        let see = match id {
            "" => String::new(),
            id => format!("   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-{id}\n"),
        };
        let page = page(&format!("status: {text}\naction: Do it.\n{see}"), WELL);
        assert_eq!(page.priority(), priority, "{text} {id}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(page.status(), Some(words), "{id}");
        assert_eq!(page.action.as_deref(), Some("Do it."));
        assert_eq!(
            page.is_suspended(),
            matches!(id, "HC" | "JQ" | "MM") || text.contains("suspended")
        );
    }
}

#[test]
fn serious_condition_hidden_by_a_resilver_is_found() {
    let resilver = "status: One or more devices is currently being resilvered.  The pool will\n\
                    \tcontinue to function, possibly in a degraded state.\n";
    assert_eq!(page(resilver, WELL).priority(), 3);
    let counted =
        WELL.replace("ONLINE       0     0     0\n\t  ", "ONLINE       0     0     2\n\t  ");
    assert_eq!(page(resilver, &counted).priority(), 7);
    let text = format!(
        "  pool: tank\n state: ONLINE\n{resilver}\nerrors: 3 data errors, use '-v' for a list\n"
    );
    assert_eq!(only(&text).priority(), 8);
    let text =
        format!("  pool: tank\n state: DEGRADED\n{resilver}\nerrors: No known data errors\n");
    assert_eq!(only(&text).priority(), 9);
}

fn named(page: &Page) -> Vec<String> {
    page.devices.iter().map(|device| device.line()).collect()
}

#[test]
fn devices_with_faults_are_named_and_others_are_not() {
    let table = "\ttank                    ONLINE       0     0     0\n\
                 \t  mirror-0              ONLINE       0     0     0\n\
                 \t    /v/ONLINE disk 1    ONLINE       0     0  1.2K  (resilvering)\n\
                 \t    sdb                 ONLINE       0     0     0  (trimming)\n\
                 \tlogs\t\n\
                 \t  sdc                   ONLINE       0     0     0\n\
                 \tcache\n\
                 \t  sdd                   FAULTED      0     0     0  too many errors\n\
                 \tspares\n\
                 \t  sde                   AVAIL   \n\
                 \t  sdf                   UNAVAIL   cannot open\n";
    let page = page("", table);
    assert_eq!(
        named(&page),
        [
            "\"/v/ONLINE disk 1\" ONLINE 0/0/1.2K ((resilvering))",
            "\"sdd\" FAULTED (too many errors)",
            "\"sdf\" UNAVAIL (cannot open)"
        ]
    );
    assert_eq!(page.priority(), 7);
    assert_eq!(page.devices[1].entry()["class"], "cache");
    assert_eq!(page.readable, ["/v/ONLINE disk 1", "sdb"]);
}

#[test]
fn device_that_was_resilvered_is_well() {
    // zfs-fuse 0.7.0 after `zpool online`.
    let table = WELL.replace("0\n", "0  17.5K resilvered\n");
    let page = page(
        " scrub: resilver completed after 0h0m with 0 errors on Mon Nov 23 18:11:47 2026\n",
        &table,
    );
    assert_eq!((named(&page), page.priority()), (vec![], 0));
}

#[test]
fn group_is_reported_where_no_leaf_explains_its_errors() {
    let table = "\ttank                    ONLINE       0     0     0\n\
                 \t  raidz1-0              ONLINE       0     0    12\n\
                 \t    sda                 ONLINE       0     0     0\n";
    let page = page("", table);
    assert_eq!((named(&page), page.priority()), (vec!["\"raidz1-0\" ONLINE 0/0/12".to_owned()], 7));
}

#[test]
fn table_out_of_line_or_without_columns_is_read() {
    // Columns of another width, as left by a script that shortens paths; no CKSUM.
    let text = "  pool: tank\n state: ONLINE\nconfig:\n\n\tNAME            STATE     READ WRITE\n\
                \ttank   ONLINE  0  0\n\t  /v/a  ONLINE  0  3\n\t  /v/b  FAULTED\n";
    let page = only(text);
    assert_eq!(named(&page), ["\"/v/a\" ONLINE 0/3", "\"/v/b\" FAULTED"]);
    // Empty.
    for text in ["  pool: tank\n", "  pool: tank\n state: ONLINE\nconfig:\n\n", "  pool: \n"] {
        assert_eq!(only(text).priority(), 0, "{text}");
    }
}

#[test]
fn worst_of_many_devices_are_named() {
    let mut table = "\ttank                    ONLINE       0     0     0\n".to_owned();
    for number in 0..500 {
        let row = format!("  disk{number}");
        let (count, note) = if number == 499 {
            (7, "")
        } else {
            (0, "  block size: 512B configured, 4096B native")
        };
        table.push_str(&format!("\t{row:<24}ONLINE       0     0     {count}{note}\n"));
    }
    let page = page(
        "status: One or more devices are configured to use a non-native block size.\n",
        &table,
    );
    assert_eq!(page.devices.len(), 32);
    assert_eq!(named(&page)[0], "\"disk499\" ONLINE 0/0/7");
    assert_eq!(page.priority(), 7);
}

#[test]
fn pages_of_many_pools_are_separated() {
    let text: String = (0..200)
        .map(|n| {
            let errors = if n == 77 { "2 data errors, use '-v' for a list" } else { "No known data errors" };
            format!("  pool: p:{n} x\n state: ONLINE\n  scan: none requested\nconfig:\n\n{WELL}\nerrors: {errors}\n\n")
        })
        .collect();
    let pages = parse(text.as_bytes()).unwrap();
    assert_eq!(pages.len(), 200);
    let bad: Vec<&str> =
        pages.iter().filter(|page| page.priority() > 0).map(|page| page.name.as_str()).collect();
    assert_eq!(bad, ["p:77 x"]);
}

#[test]
fn errors_hidden_from_this_user_are_none() {
    for (errors, priority) in [
        ("No known data errors", 0),
        ("List of errors unavailable (insufficient privileges)", 0),
        ("List of errors unavailable: permission denied", 0),
        ("Permanent errors have been detected in the following files:\n\n        /tank/a: b", 8),
        ("1 data errors, use '-v' for a list", 8),
    ] {
        let text = format!("  pool: tank\n state: ONLINE\nconfig:\n\n{WELL}\nerrors: {errors}\n");
        assert_eq!(only(&text).priority(), priority, "{errors}");
    }
}

#[test]
fn any_cut_of_a_captured_status_is_read_without_a_panic() {
    for file in [captures::OPENZFS_2_3, captures::OPENZFS_2_1, captures::ZFS_FUSE] {
        for capture in captures::read(file).iter().filter(|c| c.command.contains("status")) {
            for at in (0..=capture.out.len()).filter(|at| capture.out.is_char_boundary(*at)) {
                let _ = parse(&capture.out.as_bytes()[..at]);
                let _ = parse(&capture.out.as_bytes()[at..]);
            }
        }
    }
}

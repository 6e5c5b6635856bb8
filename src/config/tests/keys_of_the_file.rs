//! Unknown and misplaced keys and sections.

use super::*;

#[test]
fn unknown_names_get_a_suggestion() {
    assert_eq!(
        fault("[server]\n\nlisen = []"),
        "f:3: unknown key \"lisen\" in [server]; did you mean \"listen\"?"
    );
    let far = fault("[server]\nfavourite_colour = 1");
    let start = "f:2: unknown key \"favourite_colour\" in [server]; the nearest known key is \"";
    assert!(far.starts_with(start), "{far}");
}

#[test]
fn misplaced_keys_get_their_section() {
    assert_eq!(
        fault("[server]\nmax_running = 3"),
        "f:2: unknown key \"max_running\" in [server]; it belongs in [dispatcher]"
    );
    assert_eq!(
        fault("state = \"/x\""),
        "f:1: unknown key \"state\" outside of any section; it belongs in [relay] or [paths]"
    );
    assert_eq!(
        fault("outbax = \"1MiB\""),
        "f:1: unknown key \"outbax\" outside of any section; did you mean \"outbox\"?"
    );
}

#[test]
fn unknown_sections_name_the_nearest() {
    assert_eq!(
        fault("\n[sever]\nlisten = []"),
        "f:2: unknown section \"sever\"; did you mean [server]?"
    );
    assert_eq!(
        fault("[[zoological]]"),
        "f:1: unknown section \"zoological\"; the nearest known section is [log]"
    );
}

#[test]
fn sections_have_their_form() {
    assert_eq!(fault("[[server]]"), "f:1: there is only one section server: write [server]");
    assert_eq!(fault("server = 5"), "f:1: server is a section, not a whole number: write [server]");
    assert_eq!(
        fault("[bridge.link]\nname = \"x\""),
        "f:1: bridge.link: is a list of sections: write [[bridge.link]] before each"
    );
}

#[test]
fn a_link_needs_all_of_its_keys() {
    assert_eq!(
        faults("\n[[bridge.link]]\nnam = \"x\"\n"),
        [
            "f:2: [[bridge.link]] has no name: it needs one",
            "f:2: [[bridge.link]] has no url: it needs one",
            "f:2: [[bridge.link]] has no fingerprint: it needs one",
            "f:3: unknown key \"nam\" in [[bridge.link]]; did you mean \"name\"?",
        ]
    );
}

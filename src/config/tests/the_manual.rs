//! The manual page is a second sample: each of its keys and defaults must be correct.

use super::*;

const PAGE: &str = include_str!("../../../man/sysadm-events.toml.5");

/// The keys of the page as a file: sections as on the page, each key with its value.
fn as_file() -> String {
    let keys = PAGE.split_once("\n.Sh KEYS\n").unwrap().1.split_once("\n.Sh ").unwrap().0;
    let line = |line: &str| {
        let text = line.strip_prefix(".Ss ").or_else(|| line.strip_prefix(".It Ic "))?;
        Some(text.replace("\\(dq", "\"") + "\n")
    };
    keys.lines().filter_map(line).collect()
}

#[test]
fn manual_states_every_default() {
    let mut config = on_this_system(good(&as_file()), PAGE);
    assert_eq!(std::mem::take(&mut config.bridge.link).len(), 1);
    assert_eq!(std::mem::take(&mut config.dispatcher.queue).len(), 1);
    assert_eq!(std::mem::take(&mut config.notify).len(), 4);
    assert_eq!(std::mem::take(&mut config.alerts.pool).len(), 1);
    assert_eq!(std::mem::take(&mut config.expect).len(), 4);
    assert_eq!(std::mem::take(&mut config.life_preserver.source).len(), 2);
    assert_eq!(config, Config::defaults(&Home::System));
}

#[test]
fn names_every_key() {
    let (known, written) = known_and_written(&as_file());
    assert!(known.len() > 50, "{known:?}");
    assert_eq!(known, written);
}

#[test]
fn manual_marks_keys_that_need_a_restart() {
    let marked = |text: &str| -> usize { text.matches("(restart)").count() };
    // The page explains the mark, as the sample does.
    assert_eq!(marked(PAGE), marked(SAMPLE));
}

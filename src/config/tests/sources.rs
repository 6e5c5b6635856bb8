//! Logs of other programs, `[[life_preserver.source]]`.

use super::*;
use crate::rules::{Class, Outcome, Reader, Reading};

/// The faults of one entry that consists of `lines` and a log.
fn entry(lines: &str) -> Vec<String> {
    faults(&format!("[[life_preserver.source]]\nlog = \"/l\"\n{lines}"))
}

#[test]
fn source_requires_a_rule_set_or_a_pattern() {
    let text = "[[life_preserver.source]]\nlog = \"/a\"\nrule = \"zrepl\"\n\
                [[life_preserver.source]]\nlog = \"/b\"\nclass = \"replication\"\nmatch = '^sent (?P<what>.*)'\n\
                [[life_preserver.source]]\nlog = \"/b\"\nclass = \"snapshot\"\nmatch = 'x'\npriority = 10\nmessage = \"{line}!\"\n";
    let sources = good(text).life_preserver.source;
    let [zrepl, sent, x] = &sources[..] else { panic!("{sources:?}") };
    assert_eq!((&*zrepl.log, &*zrepl.rules.name), (Path::new("/a"), "zrepl"));
    let read = |source: &LogSource, line: &str| Reader::new(vec![source.rules.clone()]).read(line);
    let known = |class, priority, message: &str| {
        Outcome::Known(Reading {
            class,
            priority,
            message: message.to_owned(),
            dataset: None,
            run: None,
        })
    };
    assert_eq!(read(sent, "sent all"), known(Class::Replication, 1, "sent all"));
    assert_eq!(read(sent, "ERROR: unsent"), Outcome::Nothing);
    assert_eq!(read(x, "an x"), known(Class::Snapshot, 10, "an x!"));
}

#[test]
fn source_missing_key_is_reported_with_its_line() {
    let needs = "[[life_preserver.source]] needs either rule, or both class and match";
    assert_eq!(entry(""), [format!("f:1: {needs}")]);
    assert_eq!(entry("class = \"snapshot\""), [format!("f:3: {needs}")]);
    assert_eq!(entry("match = 'x'"), [format!("f:3: {needs}")]);
    assert_eq!(entry("rule = \"zrepl\"\nmatch = 'x'"), [format!("f:4: {needs}")]);
    assert_eq!(entry("rule = \"zrepl\"\nclass = \"snapshot\""), [format!("f:4: {needs}")]);
    assert_eq!(
        faults("[[life_preserver.source]]\nrule = \"zrepl\""),
        ["f:1: [[life_preserver.source]] has no log: it needs one"]
    );
}

#[test]
fn a_pattern_that_is_none_is_an_error_with_its_line() {
    let said = entry("class = \"snapshot\"\n\nmatch = '(a'");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("f:5: life_preserver.source.match: "), "{said:?}");
    assert!(said[0].contains("is not a regular expression: "), "{said:?}");
    let huge = entry("class = \"snapshot\"\nmatch = '(a{1000}){1000}'");
    assert!(huge.len() == 1 && huge[0].contains("is not a regular expression"), "{huge:?}");
}

#[test]
fn source_message_uses_groups_of_the_pattern() {
    let own = "class = \"snapshot\"\nmatch = '^(?P<name>.*)'\nmessage = ";
    assert!(entry(&format!("{own}'{{name}} {{{{x}}}} {{line}}'")).is_empty());
    assert_eq!(
        entry(&format!("{own}'{{dataset}}'")),
        [
            "f:5: life_preserver.source.message: match has no group \"dataset\": write (?P<dataset>…)"
        ]
    );
    let open = entry(&format!("{own}'{{name'"));
    assert!(
        open.len() == 1 && open[0].starts_with("f:5: life_preserver.source.message"),
        "{open:?}"
    );
    for (key, line) in [("message", "message = \"x\""), ("priority", "priority = 3")] {
        let said = entry(&format!("rule = \"sanoid\"\n{line}"));
        assert_eq!(said, [format!("f:4: life_preserver.source.{key}: a ready rule has its own")]);
    }
}

#[test]
fn words_and_numbers_have_their_bounds() {
    let rule = entry("rule = \"rsync\"");
    assert!(rule.len() == 1 && rule[0].starts_with("f:3: life_preserver.source.rule"), "{rule:?}");
    let class = entry("class = \"backup\"\nmatch = 'x'");
    assert!(class.len() == 1 && class[0].starts_with("f:3: "), "{class:?}");
    let priority = entry("class = \"snapshot\"\nmatch = 'x'\npriority = 11");
    assert!(priority.len() == 1 && priority[0].starts_with("f:5: "), "{priority:?}");
    let log = faults("[[life_preserver.source]]\nlog = \"l\"\nrule = \"zrepl\"");
    assert!(log.len() == 1 && log[0].starts_with("f:2: life_preserver.source.log"), "{log:?}");
}

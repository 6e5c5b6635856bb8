//! Tests for all rule sets.

use super::*;
use crate::config::Rules;

fn reader(name: &str) -> Reader {
    Reader::new(vec![Rules::default().get(name).unwrap()])
}

fn event(outcome: Outcome) -> Option<Reading> {
    match outcome {
        Outcome::Known(reading) | Outcome::Unknown(reading) => Some(reading),
        Outcome::Ignored | Outcome::Foreign | Outcome::Nothing => None,
    }
}

#[test]
fn sample_with_another_event_is_a_fault() {
    let with = |samples: &str| {
        let set = RuleSet::clone(&Rules::default().get("sanoid").unwrap());
        samples::faults(&Arc::new(RuleSet { samples: samples.to_owned(), ..set }))
    };
    let line = "INFO: taking snapshot tank/a@x";
    let right = format!("{line}\n\t=> snapshot\t0\ttank/a\nquiet\n");
    assert_eq!(with(&right), Vec::<String>::new());
    for (wrong, word) in [
        (format!("{line}\n"), "wants no event"),
        (format!("{line}\n\t=> snapshot\t7\ttank/a\n"), "gives snapshot 0"),
        (format!("{line}\n\t=> replication\t0\ttank/a\n"), "gives snapshot 0"),
        (format!("{line}\n\t=> snapshot\t0\ttank/b\n"), "wants snapshot 0 tank/b"),
        ("quiet\n\t=> snapshot\t0\t\n".to_owned(), "gives no event"),
        ("\t=> snapshot\t0\t\n".to_owned(), "without a line"),
    ] {
        let faults = with(&wrong);
        assert!(faults.len() == 1 && faults[0].contains(word), "{wrong}: {faults:?}");
    }
}

#[test]
fn lines_of_other_programs_are_no_reason_of_a_failure() {
    let failure =
        "Nov 23 17:50:47 nas sanoid[7]: CRITICAL ERROR: /sbin/zfs snapshot tank/b@x failed, 256";
    let message = |before: &str| {
        let mut reader = reader("sanoid");
        reader.read(before);
        event(reader.read(failure)).unwrap().message
    };
    let other = message("Nov 23 17:50:47 nas kernel: ERROR: ata1 is slow");
    assert!(other.ends_with("Snapshot failed for tank/b"), "{other}");
    let own = message("Nov 23 17:50:47 nas sanoid[7]: cannot create snapshot 'tank/b@x': no space");
    assert!(own.ends_with("no space"), "{own}");
}

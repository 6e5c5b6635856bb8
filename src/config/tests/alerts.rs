//! Alerts and expectations.

use super::*;

#[test]
fn expectations_are_read() {
    let config = good(
        "[[expect]]\nsnapshot = \"tank/vm/*\"\nevery = \"1h\"\ngrace = \"15m\"\npriority = 8\n\
         [[expect]]\nemit = \"offsite\"\nevery = \"7d\"\n",
    );
    let [snapshot, emit] = config.expect.as_slice() else { panic!("{:?}", config.expect) };
    assert!(matches!(&snapshot.of, Expected::Snapshot(glob) if glob.as_str() == "tank/vm/*"));
    assert_eq!((snapshot.every, snapshot.priority), (Duration::from_secs(3600), 8));
    assert_eq!(emit.of, Expected::Emit("offsite".to_owned()));
    assert_eq!((emit.grace, emit.priority), (Duration::ZERO, 7));
}

#[test]
fn impossible_expectations_are_refused_with_their_line() {
    for (entry, expected) in [
        ("every = \"1h\"", "f:1: [[expect]] needs one of snapshot, replication, job and emit"),
        ("job = \"a\"", "f:1: [[expect]] has no every: it needs one"),
        ("job = \"a\"\nemit = \"b\"\nevery = \"1h\"", "f:1: [[expect]] needs one of"),
        (
            "snapshot = \"tank@a\"\nevery = \"1h\"",
            "f:2: expect.snapshot: \"tank@a\" names a snapshot",
        ),
        ("snapshot = \"tank//a\"\nevery = \"1h\"", "has an empty part"),
        ("snapshot = \"tank/é\"\nevery = \"1h\"", "has 'é', which no dataset has"),
        ("snapshot = \"a/***\"\nevery = \"1h\"", "has three * in a row"),
        ("job = \"\"\nevery = \"1h\"", "expect.job: \"\" is empty"),
        ("emit = \"a b\"\nevery = \"1h\"", "f:2: expect.emit: \"a b\" has ' ' at byte 1"),
        ("job = \"a\"\nevery = \"99999999999999999999d\"", "is out of bounds: 1s to 365d"),
        (
            "job = \"a\"\nevery = \"1h\"\ngrace = \"366d\"",
            "f:4: expect.grace: \"366d\" is out of bounds",
        ),
        (
            "job = \"a\"\nevery = \"1h\"\nevry = \"1h\"",
            "unknown key \"evry\" in [[expect]]; did you mean \"every\"?",
        ),
    ] {
        let fault = fault(&format!("[[expect]]\n{entry}\n"));
        assert!(fault.contains(expected), "{fault:?} lacks {expected:?}");
    }
    let twice = "[[expect]]\njob = \"a\"\nevery = \"1h\"\n".repeat(2);
    assert!(fault(&twice).contains("an earlier one has the same subject"));
    assert!(fault("expect = 1\n").contains("expect: is a list of sections: write [[expect]]"));
}

#[test]
fn thresholds_must_not_contradict_each_other() {
    assert_eq!(
        fault("[alerts]\ncapacity_raise = 80\n"),
        "f:2: alerts.capacity_clear (88) is above alerts.capacity_raise (80)"
    );
    let pool = |keys: &str| fault(&format!("[[alerts.pool]]\npool = \"tank\"\n{keys}\n"));
    assert!(
        pool("capacity_raise = 80\ncapacity_clear = 85").contains("is above capacity_raise (80)")
    );
    assert!(
        pool("free_raise = \"2GiB\"\nfree_clear = \"1GiB\"").contains("is less than free_raise")
    );
    let config = good("[alerts]\njobs = [\"*\"]\n[[alerts.pool]]\npool = \"t*\"\nfree_raise = 5\n");
    assert!(config.alerts.jobs[0].matches("nightly"));
    assert_eq!(config.alerts.pool[0].free_clear, 5);
}

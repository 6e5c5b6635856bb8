//! Log rules: lines of real logs give the right events, `check --try` shows it, and the operator's
//! own rules are read.

use std::fs;

use serde_json::{Value, json};
use support::{Cli, Outcome, Peer, Setup, append};

use super::PROGRAM;

/// A line and its expected event: class, maximum and minimum priority, words.
struct Case {
    line: String,
    event: Option<(String, u64, u64, Vec<String>)>,
}

/// The cases of a file, see `tests/cases/README.md`.
fn cases(name: &str) -> Vec<Case> {
    let file = format!("{}/tests/cases/logs/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let mut cases: Vec<Case> = Vec::new();
    for line in fs::read_to_string(file).unwrap().lines() {
        let Some(event) = line.strip_prefix("\t=> ") else {
            cases.push(Case { line: line.to_owned(), event: None });
            continue;
        };
        let fields: Vec<&str> = event.split('\t').collect();
        let [class, priority, words @ ..] = &fields[..] else {
            assert!(event.starts_with("(nothing"), "{event}");
            continue;
        };
        let (least, most) = if priority.ends_with("or more") {
            (priority[..1].parse().unwrap(), 10)
        } else if priority.starts_with("0 or 1") {
            (0, 1)
        } else {
            (priority.parse().unwrap(), priority.parse().unwrap())
        };
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        cases.last_mut().unwrap().event = Some(((*class).to_owned(), least, most, words));
    }
    cases
}

fn try_lines(rule: &str, lines: &str) -> (i32, Vec<Value>) {
    let cli = Cli::of(PROGRAM, "check");
    let cli = cli.args(["--try", "-", "--json", "--rule", rule]);
    let ran = cli.run_with_input(lines.as_bytes()).unwrap();
    assert_eq!(ran.err, "");
    (ran.code(), ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn cases_of_real_logs_give_their_events() {
    let mut wrong = Vec::new();
    for (file, rules) in [
        ("lpreserver", &["lpreserver"][..]),
        ("sanoid", &["sanoid"]),
        ("shared-syslog-sanoid", &["sanoid", "syncoid", "zrepl", "lpreserver"]),
        ("stamps-sanoid", &["sanoid"]),
        ("syncoid", &["syncoid"]),
        ("zrepl", &["zrepl"]),
    ] {
        let cases = cases(file);
        assert!(cases.len() > 1, "{file}");
        for rule in rules {
            for Case { line, event } in &cases {
                let (_, found) = try_lines(rule, line);
                let found = &found[0];
                let is_right = match event {
                    None => found["class"].is_null(),
                    Some((class, least, most, words)) => {
                        let message = found["message"].as_str().unwrap_or_default();
                        found["class"] == class.as_str()
                            && found["priority"]
                                .as_u64()
                                .is_some_and(|it| (*least..=*most).contains(&it))
                            && words.iter().all(|words| message.contains(words.as_str()))
                    }
                };
                if !is_right {
                    wrong.push(format!("{rule}: {line}\n  {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn stamps_hold_for_every_rule_set() {
    let messages = [
        (
            "sanoid",
            "CRITICAL ERROR: /sbin/zfs snapshot tank/a@x failed, 256 at /usr/sbin/sanoid line 625.",
        ),
        (
            "syncoid",
            "CRITICAL ERROR: zfs send 'tank/a'@'x' | zfs receive -s -F 'b/a' 2>&1 failed: 256",
        ),
        ("zrepl", "[ERRO][push][repl][a$b]: send request failed filesystem=\"tank/a\" err=\"x\""),
        ("lpreserver", "ERROR: Failed creating snapshot on tank/a"),
        ("znapzend", "ERROR: cannot create snapshot tank/a@x"),
        ("zfsnap", "/sbin/zfs snapshot tank/a@x ... FAIL"),
        ("pyznap", "ERROR: Error while taking snapshot tank/a@x: 'out of space'..."),
    ];
    let stamps = [
        "<13>1 2026-11-23T17:50:47.123456+01:00 nas PROGRAM 77 - [a b=\"]\"] ",
        "2026-11-23T17:50:47+0100 ",
        "Nov 23 17:50:47 ",
        "Nov 23 17:50:47 nas PROGRAM[77]: ",
        "Nov 23 17:50:47 nas PROGRAM: ",
        "Nov 23 17:50:47 PROGRAM[77]: ",
        "Nov 23 17:50:47 <user.notice> nas PROGRAM[77]: ",
        "2026-11-23T17:50:47+01:00 nas PROGRAM[77]: ",
        "@400000006b04a3411de784a4 ",
        "1795456247.123 ",
        "1795456247123 ",
        "[2026-11-23 17:50:47] ",
        "[Mon Nov 23 17:50:47 2026] ",
        "Mon Nov 23 17:50:47 UTC 2026: ",
        "00:00:01 ",
        "2026-11-23 17:50:47,123 - ",
        "\u{feff}",
        "  ",
        "\u{1b}[31m",
        "stamp of a kind that nobody knows: ",
    ];
    for (program, message) in messages {
        let lines: Vec<String> =
            stamps.iter().map(|stamp| stamp.replace("PROGRAM", program) + message).collect();
        let (code, found) = try_lines(program, &(lines.join("\n") + "\r\n"));
        assert_eq!(code, 0, "{program}");
        for (stamp, found) in stamps.iter().zip(&found) {
            assert_eq!(found["priority"], 7, "{program}, {stamp}: {found}");
            assert!(found["message"].as_str().unwrap().contains("tank/a"), "{found}");
        }
    }
}

#[test]
fn try_marks_unmatched_lines_and_exits_with_a_code() {
    let shown = |lines: &str, rule: &[&str]| {
        let cli = Cli::of(PROGRAM, "check").args(["--try", "-"]).args(rule);
        let ran = cli.run_with_input(lines.as_bytes()).unwrap();
        (ran.code(), ran.out)
    };
    let known = "INFO: taking snapshot tank@x\n";
    let (code, out) = shown(&format!("{known}INFO: cache expired\n"), &[]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("     1   0 - Information snapshot    Taking snapshot of tank\n"),
        "{out}"
    );
    assert!(out.contains("     2   nothing         INFO: cache expired\n"), "{out}");
    assert!(out.ends_with("rule \"sanoid\": 2 lines, 1 matched, 1 event\n"), "{out}");

    let unknown = "[ERRO][a][rpc]: something new\n";
    let (code, out) = shown(&format!("[INFO][a]: x\n{unknown}"), &["--rule", "zrepl"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("     2 ! 6 - ") && out.contains("1 error that no rule knows"), "{out}");
    assert!(out.contains("nothing in 2 lines matched rule \"zrepl\""), "{out}");

    let (code, out) = shown(&format!("{known}a disk said: permission denied\n"), &[]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("     2 ? nothing"), "{out}");

    let (code, out) = shown("nothing of interest\n", &["--rule", "sanoid"]);
    assert_eq!(code, 2, "{out}");
    let (code, out) = shown("Nov 23 17:50:47 nas sshd[9]: error: x\n", &["--rule", "sanoid"]);
    assert_eq!(code, 2, "{out}");
    assert!(out.contains("another program"), "{out}");

    let missing = Cli::of(PROGRAM, "check").args(["--try", "/nonexistent/log"]).run().unwrap();
    assert_eq!(missing.code(), 66, "{}", missing.err);
    let rule = Cli::of(PROGRAM, "check")
        .args(["--try", "-", "--rule", "zrep"])
        .run_with_input(b"")
        .unwrap();
    assert_eq!(rule.code(), 64, "{}", rule.err);
    assert!(rule.err.contains("did you mean \"zrepl\"?"), "{}", rule.err);
}

#[test]
fn rules_of_the_directory_replace_and_reload_names_their_faults() -> Outcome<()> {
    let mut setup = Setup::following(PROGRAM)?;
    let log = setup.log();
    let directory = setup.directory().join("rules");
    fs::create_dir(&directory)?;
    let file = directory.join("own.toml");
    let rule = |message: &str| {
        format!(
            "[program]\nextends = \"sanoid\"\n[[rule]]\nline = \"backup of {{dataset}} done\"\n\
                 priority = 2\nmessage = \"{message}\"\n"
        )
    };
    fs::write(&file, rule("first {dataset}"))?;
    setup.set("life_preserver.log", "\"\"");
    setup.set("life_preserver.rules_dir", format!("{directory:?}"));
    let setup =
        setup.with_lines(&format!("[[life_preserver.source]]\nlog = {log:?}\nrule = \"own\"\n"));
    append(&log, "")?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&log, "backup of tank done\nERROR: of sanoid\n")?;
    let news = peer.news()?;
    assert_eq!(
        (&news["message"], &news["priority"]),
        (&json!("first tank"), &json!("2 - Information"))
    );
    assert_eq!(peer.news()?["priority"], "7 - Critical");

    fs::write(&file, rule("second {dataset}"))?;
    daemon.reload()?;
    append(&log, "backup of tank done\n")?;
    assert_eq!(peer.message()?, "second tank");

    // A fault changes nothing, and `check` names it alike.
    fs::write(&file, rule("third {nothing}"))?;
    let said = daemon.reload()?;
    let fault = "own.toml:6: rule.message: no line and no field gives \"nothing\"";
    assert!(said.contains("reload failed") && said.contains(fault), "{said}");
    let check = Cli::of(PROGRAM, "check").arg("-c").arg(setup.file()).run()?;
    assert!(check.code() == 1 && check.err.contains(fault), "{}", check.err);
    append(&log, "backup of tank done\n")?;
    assert_eq!(peer.message()?, "second tank");
    Ok(())
}

#[test]
fn status_counts_lines_and_names_a_log_that_nothing_matches() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let other = setup.directory().join("logs/zrepl.log");
    let setup = setup
        .with_lines(&format!("[[life_preserver.source]]\nlog = {other:?}\nrule = \"zrepl\"\n"));
    append(&setup.log(), "")?;
    append(&other, "")?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&other, "of another program\n".repeat(1240))?;
    append(&setup.log(), "now: Rotate Logfile\nnow: ERROR: new\nnow: Creating snapshot on tank\n")?;
    assert_eq!(peer.messages(2)?, ["now: ERROR: new", "now: New snapshot of tank"]);
    support::until("all lines are read", || {
        let status = Cli::to(&daemon, "status").arg("--json").run().unwrap();
        let status: Value = serde_json::from_str(&status.out).unwrap();
        status["life_preserver"]["logs"][1]["lines"] == 1240
    });
    let status = Cli::to(&daemon, "status").arg("--json").run()?;
    let status: Value = serde_json::from_str(&status.out)?;
    let first = &status["life_preserver"]["logs"][0];
    assert_eq!(
        (&first["lines"], &first["matched"], &first["unknown"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert!(first["last_match"].is_string(), "{first}");
    let page = Cli::to(&daemon, "status").run()?.out;
    assert!(page.contains("nothing in 1,240 lines matched rule \"zrepl\""), "{page}");
    Ok(())
}

#[test]
fn long_line_is_judged_by_both_ends() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let log = setup.directory().join("logs/zrepl.log");
    let setup =
        setup.with_lines(&format!("[[life_preserver.source]]\nlog = {log:?}\nrule = \"zrepl\"\n"));
    append(&log, "")?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    let filler = "x".repeat(9000);
    append(
        &log,
        format!(
            "{{\"err\":\"{filler} out of space\",\"fs\":\"tank/a\",\"level\":\"error\",\"msg\":\"cannot create snapshot\"}}\n"
        ),
    )?;
    let message = peer.message()?;
    assert!(message.starts_with("Snapshot failed for tank/a: xxx"), "{message}");
    assert!(message.contains("out of space"), "{message}");
    append(
        &log,
        format!(
            "[a][repl]: receive request failed opts=\"{filler}\" err=\"broken pipe\" filesystem=\"tank/b\"\n"
        ),
    )?;
    let message = peer.message()?;
    assert!(message.contains("Replication failed for tank/b: broken pipe"), "{message}");
    Ok(())
}

//! `watch` on terminals of several widths, as the screen shows it.

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Cli, Daemon, Gate, Outcome, Peer, Setup, append};

use super::PROGRAM;
use super::cli_watch::wait_for_subscribers;
use super::viewer::{Viewer, timeless};

/// A daemon that publishes output at once.
fn daemon(setup: Setup) -> Outcome<Daemon> {
    setup.with("dispatcher.output_interval", "\"10ms\"").start()
}

fn watch(daemon: &Daemon, words: &[&str], size: (u16, u16)) -> Outcome<Viewer> {
    let mut peer = Peer::local(daemon)?;
    let before = peer.request("rpc", "status", &json!({}))?["subscribers"].as_u64().unwrap();
    let viewer = Viewer::start(Cli::to(daemon, "watch").args(words), size)?;
    wait_for_subscribers(&mut peer, before + 1);
    Ok(viewer)
}

#[test]
fn failing_chain_is_shown_in_lines_with_its_name() -> Outcome<()> {
    let daemon = daemon(Setup::new(PROGRAM)?)?;
    let viewer = watch(&daemon, &["dispatcher"], (24, 80))?;
    let first = "sh -c 'echo one; echo two'";
    Peer::local(&daemon)?.run(&json!({ "nightly": [first, "sh -c 'exit 5'", "echo never"] }))?;
    let lines = viewer.wait_for("exit 5 after 0 s");
    assert_eq!(
        timeless(&lines),
        [
            "hh:mm:ss  ○ nightly pending: 3 commands",
            "hh:mm:ss  ▶ nightly [1/3] sh -c 'echo one; echo two'",
            "            nightly │ one",
            "            nightly │ two",
            "hh:mm:ss  ▶ nightly [2/3] sh -c 'exit 5'",
            "hh:mm:ss  ✖ nightly [2/3] sh -c 'exit 5': exit 5 after 0 s",
        ]
    );
    Ok(())
}

#[test]
fn lines_are_cut_to_40_80_and_200_columns() -> Outcome<()> {
    let daemon = daemon(Setup::new(PROGRAM)?)?;
    let sizes = [40, 80, 200];
    let mut viewers = Vec::new();
    for columns in sizes {
        viewers.push(watch(&daemon, &["dispatcher"], (24, columns))?);
    }
    let wide = watch(&daemon, &["dispatcher", "--wide"], (24, 40))?;
    let text = "東京 e\u{301} 0123456789 ".repeat(20);
    Peer::local(&daemon)?.submit(&json!({ "id": "j", "commands": [["echo", text]] }))?;
    for (viewer, columns) in viewers.iter().zip(sizes) {
        let lines = viewer.wait_for("ok after 0 s");
        assert_eq!(lines.len(), 4, "a row a line: {lines:#?}");
        let output = lines[2].strip_prefix("            j │ ").expect("a line of output");
        let shown = output.strip_suffix('…').expect("a line that is cut");
        assert!(text.starts_with(shown), "{output:?}");
        let is_combining = |c: &char| *c != '\u{301}';
        let width: usize =
            output.chars().filter(is_combining).map(|c| 1 + usize::from(c > '\u{3000}')).sum();
        let room = usize::from(columns) - 16;
        assert!(width < room && width >= room - 2, "{width} of {room}: {output:?}");
    }
    let lines = wide.wait_for("ok after 0 s").concat();
    assert!(lines.replace(' ', "").contains(&text.replace(' ', "")), "{lines}");
    Ok(())
}

#[test]
fn progress_of_a_job_is_one_live_line_at_the_foot() -> Outcome<()> {
    let setup = Setup::new(PROGRAM)?;
    let daemon = daemon(setup)?;
    let mut gate = Gate::new(daemon.directory(), "gate")?;
    let viewer = watch(&daemon, &["dispatcher"], (24, 80))?;
    let wait = gate.wait();
    let script =
        format!(r"printf '10%%\r20%%'; {wait}; printf '\r30%%'; {wait}; printf '\rdone\n'; {wait}");
    let mut peer = Peer::local(&daemon)?;
    peer.submit(&json!({ "id": "fetch", "commands": [["sh", "-c", script]] }))?;
    let lines = viewer.wait_for("│ 20%");
    assert_eq!((lines.len(), lines.last().map(String::as_str)), (3, Some("▶ fetch │ 20%")));
    // Other events stand above it.
    peer.run(&json!({ "other": "echo text" }))?;
    let lines = viewer.wait_for("other ok after 0 s");
    assert_eq!(lines.last().map(String::as_str), Some("▶ fetch │ 20%"), "{lines:#?}");
    gate.open()?;
    let lines = viewer.wait_for("│ 30%");
    assert!(!lines.concat().contains("│ 20%"), "{lines:#?}");
    gate.open()?;
    let lines = viewer.wait_for("fetch │ done");
    assert!(lines.iter().all(|line| !line.starts_with("▶ fetch")), "{lines:#?}");
    gate.open()?;
    let shown = timeless(&viewer.wait_for("fetch ok after 0 s")).join("\n");
    assert_eq!(shown.matches("fetch │").count(), 1, "{shown}");
    Ok(())
}

#[test]
fn resized_terminal_has_no_ghosts() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?.with("life_preserver.progress_interval", r#""10ms""#);
    let daemon = setup.start()?;
    let viewer = watch(&daemon, &["life-preserver"], (24, 80))?;
    let file = setup.directory().join("logs/send");
    let begins = format!("now: Starting replication SYNC task on tank/home: {}\n", file.display());
    append(&setup.log(), begins)?;
    viewer.wait(|lines| lines.len() == 1);
    append(&file, "total estimated size is 10.0M\n12:00:01   2.50M   tank/home@a\n")?;
    let whole = "▶ tank/home     25%  [██████░░░░░░░░░░░░░░░░░░]  2.50M/10.0M";
    let lines = viewer.wait_for("2.50M/10.0M");
    assert_eq!((lines.len(), &*lines[1]), (2, whole));
    viewer.resize((24, 40))?;
    let lines = viewer.wait(|lines| lines.last().is_some_and(|line| line.ends_with('…')));
    assert_eq!(
        timeless(&lines),
        ["hh:mm:ss  1 replication now: Starting …", "▶ tank/home     25%  [██████░░░░░░░░░░…"]
    );
    append(&file, "12:00:02   5.00M   tank/home@a\n")?;
    let lines = viewer.wait(|lines| lines.last().is_some_and(|line| line.contains("50%")));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    viewer.resize((24, 200))?;
    let lines = viewer.wait_for("5.00M/10.0M");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    // A shell writes to the terminal while the command is stopped: its text stays.
    viewer.signal(Signal::SIGCONT)?;
    let lines = viewer.wait(|lines| lines.len() == 3);
    assert_eq!(lines[1], lines[2]);
    append(&setup.log(), "now: Finished replication task on tank/home -> b\n")?;
    let lines = viewer.wait_for("Finished replication for tank/home");
    assert_eq!(lines.len(), 3, "{lines:#?}");
    Ok(())
}

#[test]
fn options_select_by_job_queue_priority_and_output() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?.with("dispatcher.output_interval", r#""10ms""#);
    let daemon = setup.start()?;
    let all = watch(&daemon, &["dispatcher"], (24, 80))?;
    let job = watch(&daemon, &["--job", "b", "--job", "c"], (24, 80))?;
    let queue = watch(&daemon, &["--queue", "q"], (24, 80))?;
    let silent = watch(&daemon, &["dispatcher", "--no-output"], (24, 80))?;
    let urgent = watch(&daemon, &["life-preserver", "--priority", "6"], (24, 80))?;
    let mut peer = Peer::local(&daemon)?;
    for (id, queue) in [("a", json!("q")), ("b", json!("p")), ("c", json!(null))] {
        let text = format!("text of {id}");
        let mut job = json!({ "id": id, "commands": [["echo", text]], "queue": queue });
        if queue.is_null() {
            job.as_object_mut().unwrap().remove("queue");
        }
        peer.submit(&job)?;
        all.wait_for(&format!("{id} ok after 0 s"));
    }
    append(&setup.log(), "now: Creating snapshot on tank\n")?;
    append(&setup.log(), "now: FAILED snapshot of tank\nLogfile: /f\n")?;
    let shown = |viewer: &Viewer, last: &str| viewer.wait_for(last).join("\n");
    let texts =
        |shown: &str| ["a", "b", "c"].map(|id| shown.contains(&format!("{id} │ text of {id}")));
    assert_eq!(texts(&shown(&all, "c ok after 0 s")), [true, true, true]);
    assert_eq!(texts(&shown(&job, "c ok after 0 s")), [false, true, true]);
    assert_eq!(texts(&shown(&queue, "a ok after 0 s")), [true, false, false]);
    assert_eq!(texts(&shown(&silent, "c ok after 0 s")), [false, false, false]);
    let lines = urgent.wait(|lines| !lines.is_empty());
    assert!(lines.iter().all(|line| !line.contains("New snapshot")), "{lines:#?}");
    Ok(())
}

#[test]
fn past_events_are_shown_by_time_and_by_number() -> Outcome<()> {
    let setup = Setup::new(PROGRAM)?;
    let daemon = daemon(setup)?;
    let mut peer = Peer::watcher(&daemon)?;
    for number in 1..=3 {
        let id = format!("job{number}");
        peer.run(&json!({ &*id: format!("echo text {number}") }))?;
        peer.finished(&id)?;
    }
    let since = watch(&daemon, &["dispatcher", "--since", "1h"], (24, 80))?;
    let lines = since.wait_for("job3 ok after 0 s");
    for number in 1..=3 {
        let shown = lines.join("\n");
        assert_eq!(shown.matches(&format!("job{number} ok after")).count(), 1, "{shown}");
        assert_eq!(shown.matches(&format!("│ text {number}")).count(), 1, "{shown}");
    }
    let last = watch(&daemon, &["dispatcher", "-n", "1"], (24, 80))?;
    let lines = last.wait_for("job3 ok after 0 s");
    assert!(!lines.concat().contains("job2"), "{lines:#?}");
    peer.run(&json!({ "next": "true" }))?;
    last.wait_for("next ok after 0 s");
    Ok(())
}

#[test]
fn text_into_a_pipe_is_whole_and_without_colours() -> Outcome<()> {
    let daemon = daemon(Setup::new(PROGRAM)?)?;
    let watch = Cli::to(&daemon, "watch").args(["dispatcher", "--text"]).start()?;
    let ascii =
        Cli::to(&daemon, "watch").args(["dispatcher", "--text"]).env("LC_ALL", "C").start()?;
    let frames = Cli::to(&daemon, "watch").args(["dispatcher", "--no-output"]).start()?;
    wait_for_subscribers(&mut Peer::local(&daemon)?, 3);
    let long = "x".repeat(500);
    let script = format!(r"printf '10%%\r100%%\n\033[31m{long}\033[0m\nhalf'");
    Peer::local(&daemon)?.submit(&json!({ "id": "j", "commands": [["sh", "-c", script]] }))?;
    watch.out.wait("j ok after 0 s")?;
    let lines = watch.out.lines();
    let output: Vec<&String> = lines.iter().filter(|line| line.contains("j │")).collect();
    let expected = ["100%", &long, "half"].map(|text| format!("            j │ {text}"));
    assert_eq!(output, expected.iter().collect::<Vec<_>>());
    assert!(!lines.concat().contains('\u{1b}'));
    ascii.out.wait("+ j ok after 0 s")?;
    assert!(ascii.out.lines().contains(&"            j | 100%".to_owned()));
    frames.out.wait("\"finished\"")?;
    let frames = frames.out.lines().join("\n");
    assert!(!frames.contains("half\"") && frames.contains("return_codes/"), "{frames}");
    Ok(())
}

//! Output of jobs in events and logs: complete, without repetition, in bounded chunks.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Daemon, Gate, Outcome, Peer, Process, Setup};

use super::PROGRAM;

/// The joined output of a command in running events, and the log in the finished event.
fn received(events: &[Value], command: &str) -> (String, String) {
    let of = |state| {
        let events = events.iter().filter(move |event| event["state"] == state);
        events.filter_map(|event| event[command].as_str()).collect::<String>()
    };
    (of("running"), of("finished"))
}

/// Runs one command; the log in the finished event.
fn printed(watcher: &mut Peer, peer: &mut Peer, command: &str) -> Outcome<String> {
    peer.run(&json!({ "j": command }))?;
    let finished = watcher.finished("j")?;
    Ok(finished[command].as_str().ok_or("no log")?.to_owned())
}

#[test]
fn both_outputs_are_merged_in_the_order_of_writes() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    let command = "sh -c 'for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done'";
    let expected: String = (1..=5).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert_eq!(printed(&mut watcher, &mut peer, command).unwrap(), expected);
}

#[test]
fn nul_bytes_and_control_characters_stay() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    let command = r"printf 'a\000b\001\033[1m\177\r\n\000'";
    let expected = "a\0b\u{1}\u{1b}[1m\u{7f}\r\n\0";
    assert_eq!(printed(&mut watcher, &mut peer, command).unwrap(), expected);
    assert_eq!(peer.whole_log("j").unwrap(), expected);
}

#[test]
fn invalid_utf8_is_replaced() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    // A byte that never occurs, a lone continuation, a surrogate, an overlong one, one cut short.
    let command = r"printf 'a\377b\200c\355\240\200d\300\257e\342\202'";
    let bytes = b"a\xffb\x80c\xed\xa0\x80d\xc0\xafe\xe2\x82";
    let expected = String::from_utf8_lossy(bytes);
    assert_eq!(printed(&mut watcher, &mut peer, command).unwrap(), expected);
}

#[test]
fn a_character_that_is_written_in_parts_arrives_whole() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_interval", "\"10ms\"").start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    // U+00FC, U+20AC and U+1F600, cut after each of their bytes; the last one never ends.
    let parts = [
        ("1\\303", "1"),
        ("\\2742\\342", "ü2"),
        ("\\202", ""),
        ("\\2543\\360", "€3"),
        ("\\237\\230", ""),
        ("\\2004\\342\\202", "😀4"),
    ];
    let wait = gate.wait();
    let script: String =
        parts.iter().map(|(part, _)| format!("printf \"{part}\"; {wait}; ")).collect();
    let command = format!("sh -c '{script}'");
    Peer::local(&daemon).unwrap().run(&json!({ "j": command })).unwrap();
    let mut expected = String::new();
    for (_, text) in parts {
        expected.push_str(text);
        // A chunk that ends within a character causes no event, so it cannot be waited for; it does
        // not matter whether it was read separately: later output comes only after the gate.
        if !text.is_empty() {
            let events = watcher.job_printed("j", &command, text.trim_end_matches('\0')).unwrap();
            assert_eq!(received(&events, &command).0, text);
        }
        gate.open().unwrap();
    }
    let finished = watcher.finished("j").unwrap();
    assert_eq!(finished[&*command], format!("{expected}\u{fffd}"));
}

/// `seq 1 1400000`: about ten million bytes.
fn numbers(last: u32) -> String {
    (1..=last).map(|number| format!("{number}\n")).collect()
}

/// Head and tail of half the limit each, and the line between them.
fn cut(text: &str, limit: usize) -> String {
    let (head, tail) = (&text[..limit / 2], &text[text.len() - limit / 2..]);
    let line_end = if head.ends_with('\n') { "" } else { "\n" };
    format!("{head}{line_end}[… {} bytes left out …]\n{tail}", text.len() - limit / 2 * 2)
}

#[test]
fn of_much_output_head_and_tail_stay_in_events_and_in_the_log() {
    const LAST: u32 = 1_400_000;
    let daemon = Daemon::start(PROGRAM).unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    // By itself FreeBSD's prints 1e+06.
    let command = format!("seq -f %.0f 1 {LAST}");
    let whole = numbers(LAST);
    assert!(whole.len() > 10_000_000);
    peer.run(&json!({ "j": command })).unwrap();
    let mut events = Vec::new();
    loop {
        let text = watcher.event().unwrap();
        assert!(text.len() <= 256 * 1024, "an event of {} bytes", text.len());
        let args = serde_json::from_str::<Value>(&text).unwrap()["args"].take();
        events.push(args);
        if events.last().is_some_and(|args| args["state"] == "finished") {
            break;
        }
    }
    assert_eq!(received(&events, &command).1, cut(&whole, 64 * 1024));
    assert_eq!(peer.whole_log("j").unwrap(), cut(&whole, 1024 * 1024));
}

#[test]
fn event_stays_within_its_limit_in_any_encoding() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    // A NUL byte takes six in JSON; three commands share one event.
    let commands = ["head -c 200000 /dev/zero", "head -c 200001 /dev/zero", "echo short"];
    peer.run(&json!({ "j": commands })).unwrap();
    loop {
        let text = watcher.event().unwrap();
        assert!(text.len() <= 256 * 1024, "an event of {} bytes", text.len());
        let args = serde_json::from_str::<Value>(&text).unwrap()["args"].take();
        if args["state"] != "finished" {
            continue;
        }
        assert_eq!(args["echo short"], "short\n");
        for (command, bytes) in [(commands[0], 200_000), (commands[1], 200_001)] {
            let log = args[command].as_str().unwrap();
            let persisted = log.matches('\0').count();
            assert!(
                log.contains(&format!("\n[… {} bytes left out …]\n", bytes - persisted)),
                "{persisted}"
            );
            assert!(persisted > 15_000, "the event is used: {persisted}");
        }
        break;
    }
    assert_eq!(peer.whole_log("j").unwrap().len(), 400_001 + "short\n".len());
}

#[test]
fn output_is_reported_at_most_once_an_interval() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_interval", "\"200ms\"").start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let script =
        format!("for i in $(seq 1 100); do echo line $i; sleep 0.01; done; {}", gate.wait());
    let command = format!("sh -c '{script}'");
    let began = Instant::now();
    Peer::local(&daemon).unwrap().run(&json!({ "j": command })).unwrap();
    let mut events = watcher.job_printed("j", &command, "line 100\n").unwrap();
    let took = began.elapsed();
    let running = events.iter().filter(|event| event["state"] == "running").count();
    // One at once, one for the first output, then one per interval.
    let most = 2 + took.as_millis() / INTERVAL.as_millis() + 1;
    assert!(running as u128 <= most, "{running} events in {took:?}");
    assert!(running >= 3, "told while it ran: {running}");
    gate.open().unwrap();
    events.extend(watcher.job("j").unwrap());
    let (pieces, log) = received(&events, &command);
    assert_eq!(log, (1..=100).map(|i| format!("line {i}\n")).collect::<String>());
    assert_eq!(pieces, log);
}

#[test]
fn first_running_event_is_immediate_and_silence_makes_none() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_interval", "\"1h\"").start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let command = format!("sh -c '{0}; echo a; {0}; echo b; {0}'", gate.wait());
    Peer::local(&daemon).unwrap().run(&json!({ "j": command })).unwrap();
    let begin = watcher.job_until("j", |args| args["state"] == "running").unwrap();
    assert_eq!(begin.len(), 2);
    assert_eq!(begin[1].get(&*command), None);
    // The first output does not wait for the interval; later output would wait for an hour.
    gate.open().unwrap();
    let first = watcher.job_printed("j", &command, "a\n").unwrap();
    assert_eq!(first.len(), 1, "{first:?}");
    gate.open().unwrap();
    gate.open().unwrap();
    let end = watcher.job("j").unwrap();
    assert_eq!(end.len(), 1, "{end:?}");
    assert_eq!(end[0][&*command], "a\nb\n");
}

#[test]
fn subscriber_during_output_gets_all_of_it_once() {
    const LAST: u32 = 2000;
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_interval", "\"10ms\"").start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut first = Peer::watcher(&daemon).unwrap();
    let script = format!(
        "for i in $(seq 1 {LAST}); do echo line $i; [ $((i % 50)) -gt 0 ] || sleep 0.01; done; {}",
        gate.wait()
    );
    let command = format!("sh -c '{script}'");
    Peer::local(&daemon).unwrap().run(&json!({ "j": command })).unwrap();
    let whole: String = (1..=LAST).map(|i| format!("line {i}\n")).collect();

    let latecomers: Vec<_> = (0..10_u32)
        .map(|number| {
            let mut peer = Peer::local(&daemon).unwrap();
            let (command, whole) = (command.clone(), whole.clone());
            thread::spawn(move || {
                // Each at another moment of the job's life; no rule depends on the moment.
                thread::sleep(Duration::from_micros(u64::from(number) * 40_300));
                peer.subscribe().unwrap();
                let events = peer.job_printed("j", &command, &format!("line {LAST}\n")).unwrap();
                assert_eq!(events[0]["state"], "running", "the present state comes first");
                assert_eq!(received(&events, &command).0, whole);
                // Once more on the same connection: the current state.
                peer.request("events", "unsubscribe", &json!(["dispatcher"])).unwrap();
                peer.subscribe().unwrap();
                let events = peer.job_printed("j", &command, &format!("line {LAST}\n")).unwrap();
                assert_eq!(events.len(), 1);
                assert_eq!(received(&events, &command).0, whole);
                peer
            })
        })
        .collect();
    let mut peers: Vec<Peer> = latecomers.into_iter().map(|one| one.join().unwrap()).collect();
    gate.open().unwrap();
    let events = first.job("j").unwrap();
    assert_eq!(received(&events, &command), (whole.clone(), whole.clone()));
    for peer in &mut peers {
        let end = peer.job("j").unwrap();
        assert_eq!(received(&end, &command), (String::new(), whole.clone()));
    }
}

#[test]
fn late_subscriber_of_a_chain_gets_earlier_codes_and_output() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut first = Peer::watcher(&daemon).unwrap();
    let last = format!("sh -c 'echo three; {}'", gate.wait());
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "j": ["echo one", "true", last], "waits": "true" })).unwrap();
    first.job_printed("j", &last, "three\n").unwrap();
    let mut late = Peer::watcher(&daemon).unwrap();
    let state = late.frame().unwrap()["args"].take();
    let expected = json!({
        "state": "running", "process_id": "j", "cmd_list": ["echo one", "true", last],
        "time_started": state["time_started"], "current_cmd": last, "echo one": "one\n",
        "return_codes/echo one": "0", "return_codes/true": "0", last.clone(): "three\n",
    });
    assert_eq!(state, expected);
    gate.open().unwrap();
    assert_eq!(late.finished("j").unwrap()[&*last], "three\n");
}

#[test]
fn flooding_jobs_and_a_stalled_client_delay_nobody() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let deaf = Peer::watcher(&daemon).unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    let flood = "sh -c 'yes x | head -c 30000000'";
    peer.run(&json!({ "a": flood, "b": flood })).unwrap();
    watcher.job_until("b", |args| args["state"] == "running").unwrap();
    peer.run(&json!({ "small": "echo small" })).unwrap();
    assert_eq!(peer.list().unwrap()["no_queue"]["small"]["commands"], json!(["echo small"]));
    let mut over = Vec::new();
    while over.len() < 3 {
        let args = watcher.frame().unwrap()["args"].take();
        if args["state"] == "finished" {
            over.push(args);
        }
    }
    for args in over {
        let command = args["cmd_list"][0].as_str().unwrap();
        let log = args[command].as_str().unwrap();
        assert_eq!(args[format!("return_codes/{command}")], "0");
        if command == flood {
            assert_eq!(log, cut(&"x\n".repeat(15_000_000), 64 * 1024));
        } else {
            assert_eq!(log, "small\n");
        }
    }
    drop(deaf);
}

#[test]
fn left_behind_process_holds_nothing_and_lives_on() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_grace", "\"100ms\"").start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let file = daemon.directory().join("lived-on");
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    // It holds the output open, and prints to it after the end of the job.
    let left = format!("({}; seq 1 100000; echo done >{}) &", gate.wait(), file.display());
    let command = format!("sh -c 'echo begun; {left}'");
    peer.run(&json!({ "j": [command, "echo next"] })).unwrap();
    let finished = watcher.finished("j").unwrap();
    assert_eq!(finished[format!("return_codes/{command}")], "0");
    let log = finished[&*command].as_str().unwrap();
    let remark =
        "[output was still open: a process that this command left behind was not waited for]";
    assert_eq!(log, format!("begun\n{remark}\n"));
    assert_eq!(finished["echo next"], "next\n");
    assert_eq!(peer.whole_log("j").unwrap(), format!("begun\n{remark}\nnext\n"));

    gate.open().unwrap();
    let patience = Instant::now() + support::PATIENCE;
    while std::fs::read_to_string(&file).unwrap_or_default() != "done\n" {
        assert!(Instant::now() < patience, "it did not live on");
        thread::sleep(Duration::from_millis(5));
    }
    // Its output is discarded.
    assert_eq!(peer.whole_log("j").unwrap(), format!("begun\n{remark}\nnext\n"));
}

#[test]
fn left_behind_flood_does_not_occupy_the_daemon() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_grace", "\"10ms\"").start().unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    let command = "sh -c 'echo; (sleep 0.1; exec yes) & echo $!'";
    peer.run(&json!({ "j": command })).unwrap();
    let finished = watcher.finished("j").unwrap();
    let number = finished[command].as_str().unwrap().lines().nth(1).unwrap();
    let left = Process(number.parse().unwrap());
    assert_eq!(finished[format!("return_codes/{command}")], "0");
    // It is read, and waits most of the time; a daemon that reads without pauses would have read as
    // much in a fraction of the time.
    let (before, began) = (daemon.process().cpu().unwrap(), Instant::now());
    peer.run(&json!({ "second": "sleep 1" })).unwrap();
    watcher.finished("second").unwrap();
    let used = daemon.process().cpu().unwrap() - before;
    assert!(left.is_alive());
    assert!(used < began.elapsed() / 5, "{used:?} of {:?}", began.elapsed());
    kill(Pid::from_raw(i32::try_from(left.0).unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_remark_begins_on_a_line_of_its_own() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_grace", "\"50ms\"").start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let command = format!("sh -c 'printf midway; ({}) &'", gate.wait());
    let log = printed(&mut watcher, &mut peer, &command).unwrap();
    assert!(log.starts_with("midway\n[output was still open"), "{log:?}");
    gate.open().unwrap();
}

#[test]
fn all_that_was_printed_before_the_end_is_in_the_log() {
    // Longer than a busy machine may delay the grandchild.
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.with("dispatcher.output_grace", "\"60s\"").start().unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    // A pipe's full, printed at once by a process that ends at once; by a grandchild that outlives
    // its parent a little, too.
    let expected = numbers(10_000);
    for _ in 0..20 {
        for command in ["seq 1 10000", "sh -c '(seq 1 10000) & exit 0'"] {
            assert_eq!(printed(&mut watcher, &mut peer, command).unwrap(), expected);
        }
    }
}

#[test]
fn job_that_closes_its_output_ends_with_its_process() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let command = format!("sh -c 'echo last; exec >/dev/null 2>&1; {}; exit 7'", gate.wait());
    peer.run(&json!({ "j": command })).unwrap();
    watcher.job_printed("j", &command, "last\n").unwrap();
    assert_eq!(peer.list().unwrap()["no_queue"]["j"]["state"], "running");
    gate.open().unwrap();
    let finished = watcher.finished("j").unwrap();
    assert_eq!(finished[format!("return_codes/{command}")], "7");
    assert_eq!(finished[&*command], "last\n");
}

#[test]
fn log_parts_begin_and_end_with_whole_characters() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let command = format!("sh -c 'echo aü€z; {}'", gate.wait());
    let text = "aü€z\n";
    peer.run(&json!({ "j": command })).unwrap();
    watcher.job_printed("j", &command, text).unwrap();
    let mut page = |more: Value| {
        let mut ask = json!({ "action": "log", "job_id": "j" });
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        peer.request("rpc", "dispatcher", &ask).unwrap()
    };
    let answer = |data: &str, offset: usize, next: usize, eof: bool| json!({ "data": data, "offset": offset, "next": next, "eof": eof });
    assert_eq!(page(json!({})), answer(text, 0, 8, false), "it still runs");
    gate.open().unwrap();
    watcher.finished("j").unwrap();
    assert_eq!(page(json!({})), answer(text, 0, 8, true));
    assert_eq!(page(json!({ "length": 2 })), answer("a", 0, 1, false));
    assert_eq!(page(json!({ "length": 3 })), answer("aü", 0, 3, false));
    assert_eq!(page(json!({ "offset": 1, "length": 4 })), answer("ü", 1, 3, false));
    // In the middle of a character: from the next one on.
    assert_eq!(page(json!({ "offset": 2, "length": 3 })), answer("€", 3, 6, false));
    assert_eq!(page(json!({ "offset": 6 })), answer("z\n", 6, 8, true));
    assert_eq!(page(json!({ "offset": 8 })), answer("", 8, 8, true));
    assert_eq!(page(json!({ "offset": 1_000_000 })), answer("", 8, 8, true));
    assert_eq!(page(json!({ "length": 0 })), answer("", 0, 0, false));
    for (bad, code) in [
        (json!({ "job_id": "unknown" }), 404),
        (json!({ "job_id": 5 }), 400),
        (json!({}), 400),
        (json!({ "job_id": "j", "offset": -1 }), 400),
        (json!({ "job_id": "j", "offset": "1" }), 400),
        (json!({ "job_id": "j", "length": 1.5 }), 400),
    ] {
        let mut ask = json!({ "action": "log" });
        ask.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        assert_eq!(peer.refused("rpc", "dispatcher", &ask).unwrap().code, code, "{bad}");
    }
}

#[test]
fn log_part_has_at_most_64_kib() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let (mut watcher, mut peer) = (Peer::watcher(&daemon).unwrap(), Peer::local(&daemon).unwrap());
    printed(&mut watcher, &mut peer, "seq 1 100000").unwrap();
    let whole = numbers(100_000);
    for length in [json!(null), json!(65_536), json!(1_000_000), json!(u64::MAX)] {
        let ask = json!({ "action": "log", "job_id": "j", "length": length });
        let page = peer.request("rpc", "dispatcher", &ask).unwrap();
        assert_eq!(page["data"], whole[..65_536]);
        assert_eq!(page["next"], 65_536);
    }
    assert_eq!(peer.whole_log("j").unwrap(), whole);
}

//! Clients that read slowly or not at all: their queues are bounded, and they delay no other
//! client.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Daemon, Gate, Outcome, PATIENCE, Peer, Setup, Stream, Transport, client_frame, until,
};

use super::PROGRAM;

/// A client over each transport; TLS 1.2 is framed like 1.3.
const WAYS: [Transport; 3] = [Transport::Unix, Transport::Plain, Transport::Tls];

/// A daemon with jobs that make a long list, which clients request here and do not read.
fn daemon_with_a_list(setup: &Setup) -> (Daemon, Peer) {
    let daemon = setup.start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    for number in 0..8 {
        let id = format!("long-{number}");
        watcher.run(&json!({ id.as_str(): format!("true {}", "x".repeat(7600)) })).unwrap();
        watcher.finished(&id).unwrap();
    }
    (daemon, watcher)
}

/// Asks for the list, somewhat more than 60 KiB.
fn page() -> Value {
    json!({ "action": "list" })
}

/// Bytes in the longest queue.
fn fullest(observer: &mut Peer) -> u64 {
    let status = observer.request("rpc", "status", &json!({})).unwrap();
    let clients = status["clients"].as_array().unwrap();
    clients.iter().map(|client| client["outbox"].as_u64().unwrap()).max().unwrap()
}

/// Lets `peer` request pages that it does not read until this many bytes stay queued for it. No
/// other client may have queued bytes. Returns the number of pages.
fn back_up(peer: &mut Peer, observer: &mut Peer, bytes: u64) -> usize {
    let patience = Instant::now() + PATIENCE;
    let mut asked = 0;
    // Bytes reported by one status may be sent in this turn and, since a turn sends a part only, in
    // the next ones; further replies show that they were not.
    while (0..20).any(|_| fullest(observer) < bytes) {
        assert!(Instant::now() < patience, "its outbox does not fill");
        peer.post("rpc", "dispatcher", &page()).unwrap();
        asked += 1;
    }
    asked
}

/// Reads the pages that were asked for.
fn read_pages(peer: &mut Peer, count: usize) -> Outcome<()> {
    (0..count).try_for_each(|_| {
        assert_eq!(peer.frame()?["id"], "posted");
        Ok(())
    })
}

/// Reads up to the `last` frame; returns all frames that are not pages.
fn without_pages(peer: &mut Peer, last: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut frames = peer.frames_until(last).unwrap();
    frames.retain(|frame| frame["id"] != "posted");
    frames
}

const HALF: u64 = 512 * 1024;

#[test]
fn stalled_client_delays_no_other_and_gets_all_on_reading() {
    let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.output_interval", r#""10ms""#);
    for transport in WAYS {
        let (daemon, mut watcher) = daemon_with_a_list(&setup);
        let mut gate = Gate::new(daemon.directory(), transport.name()).unwrap();
        let extended = json!({ "events": ["dispatcher"] });
        watcher.request("events", "subscribe", &extended).unwrap();
        let mut sloth = Peer::known(&daemon, transport).unwrap();
        sloth.request("events", "subscribe", &extended).unwrap();
        back_up(&mut sloth, &mut watcher, HALF);

        // Ten events of output, each seen at once by a reading client.
        let command = format!(
            "sh -c 'for i in 0 1 2 3 4 5 6 7 8 9; do {0}; echo step $i; done; {0}'",
            gate.wait()
        );
        watcher.run(&json!({ "steps": command })).unwrap();
        let mut seen = Vec::new();
        for step in 0..10 {
            gate.open().unwrap();
            let text = format!("step {step}\n");
            seen.extend(
                watcher.frames_until(|frame| frame["args"][&command] == text.as_str()).unwrap(),
            );
        }
        let newest = seen.pop().unwrap();
        gate.open().unwrap();
        let over = |frame: &Value| frame["args"]["state"] == "finished";
        let finished = watcher.frames_until(over).unwrap().pop().unwrap();
        // And other jobs from beginning to end.
        let ids: Vec<String> = (0..20).map(|number| format!("job-{number}")).collect();
        for id in &ids {
            watcher.run(&json!({ id.as_str(): "true" })).unwrap();
            watcher.finished(id).unwrap();
        }
        assert!(fullest(&mut watcher) >= HALF);

        let late = without_pages(&mut sloth, |frame| {
            over(frame) && frame["args"]["process_id"] == "job-19"
        });
        let states = |id: &str| -> Vec<&Value> {
            let of_job = |frame: &&Value| frame["args"]["process_id"] == id;
            late.iter().filter(of_job).map(|frame| &frame["args"]["state"]).collect()
        };
        assert_eq!(states("steps"), ["pending", "running", "finished"], "{}", transport.name());
        for id in &ids {
            assert_eq!(states(id), ["pending", "running", "finished"], "{}", transport.name());
        }
        // The ten were coalesced, with all their output, at the position of the last.
        let joined = &late[1];
        let steps: String = (0..10).map(|step| format!("step {step}\n")).collect();
        assert_eq!(joined["args"][&command], steps);
        assert_eq!(joined["seq"], newest["seq"]);
        assert_eq!(late[2], finished);
        let numbers: Vec<u64> = late.iter().map(|frame| frame["seq"].as_u64().unwrap()).collect();
        assert!(numbers.windows(2).all(|two| two[0] < two[1]), "{numbers:?}");
        // It is an ordinary client again.
        sloth.request("rpc", "query", &json!({})).unwrap();
    }
}

#[test]
fn stalled_client_that_reconnects_gets_nothing_twice() {
    let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.output_interval", r#""10ms""#);
    let (daemon, mut watcher) = daemon_with_a_list(&setup);
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut sloth = Peer::watcher(&daemon).unwrap();
    // Enough that bytes stay queued, and few enough that it is still read.
    back_up(&mut sloth, &mut watcher, 1);
    let command = format!("sh -c 'for i in 1 2 3; do {0}; echo $i; done; {0}'", gate.wait());
    watcher.run(&json!({ "j": command })).unwrap();
    gate.open().unwrap();
    watcher.job_printed("j", &command, "1\n").unwrap();
    sloth.post("events", "unsubscribe", &json!("dispatcher")).unwrap();
    sloth.post("events", "subscribe", &json!("dispatcher")).unwrap();
    // Both are done when one more subscriber has been counted.
    let mut third = Peer::watcher(&daemon).unwrap();
    third.request("rpc", "query", &json!({})).unwrap();
    for text in ["2\n", "3\n"] {
        gate.open().unwrap();
        watcher.job_until("j", |args| args[&command] == text).unwrap();
    }
    gate.open().unwrap();
    watcher.finished("j").unwrap();

    let frames = sloth.frames_until(|frame| frame["args"]["state"] == "finished").unwrap();
    let again = frames.iter().position(|frame| frame["args"]["subscribe"].is_array()).unwrap();
    let received = |frames: &[Value]| -> String {
        let running = frames.iter().filter(|frame| frame["args"]["state"] == "running");
        running.filter_map(|frame| frame["args"][&command].as_str()).collect()
    };
    assert_eq!(received(&frames[again..]), "1\n2\n3\n", "{frames:#?}");
}

#[test]
fn full_outbox_with_uncoalescable_event_closes_with_1013() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.max_event", r#""64KiB""#)
        .with("server.outbox", r#""320KiB""#);
    for transport in WAYS {
        let (daemon, mut watcher) = daemon_with_a_list(&setup);
        let mut sloth = Peer::known(&daemon, transport).unwrap();
        sloth.subscribe().unwrap();
        back_up(&mut sloth, &mut watcher, 160 * 1024);
        let mut sent = 0;
        while daemon.log().lines().iter().all(|line| !line.contains(", 1013")) {
            assert!(sent < 20, "it is not closed");
            sent += 1;
            watcher.run(&json!({ "j": "sh -c 'head -c 25000 /dev/zero | tr \"\\0\" y'" })).unwrap();
            watcher.finished("j").unwrap();
        }
        let line = daemon.log().wait(", 1013").unwrap();
        let name = match transport {
            Transport::Unix => "closing client local uid ",
            Transport::Plain | Transport::Tls | Transport::Tls12 => " at 127.0.0.1:",
        };
        assert!(line.contains(name), "{line}");
        assert!(line.contains("its outbox of 327680 bytes is full"), "{line}");
        assert!(sent >= 2, "there was room for so many: {sent}");
        // The frame in flight is complete, then the close follows.
        assert_eq!(sloth.closed().unwrap(), 1013, "{}", transport.name());
        watcher.request("rpc", "query", &json!({})).unwrap();
    }
}

#[test]
fn replies_above_the_share_of_a_user_wait_and_close_nobody() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.max_event", r#""64KiB""#)
        .with("server.outbox", r#""512KiB""#)
        .with("server.outbox_total", r#""512KiB""#);
    let (daemon, mut watcher) = daemon_with_a_list(&setup);
    let mut modest = Peer::local(&daemon).unwrap();
    let asked = back_up(&mut modest, &mut watcher, 1);
    let mut greedy = [(); 2].map(|()| Peer::local(&daemon).unwrap());
    for peer in &mut greedy {
        for _ in 0..20 {
            peer.post("rpc", "dispatcher", &page()).unwrap();
        }
    }
    let status = watcher.request("rpc", "status", &json!({})).unwrap();
    assert!(status["outbox_total"].as_u64().unwrap() <= 512 * 1024, "{status}");
    for peer in &mut greedy {
        read_pages(peer, 20).unwrap();
    }
    read_pages(&mut modest, asked).unwrap();
    watcher.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn closing_client_that_does_not_read_delays_nobody() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.max_event", r#""64KiB""#)
        .with("server.outbox", r#""192KiB""#)
        .with("server.outbox_total", r#""200KiB""#)
        .with("server.close_timeout", r#""1h""#);
    let daemon = setup.start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut sloths = [(); 3].map(|()| Peer::local(&daemon).unwrap());
    sloths.iter_mut().for_each(|sloth| sloth.subscribe().unwrap());
    // An event of each is in flight when there is no room for another; these three fit.
    for number in 0..20 {
        let id = format!("long-{number}");
        watcher.run(&json!({ id.as_str(): "seq 12000" })).unwrap();
        watcher.finished(&id).unwrap();
    }
    let mut line = 0;
    for _ in &sloths {
        (_, line) = daemon.log().wait_from(line, "its is the fullest, 1013").unwrap();
    }
    assert!(fullest(&mut watcher) > 60 * 1024);
    // One of them may be evicted for this, and cannot be closed again.
    let id = "x".repeat(32 * 1024);
    watcher.send(&json!({ "namespace": "rpc", "name": "identify", "id": id })).unwrap();
    assert_eq!(watcher.frame().unwrap()["id"], id);
    let codes = sloths.map(|mut sloth| sloth.closed().unwrap());
    assert!(codes.iter().all(|code| [1006, 1013].contains(code)), "{codes:?}");
}

#[test]
fn closed_client_that_does_not_read_is_ended() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.max_event", r#""64KiB""#)
        .with("server.outbox", r#""192KiB""#)
        .with("server.close_timeout", r#""300ms""#);
    let daemon = setup.start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut idle = Peer::watcher(&daemon).unwrap();
    for _ in 0..20 {
        watcher.run(&json!({ "j": "seq 12000" })).unwrap();
        watcher.finished("j").unwrap();
    }
    daemon.log().wait(", 1013").unwrap();
    // The idle client reads neither the events nor the close frame.
    until("the daemon ends the connection", || {
        let status = watcher.request("rpc", "status", &json!({})).unwrap();
        status["client_count"] == 1
    });
    assert_eq!(idle.closed().unwrap(), 1006);
}

#[test]
fn event_is_at_most_max_event_for_any_output() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.max_event", r#""64KiB""#)
        .with("dispatcher.event_log_limit", r#""4MiB""#)
        .with("dispatcher.log_limit", r#""4MiB""#);
    let daemon = setup.start().unwrap();
    for (id, command) in [
        ("letters", "sh -c 'echo head; head -c 1000000 /dev/zero | tr \"\\0\" x; echo; echo tail'"),
        // Each of these takes six bytes.
        ("nul", "sh -c 'echo head; head -c 1000000 /dev/zero; echo; echo tail'"),
        (
            "quotes",
            "sh -c 'echo head; head -c 1000000 /dev/zero | tr \"\\0\" \\\"; echo; echo tail'",
        ),
    ] {
        let mut extended = Peer::local(&daemon).unwrap();
        extended.request("events", "subscribe", &json!({ "events": ["dispatcher"] })).unwrap();
        extended.run(&json!({ id: [command, "echo short"] })).unwrap();
        loop {
            let text = extended.event().unwrap();
            assert!(text.len() <= 64 * 1024, "{} bytes", text.len());
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["args"]["state"] == "finished" {
                assert!(text.len() > 60 * 1024, "only {} bytes", text.len());
                let log = frame["args"][command].as_str().unwrap();
                assert!(log.starts_with("head\n") && log.ends_with("\ntail\n"));
                assert_eq!(log.matches(" bytes left out …]\n").count(), 1);
                // The short log beside it is whole.
                assert_eq!(frame["args"]["echo short"], "short\n");
                break;
            }
        }
    }
}

#[test]
fn slow_reader_gets_whole_frames_in_order_and_all_output() {
    let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.output_interval", r#""10ms""#);
    for transport in WAYS {
        let (daemon, mut watcher) = daemon_with_a_list(&setup);
        let mut gate = Gate::new(daemon.directory(), transport.name()).unwrap();
        let mut peer = Peer::known(&daemon, transport).unwrap();
        peer.request("events", "subscribe", &json!({ "events": ["dispatcher"] })).unwrap();
        back_up(&mut peer, &mut watcher, HALF);
        // Short pauses, so that it is reported in many events, while the others are read.
        let command = format!(
            "sh -c 'i=0; while [ $i -lt 2000 ]; do echo line $i of many; i=$((i+1)); \
             [ $((i%100)) -ne 0 ] || sleep 0.01; done; {}'",
            gate.wait()
        );
        watcher.run(&json!({ "lines": command })).unwrap();

        let (mut received, mut last, mut events) = (String::new(), 0, 0);
        let log = loop {
            let (first, payload) =
                peer.stream().read_frame_slowly(8 * 1024, Duration::from_millis(1)).unwrap();
            assert_eq!(first, 0x81, "{}", transport.name());
            let frame: Value = serde_json::from_slice(&payload).unwrap();
            if frame["namespace"] != "events" {
                continue;
            }
            let seq = frame["seq"].as_u64().unwrap();
            assert!(seq > last, "{seq} after {last}");
            last = seq;
            match frame["args"]["state"].as_str().unwrap() {
                "running" => {
                    received.push_str(frame["args"][&command].as_str().unwrap_or(""));
                    events += 1;
                    if received.ends_with("line 1999 of many\n") {
                        gate.open().unwrap();
                    }
                }
                "finished" => break frame["args"][&command].as_str().unwrap().to_owned(),
                _ => {}
            }
        };
        let expected: String = (0..2000).map(|i| format!("line {i} of many\n")).collect();
        assert_eq!(log, expected, "{}", transport.name());
        assert_eq!(received, expected, "{}", transport.name());
        assert!(events >= 1);
    }
}

#[test]
fn a_client_that_reads_slowly_is_not_taken_for_dead() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.ping_interval", r#""300ms""#);
    let (daemon, _) = daemon_with_a_list(&setup);
    // The local socket's buffer is small, so that it has room again and again. On loopback TCP has
    // room only when megabytes were read, unlike a slow network.
    let mut peer = Peer::local(&daemon).unwrap();
    let begun = Instant::now();
    // Few enough to be read by the daemon at once: it reads no more from this client until all have
    // replies, with or without pongs.
    const PAGES: usize = 80;
    for _ in 0..PAGES {
        peer.post("rpc", "dispatcher", &page()).unwrap();
    }
    let mut pages = 0;
    while pages < PAGES {
        let pause = Duration::from_millis(10);
        let (first, _) = peer.stream().read_frame_slowly(32 * 1024, pause).unwrap();
        pages += usize::from(first == 0x81);
    }
    assert!(begun.elapsed() > Duration::from_millis(4 * 300), "{:?}", begun.elapsed());
    peer.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn message_that_the_daemon_does_not_read_is_not_late() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.max_event", r#""64KiB""#)
        .with("server.outbox", r#""384KiB""#)
        .with("server.message_timeout", r#""1s""#);
    let (daemon, mut watcher) = daemon_with_a_list(&setup);
    let mut peer = Peer::watcher(&daemon).unwrap();
    // It starts shortly before the client is not read any more.
    back_up(&mut peer, &mut watcher, 1);
    let patience = Instant::now() + PATIENCE;
    let wait_for = |bytes: u64, watcher: &mut Peer| {
        while fullest(watcher) < bytes {
            assert!(Instant::now() < patience, "its outbox does not fill");
            watcher.run(&json!({ "j": "sh -c 'head -c 25000 /dev/zero | tr \"\\0\" y'" })).unwrap();
            watcher.finished("j").unwrap();
        }
    };
    wait_for(130 * 1024, &mut watcher);
    let request = json!({ "namespace": "rpc", "name": "query", "id": "split" }).to_string();
    let frame = client_frame(0x81, request.as_bytes());
    let (begin, end) = frame.split_at(20);
    peer.stream().send(begin).unwrap();
    wait_for(192 * 1024, &mut watcher);
    peer.stream().send(end).unwrap();
    watcher.idle(Duration::from_millis(1300)).unwrap();
    let read = peer.frames_until(|frame| frame["id"] == "split").unwrap();
    assert!(read.last().unwrap()["args"]["rpc/dispatcher"].is_string());
}

#[test]
fn queue_of_an_unauthenticated_client_is_small() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut observer = Peer::local(&daemon).unwrap();
    let id = "x".repeat(7 * 1024);
    let request = json!({ "namespace": "rpc", "name": "identify", "id": id }).to_string();
    let frame = client_frame(0x81, request.as_bytes());
    for transport in [Transport::Plain, Transport::Tls] {
        let mut unauthenticated = Stream::open(&daemon, transport).unwrap();
        unauthenticated.set_nonblocking(true).unwrap();
        // Until it is not read any more: turns of the loop pass, and nothing moves. On a busy
        // machine nothing moves for a while before that, too.
        let (mut at, mut turns, mut most, mut before) = (0, 0, 0, 0);
        let patience = Instant::now() + PATIENCE;
        while turns < 10 || (most == 0 && Instant::now() < patience) {
            let mut moved = false;
            while let Ok(written) = unauthenticated.write(&frame[at..]) {
                at = (at + written) % frame.len();
                moved = true;
            }
            let waits = fullest(&mut observer);
            moved |= waits != before;
            (before, most) = (waits, most.max(waits));
            turns = if moved { 0 } else { turns + 1 };
        }
        assert!(most > 7 * 1024, "{most}");
        assert!(most <= 64 * 1024, "{}: {most} bytes", transport.name());
    }
}

//! Subscriptions: selection, position and form of events.

use serde_json::{Value, json};
use support::{Daemon, Gate, Peer, Setup, Transport};

use super::PROGRAM;

/// Nothing has arrived before the reply to this.
fn comes_next(peer: &mut Peer, what: &str) {
    peer.send(&json!({ "namespace": "rpc", "name": "identify", "id": what })).unwrap();
    assert_eq!(peer.frame().unwrap()["id"], what);
}

#[test]
fn names_are_accepted_as_list_or_string_in_any_spelling() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for (name, args, changed) in [
        ("subscribe", json!("dispatcher"), json!(["dispatcher"])),
        ("subscribe", json!(["dispatcher"]), json!([])),
        ("subscribe", json!("life_preserver"), json!(["life-preserver"])),
        (
            "subscribe",
            json!(["system_state", "life-preserver", "Dispatcher"]),
            json!(["system-state"]),
        ),
        ("unsubscribe", json!("system-state"), json!(["system-state"])),
        ("unsubscribe", json!(["system_state"]), json!([])),
        (
            "unsubscribe",
            json!(["life_preserver", "dispatcher", "dispatcher"]),
            json!(["dispatcher", "life-preserver"]),
        ),
        ("unsubscribe", json!("dispatcher"), json!([])),
        (
            "subscribe",
            json!(["dispatcher", "life-preserver", "system-state"]),
            json!(["dispatcher", "life-preserver", "system-state"]),
        ),
    ] {
        let reply = peer.request("events", name, &args).unwrap();
        assert_eq!(reply, json!({ name: changed }), "{name} {args}");
    }
}

#[test]
fn one_wrong_name_rejects_the_whole_list() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for args in [
        json!("nosuch"),
        json!(["dispatcher", "nosuch"]),
        json!(["dispatcher", "bridge"]),
        json!(["dispatcher", ""]),
        json!(["dispatcher", 5, null, true]),
        json!([["dispatcher"]]),
        json!([]),
        json!(""),
        json!({}),
        json!({ "a": "dispatcher" }),
        json!({ "events": [] }),
        json!({ "events": ["dispatcher", "nosuch"] }),
        json!(5),
        Value::Null,
    ] {
        for name in ["subscribe", "unsubscribe"] {
            let refused = peer.refused("events", name, &args).unwrap();
            assert_eq!(refused.code, 400, "{name} {args}");
            for known in ["dispatcher", "life-preserver", "system-state"] {
                assert!(refused.message.contains(known), "{args}: {}", refused.message);
            }
        }
    }
    assert!(
        peer.refused("events", "subscribe", &json!(["nosuch"])).unwrap().message.contains("nosuch")
    );
    peer.run(&json!({ "j": "true" })).unwrap();
    // Another subscriber has received all of it, so it would have arrived.
    Peer::local(&daemon)
        .unwrap()
        .request("rpc", "dispatcher", &json!({ "action": "list" }))
        .unwrap();
    comes_next(&mut peer, "no events");
    // The other way round: what was subscribed to stays.
    peer.subscribe().unwrap();
    peer.refused("events", "unsubscribe", &json!(["dispatcher", "nosuch"])).unwrap();
    peer.run(&json!({ "k": "true" })).unwrap();
    peer.finished("k").unwrap();
}

#[test]
fn repeated_subscription_doubles_no_event() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for args in [json!("dispatcher"), json!(["dispatcher", "dispatcher"]), json!(["dispatcher"])] {
        peer.request("events", "subscribe", &args).unwrap();
    }
    peer.run(&json!({ "j": "true" })).unwrap();
    let states = |events: &[Value], state: &str| {
        events.iter().filter(|event| event["state"] == state).count()
    };
    let events = peer.job("j").unwrap();
    assert_eq!((states(&events, "pending"), states(&events, "finished")), (1, 1));

    let command = format!("sh -c '{}; echo more; {}'", gate.wait(), gate.wait());
    peer.run(&json!({ "k": command })).unwrap();
    peer.job_until("k", |args| args["state"] == "running").unwrap();
    peer.request("events", "unsubscribe", &json!("dispatcher")).unwrap();
    gate.open().unwrap();
    watcher.job_printed("k", &command, "more\n").unwrap();
    comes_next(&mut peer, "no more of it");
    gate.open().unwrap();
    watcher.finished("k").unwrap();
    comes_next(&mut peer, "nor its end");
}

#[test]
fn late_subscriber_gets_the_current_state() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("dispatcher.max_running", 1)
        .with("dispatcher.output_interval", r#""10ms""#);
    let daemon = setup.start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut early = Peer::watcher(&daemon).unwrap();
    let chain = json!(["echo begun", format!("sh -c 'echo one; {}; echo two'", gate.wait())]);
    let [first, second] = [&chain[0], &chain[1]].map(|command| command.as_str().unwrap());
    early.run(&json!({ "over": "true" })).unwrap();
    early.finished("over").unwrap();
    early.run(&json!({ "at-work": chain, "waiting": ["echo a", "echo b"] })).unwrap();
    early.job_printed("at-work", second, "one\n").unwrap();

    for transport in Transport::ALL {
        let mut late = Peer::known(&daemon, transport).unwrap();
        late.send(
            &json!({ "namespace": "events", "name": "subscribe", "id": 1, "args": "dispatcher" }),
        )
        .unwrap();
        let mut frames = [(); 3].map(|()| late.frame().unwrap());
        assert_eq!(frames[0]["args"], json!({ "subscribe": ["dispatcher"] }));
        let started = frames[1]["args"]["time_started"].take();
        assert!(started.is_string());
        assert_eq!(
            frames[1],
            json!({ "namespace": "events", "name": "dispatcher", "id": "none", "args": {
                "state": "running", "process_id": "at-work", "cmd_list": chain,
                "time_started": null, "current_cmd": second,
                (format!("return_codes/{first}")): "0", first: "begun\n", second: "one\n",
            } })
        );
        assert_eq!(
            frames[2],
            json!({ "namespace": "events", "name": "dispatcher", "id": "none", "args": {
                "state": "pending", "process_id": "waiting", "cmd_list": ["echo a", "echo b"],
            } })
        );
        // Finished jobs are not part of the current state.
        comes_next(&mut late, "that was all");
        // The same again for a client that resubscribes, and only for that one.
        late.request("events", "subscribe", &json!("dispatcher")).unwrap();
        comes_next(&mut late, "it knows that");
        late.request("events", "unsubscribe", &json!("dispatcher")).unwrap();
        late.request("events", "subscribe", &json!("dispatcher")).unwrap();
        assert_eq!(late.frame().unwrap()["args"][second], "one\n");
        assert_eq!(late.frame().unwrap()["args"]["process_id"], "waiting");
        comes_next(&mut late, "that was all again");
    }

    let mut late = Peer::watcher(&daemon).unwrap();
    gate.open().unwrap();
    let rest = |events: Vec<Value>| -> String {
        events
            .iter()
            .filter(|event| event["state"] == "running")
            .filter_map(|event| event[second].as_str())
            .collect()
    };
    let (early, late) = (early.job("at-work").unwrap(), late.job("at-work").unwrap());
    assert_eq!(early.last(), late.last());
    // After the state that the late one got first, both got the same.
    let (early, late) = (rest(early), rest(late));
    assert_eq!(late, format!("one\n{early}"));
}

#[test]
fn documented_form_has_no_other_keys_and_the_object_form_four() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut plain = Peer::watcher(&daemon).unwrap();
    let mut extended = Peer::local(&daemon).unwrap();
    let reply =
        extended.request("events", "subscribe", &json!({ "events": ["dispatcher"] })).unwrap();
    assert_eq!(reply["subscribe"], json!(["dispatcher"]));
    let epoch = reply["epoch"].as_str().unwrap().to_owned();
    assert!(!epoch.is_empty());
    let mut seq = reply["seq"].as_u64().unwrap();
    plain.run(&json!({ "j": "echo x" })).unwrap();
    let last = |frame: &Value| frame["args"]["state"] == "finished";
    let documented: Vec<Value> = plain.frames_until(last).unwrap();
    let mut more = extended.frames_until(last).unwrap();
    for frame in &mut more {
        let frame = frame.as_object_mut().unwrap();
        assert_eq!(frame.remove("epoch").unwrap(), epoch.as_str());
        assert!(frame.remove("output").unwrap().is_array());
        let time = frame.remove("time").unwrap();
        let time = time.as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        let number = frame.remove("seq").unwrap().as_u64().unwrap();
        assert!(number > seq, "{number} after {seq}");
        seq = number;
    }
    assert_eq!(documented, more);
    let keys: Vec<&String> = documented[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["namespace", "name", "id", "args"]);
}

/// Subscribes with an object; returns the epoch and the number of the reply.
fn extended(peer: &mut Peer, more: Value) -> (String, u64) {
    let mut args = json!({ "events": "dispatcher" });
    args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = peer.request("events", "subscribe", &args).unwrap();
    (reply["epoch"].as_str().unwrap().to_owned(), reply["seq"].as_u64().unwrap())
}

#[test]
fn resuming_subscriber_gets_missed_events_once() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut all = Peer::local(&daemon).unwrap();
    let (epoch, _) = extended(&mut all, json!({}));
    let mut other = Peer::local(&daemon).unwrap();
    for jobs in [json!({ "a": "echo a", "b": "false" }), json!({ "c": "echo c" })] {
        other.run(&jobs).unwrap();
    }
    let mut over = 0;
    let had = all.frames_until(|frame| {
        over += usize::from(frame["args"]["state"] == "finished");
        over == 3
    });
    let had = had.unwrap();

    // From each position, all later events and nothing else, no current state either.
    for (place, from) in had.iter().enumerate() {
        let mut back = Peer::local(&daemon).unwrap();
        extended(&mut back, json!({ "since": { "epoch": epoch, "seq": from["seq"] } }));
        let mut missed = Vec::new();
        let last = &had[had.len() - 1];
        while place + 1 < had.len() && missed.last() != Some(last) {
            missed.push(back.frame().unwrap());
        }
        assert_eq!(joined(missed), joined(had[place + 1..].to_vec()), "from {from}");
        comes_next(&mut back, "no more");
    }
}

/// The same with all running events of a job coalesced, which is a valid form.
fn joined(frames: Vec<Value>) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for mut frame in frames {
        let command = frame["args"]["current_cmd"].as_str().map(str::to_owned);
        let same = |other: &Value| {
            other["args"]["state"] == "running"
                && other["args"]["process_id"] == frame["args"]["process_id"]
        };
        if let Some(command) = command
            && let Some(before) = all.iter().position(same)
        {
            let output = |frame: &Value| frame["args"][&command].as_str().unwrap_or("").to_owned();
            let output = output(&all.remove(before)) + &output(&frame);
            if !output.is_empty() {
                frame["args"][command] = json!(output);
            }
        }
        all.push(frame);
    }
    all
}

#[test]
fn unavailable_replay_is_a_gap_and_then_current_state() {
    // A ring of one event of the largest size.
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.ring", r#""64KiB""#)
        .with("events.max_event", r#""64KiB""#);
    let daemon = setup.start().unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    watcher.run(&json!({ "before": "true" })).unwrap();
    watcher.finished("before").unwrap();
    let (epoch, begin) = extended(&mut watcher, json!({}));
    assert!(begin > 0);
    let waiting = format!("sh -c 'echo here; {}'", gate.wait());
    watcher.run(&json!({ "at-work": waiting })).unwrap();
    watcher.job_printed("at-work", &waiting, "here\n").unwrap();
    let mut ends = Vec::new();
    for id in ["a", "b", "c"] {
        watcher.run(&json!({ id: "sh -c 'head -c 20000 /dev/zero | tr \"\\0\" x'" })).unwrap();
        ends.push(watcher.finished(id).unwrap());
    }
    let (_, last) = extended(&mut Peer::local(&daemon).unwrap(), json!({}));

    for (since, known) in [
        (json!({ "epoch": epoch, "seq": begin }), true),
        (json!({ "epoch": epoch, "seq": last + 1 }), false),
        (json!({ "epoch": "another", "seq": begin }), false),
    ] {
        let mut back = Peer::local(&daemon).unwrap();
        extended(&mut back, json!({ "since": since }));
        let mut received =
            back.frames_until(|frame| frame["args"]["process_id"] == "at-work").unwrap();
        let present = received.pop().unwrap();
        let gap = received.remove(0);
        let missed = &gap["args"]["missed"];
        let from = begin + 1 + missed.as_u64().unwrap_or(0);
        assert_eq!(missed.is_u64(), known, "{gap}");
        let seq = &gap["seq"];
        assert_eq!(
            gap,
            json!({ "namespace": "events", "name": "gap", "id": "none", "seq": seq,
                    "epoch": epoch, "args": { "missed": missed } })
        );
        // Outcomes of the jobs whose end was missed, all that the ring still holds, and the current
        // state.
        let (missed, held): (Vec<_>, Vec<_>) =
            received.into_iter().partition(|frame| frame["present"] == true);
        let missed: Vec<&Value> = missed.iter().map(|frame| &frame["args"]).collect();
        assert!(missed.iter().all(|args| args["state"] == "finished"), "{missed:?}");
        assert!(missed.iter().any(|args| **args == ends[0]), "{missed:?}");
        let numbers: Vec<u64> = held.iter().map(|frame| frame["seq"].as_u64().unwrap()).collect();
        let first = if known { from } else { numbers[0] };
        assert_eq!(numbers, (first..=last).collect::<Vec<_>>());
        assert_eq!(held.last().unwrap()["args"], ends[2]);
        assert_eq!((&present["seq"], &present["present"]), (&json!(last), &json!(true)));
        assert_eq!(present["args"][&waiting], "here\n");
        comes_next(&mut back, "that was all");
    }
    gate.open().unwrap();
}

#[test]
fn a_subscription_can_be_for_some_jobs_only() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut choosy = Peer::local(&daemon).unwrap();
    extended(&mut choosy, json!({ "jobs": ["a", "c"] }));
    let mut one = Peer::local(&daemon).unwrap();
    extended(&mut one, json!({ "jobs": "b", "priority": 10, "since": null }));
    for id in ["a", "b", "c"] {
        watcher.run(&json!({ id: "true" })).unwrap();
        watcher.finished(id).unwrap();
    }
    for (peer, wanted) in [(&mut choosy, &["a", "c"][..]), (&mut one, &["b"])] {
        for id in wanted {
            for state in ["pending", "running", "finished"] {
                let frame = peer.frame().unwrap();
                let args = &frame["args"];
                assert_eq!((&args["process_id"], &args["state"]), (&json!(id), &json!(state)));
            }
        }
        comes_next(peer, "no others");
    }
}

#[test]
fn a_subscription_names_at_most_as_many_jobs_as_there_can_be() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("dispatcher.max_running", 1)
        .with("dispatcher.max_pending", 2)
        .with("dispatcher.retain_jobs", 3);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let subscribe = |jobs: &[&str]| json!({ "events": ["dispatcher"], "jobs": jobs });
    // 1 + 2 + 3, and 16 that were cancelled.
    let names: Vec<String> = (0..23).map(|number| format!("j{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(peer.refused("events", "subscribe", &subscribe(&names)).unwrap().code, 413);
    for id in ["x".repeat(129), "new\nline".to_owned()] {
        assert_eq!(peer.refused("events", "subscribe", &subscribe(&[&id])).unwrap().code, 400);
    }
    comes_next(&mut peer, "still nothing");
    peer.request("events", "subscribe", &subscribe(&["a", "b", "c", "d", "e", "f", "f"])).unwrap();
    peer.run(&json!({ "f": "true" })).unwrap();
    peer.finished("f").unwrap();
}

#[test]
fn only_the_qt_client_gets_hyphenated_names() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in Transport::ALL {
        for (origin, name) in [
            ("", "system_state"),
            ("Origin: sysadm-client\r\n", "system-state"),
            ("Origin: sysadm-server\r\n", "system_state"),
            ("Origin: Sysadm-Client\r\n", "system_state"),
        ] {
            let mut peer = Peer::connect_with(&daemon, transport, origin).unwrap();
            let token = json!({ "token": Peer::token(&daemon).unwrap() });
            peer.request("rpc", "auth_token", &token).unwrap();
            for args in [json!("system_state"), json!({ "events": ["system-state"] })] {
                let reply = peer.request("events", "subscribe", &args).unwrap();
                assert_eq!(reply["subscribe"], json!(["system-state"]), "{origin}");
                let event = peer.frame().unwrap();
                assert_eq!(event["name"], name, "{}: {origin}", transport.name());
                assert!(event["args"]["hostname"].is_string());
                peer.request("events", "unsubscribe", &json!("system-state")).unwrap();
            }
        }
    }
}

#[test]
fn subscription_may_filter_by_priority() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let names = json!(["system-state", "dispatcher"]);
    for (priority, received) in [(json!(null), true), (json!(0), true), (json!(1), false)] {
        let mut peer = Peer::local(&daemon).unwrap();
        let args = json!({ "events": names, "priority": priority });
        peer.request("events", "subscribe", &args).unwrap();
        if received {
            assert_eq!(peer.frame().unwrap()["args"]["priority"], "0 - Information");
        }
        comes_next(&mut peer, "no more");
        // A job has no priority, and is told.
        peer.run(&json!({ "j": "true" })).unwrap();
        peer.finished("j").unwrap();
    }
}

#[test]
fn invalid_option_is_rejected_and_changes_nothing() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for (option, value, word) in [
        ("prio", json!(1), "priority"),
        ("priority", json!(11), "0 to 10"),
        ("priority", json!(-1), "0 to 10"),
        ("priority", json!(1.5), "0 to 10"),
        ("priority", json!("3"), "0 to 10"),
        ("jobs", json!([]), "jobs"),
        ("jobs", json!(5), "jobs"),
        ("jobs", json!(["a", 5]), "jobs"),
        ("since", json!(5), "epoch"),
        ("since", json!({ "epoch": "e" }), "seq"),
        ("since", json!({ "epoch": 5, "seq": 5 }), "seq"),
        ("since", json!({ "epoch": "e", "seq": -1 }), "seq"),
    ] {
        let args = json!({ "events": ["dispatcher"], option: value });
        let refused = peer.refused("events", "subscribe", &args).unwrap();
        assert_eq!(refused.code, 400, "{args}");
        assert!(refused.message.contains(word), "{args}: {}", refused.message);
    }
    let mut watcher = Peer::watcher(&daemon).unwrap();
    watcher.run(&json!({ "j": "true" })).unwrap();
    watcher.finished("j").unwrap();
    comes_next(&mut peer, "no events");
}

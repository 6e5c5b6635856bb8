//! The share of one user: requests of one client cost another one nothing.

use serde_json::{Map, Value, json};
use support::{Peer, Setup, Transport, client_header, until};

use super::PROGRAM;

#[test]
fn status_names_clients_by_page_and_counts_all() {
    let daemon = Setup::new(PROGRAM).unwrap().start().unwrap();
    let mut others: Vec<Peer> = (0..130).map(|_| Peer::local(&daemon).unwrap()).collect();
    for other in &mut others {
        other.request("rpc", "query", &json!({})).unwrap();
    }
    let mut observer = Peer::local(&daemon).unwrap();
    let (mut seen, mut pages, mut args) = (Vec::new(), Vec::new(), json!({}));
    loop {
        let status = observer.request("rpc", "status", &args).unwrap();
        assert_eq!(status["client_count"], 131);
        let page = status["clients"].as_array().unwrap();
        pages.push(page.len());
        seen.extend(page.iter().map(|client| client["id"].as_u64().unwrap()));
        match &status["next"] {
            Value::Null => break,
            next => args = json!({ "after": next }),
        }
    }
    assert_eq!(pages, [64, 64, 3]);
    assert!(seen.is_sorted_by(|one, other| one < other), "each once, in order");
}

#[test]
fn status_follows_earlier_requests_of_the_same_client() {
    let daemon = Setup::new(PROGRAM).unwrap().start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.post("rpc", "status", &json!({})).unwrap();
    peer.post("rpc", "dispatcher", &json!({ "action": "run", "a": "sleep 1000" })).unwrap();
    peer.post("rpc", "status", &json!({})).unwrap();
    let active = |reply: &Value| {
        let jobs = &reply["args"]["jobs"];
        jobs["running"].as_u64().unwrap() + jobs["pending"].as_u64().unwrap()
    };
    assert_eq!(active(&peer.frame().unwrap()), 0);
    peer.frame().unwrap();
    assert_eq!(active(&peer.frame().unwrap()), 1);
    peer.request("rpc", "dispatcher", &json!({ "action": "kill", "job_id": "a" })).unwrap();
}

#[test]
fn unfinished_messages_are_bounded_for_all_together() {
    const HALF: usize = 60 * 1024;
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("server.max_message", r#""64KiB""#)
        .with("server.inbox_total", r#""256KiB""#);
    let daemon = setup.start().unwrap();
    let mut observer = Peer::local(&daemon).unwrap();
    let mut others: Vec<Peer> =
        (0..8).map(|_| Peer::known(&daemon, Transport::Unix).unwrap()).collect();
    for other in &mut others {
        // A message of 64 KiB whose last part is missing.
        let mut begun = client_header(0x81, 64 * 1024);
        begun.extend(vec![b' '; HALF]);
        // The daemon may have closed it already.
        let _ = other.stream().send(&begun);
    }
    daemon.log().wait("unfinished messages (inbox_total), 1013").unwrap();
    until("enough are gone", || {
        let status = observer.request("rpc", "status", &json!({})).unwrap();
        status["client_count"].as_u64().unwrap() <= 5
    });
    observer.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn error_about_a_long_name_shows_only_its_beginning() {
    let daemon = Setup::new(PROGRAM).unwrap().start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let long = "\"".repeat(100_000);
    let of_jobs = |action: &str, key: &str| {
        let mut args = json!({ "action": action });
        args[key] = long.as_str().into();
        ("rpc", "dispatcher", args)
    };
    let mut unknown = json!({ "action": "submit", "commands": [["true"]] });
    unknown[&long] = 1.into();
    let mut run = json!({ "action": "run" });
    run[&long] = "true".into();
    for (namespace, name, args) in [
        ("rpc", "dispatcher", json!({ "action": long })),
        of_jobs("log", "job_id"),
        of_jobs("attach", "job_id"),
        of_jobs("restart", "job_id"),
        of_jobs("list", "page"),
        of_jobs("pause", "queue"),
        of_jobs("run", "a"),
        ("rpc", "dispatcher", unknown),
        ("rpc", "dispatcher", run),
        ("events", "subscribe", json!([long])),
        ("events", "subscribe", json!({ "events": ["dispatcher"], "jobs": [long] })),
        ("rpc", "history", json!({ "events": [long] })),
    ] {
        let refused = peer.refused(namespace, name, &args).unwrap();
        let message = &refused.message;
        let beginning: String = message.chars().take(2000).collect();
        assert!(message.len() < 1000, "{name}: {} bytes: {beginning}", message.len());
    }
}

#[test]
fn many_jobs_killed_at_once_are_each_reported_once() {
    const JOBS: usize = 200;
    let daemon = Setup::new(PROGRAM).unwrap().start().unwrap();
    let mut peer = Peer::watcher(&daemon).unwrap();
    peer.submit(&json!({ "id": "first", "queue": "q", "commands": ["sleep 1000"] })).unwrap();
    let id = |number: usize| format!("j{number}");
    for number in 0..JOBS {
        let commands = vec!["true"; 100];
        let job = json!({ "id": id(number), "queue": "q", "commands": commands });
        peer.submit(&job).unwrap();
    }
    let ids: Vec<String> = (0..JOBS).map(id).collect();
    let killed = peer.kill(&json!(ids)).unwrap();
    assert_eq!(killed.as_array().map(Vec::len), Some(JOBS));
    let mut finished = Vec::new();
    while finished.len() < JOBS {
        let event = peer.frame().unwrap();
        if event["args"]["state"] == "finished" {
            assert_eq!(event["args"]["result"], "cancelled");
            finished.push(event["args"]["process_id"].as_str().unwrap().to_owned());
        }
    }
    finished.sort_unstable();
    finished.dedup();
    assert_eq!(finished.len(), JOBS);
    peer.kill(&json!("first")).unwrap();
    peer.finished("first").unwrap();
}

#[test]
fn oversized_requests_are_refused_before_they_cost_time() {
    let daemon = Setup::new(PROGRAM).unwrap().start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let mut run = json!({ "action": "run" });
    for number in 0..257 {
        run[format!("j{number}")] = "true".into();
    }
    let words: Vec<&str> = vec!["w"; 8000];
    let env: Map<String, Value> =
        (0..1025).map(|number| (format!("V{number}"), json!("x"))).collect();
    let wide: Vec<String> = vec!["w".repeat(20_000), "w".repeat(20_000)];
    for (args, code) in [
        (run, 413),
        (json!({ "action": "submit", "commands": [wide] }), 413),
        (json!({ "action": "kill", "job_id": words }), 413),
        (json!({ "action": "submit", "commands": [["true"]], "env": env }), 413),
        (json!({ "action": "kill", "job_id": vec!["w"; 20_000] }), 400),
        (json!({ "action": "submit", "commands": [vec!["w"; 50_000]] }), 400),
    ] {
        let refused = peer.refused("rpc", "dispatcher", &args).unwrap();
        assert_eq!(refused.code, code, "{}", refused.message);
    }
    let status = peer.request("rpc", "status", &json!({})).unwrap();
    assert_eq!(status["jobs"], json!({ "pending": 0, "running": 0, "finished": 0 }));
}

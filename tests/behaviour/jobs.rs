//! Jobs: from the request to the one finished event.

use serde_json::json;
use support::{Cli, Daemon, Peer};

use super::PROGRAM;

#[test]
fn a_chain_stops_at_the_first_command_that_fails() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::local(&daemon).unwrap();
    watcher.subscribe().unwrap();
    let ran = Cli::to(&daemon, "run")
        .args(["--id", "chain", "sh -c 'for i in 1 2 3; do echo line $i; done'", "false"])
        .arg("echo never")
        .run()
        .unwrap();
    assert_eq!((ran.code(), ran.out.as_str()), (1, "line 1\nline 2\nline 3\n"));
    let events = watcher.job("chain").unwrap();
    let states: Vec<_> = events.iter().map(|event| event["state"].as_str().unwrap()).collect();
    assert_eq!((states[0], states[1]), ("pending", "running"));
    assert_eq!(states.iter().filter(|state| **state == "finished").count(), 1);
    let finished = events.last().unwrap();
    assert_eq!(finished["return_codes/false"], json!("1"));
    assert_eq!(finished.get("return_codes/echo never"), None);
    assert_eq!(finished.get("echo never"), None);
}

//! Real pools, from the command that changes one to the event that reports it.
//!
//! zfs-fuse makes them; where it cannot run these tests say that they are skipped.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Cli, Daemon, Outcome, Peer, Process, Zfs};

use super::PROGRAM;
use super::system_state::{answers_meanwhile, checks, next_state, subscribed};

const INTERVAL: Duration = Duration::from_secs(2);

/// A subscriber, and the time of the last change.
struct Watcher {
    peer: Peer,
    changed: Instant,
}

impl Watcher {
    fn of(daemon: &Daemon) -> Outcome<Watcher> {
        let mut watcher = Watcher { peer: subscribed(daemon)?, changed: Instant::now() };
        let first = next_state(&mut watcher.peer)?;
        assert_eq!((&first["zpools"], &first["priority"]), (&json!({}), &json!("0 - Information")));
        Ok(watcher)
    }

    /// Makes a change; returns the next event, which must come within two checks.
    fn after(&mut self, change: impl FnOnce() -> Outcome<String>) -> Outcome<Value> {
        change()?;
        self.changed = Instant::now();
        let state = next_state(&mut self.peer)?;
        let waited = self.changed.elapsed();
        assert!(waited < 2 * INTERVAL, "it took {waited:?}");
        Ok(state)
    }
}

/// Health and priority of a pool.
fn pool<'a>(state: &'a Value, name: &str) -> (&'a str, &'a str) {
    let pool = &state["zpools"][name];
    (pool["health"].as_str().unwrap_or("gone"), pool["priority"].as_str().unwrap_or("gone"))
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn each_change_of_a_pool_is_one_event_within_two_checks() {
    let Some(zfs) = Zfs::start().unwrap() else { return };
    let setup = zfs.setup(PROGRAM).unwrap().with("system_state.interval", r#""2s""#);
    let daemon = setup.start().unwrap();
    let mut watcher = Watcher::of(&daemon).unwrap();
    let (a, b) = (zfs.device("a", 64).unwrap(), zfs.device("b", 64).unwrap());
    let (a, b) = (text(&a), text(&b));

    let created =
        watcher.after(|| zfs.zpool(&["create", "-m", "none", "tank", "mirror", a, b])).unwrap();
    assert_eq!(pool(&created, "tank"), ("ONLINE", "0 - Information"));
    assert_eq!(created["zpools"]["tank"]["capacity"], "0%");
    // zfs-fuse has no such columns.
    assert_eq!(created["zpools"]["tank"]["frag"], "-");
    assert_eq!(created["zpools"]["tank"].get("ckpoint"), None);

    let degraded = watcher.after(|| zfs.zpool(&["offline", "tank", b])).unwrap();
    assert_eq!(pool(&degraded, "tank"), ("DEGRADED", "9 - Urgent"));
    assert_eq!(degraded["priority"], "9 - Urgent");
    let status = degraded["zpools"]["tank"]["status"].as_str().unwrap();
    assert!(status.contains("taken offline by the administrator. Sufficient"), "{status}");

    // A new subscriber gets the current state at once.
    let mut late = subscribed(&daemon).unwrap();
    assert_eq!(next_state(&mut late).unwrap(), degraded);
    let shown = Cli::to(&daemon, "status").run().unwrap().out;
    assert!(shown.contains("pools     1 pool, from zpool list "), "{shown}");
    assert!(shown.contains("9 - Urgent: tank is DEGRADED: One or more"), "{shown}");
    let is_row = |line: &&str| line.contains(" tank ") && !line.contains("pool/tank/health");
    let row = shown.lines().find(is_row).unwrap();
    assert!(row.contains("DEGRADED") && row.contains("9 - Urgent  One or more"), "{row}");

    let back = watcher.after(|| zfs.zpool(&["online", "tank", b])).unwrap();
    assert_eq!(pool(&back, "tank"), ("ONLINE", "0 - Information"));
    let gone = watcher.after(|| zfs.zpool(&["destroy", "tank"])).unwrap();
    assert_eq!((&gone["zpools"], &gone["priority"]), (&json!({}), &json!("1 - Information")));
    assert_eq!(gone["zpools_gone"]["tank"]["how"], "destroyed");
    assert_eq!(next_state(&mut late).unwrap(), back);
    assert_eq!(next_state(&mut late).unwrap(), gone);
    // There was nothing in between, and nothing follows.
    watcher.peer.idle(INTERVAL).unwrap();
    let status = watcher.peer.request("rpc", "status", &Value::Null).unwrap();
    // With the alert of the degraded pool; it is cleared later.
    assert_eq!(status["seq"], 6);
    assert!(!daemon.log().lines().iter().any(|line| line.contains("ERROR")));
}

#[test]
fn exported_pool_is_news_and_vanished_pool_is_critical() {
    let Some(zfs) = Zfs::start().unwrap() else { return };
    let setup = zfs.setup(PROGRAM).unwrap().with("system_state.interval", r#""2s""#);
    let daemon = setup.start().unwrap();
    let mut watcher = Watcher::of(&daemon).unwrap();
    let device = zfs.device("a b", 64).unwrap();
    watcher.after(|| zfs.zpool(&["create", "-m", "none", "my pool", text(&device)])).unwrap();
    let gone = watcher.after(|| zfs.zpool(&["export", "my pool"])).unwrap();
    let entry = |how: &str, priority: &str| json!({"my pool": {"how": how, "health": "ONLINE", "priority": priority}});
    assert_eq!(gone["zpools_gone"], entry("exported", "1 - Information"));
    let directory = text(zfs.directory()).to_owned();
    let back = watcher.after(|| zfs.zpool(&["import", "-d", &directory, "my pool"])).unwrap();
    assert_eq!(pool(&back, "my pool"), ("ONLINE", "0 - Information"));
    assert_eq!(back.get("zpools_gone"), None);
    // zfs-fuse dies, and the pool with it.
    let vanished = watcher.after(|| zfs.kill().map(|()| String::new())).unwrap();
    assert_eq!(vanished["zpools_gone"], entry("vanished", "7 - Critical"));
    assert_eq!((vanished.get("zpools"), &vanished["priority"]), (None, &json!("7 - Critical")));
}

#[test]
fn scrub_of_a_real_pool_is_reported_with_its_end() {
    let Some(zfs) = Zfs::start().unwrap() else { return };
    let device = zfs.device("a", 64).unwrap();
    zfs.zpool(&["create", "-m", "none", "tank", text(&device)]).unwrap();
    let daemon = zfs.setup(PROGRAM).unwrap().start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    assert_eq!(next_state(&mut peer).unwrap()["zpools"]["tank"].get("scan"), None);
    zfs.zpool(&["scrub", "tank"]).unwrap();
    // It may have ended before the check.
    loop {
        peer.request("rpc", "system_state", &json!({"action": "check"})).unwrap();
        let scan = next_state(&mut peer).unwrap()["zpools"]["tank"]["scan"].take();
        assert_eq!(scan["function"], "scrub");
        if scan["state"] == "finished" {
            assert_eq!(scan["errors"], "0");
            break;
        }
    }
}

#[test]
fn names_of_pools_may_have_blanks_colons_dots_and_dashes() {
    const NAMES: [&str; 5] = ["my pool", "two  blanks ", "a.b:c-d_e", "ONLINE", "tank"];
    let Some(zfs) = Zfs::start().unwrap() else { return };
    for (number, name) in NAMES.iter().enumerate() {
        let devices = ["a", "b"].map(|side| zfs.device(&format!("{side}{number}"), 64).unwrap());
        let [a, b] = [text(&devices[0]), text(&devices[1])];
        zfs.zpool(&["create", "-m", "none", name, "mirror", a, b]).unwrap();
    }
    for wounded in [0, 1] {
        let device = zfs.directory().join(format!("b{wounded}"));
        zfs.zpool(&["offline", NAMES[wounded], text(&device)]).unwrap();
    }
    let daemon = zfs.setup(PROGRAM).unwrap().start().unwrap();
    let state = next_state(&mut subscribed(&daemon).unwrap()).unwrap();
    let mut received: Vec<&str> =
        state["zpools"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut names = NAMES.to_vec();
    received.sort_unstable();
    names.sort_unstable();
    assert_eq!(received, names);
    for (number, name) in NAMES.iter().enumerate() {
        let is_wounded = number < 2;
        let expected =
            if is_wounded { ("DEGRADED", "9 - Urgent") } else { ("ONLINE", "0 - Information") };
        assert_eq!(pool(&state, name), expected, "{name:?}");
        // Found by the name in the other output, with its blanks.
        assert_eq!(state["zpools"][*name].get("status").is_some(), is_wounded, "{name:?}");
    }
}

#[test]
fn a_pool_that_is_filled_over_its_limit_is_critical() {
    let Some(zfs) = Zfs::start().unwrap() else { return };
    let device = zfs.device("a", 400).unwrap();
    let mountpoint = zfs.directory().join("tank");
    zfs.zpool(&["create", "-m", text(&mountpoint), "tank", text(&device)]).unwrap();
    // The client answers no ping while the pool is filled.
    let setup = zfs.setup(PROGRAM).unwrap().with("system_state.interval", r#""500ms""#);
    let setup = setup.with("server.ping_interval", r#""10m""#);
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    // It ends for want of room, which is no failure here.
    let fill = "dd if=/dev/urandom of=\"$0\" bs=64k 2>/dev/null; sync";
    zfs.run("sh", &["-c", fill, text(&mountpoint.join("file"))]).unwrap();
    loop {
        let state = next_state(&mut peer).unwrap();
        let (health, priority) = pool(&state, "tank");
        let capacity = state["zpools"]["tank"]["capacity"].as_str().unwrap();
        let capacity: u32 = capacity.trim_end_matches('%').parse().unwrap();
        assert_eq!(health, "ONLINE");
        if capacity > 90 {
            assert_eq!((priority, &state["priority"]), ("6 - Critical", &json!("6 - Critical")));
            break;
        }
        assert_eq!(priority, "0 - Information", "{capacity}");
    }
}

#[test]
fn damage_of_an_online_pool_and_its_repair_are_reported() {
    let Some(zfs) = Zfs::start().unwrap() else { return };
    let (a, b) = (zfs.device("a", 64).unwrap(), zfs.device("b", 64).unwrap());
    let mountpoint = zfs.directory().join("tank");
    let create = ["create", "-m", text(&mountpoint), "tank", "mirror", text(&a), text(&b)];
    zfs.zpool(&create).unwrap();
    let fill = "dd if=/dev/urandom of=\"$0\" bs=64k count=160 2>/dev/null && sync";
    zfs.run("sh", &["-c", fill, text(&mountpoint.join("file"))]).unwrap();
    let setup = zfs.setup(PROGRAM).unwrap().with("system_state.interval", r#""500ms""#);
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    assert_eq!(pool(&next_state(&mut peer).unwrap(), "tank"), ("ONLINE", "0 - Information"));

    let damage = "dd if=/dev/urandom of=\"$0\" bs=1M seek=5 count=50 conv=notrunc 2>/dev/null";
    zfs.run("sh", &["-c", damage, text(&b)]).unwrap();
    zfs.zpool(&["scrub", "tank"]).unwrap();
    // When a scrub begins the devices are reopened; a check at that moment sees them closed.
    let damaged = loop {
        let state = next_state(&mut peer).unwrap();
        if pool(&state, "tank").0 == "ONLINE" {
            break state;
        }
    };
    assert_eq!(pool(&damaged, "tank").1, "7 - Critical");
    let status = damaged["zpools"]["tank"]["status"].as_str().unwrap();
    assert!(status.contains("experienced an unrecoverable error."), "{status}");
    // While the scrub runs it may find more; clearing is repeated until it finds nothing.
    loop {
        zfs.zpool(&["clear", "tank"]).unwrap();
        let state = next_state(&mut peer).unwrap();
        if pool(&state, "tank").1 == "0 - Information" {
            assert_eq!(state["zpools"]["tank"].get("status"), None);
            break;
        }
    }
}

#[test]
fn hanging_real_zpool_is_reported_once_and_blocks_nothing() {
    let Some(zfs) = Zfs::start().unwrap() else { return };
    let device = zfs.device("a", 64).unwrap();
    zfs.zpool(&["create", "-m", "none", "tank", text(&device)]).unwrap();
    let setup = zfs
        .setup(PROGRAM)
        .unwrap()
        .with("system_state.interval", r#""300ms""#)
        .with("system_state.zpool_deadline", r#""500ms""#);
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    let before = next_state(&mut peer).unwrap();
    zfs.hang().unwrap();
    answers_meanwhile(&daemon);
    let hung = next_state(&mut peer).unwrap();
    assert_eq!(hung["zpool_error"], "zpool list did not answer within 500ms");
    assert_eq!((&hung["zpools"], &hung["priority"]), (&before["zpools"], &json!("9 - Urgent")));
    // More checks fail alike; each `zpool` ends before the next starts.
    let mut asking = Peer::local(&daemon).unwrap();
    let end = checks(&mut asking) + 2;
    while checks(&mut asking) < end {
        let children = daemon.process().children().unwrap();
        let is_zpool = |pid: &&u32| Process(**pid).name().is_ok_and(|name| name == "zpool");
        assert!(children.iter().filter(is_zpool).count() <= 1, "{children:?}");
    }
    zfs.go_on().unwrap();
    let after = next_state(&mut peer).unwrap();
    assert_eq!(after.get("zpool_error"), None);
    assert_eq!(pool(&after, "tank"), ("ONLINE", "0 - Information"));
}

//! A file system that does not answer: the daemon goes on without it, names it, and reads on where
//! it was once it answers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use support::{
    Bridge, Daemon, Outcome, Peer, Person, Setup, StuckFs, Transport, append, snapshot,
    snapshot_message, snapshot_messages, until,
};

use super::PROGRAM;

/// Paths that `status` reports as hanging.
fn hanging(daemon: &Daemon) -> Vec<String> {
    let mut peer = Peer::local(daemon).unwrap();
    let status = peer.request("rpc", "status", &json!({})).unwrap();
    let hanging = status["hanging"].as_array().cloned().unwrap_or_default();
    for entry in &hanging {
        assert!(entry["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{entry}");
    }
    hanging.iter().filter_map(|entry| entry["path"].as_str()).map(str::to_owned).collect()
}

fn wait_until_named(daemon: &Daemon, path: &Path) {
    until("status names it", || hanging(daemon).iter().any(|named| Path::new(named) == path));
}

fn wait_until_none(daemon: &Daemon) {
    until("nothing hangs", || hanging(daemon).is_empty());
}

/// A daemon that follows a log of its own, and a subscriber.
struct Scene {
    setup: Setup,
    daemon: Daemon,
    reader: Peer,
    /// Snapshots in its own log.
    count: usize,
}

impl Scene {
    fn start(setup: Setup) -> Outcome<Scene> {
        append(&setup.log(), "")?;
        let daemon = setup.start()?;
        let reader = Peer::reader(&daemon)?;
        Ok(Scene { setup, daemon, reader, count: 0 })
    }

    /// Clients are served, jobs run, and the other log is followed.
    fn is_lively(&mut self) -> Outcome<()> {
        let mut peer = Peer::connect(&self.daemon, Transport::Tls)?;
        peer.request("rpc", "identify", &json!(""))?;
        let mut peer = Peer::watcher(&self.daemon)?;
        let id = format!("job-{}", self.count);
        peer.run(&json!({ &id: "echo lively" }))?;
        assert_eq!(peer.finished(&id)?["echo lively"], "lively\n");
        append(&self.setup.log(), snapshot(self.count))?;
        assert_eq!(self.reader.message()?, snapshot_message(self.count));
        self.count += 1;
        Ok(())
    }

    /// SIGHUP, whose files hang; it takes effect once they are released.
    fn reload_hangs(&mut self, stuck: &StuckFs, named: &Path) -> Outcome<()> {
        let before = self.daemon.log().lines().len();
        self.daemon.signal(support::Signal::SIGHUP)?;
        wait_until_named(&self.daemon, named);
        self.daemon.log().wait_from(before, "does not answer")?;
        self.is_lively()?;
        let said = self.daemon.log().lines()[before..].join("\n");
        assert!(!said.contains("reloaded") && !said.contains("reload failed"), "{said}");
        stuck.release();
        self.daemon.log().wait_from(before, "reloaded")?;
        wait_until_none(&self.daemon);
        self.is_lively()
    }
}

/// Follows this log too, and looks often.
fn following(log: &Path) -> Outcome<Setup> {
    let source = format!("[[life_preserver.source]]\nlog = {log:?}\nrule = \"lpreserver\"\n");
    let setup = Setup::following(PROGRAM)?.with("life_preserver.poll_interval", r#""100ms""#);
    Ok(setup.with_lines(&source))
}

/// The log hangs by this name, and is read on where it was.
fn log_hangs(log: &str, name: &str) -> Outcome<()> {
    let Some(stuck) = StuckFs::mount()? else { return Ok(()) };
    append(&stuck.source(log), snapshot(1000))?;
    let mut scene = Scene::start(following(&stuck.path(log))?)?;
    append(&stuck.source(log), snapshot(1001))?;
    assert_eq!(scene.reader.message()?, snapshot_message(1001));
    stuck.hang(name);
    append(&stuck.source(log), snapshot(1002))?;
    wait_until_named(&scene.daemon, &stuck.path(log));
    let line = scene.daemon.log().wait("does not answer")?;
    assert!(line.contains(stuck.path(log).to_str().unwrap_or("no text")), "{line}");
    for _ in 0..3 {
        scene.is_lively()?;
    }
    append(&stuck.source(log), snapshot(1003))?;
    stuck.release();
    assert_eq!(scene.reader.messages(2)?, snapshot_messages(1002..1004));
    scene.daemon.log().wait("answers again")?;
    wait_until_none(&scene.daemon);
    append(&stuck.source(log), snapshot(1004))?;
    assert_eq!(scene.reader.message()?, snapshot_message(1004));
    scene.is_lively()?;
    scene.daemon.stop()?;
    Ok(())
}

#[test]
fn followed_log_that_hangs_holds_up_nothing() -> Outcome<()> {
    log_hangs("other.log", "other.log")
}

#[test]
fn directory_of_log_that_hangs_holds_up_nothing() -> Outcome<()> {
    log_hangs("d/other.log", "d")
}

#[test]
fn log_that_hangs_at_start_is_read_on_later() -> Outcome<()> {
    let Some(stuck) = StuckFs::mount()? else { return Ok(()) };
    append(&stuck.source("other.log"), snapshot(1000))?;
    let mut scene = Scene::start(following(&stuck.path("other.log"))?)?;
    append(&stuck.source("other.log"), snapshot(1001))?;
    assert_eq!(scene.reader.message()?, snapshot_message(1001));
    scene.daemon.stop()?;
    append(&stuck.source("other.log"), snapshot(1002))?;
    stuck.hang("other.log");
    scene.daemon = scene.setup.start()?;
    scene.reader = Peer::reader(&scene.daemon)?;
    wait_until_named(&scene.daemon, &stuck.path("other.log"));
    scene.is_lively()?;
    // A restart meanwhile loses nothing either.
    scene.daemon.stop()?;
    scene.daemon = scene.setup.start()?;
    scene.reader = Peer::reader(&scene.daemon)?;
    stuck.release();
    assert_eq!(scene.reader.message()?, snapshot_message(1002));
    scene.is_lively()
}

/// Moves a file into the file system that hangs, and a link into its place.
fn move_there(file: &Path, stuck: &StuckFs, name: &str) -> Outcome<()> {
    fs::copy(file, stuck.source(name))?;
    fs::remove_file(file)?;
    symlink(stuck.path(name), file)?;
    Ok(())
}

#[test]
fn configuration_that_hangs_at_reload_is_waited_for() -> Outcome<()> {
    let Some(stuck) = StuckFs::mount()? else { return Ok(()) };
    let mut scene = Scene::start(Setup::following(PROGRAM)?)?;
    let file = scene.setup.file();
    move_there(&file, &stuck, "sysadm-events.toml")?;
    stuck.hang("sysadm-events.toml");
    scene.reload_hangs(&stuck, &file)?;
    // A second signal while it hangs reads once more what is there then.
    stuck.hang("sysadm-events.toml");
    scene.daemon.signal(support::Signal::SIGHUP)?;
    wait_until_named(&scene.daemon, &file);
    scene.daemon.signal(support::Signal::SIGHUP)?;
    let text = fs::read_to_string(stuck.source("sysadm-events.toml"))?;
    fs::write(stuck.source("sysadm-events.toml"), text + "[nonsense]\n")?;
    let before = scene.daemon.log().lines().len();
    stuck.release();
    let (line, _) = scene.daemon.log().wait_from(before, "reload")?;
    assert!(line.contains("reload failed") && line.contains("nonsense"), "{line}");
    scene.is_lively()
}

#[test]
fn certificate_that_hangs_at_reload_is_waited_for() -> Outcome<()> {
    let Some(stuck) = StuckFs::mount()? else { return Ok(()) };
    let mut scene = Scene::start(Setup::following(PROGRAM)?)?;
    let file = scene.setup.directory().join("cert.pem");
    move_there(&file, &stuck, "cert.pem")?;
    stuck.hang("cert.pem");
    let named = scene.setup.file();
    scene.reload_hangs(&stuck, &named)
}

#[test]
fn rules_that_hang_at_reload_are_waited_for() -> Outcome<()> {
    let Some(stuck) = StuckFs::mount()? else { return Ok(()) };
    fs::create_dir(stuck.source("rules"))?;
    let rules = format!("{:?}", stuck.path("rules"));
    let mut scene =
        Scene::start(Setup::following(PROGRAM)?.with("life_preserver.rules_dir", rules))?;
    stuck.hang("rules");
    let named = scene.setup.file();
    scene.reload_hangs(&stuck, &named)
}

#[test]
fn registered_keys_that_hang_hold_up_nothing() -> Outcome<()> {
    let Some(stuck) = StuckFs::mount()? else { return Ok(()) };
    let setup = Setup::following(PROGRAM)?.with("store.deadline", r#""500ms""#);
    let mut scene = Scene::start(setup)?;
    let person = Person::new(PROGRAM)?;
    person.register(&scene.setup, "root")?;
    until("the key is registered", || {
        let mut peer = Peer::local(&scene.daemon).unwrap();
        peer.request("rpc", "status", &json!({})).unwrap()["keys"] == 1
    });
    fs::create_dir(stuck.source("keys"))?;
    move_there(&scene.setup.directory().join("state/keys"), &stuck, "keys/keys")?;
    stuck.hang("keys");
    scene.daemon.signal(support::Signal::SIGHUP)?;
    until("the keys are asked for", || stuck.is_waited_for());
    let mut peer = Peer::connect(&scene.daemon, Transport::Tls)?;
    peer.request("rpc", "identify", &json!(""))?;
    let store = |daemon: &Daemon| -> Value {
        let mut peer = Peer::local(daemon).unwrap();
        peer.request("rpc", "status", &json!({})).unwrap()["store"].take()
    };
    let well = store(&scene.daemon);
    until("status says so", || store(&scene.daemon).to_string().contains("does not answer"));
    append(&scene.setup.log(), snapshot(scene.count))?;
    assert_eq!(scene.reader.message()?, snapshot_message(scene.count));
    scene.count += 1;
    stuck.release();
    until("the store answers again", || store(&scene.daemon)["state"] == well["state"]);
    scene.is_lively()
}

#[test]
fn key_of_link_that_hangs_holds_up_nothing() -> Outcome<()> {
    let Some(stuck) = StuckFs::mount()? else { return Ok(()) };
    let bridge = Bridge::start()?;
    // A first daemon makes the key.
    let setup = Setup::following(PROGRAM)?.with("bridge.shortest_pause", r#""100ms""#);
    let linked = setup.clone().with_lines(&bridge.link("office"));
    linked.start()?.stop()?;
    let mut scene = Scene::start(setup)?;
    let key = scene.setup.directory().join("state/link-key.pem");
    move_there(&key, &stuck, "link-key.pem")?;
    stuck.hang("link-key.pem");
    linked.write()?;
    scene.daemon.reload()?;
    wait_until_named(&scene.daemon, &key);
    scene.is_lively()?;
    stuck.release();
    wait_until_none(&scene.daemon);
    until("the link is there", || {
        let mut peer = Peer::local(&scene.daemon).unwrap();
        peer.request("rpc", "status", &json!({})).unwrap()["links"][0]["state"] == "connected"
    });
    scene.is_lively()
}

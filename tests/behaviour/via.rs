//! Commands to a host behind a relay.

use std::fs;

use serde_json::{Value, json};
use support::Sites as Places;
use support::{Bridge, Cli, Daemon, Outcome, Peer, Person, Setup, Signal, register_server, until};

use super::{PROGRAM, ourselves};

/// A server behind a relay, and a person with full access to it.
struct Scene {
    bridge: Bridge,
    daemon: Daemon,
    person: Person,
}

impl Scene {
    fn new() -> Outcome<Scene> {
        let (bridge, person) = (Bridge::start()?, Person::new(PROGRAM)?);
        let setup = Setup::new(PROGRAM)?.with("bridge.shortest_pause", r#""100ms""#);
        let setup = setup.with("auth.pam", false).with_lines(&bridge.link("office"));
        let daemon = setup.start()?;
        person.register(&setup, &ourselves().0)?;
        bridge.wait_for_servers(1);
        Ok(Scene { bridge, daemon, person })
    }

    fn via(&self, command: &str) -> Cli {
        let bridge = (self.bridge.url(), self.bridge.fingerprint());
        let cli = self.person.via(command, (&bridge.0, bridge.1), &hostname());
        cli.args(["--fingerprint", self.daemon.fingerprint()])
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

#[test]
fn commands_work_through_a_bridge_as_on_the_host() {
    let scene = Scene::new().unwrap();
    let identity = scene.via("call").args(["rpc", "identify"]).run().unwrap();
    assert_eq!(identity.code(), 0, "{}", identity.err);
    let identity: Value = serde_json::from_str(&identity.out).unwrap();
    assert_eq!((&identity["type"], &identity["hostname"]), (&"server".into(), &hostname().into()));

    // With a token of that host instead of the key, which is then used for the relay only.
    let token = scene.daemon.directory().join("token");
    fs::write(&token, Peer::token(&scene.daemon).unwrap()).unwrap();
    let query = scene.via("call").arg("--token-file").arg(&token).args(["rpc", "query"]);
    let queried = query.run().unwrap();
    assert_eq!(queried.code(), 0, "{}", queried.err);

    let ran = scene.via("run").args(["--id", "j", "echo hello", "sh -c 'exit 3'"]).run().unwrap();
    assert_eq!((ran.code(), ran.out.as_str()), (3, "hello\n"), "{}", ran.err);
    let jobs = scene.via("jobs").arg("--json").run().unwrap();
    assert!(jobs.out.contains("\"j\""), "{}{}", jobs.out, jobs.err);
    let log = scene.via("log").arg("j").run().unwrap();
    assert_eq!(log.out, "hello\n", "{}", log.err);
    let status = scene.via("status").arg("--json").run().unwrap();
    let status: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["links"][0]["state"], "connected");
    let (detach, sleep) = ("--detach", "sleep 100");
    assert_eq!(scene.via("run").args(["--id", "s", detach, sleep]).run().unwrap().code(), 0);
    let killed = scene.via("kill").arg("s").run().unwrap();
    assert_eq!(killed.code(), 0, "{}", killed.err);
}

/// A server behind the real bridge, and somebody who may do all on it.
pub(super) struct Sites {
    bridge_setup: Setup,
    bridge: Option<Daemon>,
    server_setup: Setup,
    server: Option<Daemon>,
    person: Person,
    /// The bridge's.
    fingerprint: String,
}

impl Sites {
    pub(super) fn new() -> Outcome<Sites> {
        let mut bridge_setup = Setup::bridge(PROGRAM)?;
        let bridge = bridge_setup.start()?;
        // Its final address.
        let address = bridge.tls().to_owned();
        bridge_setup.set("relay.listen", format!("[{address:?}]"));
        let fingerprint = bridge.fingerprint().to_owned();
        let server_setup = Setup::new(PROGRAM)?
            .with("auth.pam", false)
            .with("bridge.shortest_pause", r#""100ms""#)
            .with("bridge.longest_pause", r#""300ms""#)
            .with("bridge.refused_pause", r#""100ms""#);
        let link = format!(
            "[[bridge.link]]\nname = \"office\"\nurl = \"wss://{address}\"\nfingerprint = \"{fingerprint}\"\n"
        );
        let server_setup = server_setup.with_lines(&link);
        let server = server_setup.start()?;
        let person = Person::new(PROGRAM)?;
        person.register(&server_setup, &ourselves().0)?;
        person.register_at_bridge(&bridge_setup, "me")?;
        register_server(PROGRAM, &server_setup, &bridge_setup, "nas")?;
        person.knows_daemon(&hostname(), &server)?;
        let (bridge, server) = (Some(bridge), Some(server));
        let sites = Sites { bridge_setup, bridge, server_setup, server, person, fingerprint };
        sites.wait_for_link();
        Ok(sites)
    }

    pub(super) fn server(&self) -> &Daemon {
        self.server.as_ref().unwrap()
    }

    fn bridge(&self) -> &Daemon {
        self.bridge.as_ref().unwrap()
    }

    fn link(&self) -> Value {
        let mut peer = Peer::local(self.server()).unwrap();
        peer.request("rpc", "status", &json!({})).unwrap()["links"][0].take()
    }

    fn wait_for_link(&self) {
        until("the link is there", || self.link()["state"] == "connected");
    }

    pub(super) fn via(&self, command: &str) -> Cli {
        let url = format!("wss://{}", self.bridge().tls());
        self.person.via(command, (&url, &self.fingerprint), &hostname())
    }

    /// Kills and restarts the relay, and waits for the server's link.
    fn restart_bridge(&mut self) -> Outcome<()> {
        self.bridge.take().ok_or("no bridge")?.crash()?;
        until("the link is lost", || self.link()["state"] != "connected");
        self.bridge = Some(self.bridge_setup.start()?);
        self.wait_for_link();
        Ok(())
    }

    pub(super) fn restart_server(&mut self) -> Outcome<()> {
        self.server.take().ok_or("no server")?.crash()?;
        self.server = Some(self.server_setup.start()?);
        self.wait_for_link();
        Ok(())
    }
}

/// Output of a job in received events: the chunks of the running events, and the whole at its end.
fn received(frames: &[String], job: &str, command: &str) -> (String, Vec<String>) {
    let (mut pieces, mut whole) = (String::new(), Vec::new());
    for frame in frames.iter().map(|frame| serde_json::from_str::<Value>(frame).unwrap()) {
        let args = &frame["args"];
        if args["process_id"] != job {
            continue;
        }
        let text = args[command].as_str().unwrap_or_default();
        match args["state"].as_str().unwrap() {
            "finished" => whole.push(text.to_owned()),
            _ => pieces.push_str(text),
        }
    }
    (pieces, whole)
}

#[test]
fn run_and_watch_survive_a_relay_restart_without_loss() {
    let mut sites = Sites::new().unwrap();
    let over = sites.server_setup.directory().join("over");
    let loop_ = format!(
        "i=0; while [ ! -e {} ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo over",
        over.display()
    );
    let command = format!("sh -c '{loop_}'");
    let watch = sites.via("watch").args(["dispatcher", "--json"]).start().unwrap();
    let run = sites.via("run").args(["--id", "j", &command]).start().unwrap();
    run.out.wait("5").unwrap();
    watch.out.wait(r#""state":"running""#).unwrap();
    for _ in 0..20 {
        sites.restart_bridge().unwrap();
    }
    fs::write(&over, "").unwrap();
    let ran = run.wait().unwrap();
    assert_eq!(ran.code(), 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    let count = lines.len() - 1;
    let wanted: Vec<String> = (1..=count).map(|n| n.to_string()).chain(["over".into()]).collect();
    assert_eq!(lines, wanted);
    let told_of = |error| format!("{error}\n{}", watch.err.lines().join("\n"));
    watch.out.wait(r#""state":"finished""#).map_err(told_of).unwrap();
    let frames = watch.out.lines();
    let (pieces, whole) = received(&frames, "j", &command);
    assert_eq!(whole, [ran.out.as_str()], "the end is told once, and whole");
    assert!(ran.out.starts_with(&pieces), "{pieces}");
    assert!(frames.iter().all(|frame| !frame.contains(r#""name":"gap""#)));
    watch.signal(Signal::SIGTERM).unwrap();
    let watched = watch.wait().unwrap();
    assert!(watched.err.contains("connected again"), "{}", watched.err);
}

#[test]
fn watch_continues_after_the_server_was_killed() {
    let mut sites = Sites::new().unwrap();
    let watch = sites.via("watch").args(["--json"]).start().unwrap();
    watch.out.wait("system_state").unwrap();
    assert_eq!(sites.via("run").args(["--id", "a", "true"]).run().unwrap().code(), 0);
    let (_, from) = watch.out.wait_from(0, r#""state":"finished""#).unwrap();
    for id in ["b", "c"] {
        sites.restart_server().unwrap();
        let ran = sites.via("run").args(["--id", id, "echo more"]).run().unwrap();
        assert_eq!((ran.code(), ran.out.as_str()), (0, "more\n"), "{}", ran.err);
    }
    // Another run of the daemon: missed events are not available, which is reported.
    let (_, from) = watch.out.wait_from(from, r#""name":"gap""#).unwrap();
    watch.out.wait_from(from, r#""process_id":"c""#).unwrap();
    watch.signal(Signal::SIGTERM).unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_client_that_vanishes_loses_its_session() {
    let sites = Sites::new().unwrap();
    let watch = sites.via("watch").args(["--json"]).start().unwrap();
    let is_there = || sites.link()["clients"].as_array().unwrap().len();
    watch.out.wait("system_state").unwrap();
    assert_eq!(is_there(), 1);
    assert_eq!(sites.link()["clients"][0]["user"], ourselves().0.as_str());
    watch.signal(Signal::SIGKILL).unwrap();
    watch.wait().unwrap();
    until("the session ends", || is_there() == 0);
    let mut peer = Peer::local(sites.server()).unwrap();
    // The connections that asked before may not have ended yet.
    until("only the asking client is left", || {
        let status = peer.request("rpc", "status", &json!({})).unwrap();
        status["clients"].as_array().unwrap().len() == 1
    });
}

#[test]
fn a_key_that_is_revoked_ends_its_sessions() {
    let sites = Sites::new().unwrap();
    let watch = sites.via("watch").args(["--json"]).start().unwrap();
    watch.out.wait("system_state").unwrap();
    let key = sites.person.key_id().unwrap();
    let revoke = Cli::of(PROGRAM, "key").args(["revoke", &ourselves().0, &key, "-c"]);
    let revoked = revoke.arg(sites.server_setup.file()).run().unwrap();
    assert_eq!(revoked.code(), 0, "{}", revoked.err);
    let watched = watch.wait().unwrap();
    assert_eq!(watched.code(), 77, "{}", watched.err);
    assert!(watched.err.contains("revoked"), "{}", watched.err);
}

/// One more server behind the relay, which the person may use.
fn another(sites: &Sites, name: &str) -> Outcome<(Setup, Daemon)> {
    let link = format!(
        "[[bridge.link]]\nname = \"office\"\nurl = \"wss://{}\"\nfingerprint = \"{}\"\n",
        sites.bridge().tls(),
        sites.fingerprint
    );
    let setup = Setup::new(PROGRAM)?.with("auth.pam", false).with_lines(&link);
    let setup = setup.with("bridge.refused_pause", r#""100ms""#);
    let daemon = setup.start()?;
    sites.person.register(&setup, &ourselves().0)?;
    register_server(PROGRAM, &setup, &sites.bridge_setup, name)?;
    Ok((setup, daemon))
}

#[test]
fn watch_at_a_bridge_follows_all_hosts_that_are_known() {
    let mut sites = Sites::new().unwrap();
    let (beta_setup, beta) = another(&sites, "beta").unwrap();
    let (_, unknown_host) = another(&sites, "gamma").unwrap();
    let (one, two) = (sites.server().fingerprint(), beta.fingerprint());
    sites.person.knows(&format!("alpha:12150 {one}\nbeta {two}\n")).unwrap();
    let url = format!("wss://{}", sites.bridge().tls());
    let watch = sites.person.at("watch", &url).args(["--fingerprint", &sites.fingerprint]);
    let watch = watch.args(["dispatcher", "--json"]).start().unwrap();
    for host in ["alpha", "beta"] {
        watch
            .out
            .wait(&format!(r#"{{"host":"{host}","namespace":"fleet","name":"joined"}}"#))
            .unwrap();
    }
    let unknown = watch.err.wait("is not known").unwrap();
    assert!(unknown.contains(unknown_host.fingerprint()), "{unknown}");
    // The same job on both is distinguished.
    for daemon in [sites.server(), &beta] {
        let ran = Cli::to(daemon, "run").args(["--id", "j", "echo hello"]).run().unwrap();
        assert_eq!(ran.code(), 0, "{}", ran.err);
    }
    let finished = |host: &str, from: usize| {
        let mut next = from;
        loop {
            let (line, after) = watch.out.wait_from(next, r#""state":"finished""#).unwrap();
            next = after;
            let frame: Value = serde_json::from_str(&line).unwrap();
            if frame["host"] == host {
                assert_eq!(frame["args"]["echo hello"], "hello\n");
                return;
            }
        }
    };
    finished("alpha", 0);
    finished("beta", 0);
    // One disconnects and reconnects.
    let from = watch.out.lines().len();
    beta.stop().unwrap();
    let (_, from) =
        watch.out.wait_from(from, r#"{"host":"beta","namespace":"fleet","name":"left"}"#).unwrap();
    let beta = beta_setup.start().unwrap();
    let (_, from) = watch
        .out
        .wait_from(from, r#"{"host":"beta","namespace":"fleet","name":"joined"}"#)
        .unwrap();
    let ran = Cli::to(&beta, "run").args(["--id", "k", "echo hello"]).run().unwrap();
    assert_eq!(ran.code(), 0, "{}", ran.err);
    finished("beta", from);
    // The relay restarts, and events meanwhile are reported.
    let from = watch.out.lines().len();
    sites.bridge.take().unwrap().crash().unwrap();
    watch.err.wait("reconnecting").unwrap();
    let ran = Cli::to(sites.server(), "run").args(["--id", "m", "echo hello"]).run().unwrap();
    assert_eq!(ran.code(), 0, "{}", ran.err);
    sites.bridge = Some(sites.bridge_setup.start().unwrap());
    finished("alpha", from);
    watch.signal(Signal::SIGTERM).unwrap();
    let watched = watch.wait().unwrap();
    let gaps: Vec<&str> = watched.out.lines().filter(|it| it.contains(r#""name":"gap""#)).collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0].starts_with(r#"{"host":"beta","#), "only beta was started anew: {gaps:?}");
}

#[test]
fn host_at_an_isolated_site_is_reached_through_the_relay() {
    let Some(places) = Places::new() else { return };
    let [first, second] = Places::BETWEEN;
    let bridge_setup = Setup::bridge(PROGRAM)
        .unwrap()
        .with("relay.listen", format!(r#"["{first}:0", "{second}:0"]"#))
        .under(places.between());
    let bridge = bridge_setup.start().unwrap();
    let address = |outside: &str| {
        let (line, _) =
            bridge.log().wait_from(0, &format!("listening on wss://{outside}:")).unwrap();
        line.rsplit('/').next().unwrap().to_owned()
    };
    let link = format!(
        "[[bridge.link]]\nname = \"office\"\nurl = \"wss://{}\"\nfingerprint = \"{}\"\n",
        address(first),
        bridge.fingerprint()
    );
    // It listens nowhere but on its local socket.
    let server_setup = Setup::new(PROGRAM)
        .unwrap()
        .with("auth.pam", false)
        .with("server.listen", "[]")
        .with("server.listen_plain", "[]")
        .with("bridge.refused_pause", r#""100ms""#)
        .with_lines(&link)
        .under(places.inside("1"));
    let server = server_setup.launch().unwrap();
    let line = server.log().wait("certificate sha256 ").unwrap();
    let fingerprint = line.split("sha256 ").nth(1).unwrap();
    let person = Person::new(PROGRAM).unwrap();
    person.register(&server_setup, &ourselves().0).unwrap();
    person.register_at_bridge(&bridge_setup, "me").unwrap();
    register_server(PROGRAM, &server_setup, &bridge_setup, "nas").unwrap();
    server.log().wait("link office: connected").unwrap();
    let [ip, netns, exec, site] = places.inside("2");
    let run = Cli::of(ip, &netns).args([&*exec, &*site, PROGRAM, "run", "--via", &*hostname()]);
    let run =
        run.args(["--url", &*format!("wss://{}", address(second)), "--key"]).arg(person.key());
    let run =
        run.args(["--bridge-fingerprint", bridge.fingerprint(), "--fingerprint", fingerprint]);
    let ran = run.args(["cat /sys/class/net/way/address", "sh -c 'exit 5'"]).run().unwrap();
    assert_eq!(ran.code(), 5, "{}", ran.err);
    // The other end of the first site's link, visible only to a job there.
    let [ip, netns, exec, site] = places.inside("1");
    let there = Cli::of(ip, &netns).args([&*exec, &*site, "cat", "/sys/class/net/way/address"]);
    assert_eq!(ran.out, there.run().unwrap().out);
}

#[test]
fn fleet_is_shown_on_one_terminal_screen() {
    let sites = Sites::new().unwrap();
    let (_, beta) = another(&sites, "beta").unwrap();
    let (one, two) = (sites.server().fingerprint(), beta.fingerprint());
    sites.person.knows(&format!("alpha {one}\nb {two}\n")).unwrap();
    let url = format!("wss://{}", sites.bridge().tls());
    let watch = sites.person.at("watch", &url).args(["--fingerprint", &sites.fingerprint]);
    let watch = watch.arg("dispatcher").env("TERM", "dumb").start_on_terminal().unwrap();
    for host in ["alpha  ", "b      "] {
        until("it is there", || {
            let lines = watch.out.lines();
            lines.iter().any(|line| line.starts_with(host) && line.contains("is there"))
        });
    }
    let ran = Cli::to(&beta, "run").args(["--id", "j", r"printf 'one\ntwo\n'"]).run().unwrap();
    assert_eq!(ran.code(), 0, "{}", ran.err);
    watch.out.wait("two").unwrap();
    let lines = watch.out.lines();
    let of_job = |line: &&String| line.contains("one") || line.contains("two");
    assert!(lines.iter().filter(of_job).all(|line| line.starts_with("b  ")), "{lines:#?}");
    watch.signal(Signal::SIGTERM).unwrap();
    watch.wait().unwrap();
}

#[test]
fn host_that_reconnects_early_stays_one_host() {
    let sites = Sites::new().unwrap();
    // Two hosts with one certificate are one for clients that identify it by that.
    let path = |name: &str| format!("{:?}", sites.server_setup.directory().join(name));
    let link = format!(
        "[[bridge.link]]\nname = \"office\"\nurl = \"wss://{}\"\nfingerprint = \"{}\"\n",
        sites.bridge().tls(),
        sites.fingerprint
    );
    let twin_setup = Setup::new(PROGRAM)
        .unwrap()
        .with("auth.pam", false)
        .with("server.certificate", path("cert.pem"))
        .with("server.private_key", path("key.pem"))
        .with("bridge.refused_pause", r#""100ms""#)
        .with_lines(&link);
    let twin = twin_setup.start().unwrap();
    sites.person.register(&twin_setup, &ourselves().0).unwrap();
    register_server(PROGRAM, &twin_setup, &sites.bridge_setup, "twin").unwrap();
    let url = format!("wss://{}", sites.bridge().tls());
    let watch = sites.person.at("watch", &url).args(["--fingerprint", &sites.fingerprint]);
    let watch = watch.arg("--json").start().unwrap();
    for daemon in [sites.server(), &twin] {
        daemon.log().wait("audit: authenticated").unwrap();
    }
    until("one of them is left", || {
        let sessions = [sites.server(), &twin].map(|daemon| {
            let mut peer = Peer::local(daemon).unwrap();
            let status = peer.request("rpc", "status", &json!({})).unwrap();
            status["links"][0]["clients"][0]["client"].is_u64()
        });
        sessions[0] != sessions[1]
    });
    watch.signal(Signal::SIGTERM).unwrap();
    let received = watch.wait().unwrap().out;
    assert_eq!(received.matches(r#""name":"joined""#).count(), 1, "{received}");
    assert_eq!(received.matches(r#""name":"left""#).count(), 0, "{received}");
}

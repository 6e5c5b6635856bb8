//! Host name and pools: when they are checked, and the handling of a misbehaving `zpool`.
//!
//! The `zpool` of these tests is a stand-in, a shell script, whose output a test determines. Real
//! ones are in `pools`.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, send,
    socket,
};
use serde_json::{Value, json};
use support::{Cli, Daemon, Outcome, PATIENCE, Peer, Process, Setup, Transport, skip};

use super::PROGRAM;

/// A client that subscribes to the state of the system.
pub(super) fn subscribed(daemon: &Daemon) -> Outcome<Peer> {
    let mut peer = Peer::local(daemon)?;
    peer.request("events", "subscribe", &json!(["system-state"]))?;
    Ok(peer)
}

/// The `args` of the next state.
pub(super) fn next_state(peer: &mut Peer) -> Outcome<Value> {
    let frames = peer.frames_until(|frame| frame["name"] == "system_state")?;
    Ok(frames.last().map_or(Value::Null, |frame| frame["args"].clone()))
}

/// Sends other requests for a while; each reply must come without delay.
pub(super) fn answers_meanwhile(daemon: &Daemon) {
    let mut peer = Peer::local(daemon).unwrap();
    let mut times = Vec::new();
    let end = Instant::now() + Duration::from_millis(800);
    while Instant::now() < end {
        let asked = Instant::now();
        peer.request("rpc", "identify", &Value::Null).unwrap();
        times.push(asked.elapsed());
        peer.idle(Duration::from_millis(2)).unwrap();
    }
    times.sort();
    // A few milliseconds; the slowest may have waited for a processor, but for no `zpool`.
    assert!(times[times.len() / 2] < Duration::from_millis(10), "{times:?}");
    assert!(*times.last().unwrap() < Duration::from_millis(500), "{times:?}");
}

/// Waits until this number of checks has been made.
pub(super) fn await_checks(peer: &mut Peer, number: u64) {
    let patience = Instant::now() + PATIENCE;
    while status(peer)["checks"].as_u64().unwrap() < number {
        assert!(Instant::now() < patience, "{number} checks are not made");
        peer.idle(Duration::from_millis(10)).unwrap();
    }
}

/// Number of checks.
pub(super) fn checks(peer: &mut Peer) -> u64 {
    status(peer)["checks"].as_u64().unwrap()
}

/// A daemon whose `zpool` is a stand-in that reads its output from files.
struct StandIn {
    setup: Setup,
}

/// Output of `list` for two pools, in the form of OpenZFS 2.
fn pools(health: &str) -> String {
    ["tank", "my pool"]
        .map(|name| format!("{name}\t112M\t20.2M\t91.8M\t-\t-\t23%\t18%\t1.00x\t{health}\t-\n"))
        .concat()
}

impl StandIn {
    /// One that prints the files, has no events, and is checked once an hour.
    fn new() -> StandIn {
        let stand_in = StandIn::running(
            "case $1 in
             list) cat \"$d/list\" ;;
             status) cat \"$d/status\" ;;
             events) echo \"unrecognized command 'events'\" >&2; exit 2 ;;
             esac",
        );
        stand_in.says(&pools("ONLINE"));
        stand_in
    }

    /// One that is this script; `$d` is its directory.
    fn running(script: &str) -> StandIn {
        let setup = Setup::new(PROGRAM).unwrap();
        let path = setup.directory().join("zpool");
        let text = format!("#!/bin/sh\nd={}\n{script}\n", setup.directory().path().display());
        write_program(&path, &text);
        let setup = setup
            .with("system_state.zpool", format!("{path:?}"))
            .with("system_state.zpool_when", r#""always""#)
            .with("system_state.interval", r#""1h""#)
            .with("system_state.report_interval", r#""1h""#)
            .with("system_state.devd", r#""""#);
        let stand_in = StandIn { setup };
        stand_in.writes("status", "all pools are healthy\n");
        stand_in
    }

    fn with(mut self, key: &str, value: &str) -> StandIn {
        self.setup.set(&format!("system_state.{key}"), format!("{value:?}"));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.setup.directory().join(name)
    }

    /// Replaces the content of a file atomically.
    fn writes(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn says(&self, list: &str) {
        self.writes("list", list);
    }

    fn start(&self) -> (Daemon, Peer) {
        let daemon = self.setup.start().unwrap();
        let peer = subscribed(&daemon).unwrap();
        (daemon, peer)
    }
}

/// Writes a program without having it open here: a child forked by another test would hold it open
/// too, and then it cannot be run.
pub(super) fn write_program(path: &Path, text: &str) {
    let mut writer = Command::new("sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

fn check(daemon: &Daemon) {
    let mut peer = Peer::local(daemon).unwrap();
    peer.request("rpc", "system_state", &json!({"action": "check"})).unwrap();
}

fn status(peer: &mut Peer) -> Value {
    peer.request("rpc", "status", &Value::Null).unwrap()["system_state"].take()
}

#[test]
fn first_check_is_made_at_start_and_sent_to_later_clients() {
    let (_daemon, mut peer) = StandIn::new().start();
    let state = next_state(&mut peer).unwrap();
    assert_eq!(state["zpools"]["my pool"]["altroot"], "-");
    assert_eq!(state["zpools"]["tank"]["priority"], "0 - Information");
    assert_eq!(state["priority"], "0 - Information");
    assert!(!state["hostname"].as_str().unwrap().is_empty());
    assert_eq!((state.get("hostnamechanged"), state.get("zpool_error")), (None, None));
    let status = status(&mut peer);
    assert_eq!((&status["source"], &status["zpools"]), (&json!("zpool list"), &state["zpools"]));
    assert!(status["age"].as_u64().unwrap() < 60 && status["read"].is_string(), "{status}");
}

#[test]
fn a_check_can_be_asked_for() {
    let stand_in = StandIn::new();
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    stand_in.says(&pools("DEGRADED"));
    check(&daemon);
    assert_eq!(next_state(&mut peer).unwrap()["zpools"]["tank"]["health"], "DEGRADED");
    // Nothing has changed: a check, and no event.
    let first = checks(&mut peer);
    check(&daemon);
    await_checks(&mut peer, first + 1);
    stand_in.says("");
    let asked = Cli::to(&daemon, "call")
        .args(["rpc", "system_state", r#"{"action": "check"}"#])
        .run()
        .unwrap();
    assert_eq!(asked.code(), 0, "{}", asked.err);
    assert_eq!(next_state(&mut peer).unwrap()["zpools"], json!({}));

    let refused = peer.refused("rpc", "system_state", &json!({"action": "explode"})).unwrap();
    assert_eq!(refused.code, 400);
    assert!(refused.message.ends_with("there are check"), "{}", refused.message);
    let may = peer.request("rpc", "query", &Value::Null).unwrap();
    assert_eq!(may["rpc/system_state"], "read");
    let mut unauthenticated = Peer::connect(&daemon, Transport::Plain).unwrap();
    let refused =
        unauthenticated.refused("rpc", "system_state", &json!({"action": "check"})).unwrap();
    assert_eq!(refused.code, 401);
}

/// Output of `zpool status` for a pool that is ONLINE, with these lines before its table.
fn page(pool: &str, lines: &str) -> String {
    format!(
        "  pool: {pool}\n state: ONLINE\n{lines}config:\n\n\tNAME        STATE     READ WRITE CKSUM\n\t\
         {pool:<10}  ONLINE       0     0     0\n\t  /no/disk  ONLINE       0     0     0\n\n\
         errors: No known data errors\n"
    )
}

#[test]
fn pool_with_only_a_remark_is_at_most_a_warning() {
    let stand_in = StandIn::new();
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    for (status, see) in [
        ("Mismatch between pool hostid and system hostid on imported pool.", "ZFS-8000-EY"),
        ("One or more devices are configured to use a non-native block size.", ""),
        ("The pool is formatted using a legacy on-disk format.  The pool can\n\tstill be used", ""),
        ("Some supported and requested features are not enabled on the pool.", ""),
        ("One or more devices is currently being resilvered.  The pool will", ""),
    ] {
        let see = format!("   see: https://openzfs.github.io/openzfs-docs/msg/{see}\n");
        let lines = format!("status: {status}\naction: Do\n\tsomething.\n{see}");
        stand_in.writes("status", &page("my pool", &lines));
        check(&daemon);
        let state = next_state(&mut peer).unwrap();
        let pool = &state["zpools"]["my pool"];
        let priority = pool["priority"].as_str().unwrap();
        assert!("0123".contains(&priority[..1]), "{status}: {priority}");
        assert_eq!(
            (&state["priority"], &pool["action"]),
            (&pool["priority"], &json!("Do something."))
        );
    }
    // The same pool, with an error counted; its device is named, here and for people.
    let counted = page("my pool", "")
        .replace("/no/disk  ONLINE       0     0     0", "/no/disk  ONLINE       0     0    17");
    stand_in.writes("status", &counted);
    check(&daemon);
    let state = next_state(&mut peer).unwrap();
    let pool = &state["zpools"]["my pool"];
    assert_eq!(pool["priority"], "7 - Critical");
    assert_eq!(
        pool["devices"],
        json!([{"name": "/no/disk", "state": "ONLINE", "read": "0", "write": "0", "cksum": "17"}])
    );
    let shown = Cli::to(&daemon, "status").run().unwrap().out;
    assert!(shown.contains("/no/disk ONLINE 0/0/17"), "{shown}");
}

#[test]
fn suspended_pool_is_urgent_with_any_health() {
    let stand_in = StandIn::new();
    let lines = "status: One or more devices are faulted in response to IO failures.\n   \
                 see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-JQ\n";
    stand_in.writes("status", &page("tank", lines));
    let (_daemon, mut peer) = stand_in.start();
    let state = next_state(&mut peer).unwrap();
    assert_eq!(state["zpools"]["tank"]["health"], "ONLINE");
    assert_eq!(state["zpools"]["tank"]["priority"], "9 - Urgent");
    assert_eq!(state["zpools"]["my pool"]["priority"], "0 - Information");
}

#[test]
fn scrub_with_errors_is_critical_at_its_end() {
    let stand_in = StandIn::new();
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    let mut scan = |line: &str| {
        stand_in
            .writes("status", &page("tank", &format!("  scan: {line} Mon Nov 23 18:11:47 2026\n")));
        check(&daemon);
        next_state(&mut peer).unwrap()
    };
    let begun = scan("scrub in progress since");
    assert_eq!(begun["zpools"]["tank"]["scan"]["state"], "running");
    assert_eq!(begun["priority"], "0 - Information");
    let ended = scan("scrub repaired 4K in 00:10:00 with 2 errors on");
    let scan = &ended["zpools"]["tank"]["scan"];
    assert_eq!((&scan["repaired"], &scan["errors"]), (&json!("4K"), &json!("2")));
    assert_eq!((&scan["state"], &ended["priority"]), (&json!("finished"), &json!("7 - Critical")));
}

#[test]
fn vanished_pool_is_critical_until_it_is_back() {
    let stand_in = StandIn::new();
    stand_in.writes("status", &(page("tank", "") + "\n" + &page("my pool", "")));
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    let both = pools("ONLINE");
    stand_in.says(both.lines().next_back().map(|line| format!("{line}\n")).unwrap().as_str());
    check(&daemon);
    let state = next_state(&mut peer).unwrap();
    let gone = json!({"how": "vanished", "health": "ONLINE", "priority": "7 - Critical"});
    assert_eq!(
        (&state["zpools_gone"]["tank"], &state["priority"]),
        (&gone, &json!("7 - Critical"))
    );
    let mut late = subscribed(&daemon).unwrap();
    assert_eq!(next_state(&mut late).unwrap()["zpools_gone"]["tank"], gone);
    let shown = Cli::to(&daemon, "status").run().unwrap().out;
    assert!(shown.contains("vanished"), "{shown}");
    stand_in.says(&both);
    check(&daemon);
    let state = next_state(&mut peer).unwrap();
    assert_eq!((state.get("zpools_gone"), &state["priority"]), (None, &json!("0 - Information")));
}

#[test]
fn pool_exported_as_an_event_says_is_news_of_priority_1() {
    let stand_in = with_events();
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    // Opens when the follower does.
    let mut events = fs::OpenOptions::new().write(true).open(stand_in.path("events")).unwrap();
    daemon.log().wait("pools are checked when zpool events reports a change").unwrap();
    stand_in.says(&pools("ONLINE").lines().next().map(|line| format!("{line}\n")).unwrap());
    events.write_all(b"Nov 23 2026 18:09:22.623999690\tsysevent.fs.zfs.pool_export\n").unwrap();
    let state = next_state(&mut peer).unwrap();
    let gone =
        json!({"my pool": {"how": "exported", "health": "ONLINE", "priority": "1 - Information"}});
    assert_eq!((&state["zpools_gone"], &state["priority"]), (&gone, &json!("1 - Information")));
    // Later clients do not get the news.
    let state = next_state(&mut subscribed(&daemon).unwrap()).unwrap();
    assert_eq!((state.get("zpools_gone"), &state["priority"]), (None, &json!("0 - Information")));
}

#[test]
fn zfs_that_refuses_the_user_is_reported_once() {
    let stand_in = StandIn::running(
        "echo 'Permission denied the ZFS utilities must be run as root.' >&2; exit 1",
    );
    let (daemon, mut peer) =
        stand_in.with("report_interval", "100ms").with("interval", "100ms").start();
    let refused = next_state(&mut peer).unwrap();
    assert!(refused["zpool_error"].as_str().unwrap().contains("must be run as root"), "{refused}");
    for _ in 0..3 {
        assert_eq!(next_state(&mut peer).unwrap()["priority"], "0 - Information");
    }
    let of = |line: &&String| line.contains("must be run as root");
    assert_eq!(daemon.log().lines().iter().filter(of).count(), 1);
}

#[test]
fn a_sighup_makes_a_check_under_the_new_limits() {
    let mut stand_in = StandIn::new();
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    stand_in.setup.set("system_state.capacity_warning", 17);
    stand_in.setup.write().unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    let state = next_state(&mut peer).unwrap();
    assert_eq!(state["zpools"]["tank"]["priority"], "6 - Critical");
    // A file with an error changes nothing, and does not prevent the check.
    stand_in.says("");
    stand_in.setup.set("system_state.capacity_warning", 1000);
    stand_in.setup.write().unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    assert_eq!(next_state(&mut peer).unwrap()["zpools"], json!({}));
    daemon.log().wait("reload failed").unwrap();
}

#[test]
fn without_zpool_there_are_no_pools_and_no_error() {
    let no_zfs = |daemon: &Daemon| {
        let state = next_state(&mut subscribed(daemon).unwrap()).unwrap();
        assert_eq!((state.get("zpools"), state.get("zpool_error")), (None, None));
        assert_eq!(state["priority"], "0 - Information");
        let shown = Cli::to(daemon, "status").run().unwrap().out;
        assert!(shown.contains("pools     no ZFS here"), "{shown}");
    };
    let stand_in = StandIn::new();
    fs::remove_file(stand_in.path("zpool")).unwrap();
    no_zfs(&stand_in.setup.start().unwrap());
    // A name is looked up, and is not found.
    let nowhere = StandIn::new().with("zpool", "no-such-zpool");
    no_zfs(&nowhere.setup.start().unwrap());
    // Neither its module nor its node.
    for said in [
        "The ZFS modules cannot be auto-loaded.\nTry running 'modprobe zfs' as root to manually load them.",
        "connect: No such file or directory\nPlease make sure that the zfs-fuse daemon is running.",
    ] {
        let stand_in = StandIn::running(&format!("echo \"{said}\" >&2; exit 1"));
        no_zfs(&stand_in.setup.start().unwrap());
    }
}

#[test]
fn where_zfs_is_not_loaded_zpool_is_not_run() {
    let stand_in = StandIn::running("touch \"$d/was-run\"").with("zpool_when", "loaded");
    let is_fuse = Path::new("/run/zfs/zfs_socket").exists();
    let may_hide = nix::unistd::geteuid().is_root();
    if Path::new("/dev/zfs").exists() || is_fuse && !may_hide {
        return skip("ZFS is loaded here");
    }
    // A zfs-fuse is out of sight where there is another /run.
    let hide = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";
    let hidden = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide];
    let setup = stand_in.setup.clone().under(hidden.into_iter().filter(|_| is_fuse));
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    assert_eq!(next_state(&mut peer).unwrap().get("zpools"), None);
    check(&daemon);
    await_checks(&mut peer, 2);
    assert!(!stand_in.path("was-run").exists());
}

#[test]
fn failing_zpool_is_reported_with_its_message() {
    for (script, error) in [
        ("exit 7", "zpool list ended with code 7"),
        ("cat \"$d/list\"; kill -9 $$", "zpool list was ended by signal 9"),
        (
            "echo 'POOL   HOW   MUCH'; echo 'tank   FINE  ALL'",
            "zpool list printed what cannot be read: line 1: 1 columns, not 11, in \"POOL   HOW   MUCH\"",
        ),
        (
            "head -c 20 \"$d/list\"",
            "zpool list printed what cannot be read: the last line breaks off",
        ),
        ("[ \"$1\" = list ] && cat \"$d/list\" || exit 3", "zpool status ended with code 3"),
    ] {
        let stand_in = StandIn::running(script);
        stand_in.says(&pools("ONLINE"));
        let (_daemon, mut peer) = stand_in.start();
        let state = next_state(&mut peer).unwrap();
        assert_eq!(state["zpool_error"], error);
        assert_eq!(state["priority"], "9 - Urgent");
    }
    let stand_in = StandIn::new();
    stand_in.says(&pools("ONLINE"));
    let zpool = stand_in.path("zpool");
    let (daemon, mut peer) = stand_in.start();
    let before = next_state(&mut peer).unwrap();
    fs::rename(&zpool, stand_in.path("away")).unwrap();
    fs::create_dir(&zpool).unwrap();
    check(&daemon);
    let state = next_state(&mut peer).unwrap();
    let error = state["zpool_error"].as_str().unwrap();
    assert!(error.starts_with("zpool list could not be started: Permission denied"), "{error}");
    assert_eq!(state["zpools"], before["zpools"], "what was last known");
    fs::remove_dir(&zpool).unwrap();
    fs::rename(stand_in.path("away"), &zpool).unwrap();
    check(&daemon);
    assert_eq!(next_state(&mut peer).unwrap(), before);
}

#[test]
fn hanging_zpool_blocks_nothing() {
    // It records its process, and has a child that holds its pipe.
    let stand_in = StandIn::running("sleep 1000 & echo $$ $! >>\"$d/pids\"; wait")
        .with("zpool_deadline", "500ms")
        .with("interval", "300ms");
    let (daemon, mut peer) = stand_in.start();
    answers_meanwhile(&daemon);
    let state = next_state(&mut peer).unwrap();
    assert_eq!(state["zpool_error"], "zpool list did not answer within 500ms");
    assert_eq!((&state["priority"], state.get("zpools")), (&json!("9 - Urgent"), None));
    // The checks continue, one process at a time, and unchanged results are not published.
    let seq = |peer: &mut Peer| peer.request("rpc", "status", &Value::Null).unwrap()["seq"].clone();
    let received = seq(&mut peer);
    await_checks(&mut peer, 3);
    assert_eq!(seq(&mut peer), received);
    let pids = fs::read_to_string(stand_in.path("pids")).unwrap();
    let pids: Vec<Process> =
        pids.split_whitespace().map(|pid| Process(pid.parse().unwrap())).collect();
    let (before, last) = pids.split_at(pids.len() - 2);
    assert!(before.len() >= 4, "{pids:?}");
    for process in before {
        await_end(*process);
    }
    drop(peer);
    daemon.stop().unwrap();
    for process in last {
        await_end(*process);
    }
}

/// Waits until a process is gone.
fn await_end(process: Process) {
    let patience = Instant::now() + PATIENCE;
    while process.is_alive() {
        assert!(Instant::now() < patience, "process {} is still there", process.0);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_zpool_that_floods_is_ended_at_its_limit() {
    let stand_in = StandIn::running("exec yes 'a line without end'");
    let (daemon, mut peer) = stand_in.start();
    answers_meanwhile(&daemon);
    let state = next_state(&mut peer).unwrap();
    assert_eq!(state["zpool_error"], "zpool list printed more than 262144 bytes");
    let resident = daemon.process().resident().unwrap();
    assert!(resident < 64 << 20, "{resident} bytes");
    // Standard error is neither counted nor waited for.
    let stand_in =
        StandIn::running("exec yes 'a line without end' >&2").with("zpool_deadline", "1s");
    let (daemon, mut peer) = stand_in.start();
    answers_meanwhile(&daemon);
    let state = next_state(&mut peer).unwrap();
    assert_eq!(state["zpool_error"], "zpool list did not answer within 1s");
}

#[test]
fn slow_zpool_with_much_output_is_read_to_its_end() {
    // More than a pipe holds, in pieces.
    let stand_in = StandIn::running(
        "[ \"$1\" = list ] || exec cat \"$d/status\"
         n=0; while [ $n -lt 10 ]; do
             cat \"$d/list\" | sed \"s/^/$n-/\"; sleep 0.05; n=$((n + 1))
         done",
    );
    let row = |n: u32| {
        let altroot = "x".repeat(100);
        format!("pool{n:03}\t112M\t20.2M\t91.8M\t-\t-\t23%\t18%\t1.00x\tONLINE\t/{altroot}\n")
    };
    stand_in.says(&(0..80).map(row).collect::<String>());
    let (_daemon, mut peer) = stand_in.start();
    let state = next_state(&mut peer).unwrap();
    let received = state["zpools"].as_object().map(serde_json::Map::len);
    let left_out = state["zpools_left_out"].as_str().unwrap_or("0").parse::<usize>().unwrap();
    assert_eq!((received.unwrap() + left_out, state.get("zpool_error")), (800, None));
}

/// A fake devd: a socket to which a test writes kernel events.
struct Devd {
    listener: OwnedFd,
    client: Option<RawFd>,
    path: PathBuf,
}

impl Devd {
    fn at(path: PathBuf) -> Devd {
        let listener =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(4).unwrap()).unwrap();
        Devd { listener, client: None, path }
    }

    /// Waits for the daemon to connect.
    fn accept(&mut self) {
        self.client = Some(accept(self.listener.as_raw_fd()).unwrap());
    }

    fn sends(&self, packet: &str) {
        send(self.client.unwrap(), packet.as_bytes(), MsgFlags::MSG_NOSIGNAL).unwrap();
    }
}

impl Drop for Devd {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            let _ = nix::unistd::close(client);
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// As FreeBSD's kernel and OpenZFS compose it.
const FAULT: &str = "!system=ZFS subsystem=ZFS type=resource.fs.zfs.statechange  \
                     version=0 class=resource.fs.zfs.statechange pool=tank vdev_state=OFFLINE\n";

#[test]
fn devd_makes_a_check_without_waiting_for_the_timer() {
    let stand_in = StandIn::new();
    let path = stand_in.path("devd");
    let stand_in = stand_in.with("devd", path.to_str().unwrap());
    let mut devd = Devd::at(path);
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    devd.accept();
    // The timer is an hour away.
    daemon.log().wait("pools are checked when devd reports a change, and every 3600s").unwrap();
    assert_eq!(status(&mut peer)["woken_by"], "devd");
    let before = checks(&mut peer);
    devd.sends("!system=DEVFS subsystem=CDEV type=CREATE cdev=da1\n");
    devd.sends("!system=ZFS subsystem=ZFS type=sysevent.fs.zfs.history_event  pool=tank\n");
    stand_in.says(&pools("DEGRADED"));
    for _ in 0..50 {
        devd.sends(FAULT);
    }
    let state = next_state(&mut peer).unwrap();
    assert_eq!(state["zpools"]["tank"]["health"], "DEGRADED");
    assert_eq!(checks(&mut peer), before + 1, "fifty events, one check");
}

#[test]
fn devd_that_returns_is_found_again() {
    let stand_in = StandIn::new();
    let path = stand_in.path("devd");
    let stand_in = stand_in.with("devd", path.to_str().unwrap()).with("interval", "300ms");
    let (daemon, _peer) = stand_in.start();
    daemon.log().wait("every 300ms only: no devd, and zpool events ended with code 2").unwrap();
    let mut from = 0;
    for _ in 0..2 {
        let mut devd = Devd::at(path.clone());
        devd.accept();
        from = daemon.log().wait_from(from, "when devd reports a change").unwrap().1;
        drop(devd);
        from = daemon.log().wait_from(from, "pools are checked every 300ms only").unwrap().1;
    }
}

/// A stand-in whose `events` are the lines of a FIFO.
fn with_events() -> StandIn {
    let stand_in = StandIn::running(
        "case $1 in
         list) cat \"$d/list\" ;;
         status) cat \"$d/status\" ;;
         events) echo $$ >\"$d/follower\"; exec cat \"$d/events\" ;;
         esac",
    );
    stand_in.says(&pools("ONLINE"));
    nix::unistd::mkfifo(&stand_in.path("events"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    stand_in
}

#[test]
fn zpool_events_make_a_check_without_waiting_for_the_timer() {
    let stand_in = with_events();
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    // Opens when the follower does.
    let mut events = fs::OpenOptions::new().write(true).open(stand_in.path("events")).unwrap();
    daemon.log().wait("pools are checked when zpool events reports a change").unwrap();
    stand_in.says(&pools("DEGRADED"));
    let line = "Nov 23 2026 18:09:31.923999542\tresource.fs.zfs.statechange\n";
    events.write_all(line.as_bytes()).unwrap();
    let state = next_state(&mut peer).unwrap();
    assert_eq!(state["zpools"]["tank"]["health"], "DEGRADED");
    let before = checks(&mut peer);
    // Snapshots cause no event. The line after them shows that they were read.
    let history = "Nov 23 2026 18:09:32.5\tsysevent.fs.zfs.history_event\n".repeat(2000);
    events.write_all(history.as_bytes()).unwrap();
    stand_in.says("");
    events.write_all(line.as_bytes()).unwrap();
    assert_eq!(next_state(&mut peer).unwrap()["zpools"], json!({}));
    assert_eq!(checks(&mut peer), before + 1);
}

#[test]
fn ended_follower_is_restarted_and_none_survives_the_daemon() {
    let stand_in = with_events().with("interval", "300ms");
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    let open = || fs::OpenOptions::new().write(true).open(stand_in.path("events")).unwrap();
    let follower = || {
        let pid = fs::read_to_string(stand_in.path("follower")).unwrap();
        Process(pid.trim().parse().unwrap())
    };
    let events = open();
    let from = daemon.log().wait_from(0, "when zpool events reports a change").unwrap().1;
    let first = follower();
    drop(events);
    let from = daemon.log().wait_from(from, "every 300ms only, for now").unwrap().1;
    let _events = open();
    daemon.log().wait_from(from, "when zpool events reports a change").unwrap();
    let second = follower();
    assert_ne!(first.0, second.0);
    assert!(second.is_alive());
    daemon.crash().unwrap();
    await_end(second);
}

#[test]
fn events_without_end_cost_little() {
    // The behaviour of a pool whose only disk is gone: hundreds of events a second, for ever.
    let stand_in = StandIn::running(
        "case $1 in
         list) cat \"$d/list\" ;;
         status) cat \"$d/status\" ;;
         events) exec yes 'Nov 23 2026 18:09:31.9\tereport.fs.zfs.data' ;;
         esac",
    );
    stand_in.says(&pools("ONLINE"));
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    daemon.log().wait("when zpool events reports a change").unwrap();
    let (began, cpu) = (Instant::now(), daemon.process().cpu().unwrap());
    peer.idle(Duration::from_secs(3)).unwrap();
    let used = daemon.process().cpu().unwrap() - cpu;
    assert!(used < began.elapsed() / 2, "{used:?}");
    let number = checks(&mut peer);
    assert!(number < 8, "{number} checks");
    answers_meanwhile(&daemon);
}

#[test]
fn changed_host_name_is_reported_once() {
    if !nix::unistd::geteuid().is_root() || !cfg!(target_os = "linux") {
        return skip("a host name of its own needs Linux and root");
    }
    let stand_in = StandIn::new().with("interval", "300ms");
    let setup = stand_in.setup.clone().under(["unshare", "--uts"]);
    let daemon = setup.start().unwrap();
    let mut peer = subscribed(&daemon).unwrap();
    let before = next_state(&mut peer).unwrap();
    let namespace = format!("--uts=/proc/{}/ns/uts", daemon.process().0);
    let named = Command::new("nsenter").args([&namespace, "hostname", "renamed"]).status();
    assert!(named.unwrap().success());
    let mut renamed = next_state(&mut peer).unwrap();
    assert_eq!(renamed["hostname"], "renamed");
    assert_eq!(renamed["hostnamechanged"], "true");
    assert_eq!(
        (&renamed["hostname_was"], &renamed["priority"]),
        (&before["hostname"], &json!("3 - Warning"))
    );
    assert_eq!(renamed["zpools"], before["zpools"]);
    let identity = peer.request("rpc", "identify", &Value::Null).unwrap();
    assert_eq!(identity["hostname"], "renamed");
    // A later client knows no other name, so it is no news.
    let late = next_state(&mut subscribed(&daemon).unwrap()).unwrap();
    let args = renamed.as_object_mut().unwrap();
    args.remove("hostnamechanged");
    args.remove("hostname_was");
    args.insert("priority".to_owned(), json!("0 - Information"));
    assert_eq!(late, renamed);
    assert_ne!(nix::unistd::gethostname().unwrap(), "renamed");
}

#[test]
fn qt_client_gets_the_hyphenated_name() {
    let stand_in = StandIn::new();
    let daemon = stand_in.setup.start().unwrap();
    let mut peer =
        Peer::connect_with(&daemon, Transport::Unix, "Origin: sysadm-client\r\n").unwrap();
    peer.request("events", "subscribe", &json!(["system-state"])).unwrap();
    let frame = peer.frame().unwrap();
    assert_eq!((&frame["name"], &frame["id"]), (&json!("system-state"), &json!("none")));
    assert_eq!(frame["args"]["zpools"]["tank"]["health"], "ONLINE");
}

#[test]
fn between_checks_the_daemon_sleeps() {
    let stand_in = StandIn::new().with("interval", "200ms");
    let (daemon, mut peer) = stand_in.start();
    next_state(&mut peer).unwrap();
    daemon.log().wait("pools are checked every 200ms only").unwrap();
    let first = checks(&mut peer);
    let sleeps = daemon.process().sleeps().unwrap();
    peer.idle(Duration::from_secs(4)).unwrap();
    let woken = daemon.process().sleeps().unwrap() - sleeps;
    let made = checks(&mut peer) - first;
    // The timer and the end of `zpool list`, and each fifth time that of `zpool status`.
    assert!(made >= 10 && woken <= 3 * made + 4, "{woken} in {made} checks");
}

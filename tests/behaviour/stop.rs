//! Shutdown of a daemon, and the start of the next one.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Daemon, Peer, Setup, Stream, Transport, skip};

use super::PROGRAM;

/// A job that SIGTERM ends, and one that ignores it.
const SOFT: &str = "sh -c 'echo up; exec sleep 1000'";
const HARD: &str = "sh -c 'trap \"\" TERM; echo up; exec sleep 1000'";

/// Subscribers over each transport, when both jobs run.
fn with_jobs(daemon: &Daemon) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Transport::ALL
        .map(|transport| {
            let mut peer = Peer::known(daemon, transport).unwrap();
            peer.subscribe().unwrap();
            peer
        })
        .into();
    peers[0].run(&json!({ "soft": SOFT, "hard": HARD })).unwrap();
    for peer in &mut peers {
        let mut up = 0;
        let is_up = |frame: &Value| [SOFT, HARD].iter().any(|job| frame["args"][job] == "up\n");
        while up < 2 {
            up += usize::from(is_up(&peer.frame().unwrap()));
        }
    }
    peers
}

#[test]
fn shutdown_reports_ends_of_jobs_and_closes_with_1001() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.kill_grace", r#""300ms""#);
        let mut daemon = setup.start().unwrap();
        let mut peers = with_jobs(&daemon);
        // One that needs no events, because those before a reply are dropped.
        let mut other = Peer::local(&daemon).unwrap();
        let mut unready = Stream::dial(&daemon, Transport::Plain).unwrap();
        unready.send(b"GET / HTTP/1.1\r\n").unwrap();
        let begun = Instant::now();
        daemon.signal(signal).unwrap();
        // It gets a reply, and no more jobs and clients are accepted.
        daemon.log().wait("stopping; active jobs: 2").unwrap();
        let refused = other.run_refused(&json!({ "late": "true" })).unwrap();
        assert_eq!(refused.code, 500);
        assert!(refused.message.contains("stopping"), "{}", refused.message);
        assert!(TcpStream::connect(daemon.plain()).is_err());
        assert!(UnixStream::connect(daemon.socket()).is_err());
        for peer in &mut peers {
            let mut codes = Vec::new();
            while codes.len() < 2 {
                let frame = peer.frame().unwrap();
                if frame["args"]["state"] == "finished" {
                    let id = frame["args"]["process_id"].as_str().unwrap();
                    let code = &frame["args"]
                        [format!("return_codes/{}", if id == "soft" { SOFT } else { HARD })];
                    codes.push((id.to_owned(), code.as_str().unwrap().to_owned()));
                }
            }
            codes.sort();
            let expected = [("hard", "-9"), ("soft", "-15")];
            assert_eq!(codes, expected.map(|(id, code)| (id.to_owned(), code.to_owned())));
            assert_eq!(peer.closed().unwrap(), 1001);
        }
        assert_eq!(unready.read_all().unwrap(), b"");
        drop((peers, unready));
        let (status, log) = daemon.wait().unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(log.last().unwrap().ends_with("stopped"), "{log:#?}");
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert!(!daemon.socket().exists());
    }
}

#[test]
fn shutdown_waits_for_a_stalled_client_at_most_close_timeout() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.close_timeout", r#""300ms""#);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::watcher(&daemon).unwrap();
    peer.run(&json!({ "page": "sh -c 'head -c 70000 /dev/zero'" })).unwrap();
    peer.finished("page").unwrap();
    let mut sloth = Peer::local(&daemon).unwrap();
    for _ in 0..20 {
        let page = json!({ "action": "log", "job_id": "page" });
        sloth.post("rpc", "dispatcher", &page).unwrap();
    }
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM).unwrap();
    assert_eq!(peer.closed().unwrap(), 1001);
    drop(peer);
    daemon.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(sloth);
}

#[test]
fn shutdown_sends_queued_output_to_a_slow_client() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.close_timeout", r#""1h""#);
    let mut daemon = setup.start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::watcher(&daemon).unwrap();
    // Together more than the socket holds; when the job runs all have replies.
    let id = "x".repeat(60 * 1024);
    for _ in 0..8 {
        peer.send(&json!({ "namespace": "rpc", "name": "identify", "id": id })).unwrap();
    }
    peer.post("rpc", "dispatcher", &json!({ "action": "run", "soft": SOFT })).unwrap();
    watcher.job_printed("soft", SOFT, "up\n").unwrap();
    let status = watcher.request("rpc", "status", &json!({})).unwrap();
    assert!(status["outbox_total"].as_u64().unwrap() > 0);
    daemon.signal(Signal::SIGTERM).unwrap();
    assert_eq!(watcher.closed().unwrap(), 1001);
    let frames = peer.frames_until(|frame| frame["args"]["state"] == "finished").unwrap();
    assert_eq!(frames.iter().filter(|frame| frame["id"] == id.as_str()).count(), 8);
    assert_eq!(peer.closed().unwrap(), 1001);
    drop((peer, watcher));
    assert_eq!(daemon.wait().unwrap().0.code(), Some(0));
}

#[test]
fn shutdown_sends_nothing_after_the_close_frame() {
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("events.max_event", r#""64KiB""#)
        .with("server.outbox", r#""128KiB""#)
        .with("server.close_timeout", r#""2s""#);
    let daemon = setup.start().unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut run_some = |count| {
        for _ in 0..count {
            watcher.run(&json!({ "j": "sh -c 'head -c 25000 /dev/zero | tr \"\\0\" x'" })).unwrap();
            watcher.finished("j").unwrap();
        }
    };
    run_some(20);
    // More than its socket and half of its outbox hold: the rest is sent as it reads.
    let mut slow = Peer::local(&daemon).unwrap();
    let events = json!({ "events": ["dispatcher"] });
    let epoch = slow.request("events", "subscribe", &events).unwrap()["epoch"].take();
    slow.request("events", "unsubscribe", &events).unwrap();
    let since = json!({ "events": ["dispatcher"], "since": { "epoch": epoch, "seq": 1 } });
    slow.post("events", "subscribe", &since).unwrap();
    // The ring continues without it, so the next item for it would be a gap.
    run_some(30);
    daemon.signal(Signal::SIGTERM).unwrap();
    assert_eq!(watcher.closed().unwrap(), 1001);
    // Its frames are read by hand, because a library hides bytes after a close.
    let (code, _) = slow.stream().read_close().unwrap();
    assert_eq!(code, 1001);
    assert_eq!(slow.stream().read_all().unwrap(), b"");
}

#[test]
fn a_second_signal_hurries_the_stop() {
    let setup = Setup::new(PROGRAM).unwrap().with("dispatcher.kill_grace", r#""1h""#);
    let mut daemon = setup.start().unwrap();
    let mut peers = with_jobs(&daemon);
    daemon.signal(Signal::SIGTERM).unwrap();
    peers[0].finished("soft").unwrap();
    daemon.signal(Signal::SIGTERM).unwrap();
    daemon.log().wait("stopping at once").unwrap();
    let hard = peers[0].finished("hard").unwrap();
    assert_eq!(hard[format!("return_codes/{HARD}")], "-9");
    drop(peers);
    assert_eq!(daemon.wait().unwrap().0.code(), Some(0));
}

#[test]
fn second_daemon_on_the_same_socket_gives_up() {
    let setup = Setup::new(PROGRAM).unwrap();
    let first = setup.start().unwrap();
    let socket = fs::metadata(first.socket()).unwrap().ino();
    let mut peer = Peer::watcher(&first).unwrap();
    let other_state = format!("{:?}", setup.directory().join("other-state"));
    for _ in 0..2 {
        let other = setup.clone().with("paths.state", &other_state);
        let mut second = other.launch().unwrap();
        let (status, log) = second.wait().unwrap();
        assert_eq!(status.code(), Some(69));
        let said = log.join("\n");
        assert!(said.contains("another daemon listens on it"), "{said}");
        assert!(said.contains(first.socket().to_str().unwrap()), "{said}");
    }
    assert_eq!(fs::metadata(first.socket()).unwrap().ino(), socket);
    peer.run(&json!({ "j": "true" })).unwrap();
    peer.finished("j").unwrap();
    Peer::local(&first).unwrap().request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn a_daemon_that_is_too_busy_to_accept_is_there_all_the_same() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let setup = Setup::new(PROGRAM).unwrap();
    let first = setup.start().unwrap();
    first.signal(Signal::SIGSTOP).unwrap();
    let mut waiting = Vec::new();
    // Until the queue of the listener is full.
    let full = loop {
        match mio::net::UnixStream::connect(first.socket()) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    if full.kind() == ErrorKind::ConnectionRefused {
        drop(waiting);
        first.signal(Signal::SIGCONT).unwrap();
        return skip("this system refuses as if nobody listened");
    }
    let other_state = format!("{:?}", setup.directory().join("other-state"));
    let other = setup.clone().with("paths.state", other_state);
    let (status, log) = other.launch().unwrap().wait().unwrap();
    assert_eq!(status.code(), Some(69), "{log:#?}");
    assert!(log.join("\n").contains("another daemon listens on it"), "{log:#?}");
    drop(waiting);
    first.signal(Signal::SIGCONT).unwrap();
    // The waiting ones have disconnected, but until that is seen they may take all places.
    let asks = || Peer::local(&first)?.request("rpc", "query", &json!({}));
    let patience = Instant::now() + support::PATIENCE;
    while let Err(error) = asks() {
        assert!(Instant::now() < patience, "{error}");
    }
}

#[test]
fn the_socket_of_a_daemon_that_died_is_replaced() {
    let setup = Setup::new(PROGRAM).unwrap();
    let first = setup.start().unwrap();
    let socket = first.socket();
    first.crash().unwrap();
    assert!(socket.exists());
    let second = setup.start().unwrap();
    Peer::local(&second).unwrap().request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn path_that_is_not_a_socket_is_not_replaced() {
    let setup = Setup::new(PROGRAM).unwrap();
    let socket = setup.directory().join("socket");
    let other = setup.directory().join("precious");
    fs::write(&other, "precious").unwrap();
    for is_link in [false, true] {
        if is_link {
            symlink(&other, &socket).unwrap();
        } else {
            fs::write(&socket, "precious").unwrap();
        }
        let (status, log) = setup.launch().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(69), "{log:#?}");
        assert!(log.join("\n").contains("a file of another kind is in the way"), "{log:#?}");
        assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
        fs::remove_file(&socket).unwrap();
    }
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
}

#[test]
fn socket_has_the_configured_mode_and_maximum_length() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.socket_mode", r#""0640""#);
    // 103 bytes is the most that sun_path of both systems holds, its end included.
    let room = 103 - setup.directory().path().as_os_str().len() - 1;
    let name = "s".repeat(room);
    let path = setup.directory().join(&name);
    let setup = setup.with("server.socket", format!("{path:?}"));
    let daemon = setup.start().unwrap();
    let about = fs::metadata(&path).unwrap();
    assert_eq!(about.permissions().mode() & 0o7777, 0o640);
    UnixStream::connect(&path).unwrap();
    // No other file was left beside it.
    let beside = fs::read_dir(setup.directory().path()).unwrap();
    let names: Vec<String> = beside
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|other| other.starts_with('s') && !other.starts_with("sysadm-events"))
        .collect();
    assert!(names.contains(&name) && names.contains(&"state".to_owned()) && names.len() == 2);
    daemon.stop().unwrap();
    assert!(!path.exists());
}

/// Started with that pid file.
fn with_pid_file(setup: Setup, path: &std::path::Path) -> Setup {
    setup.under(["sh", "-c", &format!("exec \"$@\" --pid-file '{}'", path.display()), "sh"])
}

#[test]
fn pid_file_names_the_daemon_and_excludes_a_second_one() {
    let setup = Setup::new(PROGRAM).unwrap();
    let path = setup.directory().join("pid");
    let setup = with_pid_file(setup, &path);
    let daemon = setup.start().unwrap();
    let number = |path| fs::read_to_string(path).unwrap();
    assert_eq!(number(&path), format!("{}\n", daemon.process().0));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);

    // Another state, socket and ports, but the same pid file.
    let other = with_pid_file(Setup::new(PROGRAM).unwrap(), &path);
    let (status, log) = other.launch().unwrap().wait().unwrap();
    assert_eq!(status.code(), Some(69));
    let why =
        format!("{}: the process {} holds this pid file", path.display(), { daemon.process().0 });
    assert!(log.join("\n").contains(&why), "{log:#?}");

    // The number of a killed daemon is stale: the next one takes the file over, even if a longer
    // number was in it, and removes it at its end.
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "left": "sleep 1000" })).unwrap();
    daemon.crash().unwrap();
    fs::write(&path, "12345678901\n").unwrap();
    let daemon = setup.start().unwrap();
    assert_eq!(number(&path), format!("{}\n", daemon.process().0));
    daemon.stop().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_cannot_be_made_is_named() {
    let setup = Setup::new(PROGRAM).unwrap();
    let path = setup.directory().join("nowhere/pid");
    let (status, log) = with_pid_file(setup, &path).launch().unwrap().wait().unwrap();
    assert_eq!(status.code(), Some(78));
    assert!(log.join("\n").contains(&path.display().to_string()), "{log:#?}");
}

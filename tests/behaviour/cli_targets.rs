//! The daemon that a command connects to, and exit codes of failed connections.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use nix::unistd::{Uid, User};
use serde_json::{Value, json};
use support::{Cli, Daemon, Directory, Finished, Peer, Setup};
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use super::impostor::{Impostor, upgrade};
use super::{PROGRAM, ourselves};

/// `call rpc identify`, which needs no authentication, with these options.
fn identify(options: &[&str]) -> Finished {
    Cli::of(PROGRAM, "call").args(options).args(["rpc", "identify"]).run().unwrap()
}

/// The same with `query`, which needs authentication.
fn query(options: &[&str]) -> Finished {
    Cli::of(PROGRAM, "call").args(options).args(["rpc", "query"]).run().unwrap()
}

/// A file with a token in it.
fn token_file(daemon: &Daemon, text: &str) -> String {
    let file = daemon.directory().join("token");
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[track_caller]
fn assert_code(ended: &Finished, code: i32, said: &[&str]) {
    assert_eq!((ended.code(), &*ended.out), (code, ""), "{}", ended.err);
    for word in said {
        assert!(ended.err.contains(word), "{word:?} in {}", ended.err);
    }
}

#[test]
fn every_command_connects_to_the_selected_daemon() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let token = token_file(&daemon, &format!("{}\n", Peer::token(&daemon).unwrap()));
    let (socket, file) =
        (daemon.socket().display().to_string(), setup.file().display().to_string());
    let (wss, ws) = (format!("wss://{}", daemon.tls()), format!("ws://{}", daemon.plain()));
    let fingerprint = daemon.fingerprint().to_owned();
    let upper = fingerprint.to_uppercase();
    for target in [
        &["--socket", &*socket][..],
        &["-c", &*file],
        &["--url", &*wss, "--fingerprint", &*fingerprint, "--token-file", &*token],
        &["--url", &*wss, "--fingerprint", &*upper, "--token-file", &*token],
        &["--url", &*ws, "--token-file", &*token],
    ] {
        let known = query(target);
        assert_eq!((known.code(), &*known.err), (0, ""), "{target:?}");
        let rights: Value = serde_json::from_str(&known.out).unwrap();
        assert_eq!(rights["rpc/dispatcher"], "read/write", "{target:?}");
        let ran = Cli::of(PROGRAM, "run").args(target).arg("echo hello").run().unwrap();
        assert_eq!((ran.code(), &*ran.out), (0, "hello\n"), "{target:?}");
        for command in ["jobs", "status"] {
            assert_eq!(
                Cli::of(PROGRAM, command).args(target).run().unwrap().code(),
                0,
                "{command} {target:?}"
            );
        }
        // The options may stand behind the words as well.
        let behind = Cli::of(PROGRAM, "call").args(["rpc", "query"]).args(target).run().unwrap();
        assert_eq!(behind.out, known.out);
    }
    let watch = Cli::of(PROGRAM, "watch").args(["--url", &*wss, "--fingerprint", &*fingerprint]);
    let watch = watch.args(["--token-file", &*token, "dispatcher"]).start().unwrap();
    // It has arrived when an event of a job is received: whichever of these it sees first.
    let mut peer = Peer::local(&daemon).unwrap();
    let mut number = 0;
    while watch.out.lines().is_empty() {
        number += 1;
        assert!(number < 1000, "nothing came");
        let mut watcher = Peer::watcher(&daemon).unwrap();
        let id = format!("j{number}");
        peer.run(&json!({ &*id: "true" })).unwrap();
        watcher.finished(&id).unwrap();
    }
}

#[test]
fn missing_daemon_exits_69() {
    let directory = Directory::new().unwrap();
    let nothing = directory.join("socket").display().to_string();
    assert_code(&identify(&["--socket", &nothing]), 69, &[&nothing, "serve"]);
    // A stale socket.
    drop(std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap());
    assert_code(&identify(&["--socket", &nothing]), 69, &["refused"]);
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("ws://{port}");
    assert_code(&identify(&["--url", &url]), 69, &["cannot connect", &port.to_string()]);
    // A daemon that stops in the middle.
    let silent = Impostor::new(|stream| drop(upgrade(stream)));
    let silent = silent.socket().display().to_string();
    assert_code(&identify(&["--socket", &silent]), 69, &["lost"]);
}

#[test]
fn protocol_violation_exits_76() {
    for (answer, said) in [
        (&b"220 mail.example.org ESMTP\r\n\r\n"[..], "no HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "no HTTP"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Accept"),
    ] {
        let impostor = Impostor::that_says(answer);
        let ended = identify(&["--socket", &impostor.socket().display().to_string()]);
        assert_code(&ended, 76, &[said]);
    }
    for message in [Message::text("no JSON"), Message::text("[]"), Message::binary(vec![0xff])] {
        let impostor = Impostor::new(move |stream| {
            let mut socket = upgrade(stream);
            let _ = socket.read();
            socket.send(message).unwrap();
            while socket.read().is_ok() {}
        });
        let ended = identify(&["--socket", &impostor.socket().display().to_string()]);
        assert_eq!((ended.code(), &*ended.out), (76, ""), "{}", ended.err);
    }
}

#[test]
fn close_code_determines_the_exit_code() {
    for (code, expected) in [(1001, 69), (1008, 77), (1009, 76), (1013, 69)] {
        let impostor = Impostor::new(move |stream| {
            let mut socket = upgrade(stream);
            let _ = socket.read();
            let frame = CloseFrame { code: CloseCode::from(code), reason: "because".into() };
            socket.close(Some(frame)).unwrap();
            while socket.read().is_ok() {}
        });
        let ended = identify(&["--socket", &impostor.socket().display().to_string()]);
        assert_code(&ended, expected, &[&code.to_string(), "because"]);
    }
}

#[test]
fn wrong_certificate_exits_76_and_shows_both_fingerprints() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let url = format!("wss://{}", daemon.tls());
    let wrong = "00".repeat(32);
    let ended = identify(&["--url", &url, "--fingerprint", &wrong]);
    assert_code(&ended, 76, &[&wrong, daemon.fingerprint()]);
    let token = token_file(&daemon, &Peer::token(&daemon).unwrap());
    let options = ["--url", &*url, "--fingerprint", &*wrong, "--token-file", &*token];
    assert_code(&query(&options), 76, &["certificate"]);
    // TLS spoken to what has none.
    let plain = format!("wss://{}", daemon.plain());
    let ended = identify(&["--url", &plain, "--fingerprint", daemon.fingerprint()]);
    assert_code(&ended, 76, &["TLS"]);
}

#[test]
fn missing_privilege_exits_77() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let url = format!("wss://{}", daemon.tls());
    let pinned = ["--url", &*url, "--fingerprint", daemon.fingerprint()];
    // Without a token only `identify` is permitted.
    assert_eq!(identify(&pinned).code(), 0);
    let jobs = |more: &[&str]| Cli::of(PROGRAM, "jobs").args(pinned).args(more).run().unwrap();
    assert_code(&jobs(&[]), 77, &["401", "--token-file"]);
    let good = Peer::token(&daemon).unwrap();
    for wrong in ["wrong", &good[1..], &good[..good.len() - 1], &good.to_lowercase(), "\u{fc}"] {
        let file = token_file(&daemon, wrong);
        assert_code(&jobs(&["--token-file", &file]), 77, &["401"]);
    }
    let file = token_file(&daemon, &format!("{good}\nsecond line"));
    assert_eq!(jobs(&["--token-file", &file]).code(), 0);
    // A revoked token.
    Cli::of(PROGRAM, "call")
        .args(pinned)
        .args(["--token-file", &file, "rpc", "identify"])
        .run()
        .unwrap();
    let mut peer = Peer::connect(&daemon, support::Transport::Tls).unwrap();
    peer.request("rpc", "auth_token", &json!({ "token": good })).unwrap();
    peer.post("rpc", "auth_clear", &json!({})).unwrap();
    peer.request("rpc", "identify", &json!({})).unwrap();
    assert_code(&jobs(&["--token-file", &file]), 77, &["401"]);
}

#[test]
fn invalid_options_exit_64() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let url = format!("wss://{}", daemon.tls());
    let (file, empty) =
        (daemon.directory().join("none").display().to_string(), token_file(&daemon, "\n"));
    for (options, said) in [
        (&["--url", &*url][..], "give --fingerprint"),
        (&["--url", &*url, "--fingerprint", "abc"], "fingerprint"),
        (&["--url", "http://x", "--fingerprint", "abc"], "http://x"),
        (&["--url", "ws://192.0.2.1:80"], "this host"),
        (&["--url", &*url, "--fingerprint", daemon.fingerprint(), "--token-file", &*file], &*file),
        (
            &["--url", &*url, "--fingerprint", daemon.fingerprint(), "--token-file", &*empty],
            "empty",
        ),
        (&["--token-file", &*empty], "--url"),
    ] {
        assert_code(&identify(options), 64, &[said]);
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_78() {
    let setup = Setup::new(PROGRAM).unwrap();
    let check = |setup: &Setup, said: &[&str]| {
        setup.write().unwrap();
        assert_code(&identify(&["-c", &setup.file().display().to_string()]), 78, said);
    };
    check(&setup.clone().with("server.socket", "\"\""), &["no socket", "--url"]);
    check(&setup.clone().with("server.lisen", "[]"), &["lisen", "listen"]);
    let none = setup.directory().join("none.toml").display().to_string();
    assert_code(&identify(&["-c", &none]), 78, &[&none]);
}

/// A copy of the program, and a directory for a socket, for a user without access to the build
/// directory.
fn public_directory() -> (Directory, PathBuf) {
    let directory = Directory::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.join("sysadm-events");
    // By another process: a child forked by another test would hold a descriptor of the copy, and a
    // file that is open for writing cannot be run.
    assert!(
        std::process::Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success()
    );
    (directory, program)
}

#[test]
fn another_user_is_not_let_in() {
    if !Uid::effective().is_root() {
        return;
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (directory, program) = public_directory();
    let socket = directory.join("socket");
    let setup = Setup::new(PROGRAM).unwrap().with("server.socket", format!("{socket:?}"));
    let daemon = setup.start().unwrap();
    let as_nobody = |socket: &std::path::Path| {
        let command = Cli::of(&program, "jobs").arg("--socket").arg(socket);
        let mut command = command.into_command();
        command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // It may connect to the socket, and gets no role.
    let (code, said) = as_nobody(&socket);
    assert_eq!(code, Some(77), "{said}");
    let named = format!("nobody (uid {})", nobody.uid);
    assert!(said.contains("403") && said.contains(&named), "{said}");
    // One in a directory that is closed to it.
    let (code, said) = as_nobody(&daemon.directory().join("socket"));
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn unprivileged_user_finds_its_own_daemon_with_full_access() {
    let (directory, program) = public_directory();
    let home = directory.join("home");
    fs::create_dir(&home).unwrap();
    let nobody = Uid::effective().is_root().then(|| User::from_name("nobody").unwrap().unwrap());
    let (name, own_home) = match &nobody {
        Some(nobody) => (nobody.name.clone(), nobody.dir.display().to_string()),
        None => ourselves(),
    };
    let as_user = |command: &str, words: &[&str]| {
        let mut command = Cli::of(&program, command).args(words).into_command();
        if let Some(nobody) = &nobody {
            command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
        }
        command.env("HOME", &home);
        for variable in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(variable);
        }
        command
    };
    let config = home.join(".config/sysadm-events");
    fs::create_dir_all(&config).unwrap();
    fs::write(
        config.join("sysadm-events.toml"),
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[log]\ntarget = \"stderr\"\n",
    )
    .unwrap();
    if let Some(nobody) = &nobody {
        for made in [&home, &home.join(".config"), &config] {
            chown(made, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
        }
    }
    let mut serve = as_user("serve", &[]);
    serve.stderr(std::process::Stdio::piped());
    let mut serve = serve.spawn().unwrap();
    let log = support::Log::of(serve.stderr.take().unwrap());
    log.wait("ready, pid").unwrap();

    let ran = as_user("run", &["sh -c 'echo $USER $HOME'"]).output().unwrap();
    let out = String::from_utf8(ran.stdout).unwrap();
    // The system's socket is tried first; if one exists, this test would use another daemon.
    if !std::path::Path::new("/var/run/sysadm-events/socket").exists() {
        assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(out, format!("{name} {own_home}\n"));
    }
    let received = as_user("fingerprint", &[]).output().unwrap();
    let received = String::from_utf8(received.stdout).unwrap();
    log.wait(&format!("certificate sha256 {}", received.trim_end())).unwrap();
    for (path, mode) in [
        (config.join("key.pem"), 0o600),
        (config.join("cert.pem"), 0o644),
        (home.join(".local/state/sysadm-events"), 0o700),
    ] {
        let is = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(is, mode, "{}", path.display());
    }
    let id = nix::unistd::Pid::from_raw(i32::try_from(serve.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(serve.wait().unwrap().code(), Some(0));
}

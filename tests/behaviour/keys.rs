//! Key authentication; keys and signatures are OpenSSL's.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{
    Cli, Daemon, Group, Key, Outcome, PamService, Peer, Setup, Transport, User, base64,
    has_loopback_addresses, until,
};

use super::{PROGRAM, ourselves};

/// The service file for Linux.
const SERVICE: &str = PamService::TEXT;

/// A daemon whose accounts are known to its own user only.
fn setup() -> Setup {
    Setup::new(PROGRAM).unwrap().with("auth.pam", false)
}

fn key_command(setup: &Setup) -> Cli {
    Cli::of(PROGRAM, "key").arg("-c").arg(setup.file())
}

/// Registers a key for a user, as an operator does.
fn add(setup: &Setup, user: &str, key: &Key, more: &[&str]) {
    setup.write().unwrap();
    let add = key_command(setup).args(["add", user]).arg(key.public()).args(more);
    let added = add.run().unwrap();
    assert_eq!((added.code(), added.out.trim()), (0, &*key.id().unwrap()), "{}", added.err);
}

fn revoke(setup: &Setup, user: &str, key: &Key) {
    let revoke = key_command(setup).args(["revoke", user]).arg(key.id().unwrap());
    assert_eq!(revoke.run().unwrap().code(), 0);
}

/// A key of each kind, registered for the current user.
fn both(setup: &Setup) -> Option<[Key; 2]> {
    let keys = [Key::ed25519().unwrap()?, Key::rsa().unwrap()?];
    keys.iter().for_each(|key| add(setup, &ourselves().0, key, &[]));
    Some(keys)
}

fn unauthenticated(daemon: &Daemon) -> Peer {
    Peer::connect(daemon, Transport::Tls).unwrap()
}

fn assert_unauthenticated(peer: &mut Peer) {
    assert_eq!(peer.refused("rpc", "query", &json!({})).unwrap().code, 401);
}

#[test]
fn both_kinds_of_keys_authenticate_on_every_transport() {
    let setup = setup();
    let Some(keys) = both(&setup) else { return };
    let daemon = setup.start().unwrap();
    let (user, _) = ourselves();
    for transport in Transport::ALL {
        for key in &keys {
            let mut peer = Peer::connect(&daemon, transport).unwrap();
            let token = peer.show_key(key, &daemon, transport).unwrap();
            assert_eq!(token[1], 15 * 60);
            let may = peer.request("rpc", "query", &json!({})).unwrap();
            assert_eq!(may["rpc/dispatcher"], "read/write");
            assert_eq!(may["rpc/settings"], "read/write");
            let mut later = Peer::connect(&daemon, Transport::Plain).unwrap();
            later.request("rpc", "auth_token", &json!({ "token": token[0] })).unwrap();
            assert_eq!(later.request("rpc", "query", &json!({})).unwrap(), may);
        }
    }
    let id = keys[0].id().unwrap();
    let line = format!(
        "audit: authenticated user={user:?} role=full by=\"key\" with=\"{id}\" from=\"127.0.0.1:"
    );
    daemon.log().wait(&line).unwrap();
}

#[test]
fn challenge_has_160_letters_and_digits_and_is_unique() {
    let daemon = setup().start().unwrap();
    let mut peer = unauthenticated(&daemon);
    let mut seen = Vec::new();
    for args in [json!(""), json!({}), Value::Null, json!({ "md5_key": "AAAA" })] {
        let reply = peer.request("rpc", "auth_ssl", &args).unwrap();
        let string = reply["test_string"].as_str().unwrap().to_owned();
        assert_eq!(string.len(), 160);
        assert!(string.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert!(!seen.contains(&string));
        seen.push(string);
    }
    assert_unauthenticated(&mut peer);
}

#[test]
fn signature_is_valid_for_one_purpose_certificate_and_challenge() {
    let setup = setup().with("auth.fail_window", r#""1s""#);
    let Some(keys) = both(&setup) else { return };
    let daemon = setup.start().unwrap();
    let (ours, other) = (daemon.fingerprint(), "11".repeat(32));
    let zeros = "0".repeat(64);
    for key in &keys {
        let attempts: [&dyn Fn(&str) -> String; 6] = [
            &|string| key.sign_for("bridge", ours, string).unwrap(),
            &|string| key.sign_for("server", &other, string).unwrap(),
            &|string| key.sign_for("server", &zeros, string).unwrap(),
            &|string| key.sign_for("server", ours, &string[1..]).unwrap(),
            &|string| key.sign(string.as_bytes()).unwrap(),
            &|_| base64(&[0; 64]).unwrap(),
        ];
        for (number, attempt) in attempts.iter().enumerate() {
            let mut peer = unauthenticated(&daemon);
            let string = peer.challenge().unwrap();
            let args = json!({ "key": key.id().unwrap(), "signature": attempt(&string) });
            assert_eq!(peer.refused("rpc", "auth_ssl", &args).unwrap().code, 401, "{number}");
            assert_unauthenticated(&mut peer);
        }
        // Proofs with exactly one wrong part.
        unauthenticated(&daemon).show_key(key, &daemon, Transport::Tls).unwrap();
    }
    let line = format!("authentication failure from 127.0.0.1: key {}", keys[0].id().unwrap());
    daemon.log().wait(&line).unwrap();
}

#[test]
fn challenge_is_valid_once_on_its_own_connection() {
    let setup = setup().with("auth.fail_window", r#""1s""#);
    let Some([key, _]) = both(&setup) else { return };
    let daemon = setup.start().unwrap();
    let (mut peer, mut other) = (unauthenticated(&daemon), unauthenticated(&daemon));
    let unasked = key.proof(&daemon, Transport::Tls, &"a".repeat(160)).unwrap();
    let refused = peer.refused("rpc", "auth_ssl", &unasked).unwrap();
    assert_eq!(refused.code, 401);
    assert!(refused.message.contains("no test_string"), "{}", refused.message);
    // Another connection's challenge, and a replaced one.
    let (first, theirs) = (peer.challenge().unwrap(), other.challenge().unwrap());
    let args = key.proof(&daemon, Transport::Tls, &theirs).unwrap();
    assert_eq!(peer.refused("rpc", "auth_ssl", &args).unwrap().code, 401);
    let args = key.proof(&daemon, Transport::Tls, &first).unwrap();
    assert_eq!(peer.refused("rpc", "auth_ssl", &args).unwrap().code, 401, "a second try");
    let old = peer.challenge().unwrap();
    peer.challenge().unwrap();
    let args = key.proof(&daemon, Transport::Tls, &old).unwrap();
    assert_eq!(peer.refused("rpc", "auth_ssl", &args).unwrap().code, 401);
    assert_unauthenticated(&mut peer);
    // A signature that was used already.
    let args = key.proof(&daemon, Transport::Tls, &theirs).unwrap();
    other.request("rpc", "auth_ssl", &args).unwrap();
    for replayer in [&mut other, &mut peer] {
        assert_eq!(replayer.refused("rpc", "auth_ssl", &args).unwrap().code, 401);
        replayer.challenge().unwrap();
        assert_eq!(replayer.refused("rpc", "auth_ssl", &args).unwrap().code, 401);
    }
    assert_unauthenticated(&mut peer);
    other.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn the_raw_form_is_for_keys_that_are_registered_as_legacy() {
    let setup = setup().with("auth.fail_window", r#""1s""#);
    let Some([_, modern]) = both(&setup) else { return };
    let (Some(legacy), Some(unknown)) = (Key::rsa().unwrap(), Key::rsa().unwrap()) else { return };
    add(&setup, &ourselves().0, &legacy, &["--legacy"]);
    let daemon = setup.start().unwrap();
    let raw = |key: &Key, string: &str| json!({ "encrypted_string": key.encrypt(string).unwrap() });
    for key in [&modern, &unknown] {
        let mut peer = unauthenticated(&daemon);
        let string = peer.challenge().unwrap();
        assert_eq!(peer.refused("rpc", "auth_ssl", &raw(key, &string)).unwrap().code, 401);
        assert_unauthenticated(&mut peer);
    }
    let mut peer = unauthenticated(&daemon);
    let string = peer.challenge().unwrap();
    let proof = raw(&legacy, &string);
    let token = peer.request("rpc", "auth_ssl", &proof).unwrap();
    assert_eq!(token[1], 15 * 60);
    peer.request("rpc", "query", &json!({})).unwrap();
    peer.challenge().unwrap();
    assert_eq!(peer.refused("rpc", "auth_ssl", &proof).unwrap().code, 401, "a replay");
    // A legacy key may also use the new form.
    unauthenticated(&daemon).show_key(&legacy, &daemon, Transport::Tls).unwrap();
    daemon.log().wait("authentication failure from 127.0.0.1: legacy key").unwrap();
}

#[test]
fn key_added_while_no_worker_watches_is_known_soon() {
    let Some(key) = Key::ed25519().unwrap() else { return };
    let setup = setup();
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let status = peer.request("rpc", "status", &json!({})).unwrap();
    let pids = status["files"]["pids"].as_array().unwrap();
    let pids: Vec<Pid> = pids
        .iter()
        .map(|pid| Pid::from_raw(i32::try_from(pid.as_i64().unwrap()).unwrap()))
        .collect();
    let signal = |signal| pids.iter().for_each(|pid| kill(*pid, signal).unwrap());
    // A stopped worker reports nothing, and its watch ends with it.
    signal(Signal::SIGSTOP);
    add(&setup, &ourselves().0, &key, &[]);
    signal(Signal::SIGKILL);
    daemon.log().wait("registered keys: 1").unwrap();
}

#[test]
fn so_many_legacy_keys_are_tried_and_no_more() {
    let setup = setup();
    let keys: Option<Vec<Key>> = (0..3).map(|_| Key::rsa().unwrap()).collect();
    let Some(keys) = keys else { return };
    keys[..2].iter().for_each(|key| add(&setup, &ourselves().0, key, &["--legacy"]));
    let setup = setup.with("auth.max_legacy_keys", 1);
    let daemon = setup.start().unwrap();
    daemon.log().wait("the last 1 legacy keys are not tried (max_legacy_keys)").unwrap();
    let shows = |key: &Key| {
        let mut peer = unauthenticated(&daemon);
        let string = peer.challenge().unwrap();
        let args = json!({ "encrypted_string": key.encrypt(&string).unwrap() });
        peer.request("rpc", "auth_ssl", &args)
    };
    shows(&keys[0]).unwrap();
    shows(&keys[1]).unwrap_err();
    let register = |args: Value| Peer::local(&daemon).unwrap().refused("rpc", "settings", &args);
    let args = json!({ "action": "register_ssl_cert", "pub_key": keys[2].encoded().unwrap() });
    let refused = register(args).unwrap();
    assert_eq!(refused.code, 429);
    assert!(refused.message.contains("max_legacy_keys"), "{}", refused.message);
    let add = key_command(&setup).args(["add", &ourselves().0]).arg(keys[2].public());
    let refused = add.arg("--legacy").run().unwrap();
    assert_eq!(refused.code(), 64);
    assert!(refused.err.contains("max_legacy_keys"), "{}", refused.err);
}

#[test]
fn invalid_signature_is_rejected_with_its_kind() {
    let setup = setup().with("auth.fail_window", r#""1s""#);
    let Some([key, _]) = both(&setup) else { return };
    let daemon = setup.start().unwrap();
    let mut peer = unauthenticated(&daemon);
    let id = key.id().unwrap();
    for args in [
        json!({ "key": id }),
        json!({ "signature": "AAAA" }),
        json!({ "key": 7, "signature": 7 }),
        json!({ "key": id, "signature": "AAAA", "encrypted_string": "AAAA" }),
        json!({ "encrypted_string": ["AAAA"] }),
        json!("x"),
        json!([1]),
        json!(true),
    ] {
        assert_eq!(peer.refused("rpc", "auth_ssl", &args).unwrap().code, 400, "{args}");
    }
    for args in [
        json!({ "key": id, "signature": "" }),
        json!({ "key": id, "signature": "no base64" }),
        json!({ "key": id, "signature": base64(&[7; 3000]).unwrap() }),
        json!({ "key": "", "signature": "AAAA" }),
        json!({ "key": &id[..10], "signature": "AAAA" }),
        json!({ "key": "a\nb", "signature": "AAAA" }),
        json!({ "encrypted_string": "" }),
        json!({ "encrypted_string": base64(&[0; 256]).unwrap() }),
    ] {
        let mut peer = unauthenticated(&daemon);
        peer.challenge().unwrap();
        assert_eq!(peer.refused("rpc", "auth_ssl", &args).unwrap().code, 401, "{args}");
        assert_unauthenticated(&mut peer);
    }
}

#[test]
fn unregistered_key_is_rejected_on_an_authenticated_session_too() {
    let setup = setup().with("auth.fail_window", r#""1s""#);
    let Some([key, _]) = both(&setup) else { return };
    let Some(unknown) = Key::ed25519().unwrap() else { return };
    let daemon = setup.start().unwrap();
    let mut known = unauthenticated(&daemon);
    let token = known.show_key(&key, &daemon, Transport::Tls).unwrap();
    let mut peer = unauthenticated(&daemon);
    assert_eq!(peer.key_refused(&unknown, &daemon, Transport::Tls).unwrap().code, 401);
    // Another key's name with the own signature.
    let string = peer.challenge().unwrap();
    let mut args = unknown.proof(&daemon, Transport::Tls, &string).unwrap();
    args["key"] = key.id().unwrap().into();
    assert_eq!(peer.refused("rpc", "auth_ssl", &args).unwrap().code, 401);
    let token = token[0].as_str().unwrap();
    for part in ["", &token[..1], &token[..20], &token[1..], &token.repeat(2)] {
        let mut peer = unauthenticated(&daemon);
        let args = json!({ "token": part });
        assert_eq!(peer.refused("rpc", "auth_token", &args).unwrap().code, 401, "{part:?}");
        assert_unauthenticated(&mut peer);
        for (namespace, name, args) in [
            ("events", "subscribe", json!(["dispatcher"])),
            ("rpc", "dispatcher", json!({ "action": "run", "j": "true" })),
            ("rpc", "settings", json!({ "action": "list_ssl_certs" })),
            ("rpc", "settings", json!({ "action": "list_ssl_checksums" })),
        ] {
            assert_eq!(peer.refused(namespace, name, &args).unwrap().code, 401, "{args}");
        }
    }
    known.request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn revoked_key_ends_its_sessions_and_tokens_only() {
    let setup = setup();
    let Some([gone, stays]) = both(&setup) else { return };
    let daemon = setup.start().unwrap();
    let (mut first, mut second, mut by_token) =
        (unauthenticated(&daemon), unauthenticated(&daemon), unauthenticated(&daemon));
    let token = first.show_key(&gone, &daemon, Transport::Tls).unwrap();
    second.show_key(&stays, &daemon, Transport::Tls).unwrap();
    let token = json!({ "token": token[0] });
    by_token.request("rpc", "auth_token", &token).unwrap();
    first.subscribe().unwrap();
    revoke(&setup, &ourselves().0, &gone);
    assert_eq!(first.closed().unwrap(), 1008);
    assert_eq!(by_token.closed().unwrap(), 1008);
    daemon.log().wait(": its key has been revoked, 1008").unwrap();
    let mut again = unauthenticated(&daemon);
    assert_eq!(again.refused("rpc", "auth_token", &token).unwrap().code, 401);
    assert_eq!(again.key_refused(&gone, &daemon, Transport::Tls).unwrap().code, 401);
    second.request("rpc", "query", &json!({})).unwrap();
    // And one that is added while the daemon runs is known at once.
    add(&setup, &ourselves().0, &gone, &[]);
    daemon.log().wait("registered keys: 2").unwrap();
    again.show_key(&gone, &daemon, Transport::Tls).unwrap();
}

#[test]
fn damaged_line_affects_one_key_and_sighup_reloads() {
    let setup = setup();
    let Some([first, second]) = both(&setup) else { return };
    let file = setup.directory().join("state/keys");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"key\"", "\"kex\"", 1)).unwrap();
    let daemon = setup.start().unwrap();
    daemon.log().wait("state/keys:1: left out: ").unwrap();
    let mut peer = unauthenticated(&daemon);
    assert_eq!(peer.key_refused(&first, &daemon, Transport::Tls).unwrap().code, 401);
    peer.show_key(&second, &daemon, Transport::Tls).unwrap();
    // Written in place, which causes no rename event: read at the latest by SIGHUP.
    fs::write(&file, &text).unwrap();
    daemon.reload().unwrap();
    daemon.log().wait("registered keys: 2").unwrap();
    unauthenticated(&daemon).show_key(&first, &daemon, Transport::Tls).unwrap();
    fs::write(&file, format!("{text}rubbish\n")).unwrap();
    let Some(third) = Key::ed25519().unwrap() else { return };
    add(&setup, &ourselves().0, &third, &[]);
    let aside = fs::read_to_string(setup.directory().join("state/keys.damaged")).unwrap();
    assert_eq!(aside, "rubbish\n");
    daemon.log().wait("registered keys: 3").unwrap();
}

#[test]
fn key_line_with_a_flipped_byte_lets_nobody_in_and_is_named() {
    let setup = setup();
    let Some([first, second]) = both(&setup) else { return };
    let file = setup.directory().join("state/keys");
    let whole = fs::read(&file).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let daemon = setup.start().unwrap();
    let user = text.find(&format!("\"user\":\"{}\"", ourselves().0)).unwrap() + 8;
    let key = text.find("-----BEGIN PUBLIC KEY-----").unwrap() + 40;
    let sum = text.find("\"sum\":\"").unwrap() + 7;
    for (flip, place) in [user, key, sum].into_iter().enumerate() {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        fs::write(&file, flipped).unwrap();
        daemon.reload().unwrap();
        until("the daemon has seen it", || {
            let lines = daemon.log().lines();
            lines.iter().filter(|line| line.contains("state/keys:1: left out: ")).count() > flip
        });
        let mut peer = unauthenticated(&daemon);
        peer.key_refused(&first, &daemon, Transport::Tls).unwrap();
        peer.show_key(&second, &daemon, Transport::Tls).unwrap();
        let listed = key_command(&setup).arg("list").run().unwrap();
        assert!(listed.err.contains("state/keys:1: "), "{}", listed.err);
        assert!(!listed.out.contains(&first.id().unwrap()[..8]), "{}", listed.out);
        let checked = Cli::of(PROGRAM, "check").arg("-c").arg(setup.file()).run().unwrap();
        assert_eq!(checked.code(), 0, "{}", checked.err);
        let warning = format!("warning: {}:1: ", file.display());
        assert!(checked.err.contains(&warning), "{}", checked.err);
    }
}

#[test]
fn key_registered_by_a_limited_session_gives_no_more() {
    let Some(host) = Host::new() else { return };
    let Some(key) = Key::ed25519().unwrap() else { return };
    let daemon = host.setup.clone().open_to_all().unwrap().start().unwrap();
    // The account is in both groups, its process in one.
    let user = User::new(&[&host.full, &host.read]).unwrap();
    let uid = nix::unistd::User::from_name(user.name()).unwrap().unwrap().uid.as_raw();
    let number = |name: &str| nix::unistd::Group::from_name(name).unwrap().unwrap().gid.as_raw();
    let register = |group: &Group| {
        let args = json!({ "action": "register_ssl_cert", "pub_key": key.encoded().unwrap() });
        let call = Cli::to(&daemon, "call").args(["rpc", "settings", &args.to_string()]);
        let called = call.as_user(uid, number(group.name())).run().unwrap();
        assert_eq!(called.code(), 0, "{}", called.err);
    };
    let access = || {
        let mut peer = unauthenticated(&daemon);
        peer.show_key(&key, &daemon, Transport::Tls).unwrap();
        peer.request("rpc", "query", &json!({})).unwrap()["rpc/dispatcher"].clone()
    };
    for (group, given) in
        [(&host.read, "read"), (&host.full, "read/write"), (&host.read, "read/write")]
    {
        register(group);
        assert_eq!(access(), given);
    }
}

#[test]
fn concurrent_registrations_are_all_stored() {
    const EACH: usize = 8;
    let setup = setup();
    let daemon = setup.start().unwrap();
    let keys: Option<Vec<Key>> = (0..2 * EACH).map(|_| Key::ed25519().unwrap()).collect();
    let Some(keys) = keys else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| keys[..EACH].iter().for_each(|key| add(&setup, &ourselves().0, key, &[])));
        let mut peer = Peer::local(&daemon).unwrap();
        for key in &keys[EACH..] {
            let pem = key.encoded().unwrap();
            let args = json!({ "action": "register_ssl_cert", "pub_key": pem });
            peer.request("rpc", "settings", &args).unwrap();
        }
    });
    let list = key_command(&setup).args(["list", "--json"]).run().unwrap();
    let list: Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2 * EACH);
    daemon.log().wait(&format!("registered keys: {}", 2 * EACH)).unwrap();
}

#[test]
fn nothing_secret_stands_in_the_log_at_any_level() {
    let setup = setup().with("log.level", r#""trace""#);
    let Some([key, _]) = both(&setup) else { return };
    let Some(legacy) = Key::rsa().unwrap() else { return };
    add(&setup, &ourselves().0, &legacy, &["--legacy"]);
    let daemon = setup.start().unwrap();
    let mut secrets = Vec::new();
    let mut peer = unauthenticated(&daemon);
    let string = peer.challenge().unwrap();
    let proof = key.proof(&daemon, Transport::Tls, &string).unwrap();
    let token = peer.request("rpc", "auth_ssl", &proof).unwrap();
    secrets.extend([string, proof["signature"].as_str().unwrap().to_owned()]);
    secrets.push(token[0].as_str().unwrap().to_owned());
    let mut peer = unauthenticated(&daemon);
    let string = peer.challenge().unwrap();
    let encrypted = legacy.encrypt(&string).unwrap();
    peer.request("rpc", "auth_ssl", &json!({ "encrypted_string": encrypted })).unwrap();
    secrets.extend([string, encrypted]);
    let mut peer = unauthenticated(&daemon);
    secrets.push(peer.challenge().unwrap());
    let wrong = json!({ "key": key.id().unwrap(), "signature": "bm90IGEgc2lnbmF0dXJl" });
    peer.refused("rpc", "auth_ssl", &wrong).unwrap();
    secrets.push("bm90IGEgc2lnbmF0dXJl".into());
    let password = "an-unmistakable-password";
    peer.refused("rpc", "auth", &json!({ "username": "root", "password": password })).unwrap();
    secrets.push(password.into());
    let state = fs::read_to_string(setup.directory().join("key.pem")).unwrap();
    secrets.push(state.lines().nth(1).unwrap().to_owned());
    let lines = daemon.stop().unwrap().concat();
    for secret in &secrets {
        assert!(!lines.contains(secret.as_str()), "{secret} in: {lines}");
        assert!(!lines.contains(&secret[..secret.len().min(16)]), "{secret} in: {lines}");
    }
    assert!(lines.contains("authentication failure from 127.0.0.1: key "), "{lines}");
}

#[test]
fn wrong_signatures_of_many_addresses_are_bounded() {
    if !has_loopback_addresses() {
        return;
    }
    const ADDRESSES: u32 = 200;
    let address = |number| Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 2, 0)) + number);
    let setup = setup().with("auth.throttle_loopback", true);
    let Some([key, _]) = both(&setup) else { return };
    let daemon = setup.start().unwrap();
    let honest = |number| {
        let mut peer = Peer::connect_from(&daemon, address(number)).unwrap();
        peer.show_key(&key, &daemon, Transport::Plain).unwrap();
        peer
    };
    let mut inside = honest(ADDRESSES);
    let wrong = json!({ "key": key.id().unwrap(), "signature": base64(&[9; 64]).unwrap() });
    let attempt = |number| -> Outcome<u64> {
        let mut peer = Peer::connect_from(&daemon, address(number))?;
        peer.challenge()?;
        Ok(peer.refused("rpc", "auth_ssl", &wrong)?.code)
    };
    let before = daemon.process().resident().unwrap();
    let (mut answered, mut longest) = (0, Duration::ZERO);
    for number in 0..10_000 {
        if let Ok(code) = attempt(number % ADDRESSES) {
            assert!([401, 403].contains(&code), "{code}");
            answered += 1;
        }
        if number % 100 == 0 {
            let began = Instant::now();
            inside.request("rpc", "query", &json!({})).unwrap();
            longest = longest.max(began.elapsed());
        }
    }
    // Five failures of each are tolerated, and the sixth is refused as blocked.
    assert_eq!(answered, 6 * ADDRESSES);
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let grown = daemon.process().resident().unwrap().saturating_sub(before);
    assert!(grown < 2 * 1024 * 1024, "{grown} bytes more");
    honest(ADDRESSES + 1).request("rpc", "query", &json!({})).unwrap();
    let lines = daemon.log().lines();
    let blocks = lines.iter().filter(|line| line.contains(" for 3600 s: too many failures"));
    assert_eq!(blocks.count(), usize::try_from(ADDRESSES).unwrap());
}

/// A daemon with its own groups, and with accounts known to PAM.
struct Host {
    setup: Setup,
    full: Group,
    read: Group,
    service: PamService,
}

impl Host {
    /// `None`, with a message, where that is not possible.
    fn new() -> Option<Host> {
        let service = PamService::new(SERVICE).unwrap()?;
        let (full, read) = (Group::new().unwrap(), Group::new().unwrap());
        let setup = Setup::new(PROGRAM)
            .unwrap()
            .with("auth.pam_service", format!("{:?}", service.name()))
            .with("auth.full_access_groups", format!("[{:?}]", full.name()))
            .with("auth.read_only_groups", format!("[{:?}]", read.name()))
            .with("auth.recheck_interval", r#""1s""#);
        Some(Host { setup, full, read, service })
    }

    /// A user with a key.
    fn user(&self, groups: &[&Group]) -> Option<(User, Key)> {
        let (user, key) = (User::new(groups).unwrap(), Key::ed25519().unwrap()?);
        add(&self.setup, user.name(), &key, &[]);
        Some((user, key))
    }
}

#[test]
fn a_key_has_the_role_of_its_users_groups_and_none_without() {
    let Some(host) = Host::new() else { return };
    let groups: [&[&Group]; 3] = [&[&host.full], &[&host.read], &[]];
    let users: Option<Vec<_>> = groups.iter().map(|groups| host.user(groups)).collect();
    let Some(users) = users else { return };
    let daemon = host.setup.start().unwrap();
    let rights = users.iter().map(|(_, key)| {
        let mut peer = unauthenticated(&daemon);
        peer.show_key(key, &daemon, Transport::Tls)?;
        Ok(peer.request("rpc", "query", &json!({}))?["rpc/dispatcher"].clone())
    });
    let rights: Vec<Outcome<Value>> = rights.collect();
    assert_eq!(rights[0].as_ref().unwrap(), "read/write");
    assert_eq!(rights[1].as_ref().unwrap(), "read");
    let why = rights[2].as_ref().unwrap_err().to_string();
    assert!(why.contains("code: 403") && why.contains("none of the groups"), "{why}");
}

#[test]
fn key_of_a_locked_or_expired_account_is_refused() {
    let Some(host) = Host::new() else { return };
    let users: Option<Vec<_>> = (0..5).map(|_| host.user(&[&host.full])).collect();
    let Ok([locked, expired, aged, open, gone]) = <[_; 5]>::try_from(users.unwrap_or_default())
    else {
        return;
    };
    locked.0.lock().unwrap();
    expired.0.expire().unwrap();
    aged.0.expire_password().unwrap();
    // PAM reports the same for both.
    open.0.expire_password().unwrap();
    open.0.without_password().unwrap();
    drop(gone.0);
    let daemon = host.setup.start().unwrap();
    for (key, why) in [
        (&locked.1, "locked"),
        (&expired.1, "expired"),
        (&aged.1, "its password has expired"),
        (&open.1, "its password is empty, and empty passwords are refused"),
        (&gone.1, ""),
    ] {
        let mut peer = unauthenticated(&daemon);
        let refused = peer.key_refused(key, &daemon, Transport::Tls).unwrap();
        assert_eq!(refused.code, 403, "{}", refused.message);
        assert!(refused.message.contains(why), "{}", refused.message);
        assert_unauthenticated(&mut peer);
    }
}

#[test]
fn locked_or_removed_user_loses_the_session_of_its_key() {
    let Some(host) = Host::new() else { return };
    let users: Option<Vec<_>> = (0..3).map(|_| host.user(&[&host.full])).collect();
    let Some(users) = users else { return };
    let daemon = host.setup.start().unwrap();
    let mut peers: Vec<Peer> = (0..3).map(|_| unauthenticated(&daemon)).collect();
    for (peer, (_, key)) in peers.iter_mut().zip(&users) {
        peer.show_key(key, &daemon, Transport::Tls).unwrap();
    }
    users[0].0.join(&[]).unwrap();
    users[1].0.lock().unwrap();
    for peer in &mut peers[..2] {
        assert_eq!(peer.closed().unwrap(), 1008);
    }
    peers[2].request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn pam_account_checks_apply_to_connected_users() {
    let Some(host) = Host::new() else { return };
    let Some((user, key)) = host.user(&[&host.full]) else { return };
    let daemon = host.setup.start().unwrap();
    let mut by_key = unauthenticated(&daemon);
    by_key.show_key(&key, &daemon, Transport::Tls).unwrap();
    let mut by_password = unauthenticated(&daemon);
    let args = json!({ "username": user.name(), "password": User::PASSWORD });
    by_password.request("rpc", "auth", &args).unwrap();
    let mut local = Peer::local(&daemon).unwrap();
    local.request("rpc", "query", &json!({})).unwrap();
    // As an administrator who denies all access.
    let service = Path::new("/etc/pam.d").join(host.service.name());
    fs::write(service, format!("account requisite pam_deny.so\n{SERVICE}")).unwrap();
    assert_eq!(by_key.closed().unwrap(), 1008);
    assert_eq!(by_password.closed().unwrap(), 1008);
    let refused = unauthenticated(&daemon).key_refused(&key, &daemon, Transport::Tls).unwrap();
    assert_eq!(refused.code, 403, "{}", refused.message);
    local.request("rpc", "query", &json!({})).unwrap();
}

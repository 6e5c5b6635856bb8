//! `rpc/settings`: clients manage their keys, in the form of the original server's frames.

use nix::unistd;
use serde_json::{Value, json};
use support::{
    Cli, Daemon, Group, Key, Outcome, PamService, Peer, Setup, Transport, User, base64, until,
};

use super::{PROGRAM, ourselves};

/// From the recorded frames of the original client: a public key that it registers, in base64.
const RECORDED: &str = include_str!("../keys/qt-client-public.pem");
/// The checksum that the original server reported for it.
const RECORDED_SUM: &str = "NRLsKMJakQPEP1GUKedwBw==";

fn daemon() -> Daemon {
    Setup::new(PROGRAM).unwrap().with("auth.pam", false).start().unwrap()
}

fn ask(peer: &mut Peer, action: &str, more: Value) -> Outcome<Value> {
    peer.request("rpc", "settings", &args(action, more))
}

fn refused(peer: &mut Peer, action: &str, more: Value) -> (u64, String) {
    let refused = peer.refused("rpc", "settings", &args(action, more)).unwrap();
    (refused.code, refused.message)
}

fn args(action: &str, more: Value) -> Value {
    let mut args = json!({ "action": action });
    for (name, value) in more.as_object().into_iter().flatten() {
        args[name] = value.clone();
    }
    args
}

#[test]
fn key_is_registered_listed_and_revoked_like_by_the_original() {
    let daemon = daemon();
    let mut peer = Peer::local(&daemon).unwrap();
    let encoded = base64(RECORDED.as_bytes()).unwrap();
    let key = json!({ "pub_key": encoded, "nickname": "test key", "email": "me@example.org" });
    assert_eq!(ask(&mut peer, "register_ssl_cert", key.clone()).unwrap(), json!({}));
    let (user, _) = ourselves();
    for action in ["list_ssl_certs", "list_ssl_certificates"] {
        let list = ask(&mut peer, action, json!({})).unwrap();
        let details = list[&user][&encoded].as_str().unwrap();
        let start = "Nickname: test key\nEmail: me@example.org\nDate Registered: 20";
        assert!(details.starts_with(start), "{list}");
    }
    let sums = ask(&mut peer, "list_ssl_checksums", json!({})).unwrap();
    assert_eq!(sums, json!({ "md5_keys": [RECORDED_SUM] }));
    // Registering it again adds no second one; its description is replaced.
    let again = json!({ "pub_key": encoded, "nickname": "other" });
    ask(&mut peer, "register_ssl_certificate", again).unwrap();
    let list = ask(&mut peer, "list_ssl_certs", json!({})).unwrap();
    let details = list[&user][&encoded].as_str().unwrap();
    assert!(details.starts_with("Nickname: other\nEmail: \n"), "{list}");
    let revoked = ask(&mut peer, "revoke_ssl_cert", json!({ "pub_key": encoded })).unwrap();
    assert_eq!(revoked, json!({}));
    assert_eq!(ask(&mut peer, "list_ssl_certs", json!({})).unwrap(), json!({}));
    let gone = refused(&mut peer, "revoke_ssl_certificate", json!({ "pub_key": encoded }));
    assert_eq!(gone.0, 404, "{}", gone.1);
    daemon.log().wait("audit: registered key=\"").unwrap();
    daemon.log().wait(&format!("of={user:?} user={user:?} role=full by=\"local socket\"")).unwrap();
}

#[test]
fn key_registered_by_a_client_survives_the_daemon() {
    let setup = Setup::new(PROGRAM).unwrap().with("auth.pam", false);
    let daemon = setup.start().unwrap();
    let (Some(rsa), Some(strict)) = (Key::rsa().unwrap(), Key::rsa().unwrap()) else { return };
    let mut peer = Peer::local(&daemon).unwrap();
    let key =
        |key: &Key, legacy: Value| json!({ "pub_key": key.encoded().unwrap(), "legacy": legacy });
    ask(&mut peer, "register_ssl_cert", key(&rsa, Value::Null)).unwrap();
    ask(&mut peer, "register_ssl_cert", key(&strict, false.into())).unwrap();
    daemon.stop().unwrap();
    let daemon = setup.start().unwrap();
    // An RSA key is the original client's by default.
    for (key, is_legacy) in [(&rsa, true), (&strict, false)] {
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        let string = peer.challenge().unwrap();
        let raw = json!({ "encrypted_string": key.encrypt(&string).unwrap() });
        assert_eq!(peer.request("rpc", "auth_ssl", &raw).is_ok(), is_legacy);
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        peer.show_key(key, &daemon, Transport::Tls).unwrap();
    }
}

#[test]
fn client_that_revokes_its_own_key_gets_the_reply_first() {
    let daemon = daemon();
    let Some(key) = Key::ed25519().unwrap() else { return };
    let key_of = json!({ "pub_key": key.encoded().unwrap() });
    ask(&mut Peer::local(&daemon).unwrap(), "register_ssl_cert", key_of.clone()).unwrap();
    let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
    peer.show_key(&key, &daemon, Transport::Tls).unwrap();
    assert_eq!(ask(&mut peer, "revoke_ssl_cert", key_of).unwrap(), json!({}));
    assert_eq!(peer.closed().unwrap(), 1008);
}

#[test]
fn registration_by_a_vanished_client_is_logged() {
    let daemon = daemon();
    let mut peer = Peer::local(&daemon).unwrap();
    let key = args("register_ssl_cert", json!({ "pub_key": RECORDED }));
    peer.post("rpc", "settings", &key).unwrap();
    drop(peer);
    let user = ourselves().0;
    daemon.log().wait("registered keys: 1").unwrap();
    let line = daemon.log().wait("audit: registered key=\"").unwrap();
    assert!(line.contains(&format!("user={user:?} role=full by=\"local socket\"")), "{line}");
}

#[test]
fn invalid_key_is_rejected_with_the_reason() {
    let setup = Setup::new(PROGRAM).unwrap().with("auth.pam", false);
    let daemon = setup.with("auth.max_keys_per_user", 2).start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let keys: Option<Vec<Key>> = (0..3).map(|_| Key::ed25519().unwrap()).collect();
    let Some(keys) = keys else { return };
    let key = |at: usize| json!({ "pub_key": keys[at].encoded().unwrap() });
    for (more, why) in [
        (json!({}), "pub_key"),
        (json!({ "pub_key": "junk" }), "cannot be taken"),
        (json!({ "pub_key": base64(b"junk").unwrap() }), "no key"),
        (json!({ "pub_key": base64(include_bytes!("../keys/refused-p256.pem")).unwrap() }), "RSA"),
        (
            json!({ "pub_key": base64(include_bytes!("../keys/refused-rsa1024.pem")).unwrap() }),
            "1024",
        ),
        (json!({ "pub_key": RECORDED, "nickname": "a\u{1b}[2J" }), "control"),
        (json!({ "pub_key": RECORDED, "email": "a".repeat(255) }), "254"),
        (json!({ "pub_key": keys[0].encoded().unwrap(), "legacy": true }), "only an RSA key"),
    ] {
        let (code, message) = refused(&mut peer, "register_ssl_cert", more);
        assert_eq!(code, 400, "{message}");
        assert!(message.contains(why), "{why}: {message}");
    }
    let (code, message) = refused(&mut peer, "destroy_ssl_certs", json!({}));
    assert_eq!(code, 400);
    assert!(message.contains("list_ssl_certs, "), "{message}");
    ask(&mut peer, "register_ssl_cert", key(0)).unwrap();
    ask(&mut peer, "register_ssl_cert", key(1)).unwrap();
    ask(&mut peer, "register_ssl_cert", key(1)).unwrap();
    let (code, message) = refused(&mut peer, "register_ssl_cert", key(2));
    assert_eq!(code, 429);
    assert!(message.contains("max_keys_per_user"), "{message}");
}

#[test]
fn each_manages_own_keys_and_full_access_all() {
    let Some(service) = PamService::new(PamService::TEXT).unwrap() else {
        return;
    };
    let (full, read) = (Group::new().unwrap(), Group::new().unwrap());
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with("auth.pam_service", format!("{:?}", service.name()))
        .with("auth.full_access_groups", format!("[{:?}]", full.name()))
        .with("auth.read_only_groups", format!("[{:?}]", read.name()));
    let daemon = setup.start().unwrap();
    let users = [&read, &read, &full].map(|group| User::new(&[group]).unwrap());
    let mut peers: Vec<Peer> = Vec::new();
    for user in &users {
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        let args = json!({ "username": user.name(), "password": User::PASSWORD });
        peer.request("rpc", "auth", &args).unwrap();
        peers.push(peer);
    }
    let keys: Option<Vec<Key>> = (0..2).map(|_| Key::ed25519().unwrap()).collect();
    let Some(keys) = keys else { return };
    let key = |at: usize| keys[at].encoded().unwrap();
    for (at, peer) in peers[..2].iter_mut().enumerate() {
        // Clients cannot choose the owner.
        let more = json!({ "pub_key": key(at), "user": "root" });
        ask(peer, "register_ssl_cert", more).unwrap();
        let list = ask(peer, "list_ssl_certs", json!({})).unwrap();
        let own = list.as_object().unwrap();
        assert_eq!(own.keys().collect::<Vec<_>>(), [users[at].name()], "{list}");
    }
    let list = ask(&mut peers[2], "list_ssl_certs", json!({})).unwrap();
    assert_eq!(list.as_object().unwrap().len(), 2, "{list}");
    let sums = ask(&mut peers[2], "list_ssl_checksums", json!({})).unwrap();
    assert_eq!(sums["md5_keys"], json!([keys[0].checksum().unwrap(), keys[1].checksum().unwrap()]));
    let sums = ask(&mut peers[1], "list_ssl_checksums", json!({})).unwrap();
    assert_eq!(sums["md5_keys"], json!([keys[1].checksum().unwrap()]));
    // Another user's key.
    let (code, message) = refused(&mut peers[1], "register_ssl_cert", json!({ "pub_key": key(0) }));
    assert_eq!(code, 409);
    assert!(!message.contains(users[0].name()), "{message}");
    let theirs = json!({ "pub_key": key(0), "user": users[0].name() });
    assert_eq!(refused(&mut peers[1], "revoke_ssl_cert", theirs.clone()).0, 403);
    let as_own = json!({ "pub_key": key(0) });
    assert_eq!(refused(&mut peers[1], "revoke_ssl_cert", as_own.clone()).0, 404);
    assert_eq!(refused(&mut peers[2], "revoke_ssl_cert", as_own).0, 404);
    ask(&mut peers[2], "revoke_ssl_cert", theirs).unwrap();
    assert_eq!(ask(&mut peers[0], "list_ssl_certs", json!({})).unwrap(), json!({}));
}

#[test]
fn legacy_keys_of_one_user_are_limited() {
    let setup = Setup::new(PROGRAM).unwrap().with("auth.pam", false);
    let setup = setup.with("auth.max_legacy_keys_per_user", 1);
    let daemon = setup.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let keys: Option<Vec<Key>> = (0..2).map(|_| Key::rsa().unwrap()).collect();
    let Some(keys) = keys else { return };
    let key = |at: usize| json!({ "pub_key": keys[at].encoded().unwrap() });
    ask(&mut peer, "register_ssl_cert", key(0)).unwrap();
    // The same once more is no second one.
    ask(&mut peer, "register_ssl_cert", key(0)).unwrap();
    let (code, message) = refused(&mut peer, "register_ssl_cert", key(1));
    assert_eq!(code, 429);
    assert!(message.contains("max_legacy_keys_per_user"), "{message}");
    // As a key of our own form it takes no such place.
    let mut strict = key(1);
    strict["legacy"] = false.into();
    ask(&mut peer, "register_ssl_cert", strict).unwrap();
    let add = Cli::of(PROGRAM, "key").args(["add", &ourselves().0]).arg(keys[1].public());
    // The administrator may.
    let added = add.arg("--legacy").arg("-c").arg(setup.file()).run().unwrap();
    assert_eq!(added.code(), 0, "{}", added.err);
}

#[test]
fn user_known_by_number_is_registered_by_name() {
    let Some(service) = PamService::new(PamService::TEXT).unwrap() else {
        return;
    };
    let read = Group::new().unwrap();
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .open_to_all()
        .unwrap()
        .with("auth.pam_service", format!("{:?}", service.name()))
        .with("auth.read_only_groups", format!("[{:?}]", read.name()));
    let daemon = setup.start().unwrap();
    let user = User::new(&[&read]).unwrap();
    let uid = unistd::User::from_name(user.name()).unwrap().unwrap().uid.as_raw();
    let gid = unistd::Group::from_name(read.name()).unwrap().unwrap().gid.as_raw();
    let Some(key) = Key::ed25519().unwrap() else { return };
    let request = args("register_ssl_cert", json!({ "pub_key": key.encoded().unwrap() }));
    let call = Cli::to(&daemon, "call").args(["rpc", "settings", &request.to_string()]);
    let called = call.as_user(uid, gid).run().unwrap();
    assert_eq!((called.code(), called.out.trim()), (0, "{}"), "{}", called.err);
    let mut local = Peer::local(&daemon).unwrap();
    let list = ask(&mut local, "list_ssl_certs", json!({})).unwrap();
    assert_eq!(list.as_object().unwrap().keys().collect::<Vec<_>>(), [user.name()]);
    let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
    peer.show_key(&key, &daemon, Transport::Tls).unwrap();
    until("it is known by name", || {
        let status = local.request("rpc", "status", &json!({})).unwrap();
        status["clients"].as_array().unwrap().iter().any(|client| client["user"] == user.name())
    });
}

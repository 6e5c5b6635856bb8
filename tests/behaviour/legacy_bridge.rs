//! Peers of the original kind: its Qt client behind a link of this server, and this server at its
//! relay. The client's frames are recorded frames of the original.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{
    Bridge, Cli, Daemon, Key, Outcome, Peer, RelayedClient, Setup, Transport, decrypt, until,
};

use super::{PROGRAM, ourselves};

const IDENTIFY: &str =
    r#"{"namespace": "rpc", "name": "identify", "id": "sysadm_client_identify", "args": ""}"#;
const AUTH: &str = r#"{"namespace": "rpc", "name": "auth_ssl", "id": "sysadm-client-auth-auto", "args": {"md5_key": "NRLsKMJakQPEP1GUKedwBw=="}}"#;
const QUERY: &str = r#"{"namespace": "rpc", "name": "query", "id": "q", "args": ""}"#;
const SUBSCRIBE: &str = r#"{"namespace": "events", "name": "subscribe", "id": "sub", "args": ["dispatcher", "life-preserver", "system-state"]}"#;
const RUN: &str = r#"{"namespace": "rpc", "name": "dispatcher", "id": "run", "args": {"action": "run", "bjob": ["echo via bridge", "echo 2"]}}"#;

fn hostname() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

/// A server behind a relay, a client of the original kind, and its key.
struct Scene {
    bridge: Bridge,
    setup: Setup,
    daemon: Daemon,
    key: Key,
    server: String,
}

impl Scene {
    /// `None`, with a message, without openssl(1).
    fn new(allowed: &str) -> Outcome<Option<Scene>> {
        let Some(key) = Key::rsa()? else { return Ok(None) };
        let bridge = Bridge::start_legacy()?;
        // The accounts helper ends between two re-checks, so each of these has a helper of its own.
        let setup = Setup::new(PROGRAM)?
            .with("auth.pam", false)
            .with("auth.helper_idle", r#""100ms""#)
            .with("auth.recheck_interval", r#""1s""#)
            .with("bridge.allow_legacy_bridge_clients", format!("{allowed:?}"))
            .with_lines(&bridge.link("office"));
        setup.write()?;
        let add = Cli::of(PROGRAM, "key").args(["add", &ourselves().0]).arg(key.public());
        let added = add.args(["--legacy", "-c"]).arg(setup.file()).run()?;
        assert_eq!(added.code(), 0, "{}", added.err);
        let daemon = setup.start()?;
        let server = bridge.wait_for_servers(1).remove(0);
        Ok(Some(Scene { bridge, setup, daemon, key, server }))
    }

    /// Sends a request like the client.
    fn clear(&self, client: &RelayedClient, request: &str) -> Value {
        client.ask_in_clear(&self.server, &serde_json::from_str(request).unwrap()).unwrap()
    }

    fn encoded(&self, client: &RelayedClient, request: &str) -> Value {
        client.ask_encoded(&self.server, &serde_json::from_str(request).unwrap()).unwrap()
    }

    /// An authenticated client, and the reply to the last stage.
    fn known(&self, id: &str) -> (RelayedClient, Value) {
        let client = self.bridge.client(id);
        let first = self.clear(&client, AUTH);
        let string = first["args"]["test_string"].as_str().unwrap();
        let string = String::from_utf8(STANDARD.decode(string).unwrap()).unwrap();
        let args = json!({ "encrypted_string": self.key.encrypt(&string).unwrap() });
        let id = "sysadm-client-auth-auto";
        let proof = json!({ "namespace": "rpc", "name": "auth_ssl", "id": id, "args": args });
        let answer = self.encoded(&client, &proof.to_string());
        (client, answer)
    }
}

/// The next event, decoded.
fn event(client: &RelayedClient) -> Value {
    let payload = client.receive().unwrap().payload;
    serde_json::from_slice(&STANDARD.decode(payload).unwrap()).unwrap()
}

#[test]
fn qt_client_is_served_where_it_is_allowed() {
    let Some(scene) = Scene::new("full").unwrap() else { return };
    scene.daemon.log().wait("allow_legacy_bridge_clients is full").unwrap();
    // Ids of the original bridge have braces.
    let client = scene.bridge.client("::{b977c6b0-5725-48af-8397-e8bb82240b0a}");
    let who = json!({"args": {"hostname": hostname(), "type": "server"}, "id": "sysadm_client_identify", "name": "response", "namespace": "rpc"});
    assert_eq!(scene.clear(&client, IDENTIFY), who);
    let first = scene.clear(&client, AUTH);
    assert_eq!(
        (&first["id"], &first["name"]),
        (&json!("sysadm-client-auth-auto"), &json!("response"))
    );
    let args = first["args"].as_object().unwrap();
    assert_eq!(args.len(), 2);
    let decoded = |name: &str| {
        String::from_utf8(STANDARD.decode(args[name].as_str().unwrap()).unwrap()).unwrap()
    };
    assert!(decoded("new_ssl_key").contains(" PUBLIC KEY--"));
    let string = decoded("test_string");
    assert!(string.len() >= 128 && string.bytes().all(|byte| byte.is_ascii_alphanumeric()));

    let (client, answer) = scene.known("::{2dbc34b3-c84b-4860-ba79-6ae816a91ea4}");
    assert!(answer["args"][0].is_string() && answer["args"][1].is_u64(), "{answer}");
    assert_eq!(scene.encoded(&client, QUERY)["args"]["rpc/dispatcher"], "read/write");
    assert_eq!(scene.encoded(&client, SUBSCRIBE)["args"]["subscribe"][2], "system-state");
    // In its spelling, which has hyphens.
    assert_eq!(event(&client)["name"], "system-state");
    assert_eq!(scene.encoded(&client, RUN)["args"], json!({ "started": ["bjob"] }));
    let finished = loop {
        let event = event(&client);
        if event["args"]["state"] == "finished" {
            break event;
        }
    };
    assert_eq!(finished["args"]["echo via bridge"], "via bridge\n");
    assert_eq!(finished["args"]["return_codes/echo 2"], "0");
}

#[test]
fn read_only_legacy_client_cannot_gain_privileges() {
    let Some(scene) = Scene::new("read").unwrap() else { return };
    let (client, answer) = scene.known("far");
    let query = scene.encoded(&client, QUERY);
    assert_eq!(query["args"]["rpc/dispatcher"], "read");
    let refused = scene.encoded(&client, RUN);
    assert_eq!((&refused["name"], &refused["args"]["code"]), (&json!("error"), &json!(403)));
    assert_eq!(scene.encoded(&client, SUBSCRIBE)["name"], "response");
    event(&client);
    // A key of the relay's own, registered in the client's name, would grant access.
    let pub_key = scene.key.encoded().unwrap();
    let token = Peer::token(&scene.daemon).unwrap();
    for (name, args) in [
        ("settings", json!({ "action": "register_ssl_cert", "pub_key": pub_key })),
        ("settings", json!({ "action": "revoke_ssl_cert", "pub_key": pub_key })),
        ("auth_token", json!({ "token": token })),
        ("auth", json!({ "username": ourselves().0, "password": "secret" })),
    ] {
        let request = json!({ "namespace": "rpc", "name": name, "id": "x", "args": args });
        let refused = scene.encoded(&client, &request.to_string());
        assert_eq!(
            (&refused["name"], &refused["args"]["code"]),
            (&json!("error"), &json!(403)),
            "{name}"
        );
    }
    // The token that was sent through the relay is invalid elsewhere.
    let mut direct = Peer::connect(&scene.daemon, Transport::Tls).unwrap();
    let shown =
        direct.refused("rpc", "auth_token", &json!({ "token": answer["args"][0] })).unwrap();
    assert_eq!(shown.code, 401);
}

#[test]
fn disallowed_client_in_clear_gets_the_identity_only() {
    let Some(scene) = Scene::new("no").unwrap() else { return };
    let client = scene.bridge.client("far");
    assert_eq!(scene.clear(&client, IDENTIFY)["args"]["type"], "server");
    for request in [AUTH, QUERY, RUN] {
        let refused = scene.clear(&client, request);
        assert_eq!((&refused["name"], &refused["args"]["code"]), (&json!("error"), &json!(403)));
    }
    // Replies get no reply, and unknown payloads are ignored.
    for payload in [r#"{"name":"error","args":{}}"#, "{", "eyJhIjoxfQ==", ""] {
        client.send(&scene.server, payload);
    }
    assert_eq!(scene.clear(&client, IDENTIFY)["args"]["type"], "server");
    let mut peer = Peer::local(&scene.daemon).unwrap();
    let status = peer.request("rpc", "status", &json!({})).unwrap();
    assert_eq!(status["clients"].as_array().unwrap().len(), 1, "{status}");
}

#[test]
fn a_clear_word_begins_anew_and_garbage_ends_a_session() {
    let Some(scene) = Scene::new("full").unwrap() else { return };
    let (client, _) = scene.known("far");
    scene.encoded(&client, QUERY);
    // A client that starts again is unauthenticated: the encoded request belongs to no session.
    scene.clear(&client, IDENTIFY);
    let over = scene.encoded(&client, QUERY);
    assert_eq!(
        (&over["id"], &over["args"]["code"]),
        (&json!("sysadm-client-auth-auto"), &json!(401))
    );
    let first = scene.clear(&client, AUTH);
    assert!(first["args"]["test_string"].is_string());
    let refused = scene.encoded(&client, QUERY);
    assert_eq!(refused["args"]["code"], 401);

    let (client, _) = scene.known("other");
    client.send(&scene.server, "%%%");
    assert_eq!(event(&client)["args"]["code"], 401);
    assert_eq!(scene.encoded(&client, RUN)["id"], "sysadm-client-auth-auto");
    assert_eq!(scene.clear(&client, IDENTIFY)["id"], "sysadm_client_identify");
    let mut peer = Peer::local(&scene.daemon).unwrap();
    let list = peer.request("rpc", "dispatcher", &json!({ "action": "list" })).unwrap();
    assert!(!list.to_string().contains("bjob"), "{list}");
}

#[test]
fn legacy_session_gets_pending_jobs_again_on_a_dispatcher_request() {
    let Some(scene) = Scene::new("full").unwrap() else { return };
    let (client, _) = scene.known("far");
    let mut local = Peer::local(&scene.daemon).unwrap();
    for id in ["runs", "waits"] {
        let args = json!({ "action": "submit", "id": id, "queue": "q", "commands": ["sleep 600"] });
        local.request("rpc", "dispatcher", &args).unwrap();
    }
    let subscribe =
        r#"{"namespace": "events", "name": "subscribe", "id": "sub", "args": ["dispatcher"]}"#;
    let list =
        r#"{"namespace": "rpc", "name": "dispatcher", "id": "l", "args": {"action": "list"}}"#;
    scene.encoded(&client, subscribe);
    let states = |count: usize| -> Vec<(Value, Value)> {
        let take = |_| event(&client)["args"].clone();
        let args = (0..count).map(take);
        args.map(|args| (args["state"].clone(), args["process_id"].clone())).collect()
    };
    assert_eq!(states(2)[1], (json!("pending"), json!("waits")));
    for _ in 0..2 {
        assert_eq!(scene.encoded(&client, list)["id"], "l");
        assert_eq!(states(1), [(json!("pending"), json!("waits"))]);
    }
    let kill = json!({ "action": "kill", "job_id": ["runs", "waits"] });
    local.request("rpc", "dispatcher", &kill).unwrap();
}

#[test]
fn a_reload_takes_the_leave_away() {
    let Some(mut scene) = Scene::new("full").unwrap() else { return };
    let (client, _) = scene.known("far");
    scene.setup.set("bridge.allow_legacy_bridge_clients", r#""read""#);
    scene.setup.write().unwrap();
    scene.daemon.reload().unwrap();
    assert_eq!(scene.encoded(&client, QUERY)["args"]["rpc/dispatcher"], "read");
    scene.setup.set("bridge.allow_legacy_bridge_clients", r#""no""#);
    scene.setup.write().unwrap();
    scene.daemon.reload().unwrap();
    // It is asked to authenticate again, in the form that it understands.
    let over = event(&client);
    assert_eq!((&over["name"], &over["id"]), (&json!("error"), &json!("sysadm-client-auth-auto")));
    assert_eq!(over["args"]["code"], 401);
    until("the session ends", || {
        let status = Peer::local(&scene.daemon).unwrap().request("rpc", "status", &json!({}));
        status.unwrap()["links"][0]["clients"][0]["client"].is_null()
    });
}

#[test]
fn recheck_of_session_limited_to_read_raises_no_role() {
    let Some(scene) = Scene::new("read").unwrap() else { return };
    let (client, _) = scene.known("far");
    let mut local = Peer::local(&scene.daemon).unwrap();
    let mut helpers = std::collections::BTreeSet::new();
    until("two re-checks are over", || {
        let status = local.request("rpc", "status", &json!({})).unwrap();
        helpers.extend(status["accounts"]["pid"].as_u64());
        helpers.len() > 3
    });
    assert_eq!(scene.encoded(&client, QUERY)["args"]["rpc/dispatcher"], "read");
    let lines = scene.daemon.log().lines();
    assert!(!lines.iter().any(|line| line.contains("access now")), "{lines:#?}");
}

#[test]
fn link_to_a_legacy_relay_sends_the_original_frames_only() {
    let Some(scene) = Scene::new("no").unwrap() else { return };
    let export = Cli::of(PROGRAM, "key").args(["export", "--legacy", "-c"]);
    let exported = export.arg(scene.setup.file()).run().unwrap();
    assert_eq!(exported.code(), 0, "{}", exported.err);
    // Other frames of a legacy relay: an error that is a string, and requests.
    for text in [
        r#"{"namespace":"rpc","name":"error","id":"server_to_bridge_auth","args":"Unauthorized"}"#,
        r#"{"namespace":"rpc","name":"error","id":"x","args":null}"#,
        r#"{"namespace":"rpc","name":"query","id":"x","args":""}"#,
        r#"{"namespace":"rpc","name":"dispatcher","id":"x","args":{"action":"run","a":"true"}}"#,
        r#"{"namespace":"rpc","name":"response","id":"x","args":{"a":1}}"#,
        r#"{"namespace":"rpc","name":"settings","id":"bridge_request_list_keys","args":{"action":"list_ssl_checksums"}}"#,
    ] {
        scene.bridge.send_to(&scene.server, text);
    }
    until("the keys are named twice", || scene.bridge.said().len() >= 5);
    let said: Vec<Value> = scene.bridge.said().into_iter().map(|(_, frame)| frame).collect();
    let asked =
        json!({"args": "", "id": "server_to_bridge_auth", "name": "auth_ssl", "namespace": "rpc"});
    assert_eq!(said.iter().filter(|frame| **frame == asked).count(), 1);
    let proof = said.iter().find(|frame| frame["args"]["encrypted_string"].is_string()).unwrap();
    assert_eq!(proof["args"].as_object().unwrap().len(), 1);
    let encrypted = STANDARD.decode(proof["args"]["encrypted_string"].as_str().unwrap()).unwrap();
    assert_eq!(decrypt(&exported.out, &encrypted).unwrap(), "x".repeat(40));
    let answers: Vec<&Value> = said.iter().filter(|frame| frame["name"] == "response").collect();
    let who = json!({"args": {"hostname": hostname(), "type": "server"}, "id": "sysadm_bridge_request_ident", "name": "response", "namespace": "rpc"});
    let sum = scene.key.checksum().unwrap();
    let keys = json!({"args": {"md5_keys": [sum]}, "id": "bridge_request_list_keys", "name": "response", "namespace": "rpc"});
    for answer in &answers {
        assert!(**answer == who || **answer == keys, "{answer}");
    }
    assert_eq!((said.len(), answers.len()), (5, 3), "{said:?}");
}

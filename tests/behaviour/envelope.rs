//! The envelope of requests and replies.

use serde_json::{Value, json};
use support::{Daemon, Peer, Setup, Stream, Transport, client_frame};
use tungstenite::Message;

use super::PROGRAM;

/// Sends a text unchanged, and returns the reply unchanged.
fn say(peer: &mut Peer, text: &str) -> String {
    peer.send_message(Message::text(text)).unwrap();
    peer.event().unwrap()
}

/// The same, with the reply parsed.
fn ask(peer: &mut Peer, text: &str) -> Value {
    serde_json::from_str(&say(peer, text)).unwrap()
}

/// A request to identify, which needs no authentication.
fn identify(id: &str) -> String {
    format!(r#"{{"namespace":"rpc","name":"identify","id":{id},"args":""}}"#)
}

#[test]
fn id_is_returned_byte_for_byte() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for id in [
        r#""fooid""#,
        r#""""#,
        r#""\u00e9\/\n\"\\ \ud83d\ude00""#,
        r#""ünïcödé 😀""#,
        "5",
        "0",
        "-1.50",
        "1e400",
        "123456789012345678901234567890",
        "0.10000000000000000000001",
    ] {
        let reply = say(&mut peer, &identify(id));
        assert!(reply.contains(&format!(r#""id":{id},"#)), "{id}: {reply}");
        let error = say(&mut peer, &format!(r#"{{"id":{id},"namespace":"rpc","name":"no"}}"#));
        assert!(error.contains(&format!(r#""id":{id},"#)), "{id}: {error}");
        serde_json::from_str::<Value>(&reply.replace("1e400", "1")).unwrap();
    }
    let without = ask(&mut peer, r#"{"namespace":"rpc","name":"identify"}"#);
    assert_eq!(without["id"], "");
    assert_eq!(ask(&mut peer, &identify("null"))["id"], "");
    for id in ["{}", "[1]", "true", "false"] {
        let refused = ask(&mut peer, &identify(id));
        assert_eq!((&refused["name"], &refused["id"]), (&json!("error"), &json!("")), "{id}");
        assert_eq!(refused["args"]["code"], 400);
    }
}

#[test]
fn reply_has_the_namespace_and_keys_may_be_in_any_order() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let args = ask(&mut peer, &identify("1"))["args"].take();
    let hostname = &args["hostname"];
    let version = env!("CARGO_PKG_VERSION");
    let wanted =
        json!({ "type": "server", "hostname": hostname, "version": version, "protocol": 2 });
    assert_eq!(args, wanted);
    for (namespace, name) in [("rpc", "identify"), ("RPC", "Identify"), ("rPc", "IDENTIFY")] {
        let text = format!(
            r#" {{"jsonrpc":[{{}}],"args":"","id":7,"name":"{name}","x":null,"namespace":"{namespace}"}}
            "#
        );
        let expected = json!({ "namespace": namespace, "name": "response", "id": 7, "args": args });
        assert_eq!(ask(&mut peer, &text), expected);
    }
    let text = r#"{"namespace":"Events","name":"SUBSCRIBE","id":"s","args":["dispatcher"]}"#;
    let reply = ask(&mut peer, text);
    assert_eq!((&reply["namespace"], &reply["name"]), (&json!("Events"), &json!("response")));
    // Escapes in a name or a key are the letters that they stand for.
    let text = r#"{"namespace":"\u0072pc","na\u006de":"identif\u0079","id":8}"#;
    assert_eq!(ask(&mut peer, text)["args"], args);
}

#[test]
fn error_names_the_fault_and_the_existing_names() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let text = r#"{"namespace":"sysadm","name":"zfs","id":"x","args":{}}"#;
    let refused = ask(&mut peer, text);
    let args = refused["args"].clone();
    let expected = json!({ "namespace": "sysadm", "name": "error", "id": "x", "args": args });
    assert_eq!(refused, expected);
    for (namespace, name, args, code, words) in [
        ("sysadm", "zfs", json!({}), 404, ["\"sysadm\"", "rpc", "events"]),
        ("rpc", "nosuch", json!({}), 404, ["\"nosuch\"", "identify", "dispatcher"]),
        ("events", "publish", json!([]), 404, ["\"publish\"", "subscribe", "unsubscribe"]),
        ("rpc", "dispatcher", json!({}), 400, ["no action", "run", "kill"]),
        ("rpc", "dispatcher", json!({ "action": "bogus" }), 400, ["\"bogus\"", "list", "log"]),
        ("rpc", "dispatcher", json!({ "action": 5 }), 400, ["no action", "run", "kill"]),
        ("rpc", "dispatcher", json!("list"), 400, ["no action", "run", "kill"]),
    ] {
        let refused = peer.refused(namespace, name, &args).unwrap();
        assert_eq!(refused.code, code, "{namespace}/{name} {args}");
        for word in words {
            assert!(refused.message.contains(word), "{}", refused.message);
        }
    }
}

#[test]
fn a_binary_frame_that_holds_utf_8_is_a_request() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in Transport::ALL {
        let mut peer = Peer::connect(&daemon, transport).unwrap();
        peer.send_message(Message::binary(identify("\"ü\"").into_bytes())).unwrap();
        // The reply contains text.
        let reply: Value = serde_json::from_str(&peer.event().unwrap()).unwrap();
        assert_eq!((&reply["id"], &reply["args"]["type"]), (&json!("ü"), &json!("server")));
    }
}

#[test]
fn invalid_request_gets_400_and_the_connection_stays() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in Transport::ALL {
        let mut peer = Peer::connect(&daemon, transport).unwrap();
        // From the recorded frames of the original server, and frames that it never received.
        for text in [
            r#"{"namespace":"rpc","name":"identify""#,
            "not json",
            "",
            "[]",
            "null",
            "\"str\"",
            "5",
            r#"{"namespace":"rpc","name":"identify","id":"two","args":""}{"namespace":"rpc","name":"identify","id":"two2","args":""}"#,
            "{\"namespace\":\"rpc\",\"name\":\"iden\0tify\",\"id\":\"x\"}",
            "\u{feff}{\"namespace\":\"rpc\",\"name\":\"identify\",\"id\":\"x\"}",
            "{'namespace':'rpc'}",
        ] {
            let reply = ask(&mut peer, text);
            assert_eq!((&reply["name"], &reply["id"]), (&json!("error"), &json!("")), "{text}");
            assert_eq!(reply["args"]["code"], 400, "{text}");
            assert!(reply["args"]["message"].as_str().unwrap().len() > 15, "{text}: {reply}");
        }
        // A frame that parses but lacks a part gets its id back.
        for text in [
            r#"{"id":"x"}"#,
            r#"{"namespace":"rpc","id":"x"}"#,
            r#"{"name":"identify","id":"x"}"#,
            r#"{"namespace":5,"name":"identify","id":"x"}"#,
            r#"{"namespace":"rpc","name":{},"id":"x"}"#,
            r#"{"namespace":"rpc","name":"identify","args":"\ud800","id":"x"}"#,
            r#"{"namespace":"\udc00","name":"identify","id":"x"}"#,
        ] {
            let reply = ask(&mut peer, text);
            assert_eq!((&reply["name"], &reply["id"]), (&json!("error"), &json!("x")), "{text}");
            assert_eq!(reply["args"]["code"], 400, "{text}");
        }
        assert_eq!(ask(&mut peer, &identify("\"after\""))["id"], "after");
    }
}

#[test]
fn response_and_error_get_no_reply() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let token = Peer::token(&daemon).unwrap();
    for transport in Transport::ALL {
        let mut peer = Peer::connect(&daemon, transport).unwrap();
        for authenticated in [false, true] {
            if authenticated {
                let reply = peer.request("rpc", "auth_token", &json!({ "token": token })).unwrap();
                assert_eq!(reply[0], token.as_str());
            }
            for text in [
                r#"{"namespace":"rpc","name":"response","id":"fooid","args":{}}"#,
                r#"{"namespace":"rpc","name":"error","id":"fooid","args":{"code":"401","message":"Unauthorized"}}"#,
                r#"{"namespace":"error","name":"error","id":"","args":{"code":"400","message":"Bad Request"}}"#,
                r#"{"name":"response"}"#,
                r#"{"name":"ERROR","id":{},"args":"\ud800"}"#,
                r#"{"namespace":"events","name":"Response","id":1,"args":[]}"#,
            ] {
                peer.send_message(Message::text(text)).unwrap();
            }
            assert_eq!(ask(&mut peer, &identify("\"next\""))["id"], "next", "{transport:?}");
        }
    }
}

#[test]
fn replies_are_in_the_order_of_requests() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in Transport::ALL {
        let mut peer = Peer::known(&daemon, transport).unwrap();
        let requests = [
            ("rpc", "identify", json!("")),
            ("rpc", "query", json!({})),
            ("rpc", "nosuch", json!({})),
            ("rpc", "dispatcher", json!({ "action": "list" })),
            ("events", "subscribe", json!("life-preserver")),
            ("rpc", "status", json!({})),
            ("rpc", "dispatcher", json!({ "action": "log", "job_id": "none" })),
        ];
        let mut bytes = Vec::new();
        for (id, (namespace, name, args)) in requests.iter().cycle().take(500).enumerate() {
            let request = json!({ "namespace": namespace, "name": name, "id": id, "args": args });
            bytes.extend(client_frame(0x81, request.to_string().as_bytes()));
        }
        peer.stream().send(&bytes).unwrap();
        for id in 0..500 {
            assert_eq!(peer.frame().unwrap()["id"], id, "{}", transport.name());
        }
    }
}

/// A request of exactly this number of bytes.
fn of_length(bytes: usize) -> String {
    let bare = r#"{"namespace":"rpc","name":"identify","id":"long","args":""}"#;
    bare.replace(r#":"""#, &format!(r#":"{}""#, "x".repeat(bytes - bare.len())))
}

#[test]
fn unauthenticated_message_has_at_most_8_kib() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    for transport in [Transport::Plain, Transport::Tls] {
        let mut peer = Peer::connect(&daemon, transport).unwrap();
        assert_eq!(ask(&mut peer, &of_length(8192))["id"], "long");
        peer.send_message(Message::text(of_length(8193))).unwrap();
        assert_eq!(peer.closed().unwrap(), 1009);
        // In fragments it counts as a whole.
        let mut stream = Stream::open(&daemon, transport).unwrap();
        stream.send(&client_frame(0x01, &[b'x'; 8000])).unwrap();
        stream.send(&client_frame(0x80, &[b'x'; 193])).unwrap();
        assert_eq!(stream.read_close().unwrap().0, 1009);
    }
    // A client that gives up its identity is unauthenticated again.
    let mut peer = Peer::local(&daemon).unwrap();
    assert_eq!(ask(&mut peer, &of_length(8193))["id"], "long");
    peer.post("rpc", "auth_clear", &json!({})).unwrap();
    assert_eq!(ask(&mut peer, &of_length(8192))["id"], "long");
    peer.send_message(Message::text(of_length(8193))).unwrap();
    assert_eq!(peer.closed().unwrap(), 1009);
}

#[test]
fn after_authentication_a_message_has_at_most_max_message() {
    let setup = Setup::new(PROGRAM).unwrap().with("server.max_message", r#""20KiB""#);
    let daemon = setup.start().unwrap();
    for transport in Transport::ALL {
        let mut peer = Peer::known(&daemon, transport).unwrap();
        assert_eq!(ask(&mut peer, &of_length(20 * 1024))["id"], "long");
        peer.send_message(Message::text(of_length(20 * 1024 + 1))).unwrap();
        assert_eq!(peer.closed().unwrap(), 1009, "{}", transport.name());
    }
}

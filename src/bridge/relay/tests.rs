//! The six rules, driven by hand: no socket, no key, no clock.

use std::time::Duration;

use super::*;
use crate::auth::key::{Kind, PrivateKey};
use serde_json::{Value, json};

const A: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
const B: &str = "BBBBBBBBBBBBBBBBBBBBBA==";
const C: &str = "CCCCCCCCCCCCCCCCCCCCCA==";

fn key() -> KeyId {
    PrivateKey::generate(Kind::Ed25519).unwrap().public().id()
}

fn registration(key: KeyId) -> Registration {
    Registration { name: "office".into(), key, legacy: false, checksums: None }
}

fn checksums(texts: &[&str]) -> Vec<KeyChecksum> {
    texts.iter().map(|text| KeyChecksum::parse(text).unwrap()).collect()
}

/// A relay, and the messages sent to each peer.
struct Fixture {
    relay: Relay,
    now: Instant,
    /// End of the turn; long after the previous one.
    end: Instant,
}

impl Fixture {
    fn new() -> Fixture {
        let now = Instant::now();
        Fixture { relay: Relay::new("bridge.example.org"), now, end: now }
    }

    fn say(&mut self, number: PeerNumber, text: &str) {
        self.relay.take(number, text, self.now);
    }

    /// Ends the turn: all effects, as short texts.
    fn sent_list(&mut self) -> Vec<String> {
        self.messages_to(|_| true)
    }

    /// The same where only some peers are ready for lists.
    fn messages_to(&mut self, is_ready: impl Fn(PeerNumber) -> bool) -> Vec<String> {
        self.end += Duration::from_secs(60);
        self.relay.send_lists(self.end, is_ready);
        self.effects()
    }

    /// Effects so far, as short texts.
    fn effects(&mut self) -> Vec<String> {
        let mut sent_list = Vec::new();
        while let Some(effect) = self.relay.next_effect() {
            sent_list.push(match effect {
                Effect::Send { to, text } => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    match frame["name"].as_str().unwrap() {
                        "bridge" => {
                            let list = frame["args"]["available_connections"].as_array().unwrap();
                            let list: Vec<_> = list.iter().map(|id| id.as_str().unwrap()).collect();
                            format!("{to} list {}", list.join(" "))
                        }
                        "error" => format!("{to} error {}", frame["args"]["code"]),
                        "response" => format!("{to} response {}", frame["args"]),
                        question => format!("{to} {question}?"),
                    }
                }
                Effect::Forward { from, to, frame } => format!("{from}>{to} {frame}"),
                Effect::Judge { peer, test_string, proof, .. } => {
                    format!("judge {peer} {} {proof:?}", test_string.is_some())
                }
                Effect::Deauthenticated(peer) => format!("{peer} estranged"),
                Effect::Close { peer, reason } => format!("{peer} close {}", reason.code),
            });
        }
        sent_list
    }

    fn identify(&mut self, number: PeerNumber, kind: &str) {
        self.say(number, &format!(
            r#"{{"namespace":"rpc","name":"response","id":"sysadm_bridge_request_ident","args":{{"type":"{kind}","hostname":"h"}}}}"#
        ));
    }

    fn claim(&mut self, number: PeerNumber, checksums: &[&str]) {
        let args = json!({ "md5_keys": checksums });
        self.say(number, &format!(
            r#"{{"namespace":"rpc","name":"response","id":"bridge_request_list_keys","args":{args}}}"#
        ));
    }

    /// A peer that has authenticated and has listed its keys.
    fn join(&mut self, number: PeerNumber, kind: &str, checksums: &[&str]) {
        self.relay.connect(number, format!("id{number}"));
        self.identify(number, kind);
        self.relay.prove(number, &ReplyTo::default(), registration(key()));
        self.sent_list();
        self.claim(number, checksums);
    }
}

#[test]
fn keys_are_requested_after_identity_and_proof_in_either_order() {
    let mut fixture = Fixture::new();
    fixture.relay.connect(1, "id1".into());
    fixture.relay.connect(2, "id2".into());
    assert_eq!(fixture.sent_list(), ["1 identify?", "2 identify?"]);
    fixture.identify(1, "server");
    assert_eq!(fixture.sent_list(), [""; 0]);
    fixture.relay.prove(1, &ReplyTo::default(), registration(key()));
    assert_eq!(fixture.sent_list(), [r#"1 response ["bridge",0]"#, "1 settings?"]);
    fixture.relay.prove(2, &ReplyTo::default(), registration(key()));
    assert_eq!(fixture.sent_list(), [r#"2 response ["bridge",0]"#]);
    fixture.identify(2, "client");
    assert_eq!(fixture.sent_list(), ["2 settings?"]);
    fixture.identify(2, "server");
    assert_eq!(fixture.sent_list(), [""; 0], "it is what it said first");
    assert_eq!(fixture.relay.peer(2).unwrap().kind, Some(crate::wire::PeerKind::Client));
}

#[test]
fn list_is_sent_whole_and_only_where_it_changed() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A, B]);
    fixture.join(2, "server", &[B]);
    fixture.join(3, "client", &[C]);
    assert_eq!(fixture.sent_list(), [""; 0]);
    fixture.join(4, "client", &[B]);
    assert_eq!(fixture.sent_list(), ["1 list id4", "2 list id4", "4 list id1 id2"]);
    fixture.join(5, "client", &[A]);
    assert_eq!(fixture.sent_list(), ["1 list id4 id5", "5 list id1"]);
    // The same list in another order, and one more key that no other peer has.
    fixture.claim(1, &[B, A, B, C]);
    assert_eq!(fixture.sent_list(), ["1 list id3 id4 id5", "3 list id1"]);
    fixture.claim(4, &[B, A]);
    assert_eq!(fixture.sent_list(), [""; 0]);
    fixture.claim(1, &[C]);
    assert_eq!(fixture.sent_list(), ["1 list id3", "4 list id2", "5 list "]);
    fixture.relay.disconnect(2);
    assert_eq!(fixture.sent_list(), ["4 list "]);
    fixture.relay.disconnect(3);
    fixture.relay.disconnect(3);
    assert_eq!(fixture.sent_list(), ["1 list "]);
}

#[test]
fn peer_that_comes_and_goes_within_a_turn_is_not_listed() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A]);
    fixture.sent_list();
    fixture.join(2, "client", &[A]);
    fixture.relay.disconnect(2);
    assert_eq!(fixture.sent_list(), [""; 0]);
    fixture.join(3, "client", &[A]);
    fixture.join(4, "client", &[A]);
    let sent_list = fixture.sent_list();
    assert!(sent_list.contains(&"1 list id3 id4".to_owned()), "{sent_list:?}");
}

#[test]
fn list_for_a_long_queue_is_sent_later_but_before_any_frame() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A]);
    fixture.join(2, "client", &[A]);
    assert_eq!(fixture.messages_to(|number| number != 1), ["2 list id1"]);
    let has_news = |ready: fn(PeerNumber) -> bool| fixture.relay.has_news(fixture.end, ready);
    assert!(!has_news(|number| number != 1) && has_news(|_| true));
    fixture.join(3, "client", &[A]);
    fixture.relay.disconnect(2);
    assert_eq!(fixture.messages_to(|number| number != 1), ["3 list id1"]);
    assert_eq!(fixture.sent_list(), ["1 list id3"]);
    fixture.join(4, "client", &[A]);
    fixture.say(4, "id1\nhello");
    assert_eq!(fixture.messages_to(|_| false), ["1 list id3 id4", "4>1 id4\nhello"]);
    assert_eq!(fixture.sent_list(), ["4 list id1"]);
}

#[test]
fn frame_is_forwarded_only_to_introduced_peers() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A]);
    fixture.join(2, "client", &[A]);
    fixture.join(3, "server", &[B]);
    fixture.join(4, "client", &[B]);
    fixture.sent_list();
    fixture.say(2, "id1\n{\"x\":\"y\"}\nz");
    fixture.say(1, "id2\n");
    assert_eq!(fixture.sent_list(), ["2>1 id2\n{\"x\":\"y\"}\nz", "1>2 id1\n"]);
    for to in ["id2", "id3", "id4", "id9", "", "id1 ", "i\nd1", " id1"] {
        fixture.say(2, &format!("{to}\nx"));
        assert_eq!(fixture.sent_list(), ["2 error 404"], "{to}");
    }
    fixture.say(2, "id1");
    assert_eq!(fixture.sent_list(), ["2 error 400"]);
    fixture.relay.disconnect(1);
    fixture.say(2, "id1\nx");
    assert_eq!(fixture.sent_list(), ["2 list ", "2 error 404"]);
}

#[test]
fn list_with_the_sender_precedes_its_frame() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A]);
    fixture.sent_list();
    fixture.join(2, "client", &[A]);
    fixture.say(2, "id1\nhello");
    assert_eq!(fixture.sent_list(), ["1 list id2", "2>1 id2\nhello", "2 list id1"]);
}

/// A peer that reconnects constantly changes all lists constantly, and each is sent whole.
#[test]
fn long_list_is_rate_limited_and_then_current() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A]);
    for number in 2..42 {
        fixture.join(number, "client", &[A]);
    }
    let of_server =
        |sent_list: Vec<String>| sent_list.iter().filter(|text| text.starts_with("1 ")).count();
    assert_eq!(of_server(fixture.sent_list()), 1);
    let sent_list = fixture.end;
    let at = |millis| sent_list + Duration::from_millis(millis);
    for flap in 0..39 {
        fixture.claim(2, if flap % 2 == 0 { &[] } else { &[A] });
        fixture.relay.send_lists(at(flap), |_| true);
        assert_eq!(of_server(fixture.effects()), 0);
        // A peer in the list can send frames without causing a new list.
        fixture.say(3, "id1\nx");
        assert_eq!(fixture.effects(), ["3>1 id3\nx"]);
    }
    assert_eq!(fixture.relay.lists_due(at(39)), Some(at(40)));
    assert!(!fixture.relay.has_news(at(39), |number| number == 1));
    assert!(fixture.relay.has_news(at(40), |number| number == 1));
    fixture.relay.send_lists(at(40), |_| true);
    let list = (3..42).map(|number| format!("id{number}")).collect::<Vec<_>>().join(" ");
    assert_eq!(
        fixture.effects().iter().find(|text| text.starts_with("1 ")),
        Some(&format!("1 list {list}"))
    );
    assert_eq!(fixture.relay.lists_due(at(40)), None);
    // A frame of a new peer is not delayed, nor is a message of the relay.
    fixture.claim(2, &[A]);
    fixture.say(2, "id1\nx");
    let sent_list = fixture.effects();
    assert!(
        sent_list[0].starts_with("1 list id2 id3 ") && sent_list[1] == "2>1 id2\nx",
        "{sent_list:?}"
    );
    fixture.claim(2, &[]);
    fixture.say(1, r#"{"namespace":"rpc","name":"identify","id":1}"#);
    let sent_list = fixture.effects();
    assert!(
        sent_list[0].starts_with("1 list id3 ") && sent_list[1].starts_with("1 response "),
        "{sent_list:?}"
    );
}

#[test]
fn unauthenticated_peer_gets_no_list_and_is_in_none() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A]);
    fixture.relay.connect(2, "id2".into());
    fixture.sent_list();
    fixture.identify(2, "client");
    fixture.claim(2, &[A]);
    assert_eq!(fixture.sent_list(), [""; 0]);
    for text in ["id1\nx", "nobody\nx"] {
        fixture.say(2, text);
        assert_eq!(fixture.sent_list(), ["2 error 401"]);
    }
    for (name, sent_list) in [
        ("query", "2 error 401"),
        ("status", "2 error 401"),
        ("auth", "2 error 403"),
        ("auth_token", "2 error 403"),
        ("identify", r#"2 response {"type":"bridge","hostname":"bridge.example.org"}"#),
    ] {
        let args = if name == "auth_token" { r#"{"token":"t"}"# } else { "null" };
        let text = format!(r#"{{"namespace":"rpc","name":"{name}","id":1,"args":{args}}}"#);
        fixture.say(2, &text);
        assert_eq!(fixture.sent_list(), [sent_list], "{name}");
    }
    // Keys listed without a request do not count later.
    fixture.relay.prove(2, &ReplyTo::default(), registration(key()));
    assert_eq!(fixture.sent_list(), [r#"2 response ["bridge",0]"#, "2 settings?"]);
    fixture.say(2, "id1\nx");
    assert_eq!(fixture.sent_list(), ["2 error 404"]);
}

#[test]
fn challenge_is_valid_once_and_proof_has_one_of_two_forms() {
    let mut fixture = Fixture::new();
    fixture.relay.connect(1, "id1".into());
    fixture.sent_list();
    let ask = |args: &str| {
        format!(
            r#"{{"namespace":"rpc","name":"auth_ssl","id":"server_to_bridge_auth","args":{args}}}"#
        )
    };
    for args in [r#""""#, "{}", "null", "[]", r#"{"md5_key":"k"}"#] {
        fixture.say(1, &ask(args));
        let sent_list = fixture.sent_list();
        assert!(sent_list[0].starts_with(r#"1 response {"test_string":""#), "{sent_list:?}");
    }
    fixture.say(1, &ask(r#"{"key":"k","signature":"AQI="}"#));
    assert_eq!(fixture.sent_list(), ["judge 1 true Signed { key: None, signature: [1, 2] }"]);
    fixture.say(1, &ask(r#"{"encrypted_string":"AQ=="}"#));
    assert_eq!(fixture.sent_list(), ["judge 1 false Encrypted([1])"]);
    fixture.say(1, &ask("{}"));
    fixture.now += Duration::from_secs(31);
    fixture.sent_list();
    fixture.say(1, &ask(r#"{"encrypted_string":"AQ=="}"#));
    assert_eq!(fixture.sent_list(), ["judge 1 false Encrypted([1])"]);
    for args in [r#"{"key":"k"}"#, "5", r#""x""#, r#"{"key":1,"signature":2}"#] {
        fixture.say(1, &ask(args));
        assert_eq!(fixture.sent_list(), ["1 error 400"], "{args}");
    }
}

#[test]
fn registered_key_limited_to_checksums_claims_no_others() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A, B]);
    let id = key();
    fixture.relay.connect(2, "id2".into());
    fixture.identify(2, "client");
    let limited =
        |texts: &[&str]| Registration { checksums: Some(checksums(texts)), ..registration(id) };
    fixture.relay.prove(2, &ReplyTo::default(), limited(&[C]));
    fixture.sent_list();
    fixture.claim(2, &[A, B]);
    assert_eq!(fixture.sent_list(), [""; 0]);
    let register = |fixture: &mut Fixture, now: Option<Registration>| {
        fixture
            .relay
            .revise(|before| if before.key == id { now.clone() } else { Some(before.clone()) });
        fixture.sent_list()
    };
    assert_eq!(register(&mut fixture, Some(limited(&[B]))), ["1 list id2", "2 list id1"]);
    assert_eq!(register(&mut fixture, Some(limited(&[A]))), [""; 0]);
    assert_eq!(register(&mut fixture, Some(limited(&[]))), ["1 list ", "2 list "]);
    assert_eq!(register(&mut fixture, Some(registration(id))), ["1 list id2", "2 list id1"]);
    // Revoked: it is removed at once, and receives nothing more.
    assert_eq!(register(&mut fixture, None), ["2 close 1008", "1 list "]);
    fixture.say(2, "id1\nx");
    assert_eq!(fixture.sent_list(), ["2 error 401"]);
}

#[test]
fn peer_without_identity_is_unlisted_and_may_authenticate_again() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A]);
    fixture.join(2, "client", &[A]);
    fixture.sent_list();
    fixture.say(2, r#"{"namespace":"rpc","name":"auth_clear","id":1}"#);
    assert_eq!(fixture.sent_list(), ["2 estranged", "1 list "]);
    fixture.claim(2, &[A]);
    assert_eq!(fixture.sent_list(), [""; 0]);
    fixture.relay.prove(2, &ReplyTo::default(), registration(key()));
    assert_eq!(fixture.sent_list(), [r#"2 response ["bridge",0]"#, "2 settings?"]);
    fixture.claim(2, &[A]);
    assert_eq!(fixture.sent_list(), ["1 list id2", "2 list id1"]);
}

#[test]
fn peer_of_unknown_kind_or_with_too_many_keys_is_closed() {
    let mut fixture = Fixture::new();
    fixture.relay.connect(1, "id1".into());
    fixture.sent_list();
    fixture.identify(1, "bridge");
    assert_eq!(fixture.sent_list(), ["1 close 1008"]);
    fixture.join(2, "server", &[]);
    fixture.claim(2, &[A; 257]);
    assert_eq!(fixture.sent_list(), ["2 close 1008"]);
}

#[test]
fn unrequested_reply_is_ignored_and_other_requests_are_errors() {
    let mut fixture = Fixture::new();
    fixture.join(1, "server", &[A]);
    for name in ["response", "error"] {
        fixture.say(1, &format!(r#"{{"namespace":"rpc","name":"{name}","id":"x","args":[]}}"#));
        assert_eq!(fixture.sent_list(), [""; 0]);
    }
    for name in ["query", "status", "dispatcher"] {
        fixture.say(1, &format!(r#"{{"namespace":"rpc","name":"{name}","id":1}}"#));
        assert_eq!(fixture.sent_list(), ["1 error 404"], "{name}");
    }
    fixture.say(1, "{not json");
    assert_eq!(fixture.sent_list(), ["1 error 400"]);
}

/// Each change is compared with a naive computation.
#[test]
fn thousand_changes_match_the_naive_result() {
    let mut fixture = Fixture::new();
    let mut random = 12345_u32;
    let mut draw = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % below
    };
    let all: Vec<String> = (0..6_u8)
        .map(|n| {
            base64::engine::Engine::encode(&base64::engine::general_purpose::STANDARD, [n; 16])
        })
        .collect();
    let mut peers: BTreeMap<u64, (bool, u32)> = BTreeMap::new();
    let mut lists: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for number in 1..1000 {
        let mask = draw(64);
        let claimed: Vec<&str> = (0..6)
            .filter(|bit| mask >> bit & 1 == 1)
            .map(|bit| all[bit as usize].as_str())
            .collect();
        match draw(3) {
            0 if !peers.is_empty() => {
                let gone = *peers.keys().nth(draw(peers.len() as u32) as usize).unwrap();
                peers.remove(&gone);
                lists.remove(&gone);
                fixture.relay.disconnect(gone);
            }
            1 if !peers.is_empty() => {
                let changed = *peers.keys().nth(draw(peers.len() as u32) as usize).unwrap();
                peers.get_mut(&changed).unwrap().1 = mask;
                fixture.claim(changed, &claimed);
            }
            _ => {
                let is_server = draw(2) == 0;
                fixture.join(number, if is_server { "server" } else { "client" }, &claimed);
                peers.insert(number, (is_server, mask));
                lists.insert(number, Vec::new());
            }
        }
        let mut changed = Vec::new();
        for line in fixture.sent_list() {
            let (to, list) = line.split_once(" list ").expect(&line);
            let to: u64 = to.parse().unwrap();
            let ids = list.split_whitespace().map(|id| id[2..].parse().unwrap()).collect();
            assert_ne!(lists.insert(to, ids).as_ref(), lists.get(&to), "no change is told");
            changed.push(to);
        }
        changed.dedup();
        for (number, (is_server, mask)) in &peers {
            let fits =
                |other: &(&u64, &(bool, u32))| other.1.0 != *is_server && other.1.1 & mask != 0;
            let wanted: Vec<u64> = peers.iter().filter(fits).map(|(other, _)| *other).collect();
            assert_eq!(lists[number], wanted, "after change {number}");
        }
    }
}

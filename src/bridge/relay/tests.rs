//! The six rules, driven by hand: no socket, no key, no clock.

use std::time::Duration;

use super::*;
use crate::auth::key::{KeyId, Kind, PrivateKey};

const A: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
const B: &str = "BBBBBBBBBBBBBBBBBBBBBA==";
const C: &str = "CCCCCCCCCCCCCCCCCCCCCA==";

fn key() -> KeyId {
    PrivateKey::generate(Kind::Ed25519).unwrap().public().id()
}

fn registration(key: KeyId) -> Registration {
    Registration { name: "office".into(), key, legacy: false, sums: None }
}

fn request(name: &str) -> Request {
    match Request::parse(&format!(r#"{{"namespace":"rpc","name":"{name}","id":"i"}}"#)) {
        Ok(Frame::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn sums(texts: &[&str]) -> Vec<Sum> {
    texts.iter().map(|text| Sum::parse(text).unwrap()).collect()
}

/// A relay, and the messages sent to each peer.
struct Desk {
    relay: Relay,
    now: Instant,
    /// End of the turn; long after the previous one.
    end: Instant,
}

impl Desk {
    fn new() -> Desk {
        let now = Instant::now();
        Desk { relay: Relay::new("bridge.example.org"), now, end: now }
    }

    fn say(&mut self, number: PeerNumber, text: &str) {
        self.relay.take(number, text, self.now);
    }

    /// Ends the turn: all effects, as short texts.
    fn told(&mut self) -> Vec<String> {
        self.told_to(|_| true)
    }

    /// The same where only some peers are ready for lists.
    fn told_to(&mut self, is_ready: impl Fn(PeerNumber) -> bool) -> Vec<String> {
        self.end += Duration::from_secs(60);
        self.relay.tell_news(self.end, is_ready);
        self.effects()
    }

    /// Effects so far, as short texts.
    fn effects(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(effect) = self.relay.next_effect() {
            told.push(match effect {
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
                Effect::Estranged(peer) => format!("{peer} estranged"),
                Effect::Close { peer, reason } => format!("{peer} close {}", reason.code),
            });
        }
        told
    }

    fn identify(&mut self, number: PeerNumber, kind: &str) {
        self.say(number, &format!(
            r#"{{"namespace":"rpc","name":"response","id":"sysadm_bridge_request_ident","args":{{"type":"{kind}","hostname":"h"}}}}"#
        ));
    }

    fn claim(&mut self, number: PeerNumber, sums: &[&str]) {
        let args = json!({ "md5_keys": sums });
        self.say(number, &format!(
            r#"{{"namespace":"rpc","name":"response","id":"bridge_request_list_keys","args":{args}}}"#
        ));
    }

    /// A peer that has authenticated and has listed its keys.
    fn join(&mut self, number: PeerNumber, kind: &str, sums: &[&str]) {
        self.relay.connect(number, format!("id{number}"));
        self.identify(number, kind);
        self.relay.prove(number, &request("auth_ssl"), registration(key()));
        self.told();
        self.claim(number, sums);
    }
}

#[test]
fn identification_and_authentication_come_in_either_order_and_then_keys_are_asked_for() {
    let mut desk = Desk::new();
    desk.relay.connect(1, "id1".into());
    desk.relay.connect(2, "id2".into());
    assert_eq!(desk.told(), ["1 identify?", "2 identify?"]);
    desk.identify(1, "server");
    assert_eq!(desk.told(), [""; 0]);
    desk.relay.prove(1, &request("auth_ssl"), registration(key()));
    assert_eq!(desk.told(), [r#"1 response ["bridge",0]"#, "1 settings?"]);
    desk.relay.prove(2, &request("auth_ssl"), registration(key()));
    assert_eq!(desk.told(), [r#"2 response ["bridge",0]"#]);
    desk.identify(2, "client");
    assert_eq!(desk.told(), ["2 settings?"]);
    desk.identify(2, "server");
    assert_eq!(desk.told(), [""; 0], "it is what it said first");
    assert_eq!(desk.relay.peer(2).unwrap().kind, Some(crate::wire::PeerKind::Client));
}

#[test]
fn a_list_is_told_whole_and_only_to_those_for_whom_it_changed() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A, B]);
    desk.join(2, "server", &[B]);
    desk.join(3, "client", &[C]);
    assert_eq!(desk.told(), [""; 0]);
    desk.join(4, "client", &[B]);
    assert_eq!(desk.told(), ["1 list id4", "2 list id4", "4 list id1 id2"]);
    desk.join(5, "client", &[A]);
    assert_eq!(desk.told(), ["1 list id4 id5", "5 list id1"]);
    // The same list in another order, and one more key that no other peer has.
    desk.claim(1, &[B, A, B, C]);
    assert_eq!(desk.told(), ["1 list id3 id4 id5", "3 list id1"]);
    desk.claim(4, &[B, A]);
    assert_eq!(desk.told(), [""; 0]);
    desk.claim(1, &[C]);
    assert_eq!(desk.told(), ["1 list id3", "4 list id2", "5 list "]);
    desk.relay.disconnect(2);
    assert_eq!(desk.told(), ["4 list "]);
    desk.relay.disconnect(3);
    desk.relay.disconnect(3);
    assert_eq!(desk.told(), ["1 list "]);
}

#[test]
fn who_comes_and_goes_within_a_turn_is_not_told() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A]);
    desk.told();
    desk.join(2, "client", &[A]);
    desk.relay.disconnect(2);
    assert_eq!(desk.told(), [""; 0]);
    desk.join(3, "client", &[A]);
    desk.join(4, "client", &[A]);
    let told = desk.told();
    assert!(told.contains(&"1 list id3 id4".to_owned()), "{told:?}");
}

#[test]
fn who_has_much_waiting_is_told_later_what_holds_then_but_before_any_frame() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A]);
    desk.join(2, "client", &[A]);
    assert_eq!(desk.told_to(|number| number != 1), ["2 list id1"]);
    let has_news = |ready: fn(PeerNumber) -> bool| desk.relay.has_news(desk.end, ready);
    assert!(!has_news(|number| number != 1) && has_news(|_| true));
    desk.join(3, "client", &[A]);
    desk.relay.disconnect(2);
    assert_eq!(desk.told_to(|number| number != 1), ["3 list id1"]);
    assert_eq!(desk.told(), ["1 list id3"]);
    desk.join(4, "client", &[A]);
    desk.say(4, "id1\nhello");
    assert_eq!(desk.told_to(|_| false), ["1 list id3 id4", "4>1 id4\nhello"]);
    assert_eq!(desk.told(), ["4 list id1"]);
}

#[test]
fn a_frame_goes_to_whom_the_sender_was_introduced_and_to_nobody_else() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A]);
    desk.join(2, "client", &[A]);
    desk.join(3, "server", &[B]);
    desk.join(4, "client", &[B]);
    desk.told();
    desk.say(2, "id1\n{\"x\":\"y\"}\nz");
    desk.say(1, "id2\n");
    assert_eq!(desk.told(), ["2>1 id2\n{\"x\":\"y\"}\nz", "1>2 id1\n"]);
    for to in ["id2", "id3", "id4", "id9", "", "id1 ", "i\nd1", " id1"] {
        desk.say(2, &format!("{to}\nx"));
        assert_eq!(desk.told(), ["2 error 404"], "{to}");
    }
    desk.say(2, "id1");
    assert_eq!(desk.told(), ["2 error 400"]);
    desk.relay.disconnect(1);
    desk.say(2, "id1\nx");
    assert_eq!(desk.told(), ["2 list ", "2 error 404"]);
}

#[test]
fn a_peer_knows_the_sender_before_it_hears_from_it() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A]);
    desk.told();
    desk.join(2, "client", &[A]);
    desk.say(2, "id1\nhello");
    assert_eq!(desk.told(), ["1 list id2", "2>1 id2\nhello", "2 list id1"]);
}

/// A peer that reconnects constantly changes all lists constantly, and each is sent whole.
#[test]
fn a_long_list_is_not_told_again_at_once_and_then_as_it_is_by_then() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A]);
    for number in 2..42 {
        desk.join(number, "client", &[A]);
    }
    let of_server = |told: Vec<String>| told.iter().filter(|text| text.starts_with("1 ")).count();
    assert_eq!(of_server(desk.told()), 1);
    let told = desk.end;
    let at = |millis| told + Duration::from_millis(millis);
    for flap in 0..39 {
        desk.claim(2, if flap % 2 == 0 { &[] } else { &[A] });
        desk.relay.tell_news(at(flap), |_| true);
        assert_eq!(of_server(desk.effects()), 0);
        // A peer in the list can send frames without causing a new list.
        desk.say(3, "id1\nx");
        assert_eq!(desk.effects(), ["3>1 id3\nx"]);
    }
    assert_eq!(desk.relay.news_due(at(39)), Some(at(40)));
    assert!(!desk.relay.has_news(at(39), |number| number == 1));
    assert!(desk.relay.has_news(at(40), |number| number == 1));
    desk.relay.tell_news(at(40), |_| true);
    let list = (3..42).map(|number| format!("id{number}")).collect::<Vec<_>>().join(" ");
    assert_eq!(
        desk.effects().iter().find(|text| text.starts_with("1 ")),
        Some(&format!("1 list {list}"))
    );
    assert_eq!(desk.relay.news_due(at(40)), None);
    // A frame of a new peer is not delayed, nor is a message of the relay.
    desk.claim(2, &[A]);
    desk.say(2, "id1\nx");
    let told = desk.effects();
    assert!(told[0].starts_with("1 list id2 id3 ") && told[1] == "2>1 id2\nx", "{told:?}");
    desk.claim(2, &[]);
    desk.say(1, r#"{"namespace":"rpc","name":"identify","id":1}"#);
    let told = desk.effects();
    assert!(told[0].starts_with("1 list id3 ") && told[1].starts_with("1 response "), "{told:?}");
}

#[test]
fn a_stranger_learns_nothing_and_counts_for_nobody() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A]);
    desk.relay.connect(2, "id2".into());
    desk.told();
    desk.identify(2, "client");
    desk.claim(2, &[A]);
    assert_eq!(desk.told(), [""; 0]);
    for text in ["id1\nx", "nobody\nx"] {
        desk.say(2, text);
        assert_eq!(desk.told(), ["2 error 401"]);
    }
    for (name, told) in [
        ("query", "2 error 401"),
        ("status", "2 error 401"),
        ("auth", "2 error 403"),
        ("auth_token", "2 error 403"),
        ("identify", r#"2 response {"type":"bridge","hostname":"bridge.example.org"}"#),
    ] {
        desk.say(2, &format!(r#"{{"namespace":"rpc","name":"{name}","id":1}}"#));
        assert_eq!(desk.told(), [told], "{name}");
    }
    // Keys listed without a request do not count later.
    desk.relay.prove(2, &request("auth_ssl"), registration(key()));
    assert_eq!(desk.told(), [r#"2 response ["bridge",0]"#, "2 settings?"]);
    desk.say(2, "id1\nx");
    assert_eq!(desk.told(), ["2 error 404"]);
}

#[test]
fn a_test_string_is_good_for_one_try_and_a_proof_has_one_of_two_forms() {
    let mut desk = Desk::new();
    desk.relay.connect(1, "id1".into());
    desk.told();
    let ask = |args: &str| {
        format!(
            r#"{{"namespace":"rpc","name":"auth_ssl","id":"server_to_bridge_auth","args":{args}}}"#
        )
    };
    for args in [r#""""#, "{}", "null"] {
        desk.say(1, &ask(args));
        let told = desk.told();
        assert!(told[0].starts_with(r#"1 response {"test_string":""#), "{told:?}");
    }
    desk.say(1, &ask(r#"{"key":"k","signature":"s"}"#));
    let signed = r#"judge 1 true Signed { key: "k", signature: "s" }"#;
    assert_eq!(desk.told(), [signed]);
    desk.say(1, &ask(r#"{"encrypted_string":"e"}"#));
    assert_eq!(desk.told(), [r#"judge 1 false Encrypted("e")"#]);
    desk.say(1, &ask("{}"));
    desk.now += Duration::from_secs(31);
    desk.told();
    desk.say(1, &ask(r#"{"encrypted_string":"e"}"#));
    assert_eq!(desk.told(), [r#"judge 1 false Encrypted("e")"#]);
    for args in
        [r#"{"key":"k"}"#, r#"{"md5_key":"k"}"#, "[]", "5", r#""x""#, r#"{"key":1,"signature":2}"#]
    {
        desk.say(1, &ask(args));
        assert_eq!(desk.told(), ["1 error 400"], "{args}");
    }
}

#[test]
fn a_registered_key_may_be_limited_to_sums() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A, B]);
    let id = key();
    desk.relay.connect(2, "id2".into());
    desk.identify(2, "client");
    let limited = |texts: &[&str]| Registration { sums: Some(sums(texts)), ..registration(id) };
    desk.relay.prove(2, &request("auth_ssl"), limited(&[C]));
    desk.told();
    desk.claim(2, &[A, B]);
    assert_eq!(desk.told(), [""; 0]);
    let register = |desk: &mut Desk, now: Option<Registration>| {
        desk.relay
            .revise(|before| if before.key == id { now.clone() } else { Some(before.clone()) });
        desk.told()
    };
    assert_eq!(register(&mut desk, Some(limited(&[B]))), ["1 list id2", "2 list id1"]);
    assert_eq!(register(&mut desk, Some(limited(&[A]))), [""; 0]);
    assert_eq!(register(&mut desk, Some(limited(&[]))), ["1 list ", "2 list "]);
    assert_eq!(register(&mut desk, Some(registration(id))), ["1 list id2", "2 list id1"]);
    // Revoked: it is removed at once, and receives nothing more.
    assert_eq!(register(&mut desk, None), ["2 close 1008", "1 list "]);
    desk.say(2, "id1\nx");
    assert_eq!(desk.told(), ["2 error 401"]);
}

#[test]
fn who_gives_up_its_authority_is_a_stranger_and_may_come_back() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A]);
    desk.join(2, "client", &[A]);
    desk.told();
    desk.say(2, r#"{"namespace":"rpc","name":"auth_clear","id":1}"#);
    assert_eq!(desk.told(), ["2 estranged", "1 list "]);
    desk.claim(2, &[A]);
    assert_eq!(desk.told(), [""; 0]);
    desk.relay.prove(2, &request("auth_ssl"), registration(key()));
    assert_eq!(desk.told(), [r#"2 response ["bridge",0]"#, "2 settings?"]);
    desk.claim(2, &[A]);
    assert_eq!(desk.told(), ["1 list id2", "2 list id1"]);
}

#[test]
fn what_is_neither_server_nor_client_and_what_claims_too_much_has_to_go() {
    let mut desk = Desk::new();
    desk.relay.connect(1, "id1".into());
    desk.told();
    desk.identify(1, "bridge");
    assert_eq!(desk.told(), ["1 close 1008"]);
    desk.join(2, "server", &[]);
    desk.claim(2, &[A; 257]);
    assert_eq!(desk.told(), ["2 close 1008"]);
}

#[test]
fn an_answer_that_was_not_asked_for_is_not_answered_and_other_requests_are_refused() {
    let mut desk = Desk::new();
    desk.join(1, "server", &[A]);
    for name in ["response", "error"] {
        desk.say(1, &format!(r#"{{"namespace":"rpc","name":"{name}","id":"x","args":[]}}"#));
        assert_eq!(desk.told(), [""; 0]);
    }
    for name in ["query", "status", "dispatcher"] {
        desk.say(1, &format!(r#"{{"namespace":"rpc","name":"{name}","id":1}}"#));
        assert_eq!(desk.told(), ["1 error 404"], "{name}");
    }
    desk.say(1, "{not json");
    assert_eq!(desk.told(), ["1 error 400"]);
}

/// Each change is compared with a naive computation.
#[test]
fn a_thousand_changes_come_to_what_they_should() {
    let mut desk = Desk::new();
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
                desk.relay.disconnect(gone);
            }
            1 if !peers.is_empty() => {
                let changed = *peers.keys().nth(draw(peers.len() as u32) as usize).unwrap();
                peers.get_mut(&changed).unwrap().1 = mask;
                desk.claim(changed, &claimed);
            }
            _ => {
                let is_server = draw(2) == 0;
                desk.join(number, if is_server { "server" } else { "client" }, &claimed);
                peers.insert(number, (is_server, mask));
                lists.insert(number, Vec::new());
            }
        }
        let mut changed = Vec::new();
        for line in desk.told() {
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

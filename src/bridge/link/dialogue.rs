//! The protocol between a peer and its relay (protocol section 5, rules 1 to 5).
//!
//! A server authenticates, lists the keys of its users, and receives the list of available clients;
//! a client does the same with its own key, and receives servers. It replies to exactly two
//! requests, so a legacy relay, which takes any further `response` for a list of keys, needs no
//! special case.

use serde_json::{Value, json};

use crate::wire::{
    BridgeFrame, IDENTIFY_ID as IDENT, LIST_KEYS_ID as KEYS, PeerKind, SERVER_AUTH_ID as AUTH,
};

/// Maximum length of a peer's id, in bytes: this relay's have 22 characters, the legacy relay's 40.
const LONGEST_ID: usize = 128;
/// Maximum number of peers of a list that are processed; the default limit of a relay is 1024.
const MOST_PEERS: usize = 4096;
/// Maximum length of a relay's error text, in characters.
const SHOWN: usize = 200;

/// Result of processing a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A challenge: sign it, and call [`Dialogue::prove`].
    Challenge(String),
    /// Authentication succeeded.
    Known,
    /// All available peers, at most 4096; sorted, without duplicates.
    Available(Vec<String>),
    /// A payload of a peer.
    Payload {
        /// Id of the sender.
        from: String,
        /// Content.
        text: String,
    },
    /// The relay rejected the authentication, with this text.
    Refused(String),
    /// The relay reported an error.
    Complaint(String),
}

/// Proof of identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A signature, with the id of its key.
    Signature {
        /// SHA-256 of the key, base64.
        key: String,
        /// base64.
        signature: String,
    },
    /// The legacy form: the string "encrypted" by the own key, base64.
    Encrypted(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waiting for a challenge.
    Asking,
    /// The challenge is being signed; others are ignored.
    Signing,
    /// The signature was sent.
    Proving,
    Known,
}

/// State of one connection.
#[derive(Debug)]
pub struct Dialogue {
    kind: PeerKind,
    hostname: String,
    stage: Stage,
    /// base64(md5(PEM)) of the own key or of the keys of the server's users.
    checksums: Vec<String>,
    /// The relay has requested them.
    asked: bool,
    /// Texts for the relay.
    out: Vec<String>,
}

impl Dialogue {
    /// Creates the state with the first text to send.
    pub fn new(kind: PeerKind, hostname: &str, checksums: Vec<String>) -> Dialogue {
        let out = vec![request("auth_ssl", AUTH, &json!(""))];
        let hostname = hostname.to_owned();
        Dialogue { kind, hostname, stage: Stage::Asking, checksums, asked: false, out }
    }

    /// Whether authentication succeeded.
    pub fn is_known(&self) -> bool {
        self.stage == Stage::Known
    }

    /// Takes the texts to be sent.
    pub fn take_texts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.out)
    }

    /// Changes the checksums; sends them if the relay has requested them and they differ.
    pub fn set_checksums(&mut self, checksums: Vec<String>) {
        if self.checksums != checksums {
            self.checksums = checksums;
            if self.asked {
                self.send_checksums();
            }
        }
    }

    fn send_checksums(&mut self) {
        self.out.push(response(KEYS, &json!({ "md5_keys": self.checksums })));
    }

    /// Replies to a challenge.
    pub fn prove(&mut self, proof: &Proof) {
        let args = match proof {
            Proof::Signature { key, signature } => json!({ "key": key, "signature": signature }),
            Proof::Encrypted(string) => json!({ "encrypted_string": string }),
        };
        self.stage = Stage::Proving;
        self.out.push(request("auth_ssl", AUTH, &args));
    }

    /// Processes a text of the relay. Unknown texts are ignored.
    pub fn take(&mut self, text: &str) -> Option<News> {
        let object = match BridgeFrame::parse(text) {
            BridgeFrame::Object(object) => object,
            BridgeFrame::Routed { peer, payload } => {
                let sane = self.is_known() && is_id(peer);
                let (from, text) = (peer.to_owned(), payload.to_owned());
                return sane.then_some(News::Payload { from, text });
            }
            BridgeFrame::Neither => return None,
        };
        let frame: Value = serde_json::from_str(object).ok()?;
        let field = |name| frame.get(name).and_then(Value::as_str).unwrap_or_default();
        let args = frame.get("args").unwrap_or(&Value::Null);
        match (field("namespace"), field("name"), field("id")) {
            ("rpc", "identify", IDENT) => {
                let args = json!({ "type": self.kind.name(), "hostname": self.hostname });
                self.out.push(response(IDENT, &args));
                None
            }
            ("rpc", "settings", KEYS) => {
                self.asked = true;
                self.send_checksums();
                None
            }
            ("rpc", "response", AUTH) => self.take_answer(args),
            ("rpc", "error", AUTH) if self.stage != Stage::Known => {
                Some(News::Refused(complaint(args)))
            }
            ("events", "bridge", _) if self.is_known() => {
                let list = args.get("available_connections").and_then(Value::as_array)?;
                let ids = list.iter().filter_map(Value::as_str).filter(|id| is_id(id));
                let mut ids: Vec<String> = ids.take(MOST_PEERS).map(str::to_owned).collect();
                ids.sort_unstable();
                ids.dedup();
                Some(News::Available(ids))
            }
            (_, "error", _) => Some(News::Complaint(complaint(args))),
            _ => None,
        }
    }

    fn take_answer(&mut self, args: &Value) -> Option<News> {
        match self.stage {
            Stage::Asking => {
                let string = args.get("test_string").and_then(Value::as_str)?;
                self.stage = Stage::Signing;
                Some(News::Challenge(string.to_owned()))
            }
            Stage::Proving => {
                self.stage = Stage::Known;
                Some(News::Known)
            }
            Stage::Signing | Stage::Known => None,
        }
    }
}

/// Whether a text is one line that may be a peer's id; legacy relays use an address and braces. It
/// appears quoted in the log.
fn is_id(text: &str) -> bool {
    let is_sane = |byte: u8| byte.is_ascii_alphanumeric() || b":_-{}.%".contains(&byte);
    (1..=LONGEST_ID).contains(&text.len())
        && text.bytes().all(is_sane)
        && !text.starts_with(['{', '['])
}

/// The text of an error: this protocol's object, or any JSON of a legacy relay.
fn complaint(args: &Value) -> String {
    let text = match args.get("message").unwrap_or(args) {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// The reply of a server to a client that requests its identity in clear.
pub fn hint(id: &str, hostname: &str) -> String {
    let args = json!({ "type": "server", "hostname": hostname });
    format!(r#"{{"namespace":"rpc","name":"response","id":{id},"args":{args}}}"#)
}

fn request(name: &str, id: &str, args: &Value) -> String {
    frame("rpc", name, id, args)
}

fn response(id: &str, args: &Value) -> String {
    frame("rpc", "response", id, args)
}

fn frame(namespace: &str, name: &str, id: &str, args: &Value) -> String {
    json!({ "namespace": namespace, "name": name, "id": id, "args": args }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "NRLsKMJakQPEP1GUKedwBw==";

    fn dialogue() -> Dialogue {
        Dialogue::new(PeerKind::Server, "vm", vec![SUM.to_owned()])
    }

    fn sent(dialogue: &mut Dialogue) -> Vec<Value> {
        let texts = dialogue.take_texts();
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    fn known() -> Dialogue {
        let mut dialogue = dialogue();
        let challenge = r#"{"args":{"test_string":"x"},"id":"server_to_bridge_auth","name":"response","namespace":"rpc"}"#;
        let success =
            r#"{"args":["t",0],"id":"server_to_bridge_auth","name":"response","namespace":"rpc"}"#;
        assert_eq!(dialogue.take(challenge), Some(News::Challenge("x".into())));
        dialogue.prove(&Proof::Encrypted("e".into()));
        assert_eq!(dialogue.take(success), Some(News::Known));
        dialogue.take_texts();
        dialogue
    }

    /// From the recorded frames of the original server and its relay: the relay's texts, and the
    /// server's replies.
    #[test]
    fn dialogue_sends_the_frames_of_the_original_server() {
        let mut dialogue = dialogue();
        let auth = json!({"args": "", "id": "server_to_bridge_auth", "name": "auth_ssl", "namespace": "rpc"});
        assert_eq!(sent(&mut dialogue), [auth]);
        let ident =
            r#"{"args":"","id":"sysadm_bridge_request_ident","name":"identify","namespace":"rpc"}"#;
        assert_eq!(dialogue.take(ident), None);
        let who = json!({"args": {"hostname": "vm", "type": "server"}, "id": "sysadm_bridge_request_ident", "name": "response", "namespace": "rpc"});
        assert_eq!(sent(&mut dialogue), [who]);
        let challenge = r#"{"args":{"test_string":"66Qigwl2WFnuEWPpFnUJc79K8mi4y6ubZEE8OSpY"},"id":"server_to_bridge_auth","name":"response","namespace":"rpc"}"#;
        let asked = News::Challenge("66Qigwl2WFnuEWPpFnUJc79K8mi4y6ubZEE8OSpY".into());
        assert_eq!(dialogue.take(challenge), Some(asked));
        dialogue.prove(&Proof::Encrypted("AlixBFkM".into()));
        let proof = json!({"args": {"encrypted_string": "AlixBFkM"}, "id": "server_to_bridge_auth", "name": "auth_ssl", "namespace": "rpc"});
        assert_eq!(sent(&mut dialogue), [proof]);
        let success = r#"{"args":["rXnStQVPcRidvPyet6HOo5qo8b11OLvVJ9DFoVGt",0],"id":"server_to_bridge_auth","name":"response","namespace":"rpc"}"#;
        assert_eq!(dialogue.take(success), Some(News::Known));
        let keys = r#"{"args":{"action":"list_ssl_checksums"},"id":"bridge_request_list_keys","name":"settings","namespace":"rpc"}"#;
        assert_eq!(dialogue.take(keys), None);
        let checksums = json!({"args": {"md5_keys": [SUM]}, "id": "bridge_request_list_keys", "name": "response", "namespace": "rpc"});
        assert_eq!(sent(&mut dialogue), [checksums]);
        let there = r#"{"args":{"available_connections":["::{c3534c43-2eb5-4bf9-b295-8c3ae0e64339}"]},"id":"","name":"bridge","namespace":"events"}"#;
        let id = "::{c3534c43-2eb5-4bf9-b295-8c3ae0e64339}".to_owned();
        assert_eq!(dialogue.take(there), Some(News::Available(vec![id.clone()])));
        let payload = format!("{id}\n{{\"namespace\": \"rpc\"}}");
        let text = "{\"namespace\": \"rpc\"}".to_owned();
        assert_eq!(dialogue.take(&payload), Some(News::Payload { from: id, text }));
        assert!(sent(&mut dialogue).is_empty());
    }

    #[test]
    fn dialogue_before_authentication_ignores_payloads() {
        let mut dialogue = dialogue();
        let there = r#"{"args":{"available_connections":["a"]},"id":"","name":"bridge","namespace":"events"}"#;
        assert_eq!(dialogue.take(there), None);
        assert_eq!(dialogue.take("a\n{}"), None);
        let success =
            r#"{"args":["t",0],"id":"server_to_bridge_auth","name":"response","namespace":"rpc"}"#;
        assert_eq!(dialogue.take(success), None, "before anything was proved");
        assert!(!dialogue.is_known());
    }

    /// A signature takes time, and a relay may send a hundred challenges at once.
    #[test]
    fn dialogue_signs_one_challenge_at_a_time() {
        let mut dialogue = dialogue();
        let challenge = r#"{"args":{"test_string":"x"},"id":"server_to_bridge_auth","name":"response","namespace":"rpc"}"#;
        assert_eq!(dialogue.take(challenge), Some(News::Challenge("x".into())));
        assert_eq!(dialogue.take(challenge), None);
        dialogue.prove(&Proof::Encrypted("e".into()));
        assert_eq!(dialogue.take(challenge), Some(News::Known));
        assert_eq!(dialogue.take(challenge), None);
    }

    #[test]
    fn dialogue_sends_changed_keys_only_after_a_request() {
        let mut dialogue = known();
        dialogue.set_checksums(vec!["one".into()]);
        assert!(sent(&mut dialogue).is_empty());
        dialogue.take(r#"{"args":{"action":"list_ssl_checksums"},"id":"bridge_request_list_keys","name":"settings","namespace":"rpc"}"#);
        assert_eq!(sent(&mut dialogue)[0]["args"]["md5_keys"], json!(["one"]));
        dialogue.set_checksums(vec!["one".into()]);
        assert!(sent(&mut dialogue).is_empty(), "they are the same");
        dialogue.set_checksums(vec!["two".into()]);
        assert_eq!(sent(&mut dialogue)[0]["args"]["md5_keys"], json!(["two"]));
    }

    #[test]
    fn errors_of_any_type_are_understood() {
        for (args, sent_list) in [
            (r#""Unauthorized""#, "Unauthorized"),
            (r#"{"code":401,"message":"no such key"}"#, "no such key"),
            ("7", "7"),
            ("null", "null"),
            (r#"["a\n"]"#, "[\"a\\n\"]"),
        ] {
            let text = format!(
                r#"{{"namespace":"rpc","name":"error","id":"server_to_bridge_auth","args":{args}}}"#
            );
            assert_eq!(dialogue().take(&text), Some(News::Refused(sent_list.into())), "{args}");
            assert_eq!(known().take(&text), Some(News::Complaint(sent_list.into())), "{args}");
        }
    }

    #[test]
    fn dialogue_replies_to_no_other_request() {
        let mut dialogue = known();
        for text in [
            "{",
            "[]",
            "{}",
            r#"{"namespace":"rpc","name":"identify","id":"x","args":""}"#,
            r#"{"namespace":"rpc","name":"dispatcher","id":"x","args":{"action":"run","a":"true"}}"#,
            r#"{"namespace":"rpc","name":"response","id":"bridge_request_list_keys","args":[]}"#,
            "no newline",
            "\n{}",
            "an id\n{}",
        ] {
            assert_eq!(dialogue.take(text), None, "{text}");
        }
        assert!(sent(&mut dialogue).is_empty());
    }

    #[test]
    fn dialogue_arbitrary_text_causes_no_unexpected_reply() {
        let texts = [
            r#"{"args":"","id":"sysadm_bridge_request_ident","name":"identify","namespace":"rpc"}"#,
            r#"{"args":{"test_string":"x"},"id":"server_to_bridge_auth","name":"response","namespace":"rpc"}"#,
            r#"{"args":["t",0],"id":"server_to_bridge_auth","name":"response","namespace":"rpc"}"#,
            r#"{"args":{"action":"list_ssl_checksums"},"id":"bridge_request_list_keys","name":"settings","namespace":"rpc"}"#,
            r#"{"args":{"available_connections":["a"]},"id":"","name":"bridge","namespace":"events"}"#,
            "a\n{}",
        ];
        let mut state: u64 = 1;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        for _ in 0..3000 {
            let mut dialogue = dialogue();
            for _ in 0..6 {
                let mut text = texts[next(texts.len())].to_owned().into_bytes();
                for _ in 0..next(3) {
                    let at = next(text.len().max(1));
                    match next(3) {
                        0 => text.insert(at, next(128) as u8),
                        1 => text.truncate(at),
                        _ => text.swap(0, at),
                    }
                    if text.is_empty() {
                        text.push(b'{');
                    }
                }
                let was_known = dialogue.is_known();
                match dialogue.take(&String::from_utf8(text).unwrap()) {
                    Some(News::Available(_) | News::Payload { .. }) => assert!(was_known),
                    Some(News::Challenge(_)) => dialogue.prove(&Proof::Encrypted("e".into())),
                    Some(News::Known | News::Refused(_) | News::Complaint(_)) | None => {}
                }
                for said in sent(&mut dialogue) {
                    let id = said["id"].as_str().unwrap();
                    assert!([IDENT, KEYS, AUTH].contains(&id), "{said}");
                }
            }
        }
    }

    #[test]
    fn a_list_names_each_client_once_and_no_nonsense() {
        let list = r#"{"args":{"available_connections":["a","b","a",7,"","c d","a\"role=full","\\"]},"id":"","name":"bridge","namespace":"events"}"#;
        assert_eq!(known().take(list), Some(News::Available(vec!["a".into(), "b".into()])));
    }

    #[test]
    fn hint_has_host_name_and_request_id() {
        let text = hint("7", "a\"b");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["id"], &value["args"]["hostname"]), (&json!(7), &json!("a\"b")));
    }
}

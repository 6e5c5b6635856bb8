//! What a bridge and its peers say to each other (protocol section 5).
//!
//! Two kinds of frames share one connection: JSON objects, between a peer and the bridge, and
//! `<id>\n<payload>`, between two peers, of which the bridge reads the first line alone.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The `id` by which the bridge asks who a peer is.
pub const IDENTIFY_ID: &str = "sysadm_bridge_request_ident";
/// The `id` by which the bridge asks for the keys of a peer.
pub const LIST_KEYS_ID: &str = "bridge_request_list_keys";
/// The `id` of a server's authentication at a bridge.
pub const SERVER_AUTH_ID: &str = "server_to_bridge_auth";
/// Sums in the list of one peer.
pub const MOST_SUMS: usize = 256;

/// What a peer of a bridge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerKind {
    /// It serves events.
    Server,
    /// It wants them.
    Client,
}

impl PeerKind {
    /// As it stands on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            PeerKind::Server => "server",
            PeerKind::Client => "client",
        }
    }

    /// Reads what stands on the wire.
    pub fn of(name: &str) -> Option<PeerKind> {
        [PeerKind::Server, PeerKind::Client].into_iter().find(|kind| kind.name() == name)
    }

    /// Whom it is introduced to.
    pub const fn other(self) -> PeerKind {
        match self {
            PeerKind::Server => PeerKind::Client,
            PeerKind::Client => PeerKind::Server,
        }
    }
}

/// The sum of a key, by which a server and a client find each other: MD5 of its canonical PEM form.
/// It is a name, and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum([u8; 16]);

impl Sum {
    /// Reads base64.
    pub fn parse(text: &str) -> Option<Sum> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Sum)
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame on a connection to a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeFrame<'a> {
    /// A JSON object, or what begins like one: between the peer and the bridge.
    Object(&'a str),
    /// From or for another peer.
    Routed {
        /// Of the peer: for whom it is on its way to the bridge, from whom on its way from it. It
        /// may be anything, see [`is_peer_id`].
        peer: &'a str,
        /// What the bridge does not read.
        payload: &'a str,
    },
    /// Neither.
    Neither,
}

impl<'a> BridgeFrame<'a> {
    /// Tells the two apart.
    pub fn parse(text: &'a str) -> BridgeFrame<'a> {
        if text.starts_with('{') {
            return BridgeFrame::Object(text);
        }
        match text.split_once('\n') {
            Some((peer, payload)) => BridgeFrame::Routed { peer, payload },
            None => BridgeFrame::Neither,
        }
    }
}

/// A frame from or for a peer.
pub fn routed(peer: &str, payload: &str) -> String {
    let mut frame = String::with_capacity(peer.len() + 1 + payload.len());
    frame.push_str(peer);
    frame.push('\n');
    frame.push_str(payload);
    frame
}

/// Whether a bridge may give a peer that id.
pub fn is_peer_id(id: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b":_-".contains(&byte);
    !id.is_empty() && id.bytes().all(is_letter)
}

/// The bridge's question who a peer is.
pub fn identify_request() -> String {
    json!({ "id": IDENTIFY_ID, "namespace": "rpc", "name": "identify", "args": "" }).to_string()
}

/// The bridge's question for the keys of a peer.
pub fn list_keys_request() -> String {
    let args = json!({ "action": "list_ssl_checksums" });
    json!({ "id": LIST_KEYS_ID, "namespace": "rpc", "name": "settings", "args": args }).to_string()
}

/// The event that tells a peer who is available to it, all of them.
pub fn bridge_event<'a>(available: impl Iterator<Item = &'a str>) -> String {
    let available: Vec<&str> = available.collect();
    let args = json!({ "available_connections": available });
    json!({ "id": "", "namespace": "events", "name": "bridge", "args": args }).to_string()
}

/// What a peer answered to a question of the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// Who it is.
    Identity {
        /// `None` where it is neither of the two.
        kind: Option<PeerKind>,
        /// What it calls itself; empty where it does not say.
        hostname: String,
    },
    /// The sums of its keys, in no order, each once; those that are no sums are left out.
    Keys(Vec<Sum>),
    /// More sums than [`MOST_SUMS`].
    TooManyKeys(usize),
    /// Something that was not asked for, or an error.
    Other,
}

impl PeerAnswer {
    /// Reads a frame that is an answer.
    pub fn parse(text: &str) -> PeerAnswer {
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return PeerAnswer::Other };
        let is_response =
            frame["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("response"));
        let args = &frame["args"];
        match frame["id"].as_str().filter(|_| is_response) {
            Some(IDENTIFY_ID) => PeerAnswer::Identity {
                kind: args["type"].as_str().and_then(PeerKind::of),
                hostname: args["hostname"].as_str().unwrap_or("").to_owned(),
            },
            Some(LIST_KEYS_ID) => match &args["md5_keys"] {
                Value::Array(keys) if keys.len() > MOST_SUMS => PeerAnswer::TooManyKeys(keys.len()),
                Value::Array(keys) => {
                    let sums = keys.iter().filter_map(|key| Sum::parse(key.as_str()?));
                    let mut sums: Vec<Sum> = sums.collect();
                    sums.sort_unstable();
                    sums.dedup();
                    PeerAnswer::Keys(sums)
                }
                _ => PeerAnswer::Other,
            },
            Some(_) | None => PeerAnswer::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_routed_frame_is_an_id_and_the_rest_is_not_looked_at() {
        let routed_to = |peer, payload| BridgeFrame::Routed { peer, payload };
        assert_eq!(BridgeFrame::parse("a:_-9\n{\"x\":1}\n"), routed_to("a:_-9", "{\"x\":1}\n"));
        assert_eq!(BridgeFrame::parse("\n"), routed_to("", ""));
        assert_eq!(BridgeFrame::parse(" {}\n"), routed_to(" {}", ""));
        assert_eq!(BridgeFrame::parse("{a\nb"), BridgeFrame::Object("{a\nb"));
        assert_eq!(BridgeFrame::parse("no end"), BridgeFrame::Neither);
        assert_eq!(routed("id", "a\nb"), "id\na\nb");
        for (id, good) in [("aZ09:_-", true), ("", false), ("a b", false), ("ä", false)] {
            assert_eq!(is_peer_id(id), good, "{id}");
        }
    }

    // The bridge's own frames, as the original one sends them; keys in its order.
    #[test]
    fn the_bridge_asks_and_tells_as_the_original_does() {
        let sorted = |text: String| {
            let frame: std::collections::BTreeMap<String, Value> =
                serde_json::from_str(&text).unwrap();
            serde_json::to_string(&frame).unwrap()
        };
        assert_eq!(
            sorted(identify_request()),
            r#"{"args":"","id":"sysadm_bridge_request_ident","name":"identify","namespace":"rpc"}"#
        );
        assert_eq!(
            sorted(list_keys_request()),
            r#"{"args":{"action":"list_ssl_checksums"},"id":"bridge_request_list_keys","name":"settings","namespace":"rpc"}"#
        );
        assert_eq!(
            sorted(bridge_event(["::a", "b"].into_iter())),
            r#"{"args":{"available_connections":["::a","b"]},"id":"","name":"bridge","namespace":"events"}"#
        );
    }

    // From the recorded frames of the original server.
    #[test]
    fn answers_of_an_original_server_are_understood() {
        let identity = r#"{"args":{"hostname":"vm","type":"server"},"id":"sysadm_bridge_request_ident","name":"response","namespace":"rpc"}"#;
        let keys = r#"{"args":{"md5_keys":["NRLsKMJakQPEP1GUKedwBw=="]},"id":"bridge_request_list_keys","name":"response","namespace":"rpc"}"#;
        assert_eq!(
            PeerAnswer::parse(identity),
            PeerAnswer::Identity { kind: Some(PeerKind::Server), hostname: "vm".into() }
        );
        let PeerAnswer::Keys(sums) = PeerAnswer::parse(keys) else { panic!() };
        assert_eq!(sums.len(), 1);
        assert_eq!(sums[0].to_string(), "NRLsKMJakQPEP1GUKedwBw==");
    }

    #[test]
    fn what_is_no_answer_to_a_question_is_something_else() {
        for text in [
            r#"{"id":"sysadm_bridge_request_ident","name":"error","args":{"type":"server"}}"#,
            r#"{"id":"x","name":"response","args":{"type":"server"}}"#,
            r#"{"id":"bridge_request_list_keys","name":"response","args":["md5_keys"]}"#,
            r#"{"id":5,"name":"response"}"#,
            "{",
        ] {
            assert_eq!(PeerAnswer::parse(text), PeerAnswer::Other, "{text}");
        }
        let list = |keys: Vec<String>| {
            let args = json!({ "md5_keys": keys });
            let frame = json!({ "id": LIST_KEYS_ID, "name": "response", "args": args });
            PeerAnswer::parse(&frame.to_string())
        };
        let sum = |n: u16| {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            Sum(bytes).to_string()
        };
        assert_eq!(list((0..257).map(sum).collect()), PeerAnswer::TooManyKeys(257));
        let PeerAnswer::Keys(sums) = list((0..256).map(sum).collect()) else { panic!() };
        assert_eq!(sums.len(), 256);
        let twice = vec![sum(1), "short".into(), sum(0), sum(1), String::new()];
        let PeerAnswer::Keys(sums) = list(twice) else { panic!() };
        assert_eq!(sums, [Sum::parse(&sum(0)).unwrap(), Sum::parse(&sum(1)).unwrap()]);
    }
}

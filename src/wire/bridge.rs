//! Frames between a relay and its peers (protocol section 5).
//!
//! One connection carries two kinds of frames: JSON objects, between a peer and the relay, and
//! `<id>\n<payload>`, between two peers, of which the relay reads only the first line.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::json::JsonFields;

/// The `id` of the relay's request for a peer's identity.
pub const IDENTIFY_ID: &str = "sysadm_bridge_request_ident";
/// The `id` of the relay's request for the keys of a peer.
pub const LIST_KEYS_ID: &str = "bridge_request_list_keys";
/// The `id` of a server's authentication at a relay.
pub const SERVER_AUTH_ID: &str = "server_to_bridge_auth";
/// Maximum number of key checksums in the list of one peer.
pub const MOST_CHECKSUMS: usize = 256;

/// Kind of a relay's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerKind {
    /// Serves events.
    Server,
    /// Subscribes to events.
    Client,
}

impl PeerKind {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            PeerKind::Server => "server",
            PeerKind::Client => "client",
        }
    }

    /// Parses the name on the wire.
    pub fn of(name: &str) -> Option<PeerKind> {
        [PeerKind::Server, PeerKind::Client].into_iter().find(|kind| kind.name() == name)
    }

    /// The kind that it is introduced to.
    pub const fn other(self) -> PeerKind {
        match self {
            PeerKind::Server => PeerKind::Client,
            PeerKind::Client => PeerKind::Server,
        }
    }
}

/// Checksum of a key, which matches servers and clients: MD5 of its canonical PEM form. An
/// identifier without any security.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyChecksum([u8; 16]);

impl KeyChecksum {
    /// Parses base64.
    pub fn parse(text: &str) -> Option<KeyChecksum> {
        STANDARD.decode(text).ok()?.try_into().ok().map(KeyChecksum)
    }
}

impl fmt::Display for KeyChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for KeyChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame on a connection to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeFrame<'a> {
    /// A JSON object, or a frame that begins like one: between the peer and the relay.
    Object(&'a str),
    /// From or for another peer.
    Routed {
        /// The peer: the recipient on the way to the relay, the sender on the way from it.
        /// Unvalidated, see [`is_peer_id`].
        peer: &'a str,
        /// The payload, not examined by the relay.
        payload: &'a str,
    },
    /// Any other frame.
    Neither,
}

impl<'a> BridgeFrame<'a> {
    /// Distinguishes the two.
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

/// Whether a relay may assign this id to a peer.
pub fn is_peer_id(id: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b":_-".contains(&byte);
    !id.is_empty() && id.bytes().all(is_letter)
}

/// The relay's request for a peer's identity.
pub fn identify_request() -> String {
    json!({ "id": IDENTIFY_ID, "namespace": "rpc", "name": "identify", "args": "" }).to_string()
}

/// The relay's request for the keys of a peer.
pub fn list_keys_request() -> String {
    let args = json!({ "action": "list_ssl_checksums" });
    json!({ "id": LIST_KEYS_ID, "namespace": "rpc", "name": "settings", "args": args }).to_string()
}

/// The event that lists all peers available to a peer.
pub fn bridge_event<'a>(available: impl Iterator<Item = &'a str>) -> String {
    let available: Vec<&str> = available.collect();
    let args = json!({ "available_connections": available });
    json!({ "id": "", "namespace": "events", "name": "bridge", "args": args }).to_string()
}

/// A peer's reply to a request of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// Its identity.
    Identity {
        /// `None` for an unknown kind.
        kind: Option<PeerKind>,
        /// Its host name; empty if missing.
        hostname: String,
    },
    /// The checksums of its keys, unordered, without duplicates; invalid ones are omitted.
    Keys(Vec<KeyChecksum>),
    /// More checksums than [`MOST_CHECKSUMS`].
    TooManyKeys(usize),
    /// An unrequested frame, or an error.
    Other,
}

impl PeerAnswer {
    /// Parses a reply.
    pub fn parse(text: &str) -> PeerAnswer {
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return PeerAnswer::Other };
        let is_response =
            frame.field("name").as_str().is_some_and(|name| name.eq_ignore_ascii_case("response"));
        let args = frame.field("args");
        match frame.field("id").as_str().filter(|_| is_response) {
            Some(IDENTIFY_ID) => PeerAnswer::Identity {
                kind: args.field("type").as_str().and_then(PeerKind::of),
                hostname: args.field("hostname").as_str().unwrap_or("").to_owned(),
            },
            Some(LIST_KEYS_ID) => match args.field("md5_keys") {
                Value::Array(keys) if keys.len() > MOST_CHECKSUMS => {
                    PeerAnswer::TooManyKeys(keys.len())
                }
                Value::Array(keys) => {
                    let checksums = keys.iter().filter_map(|key| KeyChecksum::parse(key.as_str()?));
                    let mut checksums: Vec<KeyChecksum> = checksums.collect();
                    checksums.sort_unstable();
                    checksums.dedup();
                    PeerAnswer::Keys(checksums)
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
    fn routed_frame_has_an_id_and_an_opaque_payload() {
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

    // The relay's own frames, identical to those of the original; keys in its order.
    #[test]
    fn relay_frames_equal_those_of_the_original() {
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
    fn replies_of_an_original_server_are_parsed() {
        let identity = r#"{"args":{"hostname":"vm","type":"server"},"id":"sysadm_bridge_request_ident","name":"response","namespace":"rpc"}"#;
        let keys = r#"{"args":{"md5_keys":["NRLsKMJakQPEP1GUKedwBw=="]},"id":"bridge_request_list_keys","name":"response","namespace":"rpc"}"#;
        assert_eq!(
            PeerAnswer::parse(identity),
            PeerAnswer::Identity { kind: Some(PeerKind::Server), hostname: "vm".into() }
        );
        let PeerAnswer::Keys(checksums) = PeerAnswer::parse(keys) else { panic!() };
        assert_eq!(checksums.len(), 1);
        assert_eq!(checksums[0].to_string(), "NRLsKMJakQPEP1GUKedwBw==");
    }

    #[test]
    fn other_frames_are_not_replies() {
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
            KeyChecksum(bytes).to_string()
        };
        assert_eq!(list((0..257).map(sum).collect()), PeerAnswer::TooManyKeys(257));
        let PeerAnswer::Keys(checksums) = list((0..256).map(sum).collect()) else { panic!() };
        assert_eq!(checksums.len(), 256);
        let twice = vec![sum(1), "short".into(), sum(0), sum(1), String::new()];
        let PeerAnswer::Keys(checksums) = list(twice) else { panic!() };
        assert_eq!(
            checksums,
            [KeyChecksum::parse(&sum(0)).unwrap(), KeyChecksum::parse(&sum(1)).unwrap()]
        );
    }
}

//! Peers of a relay: keys, the relay's key file, and the frames of a peer.
//!
//! Written by hand from the documentation, so that an error of the relay is not repeated.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::{Daemon, Outcome, Peer, Transport};

/// An Ed25519 key.
#[derive(Debug)]
pub struct PeerKey(Ed25519KeyPair);

/// Prefix of an Ed25519 key in its SubjectPublicKeyInfo: RFC 8410 section 4.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

impl PeerKey {
    /// Generates a key.
    pub fn new() -> Outcome<PeerKey> {
        let random = SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| "no random bits")?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref());
        Ok(PeerKey(pair.map_err(|error| error.to_string())?))
    }

    fn spki(&self) -> Vec<u8> {
        [&SPKI, self.0.public_key().as_ref()].concat()
    }

    /// Its public half.
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(self.spki());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// Its identifier.
    pub fn id(&self) -> String {
        STANDARD.encode(digest(&SHA256, &self.spki()))
    }

    /// The second stage of an authentication, for the owner of this certificate.
    pub fn proof(&self, purpose: &str, fingerprint: &str, test_string: &str) -> Outcome<Value> {
        let mut message = format!("sysadm-events-auth-v1\0{purpose}\0").into_bytes();
        for at in (0..fingerprint.len()).step_by(2) {
            message.push(u8::from_str_radix(&fingerprint[at..at + 2], 16)?);
        }
        message.extend_from_slice(test_string.as_bytes());
        let signature = STANDARD.encode(self.0.sign(&message));
        Ok(json!({ "key": self.id(), "signature": signature }))
    }
}

/// Writes a relay's key file atomically: a name, a key, and the checksums that its owner may claim
/// (none: any).
pub fn register(state: &Path, keys: &[(&str, &PeerKey, &[&str])]) -> Outcome<()> {
    let mut text = String::new();
    for (user, key, sums) in keys {
        let line = json!({ "user": user, "key": key.pem(), "sums": sums });
        text.push_str(&format!("{line}\n"));
    }
    fs::create_dir_all(state)?;
    fs::write(state.join("keys.made"), text)?;
    fs::rename(state.join("keys.made"), state.join("keys"))?;
    Ok(())
}

/// A peer of a relay: a server or a client.
pub struct BridgePeer {
    /// Its connection.
    pub peer: Peer,
    asked: u64,
}

impl BridgePeer {
    /// Connects, and replies to the relay's identity request.
    pub fn dial(bridge: &Daemon, kind: &str) -> Outcome<BridgePeer> {
        BridgePeer::over(Peer::connect(bridge, Transport::Tls)?, kind)
    }

    /// The same over an existing connection.
    pub fn over(peer: Peer, kind: &str) -> Outcome<BridgePeer> {
        let mut new = BridgePeer { peer, asked: 0 };
        let question = new.peer.frame()?;
        if question["id"] != "sysadm_bridge_request_ident" || question["name"] != "identify" {
            return Err(format!("the bridge asked {question}").into());
        }
        new.answer(
            "sysadm_bridge_request_ident",
            &json!({ "type": kind, "hostname": format!("{kind}-of-a-test") }),
        )?;
        Ok(new)
    }

    /// Connects, authenticates and claims these keys.
    pub fn join(bridge: &Daemon, kind: &str, key: &PeerKey, sums: &[&str]) -> Outcome<BridgePeer> {
        let mut new = BridgePeer::dial(bridge, kind)?;
        new.authenticate(bridge.fingerprint(), key)?;
        new.claim_when_asked(sums)?;
        Ok(new)
    }

    /// Authenticates by a key.
    pub fn authenticate(&mut self, fingerprint: &str, key: &PeerKey) -> Outcome<()> {
        let stage = self.peer.request("rpc", "auth_ssl", &json!({}))?;
        let string = stage["test_string"].as_str().ok_or("no test_string")?;
        self.peer.request("rpc", "auth_ssl", &key.proof("bridge", fingerprint, string)?)?;
        Ok(())
    }

    /// Waits for the relay's request for keys, and replies to it.
    pub fn claim_when_asked(&mut self, sums: &[&str]) -> Outcome<()> {
        let question = self.peer.frame()?;
        if question["id"] != "bridge_request_list_keys"
            || question["args"]["action"] != "list_ssl_checksums"
        {
            return Err(format!("the bridge asked {question}").into());
        }
        self.claim(sums)
    }

    /// Sends the list of keys to the relay.
    pub fn claim(&mut self, sums: &[&str]) -> Outcome<()> {
        self.answer("bridge_request_list_keys", &json!({ "md5_keys": sums }))
    }

    /// Sends the reply to a request of the relay.
    pub fn answer(&mut self, id: &str, args: &Value) -> Outcome<()> {
        self.peer.send(&json!({ "namespace": "rpc", "name": "response", "id": id, "args": args }))
    }

    /// The next bridge event: the whole list.
    pub fn list(&mut self) -> Outcome<Vec<String>> {
        let frame = self.peer.frame()?;
        if frame["namespace"] != "events" || frame["name"] != "bridge" || frame["id"] != "" {
            return Err(format!("no bridge event, but {frame}").into());
        }
        let list = frame["args"]["available_connections"].as_array().ok_or("no list")?;
        list.iter().map(|id| Ok(id.as_str().ok_or("an id is no text")?.to_owned())).collect()
    }

    /// All frames of the relay so far, up to the reply to a request.
    pub fn so_far(&mut self) -> Outcome<Vec<String>> {
        self.asked += 1;
        let id = format!("so far {}", self.asked);
        self.peer.send(&json!({ "namespace": "rpc", "name": "identify", "id": id, "args": "" }))?;
        let mut frames = Vec::new();
        loop {
            let text = self.peer.event()?;
            if text.starts_with('{') && serde_json::from_str::<Value>(&text)?["id"] == id {
                return Ok(frames);
            }
            frames.push(text);
        }
    }

    /// Sends a payload to another peer.
    pub fn send_to(&mut self, to: &str, payload: &str) -> Outcome<()> {
        self.peer.send_message(Message::text(format!("{to}\n{payload}")))
    }

    /// The next frame from another peer: sender and payload.
    pub fn heard(&mut self) -> Outcome<(String, String)> {
        let text = self.peer.event()?;
        match text.split_once('\n') {
            Some((from, payload)) if !text.starts_with('{') => Ok((from.into(), payload.into())),
            _ => Err(format!("nothing from a peer, but {text}").into()),
        }
    }

    /// Sets the time limit of reads.
    pub fn set_patience(&mut self, patience: Duration) -> Outcome<()> {
        self.peer.set_patience(patience)
    }
}

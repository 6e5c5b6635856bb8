//! Relay state machine: introduction of peers and forwarding of frames (protocol section 5).
//!
//! Inputs are bytes and verified proofs, outputs are effects. A frame is forwarded only between
//! peers that were introduced: one is a server, the other a client, both have proven a registered
//! key, and both claim a key in common. An introduction grants no permission: the server decides
//! what a client may do.
//!
//! Peers are found by claimed checksums, so the cost of connecting, disconnecting or changing keys
//! is proportional to the number of peers with a common key. A peer receives its changed list at
//! the end of a turn, or earlier if the relay sends it another message or a new peer sends it a
//! frame; never an unchanged list. A long list is rate-limited: it is always sent whole, and a peer
//! that reconnects constantly must not make the relay send all lists constantly.

mod availability;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use log::{debug, warn};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use crate::net::CloseReason;
use crate::wire::{
    BridgeFrame, Command, Credentials, ErrorCode, Frame, KeyChecksum, KeyId, Need, PeerAnswer,
    Refusal, Reply, ReplyTo, Request, bridge_event, identify_request, list_keys_request, reply,
    routed,
};
use availability::Claims;
use peer::Peer;

pub use peer::{Registration, Standing};

/// The owner's number of a connection, never reused.
pub type PeerNumber = u64;

/// A proof presented by a peer.
#[derive(Debug)]
pub enum Proof {
    /// A signature by this key.
    Signed {
        /// The key; `None` for text that is no key's identifier.
        key: Option<KeyId>,
        /// The signature.
        signature: Vec<u8>,
    },
    /// The string, encrypted by a legacy key.
    Encrypted(Vec<u8>),
}

/// An action for the owner.
#[derive(Debug)]
pub enum Effect {
    /// A message of the relay to a peer.
    Send {
        /// Recipient.
        to: PeerNumber,
        /// JSON.
        text: String,
    },
    /// A frame of one peer for another.
    Forward {
        /// Sender.
        from: PeerNumber,
        /// Recipient.
        to: PeerNumber,
        /// The frame, with the sender's id as its first line.
        frame: String,
    },
    /// A proof to verify: call [`Relay::prove`], or reply with an error.
    Judge {
        /// The peer.
        peer: PeerNumber,
        /// For the reply to its request.
        reply_to: ReplyTo,
        /// The challenge; `None` without one, or after it expired.
        test_string: Option<Zeroizing<String>>,
        /// The proof.
        proof: Proof,
    },
    /// A peer has given up its identity.
    Deauthenticated(PeerNumber),
    /// A peer must be closed.
    Close {
        /// The peer.
        peer: PeerNumber,
        /// The reason.
        reason: CloseReason,
    },
}

/// Maximum length of a stored host name in characters: RFC 1035 section 2.3.4.
const HOSTNAME: usize = 255;

/// Maximum number of peers in a list that is not rate-limited.
const SHORT_LIST: usize = 16;
/// Minimum interval per peer in a longer list: limits the lists of one peer to 1,000 entries a
/// second.
const PACE: Duration = Duration::from_millis(1);

/// All peers.
pub struct Relay {
    hostname: String,
    random: SystemRandom,
    peers: BTreeMap<PeerNumber, Peer>,
    by_id: BTreeMap<String, PeerNumber>,
    claims: Claims,
    /// Peers whose list may have changed.
    news: BTreeSet<PeerNumber>,
    effects: VecDeque<Effect>,
}

impl Relay {
    /// Creates an empty relay. `hostname` is reported to peers on request.
    pub fn new(hostname: &str) -> Relay {
        Relay {
            hostname: hostname.to_owned(),
            random: SystemRandom::new(),
            peers: BTreeMap::new(),
            by_id: BTreeMap::new(),
            claims: Claims::default(),
            news: BTreeSet::new(),
            effects: VecDeque::new(),
        }
    }

    /// The next action.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Adds a connection with a new id.
    pub fn connect(&mut self, number: PeerNumber, id: String) {
        self.by_id.insert(id.clone(), number);
        self.peers.insert(number, Peer::new(id));
        self.send(number, identify_request());
    }

    /// Removes a connection.
    pub fn disconnect(&mut self, number: PeerNumber) {
        self.withdraw(number);
        self.news.remove(&number);
        if let Some(peer) = self.peers.remove(&number) {
            self.by_id.remove(&peer.id);
        }
    }

    /// The recipient of a frame, if it would be forwarded now.
    pub fn recipient(&self, from: PeerNumber, text: &str) -> Option<PeerNumber> {
        match BridgeFrame::parse(text) {
            BridgeFrame::Routed { peer, .. } => self.introduced(from, peer),
            BridgeFrame::Object(_) | BridgeFrame::Neither => None,
        }
    }

    /// Processes a frame of a peer.
    pub fn take(&mut self, number: PeerNumber, text: &str, now: Instant) {
        match BridgeFrame::parse(text) {
            BridgeFrame::Routed { peer, payload } => self.forward(number, peer, payload),
            BridgeFrame::Neither => {
                let why = "a frame is a JSON object, or an id, a newline and what is for that peer";
                self.refuse(number, ErrorCode::BadRequest, why);
            }
            BridgeFrame::Object(text) => match Request::parse(text) {
                Ok(Frame::Answer) => self.take_answer(number, text),
                Ok(Frame::Request(request)) => self.take_request(number, request, now),
                Err(bad) => self.reply(number, &bad.reply_to, Err(bad.refusal)),
            },
        }
    }

    /// A proof was verified: it belongs to this registered key. Replies to the request.
    pub fn prove(&mut self, number: PeerNumber, reply_to: &ReplyTo, registration: Registration) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        let revised = peer.standing.registration().is_some();
        peer.standing = Standing::Known(registration);
        // The original protocol expects a token here; a relay accepts none. The original server
        // takes an empty one for a failure.
        self.reply(number, reply_to, Ok(Reply::Token("bridge".to_owned().into(), 0)));
        if revised {
            self.claim(number);
        }
        self.ask_for_keys(number);
    }

    /// The registered keys have changed: `current` returns the current registration of a former
    /// one.
    pub fn revise(&mut self, current: impl Fn(&Registration) -> Option<Registration>) {
        for number in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get_mut(&number) else { continue };
            let Some(before) = peer.standing.registration() else { continue };
            match current(before) {
                Some(now) if now == *before => {}
                Some(now) => {
                    peer.standing = Standing::Known(now);
                    self.claim(number);
                }
                None => {
                    peer.standing = Standing::Revoked(before.name.clone());
                    self.withdraw(number);
                    let reason = CloseReason::new(1008, "its key is not registered any more");
                    self.effects.push_back(Effect::Close { peer: number, reason });
                }
            }
        }
    }

    /// Sends changed lists to peers that are ready; at the end of a turn. A peer with a long queue
    /// gets only the latest list, later.
    pub fn send_lists(&mut self, now: Instant, is_ready: impl Fn(PeerNumber) -> bool) {
        let is_due = |number: &PeerNumber| self.next_list(*number).is_none_or(|due| due <= now);
        let news = self.news.iter().copied().filter(is_due);
        let ready: Vec<PeerNumber> = news.filter(|number| is_ready(*number)).collect();
        for number in ready {
            self.send_list(number);
            if let Some(peer) = self.peers.get_mut(&number) {
                let length = peer.sent_list.len();
                let count = u32::try_from(length).unwrap_or(u32::MAX);
                peer.next_list = (length > SHORT_LIST).then(|| now + PACE.saturating_mul(count));
            }
        }
    }

    /// Whether [`Relay::send_lists`] would send a list.
    pub fn has_news(&self, now: Instant, is_ready: impl Fn(PeerNumber) -> bool) -> bool {
        let is_due = |number: PeerNumber| self.next_list(number).is_none_or(|due| due <= now);
        self.news.iter().any(|number| is_due(*number) && is_ready(*number))
    }

    /// When the next rate-limited list is due.
    pub fn lists_due(&self, now: Instant) -> Option<Instant> {
        let due = self.news.iter().filter_map(|number| self.next_list(*number));
        due.filter(|due| *due > now).min()
    }

    fn next_list(&self, number: PeerNumber) -> Option<Instant> {
        self.peers.get(&number)?.next_list
    }

    /// A peer, for display.
    pub fn peer(&self, number: PeerNumber) -> Option<&Peer> {
        self.peers.get(&number)
    }

    /// Sends a message after the pending list of the peer.
    fn send(&mut self, to: PeerNumber, text: String) {
        self.send_list(to);
        self.effects.push_back(Effect::Send { to, text });
    }

    fn reply(&mut self, to: PeerNumber, reply_to: &ReplyTo, result: Result<Reply, Refusal>) {
        self.send(to, reply(reply_to, &result));
    }

    /// Rejects a frame that is no request.
    fn refuse(&mut self, to: PeerNumber, code: ErrorCode, why: &str) {
        self.reply(to, &ReplyTo::default(), Err(Refusal::new(code, why)));
    }

    fn forward(&mut self, from: PeerNumber, to: &str, payload: &str) {
        let Some(sender) = self.peers.get(&from) else { return };
        if sender.standing.registration().is_none() {
            let why = "authenticate first, by auth_ssl";
            return self.refuse(from, ErrorCode::Unauthorized, why);
        }
        let Some(to) = self.introduced(from, to) else {
            // The same text whether it does not exist or is not available.
            let why = "no such connection is available to you";
            return self.refuse(from, ErrorCode::NotFound, why);
        };
        let frame = routed(&sender.id, payload);
        // The recipient must know the sender before it receives its frame.
        let knows = |peer: &Peer| peer.sent_list.binary_search(&from).is_ok();
        if !self.peers.get(&to).is_some_and(knows) {
            self.send_list(to);
        }
        self.effects.push_back(Effect::Forward { from, to, frame });
    }

    /// The peer with that id, if it is available to this one.
    fn introduced(&self, from: PeerNumber, to: &str) -> Option<PeerNumber> {
        let (sender, to) = (self.peers.get(&from)?, *self.by_id.get(to)?);
        sender.available.binary_search(&to).is_ok().then_some(to)
    }

    fn take_answer(&mut self, number: PeerNumber, text: &str) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        match PeerAnswer::parse(text) {
            PeerAnswer::Identity { kind: Some(kind), hostname } if peer.kind.is_none() => {
                let is_shown = |c: &char| !c.is_control();
                peer.hostname = hostname.chars().filter(is_shown).take(HOSTNAME).collect();
                peer.kind = Some(kind);
                self.ask_for_keys(number);
            }
            PeerAnswer::Identity { kind: None, .. } => {
                let reason = CloseReason::new(1008, "a peer is a server or a client");
                self.effects.push_back(Effect::Close { peer: number, reason });
            }
            // Unrequested claims are ignored.
            PeerAnswer::Keys(claimed) if peer.asked && peer.standing.registration().is_some() => {
                peer.claimed = claimed;
                self.claim(number);
            }
            PeerAnswer::TooManyKeys(count) if peer.asked => {
                warn!("peer {}: its list has too many keys: {count}", peer.id);
                let why = format!("a list has at most {} keys", crate::wire::MOST_CHECKSUMS);
                let reason = CloseReason::new(1008, why);
                self.effects.push_back(Effect::Close { peer: number, reason });
            }
            PeerAnswer::Identity { .. }
            | PeerAnswer::Keys(_)
            | PeerAnswer::TooManyKeys(_)
            | PeerAnswer::Other => debug!("peer {}: an answer to no question", peer.id),
        }
    }

    fn take_request(&mut self, number: PeerNumber, request: Request, now: Instant) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        let Request { reply_to, need, command } = request;
        let is_known = peer.standing.registration().is_some();
        let refuse = |code, why: &str| Err(Refusal::new(code, why));
        let proof = match command {
            Ok(Command::Identify) => {
                return self.reply(number, &reply_to, Ok(Reply::relay_identity(&self.hostname)));
            }
            Ok(Command::Authenticate(Credentials::Challenge { .. })) => {
                let challenge = match peer.challenge.issue(now, &self.random) {
                    Some(test_string) => Ok(Reply::Challenge { test_string, new_ssl_key: None }),
                    None => refuse(ErrorCode::Internal, "the system gives no random bits"),
                };
                return self.reply(number, &reply_to, challenge);
            }
            Ok(Command::Authenticate(Credentials::Signature { key, signature })) => {
                Proof::Signed { key, signature }
            }
            Ok(Command::Authenticate(Credentials::LegacySignature { signature })) => {
                Proof::Encrypted(signature)
            }
            Ok(Command::Authenticate(
                Credentials::Transport | Credentials::Password { .. } | Credentials::Token(_),
            )) => {
                let why = "a relay accepts neither passwords nor tokens: use auth_ssl";
                return self.reply(number, &reply_to, refuse(ErrorCode::Forbidden, why));
            }
            Ok(Command::ClearAuthentication) => {
                peer.standing = Standing::Unauthenticated;
                peer.challenge.forget();
                peer.sent_list = Vec::new();
                if is_known {
                    self.withdraw(number);
                    self.effects.push_back(Effect::Deauthenticated(number));
                }
                return;
            }
            Err(refusal) if need == Some(Need::Nothing) => {
                return self.reply(number, &reply_to, Err(refusal));
            }
            Ok(
                Command::Query
                | Command::WhoAmI
                | Command::Status { .. }
                | Command::History(_)
                | Command::Key(_)
                | Command::CheckPools
                | Command::Job(_)
                | Command::Notify(_)
                | Command::Subscribe(_)
                | Command::Unsubscribe(_)
                | Command::Alert(_)
                | Command::Emit(_),
            )
            | Err(_) => {
                let refusal = if is_known {
                    let why = "a bridge answers rpc/identify, rpc/auth_ssl and rpc/auth_clear, and \
                               passes on what begins with the id of an available connection";
                    refuse(ErrorCode::NotFound, why)
                } else {
                    refuse(ErrorCode::Unauthorized, "authenticate first, by auth_ssl")
                };
                return self.reply(number, &reply_to, refusal);
            }
        };
        let test_string = peer.challenge.take(now);
        self.effects.push_back(Effect::Judge { peer: number, reply_to, test_string, proof });
    }

    /// Requests a peer's keys as soon as its key is proven and its kind is known.
    fn ask_for_keys(&mut self, number: PeerNumber) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        if peer.kind.is_some() && peer.standing.registration().is_some() && !peer.asked {
            peer.asked = true;
            self.send(number, list_keys_request());
        }
    }

    /// Updates the claims of a peer.
    fn claim(&mut self, number: PeerNumber) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        let checksums = peer.allowed();
        if checksums.len() < peer.claimed.len() {
            let count = peer.claimed.len() - checksums.len();
            debug!("peer {}: {count} keys that it claims are not for it", peer.id);
        }
        self.set_checksums(number, checksums);
    }

    /// Removes the peer from all lists.
    fn withdraw(&mut self, number: PeerNumber) {
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.claimed = Vec::new();
            peer.asked = false;
            self.set_checksums(number, Vec::new());
        }
    }

    fn set_checksums(&mut self, number: PeerNumber, checksums: Vec<KeyChecksum>) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        let Some(kind) = peer.kind else { return };
        if peer.checksums == checksums {
            return;
        }
        let before = std::mem::replace(&mut peer.checksums, checksums);
        self.claims.replace(kind, number, &before, &peer.checksums);
        let wanted = self.claims.available(kind, &peer.checksums);
        let known = std::mem::replace(&mut peer.available, wanted.clone());
        if known == wanted {
            return;
        }
        self.news.insert(number);
        for gone in known.iter().filter(|other| wanted.binary_search(other).is_err()) {
            self.revise_list(*gone, |list| list.retain(|other| *other != number));
        }
        for new in wanted.iter().filter(|other| known.binary_search(other).is_err()) {
            self.revise_list(*new, |list| {
                if let Err(at) = list.binary_search(&number) {
                    list.insert(at, number);
                }
            });
        }
    }

    fn revise_list(&mut self, number: PeerNumber, change: impl FnOnce(&mut Vec<PeerNumber>)) {
        if let Some(peer) = self.peers.get_mut(&number) {
            change(&mut peer.available);
            self.news.insert(number);
        }
    }

    /// Sends a peer its list, if it differs from the last one sent.
    fn send_list(&mut self, number: PeerNumber) {
        if !self.news.remove(&number) {
            return;
        }
        let Some(peer) = self.peers.get(&number) else { return };
        if peer.sent_list == peer.available || peer.standing.registration().is_none() {
            return;
        }
        let ids = peer.available.iter().filter_map(|other| self.peers.get(other));
        let text = bridge_event(ids.map(|other| other.id.as_str()));
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.sent_list.clone_from(&peer.available);
        }
        self.effects.push_back(Effect::Send { to: number, text });
    }
}

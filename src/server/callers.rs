//! Clients behind a relay: assignment of payloads, and legacy clients.
//!
//! The operator of a relay sees everything that legacy clients send, and could impersonate them. So
//! they are accepted only if the configuration allows it, and with at most the configured role.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use log::debug;

use super::carrier::Carrier;
use super::clients::{ClientId, Clients, UNAUTHENTICATED_MESSAGE};
use super::{Phase, Server};
use crate::auth::Role;
use crate::bridge::link::{Caller, hint, session_is_over};
use crate::bridge::tunnel::is_tunnelled;
use crate::config::LegacyBridgeClients;
use crate::daemon::Front;
use crate::moment::Moment;
use crate::net::{CloseReason, Peer, Source};
use crate::wire::{
    Command, Credentials, ErrorCode, Frame, KeyCommand, Refusal, Reply, Request, error,
};

use super::queued::QueuedMessage;

/// `Origin` of legacy clients, whose events have hyphens.
const QT_CLIENT: &str = "sysadm-client";

/// Maximum size of a payload that a relay accepts by default, in bytes: its `max_message` without
/// the line with the id.
const PAYLOAD: usize = 256 * 1024 - 256;

/// Placeholder for the key that the original server made for each exchange: its client looks for
/// the words " PUBLIC KEY--" in it and for nothing else.
const NEW_SSL_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
-----END PUBLIC KEY-----
";

impl Clients {
    /// The link of a caller, and its number there.
    pub(super) fn behind(&mut self, id: ClientId) -> Option<(u64, u64)> {
        match self.get(id)?.peer {
            Peer::Bridged { source: Source::Caller(link, behind), .. } => Some((link, behind)),
            Peer::Bridged { .. } | Peer::Remote(_) | Peer::Proxied(_) | Peer::Local(_) => None,
        }
    }

    pub(super) fn caller(&mut self, id: ClientId) -> Option<&mut Caller<QueuedMessage>> {
        match &mut self.get(id)?.connection {
            Carrier::Bridged(caller) => Some(caller),
            Carrier::Direct(_) => None,
        }
    }

    /// Whether the operator of the relay can read this client's messages.
    pub(super) fn is_in_clear(&mut self, id: ClientId) -> bool {
        self.caller(id).is_some_and(|caller| caller.is_clear())
    }
}

impl Server {
    /// Processes a payload of a client behind a relay.
    pub(super) fn on_payload(&mut self, link: u64, from: &str, payload: &str, now: Moment) {
        let Some(line) = self.links.line(link) else { return };
        let name = line.config.name.clone();
        let Some(behind) = line.behind.iter().find(|behind| *behind.id == *from) else {
            // It may just have disconnected.
            return debug!("link {name}: {from} is not among those that are there");
        };
        let (number, known) = (behind.number, behind.client);
        let source = Source::Caller(link, number);
        let is_clear = payload.starts_with('{');
        if is_clear && self.answer_aside(link, from, payload) {
            if let Some(id) = known
                && self.clients.is_in_clear(id)
            {
                self.end(id, "its client begins anew");
            }
            return;
        }
        if self.is_blocked(source, now) {
            return;
        }
        let mut client = known;
        if let Some(id) = client
            && self.clients.caller(id).is_none_or(|caller| caller.begins_anew(payload))
        {
            self.end(id, "its client begins anew");
            client = None;
        }
        let id = match client {
            Some(id) => id,
            None if is_clear || is_tunnelled(payload) => {
                // The name of the link first: a relay chooses the ids of its peers, which could
                // look like an address in the log.
                let peer_name = format!("link {name} peer {from}").into();
                let peer = Peer::Bridged { source, name: peer_name };
                match self.welcome_caller(link, peer, is_clear, now) {
                    Some(id) => id,
                    None => return,
                }
            }
            None => {
                // Base64 of an object, as sent by an original client after authentication.
                let is_encoded = STANDARD.decode(payload.get(..4).unwrap_or_default());
                let allowed = self.config.bridge.allow_legacy_bridge_clients;
                if is_encoded.is_ok_and(|bytes| bytes.starts_with(b"{"))
                    && allowed != LegacyBridgeClients::No
                    && let Some(line) = self.links.line(link)
                {
                    line.say_aside(from, &session_is_over("there is no such session"));
                }
                return debug!("link {name}: {from} sends what belongs to no session");
            }
        };
        if let Some(line) = self.links.line(link)
            && let Some(behind) = line.behind.iter_mut().find(|behind| behind.number == number)
        {
            behind.client = Some(id);
        }
        if let Some(caller) = self.clients.caller(id)
            && let Err(broken) = caller.receive(payload)
        {
            debug!("client {id}: {from} behind {name}: {broken}");
            self.hub.leave(id);
        }
        // At once: later payloads may end the session, and its requests would be lost.
        self.serve(id, now);
    }

    /// Replies to requests in clear that need no session: the identity of this server. Ignores
    /// payloads of unknown peers. True where nothing else is to be done.
    fn answer_aside(&mut self, link: u64, to: &str, payload: &str) -> bool {
        let allowed = self.config.bridge.allow_legacy_bridge_clients;
        if payload.len() > UNAUTHENTICATED_MESSAGE {
            return allowed == LegacyBridgeClients::No;
        }
        let text = match Request::parse(payload) {
            Ok(Frame::Answer) => return true,
            Ok(Frame::Request(Request { reply_to, command: Ok(Command::Identify), .. })) => {
                hint(reply_to.id.as_json(), &self.hostname)
            }
            Ok(Frame::Request(request)) if allowed == LegacyBridgeClients::No => {
                let why = "this server takes nothing in clear through a bridge \
                           (allow_legacy_bridge_clients)";
                error(&request.reply_to, &Refusal::new(ErrorCode::Forbidden, why))
            }
            Err(_) if allowed == LegacyBridgeClients::No => return true,
            Ok(Frame::Request(_)) | Err(_) => return false,
        };
        if let Some(line) = self.links.line(link) {
            line.say_aside(to, &text);
        }
        true
    }

    fn welcome_caller(
        &mut self,
        link: u64,
        peer: Peer,
        is_clear: bool,
        now: Moment,
    ) -> Option<ClientId> {
        if self.phase != Phase::Serving {
            return None;
        }
        let config = self.tls.as_ref()?.tunnel.clone();
        self.make_room_for_new(peer.source(), now);
        let is_old = self.links.line(link).is_some_and(|line| line.config.legacy);
        // A relay of the original kind accepts any size.
        let longest = if is_old { usize::MAX } else { PAYLOAD };
        let name: Rc<str> = peer.to_string().into();
        let made = self.clients.add_caller(
            peer,
            |outbox, max_message, patience| {
                if is_clear {
                    Ok(Caller::clear(outbox, max_message, patience, longest))
                } else {
                    Caller::tunnel(config, outbox, max_message, patience)
                }
            },
            now.instant,
        );
        let id = made.map_err(|error| log::error!("no tunnel for {name}: {error}")).ok()?;
        debug!("client {id}: {name} connected by link {link}");
        self.clients.guests.note_progress(id, now.instant);
        let ceiling = self.clear_ceiling();
        let certificate = self.tls.as_ref().map(|tls| tls.sha256());
        if let Some(client) = self.clients.get(id) {
            if is_clear {
                client.session.set_origin(Some(QT_CLIENT));
                client.session.set_ceiling(ceiling);
            } else if let Some(certificate) = certificate {
                client.session.set_certificate(certificate);
            }
        }
        Some(id)
    }

    /// Warns at each start about the meaning of `full`.
    pub(super) fn warn_of_callers(&self) {
        let bridge = &self.config.bridge;
        if bridge.allow_legacy_bridge_clients == LegacyBridgeClients::Full
            && !bridge.link.is_empty()
        {
            log::warn!(
                "allow_legacy_bridge_clients is full: whoever runs a bridge can do on this host \
                 whatever a client in clear may"
            );
        }
    }

    fn clear_ceiling(&self) -> Option<Role> {
        match self.config.bridge.allow_legacy_bridge_clients {
            LegacyBridgeClients::No | LegacyBridgeClients::Read => Some(Role::Read),
            LegacyBridgeClients::Full => None,
        }
    }

    /// Revokes tokens that were sent through a relay in clear, which could also be used in a
    /// tunnel. They cannot be told apart, so all tokens are revoked when clear-text access is
    /// withdrawn.
    pub(super) fn forget_tokens_in_clear(&mut self, before: LegacyBridgeClients) {
        let allowed = self.config.bridge.allow_legacy_bridge_clients;
        if before == LegacyBridgeClients::Full && allowed != before {
            self.tokens.revise(|_| None);
        }
    }

    /// The configuration of clients in clear may have changed.
    pub(super) fn look_at_callers(&mut self, now: Moment) {
        let allowed = self.config.bridge.allow_legacy_bridge_clients;
        let ceiling = self.clear_ceiling();
        for id in self.clients.ids() {
            if !self.clients.is_in_clear(id) {
                continue;
            }
            if allowed == LegacyBridgeClients::No {
                self.hub.leave(id);
                let reason = CloseReason::new(1008, "clients in clear are no longer allowed");
                self.clients.close(id, &reason, now.instant);
            } else if let Some(client) = self.clients.get(id) {
                client.session.set_ceiling(ceiling);
            }
        }
    }

    /// Whether a client behind a relay may make this request. The operator of the relay sees
    /// requests in clear and could use a tunnel. A relay can make a legacy client "encrypt" any
    /// string, because that is how the client authenticates to it: so that is no proof in a tunnel.
    /// And a signature in clear would be one without a certificate, which is valid on loopback
    /// only.
    pub(super) fn check_caller(&mut self, id: ClientId, command: &Command) -> Result<(), Refusal> {
        let Some(caller) = self.clients.caller(id) else { return Ok(()) };
        if !caller.is_clear() {
            return match command {
                Command::Authenticate(Credentials::LegacySignature { .. }) => {
                    let why =
                        "a key that shows itself by encrypted_string does not come in by a tunnel";
                    Err(Refusal::new(ErrorCode::Forbidden, why))
                }
                _ => Ok(()),
            };
        }
        let is_bounded = self.clear_ceiling().is_some();
        let why = match command {
            Command::Authenticate(Credentials::Transport | Credentials::Password { .. }) => {
                "no passwords through a bridge in clear; use a key"
            }
            Command::Authenticate(Credentials::Signature { .. }) => {
                "no signatures through a bridge in clear, only encrypted_string"
            }
            Command::Authenticate(Credentials::Token(_)) if is_bounded => {
                "no tokens through a bridge in clear; use a key"
            }
            Command::Key(KeyCommand::Register(_) | KeyCommand::Revoke { .. }) if is_bounded => {
                "no changes of keys through a bridge in clear"
            }
            Command::Authenticate(_)
            | Command::Key(_)
            | Command::Identify
            | Command::ClearAuthentication
            | Command::Query
            | Command::WhoAmI
            | Command::Status { .. }
            | Command::History(_)
            | Command::CheckPools
            | Command::Job(_)
            | Command::Notify(_)
            | Command::Subscribe(_)
            | Command::Unsubscribe(_)
            | Command::Alert(_)
            | Command::Emit(_) => return Ok(()),
        };
        Err(Refusal::new(ErrorCode::Forbidden, why))
    }

    /// The reply to the first stage of a key; for a legacy client in clear in its form, which
    /// encodes everything after it.
    pub(super) fn challenge(&mut self, id: ClientId, string: String, is_legacy: bool) -> Reply {
        match self.clients.caller(id).filter(|caller| is_legacy && caller.is_clear()) {
            None => Reply::Challenge { test_string: string, new_ssl_key: None },
            Some(caller) => {
                caller.encode_after_next();
                Reply::Challenge {
                    test_string: STANDARD.encode(string),
                    new_ssl_key: Some(STANDARD.encode(NEW_SSL_KEY)),
                }
            }
        }
    }
}

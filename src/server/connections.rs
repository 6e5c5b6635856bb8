//! Connections of clients: accepted, read in turn, admitted, and closed.

use log::{debug, error, warn};
use zeroize::{Zeroize, Zeroizing};

use super::clients::{Client, ClientId, Until};
use super::users::Owner;
use super::{CLIENT_READ, CLOSED_AT_ONCE, PollToken, Server, limits};
use crate::daemon::{AcceptEnd, Front, Guest, Guests, is_proxy};
use crate::moment::{Budget, Moment};
use crate::net::{Accepted, Answer as HttpAnswer, CloseReason, Incoming, Peer, Source};
use crate::session::{Audit, Known};

impl Front for Server {
    type Guest = Client;

    fn guests(&mut self) -> &mut Guests<Client> {
        &mut self.clients.guests
    }

    fn is_blocked(&self, source: Source, now: Moment) -> bool {
        self.throttle.blocked(source, now.instant).is_some() && !self.is_exempt(source)
    }

    fn end_guest(&mut self, id: ClientId, why: &str, _now: Moment) {
        self.end(id, why);
    }

    fn set_peer(&mut self, id: ClientId, peer: Peer) {
        self.clients.change_owner(id, Owner::Origin(peer.source()));
        if let Some(client) = self.clients.get(id) {
            (client.peer, client.on_loopback) = (peer, false);
        }
    }
}

impl Server {
    /// Whether a listener is to be retried later.
    pub(super) fn is_full(&self, number: u64) -> bool {
        self.listeners.iter().any(|open| open.number == number && open.listening.is_full())
    }

    pub(super) fn accept(&mut self, number: u64, now: Moment) {
        let Some(open) = self.listeners.iter_mut().find(|open| open.number == number) else {
            return;
        };
        let (accepted, end) = open.listening.accept(now.instant);
        for accepted in accepted {
            self.welcome(accepted, now);
        }
        match end {
            AcceptEnd::Done => {}
            AcceptEnd::Again => self.reactor.again(PollToken::Listener(number)),
            AcceptEnd::Retry(due) => {
                self.reactor.set_deadline(PollToken::Listener(number), Some(due));
            }
        }
    }

    fn welcome(&mut self, mut accepted: Accepted, now: Moment) {
        let source = self.clients.guests.source_of(&accepted.peer);
        accepted.is_proxy = is_proxy(&accepted.peer, &self.config.server.proxy_protocol);
        if !accepted.is_proxy && self.is_blocked(source, now) {
            return;
        }
        let known = match &accepted.peer {
            Peer::Remote(_) | Peer::Proxied(_) | Peer::Bridged { .. } => Known::Nothing,
            Peer::Local(credentials) => match self.local_identity(credentials, now) {
                Some(identity) => Known::Somebody(identity),
                None => Known::WithoutRole { uid: credentials.uid, name: None },
            },
        };
        let uid = match &known {
            Known::Somebody(identity) => Some(identity.uid),
            Known::Nothing | Known::WithoutRole { .. } => None,
        };
        let tls = match (&self.tls, accepted.tls) {
            (Some(tls), true) => match rustls::ServerConnection::new(tls.config.clone()) {
                Ok(connection) => Some((connection, tls.sha256())),
                Err(error) => {
                    error!("TLS cannot begin for {}: {error}", accepted.peer);
                    return;
                }
            },
            (None, true) => return,
            (_, false) => None,
        };
        // A known user without a place is informed when that is possible: until then it counts as
        // unauthenticated.
        let uid = uid.filter(|uid| self.clients.has_place_for(&accepted.peer, *uid));
        if uid.is_none() {
            self.make_room_for_new(source, now);
        }
        let peer = accepted.peer.to_string();
        match self.clients.add(accepted, tls, known, &mut self.reactor, now.instant) {
            Err(error) => error!("cannot watch the connection of {peer}: {error}"),
            Ok(id) => {
                debug!("client {id}: {peer} connected");
                if let Some(uid) = uid {
                    self.clients.admit(id, uid);
                    self.expect_recheck_of(id, now);
                    if let Some(client) = self.clients.get(id) {
                        client.seen_as = client.session.identity().map(|who| (who.uid, who.proof));
                    }
                }
            }
        }
    }

    /// Serves clients in turn until all are served or the time limit is reached.
    pub(super) fn serve_clients(&mut self, now: Moment) {
        let budget = Budget::of(limits::REQUESTS);
        while let Some(id) = self.clients.next_turn() {
            self.serve(id, now);
            if budget.is_spent() {
                break;
            }
        }
        if self.clients.has_ready_client() {
            self.reactor.again(PollToken::Turn);
        }
    }

    /// Processes one message of a client, and reads at most once. Where there may be more, the
    /// client gets another turn after the others.
    pub(super) fn serve(&mut self, id: ClientId, now: Moment) {
        let mut may_read = true;
        loop {
            let may_get_more = self.clients.may_get_more(id);
            let Some(client) = self.clients.get(id) else { return };
            if let Some(Until::LegacyKey(_)) = client.waits_until() {
                self.try_legacy_key(id, now);
                self.clients.enqueue(id);
                break;
            }
            if client.waiting.is_some() {
                break;
            }
            if !may_get_more {
                client.stalled = true;
                client.connection.pause();
                break;
            }
            match client.connection.next(now.instant) {
                Err(end) => return self.ended.push((id, end)),
                Ok(Some(incoming)) => {
                    self.on_incoming(id, incoming, now);
                    self.clients.enqueue(id);
                    break;
                }
                Ok(None) if !client.readable => break,
                Ok(None) if !may_read => {
                    self.clients.enqueue(id);
                    break;
                }
                Ok(None) => {}
            }
            may_read = false;
            let scratch = self.scratch.get_mut(..CLIENT_READ).unwrap_or_default();
            match client.connection.read(scratch, now.instant) {
                Err(end) => return self.ended.push((id, end)),
                Ok(more) => client.readable = more,
            }
            if !client.is_admitted() {
                // It may contain a secret.
                scratch.zeroize();
                self.clients.guests.note_progress(id, now.instant);
            }
        }
        self.clients.count_unfinished(id);
        self.clients.touch(id);
        while let Some(id) = self.clients.most_unfinished() {
            let Some(client) = self.clients.get(id) else { break };
            warn!(
                "closing client {}: too much of unfinished messages (inbox_total), 1013",
                client.name()
            );
            self.hub.leave(id);
            let reason = CloseReason::new(1013, "too many unfinished messages");
            self.clients.give_up_unfinished(id, &reason, now.instant);
        }
    }

    fn on_incoming(&mut self, id: ClientId, incoming: Incoming, now: Moment) {
        let Some(client) = self.clients.get(id) else { return };
        match incoming {
            Incoming::ProxyHeader(address) => self.on_proxy_header(id, address, now),
            Incoming::Upgrade(upgrade) => {
                let origin = upgrade.origin.as_deref();
                if self.origins.allows(origin, client.on_loopback) {
                    if !self.end_handshake(id, now) {
                        return;
                    }
                    let Some(client) = self.clients.get(id) else { return };
                    client.session.set_origin(origin);
                    client.connection.accept(now.instant);
                    self.look_at_standing(id, now);
                } else {
                    let (name, origin) = (client.name(), origin.unwrap_or_default());
                    client.connection.answer(HttpAnswer::OriginRefused, now.instant);
                    warn!("refused {name}: origin {origin:?} is not ours");
                }
            }
            Incoming::Message(text) => self.on_message(id, &Zeroizing::new(text), now),
        }
    }

    /// Handles a change of identity by a request.
    pub(super) fn look_at_standing(&mut self, id: ClientId, now: Moment) {
        let Some(client) = self.clients.get(id) else { return };
        let seen = client.session.identity().map(|who| (who.uid, who.proof));
        let is_another = std::mem::replace(&mut client.seen_as, seen) != seen;
        let is_known = seen.is_some();
        if let Some((uid, _)) = seen.filter(|_| !client.is_admitted()) {
            let (name, peer) = (client.name(), client.peer.clone());
            if !self.clients.has_place_for(&peer, uid) {
                warn!("closing client {name}: all places are taken (max_clients), 1013");
                self.hub.leave(id);
                let reason = CloseReason::new(1013, "all places are taken");
                self.clients.close_when_sent(id, &reason, now.instant);
            } else {
                self.clients.admit(id, uid);
                self.audit(id, [Audit::Authenticated]);
                self.expect_recheck_of(id, now);
            }
        } else if let Some((uid, _)) = seen.filter(|_| is_another) {
            self.clients.change_owner(id, Owner::Account(uid));
            self.audit(id, [Audit::Authenticated]);
            self.expect_recheck_of(id, now);
        } else if !is_known && client.is_admitted() {
            let peer = client.peer.clone();
            self.detach_all(id);
            if self.make_room_without_identity(&peer, now) {
                self.clients.make_unauthenticated(id, now.instant);
            } else {
                self.end(id, "it gave up its identity, and there was no place for it without one");
            }
        }
    }

    pub(super) fn on_client_deadline(&mut self, id: ClientId, now: Moment) {
        let Some(client) = self.clients.get(id) else { return };
        if let Err(end) = client.connection.on_deadline(now.instant) {
            return self.ended.push((id, end));
        }
        if client.is_authentication_overdue(now.instant) {
            let reason = CloseReason::new(1008, "authentication did not come in time");
            self.clients.close(id, &reason, now.instant);
        }
        self.clients.touch(id);
    }
    pub(super) fn close_overflowing(&mut self, now: Moment) {
        let limit = self.config.server.outbox;
        for id in std::mem::take(&mut self.clients.overflowing) {
            self.close_slow(id, &format!("its outbox of {limit} bytes is full"), now);
        }
        for _ in 0..CLOSED_AT_ONCE {
            let Some(id) = self.clients.fullest() else { return };
            if self.clients.get(id).is_some_and(|client| client.connection.is_open()) {
                self.close_slow(id, "all outboxes together are full, and its is the fullest", now);
            } else {
                // It was closed with a reason, but has not even read the rest of a frame in flight.
                self.end(id, "all outboxes together are full");
            }
        }
        self.reactor.again(PollToken::Turn);
    }

    pub(super) fn close_slow(&mut self, id: ClientId, why: &str, now: Moment) {
        let Some(client) = self.clients.get(id).filter(|client| client.connection.is_open()) else {
            return;
        };
        warn!("closing client {}: it does not read, {why}, 1013", client.name());
        self.hub.leave(id);
        self.clients.close(
            id,
            &CloseReason::new(1013, "too slow: the outbox is full"),
            now.instant,
        );
    }

    pub(super) fn end(&mut self, id: ClientId, why: &str) {
        self.hub.leave(id);
        self.detach_all(id);
        if let Some(client) = self.clients.remove(id, &mut self.reactor) {
            debug!("client {id}: {} is gone: {why}", client.name());
            if let Source::Caller(link, behind) = client.peer.source() {
                self.links.forget(link, behind, id);
            }
        }
    }
}

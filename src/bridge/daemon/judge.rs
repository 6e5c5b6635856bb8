//! Verification of peers' keys, and the consequences of a failure.
//!
//! Log lines have the same form as the server's (`authentication failure from ADDRESS: …`, `blocked
//! ADDRESS for N s: …`), so that one rule of fail2ban(1) serves both.

use std::time::Duration;

use log::{info, warn};
use zeroize::Zeroizing;

use super::{Bridge, PollToken};
use crate::auth::Consequence;
use crate::auth::key::{Entry, LegacySearch, Purpose, Search};
use crate::bridge::relay::{PeerNumber, Proof, Registration};
use crate::daemon::{Front, Guest};
use crate::moment::{Budget, Moment};
use crate::net::{CloseReason, Source};
use crate::wire::{ErrorCode, KeyChecksum, Refusal, ReplyTo, error};

/// The time that searches for legacy keys take of a turn; one step more may come to it.
const SEARCHES: Duration = Duration::from_millis(2);
/// Maximum number of delayed replies of one origin.
const DELAYED: usize = 4;

const PENDING: &str = "answers to failed authentications from there are pending; try again later";

/// A registered key in the relay's form.
pub(super) fn registration(entry: &Entry, legacy: bool) -> Registration {
    let checksums = (!entry.checksums.is_empty()).then(|| {
        let mut checksums: Vec<KeyChecksum> =
            entry.checksums.iter().filter_map(|checksum| KeyChecksum::parse(checksum)).collect();
        checksums.sort_unstable();
        checksums
    });
    Registration { name: entry.user.clone(), key: entry.key.id(), legacy, checksums }
}

impl Bridge {
    pub(super) fn is_exempt(&self, source: Source) -> bool {
        source.is_of_this_host() && !self.config.auth.throttle_loopback
    }

    fn is_held_back(&self, source: Source, now: Moment) -> bool {
        self.throttle.pending(source, now.instant) >= DELAYED
    }

    /// Verifies what a peer presented against the registered keys.
    pub(super) fn judge(
        &mut self,
        number: PeerNumber,
        reply_to: ReplyTo,
        test_string: Option<Zeroizing<String>>,
        proof: Proof,
        now: Moment,
    ) {
        let Some(connected) = self.connections.get(number) else { return };
        let (certificate, origin) = (connected.certificate, connected.origin.clone());
        let Some(test_string) = test_string else {
            let why = "ask for a test_string first; one is good for one try, and for 30 s";
            return self.refuse(number, &reply_to, ErrorCode::Unauthorized, why);
        };
        let source = self.connections.guests.source_of(&origin);
        if matches!(proof, Proof::Encrypted(_)) && self.is_held_back(source, now) {
            let count = self.keys.legacy().count().min(self.config.relay.max_legacy_keys);
            if !self.legacy_budget.may_try(count, now.instant) {
                return self.refuse(number, &reply_to, ErrorCode::TooMany, PENDING);
            }
        }
        let found = match proof {
            Proof::Signed { key, signature } => {
                let known = key.and_then(|id| self.keys.find(&id));
                let is_right = |entry: &&Entry| {
                    entry.key.verify(Purpose::Bridge, &certificate, &test_string, &signature)
                };
                known.filter(is_right).map(|entry| registration(entry, false))
            }
            Proof::Encrypted(encrypted) => {
                let search = LegacySearch::new(test_string, encrypted);
                if let Some(connected) = self.connections.get(number) {
                    connected.search = Some((reply_to, search));
                }
                self.searches.push_back(number);
                return self.reactor.again(PollToken::Searches);
            }
        };
        self.settle_proof(number, reply_to, found, now);
    }

    fn settle_proof(
        &mut self,
        number: PeerNumber,
        reply_to: ReplyTo,
        found: Option<Registration>,
        now: Moment,
    ) {
        match found {
            // A right key is accepted despite failures of the origin: others must not lock its
            // owner out.
            Some(registration) => self.let_in(number, &reply_to, registration, now),
            None => self.on_failure(number, reply_to, now),
        }
    }

    /// Goes on with the searches for legacy keys in turn, until the time for that is over.
    pub(super) fn go_on_searching(&mut self, now: Moment) {
        let (budget, most) = (Budget::of(SEARCHES), self.config.relay.max_legacy_keys);
        while let Some(number) = self.searches.pop_front() {
            let Some(connected) = self.connections.get(number) else { continue };
            let Some((_, search)) = &mut connected.search else { continue };
            let found = match search.step(&self.keys, most) {
                Search::Pending => {
                    self.searches.push_back(number);
                    if budget.is_spent() {
                        break;
                    }
                    continue;
                }
                Search::Found(entry) => Some(registration(entry, true)),
                Search::NotFound => None,
            };
            if let Some((reply_to, _)) = connected.search.take() {
                self.settle_proof(number, reply_to, found, now);
                self.carry_out_effects(now);
                self.reactor.again(PollToken::Peer(number));
            }
        }
        if !self.searches.is_empty() {
            self.reactor.again(PollToken::Searches);
        }
    }

    fn let_in(
        &mut self,
        number: PeerNumber,
        reply_to: &ReplyTo,
        registration: Registration,
        now: Moment,
    ) {
        let Some(connected) = self.connections.get(number) else { return };
        let is_new = !connected.is_admitted();
        let origin = connected.origin.to_string();
        if is_new && !self.connections.has_place_for_peer(registration.key) {
            let name = &registration.name;
            warn!(
                "closing peer {name:?} at {origin}: the places for its key are taken (max_peers), 1013"
            );
            let reason = CloseReason::new(1013, "all places are taken");
            return self.close(number, &reason, true, now);
        }
        let by = if registration.legacy { "legacy key" } else { "key" };
        let Registration { name, key, .. } = &registration;
        info!("audit: authenticated peer={name:?} by={by:?} with=\"{key}\" from=\"{origin}\"");
        if is_new {
            self.connections.admit(number, *key);
        }
        self.relay.prove(number, reply_to, registration);
    }

    fn refuse(&mut self, number: PeerNumber, reply_to: &ReplyTo, code: ErrorCode, why: &str) {
        self.connections.push(number, error(reply_to, &Refusal::new(code, why)));
    }

    /// Verification failed.
    fn on_failure(&mut self, number: PeerNumber, reply_to: ReplyTo, now: Moment) {
        let Some(connected) = self.connections.get(number) else { return };
        let (origin, from) = (connected.origin.clone(), connected.origin.place());
        let source = self.connections.guests.source_of(&origin);
        // Even if the client has disconnected: reconnecting does not save time.
        if self.is_held_back(source, now) {
            return self.refuse(number, &reply_to, ErrorCode::TooMany, PENDING);
        }
        warn!("authentication failure from {from}: key");
        let why = "this key is not registered here, or the signature is wrong";
        match self.throttle.fail(source, self.is_exempt(source), now.instant) {
            Consequence::Answer => self.refuse(number, &reply_to, ErrorCode::Unauthorized, why),
            Consequence::Delay(delay) => {
                let refusal = Refusal::new(ErrorCode::Unauthorized, why);
                if let Some(connected) = self.connections.get(number) {
                    connected.delayed = Some(error(&reply_to, &refusal));
                    let due = now.instant + delay;
                    self.reactor.set_deadline(PollToken::Delayed(number), Some(due));
                }
            }
            Consequence::Block(time) => {
                let seconds = time.as_secs();
                warn!("blocked {from} for {seconds} s: too many failures");
                self.end_unauthenticated_of(source, number, now);
                let why = format!("too many failures; try again in {seconds} s");
                self.refuse(number, &reply_to, ErrorCode::Forbidden, &why);
                let reason = CloseReason::new(1008, "too many failures");
                self.close(number, &reason, true, now);
            }
        }
    }

    /// The delay of a reply is over.
    pub(super) fn on_delay_over(&mut self, number: PeerNumber) {
        let Some(connected) = self.connections.get(number) else { return };
        if let Some(text) = connected.delayed.take() {
            self.connections.push(number, text);
            self.reactor.again(PollToken::Peer(number));
        }
    }
}

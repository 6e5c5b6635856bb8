//! Tokens: short-lived credentials of authenticated clients.
//!
//! Only their hashes are stored, in memory, and each look-up compares all of them, so that neither
//! a memory dump nor the response time reveals one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::role::Identity;

/// 256 bits.
const BYTES: usize = 32;

/// A valid token, by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token([u8; BYTES]);

#[derive(Debug)]
struct Entry {
    token: Token,
    identity: Identity,
    last_use: Instant,
}

/// All valid tokens.
#[derive(Debug)]
pub struct Tokens {
    entries: Vec<Entry>,
    /// Lifetime after the last use.
    ttl: Duration,
    /// Maximum number.
    most: usize,
    random: SystemRandom,
}

impl Tokens {
    /// Creates an empty set; `ttl` counts from the last use.
    pub fn new(ttl: Duration, most: usize) -> Tokens {
        Tokens { entries: Vec::new(), ttl, most, random: SystemRandom::new() }
    }

    /// Changes the limits.
    pub fn set_limits(&mut self, ttl: Duration, most: usize) {
        (self.ttl, self.most) = (ttl, most);
    }

    /// Lifetime of a token.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Creates a token; `None` where the system has no random bits.
    pub fn issue(
        &mut self,
        identity: Identity,
        now: Instant,
    ) -> Option<(Zeroizing<String>, Token)> {
        self.forget_old(now);
        let mut secret = Zeroizing::new([0; BYTES]);
        self.random.fill(&mut *secret).ok()?;
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret));
        let token = hash(&text);
        while self.entries.len() >= self.most.max(1)
            && let Some(at) = self.dispensable()
        {
            self.entries.swap_remove(at);
        }
        self.entries.push(Entry { token, identity, last_use: now });
        Some((text, token))
    }

    /// The least recently used token of the user with the most tokens: one user cannot evict
    /// another's.
    fn dispensable(&self) -> Option<usize> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &self.entries {
            *counts.entry(&entry.identity.user).or_default() += 1;
        }
        let (user, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let of_user = self.entries.iter().enumerate().filter(|(_, e)| e.identity.user == user);
        of_user.min_by_key(|(_, entry)| entry.last_use).map(|(at, _)| at)
    }

    /// The identity of a valid token; counts as use.
    pub fn redeem(&mut self, text: &str, now: Instant) -> Option<(Identity, Token)> {
        self.forget_old(now);
        let offered = hash(text);
        let mut found = None;
        for (at, entry) in self.entries.iter().enumerate() {
            if bool::from(entry.token.0.ct_eq(&offered.0)) {
                found = Some(at);
            }
        }
        let entry = self.entries.get_mut(found?)?;
        entry.last_use = now;
        Some((entry.identity.clone(), entry.token))
    }

    /// Counts as use of a token, unless it has expired.
    pub fn touch(&mut self, token: Token, now: Instant) {
        self.forget_old(now);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.token == token) {
            entry.last_use = now;
        }
    }

    /// The identities of all tokens.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.entries.iter().map(|entry| &entry.identity)
    }

    /// Replaces identities after a re-check; `None` revokes the token.
    pub fn revise(&mut self, judge: impl Fn(&Identity) -> Option<Identity>) {
        self.entries.retain_mut(|entry| match judge(&entry.identity) {
            Some(identity) => {
                entry.identity = identity;
                true
            }
            None => false,
        });
    }

    /// Revokes a token.
    pub fn revoke(&mut self, token: Token) {
        self.entries.retain(|entry| entry.token != token);
    }

    fn forget_old(&mut self, now: Instant) {
        let ttl = self.ttl;
        self.entries.retain(|entry| now.saturating_duration_since(entry.last_use) < ttl);
    }
}

fn hash(text: &str) -> Token {
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    Token(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Proof, Role};

    const TTL: Duration = Duration::from_secs(900);

    fn identity(user: &str) -> Identity {
        Identity {
            user: user.into(),
            uid: 1000,
            role: Role::Read,
            proof: Proof::Kernel,
            from: String::new(),
        }
    }

    #[test]
    fn a_token_is_256_bits_and_gives_its_owner_back() {
        let (mut tokens, now) = (Tokens::new(TTL, 10), Instant::now());
        let (text, _) = tokens.issue(identity("a"), now).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(&*text).unwrap().len(), 32);
        assert_eq!(tokens.redeem(&text, now).unwrap().0, identity("a"));
    }

    #[test]
    fn nothing_empty_partial_or_longer_matches() {
        let (mut tokens, now) = (Tokens::new(TTL, 10), Instant::now());
        let (text, _) = tokens.issue(identity("a"), now).unwrap();
        for wrong in ["", &text[..1], &text[..text.len() - 1], &format!("{}x", *text), "A"] {
            assert!(tokens.redeem(wrong, now).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn token_expires_unused_and_each_use_prolongs_it() {
        let (mut tokens, start) = (Tokens::new(TTL, 10), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (text, token) = tokens.issue(identity("a"), start).unwrap();
        assert!(tokens.redeem(&text, at(899)).is_some());
        tokens.touch(token, at(1700));
        assert!(tokens.redeem(&text, at(2599)).is_some());
        tokens.touch(token, at(2599 + 900));
        assert!(tokens.redeem(&text, at(2599 + 900)).is_none());
    }

    #[test]
    fn token_revoked_is_invalid() {
        let (mut tokens, now) = (Tokens::new(TTL, 10), Instant::now());
        let (text, token) = tokens.issue(identity("a"), now).unwrap();
        tokens.revoke(token);
        assert!(tokens.redeem(&text, now).is_none());
    }

    #[test]
    fn token_limit_evicts_oldest_of_the_user_with_the_most() {
        let (mut tokens, start) = (Tokens::new(TTL, 3), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (other, _) = tokens.issue(identity("other"), at(0)).unwrap();
        let (first, _) = tokens.issue(identity("greedy"), at(1)).unwrap();
        let (second, _) = tokens.issue(identity("greedy"), at(2)).unwrap();
        tokens.redeem(&first, at(3)).unwrap();
        tokens.issue(identity("greedy"), at(4)).unwrap();
        assert!(tokens.redeem(&second, at(5)).is_none());
        assert!(tokens.redeem(&first, at(5)).is_some());
        assert!(tokens.redeem(&other, at(5)).is_some());
    }
}

//! The search for the legacy key that encrypted a string.
//!
//! A peer that shows such a key does not say which one it is, so all are tried. One takes about a
//! millisecond: the search is made one key at a time, between which the loop serves others.

use zeroize::Zeroizing;

use super::{Entry, KeyId, KeyStore};

/// A search under way.
#[derive(Debug)]
pub struct LegacySearch {
    test_string: Zeroizing<String>,
    encrypted: Vec<u8>,
    tried: Option<KeyId>,
}

/// State of a search after a step.
#[derive(Debug)]
pub enum Search<'a> {
    /// There are more keys to be tried.
    Pending,
    /// It was this key.
    Found(&'a Entry),
    /// It was none of them.
    NotFound,
}

impl LegacySearch {
    /// A search for the key that has encrypted this string.
    pub fn new(test_string: Zeroizing<String>, encrypted: Vec<u8>) -> LegacySearch {
        LegacySearch { test_string, encrypted, tried: None }
    }

    /// Tries one of the first `most` legacy keys. Where the one that was tried last has gone, the
    /// search begins anew.
    pub fn step<'a>(&mut self, keys: &'a KeyStore, most: usize) -> Search<'a> {
        let keys = || keys.legacy().take(most);
        let last = keys().position(|entry| Some(entry.key.id()) == self.tried);
        match keys().nth(last.map_or(0, |last| last + 1)) {
            None => Search::NotFound,
            Some(entry) if entry.key.verify_raw(&self.test_string, &self.encrypted) => {
                Search::Found(entry)
            }
            Some(entry) => {
                self.tried = Some(entry.key.id());
                Search::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::auth::Role;
    use crate::auth::key::{KeyLimits, PublicKey};

    const STRING: &str = "bT1qYorkpuzSb3rEvamf";

    fn store(keys: &[&str]) -> KeyStore {
        let limits = KeyLimits { of_user: 9, total: 9, legacy: 9, legacy_of_user: 9 };
        let mut store = KeyStore::default();
        for pem in keys {
            let key = PublicKey::from_pem(pem.as_bytes()).unwrap();
            let (user, legacy, role, none) = ("ann".into(), true, Role::Full, String::new());
            let (nickname, email, added) = (none.clone(), none.clone(), none);
            let entry =
                Entry { user, key, nickname, email, added, legacy, role, checksums: Vec::new() };
            store.insert(entry, &limits).unwrap();
        }
        store
    }

    #[test]
    fn legacy_search_tries_one_key_in_a_step() {
        let other = include_str!("../../../tests/keys/rsa-public.pem");
        let right = include_str!("../../../tests/keys/qt-client-public.pem");
        let encrypted = include_str!("../../../tests/keys/qt-client-encrypted.base64");
        let encrypted = STANDARD.decode(encrypted.trim()).unwrap();
        let search = |text: &str| LegacySearch::new(Zeroizing::new(text.into()), encrypted.clone());
        let keys = store(&[other, right]);
        let mut found = search(STRING);
        assert!(matches!(found.step(&keys, 2), Search::Pending));
        assert!(matches!(found.step(&keys, 2), Search::Found(entry) if entry.key.is_rsa()));
        let mut beyond = search(STRING);
        assert!(matches!(beyond.step(&keys, 1), Search::Pending));
        assert!(matches!(beyond.step(&keys, 1), Search::NotFound));
        let mut wrong = search("another string of it");
        for _ in 0..2 {
            assert!(matches!(wrong.step(&keys, 2), Search::Pending));
        }
        assert!(matches!(wrong.step(&keys, 2), Search::NotFound));
        // The key that was tried last has been revoked.
        let mut revoked = search(STRING);
        assert!(matches!(revoked.step(&keys, 2), Search::Pending));
        assert!(matches!(revoked.step(&store(&[right]), 2), Search::Found(_)));
    }
}

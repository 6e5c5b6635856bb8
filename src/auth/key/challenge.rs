//! Challenge strings: for one connection, one attempt, and a limited time.

use std::fmt;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// Letters and digits of a challenge. The Qt client's buffer overflows below 128, and PKCS#1 with
/// 2048 bits ends at 245 (protocol section 3).
const LENGTH: usize = 160;
/// Lifetime of a challenge.
const PATIENCE: Duration = Duration::from_secs(30);
const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The pending challenge of a connection. Any response consumes it, right or wrong.
#[derive(Default)]
pub struct Challenge(Option<(Zeroizing<String>, Instant)>);

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Challenge(issued)" } else { "Challenge(none)" })
    }
}

impl Challenge {
    /// Creates a challenge, which replaces the pending one; `None` where the system has no random
    /// bits.
    pub fn issue(&mut self, now: Instant, random: &SystemRandom) -> Option<String> {
        self.0 = None;
        let mut text = String::with_capacity(LENGTH);
        let mut bytes = Zeroizing::new([0; LENGTH]);
        while text.len() < LENGTH {
            random.fill(&mut *bytes).ok()?;
            // Without rejection the first letters of the alphabet would be more likely.
            let fair = bytes.iter().filter(|byte| usize::from(**byte) < 4 * LETTERS.len());
            let letters = fair.filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
            text.extend(letters.take(LENGTH - text.len()).map(|letter| char::from(*letter)));
        }
        self.0 = Some((Zeroizing::new(text.clone()), now + PATIENCE));
        Some(text)
    }

    /// Takes the pending challenge, unless it has expired.
    pub fn take(&mut self, now: Instant) -> Option<Zeroizing<String>> {
        let (text, due) = self.0.take()?;
        (now < due).then_some(text)
    }

    /// Drops the pending challenge.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenge_has_160_letters_and_digits_and_is_never_repeated() {
        let (random, now) = (SystemRandom::new(), Instant::now());
        let mut challenge = Challenge::default();
        let first = challenge.issue(now, &random).unwrap();
        let second = challenge.issue(now, &random).unwrap();
        assert_ne!(first, second);
        for text in [&first, &second] {
            assert_eq!(text.len(), 160);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        assert_eq!(challenge.take(now).as_deref(), Some(&second), "the newer one counts");
        let all: String = (0..50).filter_map(|_| challenge.issue(now, &random)).collect();
        assert!(LETTERS.iter().all(|letter| all.contains(char::from(*letter))));
    }

    #[test]
    fn challenge_is_valid_once_and_for_30_seconds() {
        let (random, start) = (SystemRandom::new(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let mut challenge = Challenge::default();
        assert_eq!(challenge.take(at(0)), None, "nothing was asked");
        let text = challenge.issue(at(0), &random).unwrap();
        assert_eq!(challenge.take(at(29_999)).as_deref(), Some(&text));
        assert_eq!(challenge.take(at(29_999)), None, "a second try");
        challenge.issue(at(0), &random).unwrap();
        assert_eq!(challenge.take(at(30_000)), None, "too late");
        challenge.issue(at(0), &random).unwrap();
        challenge.forget();
        assert_eq!(challenge.take(at(0)), None);
    }
}

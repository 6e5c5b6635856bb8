//! The end of validity of a certificate, from its DER encoding (RFC 5280, section 4.1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{Date, Month, OffsetDateTime, Time};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The time after which a certificate is not valid; `None` where it cannot be read, or is before
/// 1970.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = expect(certificate, SEQUENCE)?;
    let (_, mut rest) = expect(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        (rest, _) = element(rest).map(|(_, _, behind)| (behind, ()))?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity) = expect(rest, SEQUENCE)?;
    let not_after = element(validity)?.2;
    let (tag, text, _) = element(not_after)?;
    parse(tag, std::str::from_utf8(text).ok()?)
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = behind;
    }
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag, content, behind))
}

/// Returns the bytes behind an element of that tag, and its content.
fn expect(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|(found, ..)| *found == tag).map(|(_, content, behind)| (behind, content))
}

fn parse(tag: u8, text: &str) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z')?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        // Years from 50 on are of the last century.
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i32 = year.parse().ok()?;
            (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let number = |at: usize| rest.get(at..at + 2)?.parse::<u8>().ok();
    let month = Month::try_from(number(0)?).ok()?;
    let date = Date::from_calendar_date(year, month, number(2)?).ok()?;
    let time = Time::from_hms(number(4)?, number(6)?, number(8)?).ok()?;
    let moment = OffsetDateTime::new_utc(date, time).unix_timestamp();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(moment).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(not_after: OffsetDateTime) -> Vec<u8> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["nas".to_owned()]).unwrap();
        params.not_after = not_after;
        params.self_signed(&pair).unwrap().der().to_vec()
    }

    #[test]
    fn end_of_validity_is_that_of_the_certificate() {
        // Written as UTCTime, and from 2050 on as GeneralizedTime.
        for seconds in [1_800_000_000, 3_000_000_000] {
            let made = made(OffsetDateTime::from_unix_timestamp(seconds).unwrap());
            let expected = UNIX_EPOCH + Duration::from_secs(seconds as u64);
            assert_eq!(not_after(&made), Some(expected));
            for length in 0..made.len().min(120) {
                assert_eq!(not_after(&made[..length]), None);
            }
        }
    }

    #[test]
    fn time_that_is_none_is_no_time() {
        assert!(parse(UTC_TIME, "991231235959Z").is_some());
        for text in ["", "Z", "99123123595Z", "991331235959Z", "9912312359590", "99123123 959Z"] {
            assert_eq!(parse(UTC_TIME, text), None, "{text:?}");
        }
        assert_eq!(not_after(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}

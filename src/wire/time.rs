//! Times on the wire: RFC 3339, UTC, whole seconds.
//!
//! The original server sent local time without an offset, which is ambiguous; times with `Z` are
//! not, and can be compared as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

/// Formats `2026-11-23T17:50:47Z`. A moment outside the calendar (beyond the year 9999) is the
/// epoch.
pub fn rfc3339(moment: SystemTime) -> String {
    let seconds = match moment.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(0),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(0),
    };
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// Parses the output of [`rfc3339`]; `None` for anything else or before 1970.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let seconds = u64::try_from(moment.unix_timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_utc_with_a_z_and_whole_seconds() {
        let moment = UNIX_EPOCH + Duration::from_millis(1_795_456_247_900);
        assert_eq!(rfc3339(moment), "2026-11-23T17:50:47Z");
    }

    #[test]
    fn time_formatted_and_parsed_is_unchanged() {
        let moment = UNIX_EPOCH + Duration::from_secs(1_795_456_247);
        assert_eq!(parse_rfc3339(&rfc3339(moment)), Some(moment));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn clock_before_1970_is_formatted_as_the_epoch() {
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31T23:59:59Z");
    }
}

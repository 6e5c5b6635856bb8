//! Durations in their written form.

use std::time::Duration;

use crate::wire::decimal;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Parses whole seconds: `90`, `90s`, `5m`, `2h`, `1d`; at least one.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => MINUTE,
        "h" => HOUR,
        "d" => DAY,
        _ => return None,
    };
    let seconds = decimal::<u64>(digits)?.checked_mul(unit)?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Formats with at most two units: `3 s`, `2 m 05 s`, `1 h 02 m`, `3 d 04 h`.
pub(super) fn show(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds < MINUTE {
        format!("{seconds} s")
    } else if seconds < HOUR {
        format!("{} m {:02} s", seconds / MINUTE, seconds % MINUTE)
    } else if seconds < DAY {
        format!("{} h {:02} m", seconds / HOUR, seconds % HOUR / MINUTE)
    } else {
        format!("{} d {:02} h", seconds / DAY, seconds % DAY / HOUR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read() {
        let seconds = |text| parse(text).map(|span| span.as_secs());
        assert_eq!(
            ["90", "90s", "5m", "2h", "1d"].map(seconds),
            [90, 90, 300, 7200, 86_400].map(Some)
        );
        for wrong in [
            "",
            "s",
            "0",
            "-1",
            "+1",
            "1.5",
            "1 s",
            "1w",
            "5ms",
            "99999999999999999999",
            "9999999999999999999d",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn shown() {
        let shown = |seconds| show(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 65, 3599, 3725, 86_400, 273_600].map(shown),
            ["0 s", "59 s", "1 m 05 s", "59 m 59 s", "1 h 02 m", "1 d 00 h", "3 d 04 h"]
        );
    }
}

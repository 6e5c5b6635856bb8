//! Durations and sizes in their written form: `10s`, `64KiB`.

use std::time::Duration;

pub(super) const KIB: usize = 1024;
pub(super) const MIB: usize = 1024 * KIB;
pub(super) const GIB: usize = 1024 * MIB;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// In milliseconds, the largest first.
const DURATIONS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// In bytes, the largest first.
const SIZES: [(&str, u64); 4] =
    [("GiB", GIB as u64), ("MiB", MIB as u64), ("KiB", KIB as u64), ("B", 1)];

/// Why a text is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is not a whole number with one of the units.
    Form,
    /// It exceeds the range of the type.
    TooLarge,
}

/// Parses a whole number and `ms`, `s`, `m`, `h` or `d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Unreadable> {
    parse(text, &DURATIONS).map(Duration::from_millis)
}

/// Parses a whole number and `B`, `KiB`, `MiB` or `GiB`; without a unit it is in bytes.
pub(super) fn parse_size(text: &str) -> Result<usize, Unreadable> {
    let bytes = match parse(text, &SIZES) {
        Err(Unreadable::Form) => parse(text, &[("", 1)])?,
        read => read?,
    };
    usize::try_from(bytes).map_err(|_| Unreadable::TooLarge)
}

/// Formats in the largest unit that is exact; fractions of a millisecond are dropped.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// Formats in the largest unit that is exact.
pub(super) fn show_size(size: usize) -> String {
    show(size as u64, &SIZES)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, Unreadable> {
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or(Unreadable::Form)?;
    if number.is_empty() {
        return Err(Unreadable::Form);
    }
    let number: u64 = number.parse().map_err(|_| Unreadable::TooLarge)?;
    number.checked_mul(*factor).ok_or(Unreadable::TooLarge)
}

fn show(quantity: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().find(|(_, factor)| quantity > 0 && quantity.is_multiple_of(*factor));
    match exact.or(units.last()) {
        Some((name, factor)) => format!("{}{name}", quantity / factor),
        None => quantity.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_of_five_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("5m"), Ok(5 * MINUTE));
        assert_eq!(parse_duration("24h"), Ok(DAY));
        assert_eq!(parse_duration("7d"), Ok(7 * DAY));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_duration_of_any_other_form_is_refused() {
        for text in ["", "s", "10", "10 s", " 10s", "-1s", "+1s", "1.5s", "10S", "1h30m", "10sec"] {
            assert_eq!(parse_duration(text), Err(Unreadable::Form), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("512B"), Ok(512));
        assert_eq!(parse_size("64KiB"), Ok(64 * KIB));
        assert_eq!(parse_size("1MiB"), Ok(MIB));
        assert_eq!(parse_size("1GiB"), Ok(GIB));
    }

    #[test]
    fn a_size_of_any_other_form_is_refused() {
        for text in ["", "KiB", "64KB", "64K", "64kib", "64 KiB", "-1", "1.5MiB", "1TiB", "0x10"] {
            assert_eq!(parse_size(text), Err(Unreadable::Form), "{text:?}");
        }
    }

    #[test]
    fn overflowing_quantity_is_an_error() {
        assert_eq!(parse_size(&usize::MAX.to_string()), Ok(usize::MAX));
        assert_eq!(parse_size("18446744073709551616"), Err(Unreadable::TooLarge));
        assert_eq!(parse_size("18446744073709551615GiB"), Err(Unreadable::TooLarge));
        assert_eq!(parse_duration("18446744073709551615d"), Err(Unreadable::TooLarge));
        let digits = "9".repeat(10_000);
        assert_eq!(parse_duration(&format!("{digits}ms")), Err(Unreadable::TooLarge));
    }

    #[test]
    fn quantities_are_shown_in_the_largest_exact_unit() {
        assert_eq!(show_size(0), "0B");
        assert_eq!(show_size(1000), "1000B");
        assert_eq!(show_size(256 * KIB), "256KiB");
        assert_eq!(show_size(GIB), "1GiB");
        assert_eq!(show_duration(Duration::ZERO), "0ms");
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_duration(15 * MINUTE), "15m");
        assert_eq!(show_duration(DAY), "1d");
    }
}

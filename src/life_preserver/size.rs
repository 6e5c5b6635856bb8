//! Sizes as `zfs` prints them: `12.3M`, `624B`, and plain bytes with `-P`.

/// A size with the precision of the output: `9.99M` of `10.0M` are 99.9 per cent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size {
    /// In thousandths of a byte.
    thousandths: u128,
}

/// Suffixes: each after the first stands for a further factor of 1024 (`zfs_nicenum_format` of
/// OpenZFS, `lib/libzutil/zutil_nicenum.c`).
const SUFFIXES: &[u8; 7] = b"BKMGTPE";
/// Decimal points: zfs(8) uses the locale's.
const POINTS: [char; 2] = ['.', ','];
/// Maximum number of digits before the point; no size has as many.
const DIGITS: usize = 20;

impl Size {
    /// Parses a size; `None` for any other text.
    pub(super) fn parse(text: &str) -> Option<Size> {
        let number_ends = text.find(|c: char| !c.is_ascii_digit() && !POINTS.contains(&c));
        let (number, suffix) = text.split_at(number_ends.unwrap_or(text.len()));
        let (whole, part) = number.split_once(POINTS).unwrap_or((number, ""));
        if whole.is_empty() || whole.len() > DIGITS || part.contains(POINTS) {
            return None;
        }
        let power = match suffix.as_bytes() {
            [] => 0,
            [letter, rest @ ..] if matches!(rest, b"" | b"B" | b"iB") => {
                let letter = letter.to_ascii_uppercase();
                let power = SUFFIXES.iter().position(|suffix| *suffix == letter)?;
                (power > 0 || rest.is_empty()).then_some(power)?
            }
            _ => return None,
        };
        // `zfs` prints at most two digits after the point.
        let part: String = part.chars().chain("000".chars()).take(3).collect();
        let number: u128 = format!("{whole}{part}").parse().ok()?;
        Some(Size { thousandths: number.saturating_mul(1 << (10 * power)) })
    }

    /// Whether `text` is a plain number of bytes, hard for people to read.
    pub(super) fn is_plain(text: &str) -> bool {
        text.bytes().all(|byte| byte.is_ascii_digit())
    }

    pub(super) fn plus(self, other: Size) -> Size {
        Size { thousandths: self.thousandths.saturating_add(other.thousandths) }
    }

    pub(super) fn is_zero(self) -> bool {
        self.thousandths == 0
    }

    /// The share of `total` in tenths of a per cent, truncated so that only the whole is 1000. At
    /// most 1000, because a total is an estimate. `None` if `total` is zero.
    pub(super) fn per_mille_of(self, total: Size) -> Option<u32> {
        let share = self.thousandths.saturating_mul(1000).checked_div(total.thousandths)?;
        Some(u32::try_from(share.min(1000)).unwrap_or(1000))
    }

    /// Formats it like `zfs`: as many digits after the point as fit into five characters.
    pub(super) fn show(self) -> String {
        let bytes = self.thousandths / 1000;
        let power = (0..SUFFIXES.len()).rev().find(|power| bytes >> (10 * power) > 0).unwrap_or(0);
        let suffix = SUFFIXES.get(power).copied().map_or(' ', char::from);
        let unit = 1_u128 << (10 * power);
        let rounded = |factor: u128| (bytes.saturating_mul(factor) + unit / 2) / unit;
        let (hundredths, tenths) = (rounded(100), rounded(10));
        if bytes.is_multiple_of(unit) || tenths >= 1000 {
            format!("{}{suffix}", rounded(1))
        } else if hundredths >= 1000 {
            format!("{}.{}{suffix}", tenths / 10, tenths % 10)
        } else {
            format!("{}.{:02}{suffix}", hundredths / 100, hundredths % 100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Option<u128> {
        Size::parse(text).map(|size| size.thousandths / 1000)
    }

    #[test]
    fn all_forms_are_read() {
        assert_eq!(bytes("0"), Some(0));
        assert_eq!(bytes("0B"), Some(0));
        assert_eq!(bytes("624"), Some(624));
        assert_eq!(bytes("624B"), Some(624));
        assert_eq!(bytes("1K"), Some(1024));
        assert_eq!(bytes("1.50K"), Some(1536));
        assert_eq!(bytes("12.3M"), Some(12_897_484));
        assert_eq!(bytes("1.23G"), Some(1_320_702_443));
        assert_eq!(bytes("1,23G"), Some(1_320_702_443));
        assert_eq!(bytes("2T"), Some(2 << 40));
        assert_eq!(bytes("2P"), Some(2 << 50));
        assert_eq!(bytes("15.9E"), Some(18_331_451_923_248_866_918));
        assert_eq!(bytes("231091568"), Some(231_091_568));
        assert_eq!(bytes("12.3MB").or(bytes("12.3MiB")), bytes("12.3m"));
    }

    #[test]
    fn anything_else_is_none() {
        let long = "9".repeat(21);
        for text in [
            "", "B", "M", "-", "-1", "1.2.3M", "1,2.3M", ".5M", "1Q", "1MM", "1BB", "1 M", "x",
            &long,
        ] {
            assert_eq!(Size::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_share_is_cut_and_never_more_than_all() {
        let share = |part: &str, total: &str| {
            Size::parse(part).unwrap().per_mille_of(Size::parse(total).unwrap())
        };
        assert_eq!(share("12.3M", "1.23G"), Some(9));
        assert_eq!(share("1.00M", "10.0M"), Some(100));
        assert_eq!(share("9.99M", "10.0M"), Some(999));
        assert_eq!(share("10.1M", "10.0M"), Some(1000));
        assert_eq!(share("999999E", "1"), Some(1000));
        assert_eq!(share("1", "0"), None);
    }

    #[test]
    fn sizes_are_formatted_like_zfs() {
        let shown = |bytes: u128| Size { thousandths: bytes * 1000 }.show();
        assert_eq!(shown(0), "0B");
        assert_eq!(shown(1023), "1023B");
        assert_eq!(shown(1024), "1K");
        assert_eq!(shown(1536), "1.50K");
        assert_eq!(shown(30_878_088), "29.4M");
        assert_eq!(shown(231_091_568), "220M");
        assert_eq!(shown(1_320_702_443), "1.23G");
        assert_eq!(shown((1 << 30) - 1), "1024M");
        assert_eq!(shown(u128::from(u64::MAX)), "16.0E");
    }
}

//! Parser of the prefix of a log line: the only module that knows time stamps and syslog.
//!
//! * RFC 3164 with or without host and pid, journalctl's short formats, FreeBSD's `syslogd -v`;
//! * RFC 5424 with structured data, with or without its `<PRI>VERSION`;
//! * RFC 3339 and other ISO dates, ctime(3), date(1), `ts`, log dates with a slash or dots, a time
//!   alone; each of them bare or in brackets;
//! * seconds, milliseconds or microseconds since 1970, and tai64n of daemontools.
//!
//! A name with a colon after the time is the program's, as written by syslogd. With a process id
//! that is certain; without one it may be a word of the message, after a stamp of `ts`: then both
//! readings are returned.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::beginning;
use super::level::{Level, begins_like_failure};
use crate::wire::rfc3339;

/// Maximum length of a time stamp, in bytes; most have 30.
const STAMP: usize = 128;

/// The recognised parts of a line before the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix<'l> {
    /// The time stamp as written; binary ones as RFC 3339.
    pub time: Option<Cow<'l, str>>,
    /// The host that wrote the line.
    pub host: Option<&'l str>,
    /// The program that wrote the line, without its directory.
    pub program: Option<&'l str>,
    /// Its process.
    pub pid: Option<&'l str>,
    /// The severity of `<PRI>`.
    pub level: Option<Level>,
    /// The name of the program may be a word of the message.
    pub is_doubtful: bool,
    /// Offset of the message, and the offset if `program` is a word of it.
    pub message: usize,
    /// See [`Prefix::message`].
    pub bare: usize,
    /// End of the time stamp.
    time_end: usize,
}

impl<'l> Prefix<'l> {
    /// Parses the prefix of a line, which begins with no blank.
    pub fn of(line: &'l str) -> Prefix<'l> {
        let mut it = Prefix::syslog(line);
        // The program's own stamp after that of syslogd or journald.
        if it.program.is_some()
            && !it.is_doubtful
            && let Some((end, _, _)) = stamp(&line[it.message..])
        {
            it.message += end;
            it.message += blanks(&line[it.message..]);
            it.bare = it.message;
        }
        it
    }

    /// Parses up to the end of what syslogd or journald writes.
    fn syslog(line: &'l str) -> Prefix<'l> {
        let mut it = Prefix::default();
        let mut at = it.priority(line, 0);
        let has_version = at > 0 && line[at..].starts_with("1 ");
        if has_version {
            at += 2;
        }
        let Some((end, time, colon)) = stamp(beginning(&line[at..], STAMP)) else {
            if has_version && line[at..].starts_with("- ") && it.rfc5424(line, at + 2) {
                return it;
            }
            it.tag(line, at, false);
            return it;
        };
        it.time = Some(time);
        (it.time_end, at) = (at + end, at + end);
        at += blanks(&line[at..]);
        (it.message, it.bare) = (at, at);
        if colon || it.rfc5424(line, at) {
            return it;
        }
        at = it.priority(line, at);
        at += blanks(&line[at..]);
        (it.message, it.bare) = (at, at);
        it.tag(line, at, true);
        it
    }

    /// The text before offset `end`, for a person: the time, and the rest as written.
    pub(super) fn shown(&self, line: &str, end: usize) -> String {
        let mut shown = self.time.as_deref().unwrap_or_default().to_owned();
        if let (Some(program), Some(_), false) = (self.program, self.host, self.is_doubtful)
            && line.as_bytes().get(self.message.saturating_sub(2)) != Some(&b':')
        {
            // RFC 5424, without the parts for machines.
            shown.extend([" ", self.host.unwrap_or_default(), " ", program]);
            if let Some(pid) = self.pid {
                shown.extend(["[", pid, "]"]);
            }
            shown.push_str(line.get(self.message..end).unwrap_or_default());
        } else {
            shown.push_str(line.get(self.time_end..end).unwrap_or_default());
        }
        shown.truncate(shown.trim_end_matches([' ', '\t', ':', '|', '-']).len());
        shown.trim_start().to_owned()
    }

    /// Parses `<13>`, or FreeBSD's `<daemon.err>` and `<3.3>`; returns the offset after it.
    fn priority(&mut self, line: &str, at: usize) -> usize {
        let Some(inside) = line[at..].strip_prefix('<') else { return at };
        let Some((inside, _)) = beginning(inside, 17).split_once('>') else { return at };
        let level = match inside.rsplit_once('.') {
            Some((_, severity)) => Level::of_field(severity),
            None => {
                let number = inside.parse::<u32>().ok().filter(|number| *number < 192);
                number.map(|number| Level::of_severity(number % 8))
            }
        };
        if level.is_none() {
            return at;
        }
        self.level = level;
        at + inside.len() + 2
    }

    /// Parses `HOST APP PID MSGID STRUCTURED-DATA MESSAGE`, after the time.
    fn rfc5424(&mut self, line: &'l str, at: usize) -> bool {
        let mut fields = [""; 4];
        let mut rest = &line[at..];
        for field in &mut fields {
            let Some((found, behind)) = rest.split_once(' ') else { return false };
            (*field, rest) = (found, behind);
        }
        let [host, app, pid, id] = fields;
        let is_pid = pid == "-" || (!pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()));
        let is_name = |name: &str| !name.is_empty() && !name.ends_with(':') && name.is_ascii();
        if !is_pid || ![host, app, id].into_iter().all(is_name) {
            return false;
        }
        let Some(data) = structured_data(rest) else { return false };
        let message = rest[data..].trim_start_matches(' ').trim_start_matches('\u{feff}');
        let given = |text: &'l str| Some(text).filter(|text| *text != "-");
        (self.host, self.pid) = (given(host), given(pid));
        self.program = given(app).map(basename);
        self.message = line.len() - message.len();
        self.bare = self.message;
        true
    }

    /// Parses `HOST PROGRAM[PID]: `, each but the program optional.
    fn tag(&mut self, line: &'l str, at: usize, has_time: bool) {
        let rest = &line[at..];
        (self.message, self.bare) = (at, at);
        let mut tokens = rest.split_ascii_whitespace();
        let (Some(first), second) = (tokens.next(), tokens.next()) else { return };
        let candidates = [Some((None, first)), second.map(|second| (Some(first), second))];
        for (host, word) in candidates.into_iter().flatten() {
            if host.is_some_and(|host| !is_host(host)) || (host.is_some() && !has_time) {
                return;
            }
            let Some((program, pid)) = program(word) else { continue };
            let begins = host.unwrap_or(word);
            // `Nov 23 17:50:47 cannot receive: …` is a message behind a stamp.
            let doubtful = pid.is_none();
            if doubtful
                && (!has_time
                    || begins_like_failure(rest)
                    || Level::of_word(program).is_some()
                    || Level::of_word(begins).is_some())
            {
                return;
            }
            let behind = &rest[word.as_ptr() as usize - rest.as_ptr() as usize + word.len()..];
            (self.host, self.program, self.pid) = (host, Some(basename(program)), pid);
            self.is_doubtful = doubtful;
            self.message = line.len() - behind.trim_start().len();
            return;
        }
    }
}

/// `sanoid[77]:` or `sanoid:`, the program and its process.
fn program(word: &str) -> Option<(&str, Option<&str>)> {
    let word = word.strip_suffix(':')?;
    let (name, pid) = match word.strip_suffix(']').and_then(|word| word.rsplit_once('[')) {
        Some((name, pid)) => (name, Some(pid)),
        None => (word, None),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-./@()+~".contains(c);
    let is_pid = |pid: &str| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    let known = !name.is_empty() && name.chars().all(is_name) && pid.is_none_or(is_pid);
    // A number and a colon is a time or a count.
    (known && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.')).then_some((name, pid))
}

fn is_host(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte))
        && !word.ends_with(':')
}

fn basename(program: &str) -> &str {
    let name = program.rsplit('/').next().unwrap_or(program);
    name.trim_matches(['(', ')'])
}

/// The length of RFC 5424's structured data: `-` or `[id key="value" …]…`.
fn structured_data(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    while at != 1 && bytes.get(at) == Some(&b'[') {
        let mut quoted = false;
        loop {
            at += 1;
            match bytes.get(at)? {
                b'\\' if quoted => at += 1,
                b'"' => quoted = !quoted,
                b']' if !quoted => break,
                _ => {}
            }
        }
        // Past the bracket, so that position 1 is that of a nil value alone.
        at += 1;
    }
    (at > 0 && matches!(bytes.get(at), None | Some(b' '))).then_some(at)
}

fn blanks(text: &str) -> usize {
    text.len() - text.trim_start_matches([' ', '\t']).len()
}

/// A time stamp at the beginning of a text: its length with the mark after it, its display form,
/// and whether that mark is a colon, after which syslogd writes no program.
fn stamp(text: &str) -> Option<(usize, Cow<'_, str>, bool)> {
    let close = match text.as_bytes().first()? {
        b'[' => Some(']'),
        b'(' => Some(')'),
        byte if byte.is_ascii_alphanumeric() || *byte == b'@' || !byte.is_ascii() => None,
        _ => return None,
    };
    let (inside, length) = match close {
        Some(close) => {
            let inside = &text[1..=text.find(close)?];
            let inside = inside.get(..inside.len() - 1)?;
            (inside, inside.len() + 2)
        }
        None => (text, 0),
    };
    let trimmed = inside.trim();
    let (end, shown) = binary(trimmed)
        .or_else(|| date(trimmed).map(|end| (end, Cow::Borrowed(&trimmed[..end]))))
        .or_else(|| monotonic(trimmed, close.is_some()))?;
    // Brackets must contain the stamp and nothing else.
    if close.is_some() && end != trimmed.len() {
        return None;
    }
    let mut end = if close.is_some() { length } else { end };
    let behind = &text[end..];
    let mut colon = false;
    for (mark, is_colon) in [(":", true), (" :", true), (" -", false), (" |", false)] {
        let rest = behind.strip_prefix(mark);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
            (end, colon) = (end + mark.len(), is_colon);
            break;
        }
    }
    let ends = text[end..].is_empty() || text[end..].starts_with([' ', '\t', '[', ',']);
    ends.then_some((end, shown, colon))
}

/// Stamps that a person cannot read.
fn binary(text: &str) -> Option<(usize, Cow<'_, str>)> {
    let (length, time) = if let Some(label) = text.strip_prefix('@') {
        // tai64n as daemontools writes it: 2^62 + 10 more than the seconds since 1970.
        const EPOCH: u64 = (1 << 62) + 10;
        let end = label.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(label.len());
        if end != 16 && end != 24 {
            return None;
        }
        let seconds = u64::from_str_radix(label.get(..16)?, 16).ok()?.checked_sub(EPOCH)?;
        (end + 1, Duration::from_secs(seconds))
    } else {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text.get(..end)?.parse().ok()?;
        let time = match end {
            10 => Duration::from_secs(number),
            13 => Duration::from_millis(number),
            16 => Duration::from_micros(number),
            _ => return None,
        };
        (end + fraction(&text[end..]), time)
    };
    // Four digits of a year: RFC 3339 has no more.
    let last = Duration::from_secs(253_402_300_799);
    let time = UNIX_EPOCH.checked_add(time).filter(|_| time <= last)?;
    Some((length, Cow::Owned(rfc3339(time as SystemTime))))
}

/// Seconds since the boot, as dmesg(8) and journalctl write them in brackets.
fn monotonic(text: &str, in_brackets: bool) -> Option<(usize, Cow<'_, str>)> {
    let is_number = text.contains('.')
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && text.matches('.').count() == 1;
    (in_brackets && is_number).then_some((text.len(), Cow::Borrowed(text)))
}

/// `.123` or `,123`.
fn fraction(text: &str) -> usize {
    if !text.starts_with(['.', ',']) {
        return 0;
    }
    let digits = text[1..].bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 { 0 } else { digits + 1 }
}

/// The length of a date for people: words and numbers up to a time of day, then its zone and year;
/// or a whole date in one word.
fn date(text: &str) -> Option<usize> {
    const WORDS: usize = 6;
    let mut end = 0;
    let (mut has_time, mut has_date) = (false, false);
    for _ in 0..WORDS + 3 {
        let start = end + blanks(&text[end..]);
        let rest = &text[start..];
        let length = rest.find([' ', '\t']).unwrap_or(rest.len());
        let whole = &rest[..length];
        let word = whole.trim_end_matches([',', '.']);
        let is_month = start == 0 && is_local_month(word, &rest[length..]);
        let kind = match has_time {
            true => behind_time(word),
            false if is_month => Some(Kind::Word),
            false => before_time(word),
        };
        match kind {
            Some(Kind::Word) => {}
            Some(Kind::Date) => has_date = true,
            Some(Kind::Time(used)) => {
                has_time = true;
                if used < word.len() {
                    // `17:50:47: text`, `17:50:47] text`.
                    end = start + used;
                    break;
                }
            }
            None => {
                // A zone or a year with a colon: `… UTC 2026: text`.
                let bare = word.trim_end_matches(':');
                if has_time && bare.len() < word.len() && behind_time(bare).is_some() {
                    end = start + bare.len();
                }
                break;
            }
        }
        end = start + if whole.len() > word.len() && has_time { word.len() } else { length };
        if start + length >= text.len() {
            break;
        }
    }
    (has_time || has_date).then_some(end).filter(|end| *end > 0)
}

enum Kind {
    /// Of a date, together with others.
    Word,
    /// A whole date.
    Date,
    /// A time of day, or a date with one; its length in bytes.
    Time(usize),
}

/// Whether a word is a localized month: `Okt 23 17:50:47`, `févr. 23 17:50:47`, as written by
/// journalctl and `ts`. A day and a time of day follow.
fn is_local_month(word: &str, behind: &str) -> bool {
    let mut words = behind.split_ascii_whitespace();
    let is_day = |day: &str| day.len() <= 2 && day.bytes().all(|byte| byte.is_ascii_digit());
    (2..=6).contains(&word.chars().count())
        && word.chars().all(char::is_alphabetic)
        && words.next().is_some_and(is_day)
        && words.next().and_then(time_of_day).is_some()
}

fn before_time(word: &str) -> Option<Kind> {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let bytes = word.as_bytes();
    if !bytes.first()?.is_ascii_digit() {
        let start = word.get(..3)?;
        let known = DAYS.iter().chain(&MONTHS).any(|known| known.eq_ignore_ascii_case(start));
        let is_word = word.len() <= 9 && bytes.iter().all(u8::is_ascii_alphabetic);
        return (known && is_word).then_some(Kind::Word);
    }
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == word.len() {
        return (digits <= 2 || digits == 4).then_some(Kind::Word);
    }
    if let Some(used) = time_of_day(word) {
        return Some(Kind::Time(used));
    }
    // `2026-11-23`, `2026/11/23`, `23.11.2026`, `23/Nov/2026`, `20261123T175047`.
    let is_date = |c: char| c.is_ascii_alphanumeric() || "-/.".contains(c);
    let end = match (digits, bytes.get(8), bytes.get(10)) {
        (8, Some(b'-'), _) => 8,
        (4, _, Some(b'-')) => 10,
        _ => word.find(|c: char| !is_date(c) || c == 'T').unwrap_or(word.len()),
    };
    let date = word.get(..end)?;
    let separators = date.bytes().filter(|byte| b"-/.".contains(byte)).count();
    let is_whole = (separators == 2 && (8..=11).contains(&end)) || (separators == 0 && end == 8);
    if !is_whole || (separators == 0 && end == word.len()) {
        return None;
    }
    let Some(rest) = word[end..].strip_prefix(['T', ':', '_', '-']) else {
        return (end == word.len()).then_some(Kind::Date);
    };
    let used = time_of_day(rest).or_else(|| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        (digits == 6).then(|| digits + usize::from(rest[digits..].starts_with('Z')))
    });
    match used {
        Some(used) => Some(Kind::Time(end + 1 + used)),
        None if rest.is_empty() => Some(Kind::Date),
        None => None,
    }
}

/// The length of `17:50`, `17:50:47`, `17:50:47.123+01:00` or `17:50:47Z`.
fn time_of_day(word: &str) -> Option<usize> {
    let bytes = word.as_bytes();
    let two = |at: usize| {
        bytes.get(at).is_some_and(u8::is_ascii_digit)
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
    };
    let hours = if two(0) { 2 } else { usize::from(bytes.first()?.is_ascii_digit()) };
    if hours == 0 || bytes.get(hours) != Some(&b':') || !two(hours + 1) {
        return None;
    }
    let mut end = hours + 3;
    if bytes.get(end) == Some(&b':') && two(end + 1) {
        end += 3;
        end += fraction(&word[end..]);
    }
    match bytes.get(end) {
        Some(b'Z') => end += 1,
        Some(b'+' | b'-') if two(end + 1) => {
            end += 3;
            end += usize::from(bytes.get(end) == Some(&b':') && two(end + 1));
            end += if two(end) { 2 } else { 0 };
        }
        _ => {}
    }
    Some(end)
}

fn behind_time(word: &str) -> Option<Kind> {
    let bytes = word.trim_start_matches('(').trim_end_matches(')').as_bytes();
    let is_year = matches!(bytes, [b'1', b'9', ..] | [b'2', b'0', ..])
        && bytes.len() == 4
        && bytes.iter().all(u8::is_ascii_digit);
    let is_offset = matches!(bytes, [b'+' | b'-', rest @ ..]
        if matches!(rest.len(), 2 | 4 | 5) && rest.iter().all(|b| b.is_ascii_digit() || *b == b':'));
    let is_zone = (1..=5).contains(&bytes.len())
        && bytes.iter().all(u8::is_ascii_uppercase)
        && Level::of_word(word).is_none();
    let is_utc_offset = bytes.starts_with(b"UTC") && bytes.len() > 3;
    (is_year || is_offset || is_zone || is_utc_offset).then_some(Kind::Word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "CRITICAL ERROR: x failed";

    /// Text shown before the message, the program and its process; the message is `TEXT`.
    fn read(before: &str) -> (String, Option<String>, Option<String>) {
        let line = format!("{before}{TEXT}");
        let prefix = Prefix::of(&line);
        assert_eq!(&line[prefix.message..], TEXT, "{line}: {prefix:?}");
        let own = |text: Option<&str>| text.map(str::to_owned);
        (prefix.shown(&line, prefix.message), own(prefix.program), own(prefix.pid))
    }

    #[test]
    fn stamps_without_a_program_are_recognised() {
        for stamp in [
            "Nov 23 17:50:47",
            "Nov  3 17:50:47.123456",
            "Mon Nov 23 17:50:47 UTC 2026:",
            "Mon Nov 23 17:50:47 2026",
            "Mon 23 Nov 2026 05:50:47 PM CET",
            "Mon 2026-11-23 17:50:47 CET",
            "2026-11-23T17:50:47+0100",
            "2026-11-23T17:50:47.123456+01:00",
            "2026-11-23T17:50:47Z:",
            "2026-11-23 17:50:47,123",
            "2026-11-23 17:50:47 -",
            "2026-11-23 17:50:47 +0100",
            "2026-11-23_17:50:47.12345",
            "2026/11/23 17:50:47",
            "23.11.2026 17:50:47",
            "20261123T175047Z",
            "17:50:47",
            "17:50:47:",
            "[2026-11-23 17:50:47]",
            "[Mon Nov 23 17:50:47 2026]",
            "[23/Nov/2026:17:50:47 +0100]",
            "(17:50:47)",
            "[2026-11-23]",
            "[   12.345678]",
        ] {
            let (shown, program, _) = read(&format!("{stamp} "));
            assert_eq!(program, None, "{stamp}");
            let bare =
                stamp.trim_matches(['[', ']', '(', ')', ' ']).trim_end_matches([':', ' ', '-']);
            assert_eq!(shown.trim_matches([']', ')']), bare, "{stamp}");
        }
        for line in ["taking snapshot tank@x", "tank/a@x", "May the force", "12 snapshots", "1:2"] {
            assert_eq!(Prefix::of(line).time, None, "{line}");
            assert_eq!(Prefix::of(line).message, 0, "{line}");
        }
    }

    #[test]
    fn binary_stamps_are_shown_as_rfc_3339() {
        for stamp in [
            "1795456247",
            "1795456247.123",
            "1795456247123",
            "[1795456247]",
            "@400000006b04a3411de784a4",
        ] {
            let (shown, _, _) = read(&format!("{stamp} "));
            assert!(shown.trim_end_matches(']').starts_with("2026-11-2"), "{stamp}: {shown}");
        }
        for stamp in
            ["Okt 23 17:50:47", "févr. 23 17:50:47", "20261123-175047", "2026-11-23-17:50:47"]
        {
            assert_eq!(Prefix::of(&format!("{stamp} x")).time.as_deref(), Some(stamp));
        }
        let it = Prefix::of("Nov 23 17:50:48 nas pyznap[7]: Nov 23 17:50:47 ERROR: x");
        assert_eq!((it.program, it.message), (Some("pyznap"), 47));
        // Neither a number with this many digits nor such a label is a time.
        assert_eq!(Prefix::of("12345678901 x").time, None);
        assert_eq!(Prefix::of("@4000 x").time, None);
        assert_eq!(Prefix::of("@ffffffffffffffff x").time, None);
    }

    #[test]
    fn syslog_gives_the_program_and_its_process() {
        let rows = [
            ("Nov 23 17:50:47 nas sanoid[77]: ", "sanoid", Some("77")),
            ("Nov 23 17:50:47 sanoid[77]: ", "sanoid", Some("77")),
            ("Nov 23 17:50:47 nas sanoid: ", "sanoid", None),
            ("Nov 23 17:50:47 sanoid: ", "sanoid", None),
            ("Nov 23 17:50:47 <daemon.err> nas /usr/sbin/sanoid[77]: ", "sanoid", Some("77")),
            ("<11>Nov 23 17:50:47 nas (sanoid)[77]: ", "sanoid", Some("77")),
            ("2026-11-23T17:50:47.1+01:00 nas.example.org sanoid[77]: ", "sanoid", Some("77")),
            ("Mon 2026-11-23 17:50:47 CET nas sanoid[77]: ", "sanoid", Some("77")),
            ("1795456247.123456 nas sanoid[77]: ", "sanoid", Some("77")),
            ("[ 123.456789] nas sanoid[77]: ", "sanoid", Some("77")),
            ("sanoid[77]: ", "sanoid", Some("77")),
        ];
        for (before, program, pid) in rows {
            let (shown, found, process) = read(before);
            assert_eq!((found.as_deref(), process.as_deref()), (Some(program), pid), "{before}");
            assert!(shown.contains("sanoid"), "{shown}");
        }
        let line = "<11>Nov 23 17:50:47 nas sanoid[77]: x";
        assert_eq!(Prefix::of(line).level, Some(Level::Error));
        let line = "Nov 23 17:50:47 <daemon.warning> nas sanoid[77]: x";
        let prefix = Prefix::of(line);
        assert_eq!((prefix.level, prefix.host), (Some(Level::Warning), Some("nas")));
    }

    #[test]
    fn rfc_5424_is_read_with_its_structured_data() {
        for data in ["-", "[a@1 k=\"v\"]", "[a k=\"x\\]y \\\" ] z\"][b]"] {
            let before = format!("<13>1 2026-11-23T17:50:47.1+01:00 nas sanoid 77 - {data} ");
            let (shown, program, pid) = read(&before);
            assert_eq!(shown, "2026-11-23T17:50:47.1+01:00 nas sanoid[77]");
            assert_eq!((program.as_deref(), pid.as_deref()), (Some("sanoid"), Some("77")));
        }
        let (shown, ..) = read("2026-11-23T17:50:47Z nas /usr/sbin/sanoid - ID47 - \u{feff}");
        assert_eq!(shown, "2026-11-23T17:50:47Z nas sanoid");
        assert_eq!(read("<11>1 - nas sanoid 77 - - ").1.as_deref(), Some("sanoid"));
    }

    #[test]
    fn words_of_a_message_are_no_program() {
        let line = "Nov 23 17:50:47 CRITICAL ERROR: x failed";
        assert_eq!(Prefix::of(line).program, None);
        for message in ["ERROR: x", "cannot receive: x", "WARN: x", "INFO Sending: x"] {
            let line = format!("Nov 23 17:50:47 {message}");
            let prefix = Prefix::of(&line);
            assert_eq!((prefix.program, &line[prefix.message..]), (None, message));
        }
        let line = "Nov 23 17:50:47 nas kernel: WARNING: x";
        let prefix = Prefix::of(line);
        assert!(prefix.is_doubtful && prefix.program == Some("kernel"));
        assert_eq!(&line[prefix.bare..], "nas kernel: WARNING: x");
        assert_eq!(Prefix::of("nas: WARN: x").program, None);
    }

    #[test]
    fn arbitrary_prefix_causes_no_panic() {
        let pieces =
            ["<", "13>", "1 ", "[", "]", "Nov 23 ", "17:50:47", "é", ": ", "@4", "-", "\""];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    for d in pieces {
                        let line = format!("{a}{b}{c}{d}");
                        let prefix = Prefix::of(&line);
                        prefix.shown(&line, prefix.message);
                    }
                }
            }
        }
    }
}

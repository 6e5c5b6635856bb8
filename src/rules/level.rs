//! Severity of a log line, and the words that state it.

/// Severity stated by the program that wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `debug`, `info`, `notice`.
    Info,
    /// `warning`.
    Warning,
    /// `error`.
    Error,
    /// `critical`, `alert`, `emergency`, `fatal`.
    Critical,
}

/// Words at the beginning of a message that reports a failure without a level.
const FAILURES: [&str; 14] = [
    "cannot",
    "can't",
    "could not",
    "couldn't",
    "fail",
    "unable to",
    "not able to",
    "internal error",
    "exception",
    "traceback",
    "out of memory",
    "panic",
    "abort",
    "broken pipe",
];

/// The longest word of a level: `information`.
const LONGEST: usize = 11;

impl Level {
    /// The level of a word, in any case: `WARN`, `ERRO`, `critical`.
    pub fn of_word(word: &str) -> Option<Level> {
        const WORDS: [(Level, &[&str]); 4] = [
            (Level::Error, &["error", "err", "erro", "failed", "failure"]),
            (Level::Warning, &["warning", "warn"]),
            (
                Level::Info,
                &["info", "information", "notice", "note", "debug", "debg", "trace", "verbose"],
            ),
            (
                Level::Critical,
                &["critical", "crit", "fatal", "alert", "emergency", "emerg", "panic"],
            ),
        ];
        if !(3..=LONGEST).contains(&word.len()) {
            return None;
        }
        let is = |known: &&str| word.eq_ignore_ascii_case(known);
        WORDS.iter().find(|(_, words)| words.iter().any(is)).map(|(it, _)| *it)
    }

    /// The level of a syslog severity, RFC 5424 section 6.2.1, 0 to 7.
    pub fn of_severity(severity: u32) -> Level {
        match severity {
            0..=2 => Level::Critical,
            3 => Level::Error,
            4 => Level::Warning,
            _ => Level::Info,
        }
    }

    /// The level of a `level` or `PRIORITY` field: a word or a severity.
    pub fn of_field(value: &str) -> Option<Level> {
        Level::of_word(value).or_else(|| match value.as_bytes() {
            [digit @ b'0'..=b'7'] => Some(Level::of_severity(u32::from(digit - b'0'))),
            _ => None,
        })
    }
}

/// Parses a level at the beginning of a message: `CRITICAL ERROR: `, `[warn] `, `ERROR    [thread]
/// `. Also returns the length of that text with the blanks after it.
pub(super) fn level_at_start(text: &str) -> Option<(Level, usize)> {
    let open = text.starts_with(['[', '<', '(']);
    let mut at = usize::from(open);
    let mut level = None;
    // At most two words: `CRITICAL ERROR`.
    for _ in 0..2 {
        let rest = text.get(at..)?;
        let end = letters(rest);
        let (word, behind) = rest.split_at(end);
        let found = Level::of_word(word)?;
        level = level.max(Some(found));
        at += end;
        let shouted = word.bytes().all(|byte| byte.is_ascii_uppercase());
        let closed = match behind.as_bytes() {
            [b':' | b'>' | b')' | b']', b' ' | b'\t', ..] | [b':' | b'>' | b')' | b']'] => Some(1),
            // `FAILED` begins a sentence of Life Preserver.
            [b' ' | b'\t', ..] if shouted && !open && !word.starts_with("FAIL") => {
                let word = behind.trim_start();
                let more = word.get(..letters(word))?;
                // `ERROR error listing x`: the second word is the message's own.
                let is_message = more.bytes().any(|byte| byte.is_ascii_lowercase());
                (is_message || Level::of_word(more).is_none()).then_some(0)
            }
            [b' ', ..] => None,
            _ => return None,
        };
        if let Some(mark) = closed {
            at += mark;
            let blanks = text.len() - at - text.get(at..)?.trim_start().len();
            return Some((level?, at + blanks));
        }
        at += 1;
    }
    None
}

/// Number of letters that a text begins with, counted up to one more than the longest level has.
fn letters(text: &str) -> usize {
    text.bytes().take(LONGEST + 1).take_while(u8::is_ascii_alphabetic).count()
}

/// Whether a message without a level begins like a report of a failure.
pub(super) fn begins_like_failure(text: &str) -> bool {
    FAILURES
        .iter()
        .any(|words| text.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words)))
}

/// Whether a line mentions a failure anywhere: for an operator who looks for lines without a rule.
pub(super) fn mentions_failure(text: &str) -> bool {
    const MARKS: [&[u8]; 9] = [
        b"error",
        b"fail",
        b"cannot",
        b"could not",
        b"critical",
        b"fatal",
        b"unable to",
        b"denied",
        b"panic",
    ];
    let bytes = text.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| {
        if !matches!(byte | 0x20, b'c'..=b'f' | b'p' | b'u') {
            return false;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        MARKS.iter().any(|mark| {
            rest.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_words_are_read_in_all_their_forms() {
        let rows = [
            ("CRITICAL ERROR: x", Some(Level::Critical), "x"),
            ("ERROR: x", Some(Level::Error), "x"),
            ("ERROR    [main] x", Some(Level::Error), "[main] x"),
            ("[ERRO][push] x", None, "[ERRO][push] x"),
            ("[warn] WARNING: x", Some(Level::Warning), "x"),
            ("WARNING: CRITICAL: x", Some(Level::Critical), "x"),
            ("WARN Skipping x", Some(Level::Warning), "Skipping x"),
            ("ERROR error listing x", Some(Level::Error), "error listing x"),
            ("ERROR fatal error in x", Some(Level::Error), "fatal error in x"),
            ("CRITICAL error: x", Some(Level::Critical), "x"),
            ("INFO: error in x", Some(Level::Info), "error in x"),
            ("error: x", Some(Level::Error), "x"),
            ("Error when x", None, "Error when x"),
            ("ERROR:", Some(Level::Error), ""),
            ("FAILED replication", None, "FAILED replication"),
            ("ERRORS: x", None, "ERRORS: x"),
            ("é", None, "é"),
            ("", None, ""),
        ];
        for (text, level, rest) in rows {
            let (mut found, mut length) = (None, 0);
            while let Some((more, end)) = level_at_start(&text[length..]) {
                (found, length) = (found.max(Some(more)), length + end);
            }
            assert_eq!((found, &text[length..]), (level, rest), "{text}");
        }
    }

    #[test]
    fn level_of_a_field_is_a_word_or_a_severity() {
        assert_eq!(Level::of_field("ERROR"), Some(Level::Error));
        assert_eq!(Level::of_field("3"), Some(Level::Error));
        assert_eq!(Level::of_field("6"), Some(Level::Info));
        assert_eq!(Level::of_field("8"), None);
        assert_eq!(Level::of_field("zzz"), None);
    }

    #[test]
    fn failures_without_a_level_are_known_by_their_words() {
        assert!(begins_like_failure("Could not rename x"));
        assert!(begins_like_failure("cannot receive new filesystem stream: out of space"));
        assert!(!begins_like_failure("Sending incremental tank/failed@x"));
        assert!(mentions_failure("sending to nas: Permission DENIED"));
        assert!(!mentions_failure("all is well"));
    }
}

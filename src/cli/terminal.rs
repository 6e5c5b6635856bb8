//! Capabilities of the terminal.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::client::Secret;

/// Colours and characters that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terminal {
    /// ANSI colours are wanted.
    pub(super) colour: bool,
    /// The locale is UTF-8.
    pub(super) unicode: bool,
}

/// Meaning of a part of a line; its appearance is defined here alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Less important than the rest of the line.
    Quiet,
    Waiting,
    Active,
    Good,
    Warning,
    Bad,
    Urgent,
}

impl Terminal {
    /// According to the environment; no colours where output is not a terminal.
    pub(super) fn new(is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Terminal {
        let filled = |name: &str| variable(name).filter(|value| !value.is_empty());
        let dumb = filled("TERM").is_none_or(|term| term == "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(filled);
        let locale = locale.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        Terminal {
            // https://no-color.org: set and not empty.
            colour: is_terminal && !dumb && filled("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// According to the environment of this process.
    pub(super) fn of_this_process(is_terminal: bool) -> Terminal {
        Terminal::new(is_terminal, |name| std::env::var_os(name))
    }

    /// `text` in its colour.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => "",
            Tone::Quiet => "2",
            Tone::Waiting => "34",
            Tone::Active => "36",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Urgent => "1;31",
        };
        if !self.colour || code.is_empty() || text.trim().is_empty() {
            return text.to_owned();
        }
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// One of two spellings.
    pub(super) fn either(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }
}

/// Whether a terminal can move its cursor up and erase below: all but `dumb` ones can (ECMA-48, CUU
/// and ED).
pub(super) fn can_be_drawn_over(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    variable("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Maximum length of a typed secret, in bytes.
const TYPED: usize = 1024;
/// Sent by Ctrl-C.
const CTRL_C: u8 = 3;

/// Reads a secret from the terminal of this process without echo. Ctrl-C cancels: it ends the line
/// instead of the command, so that the terminal is always restored.
pub(super) fn ask_for_secret(prompt: &str) -> io::Result<Secret> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let usual = tcgetattr(&terminal)?;
    let mut hidden = usual.clone();
    hidden.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
    hidden.local_flags.insert(LocalFlags::ECHONL | LocalFlags::ICANON);
    if let Some(end) = hidden.control_chars.get_mut(SpecialCharacterIndices::VEOL as usize) {
        *end = CTRL_C;
    }
    // Echo is disabled before the prompt: earlier input is discarded.
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden)?;
    let mut line = Zeroizing::new([0; TYPED]);
    let read = terminal.write_all(prompt.as_bytes()).and_then(|()| terminal.read(&mut *line));
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &usual)?;
    let typed = line.get(..read?).unwrap_or_default();
    let typed = typed.strip_suffix(b"\n").filter(|typed| !typed.is_empty());
    match typed.map(std::str::from_utf8) {
        Some(Ok(secret)) => Ok(Secret::new(secret)),
        Some(Err(_)) => Err(io::Error::new(io::ErrorKind::InvalidInput, "that is not UTF-8")),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing was typed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(is_terminal: bool, environment: &[(&str, &str)]) -> Terminal {
        Terminal::new(is_terminal, |name| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let xterm = ("TERM", "xterm");
        assert!(terminal(true, &[xterm]).colour);
        assert!(terminal(true, &[xterm, ("NO_COLOR", "")]).colour);
        assert!(!terminal(true, &[xterm, ("NO_COLOR", "1")]).colour);
        assert!(!terminal(true, &[("TERM", "dumb")]).colour);
        assert!(!terminal(true, &[]).colour);
        assert!(!terminal(false, &[xterm]).colour);
    }

    #[test]
    fn a_dumb_terminal_is_written_once() {
        let term = |term: Option<&str>| {
            can_be_drawn_over(|name| term.filter(|_| name == "TERM").map(OsString::from))
        };
        assert!(term(Some("xterm")));
        assert!(!term(Some("dumb")));
        assert!(!term(Some("")));
        assert!(!term(None));
    }

    #[test]
    fn the_first_variable_that_is_set_names_the_locale() {
        let unicode = |environment| terminal(true, environment).unicode;
        assert!(unicode(&[("LANG", "C.UTF-8")]));
        assert!(unicode(&[("LC_ALL", ""), ("LC_CTYPE", "de_DE.utf8"), ("LANG", "C")]));
        assert!(!unicode(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(!unicode(&[]));
    }

    #[test]
    fn paint_is_nothing_without_colours() {
        let plain = terminal(false, &[]);
        assert_eq!(plain.paint(Tone::Bad, "x"), "x");
        let coloured = terminal(true, &[("TERM", "xterm")]);
        assert_eq!(coloured.paint(Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(coloured.paint(Tone::Plain, "x"), "x");
    }
}

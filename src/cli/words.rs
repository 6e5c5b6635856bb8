//! Parser of command-line arguments.
//!
//! A thin layer over `lexopt`, so that all commands parse options alike, support `--help` in every
//! position, and report unknown arguments in the same words.

use std::ffi::OsString;
use std::path::PathBuf;

use super::exit::Exit;

/// An option or an argument.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// With its dashes.
    Option(String),
    /// A plain argument.
    Value(OsString),
}

/// The remaining arguments.
pub(super) struct Words {
    parser: lexopt::Parser,
    help: &'static str,
    /// `--` was seen.
    separated: bool,
}

impl Words {
    /// `help` is the text for `--help`.
    pub(super) fn new(parser: lexopt::Parser, help: &'static str) -> Words {
        Words { parser, help, separated: false }
    }

    /// The next argument; `--help` ends the command here.
    pub(super) fn next(&mut self) -> Result<Option<Word>, Exit> {
        if let Some(rest) = self.parser.try_raw_args() {
            self.separated |= rest.peek().is_some_and(|word| word == "--");
        }
        let word = match self.parser.next().map_err(wrong)? {
            None => return Ok(None),
            Some(lexopt::Arg::Long("help") | lexopt::Arg::Short('h')) => {
                return Err(Exit::Help(self.help));
            }
            Some(lexopt::Arg::Long(name)) => Word::Option(format!("--{name}")),
            Some(lexopt::Arg::Short(letter)) => Word::Option(format!("-{letter}")),
            Some(lexopt::Arg::Value(value)) => Word::Value(value),
        };
        Ok(Some(word))
    }

    /// Whether the last argument stands after `--`.
    pub(super) fn is_separated(&self) -> bool {
        self.separated
    }

    /// The value of the last option.
    pub(super) fn value(&mut self) -> Result<String, Exit> {
        text(self.parser.value().map_err(wrong)?)
    }

    /// The same, as a path.
    pub(super) fn path(&mut self) -> Result<PathBuf, Exit> {
        self.parser.value().map(PathBuf::from).map_err(wrong)
    }
}

/// An argument as text: requests are JSON, which cannot represent other bytes.
pub(super) fn text(value: OsString) -> Result<String, Exit> {
    value.into_string().map_err(|value| Exit::usage(format!("{value:?} is not UTF-8")))
}

/// An unknown argument.
pub(super) fn unexpected(word: &Word) -> Exit {
    Exit::usage(match word {
        Word::Option(name) => format!("unknown option {name}"),
        Word::Value(value) => format!("unexpected argument {value:?}"),
    })
}

fn wrong(error: lexopt::Error) -> Exit {
    Exit::usage(error.to_string())
}

#[cfg(test)]
pub(super) fn words(line: &[&str]) -> Words {
    Words::new(lexopt::Parser::from_args(line), "the help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_values_and_plain_words() {
        let mut w = words(&["--queue=a", "b", "-c", "file", "--", "--help"]);
        assert_eq!(w.next().unwrap(), Some(Word::Option("--queue".into())));
        assert_eq!(w.value().unwrap(), "a");
        assert_eq!(w.next().unwrap(), Some(Word::Value("b".into())));
        assert_eq!(w.next().unwrap(), Some(Word::Option("-c".into())));
        assert_eq!(w.path().unwrap(), PathBuf::from("file"));
        assert!(!w.is_separated());
        assert_eq!(w.next().unwrap(), Some(Word::Value("--help".into())));
        assert!(w.is_separated());
        assert_eq!(w.next().unwrap(), None);
    }

    #[test]
    fn help_is_accepted_everywhere_and_faults_are_reported() {
        assert!(matches!(words(&["x", "-h"]).next(), Ok(Some(_))));
        assert!(matches!(words(&["-h"]).next(), Err(Exit::Help("the help"))));
        let said = |exit| match exit {
            Exit::Usage(said) => said,
            other => panic!("{other:?}"),
        };
        let first = |line: &[&str]| words(line).next().unwrap().unwrap();
        assert_eq!(said(unexpected(&first(&["--lisen"]))), "unknown option --lisen");
        assert_eq!(said(unexpected(&first(&["x"]))), "unexpected argument \"x\"");
        let mut w = words(&["--queue"]);
        w.next().unwrap();
        assert!(said(w.value().unwrap_err()).contains("--queue"));
    }
}

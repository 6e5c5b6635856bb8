//! A submitted command, and the words that it consists of.
//!
//! A line is split like in a shell, but not run by one: no pipes, variables or wildcards, so that
//! nothing in a file name or an argument can become a command. A line with shell operators is
//! rejected, because it would not do what its author expects; `sh -c '…'` or a list of words is
//! unambiguous.

use crate::wire::{Quoted, Refusal};

/// One command of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The text for people, and the key in events.
    pub shown: String,
    /// Name and arguments; never empty.
    pub words: Vec<String>,
}

impl Command {
    /// Parses a line; `None` for one without words. Rejects line breaks and unquoted shell
    /// operators.
    pub fn from_line(line: &str) -> Result<Option<Command>, Refusal> {
        let why = if line.trim_ascii().is_empty() {
            None
        } else if line.contains('\n') {
            Some("a line break does not separate commands: submit a list of commands".to_owned())
        } else {
            unquoted_operator(line).map(|word| format!("{word:?} is an operator of the shell"))
        };
        match why {
            None => Command::from_recorded(line),
            Some(why) => Err(Refusal::bad_request(format!(
                "command {}: {why}; no shell runs a command: write sh -c '...' (run --sh) for \
                 a script, or a list of words for exactly these arguments",
                Quoted(line)
            ))),
        }
    }

    /// Parses a line of the journal, which may contain what [`Command::from_line`] rejects: a list
    /// of words is recorded as a line.
    pub(super) fn from_recorded(line: &str) -> Result<Option<Command>, Refusal> {
        let refuse = |why: &str| Refusal::bad_request(format!("command {}: {why}", Quoted(line)));
        let words = shell_words::split(line).map_err(|_| refuse("a quote is not closed"))?;
        Command::checked(line.to_owned(), words).map_err(|why| refuse(&why))
    }

    /// Takes words unchanged; `None` for an empty list.
    pub fn from_words(words: Vec<String>) -> Result<Option<Command>, Refusal> {
        let shown = shell_words::join(&words);
        Command::checked(shown.clone(), words)
            .map_err(|why| Refusal::bad_request(format!("command {}: {why}", Quoted(&shown))))
    }

    fn checked(shown: String, words: Vec<String>) -> Result<Option<Command>, String> {
        match words.first() {
            None => Ok(None),
            Some(name) if name.is_empty() => Err("the name of the program is empty".to_owned()),
            Some(_) if words.iter().any(|word| word.contains('\0')) => {
                Err("a NUL byte cannot be handed to a program".to_owned())
            }
            Some(_) => Ok(Some(Command { shown, words })),
        }
    }
}

/// The first unquoted shell operator in a line: a control operator (`|`, `&&`, `;`), a redirection
/// (`>`, `2>&1`, `<file`), or a word that ends with a control operator (`a;`). Quoted characters
/// are never part of an operator.
fn unquoted_operator(line: &str) -> Option<String> {
    // Each word, with quoted characters replaced by one that no operator contains.
    let mut words = vec![String::new()];
    let (mut characters, mut quote) = (line.chars(), None);
    while let Some(character) = characters.next() {
        let word = words.last_mut()?;
        match (quote, character) {
            (None, ' ' | '\t') => words.push(String::new()),
            (None, '#') if word.is_empty() => break,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.push(QUOTED);
            }
            (None, '\\') | (Some('"'), '\\') => {
                characters.next();
                word.push(QUOTED);
            }
            (None, character) => word.push(character),
            (Some(open), character) if open == character => quote = None,
            (Some(_), _) => {}
        }
    }
    words.into_iter().find(|word| is_operator(word))
}

const QUOTED: char = '\u{fffd}';

fn is_operator(word: &str) -> bool {
    let redirection = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '&');
    let all_of = |characters: &[char]| word.chars().all(|c| characters.contains(&c));
    !word.is_empty()
        && (redirection.starts_with(['<', '>'])
            || all_of(&['|', '&', ';', '(', ')'])
            || word.ends_with([';', '|', '&']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        Command::from_line(line).unwrap().unwrap().words
    }

    #[test]
    fn a_line_is_split_as_a_shell_does_but_nothing_is_expanded() {
        assert_eq!(words(r#"sh -c "echo 'a b'; exit 1""#), ["sh", "-c", "echo 'a b'; exit 1"]);
        assert_eq!(words(r"a\ b $HOME * '|' x"), ["a b", "$HOME", "*", "|", "x"]);
        assert_eq!(words("a '' b"), ["a", "", "b"]);
    }

    #[test]
    fn line_with_line_break_is_refused() {
        for line in ["rm -rf D\nls F", "a\r\nb", "a\n", "sh -c 'a\nb'"] {
            let refusal = Command::from_line(line).unwrap_err();
            assert!(refusal.why.contains("sh -c"), "{}", refusal.why);
        }
        let words = vec!["sh".to_owned(), "-c".to_owned(), "a\nb".to_owned()];
        let command = Command::from_words(words).unwrap().unwrap();
        assert_eq!(Command::from_recorded(&command.shown).unwrap().unwrap(), command);
    }

    #[test]
    fn unquoted_operator_of_the_shell_is_refused() {
        for operator in ["|", "||", ">", ">>", "<", "<<", "&", "&&", ";", ";;", "(", ")", "2>&1"] {
            for line in [format!("a {operator} b"), format!("a {operator}"), operator.to_owned()] {
                let refusal = Command::from_line(&line).unwrap_err();
                assert!(refusal.why.contains(&format!("{operator:?}")), "{}", refusal.why);
            }
        }
        for line in ["a >f", "a 2>/dev/null", "a &>f", "a >&2", "a; b", "a& b", "a| b", "'a'; b"] {
            assert!(Command::from_line(line).is_err(), "{line}");
        }
    }

    #[test]
    fn quoted_operator_and_operator_inside_a_word_are_arguments() {
        for (line, argument) in [
            ("a '|' b", "|"),
            (r#"a ">" b"#, ">"),
            (r"find -exec b \;", ";"),
            (r"a \& b", "&"),
            ("a 'b;'", "b;"),
            ("a x'>'y", "x>y"),
            ("a http://h/?a=1&b=2", "http://h/?a=1&b=2"),
            ("a b>=1.0", "b>=1.0"),
            ("grep x|y", "x|y"),
            ("a x # > y", "x"),
            (r#"a "x \" | y""#, "x \" | y"),
        ] {
            assert!(words(line).iter().any(|word| word == argument), "{line}");
        }
    }

    #[test]
    fn command_that_cannot_run_is_rejected_or_empty() {
        assert!(Command::from_line("echo 'x").unwrap_err().why.contains("quote"));
        assert!(Command::from_line("echo a\0b").unwrap_err().why.contains("NUL"));
        assert!(Command::from_line("'' x").is_err());
        assert_eq!(Command::from_line("  ").unwrap(), None);
        assert_eq!(Command::from_words(vec![]).unwrap(), None);
    }

    #[test]
    fn words_are_shown_quoted() {
        let command = Command::from_words(vec!["echo".into(), "a b".into()]).unwrap().unwrap();
        assert_eq!(command.shown, "echo 'a b'");
    }
}

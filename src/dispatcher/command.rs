//! A command as it was asked for, and the words that it consists of.
//!
//! It is split as a shell does, and then no shell runs it: no pipes, no variables, no wildcards,
//! so that nothing in a file name or an argument can become a command of its own. Who wants a
//! shell says `sh -c '…'`.

use crate::wire::Refusal;

/// One command of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What people see, and the key in events.
    pub shown: String,
    /// Name and arguments; never empty.
    pub words: Vec<String>,
}

impl Command {
    /// From a line; `None` for one without words.
    pub fn from_line(line: &str) -> Result<Option<Command>, Refusal> {
        let refuse = |why: &str| Refusal::bad_request(format!("command {line:?}: {why}"));
        let words = shell_words::split(line).map_err(|_| refuse("a quote is not closed"))?;
        Command::checked(line.to_owned(), words).map_err(|why| refuse(&why))
    }

    /// From words that are taken as they are; `None` where there are none.
    pub fn from_words(words: Vec<String>) -> Result<Option<Command>, Refusal> {
        let shown = shell_words::join(&words);
        Command::checked(shown.clone(), words)
            .map_err(|why| Refusal::bad_request(format!("command {shown:?}: {why}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        Command::from_line(line).unwrap().unwrap().words
    }

    #[test]
    fn a_line_is_split_as_a_shell_does_but_nothing_is_expanded() {
        assert_eq!(words(r#"sh -c "echo 'a b'; exit 1""#), ["sh", "-c", "echo 'a b'; exit 1"]);
        assert_eq!(words(r"a\ b $HOME * | x"), ["a b", "$HOME", "*", "|", "x"]);
        assert_eq!(words("a '' b"), ["a", "", "b"]);
    }

    #[test]
    fn what_cannot_be_run_is_refused_or_is_nothing() {
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

//! Faults of a configuration file, for the operator.
//!
//! One line per fault, in the form `FILE:LINE: message` that editors and terminals recognize. All
//! faults of a file are reported together.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::wording::counted;

/// Further faults are only counted.
pub(super) const LISTED: usize = 100;

/// A fault whose position is an offset into the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// In bytes from the beginning of the file.
    pub(super) at: usize,
    pub(super) message: String,
}

/// One fault of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Starting at 1; `None` for the file as a whole.
    pub line: Option<usize>,
    /// The fault and its remedy, on one line.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// All faults of a configuration file, at least one, in the order of their lines.
///
/// Displayed one per line, without a newline at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `faults` is not empty.
    pub(super) fn new(file: &Path, lines: &Lines, mut faults: Vec<Fault>) -> ConfigErrors {
        faults.sort_by_key(|fault| fault.at);
        let more = faults.len().saturating_sub(LISTED);
        faults.truncate(LISTED);
        let mut errors: Vec<ConfigError> = faults
            .into_iter()
            .map(|fault| ConfigError {
                file: file.to_path_buf(),
                line: Some(lines.number(fault.at)),
                message: fault.message,
            })
            .collect();
        if more > 0 {
            let message = format!("{} not listed", counted(more, "further fault"));
            errors.push(ConfigError { file: file.to_path_buf(), line: None, message });
        }
        ConfigErrors(errors)
    }

    /// One fault without a line.
    pub(super) fn of_whole_file(file: &Path, message: String) -> ConfigErrors {
        ConfigErrors(vec![ConfigError { file: file.to_path_buf(), line: None, message }])
    }

    /// One fault on a known line.
    pub(super) fn of_line(file: &Path, line: usize, message: String) -> ConfigErrors {
        ConfigErrors(vec![ConfigError { file: file.to_path_buf(), line: Some(line), message }])
    }

    /// Faults of several files; `None` if there are none.
    pub(super) fn of_files(faults: Vec<ConfigError>) -> Option<ConfigErrors> {
        (!faults.is_empty()).then_some(ConfigErrors(faults))
    }

    /// The faults, one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'e> IntoIterator for &'e ConfigErrors {
    type Item = &'e ConfigError;
    type IntoIter = std::slice::Iter<'e, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Ends of the lines of a text, so that many faults do not rescan it.
pub(super) struct Lines {
    newlines: Vec<usize>,
    /// The text's last byte: its end belongs to its last line, not to the empty one after it.
    last: usize,
}

impl Lines {
    pub(super) fn of(text: &str) -> Lines {
        let newlines = text.match_indices('\n').map(|(at, _)| at).collect();
        Lines { newlines, last: text.len().saturating_sub(1) }
    }

    /// The line of byte `at`, starting at 1.
    pub(super) fn number(&self, at: usize) -> usize {
        let at = at.min(self.last);
        1 + self.newlines.partition_point(|newline| *newline < at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_text_belongs_to_its_last_line() {
        assert_eq!(Lines::of("").number(0), 1);
        assert_eq!(Lines::of("a\nb\n").number(0), 1);
        assert_eq!(Lines::of("a\nb\n").number(1), 1);
        assert_eq!(Lines::of("a\nb\n").number(2), 2);
        assert_eq!(Lines::of("a\nb\n").number(4), 2);
        assert_eq!(Lines::of("a\nb").number(3), 2);
    }

    #[test]
    fn past_a_hundred_faults_are_only_counted() {
        let faults =
            (0..LISTED + 7).map(|at| Fault { at, message: format!("fault {at}") }).collect();
        let errors = ConfigErrors::new(Path::new("/f"), &Lines::of("text"), faults);
        assert_eq!(errors.iter().count(), LISTED + 1);
        assert!(errors.to_string().ends_with("\n/f: 7 further faults not listed"), "{errors}");
    }
}

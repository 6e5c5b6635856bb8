//! Output of a command as lines in their final state on a terminal.
//!
//! A carriage return moves to the beginning of the line, and later text overwrites it: of a
//! progress display only the last state remains.

/// Maximum length of a line, in bytes; a longer one is split.
const LINE: usize = 64 * 1024;

/// The incomplete line.
#[derive(Default)]
pub(super) struct Lines {
    line: String,
    /// The next character overwrites the beginning of the line.
    returned: bool,
}

impl Lines {
    /// Appends output; returns the completed lines.
    pub(super) fn push(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for part in text.split_inclusive(['\n', '\r']) {
            let printed = part.trim_end_matches(['\n', '\r']);
            if !printed.is_empty() {
                if std::mem::take(&mut self.returned) {
                    self.line.clear();
                }
                self.line.push_str(printed);
            }
            if part.ends_with('\n') || self.line.len() > LINE {
                self.returned = false;
                lines.push(std::mem::take(&mut self.line));
            } else if part.ends_with('\r') {
                self.returned = true;
            }
        }
        lines
    }

    /// Content of the incomplete line.
    pub(super) fn state(&self) -> &str {
        &self.line
    }

    /// Ends the incomplete line.
    pub(super) fn end(&mut self) -> Option<String> {
        self.returned = false;
        Some(std::mem::take(&mut self.line)).filter(|line| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_folds_to_its_last_state_for_any_reads() {
        let text = "a\n\n10%\r20%\r\rdone\r\nb\r\nover\rwrite\n100%\r";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let parts: Vec<&str> = (0..text.len())
                .step_by(size)
                .map(|at| &text[at..text.len().min(at + size)])
                .collect();
            let all: Vec<String> = parts.iter().flat_map(|part| lines.push(part)).collect();
            assert_eq!(all, ["a", "", "done", "b", "write"], "reads of {size}");
            assert_eq!(lines.state(), "100%");
            lines.push("x");
            assert_eq!(lines.end().as_deref(), Some("x"));
            assert_eq!(lines.end(), None);
        }
    }

    #[test]
    fn line_without_end_is_bounded() {
        let mut lines = Lines::default();
        let taken = (0..1000).map(|_| lines.push(&"x".repeat(1000)).len()).sum::<usize>();
        assert!(taken >= 14 && lines.state().len() <= LINE, "{taken}");
    }
}

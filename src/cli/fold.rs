//! Output of a command as lines, as they stand on a terminal in the end.
//!
//! A carriage return goes back to the beginning of the line, and what is printed behind it takes the
//! place of what stands there: of a progress only its last state is left.

/// The longest line, in bytes; what is longer becomes several.
const LINE: usize = 64 * 1024;

/// The line that is not complete.
#[derive(Default)]
pub(super) struct Lines {
    line: String,
    /// The next character is printed at the beginning of the line.
    returned: bool,
}

impl Lines {
    /// Takes output; the lines that it completes.
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

    /// What the line that is not complete shows.
    pub(super) fn state(&self) -> &str {
        &self.line
    }

    /// Ends the line that is not complete.
    pub(super) fn end(&mut self) -> Option<String> {
        self.returned = false;
        Some(std::mem::take(&mut self.line)).filter(|line| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_folds_to_its_last_state_whatever_the_reads() {
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

//! Lines on a terminal, and a foot of lines that are redrawn.
//!
//! The foot is erased before anything else is written, and redrawn below it; the cursor stands on
//! the line after it. A line of the foot is never wider than the terminal. If the terminal becomes
//! narrower, some terminals wrap such a line and some cut it, so the number of rows to erase is
//! unknown: then the screen is redrawn from the most recent lines.

use std::collections::VecDeque;

use super::columns::{columns, cut};
use super::terminal::Terminal;

/// Maximum number of lines of the foot; also at most half of the rows.
const FOOT: usize = 8;
/// Lines stored for a redraw, and maximum bytes of each.
const RECENT: usize = 200;
const LONGEST: usize = 4096;

/// Returns the current rows and columns of the terminal, if known.
pub(super) type Size = fn() -> Option<(usize, usize)>;

/// A terminal or a pipe.
pub(super) struct Canvas {
    size: Option<Size>,
    /// Lines are cut to the width.
    cuts: bool,
    /// Lines can be drawn over.
    has_foot: bool,
    ellipsis: &'static str,
    recent: VecDeque<String>,
    /// Columns of the lines of the foot.
    drawn: Vec<usize>,
}

impl Canvas {
    /// A pipe: lines are written unchanged.
    pub(super) fn of_pipe() -> Canvas {
        let (recent, drawn) = (VecDeque::new(), Vec::new());
        Canvas { size: None, cuts: false, has_foot: false, ellipsis: "", recent, drawn }
    }

    /// A terminal; `has_foot` states that lines can be redrawn, `cuts` that lines are cut to the
    /// width.
    pub(super) fn of_terminal(
        terminal: Terminal,
        size: Size,
        has_foot: bool,
        cuts: bool,
    ) -> Canvas {
        let ellipsis = terminal.either("…", "...");
        Canvas { size: Some(size), cuts, has_foot, ellipsis, ..Canvas::of_pipe() }
    }

    pub(super) fn has_foot(&self) -> bool {
        self.has_foot
    }

    fn size(&self) -> (usize, usize) {
        self.size.and_then(|size| size()).unwrap_or((usize::MAX, usize::MAX))
    }

    /// Maximum columns of a line: some terminals wrap in the last one.
    pub(super) fn width(&self) -> usize {
        self.size().1.saturating_sub(1)
    }

    /// Another program has written to the terminal: the foot stays where it is.
    pub(super) fn leave_foot(&mut self) {
        self.drawn.clear();
    }

    /// The text that appends `lines`, with `foot` below.
    pub(super) fn put(&mut self, lines: Vec<String>, mut foot: Vec<String>) -> String {
        let (rows, width) = (self.size().0, self.width());
        foot.truncate(FOOT.min(rows / 2));
        let mut out = match self.drawn.len() {
            0 => String::new(),
            _ if self.drawn.iter().any(|drawn| *drawn > width) => {
                self.redraw(rows.saturating_sub(1 + foot.len() + lines.len()))
            }
            drawn => format!("\r\x1b[{drawn}A\x1b[J"),
        };
        for line in lines {
            out.push_str(&self.fitted(&line));
            out.push('\n');
            if self.has_foot {
                if self.recent.len() == RECENT {
                    self.recent.pop_front();
                }
                self.recent.push_back(cut(&line, LONGEST, self.ellipsis));
            }
        }
        self.drawn.clear();
        for line in foot {
            let line = cut(&line, width, self.ellipsis);
            self.drawn.push(columns(&line));
            out.push_str(&line);
            out.push('\n');
        }
        out
    }

    fn fitted(&self, line: &str) -> String {
        let room = if self.cuts { self.width() } else { usize::MAX };
        cut(line, room, self.ellipsis)
    }

    /// The most recent lines, on an empty screen, in at most this many rows.
    fn redraw(&self, rows: usize) -> String {
        let columns_now = self.size().1.max(1);
        let mut room = rows;
        let mut shown: Vec<String> = Vec::new();
        for line in self.recent.iter().rev().map(|line| self.fitted(line)) {
            let taken = columns(&line).div_ceil(columns_now).max(1);
            if taken > room {
                break;
            }
            room -= taken;
            shown.push(line + "\n");
        }
        shown.reverse();
        format!("\x1b[H\x1b[J{}", shown.concat())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static SIZE: Cell<(usize, usize)> = const { Cell::new((24, 20)) };
    }

    fn canvas(cuts: bool) -> Canvas {
        let terminal = Terminal { colour: false, unicode: true };
        SIZE.set((24, 20));
        Canvas::of_terminal(terminal, || Some(SIZE.get()), true, cuts)
    }

    fn put(canvas: &mut Canvas, lines: &[&str], foot: &[&str]) -> String {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        canvas.put(owned(lines), owned(foot))
    }

    #[test]
    fn foot_is_wiped_before_lines_and_drawn_beneath_them() {
        let mut canvas = canvas(true);
        assert_eq!(put(&mut canvas, &["a"], &[]), "a\n");
        assert_eq!(put(&mut canvas, &[], &["1", "2"]), "1\n2\n");
        assert_eq!(put(&mut canvas, &["b"], &["3"]), "\r\x1b[2A\x1b[Jb\n3\n");
        assert_eq!(put(&mut canvas, &[], &[]), "\r\x1b[1A\x1b[J");
        assert_eq!(put(&mut canvas, &["c"], &["4"]), "c\n4\n");
        canvas.leave_foot();
        assert_eq!(put(&mut canvas, &[], &["5"]), "5\n");
    }

    #[test]
    fn lines_are_cut_to_the_width_unless_all_is_wanted() {
        let long = "x".repeat(30);
        let cut = format!("{}…\n", "x".repeat(18));
        assert_eq!(put(&mut canvas(true), &[&long], &[&long]), format!("{cut}{cut}"));
        assert_eq!(put(&mut canvas(false), &[&long], &[&long]), format!("{long}\n{cut}"));
        assert_eq!(put(&mut Canvas::of_pipe(), &[&long], &[]), format!("{long}\n"));
    }

    #[test]
    fn narrower_terminal_is_drawn_anew_and_a_wider_one_is_not() {
        let mut canvas = canvas(true);
        put(&mut canvas, &["first", "second line of it"], &["foot of 12 c"]);
        SIZE.set((24, 40));
        assert_eq!(put(&mut canvas, &[], &["foot of 12 c"]), "\r\x1b[1A\x1b[Jfoot of 12 c\n");
        SIZE.set((5, 10));
        assert_eq!(
            put(&mut canvas, &["third"], &["foot of 12 c"]),
            "\x1b[H\x1b[Jfirst\nsecond l…\nthird\nfoot of …\n"
        );
        // No more than there is room for.
        SIZE.set((4, 5));
        assert_eq!(put(&mut canvas, &[], &["foot"]), "\x1b[H\x1b[Jsec…\nthi…\nfoot\n");
    }

    #[test]
    fn foot_takes_half_of_the_rows_at_most() {
        let mut canvas = canvas(true);
        let many: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        assert_eq!(canvas.put(Vec::new(), many.clone()).lines().count(), FOOT);
        SIZE.set((6, 20));
        assert_eq!(canvas.put(Vec::new(), many).lines().count(), 3);
        for number in 0..2 * RECENT {
            canvas.put(vec![number.to_string()], Vec::new());
        }
        assert_eq!(canvas.recent.len(), RECENT);
    }
}

//! Events for a person: one line each, in columns, with a job's output below its job.
//!
//! Deterministic, so that every line can be tested: frames go in, text comes out, and the clock is
//! an argument. Foreign text is escaped (see [`escape`]).

use std::time::SystemTime;

use serde_json::Value;

use super::bars::{Bars, Width};
use super::escape;
use super::job::{JobEvent, JobOutput, State};
use super::state::{self, Shown};
use super::terminal::{Terminal, Tone};
use crate::sys::local_time::LocalTime;
use crate::wire::parse_rfc3339;

/// Maximum width of the second column: `1 - Information`.
const STATE_WIDTH: usize = 15;
/// Bounds of the width of the third column, which grows with its content.
const NAME_WIDTH: std::ops::RangeInclusive<usize> = 8..=28;
/// Maximum number of jobs whose output is tracked; beyond it the oldest is dropped, and its output
/// is repeated when it finishes.
const JOBS: usize = 1024;

/// Converts a time to local time; `None` where there is no calendar for it.
pub(super) type Clock = fn(SystemTime) -> Option<LocalTime>;

/// State of the display.
pub(super) struct Screen {
    terminal: Terminal,
    clock: Clock,
    name_width: usize,
    /// Date of the last line.
    day: Option<(i32, u8, u8)>,
    /// Position of the cursor.
    cursor: Cursor,
    jobs: Vec<Job>,
    /// The last state of the system.
    state: Option<Value>,
    /// Progress bars of replications, where the terminal supports them.
    bars: Option<Bars>,
}

struct Job {
    id: String,
    output: JobOutput,
    /// The command that was last announced, and the number of ended commands at that time.
    announced: Option<(String, usize)>,
}

enum Cursor {
    /// At the beginning of an unrelated line.
    Free,
    /// Below the output of a command of a job.
    Output { id: String, command: String, midway: bool },
}

/// The columns of a line.
struct Line<'a> {
    moment: SystemTime,
    tone: Tone,
    state: &'a str,
    name: &'a str,
    text: &'a str,
}

impl Screen {
    pub(super) fn new(terminal: Terminal, clock: Clock) -> Screen {
        let (name_width, cursor) = (*NAME_WIDTH.start(), Cursor::Free);
        let (day, jobs, state, bars) = (None, Vec::new(), None, None);
        Screen { terminal, clock, name_width, day, cursor, jobs, state, bars }
    }

    /// The same for a terminal that supports progress bars, of the width returned by `width`.
    pub(super) fn with_bars(self, width: Width) -> Screen {
        Screen { bars: Some(Bars::new(width)), ..self }
    }

    /// The text that shows `frame`. `now` is for events without a time.
    pub(super) fn show(&mut self, frame: &Value, now: SystemTime) -> String {
        self.above_bars(now, |screen, out| screen.event(out, frame, now))
    }

    /// The text that shows a message of this program.
    pub(super) fn remark(&mut self, text: &str, now: SystemTime) -> String {
        self.above_bars(now, |screen, out| {
            let text = screen.harmless(text);
            let (tone, state) = (Tone::Quiet, "watch");
            screen.line(out, &Line { moment: now, tone, state, name: "", text: &text });
        })
    }

    /// Runs `show` with the bars erased before and redrawn after it.
    fn above_bars(&mut self, now: SystemTime, show: impl FnOnce(&mut Self, &mut String)) -> String {
        let mut out = self.bars.as_mut().map(Bars::wipe).unwrap_or_default();
        show(self, &mut out);
        // There is no room for bars below an unfinished line.
        let midway = matches!(self.cursor, Cursor::Output { midway: true, .. });
        if let (Some(bars), false) = (&mut self.bars, midway) {
            out.push_str(&bars.draw(self.terminal, now));
        }
        out
    }

    fn event(&mut self, out: &mut String, frame: &Value, now: SystemTime) {
        let args = &frame["args"];
        // An end that is reported later has its own time.
        let ended = args.get("process_details").unwrap_or(args)["time_finished"].as_str();
        let ended = ended.filter(|_| frame["present"] == true);
        let moment = ended.or(frame["time"].as_str()).and_then(parse_rfc3339).unwrap_or(now);
        match frame["name"].as_str().unwrap_or("") {
            "dispatcher" => match JobEvent::read(args) {
                Some(event) => self.job(out, &event, &frame["output"], moment),
                None => self.unknown(out, frame, moment),
            },
            "life_preserver" | "life-preserver" => self.life_preserver(out, args, moment, now),
            "system_state" | "system-state" => self.system_state(out, args, moment),
            "gap" => self.gap(out, args, moment),
            _ => self.unknown(out, frame, moment),
        }
    }

    /// Whether the cursor is in the middle of a line.
    pub(super) fn is_midway(&self) -> bool {
        matches!(self.cursor, Cursor::Output { midway: true, .. })
    }

    /// The text that moves the cursor to the beginning of a line.
    pub(super) fn end(&mut self) -> String {
        let mut out = String::new();
        if self.bars.take().is_some_and(|bars| bars.are_drawn()) {
            out.push('\n');
        }
        self.leave_output(&mut out);
        out
    }

    fn job(&mut self, out: &mut String, event: &JobEvent<'_>, ranges: &Value, moment: SystemTime) {
        let mut job = self.take_job(event.id);
        let fresh = job.output.fresh(event, ranges);
        match event.state {
            State::Pending => {
                job.output = JobOutput::default();
                let (sign, chain) = (self.terminal.either("○", "-"), event.commands.join(" && "));
                self.job_line(
                    out,
                    event.id,
                    moment,
                    Tone::Waiting,
                    &format!("{sign} pending"),
                    &chain,
                );
            }
            State::Running => {
                let current = event.current().unwrap_or("");
                let announcement = Some((current.to_owned(), event.codes().len()));
                let mut begins = job.announced != announcement;
                for (command, text) in &fresh {
                    if *command == current && begins {
                        self.announce(out, event, moment);
                        begins = false;
                    }
                    self.output(out, event.id, command, text, moment);
                }
                if begins {
                    self.announce(out, event, moment);
                }
                job.announced = announcement;
            }
            State::Finished => {
                for (command, text) in &fresh {
                    self.output(out, event.id, command, text, moment);
                }
                let verdict = event.verdict();
                let (tone, sign) = if verdict.good {
                    (Tone::Good, self.terminal.either("✔", "+"))
                } else {
                    (Tone::Bad, self.terminal.either("✖", "x"))
                };
                self.job_line(
                    out,
                    event.id,
                    moment,
                    tone,
                    &format!("{sign} finished"),
                    &verdict.how,
                );
                return;
            }
        }
        if self.jobs.len() == JOBS {
            self.jobs.remove(0);
        }
        self.jobs.push(job);
    }

    fn take_job(&mut self, id: &str) -> Job {
        match self.jobs.iter().position(|job| job.id == id) {
            Some(at) => self.jobs.remove(at),
            None => Job { id: id.to_owned(), output: JobOutput::default(), announced: None },
        }
    }

    /// Announces a command that begins.
    fn announce(&mut self, out: &mut String, event: &JobEvent<'_>, moment: SystemTime) {
        let current = event.current().unwrap_or("");
        let (number, of) = (event.codes().len() + 1, event.commands.len());
        let text = if of > 1 { format!("[{number}/{of}] {current}") } else { current.to_owned() };
        let state = format!("{} running", self.terminal.either("▶", ">"));
        self.job_line(out, event.id, moment, Tone::Active, &state, &text);
        let command = current.to_owned();
        self.cursor = Cursor::Output { id: event.id.to_owned(), command, midway: false };
    }

    fn job_line(
        &mut self,
        out: &mut String,
        id: &str,
        moment: SystemTime,
        tone: Tone,
        state: &str,
        text: &str,
    ) {
        let (name, text) = (self.harmless(id), self.harmless(text));
        self.line(out, &Line { moment, tone, state, name: &name, text: &text });
    }

    /// Output of a command, below a line with its job and command.
    fn output(
        &mut self,
        out: &mut String,
        id: &str,
        command: &str,
        text: &str,
        moment: SystemTime,
    ) {
        let continues = match &self.cursor {
            Cursor::Output { id: before, command: known, .. } => before == id && known == command,
            Cursor::Free => false,
        };
        if !continues {
            let state = format!("{} output", self.terminal.either("▷", ":"));
            self.job_line(out, id, moment, Tone::Quiet, &state, command);
        }
        let mut midway = matches!(self.cursor, Cursor::Output { midway: true, .. });
        for line in escape::text(text, self.terminal.unicode).split_inclusive('\n') {
            if !midway {
                out.push_str(&self.margin());
            }
            out.push_str(line);
            midway = !line.ends_with('\n');
        }
        self.cursor = Cursor::Output { id: id.to_owned(), command: command.to_owned(), midway };
    }

    fn life_preserver(
        &mut self,
        out: &mut String,
        args: &Value,
        moment: SystemTime,
        now: SystemTime,
    ) {
        if let Some(bars) = &mut self.bars {
            let message = args["message"].as_str().unwrap_or("");
            if args["class"] == "replication" && bars.take(message, now) {
                self.leave_output(out);
                return;
            }
            bars.end(message);
        }
        let priority = self.harmless(args["priority"].as_str().unwrap_or("?"));
        let class = self.harmless(args["class"].as_str().unwrap_or(""));
        let message = args["message"].as_str().unwrap_or("");
        let mut lines =
            message.lines().map(|line| self.harmless(line)).collect::<Vec<_>>().into_iter();
        let text = lines.next().unwrap_or_default();
        let tone = tone(&priority);
        self.line(out, &Line { moment, tone, state: &priority, name: &class, text: &text });
        for line in lines {
            out.push_str(&self.margin());
            out.push_str(&line);
            out.push('\n');
        }
    }

    fn system_state(&mut self, out: &mut String, args: &Value, moment: SystemTime) {
        let priority = self.harmless(args["priority"].as_str().unwrap_or("?"));
        let host = self.harmless(args["hostname"].as_str().unwrap_or("?"));
        let Shown { text, pools } = state::news(self.state.as_ref(), args, self.terminal);
        self.state = Some(args.clone());
        let width = |column: usize| {
            pools.iter().map(|pool| pool[column].chars().count()).max().unwrap_or(0)
        };
        let widths: [usize; 5] = std::array::from_fn(width);
        let mut rows = pools.iter().map(|[name, health, priority, capacity, status]| {
            let tone = tone(priority);
            let priority = format!("{priority:<0$}", widths[2]);
            let priority = self.terminal.paint(tone, &priority);
            let row = format!(
                "{name:<0$}  {health:<1$}  {priority}  {capacity:<2$}  {status}",
                widths[0], widths[1], widths[3],
            );
            row.trim_end().to_owned()
        });
        // A single pool needs no heading.
        let text = if text.is_empty() { rows.next().unwrap_or_default() } else { text };
        let rows: Vec<String> = rows.collect();
        let line =
            Line { moment, tone: tone(&priority), state: &priority, name: &host, text: &text };
        self.line(out, &line);
        for row in rows {
            out.push_str(&self.margin());
            out.push_str(&row);
            out.push('\n');
        }
    }

    fn gap(&mut self, out: &mut String, args: &Value, moment: SystemTime) {
        self.bars.iter_mut().for_each(Bars::miss);
        let text = match args["missed"].as_u64() {
            Some(1) => "1 event was missed".to_owned(),
            Some(missed) => format!("{missed} events were missed"),
            None => "the daemon was started anew; what was missed is not known".to_owned(),
        };
        let line = Line { moment, tone: Tone::Warning, state: "gap", name: "", text: &text };
        self.line(out, &line);
    }

    /// An unknown event of a newer daemon: shown as JSON rather than not at all.
    fn unknown(&mut self, out: &mut String, frame: &Value, moment: SystemTime) {
        let name = self.harmless(frame["name"].as_str().unwrap_or("?"));
        let text = self.harmless(&frame["args"].to_string());
        self.line(
            out,
            &Line { moment, tone: Tone::Plain, state: "event", name: &name, text: &text },
        );
    }

    fn line(&mut self, out: &mut String, line: &Line<'_>) {
        self.leave_output(out);
        let local = (self.clock)(line.moment);
        let day = local.map(|local| (local.year, local.month, local.day));
        if let (Some(before), Some((year, month, date))) = (self.day, day)
            && before != (year, month, date)
        {
            let text = format!("--- {year}-{month:02}-{date:02} ---");
            out.push_str(&self.terminal.paint(Tone::Quiet, &text));
            out.push('\n');
        }
        self.day = day.or(self.day);
        let time = local.map_or_else(
            || "--:--:--".to_owned(),
            |local| format!("{:02}:{:02}:{:02}", local.hour, local.minute, local.second),
        );
        let length = line.name.chars().count();
        self.name_width = self.name_width.max(length.min(*NAME_WIDTH.end()));
        let state = format!("{:<STATE_WIDTH$}", line.state);
        let name = format!("{1:<0$}", self.name_width, line.name);
        out.push_str(&self.terminal.paint(Tone::Quiet, &time));
        let rest = format!("  {}  {name}  {}", self.terminal.paint(line.tone, &state), line.text);
        out.push_str(rest.trim_end());
        out.push('\n');
    }

    fn leave_output(&mut self, out: &mut String) {
        if matches!(self.cursor, Cursor::Output { midway: true, .. }) {
            out.push('\n');
        }
        self.cursor = Cursor::Free;
    }

    /// The margin of a line that continues the one above: the column of the time stays empty.
    fn margin(&self) -> String {
        let bar = self.terminal.either("          │ ", "          | ");
        self.terminal.paint(Tone::Quiet, bar)
    }

    fn harmless(&self, text: &str) -> String {
        escape::line(text, self.terminal.unicode)
    }
}

/// By the number at the beginning of a priority (protocol section 2.4).
fn tone(priority: &str) -> Tone {
    let digits = priority.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    match digits.parse::<u8>() {
        Ok(0..=2) => Tone::Good,
        Ok(3..=5) => Tone::Warning,
        Ok(6..=8) => Tone::Bad,
        Ok(_) => Tone::Urgent,
        Err(_) => Tone::Plain,
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;

//! Events for a person: a line for each, and one for each line of a job's output.
//!
//! Deterministic, so that every line can be tested: frames go in, text comes out, and the clock is
//! an argument. Foreign text is escaped (see [`escape`]).

use std::time::SystemTime;

use serde_json::Value;

use super::bars::Bars;
use super::canvas::Canvas;
use super::columns::{columns, cut, expand_tabs, pad};
use super::escape;
use super::fold::Lines;
use super::job::{JobEvent, JobOutput, State};
use super::state::{self, Shown};
use super::terminal::{Terminal, Tone};
use crate::sys::local_time::LocalTime;
use crate::wire::parse_rfc3339;

/// Maximum width of the column of names.
const NAME: usize = 24;
/// Columns of time and sign, before the name.
const MARGIN: &str = "            ";
/// Maximum number of jobs whose output is tracked; beyond it the oldest is dropped, and its output
/// is repeated when it finishes.
const JOBS: usize = 1024;

/// Conversion of a moment for display: local time, or `None` where there is no calendar for it.
pub(super) type Clock = fn(SystemTime) -> Option<LocalTime>;

/// State of the display.
pub(super) struct Screen {
    terminal: Terminal,
    clock: Clock,
    canvas: Canvas,
    has_output: bool,
    /// Columns of the widest host name; 0 where all events are of one host.
    host_width: usize,
    /// The host of the current event.
    host: String,
    name_width: usize,
    /// Date of the last line.
    day: Option<(i32, u8, u8)>,
    jobs: Vec<Job>,
    /// The last state of each host.
    states: Vec<(String, Value)>,
    /// Running replications.
    bars: Bars,
    /// Lines of the current event.
    lines: Vec<String>,
}

struct Job {
    host: String,
    id: String,
    output: JobOutput,
    /// The command that printed last, and its incomplete line.
    printing: usize,
    line: Lines,
    /// Number of commands that were shown.
    announced: usize,
    /// Nothing of it was shown before this event.
    is_new: bool,
}

impl Screen {
    pub(super) fn new(terminal: Terminal, clock: Clock, canvas: Canvas) -> Screen {
        Screen {
            terminal,
            clock,
            canvas,
            has_output: true,
            host_width: 0,
            host: String::new(),
            name_width: 0,
            day: None,
            jobs: Vec::new(),
            states: Vec::new(),
            bars: Bars::default(),
            lines: Vec::new(),
        }
    }

    /// The same without output of jobs.
    pub(super) fn without_output(self) -> Screen {
        Screen { has_output: false, ..self }
    }

    /// The same for several hosts, whose names have at most this many columns.
    pub(super) fn with_hosts(self, width: usize) -> Screen {
        Screen { host_width: width, ..self }
    }

    /// Whether lines of the foot are redrawn.
    pub(super) fn has_foot(&self) -> bool {
        self.canvas.has_foot()
    }

    /// The text that shows an event of a host. `now` is for events without a time.
    pub(super) fn show(&mut self, host: &str, frame: &Value, now: SystemTime) -> String {
        host.clone_into(&mut self.host);
        self.event(frame, now);
        self.redraw(now)
    }

    /// The text that shows a message of this program.
    pub(super) fn remark(&mut self, host: &str, text: &str, now: SystemTime) -> String {
        host.clone_into(&mut self.host);
        let (sign, text) = (self.terminal.either("·", "-"), self.harmless(text));
        self.line(now, Tone::Quiet, sign, "", &text);
        self.redraw(now)
    }

    /// The text that redraws the foot for the current size of the terminal.
    pub(super) fn redraw(&mut self, now: SystemTime) -> String {
        let lines = std::mem::take(&mut self.lines);
        let foot = if self.has_foot() { self.foot(now) } else { Vec::new() };
        self.canvas.put(lines, foot)
    }

    /// Another program has written to the terminal.
    pub(super) fn resume(&mut self, now: SystemTime) -> String {
        self.canvas.leave_foot();
        self.redraw(now)
    }

    /// The text at the end: incomplete lines that are not in the foot.
    pub(super) fn end(&mut self, now: SystemTime) -> String {
        if self.has_foot() {
            return String::new();
        }
        for mut job in std::mem::take(&mut self.jobs) {
            job.host.clone_into(&mut self.host);
            self.end_line(&mut job);
        }
        self.redraw(now)
    }

    fn foot(&mut self, now: SystemTime) -> Vec<String> {
        let mut foot = self.bars.lines(self.terminal, now);
        for job in self.jobs.iter().filter(|job| !job.line.state().is_empty()) {
            let sign = self.terminal.either("▶", ">");
            let name =
                self.terminal.paint(Tone::Active, &format!("{sign} {}", self.harmless(&job.id)));
            let bar = self.terminal.either("│", "|");
            let text = expand_tabs(&escape::text(job.line.state(), self.terminal.unicode));
            foot.push(format!("{}{name} {bar} {text}", self.prefix(&job.host)));
        }
        foot
    }

    fn event(&mut self, frame: &Value, now: SystemTime) {
        let args = &frame["args"];
        let is_present = frame["present"] == true;
        // An end that is reported later has its own time.
        let ended = args.get("process_details").unwrap_or(args)["time_finished"].as_str();
        let ended = ended.filter(|_| is_present);
        let moment = ended.or(frame["time"].as_str()).and_then(parse_rfc3339).unwrap_or(now);
        match frame["name"].as_str().unwrap_or("") {
            "dispatcher" => match JobEvent::read(args) {
                Some(event) => self.job(&event, &frame["output"], is_present, moment),
                None => self.unknown(frame, moment),
            },
            "life_preserver" | "life-preserver" => self.life_preserver(args, moment, now),
            "system_state" | "system-state" => self.system_state(args, moment),
            "alert" => self.alert(args, moment),
            "notice" => self.life_preserver(args, moment, now),
            "gap" => self.gap(args, moment),
            _ => self.unknown(frame, moment),
        }
    }

    fn job(&mut self, event: &JobEvent<'_>, ranges: &Value, is_present: bool, moment: SystemTime) {
        let mut job = self.take_job(event.id);
        let fresh = job.output.fresh(event, ranges);
        let (name, of) = (self.harmless(event.id), event.commands.len());
        // For a job that ended unwatched the end suffices; its output is in its log.
        let shows_output = !(job.is_new && is_present && event.state == State::Finished);
        for (command, text) in &fresh {
            if shows_output {
                self.announce(&mut job, event, *command, moment);
                self.output(&mut job, *command, text);
            }
        }
        match event.state {
            State::Pending => {
                job = Job { is_new: false, ..Job::new(&self.host, event.id) };
                let sign = self.terminal.either("○", "-");
                let text =
                    if of == 1 { "pending".to_owned() } else { format!("pending: {of} commands") };
                self.line(moment, Tone::Waiting, sign, &name, &text);
            }
            State::Running => self.announce(&mut job, event, event.current_index(), moment),
            State::Finished => {
                if let Some(last) = event.codes().len().checked_sub(1).filter(|_| !job.is_new) {
                    self.announce(&mut job, event, last, moment);
                }
                self.end_line(&mut job);
                let verdict = event.verdict();
                let (tone, sign) = if verdict.good {
                    (Tone::Good, self.terminal.either("✔", "+"))
                } else {
                    (Tone::Bad, self.terminal.either("✖", "x"))
                };
                let mut text = verdict.how;
                if job.announced == 0 && !text.starts_with('[') {
                    text = format!("{text}: {}", event.commands.join(" && "));
                }
                let text = self.harmless(&text);
                self.line(moment, tone, sign, &name, &text);
                return;
            }
        }
        job.is_new = false;
        if self.jobs.len() == JOBS {
            self.jobs.remove(0);
        }
        self.jobs.push(job);
    }

    fn take_job(&mut self, id: &str) -> Job {
        match self.jobs.iter().position(|job| job.id == id && job.host == self.host) {
            Some(at) => self.jobs.remove(at),
            None => Job::new(&self.host, id),
        }
    }

    /// Shows the start of a command once, and for a followed job those before it: their own events
    /// may have been coalesced with this one.
    fn announce(&mut self, job: &mut Job, event: &JobEvent<'_>, index: usize, moment: SystemTime) {
        let of = event.commands.len();
        let first = if job.is_new { index.max(job.announced) } else { job.announced };
        for at in first..of.min(index + 1) {
            self.end_line(job);
            let command = event.commands.get(at).copied().unwrap_or_default();
            let text = match of {
                1 => self.harmless(command),
                of => format!("[{}/{of}] {}", at + 1, self.harmless(command)),
            };
            let (sign, name) = (self.terminal.either("▶", ">"), self.harmless(event.id));
            self.line(moment, Tone::Active, sign, &name, &text);
        }
        job.announced = job.announced.max(index + 1);
    }

    fn output(&mut self, job: &mut Job, command: usize, text: &str) {
        if !self.has_output {
            return;
        }
        if std::mem::replace(&mut job.printing, command) != command {
            self.end_line(job);
        }
        for line in job.line.push(text) {
            self.output_line(&job.id, &escape::text(&line, self.terminal.unicode));
        }
    }

    /// Shows the incomplete line before other text follows.
    fn end_line(&mut self, job: &mut Job) {
        if let Some(line) = job.line.end() {
            self.output_line(&job.id, &escape::text(&line, self.terminal.unicode));
        }
    }

    fn life_preserver(&mut self, args: &Value, moment: SystemTime, now: SystemTime) {
        let message = args["message"].as_str().unwrap_or("");
        if self.has_foot() {
            if args["class"] == "replication" && self.bars.take(&self.host, message, now) {
                return;
            }
            self.bars.end(&self.host, message);
        }
        let (tone, sign, word) = self.priority(args);
        let class = args["class"].as_str().unwrap_or("");
        let mut lines = message.lines();
        let text = format!("{word}{}", self.harmless(lines.next().unwrap_or_default()));
        self.line(moment, tone, &sign, &self.harmless(class), &text);
        for line in lines {
            let line = self.harmless(line);
            self.output_line(class, &line);
        }
    }

    fn system_state(&mut self, args: &Value, moment: SystemTime) {
        let host = args["hostname"].as_str().unwrap_or("?");
        let known = self.states.iter().position(|(of, _)| *of == self.host);
        let before = known.map(|at| self.states.swap_remove(at).1);
        let Shown { text, pools } = state::news(before.as_ref(), args, self.terminal);
        self.states.push((self.host.clone(), args.clone()));
        let mut widths = [0; 5];
        for pool in &pools {
            for (width, cell) in widths.iter_mut().zip(pool) {
                *width = columns(cell).max(*width);
            }
        }
        let [of_name, of_health, of_priority, of_capacity, _] = widths;
        let mut rows = pools.iter().map(|[name, health, priority, capacity, status]| {
            let tone = tone(priority);
            let priority = self.terminal.paint(tone, &pad(priority, of_priority));
            let [name, health, capacity] =
                [(name, of_name), (health, of_health), (capacity, of_capacity)]
                    .map(|(cell, width)| pad(cell, width));
            format!("{name}  {health}  {priority}  {capacity}  {status}").trim_end().to_owned()
        });
        // A single pool needs no heading.
        let text = if text.is_empty() { rows.next().unwrap_or_default() } else { text };
        let rows: Vec<String> = rows.collect();
        let (tone, sign, word) = self.priority(args);
        self.line(moment, tone, &sign, &self.harmless(host), &format!("{word}{text}"));
        for row in rows {
            self.output_line(host, &row);
        }
    }

    fn alert(&mut self, args: &Value, moment: SystemTime) {
        let text = |name: &str| args[name].as_str().unwrap_or("?").to_owned();
        let (tone, sign, word) = self.priority(args);
        let (state, message) = (text("state"), text("message"));
        let tone = if state == "cleared" { Tone::Good } else { tone };
        let shown = format!("{word}{}", self.harmless(&format!("{state}: {message}")));
        self.line(moment, tone, &sign, &self.harmless(&text("key")), &shown);
    }

    fn gap(&mut self, args: &Value, moment: SystemTime) {
        self.bars.miss(&self.host);
        let text = match args["missed"].as_u64() {
            Some(1) => "1 event was missed".to_owned(),
            Some(missed) => format!("{missed} events were missed"),
            None => "the daemon was started anew; what was missed is not known".to_owned(),
        };
        self.line(moment, Tone::Warning, "!", "", &text);
    }

    /// An unknown event of a newer daemon: shown as JSON rather than not at all.
    fn unknown(&mut self, frame: &Value, moment: SystemTime) {
        let name = self.harmless(frame["name"].as_str().unwrap_or("?"));
        let text = self.harmless(&frame["args"].to_string());
        self.line(moment, Tone::Plain, "?", &name, &text);
    }

    /// Tone, sign and word of an event with a priority: `7 - Critical`.
    fn priority(&self, args: &Value) -> (Tone, String, String) {
        let priority = args["priority"].as_str().unwrap_or("?");
        let (number, word) = priority.split_once(" - ").unwrap_or((priority, ""));
        let tone = tone(priority);
        let is_quiet = word.is_empty() || matches!(tone, Tone::Good | Tone::Plain);
        let word = if is_quiet { String::new() } else { format!("{}: ", self.harmless(word)) };
        (tone, self.harmless(number), word)
    }

    /// A line of an event: time, sign, name and text, which must be escaped.
    fn line(&mut self, moment: SystemTime, tone: Tone, sign: &str, name: &str, text: &str) {
        let local = (self.clock)(moment);
        let day = local.map(|local| (local.year, local.month, local.day));
        if let (Some(before), Some((year, month, date))) = (self.day, day)
            && before != (year, month, date)
        {
            let text = format!("--- {year}-{month:02}-{date:02} ---");
            let line = self.prefix(&self.host) + &self.terminal.paint(Tone::Quiet, &text);
            self.lines.push(line);
        }
        self.day = day.or(self.day);
        let time = local.map_or_else(
            || "--:--:--".to_owned(),
            |local| format!("{:02}:{:02}:{:02}", local.hour, local.minute, local.second),
        );
        self.widen(columns(name));
        let (head, blanks) = match name {
            "" => (sign.to_owned(), String::new()),
            name => {
                let blanks = self.name_width.saturating_sub(columns(name));
                (format!("{sign} {name}"), pad("", blanks))
            }
        };
        let (time, head) =
            (self.terminal.paint(Tone::Quiet, &time), self.terminal.paint(tone, &head));
        let line = format!("{}{time}  {head}{blanks} {text}", self.prefix(&self.host));
        self.lines.push(line.trim_end().to_owned());
    }

    /// A line below that of an event, after its name. `text` must be escaped.
    fn output_line(&mut self, name: &str, text: &str) {
        let room = self.widest_name();
        let name = cut(&self.harmless(name), room, self.terminal.either("…", "~"));
        self.widen(columns(&name));
        let bar = self.terminal.either("│", "|");
        let name = format!("{} {bar}", pad(&name, self.name_width.min(room)));
        let name = self.terminal.paint(Tone::Quiet, &name);
        let line = format!("{}{MARGIN}{name} {}", self.prefix(&self.host), expand_tabs(text));
        self.lines.push(line.trim_end().to_owned());
    }

    /// Maximum width of aligned names: a narrow terminal needs room for more.
    fn widest_name(&self) -> usize {
        NAME.min((self.canvas.width() / 4).max(4))
    }

    /// Widens the column of names.
    fn widen(&mut self, columns: usize) {
        self.name_width = self.name_width.max(columns.min(self.widest_name()));
    }

    /// The name of a host in its column.
    fn prefix(&self, host: &str) -> String {
        match self.host_width {
            0 => String::new(),
            width => pad(&self.harmless(host), width) + "  ",
        }
    }

    fn harmless(&self, text: &str) -> String {
        escape::line(text, self.terminal.unicode)
    }
}

impl Job {
    fn new(host: &str, id: &str) -> Job {
        Job {
            host: host.to_owned(),
            id: id.to_owned(),
            output: JobOutput::default(),
            printing: 0,
            line: Lines::default(),
            announced: 0,
            is_new: true,
        }
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

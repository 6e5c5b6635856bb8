//! The rules of one program, and their application to a line.

use std::borrow::Cow;
use std::path::PathBuf;

use super::fields::{Record, begins_with_field};
use super::index::{Index, Tries};
use super::level::{Level, begins_like_failure};
use super::line::{Line, Start};
use super::template::{Captures, Template};
use super::{REASON, shorten};
use crate::pattern::{Message, Pattern, STAMP_OF_TEXT};

/// Subject of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A snapshot.
    Snapshot,
    /// A replication.
    Replication,
}

impl Class {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Class::Snapshot => "snapshot",
            Class::Replication => "replication",
        }
    }

    /// The class of the first word that belongs to one.
    fn of_words(text: &str) -> Option<Class> {
        const WORDS: [(&[u8], Class); 10] = [
            (b"snap", Class::Snapshot),
            (b"prun", Class::Snapshot),
            (b"hook", Class::Snapshot),
            (b"retention", Class::Snapshot),
            (b"repl", Class::Replication),
            (b"remote", Class::Replication),
            (b"receiv", Class::Replication),
            (b"send", Class::Replication),
            (b"endpoint", Class::Replication),
            (b"ssh", Class::Replication),
        ];
        let bytes = text.as_bytes();
        bytes.iter().enumerate().find_map(|(at, byte)| {
            if !matches!(byte | 0x20, b's' | b'p' | b'h' | b'r' | b'e') {
                return None;
            }
            let is_here = |word: &[u8]| {
                let here = bytes.get(at..at + word.len());
                here.is_some_and(|here| here.eq_ignore_ascii_case(word))
            };
            WORDS.iter().find(|(word, _)| is_here(word)).map(|(_, class)| *class)
        })
    }
}

/// Meaning of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Subject of the line.
    pub class: Class,
    /// Priority, 0 to 10.
    pub priority: u8,
    /// The text of the event.
    pub message: String,
    /// The dataset of the line, if its rule knows one.
    pub dataset: Option<String>,
    /// Start or end of a replication.
    pub run: Option<Run>,
}

/// Start or end of a replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Of this dataset, with its progress file if the line names one.
    Begin(String, Option<PathBuf>),
    /// Of this dataset.
    End(String),
    /// Of the dataset whose replication began last.
    EndLast,
}

/// The key `run` of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKey {
    /// `begin`.
    Begin,
    /// `end`.
    End,
    /// `end-last`.
    EndLast,
}

/// Matching part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matcher {
    /// A template for its message.
    Template(Template),
    /// A regular expression for the whole line.
    Pattern(Pattern),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The first match counts.
    pub matchers: Vec<Matcher>,
    /// The level that the line must have, if any.
    pub level: Option<Level>,
    /// Defaults to the set's class, or the class of the words of the line.
    pub class: Option<Class>,
    /// 0 to 10; `None` for no event.
    pub priority: Option<u8>,
    /// The text of the event.
    pub message: Message,
    /// Whether a replication begins or ends.
    pub run: Option<RunKey>,
}

/// The rules of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Name of the file, without its extension.
    pub name: String,
    /// The program's names in syslog; one may end with `*`.
    pub programs: Vec<String>,
    /// Class of events whose rule has none.
    pub class: Option<Class>,
    /// Its lines have fields.
    pub has_fields: bool,
    /// Fields for a placeholder of a message: `fs` or `filesystem` for `dataset`.
    pub aliases: Vec<(String, Vec<String>)>,
    /// Tried in this order.
    pub rules: Vec<Rule>,
    /// Errors and warnings without a rule are events.
    pub catches_all: bool,
    /// Samples of the file for [`super::samples`]; the embedded sets have none.
    pub samples: String,
}

/// Result of a rule set for a line.
pub(super) enum Verdict {
    Event(Reading),
    Ignored,
    Foreign,
    Nothing,
}

/// A line and one position where its message may begin.
struct View<'v, 'l> {
    line: &'v Line<'l>,
    start: &'v Start<'l>,
    /// The message and fields of this position, if it has its own.
    own: Option<Record<'l>>,
    /// Those of the line.
    of_line: Option<&'v Record<'l>>,
}

impl RuleSet {
    /// A set of one rule, the operator's own pattern.
    pub fn of_pattern(pattern: Pattern, class: Class, priority: u8, message: Message) -> RuleSet {
        let rule = Rule {
            matchers: vec![Matcher::Pattern(pattern)],
            level: None,
            class: Some(class),
            priority: Some(priority),
            message,
            run: None,
        };
        RuleSet { name: "match".to_owned(), rules: vec![rule], ..RuleSet::default() }
    }

    /// A placeholder of a message that cannot be filled: one that a line of the rule lacks, or that
    /// all of them lack if words stand before it.
    pub fn placeholder_without_meaning<'m>(
        &self,
        message: &'m Message,
        matchers: &[Matcher],
    ) -> Option<&'m str> {
        const ALWAYS: [&str; 4] = ["line", "text", "message", "reason"];
        let has = |matcher: &Matcher, place: &str| match matcher {
            Matcher::Pattern(pattern) => place == "line" || pattern.has_group(place),
            Matcher::Template(template) => {
                self.has_fields
                    || ALWAYS.contains(&place)
                    || template.names().any(|name| name == place)
            }
        };
        let lacks_one = |place: &&str| !matchers.iter().all(|it| has(it, place));
        let lacks_all = |place: &&str| !matchers.iter().any(|it| has(it, place));
        message
            .required_placeholders()
            .find(lacks_one)
            .or_else(|| message.placeholders().find(lacks_all))
    }

    /// Matches a line against the rules. `inner` is the message of a JSON line, `hint` the earlier
    /// line that gives a reason.
    pub(super) fn known(
        &self,
        index: &Index,
        line: &Line<'_>,
        inner: Option<&Line<'_>>,
        hint: Option<&str>,
    ) -> Verdict {
        if self.is_foreign(line) {
            return Verdict::Foreign;
        }
        if let Some(inner) = self.wrapped(line, inner) {
            return match self.known(index, inner, None, hint) {
                Verdict::Foreign => Verdict::Nothing,
                verdict => verdict,
            };
        }
        let doubtful = line.prefix.is_doubtful && !self.is_own(line);
        // JSON marks its message.
        let has_places = !doubtful && line.prefix.program.is_none() && line.json.is_none();
        let places = if has_places { line.places() } else { &[] };
        let mut tries = Tries::new(line.text);
        for start in std::iter::once(line.start(doubtful)).chain(places) {
            match self.known_at(index, (line, start), hint, &mut tries) {
                Verdict::Nothing => {}
                verdict => return verdict,
            }
        }
        match doubtful {
            true => Verdict::Foreign,
            false if index.has_patterns => self.known_as_whole(line),
            false => Verdict::Nothing,
        }
    }

    /// An error or a warning of the program.
    pub(super) fn catch_all(&self, line: &Line<'_>, inner: Option<&Line<'_>>) -> Option<Reading> {
        if !self.catches_all
            || self.is_foreign(line)
            || (line.prefix.is_doubtful && !self.is_own(line))
        {
            return None;
        }
        // Without a level of its own, the inner line has that of the outer one.
        if let Some(inner) = self.wrapped(line, inner)
            && let Some(reading) = self.catch_all(inner, None)
        {
            return Some(reading);
        }
        let view = self.view(line, line.start(false));
        let level = view.level();
        let stated = |start: &Start<'_>| {
            start.level.or(start.body.starts_with("FAILED ").then_some(Level::Error))
        };
        let places = || line.places().iter().find_map(stated);
        let level = match level {
            Some(level) => level,
            None if line.prefix.program.is_none() => places()?,
            None => return None,
        };
        let priority = match level {
            Level::Info => return None,
            Level::Warning => 3,
            Level::Error | Level::Critical => 6,
        };
        let class = self.class_of(&view);
        let has_hidden_fields = self.has_fields && line.json.is_some();
        let message = if has_hidden_fields { Message::text_and_fields() } else { Message::text() };
        let message = message.fill(&|name| self.place(name, &view, &Vec::new(), None));
        Some(Reading { class, priority, message, dataset: None, run: None })
    }

    /// The line of the program inside JSON of another: `journalctl -o json`, a container's log.
    fn wrapped<'i, 'l>(
        &self,
        line: &Line<'_>,
        inner: Option<&'i Line<'l>>,
    ) -> Option<&'i Line<'l>> {
        let json = line.json.as_ref()?;
        inner.filter(|_| !self.has_fields || json.get("msg").is_none())
    }

    fn is_own(&self, line: &Line<'_>) -> bool {
        line.program().is_some_and(|program| {
            let bare = [".pl", ".py", ".sh", ".service"]
                .iter()
                .find_map(|extension| program.strip_suffix(extension))
                .unwrap_or(program);
            self.programs.iter().any(|name| match name.strip_suffix('*') {
                Some(start) => bare.starts_with(start),
                None => bare.eq_ignore_ascii_case(name),
            })
        })
    }

    /// Whether another program certainly wrote the line.
    fn is_foreign(&self, line: &Line<'_>) -> bool {
        let is_certain = line.program().is_some() && !line.prefix.is_doubtful;
        is_certain && !self.programs.is_empty() && !self.is_own(line)
    }

    /// Matches the patterns for whole lines.
    fn known_as_whole(&self, line: &Line<'_>) -> Verdict {
        for rule in &self.rules {
            for matcher in &rule.matchers {
                if let Matcher::Pattern(pattern) = matcher
                    && let Some(matched) = pattern.captures(line.text)
                {
                    let Some(priority) = rule.priority else { return Verdict::Ignored };
                    let group = |name: &str| match name {
                        "line" => Some(Cow::Borrowed(line.text)),
                        STAMP_OF_TEXT => matched.name("stamp").map(|it| Cow::Borrowed(it.as_str())),
                        _ => matched.name(name).map(|found| Cow::Borrowed(found.as_str())),
                    };
                    let class = rule.class.or(self.class).or_else(|| Class::of_words(line.text));
                    return Verdict::Event(Reading {
                        class: class.unwrap_or(Class::Snapshot),
                        priority,
                        message: rule.message.fill(&group),
                        dataset: group("dataset").map(Cow::into_owned),
                        run: None,
                    });
                }
            }
        }
        Verdict::Nothing
    }

    fn known_at<'l>(
        &self,
        index: &Index,
        (line, start): (&Line<'l>, &Start<'l>),
        hint: Option<&str>,
        tries: &mut Tries<'_>,
    ) -> Verdict {
        // With fields, the message is a part of the body, or a field of it if it consists of
        // fields.
        let at = start.body.as_ptr() as usize - line.text.as_ptr() as usize;
        let is_logfmt =
            || self.has_fields && at >= tries.fields_end && begins_with_field(start.body);
        let mut view = None;
        if start.is_first || is_logfmt() {
            let read = self.view(line, start);
            tries.fields_end = at + read.record().map_or(0, |record| record.length);
            view = Some(read);
        }
        let message = view.as_ref().map_or(start.body, View::message);
        let candidates = index.candidates(self, &distinct(message, start), tries);
        if candidates.is_empty() {
            return Verdict::Nothing;
        }
        let view = view.unwrap_or_else(|| self.view(line, start));
        let texts = distinct(view.message(), start);
        let level = view.level();
        for number in candidates {
            let Some((rule, template)) = index.template(self, number) else { continue };
            let Some(rule) = self.rules.get(rule) else { continue };
            if rule.level.is_some() && rule.level != level {
                continue;
            }
            if tries.is_enough() {
                break;
            }
            if let Some(found) = texts.iter().find_map(|text| template.captures(text)) {
                return self.verdict(rule, &view, &found, hint);
            }
        }
        Verdict::Nothing
    }

    fn verdict(
        &self,
        rule: &Rule,
        view: &View<'_, '_>,
        found: &Captures<'_, '_>,
        hint: Option<&str>,
    ) -> Verdict {
        let Some(priority) = rule.priority else { return Verdict::Ignored };
        let place = |name: &str| self.place(name, view, found, hint);
        let own = |name: &str| place(name).map(Cow::into_owned);
        let run = match rule.run {
            Some(RunKey::Begin) => {
                let file = own("file").map(PathBuf::from);
                own("dataset").map(|dataset| Run::Begin(dataset, file))
            }
            Some(RunKey::End) => own("dataset").map(Run::End),
            Some(RunKey::EndLast) => Some(Run::EndLast),
            None => None,
        };
        let class = rule.class.unwrap_or_else(|| self.class_of(view));
        let message = rule.message.fill(&place);
        Verdict::Event(Reading { class, priority, message, dataset: own("dataset"), run })
    }

    fn class_of(&self, view: &View<'_, '_>) -> Class {
        let subsystem = view.field("subsystem").and_then(Class::of_words);
        self.class
            .or(subsystem)
            .or_else(|| Class::of_words(view.message()))
            .unwrap_or(if self.has_fields { Class::Replication } else { Class::Snapshot })
    }

    fn view<'v, 'l>(&self, line: &'v Line<'l>, start: &'v Start<'l>) -> View<'v, 'l> {
        let (mut own, mut of_line) = (None, line.json.as_ref());
        if self.has_fields && of_line.is_none() {
            match std::ptr::eq(start, line.start(false)) {
                true => of_line = Some(line.record()),
                false => own = Some(Record::of_text(start.body)),
            }
        }
        View { line, start, own, of_line }
    }

    /// Value of a placeholder of a message.
    fn place<'v>(
        &self,
        name: &str,
        view: &'v View<'_, '_>,
        found: &Captures<'_, 'v>,
        hint: Option<&'v str>,
    ) -> Option<Cow<'v, str>> {
        if let Some((_, value)) = found.iter().find(|(known, _)| *known == name) {
            return Some(bounded(name, Cow::Borrowed(*value)));
        }
        let given = match name {
            "line" => Some(Cow::Borrowed(view.line.text)),
            "text" => Some(Cow::Borrowed(view.text())),
            "message" => Some(Cow::Borrowed(view.message())),
            "stamp" => view.stamp(view.start.brackets.is_empty()),
            STAMP_OF_TEXT => view.stamp(true),
            _ => None,
        };
        let aliases = self.aliases.iter().find(|(known, _)| known == name);
        let fields = aliases.into_iter().flat_map(|(_, fields)| fields).map(String::as_str);
        given
            .or_else(|| fields.chain([name]).find_map(|field| view.field(field)).map(Cow::Borrowed))
            .or_else(|| hint.filter(|_| name == "reason").map(Cow::Borrowed))
            .map(|value| bounded(name, value))
    }
}

impl View<'_, '_> {
    fn record(&self) -> Option<&Record<'_>> {
        self.own.as_ref().or(self.of_line)
    }

    /// The message with its level words.
    fn text(&self) -> &str {
        self.line.json.as_ref().map_or(self.start.text, |json| &json.message)
    }

    /// The message alone.
    fn message(&self) -> &str {
        self.record().map_or(self.start.body, |record| &record.message)
    }

    fn field(&self, name: &str) -> Option<&str> {
        // zrepl, format human.
        let bracket = ["job", "subsystem", "span"].iter().position(|known| *known == name);
        let bracket = bracket.filter(|_| self.start.is_labelled);
        let bracket = bracket.and_then(|at| self.start.brackets.get(at)).copied();
        bracket.or_else(|| self.record()?.get(name))
    }

    fn level(&self) -> Option<Level> {
        let words = self.start.level.filter(|_| self.line.json.is_none());
        let field = || ["level", "PRIORITY", "severity"].into_iter().find_map(|it| self.field(it));
        let stated = words.or_else(|| field().and_then(Level::of_field));
        let syslog = self.line.prefix.level.filter(|_| self.start.is_first);
        match stated.or(syslog) {
            // syslogd's own level is often the same for all lines of a program.
            Some(Level::Info) | None
                if stated.is_none()
                    && self.start.is_first
                    && begins_like_failure(self.message()) =>
            {
                Some(Level::Error)
            }
            level => level,
        }
    }

    /// Text before the message; `is_whole` where the message has its brackets and level.
    fn stamp(&self, is_whole: bool) -> Option<Cow<'_, str>> {
        let text = if is_whole { self.start.text } else { self.start.body };
        let shown = self.line.prefix.shown(self.line.text, self.line.text.len() - text.len());
        if !shown.is_empty() {
            return Some(shown.into());
        }
        let time = ["time", "ts", "timestamp"].into_iter().find_map(|name| self.field(name));
        time.map(Cow::Borrowed)
    }
}

/// The texts that a template may match; usually one.
fn distinct<'t>(message: &'t str, start: &Start<'t>) -> Vec<&'t str> {
    let mut texts = vec![message];
    for text in [start.body, start.text] {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

/// A reason on one line, of bounded length.
fn bounded<'v>(name: &str, value: Cow<'v, str>) -> Cow<'v, str> {
    if name == "reason" { Cow::Owned(shorten(&value, REASON)) } else { value }
}

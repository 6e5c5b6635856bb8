//! `check --try`: the events of a log's lines according to the rules, before the daemon follows it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::exit::Exit;
use super::terminal::Terminal;
use super::{escape, write};
use crate::client::sysexits;
use crate::config::LifePreserver;
use crate::life_preserver::whole_lines;
use crate::rules::{Outcome, Reader, RuleSet, mentions_failure};
use crate::wire::Priority;
use crate::wording;

/// Only the end of a larger log is read.
const LARGEST: u64 = 64 * 1024 * 1024;

/// Totals of all lines.
#[derive(Default)]
struct Totals {
    lines: usize,
    events: usize,
    unknown: usize,
    silent: usize,
    matched: usize,
}

/// Reads the log with the rule sets of these names; without one with those of the configuration, or
/// else with the set that matches most of its lines. Returns the exit code.
pub(super) fn run(
    config: &LifePreserver,
    log: &Path,
    names: &[String],
    json: bool,
) -> Result<u8, Exit> {
    let bytes = read(log)?;
    let lines: Vec<String> = whole_lines(&bytes, config.max_line).collect();
    let sets = rule_sets(config, log, names, &lines)?;
    let set_names = sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>().join("\", \"");
    let mut reader = Reader::new(sets);
    let terminal = Terminal::of_this_process(io::stdout().is_terminal());
    let (mut totals, mut page) = (Totals::default(), String::new());
    for (number, line) in (1..).zip(&lines) {
        let outcome = reader.read(line);
        let is_silent = matches!(outcome, Outcome::Nothing) && mentions_failure(line);
        totals.lines += 1;
        totals.events += usize::from(matches!(outcome, Outcome::Known(_) | Outcome::Unknown(_)));
        totals.matched += usize::from(matches!(outcome, Outcome::Known(_) | Outcome::Ignored));
        totals.unknown += usize::from(matches!(&outcome, Outcome::Unknown(it) if it.priority > 3));
        totals.silent += usize::from(is_silent);
        let shown = if json {
            as_json(number, &outcome, is_silent, line).to_string()
        } else {
            as_text(number, &outcome, is_silent, line, terminal.unicode)
        };
        // Writing to a string does not fail.
        let _ = writeln!(page, "{shown}");
        if page.len() > 1 << 16 {
            write(&page)?;
            page.clear();
        }
    }
    write(&page)?;
    let Totals { lines, events, unknown, silent, matched } = totals;
    if json {
        let totals = json!({"rules": set_names.split("\", \"").collect::<Vec<_>>(), "lines": lines,
                          "matched": matched, "events": events, "unknown": unknown, "silent": silent});
        write(&format!("{totals}\n"))?;
    } else {
        let lines = counted(lines, "line");
        let events = counted(events, "event");
        write(&format!("\nrule \"{set_names}\": {lines}, {matched} matched, {events}\n"))?;
        if unknown > 0 {
            let what = counted(unknown, "error");
            write(&format!("{what} that no rule knows, reported by the catch-all (marked !)\n"))?;
        }
        if silent > 0 {
            let what = counted(silent, "line");
            let advice = "add a rule for what is a failure";
            write(&format!(
                "{what} that may be an error and gives nothing (marked ?): {advice}\n"
            ))?;
        }
        if matched == 0 {
            write(&format!("nothing in {lines} matched rule \"{set_names}\"\n"))?;
        }
    }
    Ok(match (unknown + silent, matched) {
        (0, 0) => 2,
        (0, _) => 0,
        _ => 1,
    })
}

fn read(log: &Path) -> Result<Vec<u8>, Exit> {
    let mut bytes = Vec::new();
    let read = match log.to_str() {
        Some("-") => io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes),
        _ => File::open(log).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)),
    };
    let shown = log.display();
    read.map_err(|error| {
        Exit::failed(sysexits::NO_INPUT, format!("cannot read {shown}: {error}"))
    })?;
    if bytes.len() as u64 > LARGEST {
        let advice = "cut it, as with \"tail -n 100000\"";
        return Err(Exit::failed(
            sysexits::NO_INPUT,
            format!("{shown} has more than 64MiB: {advice}"),
        ));
    }
    Ok(bytes)
}

fn rule_sets(
    config: &LifePreserver,
    log: &Path,
    names: &[String],
    lines: &[String],
) -> Result<Vec<Arc<RuleSet>>, Exit> {
    if !names.is_empty() {
        let named = |name: &String| {
            config.rules.named(name).map_err(|why| Exit::usage(format!("rule {name:?} {why}")))
        };
        return names.iter().map(named).collect();
    }
    let own = config.log.as_deref().filter(|own| *own == log);
    let own = own.and_then(|_| config.rules.get("lpreserver"));
    let configured = config.source.iter().filter(|source| source.log == log);
    let sets: Vec<_> = own.into_iter().chain(configured.map(|it| it.rules.clone())).collect();
    if !sets.is_empty() {
        return Ok(sets);
    }
    let known = |set: &&Arc<RuleSet>| {
        let mut reader = Reader::new(vec![Arc::clone(set)]);
        lines.iter().filter(|line| matches!(reader.read(line), Outcome::Known(_))).count()
    };
    // The first of equals.
    let best = config
        .rules
        .all()
        .map(|set| (known(&set), set))
        .reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, set)| vec![Arc::clone(set)]).ok_or_else(|| Exit::usage("there is no rule set"))
}

fn as_text(number: usize, outcome: &Outcome, is_silent: bool, line: &str, unicode: bool) -> String {
    let text = |text: &str| escape::line(text, unicode);
    match outcome {
        Outcome::Known(reading) | Outcome::Unknown(reading) => {
            let mark = match outcome {
                Outcome::Unknown(reading) if reading.priority > 3 => '!',
                _ => ' ',
            };
            let (class, priority) =
                (reading.class.name(), Priority::new(reading.priority).to_string());
            let message = reading.message.lines().map(text).collect::<Vec<_>>().join(" / ");
            format!("{number:>6} {mark} {priority:<15} {class:<11} {message}")
        }
        Outcome::Ignored => format!("{number:>6}   ignored         {}", text(line)),
        Outcome::Foreign => format!("{number:>6}   another program {}", text(line)),
        Outcome::Nothing => {
            let mark = if is_silent { '?' } else { ' ' };
            format!("{number:>6} {mark} nothing         {}", text(line))
        }
    }
}

fn as_json(number: usize, outcome: &Outcome, is_silent: bool, line: &str) -> Value {
    let result = match outcome {
        Outcome::Known(_) => "event",
        Outcome::Unknown(_) => "unknown",
        Outcome::Ignored => "ignored",
        Outcome::Foreign => "foreign",
        Outcome::Nothing if is_silent => "silent",
        Outcome::Nothing => "nothing",
    };
    let mut value = json!({"line": number, "result": result});
    if let (Outcome::Known(reading) | Outcome::Unknown(reading), Some(fields)) =
        (outcome, value.as_object_mut())
    {
        fields.insert("class".to_owned(), reading.class.name().into());
        fields.insert("priority".to_owned(), reading.priority.into());
        fields.insert("message".to_owned(), reading.message.clone().into());
    }
    if let Some(fields) = value.as_object_mut() {
        fields.insert("text".to_owned(), line.into());
    }
    value
}

fn counted(count: usize, what: &str) -> String {
    wording::counted(super::status::thousands(count as u64), what)
}

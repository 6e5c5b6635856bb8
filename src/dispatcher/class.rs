//! Classes of jobs: additional event fields of the original server's subsystems.
//!
//! The id determines the class, because that is how the Qt client names its jobs. A new class is an
//! entry in the table.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::wire::{Class, encoded_len};

/// Input of a class's parser.
pub(super) struct Reading<'a> {
    /// The job's id.
    pub(super) id: &'a str,
    /// The running command, or the last one.
    pub(super) command: &'a str,
    /// Output so far; head and tail of a long one.
    pub(super) log: &'a str,
    /// The job has ended.
    pub(super) finished: bool,
    /// Maximum size of a list of names as JSON, in bytes.
    pub(super) room: usize,
}

type Fields = Vec<(&'static str, Value)>;

struct Rule {
    prefix: &'static str,
    event_system: &'static str,
    log_field: Option<&'static str>,
    /// Name of the field for the action in the id, and the prefix of its value.
    action: Option<(&'static str, &'static str)>,
    fields: fn(&Reading<'_>) -> Fields,
}

const TABLE: [Rule; 4] = [
    Rule {
        prefix: "sysadm_pkg_",
        event_system: "sysadm/pkg",
        log_field: Some("pkg_log"),
        action: Some(("action", "pkg_")),
        fields: pkg,
    },
    Rule {
        prefix: "sysadm_iohyve",
        event_system: "sysadm/iohyve",
        log_field: None,
        action: None,
        fields: iohyve,
    },
    Rule {
        prefix: "sysadm_update_runupdates",
        event_system: "sysadm/update",
        log_field: Some("update_log"),
        action: None,
        fields: none,
    },
    Rule {
        prefix: "sysadm_sourcectl_",
        event_system: "sysadm/sourcectl",
        log_field: Some("update_log"),
        action: None,
        fields: none,
    },
];

/// Default queues by id, as in the original server.
const QUEUES: [(&str, &str); 2] =
    [("sysadm_pkg_", "pkg_queue"), ("sysadm_iocage_", "iocage_queue")];

/// The default queue of a job.
pub(super) fn default_queue(id: &str) -> Option<&'static str> {
    QUEUES.iter().find(|(prefix, _)| id.starts_with(prefix)).map(|(_, queue)| *queue)
}

/// Whether jobs go to that queue by their id.
pub(super) fn is_default_queue(name: &str) -> bool {
    QUEUES.iter().any(|(_, queue)| *queue == name)
}

fn rule(id: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| id.starts_with(rule.prefix))
}

/// The class of a job.
pub(super) fn class(id: &str) -> Option<Class> {
    let rule = rule(id)?;
    let fixed = rule.action.map(|(field, prefix)| (field, format!("{prefix}{}", action(rule, id))));
    Some(Class {
        event_system: rule.event_system,
        log_field: rule.log_field,
        fixed: fixed.into_iter().collect(),
    })
}

/// `sysadm_pkg_check_upgrade-{…}` → `check_upgrade`.
fn action<'a>(rule: &Rule, id: &'a str) -> &'a str {
    let rest = id.strip_prefix(rule.prefix).unwrap_or(id);
    rest.split_once('-').map_or(rest, |(action, _)| action)
}

/// Whether [`fields`] parses the output.
pub(super) fn reads_output(id: &str) -> bool {
    rule(id).is_some_and(|rule| {
        rule.event_system == "sysadm/pkg" || rule.event_system == "sysadm/iohyve"
    })
}

/// Whether it parses the whole output, at the end.
pub(super) fn reads_all_output(id: &str) -> bool {
    rule(id).is_some_and(|rule| rule.event_system == "sysadm/pkg")
}

/// Fields of a record, with the static names of the classes.
pub(super) fn known_fields(mut fields: Map<String, Value>) -> Fields {
    const KNOWN: [&str; 6] = [
        "updates_available",
        "vulnerable_pkgs",
        "impacts_pkgs",
        "filename",
        "percent_done",
        "download_rate",
    ];
    KNOWN.into_iter().filter_map(|name| Some((name, fields.remove(name)?))).collect()
}

/// The fields of the class that depend on the output.
pub(super) fn fields(reading: &Reading<'_>) -> Fields {
    rule(reading.id).map_or_else(Vec::new, |rule| (rule.fields)(reading))
}

fn none(_: &Reading<'_>) -> Fields {
    Vec::new()
}

fn pkg(reading: &Reading<'_>) -> Fields {
    if !reading.finished {
        return Vec::new();
    }
    let action = TABLE.first().map_or("", |rule| action(rule, reading.id));
    match action {
        "check_upgrade" => {
            let current = reading.log.contains("Your packages are up to date.");
            vec![("updates_available", json!(if current { "false" } else { "true" }))]
        }
        "audit" => {
            let mut vulnerable = Names::within(reading.room);
            let mut impacted = Names::within(reading.room);
            for line in reading.log.lines() {
                let Some(rest) = line.trim().strip_prefix("Packages that depend on ") else {
                    continue;
                };
                let Some((package, dependents)) = rest.split_once(':') else { continue };
                vulnerable.add(package);
                dependents.split(',').for_each(|dependent| impacted.add(dependent));
            }
            vec![
                ("vulnerable_pkgs", json!(vulnerable.list)),
                ("impacts_pkgs", json!(impacted.list)),
            ]
        }
        _ => Vec::new(),
    }
}

/// Names, without duplicates, in order of appearance. Names beyond the limit are omitted: output is
/// arbitrary, and an event is bounded. The log has all of them.
struct Names<'a> {
    list: Vec<&'a str>,
    known: HashSet<&'a str>,
    /// Bytes of JSON.
    room: usize,
}

impl<'a> Names<'a> {
    fn within(room: usize) -> Names<'a> {
        Names { list: Vec::new(), known: HashSet::new(), room }
    }

    fn add(&mut self, name: &'a str) {
        let name = name.trim();
        let bytes = encoded_len(name) + r#""","#.len();
        if !name.is_empty() && bytes <= self.room && self.known.insert(name) {
            self.room -= bytes;
            self.list.push(name);
        }
    }
}

/// Progress of a download in the output of `fetch`: fields between tabs, one of them `37% of 600 MB
/// 1200 kBps`, or a line that ends in ` Bps`.
fn iohyve(reading: &Reading<'_>) -> Fields {
    let fetches = reading.id.starts_with("sysadm_iohyve_fetch")
        || reading.command.starts_with("iohyve fetch ");
    if !fetches {
        return Vec::new();
    }
    let is_progress =
        |line: &&str| line.contains("% of ") || line.ends_with(" Bps") || line.ends_with("Bps");
    // On a terminal `fetch` overwrites its line after a carriage return.
    let Some(line) = reading.log.split(['\n', '\r']).rev().find(is_progress) else {
        return Vec::new();
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    // With its unit and the size, as in the original server.
    let percent = words.iter().position(|word| word.ends_with('%')).map_or(String::new(), |at| {
        let is_sized = words.get(at + 1) == Some(&"of");
        let is_unit = |word: &&str| word.ends_with('B');
        let size = if words.get(at + 3).is_some_and(is_unit) { 4 } else { 3 };
        words
            .iter()
            .skip(at)
            .take(if is_sized { size } else { 1 })
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    });
    let rate = match words.iter().rposition(|word| word.ends_with("Bps")) {
        Some(at) if at > 0 => words.get(at - 1..=at).unwrap_or_default().join(" "),
        Some(_) | None => String::new(),
    };
    let name = line.split('\t').next().unwrap_or_default().split_whitespace().next();
    vec![
        ("filename", json!(short(name.unwrap_or_default()))),
        ("percent_done", json!(short(&percent))),
        ("download_rate", json!(short(&rate))),
    ]
}

/// The beginning of a word, which may have any length.
fn short(word: &str) -> &str {
    const MOST: usize = 256;
    &word[..word.floor_char_boundary(MOST)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(id: &str, command: &str, log: &str, finished: bool) -> Value {
        let fields = fields(&Reading { id, command, log, finished, room: 64 });
        Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    #[test]
    fn the_id_decides_class_action_and_queue() {
        let pkg = class("sysadm_pkg_check_upgrade-{abc-1}").unwrap();
        assert_eq!(pkg.event_system, "sysadm/pkg");
        assert_eq!(pkg.fixed, [("action", "pkg_check_upgrade".to_owned())]);
        assert_eq!(class("sysadm_iohyve_x::1").unwrap().event_system, "sysadm/iohyve");
        let update = class("sysadm_update_runupdates::now").unwrap();
        assert_eq!((update.event_system, update.log_field), ("sysadm/update", Some("update_log")));
        assert_eq!(class("sysadm_sourcectl_x").unwrap().event_system, "sysadm/sourcectl");
        assert_eq!(class("backup"), None);
        assert_eq!(default_queue("sysadm_pkg_update"), Some("pkg_queue"));
        assert_eq!(default_queue("sysadm_iocage_x"), Some("iocage_queue"));
        assert_eq!(default_queue("backup"), None);
    }

    #[test]
    fn upgrade_check_reports_available_updates() {
        let id = "sysadm_pkg_check_upgrade-1";
        let log = "Checking...\nYour packages are up to date.\n";
        assert_eq!(read(id, "", log, true), json!({"updates_available": "false"}));
        assert_eq!(read(id, "", "3 to upgrade", true), json!({"updates_available": "true"}));
        assert_eq!(read(id, "", log, false), json!({}));
    }

    #[test]
    fn audit_reports_vulnerable_packages_and_dependents() {
        let log = "x is vulnerable\n  Packages that depend on libxml2: php, ruby\n\n\
                   Packages that depend on curl: git, php\nPackages that depend on zsh:\n";
        assert_eq!(
            read("sysadm_pkg_audit", "", log, true),
            json!({"vulnerable_pkgs": ["libxml2", "curl", "zsh"], "impacts_pkgs": ["php", "ruby", "git"]})
        );
    }

    #[test]
    fn endless_output_is_reported_within_bounds() {
        let names: String =
            (0..1000).map(|n| format!("Packages that depend on p{n}: a\n")).collect();
        let reported = read("sysadm_pkg_audit", "", &names, true);
        let vulnerable = reported["vulnerable_pkgs"].as_array().unwrap();
        assert_eq!(vulnerable.len(), 12, "{reported}");
        assert_eq!(reported["impacts_pkgs"], json!(["a"]));
        let log = format!("{} 5% of  1 MB 7 kBps\n", "ü".repeat(10_000));
        let reported = read("sysadm_iohyve_fetch", "", &log, false);
        assert_eq!(reported["filename"], "ü".repeat(128));
        assert_eq!(reported["percent_done"], "5% of 1 MB");
    }

    #[test]
    fn download_reports_its_progress() {
        let log = "Fetching\nFreeBSD.iso\t  12% of  600 MB  900 kBps\t01m\nFreeBSD.iso\t  37% of  600 MB 1200 kBps 00m40s\n";
        let expected = json!({"filename": "FreeBSD.iso", "percent_done": "37% of 600 MB", "download_rate": "1200 kBps"});
        assert_eq!(read("sysadm_iohyve_fetch::1", "x", log, false), expected);
        assert_eq!(read("sysadm_iohyve_x", "iohyve fetch http://x", log, false), expected);
        assert_eq!(read("sysadm_iohyve_x", "iohyve list", log, false), json!({}));
        for (line, percent) in [
            ("x.iso\t99% of 600MB\t5 Bps", "99% of 600MB"),
            ("x.iso\t99% of 600 kB", "99% of 600 kB"),
            ("x.iso\t9% of 17\t5 Bps", "9% of 17"),
            ("x.iso\t100%\t600 MB\t5 Bps", "100%"),
        ] {
            assert_eq!(read("sysadm_iohyve_fetch", "", line, false)["percent_done"], percent);
        }
        let plain = "FreeBSD.iso\t100%\t600 MB\t5 Bps";
        assert_eq!(read("sysadm_iohyve_fetch", "", plain, false)["download_rate"], "5 Bps");
    }
}

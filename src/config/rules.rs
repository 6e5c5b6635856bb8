//! Files with log rules: the embedded ones, and those of `life_preserver.rules_dir`.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use toml::de::DeValue;

use super::error::{ConfigError, ConfigErrors, Lines};
use super::reader::Reader;
use super::section::Section;
use super::spelling;
use super::unclosed;
use super::values::{boolean, count, kind, one_of, quoted, text};
use crate::pattern::{Message, Pattern};
use crate::rules::{Class, Level, Matcher, Rule, RuleSet, RunKey, Template, embedded, samples};
use crate::sys::files::Files;

/// Maximum number of files in the directory.
const FILES: usize = 64;

/// The available rule sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Those of the directory, which take precedence over the embedded ones.
    own: Vec<Arc<RuleSet>>,
}

impl Rules {
    /// Reads the `*.toml` of a directory, in the order of their names, and returns their faults: a
    /// faulty file yields a set without rules.
    ///
    /// # Errors The directory cannot be read, or has too many files.
    pub(super) fn of_directory(
        directory: &Path,
        source: &Files,
    ) -> Result<(Rules, Vec<ConfigError>), String> {
        let listed = source.list(directory, "toml", FILES + 1);
        let mut files = listed.map_err(|error| format!("cannot be read: {error}"))?;
        if files.len() > FILES {
            return Err(format!("has more than {FILES} files of rules"));
        }
        files.sort();
        let (mut rules, mut faults) = (Rules::default(), Vec::new());
        for file in files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let set = super::read(&file, source)
                .map_err(|error| ConfigErrors::of_whole_file(&file, super::unreadable(&error)))
                .and_then(|bytes| {
                    let text = super::text_of(&bytes, &file)?;
                    parse(&name, text, &file, &rules)
                });
            let set = set.unwrap_or_else(|errors| {
                faults.extend(errors.iter().cloned());
                RuleSet { name, ..RuleSet::default() }
            });
            rules.own.push(Arc::new(set));
        }
        Ok((rules, faults))
    }

    /// Samples of the directory's files that give another event than expected, as `FILE: why`.
    pub fn sample_faults(&self) -> impl Iterator<Item = String> {
        let of_set = |set: &Arc<RuleSet>| {
            let name = set.name.clone();
            samples::faults(set).into_iter().map(move |why| format!("{name}.toml: {why}"))
        };
        self.own.iter().flat_map(of_set)
    }

    /// The rule set of that name.
    pub fn get(&self, name: &str) -> Option<Arc<RuleSet>> {
        self.all().find(|set| set.name == name).cloned()
    }

    /// All rule sets; of two with the same name the first counts.
    pub fn all(&self) -> impl Iterator<Item = &Arc<RuleSet>> {
        static EMBEDDED: OnceLock<Vec<Arc<RuleSet>>> = OnceLock::new();
        let embedded = EMBEDDED.get_or_init(|| {
            let none = Rules::default();
            let read = |(name, text): &(&str, &str)| {
                parse(name, text, Path::new(name), &none).map(Arc::new).ok()
            };
            embedded().iter().filter_map(read).collect()
        });
        self.own.iter().chain(embedded)
    }

    /// The rule set of that name.
    ///
    /// # Errors There is none; the text includes a suggestion.
    pub fn named(&self, name: &str) -> Result<Arc<RuleSet>, String> {
        self.get(name).ok_or_else(|| {
            let mut known: Vec<&str> = self.all().map(|set| &*set.name).collect();
            let near = spelling::nearest(name, known.iter().copied());
            let advice = match near.filter(|near| near.close) {
                Some(near) => format!("; did you mean \"{}\"?", near.name),
                None => String::new(),
            };
            known.sort_unstable();
            known.dedup();
            let known: Vec<String> = known.iter().map(|name| format!("\"{name}\"")).collect();
            format!("is none of {}{advice}", known.join(", "))
        })
    }
}

/// Reads one file; `rules` are those that it may extend, besides the embedded ones.
fn parse(name: &str, text: &str, file: &Path, rules: &Rules) -> Result<RuleSet, ConfigErrors> {
    let (repaired, unclosed) = unclosed::repair(text);
    let (document, syntax) = toml::de::DeTable::parse_recoverable(&repaired);
    let mut reader = Reader::new(text, document.get_ref(), &syntax, unclosed);
    let set = read_set(name, &mut reader, rules);
    reader.report_unknown();
    let lines = Lines::of(text);
    let faults = reader.into_faults(&lines);
    if faults.is_empty() { Ok(set) } else { Err(ConfigErrors::new(file, &lines, faults)) }
}

fn read_set(name: &str, reader: &mut Reader<'_>, rules: &Rules) -> RuleSet {
    let mut set = RuleSet { name: name.to_owned(), catches_all: true, ..RuleSet::default() };
    let mut ignores_case = false;
    let mut program = reader.section("program");
    let base = program.optional("extends", text(|name| rules.named(name)));
    if let Some(base) = &base {
        let (rules, samples) = Default::default();
        set = RuleSet { name: set.name, rules, samples, ..RuleSet::clone(base) };
    }
    program.list("names", &mut set.programs, text(|name| Ok(name.to_owned())));
    set.class = program.optional("class", text(one_of(CLASSES))).or(set.class);
    program.key("fields", &mut set.has_fields, boolean);
    program.key("ignore_case", &mut ignores_case, boolean);
    for place in ["dataset", "snapshot", "reason"] {
        let mut fields = Vec::new();
        program.list(place, &mut fields, text(|name| Ok(name.to_owned())));
        if !fields.is_empty() {
            set.aliases.retain(|(known, _)| known != place);
            set.aliases.push((place.to_owned(), fields));
        }
    }
    reader.section("samples").key("lines", &mut set.samples, text(|text| Ok(text.to_owned())));
    let mut read = Vec::new();
    reader.root().tables("rule", "rule", &mut read, |rule| read_rule(rule, &set, ignores_case));
    set.rules = read;
    set.rules.extend(base.iter().flat_map(|base| base.rules.iter().cloned()));
    set
}

/// Values of the key `class`, here and of a source.
pub(super) const CLASSES: [(&str, Class); 2] =
    [("snapshot", Class::Snapshot), ("replication", Class::Replication)];

fn read_rule(section: &mut Section<'_, '_>, set: &RuleSet, ignores_case: bool) -> Option<Rule> {
    let levels = [
        ("info", Level::Info),
        ("warning", Level::Warning),
        ("error", Level::Error),
        ("critical", Level::Critical),
    ];
    let runs = [("begin", RunKey::Begin), ("end", RunKey::End), ("end-last", RunKey::EndLast)];
    let faults = section.reader.faults.len();
    let lines = section.optional("line", templates(ignores_case));
    let pattern = section.optional("match", text(Pattern::parse));
    let level = section.optional("level", text(one_of(levels)));
    let class = section.optional("class", text(one_of(CLASSES)));
    let priority = section.optional("priority", count(0..=10));
    let message = section.optional("message", text(Message::parse));
    let ignore = section.optional("ignore", boolean).unwrap_or(false);
    let run = section.optional("run", text(one_of(runs)));
    if section.table.is_none() || section.reader.faults.len() > faults {
        return None;
    }
    let mut matchers: Vec<Matcher> = lines.into_iter().flatten().map(Matcher::Template).collect();
    matchers.extend(pattern.map(Matcher::Pattern));
    if matchers.is_empty() {
        section.complain(None, "[[rule]] has no line: write line = \"…{dataset}…\"".to_owned());
        return None;
    }
    if ignore == priority.is_some() {
        let advice = "write priority = 0 to 10, or ignore = true for no event";
        section.complain(Some("ignore"), format!("[[rule]] has no priority: {advice}"));
        return None;
    }
    let message = message.unwrap_or_else(Message::text);
    if let Some(place) = set.placeholder_without_meaning(&message, &matchers) {
        let place = quoted(place);
        let advice = format!("no line and no field gives {place}: add such a place to each line");
        section.complain(Some("message"), format!("rule.message: {advice}"));
        return None;
    }
    let priority = priority.and_then(|priority| u8::try_from(priority).ok());
    Some(Rule { matchers, level, class, priority, message, run })
}

/// One template, or a list of them.
fn templates(ignores_case: bool) -> impl Fn(&DeValue<'_>) -> Result<Vec<Template>, String> {
    let one =
        move |value: &DeValue<'_>| text(|line: &str| Template::parse(line, ignores_case))(value);
    move |value| match value {
        DeValue::String(_) => Ok(vec![one(value)?]),
        DeValue::Array(lines) => lines.iter().map(|line| one(line.get_ref())).collect(),
        other => Err(format!("a text or a list of texts is wanted, not {}", kind(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::may_block::MayBlock;

    fn faults(text: &str) -> Vec<String> {
        match parse("own", text, Path::new("own.toml"), &Rules::default()) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn embedded_files_have_no_fault_and_are_all_there() {
        for (name, text) in embedded() {
            let set = parse(name, text, Path::new(name), &Rules::default());
            assert!(set.as_ref().is_ok_and(|set| !set.rules.is_empty()), "{name}: {set:?}");
            assert!(!text.contains("[samples]") && !text.contains("\n#"), "{name}");
        }
        assert_eq!(Rules::default().all().count(), embedded().len());
        // As in the source tree, from where an operator copies them.
        let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/etc/rules"));
        let (rules, faults) =
            Rules::of_directory(directory, &Files::of_system(MayBlock::before_loop())).unwrap();
        assert_eq!((rules.own.len(), faults), (embedded().len(), Vec::new()));
        for set in &rules.own {
            assert!(set.samples.lines().count() > 5, "{}", set.name);
        }
        let wrong: Vec<String> = rules.sample_faults().collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for name in ["lpreserver", "sanoid", "syncoid", "zrepl", "zettarepl", "pyznap", "znapzend"]
        {
            assert!(Rules::default().get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn faults_are_named_with_file_line_and_advice() {
        let rows = [
            ("[[rule]]\nline = \"a{\"\npriority = 1", "own.toml:2: rule.line: ", "write {{"),
            ("[[rule]]\npriority = 1", "own.toml:1: [[rule]] has no line: ", "write line ="),
            ("[[rule]]\nline = \"a\"", "own.toml:1: [[rule]] has no priority: ", "ignore = true"),
            ("[[rule]]\nline = \"a\"\npriority = 11", "own.toml:3: rule.priority: 11", "0 to 10"),
            ("[[rule]]\nline = \"a\"\npriority = 1\nmessage = \"{b}\"", "own.toml:4: ", "\"b\""),
            (
                "[[rule]]\nline = \"a\"\npriority = 1\nclas = \"snapshot\"",
                "own.toml:4: ",
                "\"class\"",
            ),
            ("[program]\nextends = \"zrep\"", "own.toml:2: program.extends: ", "\"zrepl\"?"),
            (
                "[[rule]]\nmatch = '('\npriority = 1",
                "own.toml:2: rule.match: ",
                "regular expression",
            ),
            ("[rules]\n", "own.toml:1: unknown section", "[rule"),
        ];
        for (text, begin, advice) in rows {
            let said = faults(text);
            assert!(
                said.len() == 1 && said[0].starts_with(begin) && said[0].contains(advice),
                "{text}: {said:?}"
            );
        }
    }

    #[test]
    fn file_that_extends_another_is_asked_first() {
        let text = "[program]\nextends = \"sanoid\"\n[[rule]]\nline = \"taking {dataset}@\"\n\
                    priority = 5\nmessage = \"mine: {dataset}\"";
        let set = parse("mine", text, Path::new("f"), &Rules::default()).unwrap();
        let sanoid = Rules::default().get("sanoid").unwrap();
        assert_eq!(set.rules.len(), sanoid.rules.len() + 1);
        assert_eq!((&set.programs, set.class), (&sanoid.programs, sanoid.class));
        assert_eq!(set.rules[0].priority, Some(5));
    }
}

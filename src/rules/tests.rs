//! The samples of the embedded files, and what all rule sets have in common.

use super::*;
use crate::config::Rules;

/// A line, and the event that it must give: class, priority, words.
type Sample<'s> = (&'s str, Option<(&'s str, u8, &'s str)>);

/// Reads samples: a line, and below it, behind a tab and `=> `, the event in fields with tabs.
fn samples(text: &str) -> Vec<Sample<'_>> {
    let mut samples: Vec<Sample<'_>> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let Some(event) = line.strip_prefix("\t=> ") else {
            samples.push((line, None));
            continue;
        };
        let fields: Vec<&str> = event.split('\t').collect();
        let [class, priority, words] = fields[..] else { panic!("three fields: {line:?}") };
        samples.last_mut().unwrap().1 = Some((class, priority.parse().unwrap(), words));
    }
    samples
}

fn reader(name: &str) -> Reader {
    Reader::new(vec![Rules::default().get(name).unwrap()])
}

fn event(outcome: Outcome) -> Option<Reading> {
    match outcome {
        Outcome::Known(reading) | Outcome::Unknown(reading) => Some(reading),
        Outcome::Ignored | Outcome::Foreign | Outcome::Nothing => None,
    }
}

#[test]
fn every_embedded_file_gives_what_its_samples_say() {
    let mut wrong = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/etc/rules")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let (_, text) = text.split_once("\nlines = '''\n").expect("samples in each file");
        let text = text.strip_suffix("'''\n").expect("samples are the end of the file");
        let samples = samples(text);
        assert!(samples.len() > 5, "{name}");
        let mut reader = reader(&name);
        for (line, wanted) in samples {
            let found = event(reader.read(&line.replace("\\x1b", "\u{1b}")));
            let is_right = match (&found, wanted) {
                (None, None) => true,
                (Some(found), Some((class, priority, words))) => {
                    found.class.name() == class
                        && found.priority == priority
                        && found.message.contains(&words.replace("\\n", "\n"))
                }
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !is_right {
                wrong.push(format!("{name}: {line}\n  wanted {wanted:?}\n  found  {found:?}"));
            }
        }
        files += 1;
    }
    assert_eq!(files, embedded().len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lines_of_other_programs_are_no_reason_of_a_failure() {
    let failure =
        "Nov 23 17:50:47 nas sanoid[7]: CRITICAL ERROR: /sbin/zfs snapshot tank/b@x failed, 256";
    let message = |before: &str| {
        let mut reader = reader("sanoid");
        reader.read(before);
        event(reader.read(failure)).unwrap().message
    };
    let other = message("Nov 23 17:50:47 nas kernel: ERROR: ata1 is slow");
    assert!(other.ends_with("Snapshot failed for tank/b"), "{other}");
    let own = message("Nov 23 17:50:47 nas sanoid[7]: cannot create snapshot 'tank/b@x': no space");
    assert!(own.ends_with("no space"), "{own}");
}

//! The manual page and the completions of three shells are compared with the commands' own help.

use std::collections::BTreeSet;
use std::process::Command as Process;

use super::*;

const PAGE: &str = include_str!("../../man/sysadm-events.8");
const BASH: &str = include_str!("../../etc/completion/sysadm-events.bash");
const ZSH: &str = include_str!("../../etc/completion/_sysadm-events");
const FISH: &str = include_str!("../../etc/completion/sysadm-events.fish");

type Names = BTreeSet<String>;

/// The options in a part of a help: beginnings of lines, indented by two blanks.
fn options(help: &str) -> Names {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    let words = lines.filter(|line| line.starts_with('-')).flat_map(|line| {
        line.split([' ', ',']).filter(|word| !word.is_empty()).take_while(|w| w.starts_with('-'))
    });
    words.map(str::to_owned).collect()
}

/// The part of a command's help about its own options, and the one about the daemon.
fn parts(command: &Command) -> (&'static str, &'static str) {
    command.help.split_once("\nWhich daemon (TARGET):\n").unwrap_or((command.help, ""))
}

/// All options of a command.
fn all(command: &Command) -> Names {
    let (own, target) = parts(command);
    options(own).into_iter().chain(options(target)).collect()
}

fn help() -> Names {
    options("  -h, --help  this text")
}

/// The text under a heading of the page, up to the next one of its kind.
fn under<'a>(page: &'a str, macro_name: &str, heading: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("\n.{macro_name} {heading}\n"))
        .unwrap_or_else(|| panic!("there is no {heading}"));
    let end = ["\n.Sh ", "\n.Ss "].iter().filter_map(|next| rest.find(next)).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// The options that a part of the page explains.
fn explained(text: &str) -> Names {
    let items = text.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    items.map(|item| format!("-{}", item.split(' ').next().unwrap())).collect()
}

/// The first words of the items of a list.
fn items<'a>(text: &'a str, macro_name: &str) -> BTreeSet<&'a str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(".It ")?.strip_prefix(macro_name));
    lines.filter_map(|item| item.split_whitespace().next()).collect()
}

#[test]
fn the_page_explains_every_command_and_option() {
    let commands = PAGE.split_once("\n.Sh COMMANDS\n").unwrap().1;
    let commands = commands.split_once("\n.Sh ").unwrap().0;
    let headings = commands.lines().filter_map(|line| line.strip_prefix(".Ss "));
    assert_eq!(headings.collect::<Vec<_>>(), COMMANDS.each_ref().map(|command| command.name));
    for command in &COMMANDS {
        let (own, target) = parts(command);
        let wanted = &options(own) - &help();
        assert_eq!(explained(under(PAGE, "Ss", command.name)), wanted, "{}", command.name);
        if !target.is_empty() {
            assert_eq!(explained(under(PAGE, "Sh", "TARGET")), options(target));
        }
    }
    for option in options(&overview()) {
        let flag = option.replacen('-', "Fl ", 1);
        assert!(PAGE.contains(&format!(".{flag}\n")), "{option}");
    }
}

#[test]
fn the_page_names_every_exit_code() {
    let codes = items(under(PAGE, "Sh", "EXIT STATUS"), "");
    let named = [
        sysexits::USAGE,
        sysexits::NO_INPUT,
        sysexits::UNAVAILABLE,
        sysexits::IO,
        sysexits::TEMPORARY,
        sysexits::PROTOCOL,
        sysexits::NO_PERMISSION,
        sysexits::CONFIGURATION,
    ];
    let why = || std::io::Error::from(std::io::ErrorKind::Other);
    let start = crate::server::StartError::System("", why()).exit_code();
    let more = ["0", "1", "127", "128+N"].map(str::to_owned);
    let wanted: Names = named.iter().chain([&start]).map(u8::to_string).chain(more).collect();
    assert_eq!(codes, wanted.iter().map(String::as_str).collect());
    let run = COMMANDS.iter().find(|command| command.name == "run").unwrap().help;
    assert!(run.contains("128 + N after signal N") && run.contains("127 where"), "{run}");
}

#[test]
fn the_page_names_every_signal() {
    let serve = COMMANDS.iter().find(|command| command.name == "serve").unwrap().help;
    let words = serve.split(|c: char| !c.is_ascii_alphanumeric());
    let wanted: BTreeSet<&str> =
        words.filter(|word| word.len() > 3 && word.starts_with("SIG")).collect();
    assert!(wanted.len() == 5, "{wanted:?}");
    assert_eq!(items(under(PAGE, "Sh", "SIGNALS"), "Dv "), wanted);
}

/// Completions of bash for the last of these words.
fn offered(words: &[&str]) -> Names {
    let script = format!(
        "{BASH}\nCOMP_WORDS=(sysadm-events \"$@\")\nCOMP_CWORD=$#\n_sysadm_events\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    );
    let output = Process::new("bash").args(["-c", &script, "bash"]).args(words).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_every_command_and_option() {
    if Process::new("bash").arg("--version").output().is_err() {
        return support::skip("there is no bash");
    }
    let names = COMMANDS.iter().map(|command| command.name.to_owned());
    assert_eq!(offered(&[""]), names.chain(["help".to_owned()]).collect());
    assert_eq!(offered(&["-"]), options(&overview()));
    for command in &COMMANDS {
        assert_eq!(offered(&[command.name, "-"]), all(command), "{}", command.name);
    }
    assert_eq!(offered(&["watch", "sys"]), Names::from(["system-state".to_owned()]));
    assert_eq!(offered(&["run", "--queue", ""]), Names::new());
}

/// The options in `'…'` or `"…"` of a part of zsh's file.
fn zsh_options(text: &str) -> Names {
    let quoted = text.lines().filter_map(|line| line.trim().strip_prefix(['\'', '"']));
    let named =
        quoted.filter(|text| text.starts_with(['-', '*'])).filter_map(|text| text.split_once('['));
    named
        .map(|(name, _)| name.trim_start_matches('*').to_owned())
        .filter(|name| name.starts_with('-'))
        .collect()
}

#[test]
fn zsh_completes_every_command_and_option() {
    let target = ZSH.split_once("\ttarget=(\n").unwrap().1.split_once("\n\t)").unwrap().0;
    for command in &COMMANDS {
        let summary =
            [':', '\'', '"'].map(|end| format!("{}:{}{end}", command.name, command.summary));
        assert!(summary.iter().any(|summary| ZSH.contains(summary)), "{}", command.name);
        let is_of = |line: &&str| {
            line.strip_suffix(')').is_some_and(|l| l.trim().split('|').any(|n| n == command.name))
        };
        let line = ZSH.lines().find(is_of).unwrap_or_else(|| panic!("{}", command.name));
        let arm = ZSH.split_once(&format!("\n{line}\n")).unwrap().1.split_once(";;").unwrap().0;
        let mut found = zsh_options(arm);
        if arm.contains("$target") {
            found.extend(zsh_options(target));
        }
        if arm.contains("$help") {
            found.extend(help());
        }
        assert_eq!(found, all(command), "{}", command.name);
    }
}

/// Completions of fish after a command: its options.
fn fish_options(command: &str) -> Names {
    let mut of_name = std::collections::BTreeMap::new();
    let mut found = Names::new();
    for line in FISH.lines() {
        let commands = |text: &str| -> Vec<String> {
            let names = text.split_once("__fish_seen_subcommand_from ").map_or("", |(_, n)| n);
            names.split('\'').next().unwrap().split(' ').map(str::to_owned).collect()
        };
        if let Some(set) = line.strip_prefix("set -l ") {
            let (name, value) = set.split_once(' ').unwrap();
            of_name.insert(name, commands(value));
            continue;
        }
        let Some(rest) = line.strip_prefix("complete -c sysadm-events ") else { continue };
        let applies = match rest.strip_prefix("-n $") {
            Some(rest) => of_name[rest.split(' ').next().unwrap()].iter().any(|n| n == command),
            None if rest.starts_with("-n ") => commands(rest).iter().any(|n| n == command),
            None => true,
        };
        let words: Vec<&str> = rest.split(" -d ").next().unwrap().split(' ').collect();
        for pair in words.windows(2).filter(|_| applies) {
            match pair {
                ["-s", letter] => found.insert(format!("-{letter}")),
                ["-l", name] => found.insert(format!("--{name}")),
                _ => false,
            };
        }
    }
    found
}

#[test]
fn fish_completes_every_command_and_option() {
    for command in &COMMANDS {
        let line = format!("-n $none -a {} -d ", command.name);
        let summary =
            FISH.lines().find_map(|l| l.split_once(&line)).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(summary.1.trim_matches(['\'', '"']), command.summary);
        assert_eq!(fish_options(command.name), all(command), "{}", command.name);
    }
}

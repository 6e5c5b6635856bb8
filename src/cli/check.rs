//! `check`: reports faults of a configuration, and tests log rules on a log.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::exit::Exit;
use super::words::{Word, Words, unexpected};
use super::{Command, complain, try_log, write};
use crate::auth::key::{Damaged, KeyStore};
use crate::config::{Config, Home};
use crate::helper::accounts::{Asked, look_up_now};
use crate::sys::files::Files;
use crate::sys::guarded_path::stat_regular;
use crate::sys::may_block::MayBlock;
use crate::system_state::is_found;

pub(super) const COMMAND: Command = Command {
    name: "check",
    summary: "report faults of the configuration, or the events of a log",
    help: "\
Reads the configuration and reports all faults, as FILE:LINE: why. A sample of a
rule file (rules_dir) that gives another event than expected is a fault too. For
a valid configuration it warns about names that do not exist on this host (a
group, the zpool command, a log), and about damaged lines of the registered
keys.
With --try, shows the event of each line of a log, and lines that look like
errors without a rule.

Usage: sysadm-events check [-c FILE]
       sysadm-events check [-c FILE] --try LOG [--rule NAME]... [--json]

Options:
  -c FILE      the file; without it the one that \"serve\" would read
  --try LOG    the log; - is standard input
  --rule NAME  the rule set, instead of those of the configuration for LOG;
               without either, the one that matches most lines
  --json       one JSON object a line, then one with the totals
  -h, --help   this text

Exits 0 without faults, else 1; warnings do not count. With --try: 1 where a
line looks like an error without a rule, 2 where no line matched a rule, else 0;
 66 where the log cannot be read.

Examples:
  sysadm-events check -c new.toml && mv new.toml sysadm-events.toml
  journalctl -u zrepl | sysadm-events check --try - --rule zrepl
",
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let mut file: Option<PathBuf> = None;
    let (mut log, mut names, mut json): (Option<PathBuf>, Vec<String>, bool) = Default::default();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if name == "-c" || name == "--config" => file = Some(words.path()?),
            Word::Option(name) if name == "--try" => log = Some(words.path()?),
            Word::Option(name) if name == "--rule" => names.push(words.value()?),
            Word::Option(name) if name == "--json" => json = true,
            Word::Value(value) if file.is_none() => file = Some(value.into()),
            other => return Err(unexpected(&other)),
        }
    }
    if log.is_none() && (json || !names.is_empty()) {
        return Err(Exit::usage("--rule and --json need --try LOG"));
    }
    let home = Home::of_this_process();
    let (config, file) =
        match Config::load(file.as_deref(), &home, &Files::of_system(MayBlock::before_loop())) {
            Ok(loaded) => loaded,
            Err(errors) => {
                complain(&errors.to_string());
                return Ok(1);
            }
        };
    if let Some(log) = log {
        return try_log::run(&config.life_preserver, &log, &names, json);
    }
    let samples: Vec<String> = config.life_preserver.rules.sample_faults().collect();
    for fault in &samples {
        let directory = config.life_preserver.rules_dir.as_deref().unwrap_or(Path::new(""));
        complain(&format!("{}/{fault}", directory.display()));
    }
    for warning in warnings(&config, &Config::defaults(&home)) {
        complain(&format!("warning: {warning}"));
    }
    if !samples.is_empty() {
        return Ok(1);
    }
    match file {
        Some(file) => write(&format!("{}: ok\n", file.display()))?,
        None => write("no configuration file, the built-in defaults: ok\n")?,
    }
    Ok(0)
}

/// Warnings about names in the configuration that do not exist on this host.
fn warnings(config: &Config, defaults: &Config) -> Vec<String> {
    let mut found = groups(config, defaults);
    let zpool = &config.system_state.zpool;
    if !is_found(zpool) {
        let zpool = zpool.display();
        found.push(format!("{zpool} not found: pools are not watched (system_state.zpool)"));
    }
    found.extend(logs(config, defaults));
    for state in [&config.paths.state, &config.relay.state] {
        found.extend(keys(&KeyStore::path(state)));
    }
    found
}

/// The default is for several systems, which do not have all of its groups.
fn groups(config: &Config, defaults: &Config) -> Vec<String> {
    let (auth, default) = (&config.auth, &defaults.auth);
    let asked =
        Asked { full: auth.full_access_groups.clone(), read: auth.read_only_groups.clone() };
    let found = match look_up_now(&asked, auth.lookup_deadline) {
        Ok(found) => found,
        Err(why) => return vec![format!("cannot look up groups: {why}")],
    };
    let mut said: Vec<String> =
        found.failed.iter().map(|why| format!("cannot look up a group: {why}")).collect();
    for (key, names, default) in [
        ("full_access_groups", &asked.full, &default.full_access_groups),
        ("read_only_groups", &asked.read, &default.read_only_groups),
    ] {
        let missing: Vec<&String> =
            names.iter().filter(|name| found.unknown.contains(name)).collect();
        if names != default || missing.len() == names.len() {
            let say = |name| format!("there is no group {name:?} on this host (auth.{key})");
            said.extend(missing.into_iter().map(say));
        }
    }
    said
}

/// A missing default log is reported only where the program that writes it is installed.
fn logs(config: &Config, defaults: &Config) -> Vec<String> {
    let logs = &config.life_preserver;
    let default = defaults.life_preserver.log.as_ref();
    let is_expected = |log: &&PathBuf| {
        Some(*log) != default || log.parent().is_some_and(|directory| directory.is_dir())
    };
    let sources = logs.source.iter().map(|source| &source.log);
    let mut said = Vec::new();
    for log in logs.log.iter().filter(is_expected).chain(sources) {
        let why = match stat_regular(log, MayBlock::before_loop()) {
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => "is not there (yet)".to_owned(),
            Err(error) => format!("cannot be followed: {error}"),
        };
        let said_of_it = format!("the log {} {why}", log.display());
        if !said.contains(&said_of_it) {
            said.push(said_of_it);
        }
    }
    said
}

fn keys(path: &Path) -> Vec<String> {
    match KeyStore::read(path, MayBlock::before_loop()) {
        Ok((_, damaged)) => damaged
            .iter()
            .map(|Damaged { line, why, .. }| format!("{}:{line}: {why}", path.display()))
            .collect(),
        // It is readable by root and the daemon only.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !geteuid().is_root() => {
            Vec::new()
        }
        Err(error) => vec![format!("cannot read {}: {error}", path.display())],
    }
}

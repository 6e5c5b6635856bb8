//! One function per rule, from the text of a file to the value or the message.

mod alerts;
mod checks_between_keys;
mod keys_of_the_file;
mod sources;
mod syntax;
mod the_file;
mod the_manual;
mod values;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::*;
use crate::sys::files::Files;
use crate::sys::may_block::MayBlock;

const SAMPLE: &str = include_str!("../../../etc/sysadm-events.toml.sample");

fn ann() -> Home {
    Home::User {
        config: "/home/ann/.config".into(),
        state: "/home/ann/state".into(),
        runtime: None,
    }
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let files = Files::of_system(MayBlock::before_loop());
    Config::parse(text, Path::new("f"), &Home::System, &files)
}

fn good(text: &str) -> Config {
    match parse(text) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// The only fault of `text`.
fn fault(text: &str) -> String {
    let all = faults(text);
    assert_eq!(all.len(), 1, "{text:?} has the faults {all:#?}");
    all.into_iter().next().unwrap_or_default()
}

/// The known keys, and those of them that `text` has.
fn known_and_written(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader::new(text, document.get_ref(), &syntax, Vec::new());
    let files = Files::of_system(MayBlock::before_loop());
    keys::read(&mut reader, &mut Config::defaults(&Home::System), &mut Vec::new(), &files);
    let name = |(section, key): (&str, &str)| format!("{section}.{key}");
    let known = reader.known().map(name).collect();
    let written = reader.known().filter(|(s, k)| reader.has(s, k)).map(name).collect();
    (known, written)
}

/// The sample with its keys in force: those whose line begins with `#` and no blank.
fn sample_in_force() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    SAMPLE.lines().map(uncomment).collect()
}

/// `config` with the default groups of this system; `text` has those of FreeBSD, and names `sudo`
/// for other systems.
fn on_this_system(mut config: Config, text: &str) -> Config {
    assert_eq!(config.auth.full_access_groups, ["wheel"]);
    assert!(text.contains("sudo"));
    if !cfg!(target_os = "freebsd") {
        config.auth.full_access_groups.push("sudo".to_owned());
    }
    config
}

mod the_sample {
    use super::*;

    #[test]
    fn gives_the_defaults_of_the_system() {
        assert_eq!(good(SAMPLE), Config::defaults(&Home::System));
    }

    #[test]
    fn sample_states_every_default() {
        let mut config = on_this_system(good(&sample_in_force()), SAMPLE);
        let links = std::mem::take(&mut config.bridge.link);
        assert_eq!(std::mem::take(&mut config.dispatcher.queue).len(), 1);
        assert_eq!(std::mem::take(&mut config.notify).len(), 4);
        assert_eq!(std::mem::take(&mut config.alerts.pool).len(), 1);
        assert_eq!(std::mem::take(&mut config.expect).len(), 4);
        let sources = std::mem::take(&mut config.life_preserver.source);
        assert_eq!(config, Config::defaults(&Home::System));
        assert_eq!(sources.len(), 2);
        let names: Vec<&str> = sources.iter().map(|source| &*source.rules.name).collect();
        assert_eq!(names, ["match", "syncoid"]);
        assert_eq!(links.len(), 1);
        assert_eq!(links[0].name, "office");
        assert_eq!(links[0].url.to_string(), "wss://bridge.example.org:12149");
        assert_eq!(links[0].fingerprint.len(), 64);
    }

    #[test]
    fn names_every_key() {
        let (known, written) = known_and_written(&sample_in_force());
        assert!(known.len() > 50, "{known:?}");
        assert_eq!(known, written);
    }
}

mod defaults {
    use super::*;

    #[test]
    fn an_empty_file_gives_them() {
        assert_eq!(good(""), Config::defaults(&Home::System));
        assert_eq!(good("# nothing\n[server]\n"), Config::defaults(&Home::System));
        let files = Files::of_system(MayBlock::before_loop());
        let user = Config::parse("", Path::new("f"), &ann(), &files);
        assert_eq!(user.unwrap(), Config::defaults(&ann()));
    }

    #[test]
    fn a_user_has_paths_of_their_own() {
        let config = Config::defaults(&ann());
        assert_eq!(config.server.socket, Some("/home/ann/state/sysadm-events/socket".into()));
        assert_eq!(config.server.private_key, Path::new("/home/ann/.config/sysadm-events/key.pem"));
        assert_eq!(config.paths.state, Path::new("/home/ann/state/sysadm-events"));
        assert_eq!(config.relay.state, Path::new("/home/ann/state/sysadm-bridge"));
    }
}

mod a_reload {
    use super::*;

    #[test]
    fn sample_states_which_keys_need_a_restart() {
        let old = Config::defaults(&Home::System);
        assert!(needs_restart(&old, &old.clone()).is_empty());
        let new = good(
            "[server]\nsocket = \"/s\"\nsocket_mode = \"0600\"\nlock_memory = true\nmax_clients = 1\n\
             [paths]\nstate = \"/t\"\n[log]\ntarget = \"syslog\"\nlevel = \"warn\"\n\
             [events]\nring = \"3MiB\"\n",
        );
        assert_eq!(
            needs_restart(&old, &new),
            [
                "server.socket",
                "server.socket_mode",
                "server.lock_memory",
                "paths.state",
                "log.target"
            ]
        );
    }
}

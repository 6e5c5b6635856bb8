//! The daemon from outside: the real executable, real sockets, real children.
//!
//! One file per theme, one test per rule, named by the rule. Every test has a daemon of its own.

mod alerts;
mod attached;
mod attached_remote;
mod bad_input;
mod bridge;
mod bridge_confined;
mod classes;
mod cli_commands;
mod cli_run;
mod cli_targets;
mod cli_watch;
mod completion;
mod durable;
mod envelope;
mod hang;
mod history;
mod hostile_bridge;
mod hosts;
mod http;
mod identity;
mod import_legacy;
mod impostor;
mod installed;
mod job_environment;
mod job_order;
mod jobs;
mod key_command;
mod keys;
mod kill;
mod known_hosts;
mod legacy_bridge;
mod link;
mod live_bars;
mod log_burst;
mod log_restart;
mod log_rules;
mod lost_state;
mod manual;
mod merciless;
mod news;
mod notifications;
mod output;
mod passwords;
mod pools;
mod proxy_protocol;
mod queues;
mod reload;
mod replication;
mod rotation;
mod service;
mod settings;
mod share;
mod signals;
mod slow_clients;
mod start;
mod stop;
mod subscriptions;
mod system_state;
mod throttle;
mod transports;
mod tunnel;
mod via;
mod viewer;
mod watch_screen;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_sysadm-events");

/// Name and home of the user who runs the tests, as in the environment of that user's daemon.
fn ourselves() -> (String, String) {
    let uid = nix::unistd::Uid::effective();
    match nix::unistd::User::from_uid(uid).unwrap() {
        Some(user) => (user.name, user.dir.display().to_string()),
        // A user without an account is named by number.
        None => (uid.to_string(), "/".to_owned()),
    }
}

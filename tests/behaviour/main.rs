//! What the daemon does, seen from outside: the real executable, real sockets, real children.
//!
//! A file a theme, a test a rule, named by what is to be seen. Every test has a daemon of its own.

mod classes;
mod cli_commands;
mod cli_run;
mod cli_targets;
mod cli_watch;
mod durable;
mod impostor;
mod installed;
mod job_environment;
mod jobs;
mod kill;
mod manual;
mod merciless;
mod output;
mod pools;
mod queues;
mod service;
mod system_state;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_sysadm-events");

/// Name and home of whoever runs the tests, as a daemon of theirs has them.
fn ourselves() -> (String, String) {
    let uid = nix::unistd::Uid::effective();
    match nix::unistd::User::from_uid(uid).unwrap() {
        Some(user) => (user.name, user.dir.display().to_string()),
        // Who has no account has a number.
        None => (uid.to_string(), "/".to_owned()),
    }
}

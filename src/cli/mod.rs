//! The commands of the executable, one file each.
//!
//! A command parses its arguments, does its work through other modules and ends with an exit code
//! of sysexits(3). Results go to standard output, messages to standard error; a reader that closes
//! standard output early is no error.

mod alerts;
mod attach;
mod attached;
mod bars;
mod bridge;
mod call;
mod canvas;
mod check;
mod columns;
mod emit;
mod escape;
mod events;
mod exit;
mod fingerprint;
mod finished_jobs;
mod fleet;
mod fold;
mod import_legacy;
mod interrupt;
mod job;
mod jobs;
mod key;
mod key_place;
mod kill;
mod legacy;
mod log;
mod notify;
mod outcome;
mod queues;
mod relay_status;
mod restart;
mod run;
mod screen;
mod selection;
mod serve;
mod span;
mod standard_output;
mod state;
mod status;
mod table;
mod target;
mod terminal;
mod trust;
mod try_log;
mod wait;
mod watch;
mod whoami;
mod words;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use exit::Exit;
use terminal::Terminal;
use words::Words;

use crate::client::sysexits;
use crate::wording::without_errno;

/// A command of the executable.
struct Command {
    name: &'static str,
    /// Short description for the overview.
    summary: &'static str,
    help: &'static str,
    /// Runs it; returns the exit code.
    main: fn(Words) -> Result<u8, Exit>,
}

/// In the order of the overview.
static COMMANDS: [Command; 26] = [
    serve::COMMAND,
    bridge::COMMAND,
    check::COMMAND,
    fingerprint::COMMAND,
    watch::COMMAND,
    events::COMMAND,
    run::COMMAND,
    attach::COMMAND,
    wait::COMMAND,
    restart::COMMAND,
    jobs::COMMAND,
    queues::COMMAND,
    queues::PAUSE,
    queues::RESUME,
    kill::COMMAND,
    log::COMMAND,
    status::COMMAND,
    notify::COMMAND,
    alerts::COMMAND,
    alerts::ACK,
    alerts::UNACK,
    emit::COMMAND,
    whoami::COMMAND,
    call::COMMAND,
    key::COMMAND,
    import_legacy::COMMAND,
];

/// Runs the command named on the command line.
pub fn main() -> ExitCode {
    let mut parser = lexopt::Parser::from_env();
    let (name, exit) = match first(&mut parser) {
        Ok(command) => {
            let words = Words::new(parser, command.help);
            (Some(command.name), (command.main)(words))
        }
        Err(exit) => (None, Err(exit)),
    };
    match exit {
        Ok(code) => ExitCode::from(code),
        Err(exit) => ExitCode::from(print_exit(&exit, name)),
    }
}

/// The command named on the command line.
fn first(parser: &mut lexopt::Parser) -> Result<&'static Command, Exit> {
    let usage = |error: lexopt::Error| Exit::usage(error.to_string());
    let name = match parser.next().map_err(usage)? {
        Some(lexopt::Arg::Long("help") | lexopt::Arg::Short('h')) => return Err(Exit::Help("")),
        Some(lexopt::Arg::Long("version") | lexopt::Arg::Short('V')) => {
            writeln!(io::stdout(), "sysadm-events {}", env!("CARGO_PKG_VERSION"))?;
            return Err(Exit::ReaderGone);
        }
        Some(lexopt::Arg::Value(name)) => words::text(name)?,
        Some(option) => return Err(usage(option.unexpected())),
        None => return Err(Exit::usage("which command?")),
    };
    if name == "help" {
        let mut words =
            Words::new(std::mem::replace(parser, lexopt::Parser::from_args([""; 0])), "");
        return match words.next()? {
            Some(words::Word::Value(name)) => Err(Exit::Help(find(&words::text(name)?)?.help)),
            Some(word) => Err(words::unexpected(&word)),
            None => Err(Exit::Help("")),
        };
    }
    find(&name)
}

fn find(name: &str) -> Result<&'static Command, Exit> {
    COMMANDS
        .iter()
        .find(|command| command.name == name)
        .ok_or_else(|| Exit::usage(format!("there is no command {name:?}")))
}

/// Prints why a command ended; returns the exit code.
fn print_exit(exit: &Exit, command: Option<&str>) -> u8 {
    match exit {
        Exit::Help("") => print(&overview()),
        Exit::Help(help) => print(help),
        Exit::Usage(message) => {
            complain(message);
            let name = command.map_or(String::new(), |name| format!("{name} "));
            let _ = writeln!(io::stderr(), "Try \"sysadm-events {name}--help\".");
            exit.code()
        }
        Exit::Failed { message, .. } => {
            complain(message);
            exit.code()
        }
        Exit::ReaderGone => exit.code(),
    }
}

fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()).map_err(Exit::from) {
        Ok(()) | Err(Exit::ReaderGone) => 0,
        Err(exit) => exit.code(),
    }
}

/// Prints a message on standard error. It may contain text of a daemon, so it is escaped.
fn complain(message: &str) {
    let terminal = Terminal::of_this_process(io::stderr().is_terminal());
    let message = without_errno(message);
    let message = escape::text(&message, terminal.unicode || message.is_ascii());
    // A closed standard error is ignored.
    let _ = writeln!(io::stderr(), "sysadm-events: {}", message.trim_end());
}

/// Writes to standard output without buffering: readers of a pipe expect output at once.
fn write(text: &str) -> Result<(), Exit> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Writes JSON: unchanged to a pipe, and with escapes of the same value to a terminal.
fn write_json(text: &str) -> Result<(), Exit> {
    if !io::stdout().is_terminal() {
        return write(text);
    }
    write(&escape::json(text, Terminal::of_this_process(true).unicode))
}

fn overview() -> String {
    let width = COMMANDS.iter().map(|command| command.name.len()).max().unwrap_or(0);
    let commands: String = COMMANDS
        .iter()
        .map(|command| format!("  {:<width$}  {}\n", command.name, command.summary))
        .collect();
    format!(
        "\
Events of a host as they happen: jobs, snapshots and pools, over WebSocket.

Usage: sysadm-events COMMAND [ARGUMENTS]

Commands:
{commands}
Options:
  -h, --help     this text; after a command, about that command
  -V, --version  the version

Exit codes, beside those of a command itself: {} usage, {} no daemon answers,
{} output cannot be written, {} in use, {} protocol, {} not permitted,
{} configuration.

Examples:
  sysadm-events serve
  sysadm-events watch
  sysadm-events run 'pkg update' 'pkg upgrade -y'
",
        sysexits::USAGE,
        sysexits::UNAVAILABLE,
        sysexits::IO,
        sysexits::TEMPORARY,
        sysexits::PROTOCOL,
        sysexits::NO_PERMISSION,
        sysexits::CONFIGURATION,
    )
}

#[cfg(test)]
mod manual_tests;
#[cfg(test)]
mod tests {
    use super::*;

    fn named(line: &[&str]) -> Result<&'static str, Exit> {
        first(&mut lexopt::Parser::from_args(line)).map(|command| command.name)
    }

    #[test]
    fn the_first_word_names_the_command() {
        assert_eq!(named(&["watch", "--json"]).unwrap(), "watch");
        assert!(matches!(named(&["--help"]), Err(Exit::Help(""))));
        assert!(matches!(named(&["help"]), Err(Exit::Help(""))));
        assert!(matches!(named(&["help", "run"]), Err(Exit::Help(help)) if help.contains("run")));
        for wrong in [&[][..], &["wach"], &["--wach"], &["bridges"], &["help", "wach"]] {
            assert!(matches!(named(wrong), Err(Exit::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn every_help_is_in_shape() {
        let texts = COMMANDS.iter().map(|command| (command.name, command.help.to_owned()));
        for (name, help) in texts.chain([("overview", overview())]) {
            assert!(help.ends_with('\n') && !help.ends_with("\n\n"), "{name}");
            assert!(help.contains("Usage: sysadm-events "), "{name}");
            assert!(help.contains("--help"), "{name}");
            assert!(help.is_ascii(), "{name}: read on any console");
            for line in help.lines() {
                assert!(line.len() <= 80 && line.trim_end() == line, "{name}: {line:?}");
            }
        }
    }

    #[test]
    fn every_command_has_its_own_help() {
        for command in &COMMANDS {
            let words = Words::new(lexopt::Parser::from_args(["--help"]), command.help);
            let Err(Exit::Help(help)) = (command.main)(words) else { panic!("{}", command.name) };
            assert_eq!(help, command.help);
            assert!(help.contains(&format!("Usage: sysadm-events {}", command.name)), "{help}");
        }
    }
}

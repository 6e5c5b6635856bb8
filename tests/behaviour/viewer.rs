//! A command on the screen of a terminal emulator.

use std::io::Read;
use std::num::NonZero;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Cli, Outcome, PATIENCE, Pty, PtySize};
use vt100::Parser;

/// A command, and its screen.
pub(super) struct Viewer {
    child: Child,
    size: PtySize,
    screen: Arc<(Mutex<Parser>, Condvar)>,
}

fn cells(size: (u16, u16)) -> (NonZero<u16>, NonZero<u16>) {
    (NonZero::new(size.0).unwrap(), NonZero::new(size.1).unwrap())
}

impl Viewer {
    /// Starts a command on a terminal of this many rows and columns.
    pub(super) fn start(cli: Cli, size: (u16, u16)) -> Outcome<Viewer> {
        let terminal = Pty::of_size(size.0, size.1)?;
        let control = terminal.size()?;
        let mut command = cli.env("TERM", "xterm-256color").into_command();
        command.stdin(terminal.stdio()?).stdout(terminal.stdio()?).stderr(terminal.stdio()?);
        let child = command.spawn()?;
        // The command holds copies of the terminal, and would keep it open.
        drop(command);
        let (rows, columns) = cells(size);
        let screen = Arc::new((Mutex::new(Parser::new(rows, columns, 0)), Condvar::new()));
        let ours = screen.clone();
        let mut output = terminal.into_screen();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                ours.0.lock().unwrap().process(&bytes[..read]);
                ours.1.notify_all();
            }
        });
        Ok(Viewer { child, size: control, screen })
    }

    /// Changes the size of the terminal.
    pub(super) fn resize(&self, size: (u16, u16)) -> Outcome<()> {
        let (rows, columns) = cells(size);
        self.screen.0.lock().unwrap().set_size(rows, columns);
        self.size.set(size.0, size.1)?;
        self.signal(Signal::SIGWINCH)
    }

    /// Sends the command a signal.
    pub(super) fn signal(&self, signal: Signal) -> Outcome<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Waits until `wanted` returns true for the lines of the screen; returns them without empty
    /// ones at the end.
    pub(super) fn wait(&self, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let parser = self.screen.0.lock().unwrap();
        let is_missing = |parser: &mut Parser| !wanted(&lines(parser));
        let (parser, waited) =
            self.screen.1.wait_timeout_while(parser, PATIENCE, is_missing).unwrap();
        assert!(!waited.timed_out(), "the screen: {:#?}", lines(&parser));
        lines(&parser)
    }

    /// The same once a line ends with `text`.
    pub(super) fn wait_for(&self, text: &str) -> Vec<String> {
        self.wait(|lines| lines.iter().any(|line| line.ends_with(text)))
    }
}

/// The lines of the screen. A duration of whole seconds at the end of one is `0 s`: how long a job
/// takes depends on the machine.
fn lines(parser: &Parser) -> Vec<String> {
    let (_, columns) = parser.screen().size();
    let rows = parser.screen().rows(0, columns.get());
    let timeless = |row: String| {
        let row = row.trim_end();
        let seconds = row.strip_suffix(" s").and_then(|row| row.rsplit_once(" after "));
        match seconds.filter(|(_, digits)| digits.bytes().all(|byte| byte.is_ascii_digit())) {
            Some((event, _)) => format!("{event} after 0 s"),
            None => row.to_owned(),
        }
    };
    let mut lines: Vec<String> = rows.map(timeless).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// Lines with each time of day as `hh:mm:ss`.
pub(super) fn timeless(lines: &[String]) -> Vec<String> {
    let of = |line: &String| {
        let is_time = line.bytes().take(8).enumerate().all(|(at, byte)| match at {
            2 | 5 => byte == b':',
            _ => byte.is_ascii_digit(),
        });
        if is_time && line.len() > 8 { format!("hh:mm:ss{}", &line[8..]) } else { line.clone() }
    };
    lines.iter().map(of).collect()
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

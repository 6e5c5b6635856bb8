//! The command line: the real executable, its output and its exit code.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;

use crate::{Daemon, Log, Outcome, Process, Pty};

/// A command line under construction.
#[derive(Debug)]
pub struct Cli(Command);

/// A command that was started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Lines of standard output.
    pub out: Log,
    /// Lines of standard error.
    pub err: Log,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Finished {
    /// The exit code; -1 where a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

impl Cli {
    /// A command of the executable.
    pub fn of(program: impl AsRef<OsStr>, command: &str) -> Cli {
        let mut cli = Command::new(program);
        // The tester's terminal settings must not matter.
        cli.arg(command).env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        // A background process of an interactive shell ignores SIGINT, and so would the command.
        // SAFETY: between fork and exec only one system call is made.
        unsafe {
            cli.pre_exec(|| Ok(signal(Signal::SIGINT, SigHandler::SigDfl).map(drop)?));
        }
        Cli(cli)
    }

    /// A command for this daemon, by its local socket.
    pub fn to(daemon: &Daemon, command: &str) -> Cli {
        Cli::of(daemon.program(), command).arg("--socket").arg(daemon.socket())
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Cli {
        self.0.arg(argument);
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args<I: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = I>) -> Cli {
        self.0.args(arguments);
        self
    }

    /// With a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Cli {
        self.0.env(name, value);
        self
    }

    /// As another user, in this group only; requires root.
    #[must_use]
    pub fn as_user(mut self, user: u32, group: u32) -> Cli {
        self.0.uid(user).gid(group);
        self
    }

    /// Starts it, in a process group of its own, without a terminal.
    pub fn start(mut self) -> Outcome<Running> {
        self.0.process_group(0);
        self.0.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.0.spawn()?;
        let out = Log::of(child.stdout.take().ok_or("no standard output")?);
        let err = Log::of(child.stderr.take().ok_or("no standard error")?);
        Ok(Running { child, out, err })
    }

    /// Starts it on a terminal, where both outputs are one.
    pub fn start_on_terminal(self) -> Outcome<Running> {
        self.start_on_terminal_typing("")
    }

    /// The same with typed input.
    pub fn start_on_terminal_typing(mut self, text: &str) -> Outcome<Running> {
        let mut terminal = Pty::new()?;
        terminal.type_in(text)?;
        self.0.stdin(terminal.stdio()?).stdout(terminal.stdio()?).stderr(terminal.stdio()?);
        let child = self.0.spawn()?;
        // The command holds copies of the terminal, and would keep it open.
        drop(self);
        let out = Log::of(terminal.into_screen());
        Ok(Running { child, out, err: Log::of(std::io::empty()) })
    }

    /// For uses not covered here.
    pub fn into_command(self) -> Command {
        self.0
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome<Finished> {
        self.start()?.wait()
    }

    /// Runs it to its end with input; its output unchanged, where that is UTF-8.
    pub fn run_with_input(mut self, input: &[u8]) -> Outcome<Finished> {
        self.0.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.0.spawn()?;
        child.stdin.take().ok_or("no standard input")?.write_all(input)?;
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Ok(Finished { status: output.status, out, err })
    }
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?;
        Ok(())
    }

    /// Sends it and all its descendants a signal. To be called while it runs.
    pub fn signal_all(&self, signal: Signal) -> Outcome<()> {
        kill(Pid::from_raw(-i32::try_from(self.child.id())?), signal)?;
        Ok(())
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Waits for its end, within the time limit.
    pub fn wait(mut self) -> Outcome<Finished> {
        let lines = |log: &Log| -> Outcome<String> {
            Ok(log.wait_end()?.iter().map(|line| format!("{line}\n")).collect())
        };
        let (out, err) = (lines(&self.out)?, lines(&self.err)?);
        let status = self.child.wait()?;
        Ok(Finished { status, out, err })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal_all(Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

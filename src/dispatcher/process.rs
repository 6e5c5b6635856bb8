//! The processes of jobs: start, output, exit.
//!
//! The I/O around the dispatcher's state machine. Nothing here blocks: the pipe is non-blocking,
//! and a failed start is reported after the child's exit.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mio::unix::pipe::Receiver;
use nix::unistd::Pid;

use super::command::Command;
use super::submission::Submission;
use crate::sys::children::Exit;
use crate::sys::descriptors::DescriptorLimit;
use crate::sys::process_tree::MARK_NAME;
use crate::sys::spawn::{self, Child, Program, Report, RunAs, Step};
use crate::wording::without_errno;

/// Environment common to all jobs.
#[derive(Debug)]
pub struct Environment {
    home: Option<CString>,
    user: Option<CString>,
    null: OwnedFd,
    limit: Option<DescriptorLimit>,
}

/// `PATH` of jobs, independent of the daemon's.
const PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin";

impl Environment {
    /// `home` and `user` are the daemon's own.
    pub fn new(home: &Path, user: &str, limit: Option<DescriptorLimit>) -> io::Result<Environment> {
        let home = CString::new([b"HOME=", home.as_os_str().as_bytes()].concat())?;
        let user = CString::new(format!("USER={user}"))?;
        Ok(Environment { home: Some(home), user: Some(user), null: spawn::open_null()?, limit })
    }

    /// The mark of a job in the environment of all its processes.
    pub fn mark(epoch: &str, serial: u64) -> String {
        format!("{MARK_NAME}{epoch}.{serial}")
    }
}

/// A running command.
#[derive(Debug)]
pub struct Process {
    /// The started process.
    pub pid: Pid,
    output: Option<Receiver>,
    report: Report,
    /// Its exit, once known.
    pub exit: Option<Exit>,
}

/// Result of reading the output.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// This many bytes in the buffer; there may be more.
    Read(usize),
    /// Nothing available.
    Blocked,
    /// The pipe is closed.
    End,
}

/// Bytes read at once: the size of a pipe.
pub(super) const READ: usize = 64 * 1024;

impl Process {
    /// Starts a command of a job. An error means that no attempt was possible.
    pub fn start(
        command: &Command,
        asked: &Submission,
        mark: &str,
        environment: &Environment,
    ) -> Result<Process, String> {
        let name = command.words.first().map_or("", String::as_str);
        let failed = |error: io::Error| {
            format!("cannot start {name:?}: {}", without_errno(&error.to_string()))
        };
        let given = |key: &str| asked.env.contains_key(key);
        let path = asked.env.get("PATH").map_or(PATH, String::as_str);
        let candidates = c_strings(candidates(name, path)).map_err(failed)?;
        let argv = c_strings(command.words.iter().cloned()).map_err(failed)?;
        let fixed = [("PATH", PATH), ("LANG", "C.UTF-8")].into_iter();
        let fixed =
            fixed.filter(|(key, _)| !given(key)).map(|(key, value)| format!("{key}={value}"));
        let own = asked.env.iter().map(|(key, value)| format!("{key}={value}"));
        let env =
            c_strings([mark.to_owned()].into_iter().chain(fixed).chain(own)).map_err(failed)?;
        let cwd =
            CString::new(asked.cwd.as_deref().unwrap_or("/")).map_err(|e| failed(e.into()))?;
        let child = spawn::spawn(&Program {
            candidates: &candidates,
            argv: &argv,
            env: &env,
            home: environment.home.clone().filter(|_| !given("HOME")),
            user: environment.user.clone().filter(|_| !given("USER")),
            cwd: &cwd,
            run_as: asked.user.as_ref(),
            null: environment.null.as_raw_fd(),
            limit: environment.limit,
            errors_apart: false,
            ends_with_us: false,
        });
        let Child { pid, output, errors: _, report } = child.map_err(failed)?;
        let output = Some(Receiver::from(output));
        Ok(Process { pid, output, report, exit: None })
    }

    /// The pipe, for registration, while it is open.
    pub fn output(&mut self) -> Option<&mut Receiver> {
        self.output.as_mut()
    }

    /// True until the output has ended.
    pub fn is_open(&self) -> bool {
        self.output.is_some()
    }

    /// Reads once.
    pub fn read(&mut self, scratch: &mut [u8]) -> Output {
        let Some(output) = &mut self.output else { return Output::End };
        let room = scratch.len().min(READ);
        match output.read(scratch.get_mut(..room).unwrap_or_default()) {
            Ok(0) => Output::End,
            Ok(n) => Output::Read(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Output::Blocked,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Output::Read(0),
            Err(_) => Output::End,
        }
    }

    /// Takes the pipe, to be unregistered by the owner of the registration.
    pub fn take_output(&mut self) -> Option<Receiver> {
        self.output.take()
    }

    /// After the end: why the program could not be started.
    pub fn start_failure(self, command: &Command, asked: &Submission) -> Option<String> {
        let (step, error) = self.report.failure()?;
        let is_unknown = error.kind() == io::ErrorKind::NotFound;
        let error = error.to_string();
        let error = without_errno(&error);
        let name = command.words.first().map_or("", String::as_str);
        Some(match step {
            Step::Run => format!("cannot run {name}: {error}"),
            Step::Enter => {
                let directory = asked.cwd.as_deref().unwrap_or("/");
                format!("cannot enter the directory {directory}: {error}")
            }
            Step::Become => match &asked.user {
                Some(RunAs::Name(user)) if is_unknown => {
                    format!("there is no user {user}")
                }
                Some(RunAs::Name(user)) => format!("cannot become the user {user}: {error}"),
                Some(RunAs::Number(user)) => format!("cannot become the user {user}: {error}"),
                None => format!("cannot become the user: {error}"),
            },
            Step::Prepare => format!("cannot start {name}: {error}"),
        })
    }
}

fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    path.split(':')
        .map(|folder| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") })
        .collect()
}

fn c_strings(strings: impl IntoIterator<Item = String>) -> io::Result<Vec<CString>> {
    strings.into_iter().map(|string| Ok(CString::new(OsStr::new(&string).as_bytes())?)).collect()
}

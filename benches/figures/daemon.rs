//! A daemon of its own for each measurement: fresh state, a private directory, ended afterwards.
//!
//! It runs with the defaults that everybody gets; only addresses and paths differ, and what a
//! measurement says itself.

use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Outcome;
use super::process::Process;

/// The program that is measured: the release build, as it is installed.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sysadm-events");

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running daemon; dropping it ends it and removes its directory.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    directory: PathBuf,
    /// `HOST:PORT` without TLS.
    pub(crate) plain: String,
    /// `HOST:PORT` with TLS.
    pub(crate) tls: String,
    /// Lower-case hex of the certificate's SHA-256.
    pub(crate) fingerprint: String,
}

impl Daemon {
    /// Starts one and waits until it says that it is ready.
    pub(crate) fn start() -> Outcome<Daemon> {
        Daemon::start_with("")
    }

    /// The same, with more lines at the end of its configuration.
    pub(crate) fn start_with(more: &str) -> Outcome<Daemon> {
        let directory = env::temp_dir().join(format!(
            "sysadm-events-bench-{}-{}",
            process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        ));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let file = directory.join("bench.toml");
        fs::write(&file, configuration(&directory) + more)?;
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut daemon = Daemon {
            child,
            directory,
            plain: String::new(),
            tls: String::new(),
            fingerprint: String::new(),
        };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// The path of its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// The process to look at.
    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    fn wait_until_ready(&mut self) -> Outcome<()> {
        let mut lines = BufReader::new(self.child.stderr.take().ok_or("no standard error")?);
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Err(format!("the daemon did not start:\n{seen}").into());
            }
            seen.push_str(&line);
            let text = line.trim_end();
            if let Some((_, fingerprint)) = text.split_once("certificate sha256 ") {
                self.fingerprint = fingerprint.to_owned();
            } else if let Some((_, address)) = text.split_once("listening on wss://") {
                self.tls = address.to_owned();
            } else if let Some((_, address)) = text.split_once("listening on ws://") {
                self.plain = address.to_owned();
            } else if text.contains("ready, pid ") {
                break;
            }
        }
        drain(lines);
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let patience = Instant::now() + Duration::from_secs(15);
        while Instant::now() < patience && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Keeps the log's pipe empty, so that the daemon is never held up by it; warnings are shown.
fn drain(mut lines: BufReader<ChildStderr>) {
    thread::spawn(move || {
        let mut line = String::new();
        while lines.by_ref().read_line(&mut line).is_ok_and(|length| length > 0) {
            if line.contains(" WARN ") || line.contains(" ERROR ") {
                eprint!("daemon: {line}");
            }
            line.clear();
        }
    });
}

fn configuration(directory: &Path) -> String {
    let path = |name: &str| format!("{:?}", directory.join(name));
    format!(
        "[server]\n\
         listen = [\"127.0.0.1:0\"]\n\
         listen_plain = [\"127.0.0.1:0\"]\n\
         socket = {}\n\
         certificate = {}\n\
         private_key = {}\n\
         [life_preserver]\n\
         log = \"\"\n\
         [paths]\n\
         state = {}\n\
         [log]\n\
         target = \"stderr\"\n",
        path("socket"),
        path("cert.pem"),
        path("key.pem"),
        path("state"),
    )
}

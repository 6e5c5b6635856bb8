//! A daemon for each test and measurement: fresh state, a private directory, free ports, stopped
//! afterwards. It has the default configuration except for addresses, paths and the keys set by the
//! test.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, chown};

use crate::{Directory, Log, Outcome, Process, SLOWNESS};

/// Parameters of a daemon; it can be started repeatedly on the same state.
#[derive(Clone, Debug)]
pub struct Setup {
    program: PathBuf,
    /// The command: server or relay.
    command: &'static str,
    /// A wrapper program that executes the daemon with its arguments.
    under: Vec<String>,
    directory: Arc<Directory>,
    /// By section and key, as TOML.
    keys: BTreeMap<(String, String), String>,
    /// After the keys: sections that may be repeated.
    more: String,
    env: Vec<(String, String)>,
    /// User of the daemon; the user of the tests by default.
    user: Option<u32>,
}

/// Keys that give clients time, and their defaults: the clients of a slow host need more.
const TIMES_OF_CLIENTS: [(&str, &str); 5] = [
    ("handshake_timeout", r#""10000ms""#),
    ("auth_timeout", r#""30000ms""#),
    ("message_timeout", r#""30000ms""#),
    ("close_timeout", r#""5000ms""#),
    ("ping_interval", r#""30000ms""#),
];

/// Keys that give helpers time.
const TIMES_OF_HELPERS: [&str; 3] = ["check_deadline", "lookup_deadline", "helper_idle"];

/// A time in milliseconds, multiplied by the slowness of this host; anything else as it is.
fn slowed(value: String) -> String {
    let number = value.strip_prefix('"').and_then(|value| value.strip_suffix("ms\""));
    match number.and_then(|number| number.parse::<u32>().ok()) {
        Some(number) => format!("\"{}ms\"", number * SLOWNESS),
        None => value,
    }
}

impl Setup {
    /// A daemon with the defaults, on a host without ZFS: TLS and plain on free ports of loopback, a
    /// local socket.
    pub fn new(program: &str) -> Outcome<Setup> {
        let directory = Arc::new(Directory::new()?);
        let path = |name: &str| format!("{:?}", directory.join(name));
        let keys = [
            ("server.listen", r#"["127.0.0.1:0"]"#.to_owned()),
            ("server.listen_plain", r#"["127.0.0.1:0"]"#.to_owned()),
            ("server.socket", path("socket")),
            ("server.certificate", path("cert.pem")),
            ("server.private_key", path("key.pem")),
            ("life_preserver.log", r#""""#.to_owned()),
            ("paths.state", path("state")),
            ("log.target", r#""stderr""#.to_owned()),
            // Pools of the host must not influence a test; each check costs it processes.
            ("system_state.zpool", r#""/nonexistent/zpool""#.to_owned()),
        ];
        Ok(Setup::of(program, "serve", directory, &keys))
    }

    /// A relay with the defaults, but as the user who runs the tests: TLS on a free port of
    /// loopback, a local socket.
    pub fn bridge(program: &str) -> Outcome<Setup> {
        let directory = Arc::new(Directory::new()?);
        let path = |name: &str| format!("{:?}", directory.join(name));
        let keys = [
            ("relay.listen", r#"["127.0.0.1:0"]"#.to_owned()),
            ("relay.socket", path("socket")),
            ("relay.certificate", path("cert.pem")),
            ("relay.private_key", path("key.pem")),
            ("relay.state", path("state")),
            ("relay.user", r#""""#.to_owned()),
            ("log.target", r#""stderr""#.to_owned()),
        ];
        Ok(Setup::of(program, "bridge", directory, &keys))
    }

    fn of(
        program: &str,
        command: &'static str,
        directory: Arc<Directory>,
        keys: &[(&str, String)],
    ) -> Setup {
        let program = program.into();
        let (more, env) = (String::new(), Vec::new());
        let (under, user) = (Vec::new(), None);
        let none = BTreeMap::new();
        let mut setup = Setup { program, command, under, directory, keys: none, more, env, user };
        for (key, value) in keys {
            setup.set(key, value);
        }
        let section = if command == "serve" { "server" } else { "relay" };
        for (key, default) in TIMES_OF_CLIENTS.iter().filter(|_| SLOWNESS > 1) {
            setup.set(&format!("{section}.{key}"), default);
        }
        setup
    }

    /// The same with a key, `section.key`, set to a value, written as in TOML.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Setup {
        self.set(key, value);
        self
    }

    /// Sets a key for the next start or reload.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        let (section, key) = key.split_once('.').unwrap_or(("", key));
        let mut value = value.to_string();
        let is_of_client = TIMES_OF_CLIENTS.iter().any(|(name, _)| *name == key);
        if is_of_client || TIMES_OF_HELPERS.contains(&key) {
            value = slowed(value);
        }
        self.keys.insert((section.to_owned(), key.to_owned()), value);
    }

    /// The same with lines behind the keys.
    #[must_use]
    pub fn with_lines(mut self, lines: &str) -> Setup {
        self.more.push_str(lines);
        self
    }

    /// The same with a variable in the daemon's environment.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, started by a shell that runs this script first: ignored signals, descriptors and
    /// limits are inherited by the daemon.
    #[must_use]
    pub fn after_shell(self, script: &str) -> Setup {
        self.under(["sh", "-c", &format!("{script}\nexec \"$@\""), "sh"])
    }

    /// The same, executed by a wrapper program.
    #[must_use]
    pub fn under<S: Into<String>>(mut self, program: impl IntoIterator<Item = S>) -> Setup {
        self.under = program.into_iter().map(Into::into).collect();
        self
    }

    /// The same with program and socket accessible to other users, wherever the tests were built.
    pub fn open_to_all(mut self) -> Outcome<Setup> {
        fs::set_permissions(self.directory.path(), Permissions::from_mode(0o711))?;
        let program = self.directory.join("sysadm-events");
        // By another process: a child that is forked meanwhile would hold a descriptor of the copy,
        // and a file that is open for writing cannot be run.
        let copied = Command::new("cp").arg(&self.program).arg(&program).status()?;
        if !copied.success() {
            return Err("cannot copy the program".into());
        }
        self.program = program;
        Ok(self)
    }

    /// The same as another user, who owns its directory; requires root.
    pub fn as_user(mut self, user: u32) -> Outcome<Setup> {
        chown(self.directory.path(), Some(Uid::from_raw(user)), None)?;
        self.user = Some(user);
        Ok(self)
    }

    /// Its directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The file of its configuration.
    pub fn file(&self) -> PathBuf {
        self.directory.join("sysadm-events.toml")
    }

    /// Writes the configuration: at a start, or before a SIGHUP.
    pub fn write(&self) -> Outcome<()> {
        let mut text = String::new();
        let mut section = "";
        for ((of, key), value) in &self.keys {
            if of != section {
                section = of;
                text.push_str(&format!("[{section}]\n"));
            }
            text.push_str(&format!("{key} = {value}\n"));
        }
        fs::write(self.file(), text + &self.more)?;
        Ok(())
    }

    /// Starts it and waits until it is ready.
    pub fn start(&self) -> Outcome<Daemon> {
        let mut daemon = self.launch()?;
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// Starts it without waiting.
    pub fn launch(&self) -> Outcome<Daemon> {
        self.write()?;
        let mut command = match self.under.split_first() {
            None => Command::new(&self.program),
            Some((under, arguments)) => {
                let mut command = Command::new(under);
                command.args(arguments).arg(&self.program);
                command
            }
        };
        if let Some(user) = self.user {
            command.uid(user);
        }
        let mut child = command
            .arg(self.command)
            .arg("-c")
            .arg(self.file())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = Log::of(child.stderr.take().ok_or("no standard error")?);
        Ok(Daemon {
            child,
            ended: None,
            directory: Arc::clone(&self.directory),
            program: self.program.clone(),
            log,
            plain: String::new(),
            tls: String::new(),
            fingerprint: String::new(),
        })
    }
}

/// A running daemon; dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    ended: Option<ExitStatus>,
    directory: Arc<Directory>,
    program: PathBuf,
    log: Log,
    plain: String,
    tls: String,
    fingerprint: String,
}

impl Daemon {
    /// One with the defaults.
    pub fn start(program: &str) -> Outcome<Daemon> {
        Setup::new(program)?.start()
    }

    /// The executable.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// `HOST:PORT` without TLS.
    pub fn plain(&self) -> &str {
        &self.plain
    }

    /// `HOST:PORT` with TLS.
    pub fn tls(&self) -> &str {
        &self.tls
    }

    /// Lower-case hex of the certificate's SHA-256.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The same with another expected fingerprint.
    #[must_use]
    pub fn with_fingerprint(mut self, fingerprint: &str) -> Daemon {
        fingerprint.clone_into(&mut self.fingerprint);
        self
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    fn wait_until_ready(&mut self) -> Outcome<()> {
        self.log.wait("ready, pid ")?;
        for line in self.log.lines() {
            if let Some((_, fingerprint)) = line.split_once("certificate sha256 ") {
                self.fingerprint = fingerprint.to_owned();
            } else if let Some((_, address)) = line.split_once("listening on wss://") {
                self.tls = address.to_owned();
            } else if let Some((_, address)) = line.split_once("listening on ws://") {
                self.plain = address.to_owned();
            }
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?;
        Ok(())
    }

    /// SIGHUP, and waits for the line with the result.
    pub fn reload(&self) -> Outcome<String> {
        let (before, said) = (self.log.lines().len(), "reload");
        self.signal(Signal::SIGHUP)?;
        Ok(self.log.wait_from(before, said)?.0)
    }

    /// The signal that asks for a status line.
    pub fn ask_for_status(&self) -> Outcome<()> {
        #[cfg(target_os = "freebsd")]
        const STATUS: Signal = Signal::SIGINFO;
        #[cfg(not(target_os = "freebsd"))]
        const STATUS: Signal = Signal::SIGUSR1;
        self.signal(STATUS)
    }

    /// Waits for its end; returns the status and the log.
    pub fn wait(&mut self) -> Outcome<(ExitStatus, Vec<String>)> {
        // Its log ends with it, so that the wait can have a limit.
        let lines = self.log.wait_end()?;
        let status = match self.ended {
            Some(status) => status,
            None => self.child.wait()?,
        };
        self.ended = Some(status);
        Ok((status, lines))
    }

    /// SIGTERM, and waits; an error unless it exits with code 0.
    pub fn stop(self) -> Outcome<Vec<String>> {
        self.signal(Signal::SIGTERM)?;
        self.stop_was_asked()
    }

    /// The same after SIGTERM was sent.
    pub fn stop_was_asked(mut self) -> Outcome<Vec<String>> {
        let (status, lines) = self.wait()?;
        if status.code() == Some(0) {
            Ok(lines)
        } else {
            Err(format!("it ended with {status}:\n{}", lines.join("\n")).into())
        }
    }

    /// SIGKILL, and waits.
    pub fn crash(mut self) -> Outcome<()> {
        self.child.kill()?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        if status.signal() == Some(Signal::SIGKILL as i32) {
            Ok(())
        } else {
            Err(status.to_string().into())
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let _ = self.signal(Signal::SIGTERM);
        if self.wait().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

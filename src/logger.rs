//! The log: lines to standard error or to syslog, without ever blocking.
//!
//! A full pipe or a stuck syslogd loses lines, and never blocks; the number of lost lines is logged
//! as soon as there is room again. Without a reachable syslogd (a container, a supervisor that
//! reads standard error) lines go to standard error.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::config::LogTarget;
use crate::sys::confinement::{self, Right};
use crate::sys::standard_error;
use crate::wire::rfc3339;
use crate::wording::{counted, without_errno};

/// Maximum length of a line, in bytes.
const LINE: usize = 2048;
/// syslogd's socket: Linux, FreeBSD.
const SOCKETS: [&str; 2] = ["/dev/log", "/var/run/log"];
/// `LOG_DAEMON` of syslog(3), shifted as the wire has it.
const DAEMON: u8 = 3 << 3;

/// A directory that has or may get syslogd's socket, opened for a process in capability mode.
struct SocketDirectory {
    directory: File,
    /// The path of `directory` when it was opened.
    path: PathBuf,
    /// The name of the socket.
    name: String,
}

/// Result of sending a line to syslog.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Sent,
    /// The socket's buffer is full.
    Full,
    /// No socket accepts a connection.
    Unreachable,
}

struct Logger {
    lost: AtomicU64,
}

thread_local! {
    /// The process has one thread.
    static SYSLOG: RefCell<Option<UnixDatagram>> = const { RefCell::new(None) };
    static TO_SYSLOG: RefCell<bool> = const { RefCell::new(false) };
    static DIRECTORIES: RefCell<Vec<SocketDirectory>> = const { RefCell::new(Vec::new()) };
}

static LOGGER: Logger = Logger { lost: AtomicU64::new(0) };

/// Starts logging; may be called again with another level.
pub fn begin(level: LevelFilter, target: LogTarget) {
    let syslog = match target {
        LogTarget::Auto => !io::stderr().is_terminal(),
        LogTarget::Stderr => false,
        LogTarget::Syslog => true,
    };
    TO_SYSLOG.with_borrow_mut(|to| *to = syslog);
    // It fails on a second call, when the logger is installed already.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Changes the level.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Opens the directories of syslogd's socket, before the process enters capability mode: syslogd
/// may be started later, or restarted.
pub fn open_socket_directories() {
    if !TO_SYSLOG.with_borrow(|to| *to) {
        return;
    }
    let opened = SOCKETS.iter().filter_map(|path| socket_directory(Path::new(path)).ok()).collect();
    DIRECTORIES.with_borrow_mut(|directories| *directories = opened);
    SYSLOG.with_borrow_mut(|socket| *socket = connect());
}

/// Opens the directory of a socket after resolving links: below an open directory no link may lead
/// out of it, and rc.d/syslogd of FreeBSD makes `/dev/log` a link to `/var/run/log`.
fn socket_directory(path: &Path) -> io::Result<SocketDirectory> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (Some(folder), Some(name)) = (real.parent(), real.file_name().and_then(OsStr::to_str))
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = File::open(folder)?;
    confinement::limit(directory.as_fd(), Right::ConnectBelow)?;
    Ok(SocketDirectory { directory, path: folder.to_owned(), name: name.to_owned() })
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Lines of libraries concern their internals.
        metadata.target().starts_with("sysadm_events")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 && write(Level::Warn, &format!("lost {}", counted(lost, "log line"))) {
            self.lost.store(0, Ordering::Relaxed);
        }
        if !write(record.level(), &record.args().to_string()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn write(level: Level, text: &str) -> bool {
    let text = harmless(&without_errno(text));
    if TO_SYSLOG.with_borrow(|to| *to) {
        match to_syslog(level, &text) {
            Delivery::Sent => return true,
            Delivery::Full => return false,
            Delivery::Unreachable => {}
        }
    }
    to_stderr(level, &text)
}

/// One line of bounded length without control characters: it may quote a peer's text.
fn harmless(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LINE));
    for c in text.chars() {
        if line.len() + c.len_utf8() > LINE - 64 {
            line.push('…');
            break;
        }
        match c {
            '\n' => line.push_str("\\n"),
            c if c.is_control() => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

fn to_stderr(level: Level, text: &str) -> bool {
    let line = format!("{} {level:<5} {text}\n", rfc3339(SystemTime::now()));
    standard_error::write_line(line.as_bytes())
}

fn to_syslog(level: Level, text: &str) -> Delivery {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    // RFC 3164 without a time: syslogd adds its own.
    let line = format!("<{}>sysadm-events[{}]: {text}", DAEMON + severity, std::process::id());
    SYSLOG.with_borrow_mut(|socket| {
        for _ in 0..2 {
            if socket.is_none() {
                *socket = connect();
            }
            match socket.as_ref().map(|socket| socket.send(line.as_bytes())) {
                Some(Ok(_)) => return Delivery::Sent,
                Some(Err(error)) if is_full(&error) => return Delivery::Full,
                // syslogd was restarted: retry once with a new socket.
                Some(Err(_)) => *socket = None,
                None => return Delivery::Unreachable,
            }
        }
        Delivery::Unreachable
    })
}

/// True where the socket has no room now: Linux reports EAGAIN, FreeBSD ENOBUFS.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    let is_connected = DIRECTORIES.with_borrow(|directories| {
        if directories.is_empty() {
            return SOCKETS.iter().any(|path| socket.connect(path).is_ok());
        }
        directories.iter().any(|SocketDirectory { directory, path, name }| {
            confinement::connect_below(directory.as_fd(), path, name, &socket).is_ok()
        })
    });
    is_connected.then_some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_bounded_and_without_control_characters() {
        assert_eq!(harmless("a\nb\x1b[31m"), "a\\nb\\u{1b}[31m");
        let long = harmless(&"ä".repeat(5000));
        assert!(long.len() < LINE && long.ends_with('…'));
    }

    #[test]
    fn socket_directory_is_found_behind_links_and_before_the_socket() {
        let folder = std::env::temp_dir().join(format!("se-logger-{}", std::process::id()));
        let (dev, run) = (folder.join("dev"), folder.join("run"));
        for made in [&dev, &run] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::os::unix::fs::symlink(run.join("log"), dev.join("log")).unwrap();
        let ends = |path: &Path| {
            let SocketDirectory { path, name, .. } = socket_directory(path).unwrap();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), name)
        };
        assert_eq!(ends(&run.join("log")), ("run".to_owned(), "log".to_owned()));
        let _syslogd = UnixDatagram::bind(run.join("log")).unwrap();
        assert_eq!(ends(&dev.join("log")), ("run".to_owned(), "log".to_owned()));
        assert!(socket_directory(&folder.join("none/log")).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

//! A `zpool` child process: started, read, killed. Nothing here blocks.

use std::env;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mio::unix::pipe::Receiver;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::sys::descriptors::DescriptorLimit;
use crate::sys::spawn::{self, Child, Program, Report, Step};

/// Starts them.
#[derive(Debug)]
pub struct Starter {
    null: OwnedFd,
    limit: Option<DescriptorLimit>,
}

/// Directories searched for `zpool` after those in the daemon's `PATH`.
const FOLDERS: [&str; 3] = ["/sbin", "/usr/local/sbin", "/usr/sbin"];
/// Environment of the child; its messages are parsed, so they must be in English.
const ENVIRONMENT: [&std::ffi::CStr; 2] =
    [c"LC_ALL=C", c"PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"];

impl Starter {
    /// `limit` is the descriptor limit with which the daemon was started.
    pub fn new(limit: Option<DescriptorLimit>) -> io::Result<Starter> {
        Ok(Starter { null: spawn::open_null()?, limit })
    }

    /// Starts `zpool`, by path or by name. An error means that there is no child; a failed exec is
    /// reported by [`Process::failure`] after the child's end.
    pub fn start(&self, zpool: &Path, arguments: &[String]) -> io::Result<Process> {
        let candidates: io::Result<Vec<CString>> = candidates(zpool)
            .iter()
            .map(|path| Ok(CString::new(path.as_os_str().as_bytes())?))
            .collect();
        let name = CString::new(zpool.as_os_str().as_bytes())?;
        let arguments = arguments.iter().map(|argument| Ok(CString::new(argument.as_str())?));
        let argv: io::Result<Vec<CString>> = [Ok(name)].into_iter().chain(arguments).collect();
        let child = spawn::spawn(&Program {
            candidates: &candidates?,
            argv: &argv?,
            env: &ENVIRONMENT.map(CString::from),
            home: None,
            user: None,
            cwd: &CString::from(c"/"),
            run_as: None,
            null: self.null.as_raw_fd(),
            limit: self.limit,
            errors_apart: true,
            ends_with_us: true,
        });
        let Child { pid, output, errors, report } = child?;
        let errors = errors.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Process { pid, output: output.into(), errors: errors.into(), report })
    }
}

/// Whether this program would be found, by path or by name.
pub fn is_found(zpool: &Path) -> bool {
    candidates(zpool).iter().any(|candidate| candidate.is_file())
}

/// The `zdb` that belongs to a `zpool`: beside one that is not the system's, else looked up by
/// name, because FreeBSD has `zpool` in `/sbin` and `zdb` in `/usr/sbin`.
pub fn zdb_beside(zpool: &Path) -> PathBuf {
    let of_the_system = |folder: &Path| FOLDERS.iter().any(|known| folder == Path::new(known));
    match zpool.parent() {
        Some(folder) if zpool.is_absolute() && !of_the_system(folder) => folder.join("zdb"),
        Some(_) | None => PathBuf::from("zdb"),
    }
}

/// The `zfs` that belongs to a `zpool`: beside one that is not the system's, else looked up by name.
pub fn zfs_beside(zpool: &Path) -> PathBuf {
    zdb_beside(zpool).with_file_name("zfs")
}

fn candidates(zpool: &Path) -> Vec<PathBuf> {
    if zpool.is_absolute() {
        return vec![zpool.to_owned()];
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let own = env::split_paths(&path).filter(|folder| folder.is_absolute());
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in own.chain(FOLDERS.iter().map(PathBuf::from)) {
        let candidate = folder.join(zpool);
        if !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    /// The process, leader of its own process group.
    pub pid: Pid,
    /// Standard output.
    pub output: Receiver,
    /// Standard error.
    pub errors: Receiver,
    report: Report,
}

impl Process {
    /// Kills it and its process group, without waiting.
    pub fn kill(&self) {
        // Each fails where no process is left; the first also before the child has created its
        // group.
        let _ = killpg(self.pid, Signal::SIGKILL);
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// After its end: why it could not be started.
    pub fn failure(self) -> Option<(Step, io::Error)> {
        self.report.failure()
    }
}

/// Reads what is available, in chunks of at most `scratch`, for as long as `take` returns true.
/// False at end of file.
pub fn drain(
    pipe: &mut impl Read,
    scratch: &mut [u8],
    mut take: impl FnMut(&[u8]) -> bool,
) -> bool {
    loop {
        match pipe.read(scratch) {
            Ok(0) => return false,
            Ok(length) if take(scratch.get(..length).unwrap_or_default()) => {}
            Ok(_) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zdb_is_that_of_the_same_zfs() {
        for (zpool, zdb) in [
            ("zpool", "zdb"),
            ("/sbin/zpool", "zdb"),
            ("/usr/local/sbin/zpool", "zdb"),
            ("/opt/zfs/bin/zpool", "/opt/zfs/bin/zdb"),
        ] {
            assert_eq!(zdb_beside(Path::new(zpool)), Path::new(zdb));
        }
    }

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        assert_eq!(candidates(Path::new("/x/zpool")), [Path::new("/x/zpool")]);
        let found = candidates(Path::new("zpool"));
        for folder in FOLDERS {
            assert!(found.contains(&Path::new(folder).join("zpool")), "{found:?}");
        }
        assert!(found.iter().all(|path| path.is_absolute()));
    }
}

//! A `zpool` of our own: started, read, killed. None of it waits.

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

/// What starts them.
#[derive(Debug)]
pub struct Starter {
    null: OwnedFd,
    limit: Option<DescriptorLimit>,
}

/// Where `zpool` is looked for behind the daemon's own `PATH`.
const FOLDERS: [&str; 3] = ["/sbin", "/usr/local/sbin", "/usr/sbin"];
/// What it finds around it; its messages are read, so they must be in English.
const ENVIRONMENT: [&std::ffi::CStr; 2] =
    [c"LC_ALL=C", c"PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"];

impl Starter {
    /// `limit` is the descriptor limit that the daemon itself was started with.
    pub fn new(limit: Option<DescriptorLimit>) -> io::Result<Starter> {
        Ok(Starter { null: spawn::open_null()?, limit })
    }

    /// Starts `zpool`, by its path or by its name. An error means that there is no child; that it
    /// could not be loaded is told by [`Process::failure`] when it has ended.
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

/// Whether this program would be found, by its path or by its name.
pub fn is_found(zpool: &Path) -> bool {
    candidates(zpool).iter().any(|candidate| candidate.is_file())
}

/// The `zdb` of the same ZFS: beside a `zpool` that is not the system's, else looked up by its name,
/// since FreeBSD has `zpool` in `/sbin` and `zdb` in `/usr/sbin`.
pub fn zdb_beside(zpool: &Path) -> PathBuf {
    let of_the_system = |folder: &Path| FOLDERS.iter().any(|known| folder == Path::new(known));
    match zpool.parent() {
        Some(folder) if zpool.is_absolute() && !of_the_system(folder) => folder.join("zdb"),
        Some(_) | None => PathBuf::from("zdb"),
    }
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

/// A running one.
#[derive(Debug)]
pub struct Process {
    /// The process, leader of a group of its own.
    pub pid: Pid,
    /// Standard output.
    pub output: Receiver,
    /// Standard error.
    pub errors: Receiver,
    report: Report,
}

impl Process {
    /// Ends it and what it started, without waiting for that.
    pub fn kill(&self) {
        // Each fails where nothing is left; the first also where the child has no group yet.
        let _ = killpg(self.pid, Signal::SIGKILL);
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// After its end: why it could not be started, if so.
    pub fn failure(self) -> Option<(Step, io::Error)> {
        self.report.failure()
    }
}

/// What is there to be read, in pieces of at most `scratch`, for as long as `take` wants more.
/// False where the other end is closed.
pub fn drain(
    pipe: &mut impl Read,
    scratch: &mut [u8],
    mut take: impl FnMut(&[u8]) -> bool,
) -> bool {
    loop {
        match pipe.read(scratch) {
            Ok(0) => return false,
            Ok(length) if take(&scratch[..length]) => {}
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

//! Real pools: zfs-fuse, a ZFS that needs no kernel module, in a mount namespace of its own.
//!
//! A host can run one zfs-fuse, because its socket, lock and cache have fixed paths. In a namespace
//! with these in memory each test has its own, with pools that are invisible to others and end with
//! it. Linux and root only.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::{Directory, Outcome, PATIENCE, Setup, skip};

/// A zfs-fuse process; dropping it ends it and its pools.
#[derive(Debug)]
pub struct Zfs {
    fuse: Child,
    directory: Directory,
}

/// Directories written by zfs-fuse and `zpool` are in memory, and in this namespace only.
const BEGIN: &str = "mount -t tmpfs -o mode=0755 tmpfs /run && mkdir /run/lock && \
                     mount -t tmpfs -o mode=0755 tmpfs /var/lib && exec zfs-fuse --no-daemon";

impl Zfs {
    /// Starts one; `None` where that is not possible, which is reported as a skipped test.
    pub fn start() -> Outcome<Option<Zfs>> {
        if let Some(why) = impossible() {
            skip(why);
            return Ok(None);
        }
        let directory = Directory::new()?;
        let output = File::create(directory.join("zfs-fuse.log"))?;
        let fuse = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", BEGIN])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let mut zfs = Zfs { fuse, directory };
        zfs.wait_until_ready()?;
        Ok(Some(zfs))
    }

    fn wait_until_ready(&mut self) -> Outcome<()> {
        let patience = Instant::now() + PATIENCE;
        while self.zpool(&["list"]).is_err() {
            let log = || std::fs::read_to_string(self.directory.join("zfs-fuse.log"));
            if let Some(status) = self.fuse.try_wait()? {
                return Err(format!("zfs-fuse ended with {status}: {}", log()?).into());
            }
            if Instant::now() > patience {
                return Err(format!("zfs-fuse does not answer: {}", log()?).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The command that runs a program in its namespace.
    fn enter(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.fuse.id())]
    }

    /// A daemon that sees its pools.
    pub fn setup(&self, program: &str) -> Outcome<Setup> {
        Ok(Setup::new(program)?.with("system_state.zpool", r#""zpool""#).under(self.enter()))
    }

    /// Runs `zpool`; returns its output, or an error with its message.
    pub fn zpool(&self, arguments: &[&str]) -> Outcome<String> {
        self.run("zpool", arguments)
    }

    /// Runs any program in its namespace.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Outcome<String> {
        let [nsenter, namespace] = self.enter();
        let output = Command::new(nsenter)
            .arg(namespace)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{program} {arguments:?}: {}", text(&output.stderr)).into())
        }
    }

    /// A device: a sparse file of this size in MiB.
    pub fn device(&self, name: &str, mebibytes: u64) -> Outcome<PathBuf> {
        let path = self.directory.join(name);
        File::create(&path)?.set_len(mebibytes * 1024 * 1024)?;
        Ok(path)
    }

    /// Directory of its devices and mount points.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Stops the process: from now on every `zpool` hangs.
    pub fn hang(&self) -> Outcome<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Resumes it.
    pub fn go_on(&self) -> Outcome<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it; its pools vanish.
    pub fn kill(&self) -> Outcome<()> {
        self.signal(Signal::SIGKILL)
    }

    fn signal(&self, signal: Signal) -> Outcome<()> {
        kill(Pid::from_raw(i32::try_from(self.fuse.id())?), signal)?;
        Ok(())
    }
}

impl Drop for Zfs {
    fn drop(&mut self) {
        let _ = self.fuse.kill();
        let _ = self.fuse.wait();
    }
}

/// Why there can be no real pools here.
fn impossible() -> Option<&'static str> {
    let is_installed = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    if !geteuid().is_root() {
        Some("real pools need root")
    } else if !is_installed("zfs-fuse") || !is_installed("unshare") || !is_installed("nsenter") {
        Some("real pools need zfs-fuse (Debian's package of that name) and util-linux")
    } else if !Path::new("/dev/fuse").exists() {
        Some("real pools need /dev/fuse")
    } else {
        None
    }
}

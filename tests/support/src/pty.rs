//! A pseudo-terminal, from the user's side.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, Winsize, grantpt, posix_openpt, unlockpt};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};

use crate::Outcome;

/// A pseudo-terminal: the test's side, and the side of a program.
#[derive(Debug)]
pub struct Pty {
    ours: PtyMaster,
    theirs: File,
}

impl Pty {
    /// Creates one that passes output unchanged.
    pub fn new() -> Outcome<Pty> {
        let ours = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = name_of(&ours)?;
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, OFlag::O_NOCTTY.bits());
        let theirs = options.read(true).write(true).open(name)?;
        let mut modes = tcgetattr(&theirs)?;
        modes.output_flags.remove(OutputFlags::OPOST);
        tcsetattr(&theirs, SetArg::TCSANOW, &modes)?;
        Ok(Pty { ours, theirs })
    }

    /// One for a terminal emulator of so many rows and columns: line feeds become new lines.
    pub fn of_size(rows: u16, columns: u16) -> Outcome<Pty> {
        let pty = Pty::new()?;
        let mut modes = tcgetattr(&pty.theirs)?;
        modes.output_flags.insert(OutputFlags::OPOST | OutputFlags::ONLCR);
        tcsetattr(&pty.theirs, SetArg::TCSANOW, &modes)?;
        pty.size()?.set(rows, columns)?;
        Ok(pty)
    }

    /// Control of its size, also after [`Pty::into_screen`].
    pub fn size(&self) -> Outcome<PtySize> {
        Ok(PtySize(self.ours.as_fd().try_clone_to_owned()?))
    }

    /// For a program's standard streams.
    pub fn stdio(&self) -> Outcome<Stdio> {
        Ok(Stdio::from(OwnedFd::from(self.theirs.try_clone()?)))
    }

    /// Types input for the next reader.
    pub fn type_in(&mut self, text: &str) -> Outcome<()> {
        Ok(self.ours.write_all(text.as_bytes())?)
    }

    /// Its output, until no program has it open any more.
    pub fn into_screen(self) -> impl Read + Send + 'static {
        drop(self.theirs);
        Screen(self.ours)
    }
}

/// The size of a pseudo-terminal.
#[derive(Debug)]
pub struct PtySize(OwnedFd);

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

impl PtySize {
    /// Sets it.
    pub fn set(&self, rows: u16, columns: u16) -> Outcome<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the request reads one structure of this type, which outlives the call.
        unsafe { set_size(self.0.as_raw_fd(), &size)? };
        Ok(())
    }
}

/// Linux says EIO where the last program has closed it.
struct Screen(PtyMaster);

impl Read for Screen {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const EIO: i32 = 5;
        match self.0.read(buffer) {
            Err(error) if error.raw_os_error() == Some(EIO) => Ok(0),
            read => read,
        }
    }
}

/// The path of the other side.
#[cfg(target_os = "linux")]
fn name_of(pty: &PtyMaster) -> nix::Result<String> {
    nix::pty::ptsname_r(pty)
}

/// The path of the other side. ptsname(3) writes into memory that all threads share.
#[cfg(not(target_os = "linux"))]
fn name_of(pty: &PtyMaster) -> nix::Result<String> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: nothing else here calls it, and the name is copied before the lock is released.
    unsafe { nix::pty::ptsname(pty) }
}

//! The processes of the host as the kernel lists them: start, parent, session, real user and initial
//! environment of each.
//!
//! A process number alone identifies nothing after a crash: the kernel may have given it to another
//! process. Number and time of the start together identify one process.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One process and no other, also after its number was given out again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// Time of its start, in a form that is the same whenever it is read, and another one after each
    /// boot of the host. Empty where it is unknown.
    pub start: String,
}

/// One process.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its identity.
    pub id: ProcessId,
    /// Number of its parent.
    pub parent: i32,
    /// Number of its session.
    pub session: i32,
    /// It has ended, but was not reaped.
    pub zombie: bool,
    /// Changes when the process runs another program: where the memory of its environment begins
    /// and ends (Linux), or where its address space is (FreeBSD). Zero where there is none.
    pub image: (u64, u64),
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.id.pid, self.parent)
    }
}

/// All processes; empty where the kernel does not report them.
pub fn all() -> Vec<Entry> {
    system::all()
}

/// The process of that number, if there is one.
pub fn entry(pid: i32) -> Option<Entry> {
    system::entry(pid)
}

/// Time of the start of the process, if there is one.
pub fn start_of(pid: i32) -> Option<String> {
    system::entry(pid).map(|entry| entry.id.start)
}

/// The real user of the process, if there is one.
pub fn real_user(pid: i32) -> Option<u32> {
    system::real_user(pid)
}

/// Maximum number of environment bytes read. A job has at most 32 KiB of variables, so its mark
/// stands before this limit; processes with larger environments cost no more.
const ENVIRONMENT: usize = 64 * 1024;

/// The value of the first entry that begins with `name` (`NAME=`) in the environment that the
/// process was started with; the entry is returned whole. `None` where the kernel shows no environment.
pub fn variable(pid: i32, name: &str) -> Option<Option<String>> {
    let block = system::environment(pid, ENVIRONMENT).filter(|block| !block.is_empty())?;
    let mut entries = block.split(|&byte| byte == 0);
    let found = entries.find(|entry| entry.starts_with(name.as_bytes()));
    Some(found.map(|entry| String::from_utf8_lossy(entry).into_owned()))
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::io::Read;
    use std::sync::OnceLock;

    use super::{Entry, ProcessId};

    pub(super) fn all() -> Vec<Entry> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(entry)
            .collect()
    }

    /// proc_pid_stat(5): the name in parentheses may contain anything, so the fields begin after
    /// the last `)`: state, ppid, pgrp, session, as the 20th the start in ticks since boot, and as the
    /// 48th and 49th the bounds of the environment.
    pub(super) fn entry(pid: i32) -> Option<Entry> {
        // The name need not be UTF-8.
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        let address = |at: usize| fields.get(at).and_then(|field| field.parse().ok()).unwrap_or(0);
        Some(Entry {
            id: ProcessId { pid, start: start_in(boot(), fields.get(19)?) },
            parent: number(1)?,
            session: number(3)?,
            zombie: matches!(*fields.first()?, "Z" | "X"),
            image: (address(47), address(48)),
        })
    }

    /// proc_pid_status(5): the real, effective, saved and file system users.
    pub(super) fn real_user(pid: i32) -> Option<u32> {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        users.split_ascii_whitespace().next()?.parse().ok()
    }

    pub(super) fn environment(pid: i32, most: usize) -> Option<Vec<u8>> {
        let file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
        let mut block = Vec::new();
        file.take(most as u64).read_to_end(&mut block).ok()?;
        Some(block)
    }

    /// Empty if the boot is unknown: after another boot the value might match another process.
    fn start_in(boot: &str, ticks: &str) -> String {
        if boot.is_empty() { String::new() } else { format!("{boot}.{ticks}") }
    }

    /// random(4): different for each boot; empty where it cannot be read.
    fn boot() -> &'static str {
        static BOOT: OnceLock<String> = OnceLock::new();
        BOOT.get_or_init(|| {
            let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            id.trim().to_owned()
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn start_in_unknown_boot_is_unknown() {
            assert_eq!(start_in("b", "7"), "b.7");
            assert_eq!(start_in("", "7"), "");
        }
    }
}

#[cfg(target_os = "freebsd")]
mod system {
    use std::mem::{MaybeUninit, size_of};

    use super::{Entry, ProcessId};

    /// `SZOMB` of <sys/proc.h>.
    const ZOMBIE: libc::c_char = 5;
    /// Maximum size of a `kern.proc` reply, in bytes: some fifty thousand processes.
    const MOST: usize = 64 << 20;

    pub(super) fn all() -> Vec<Entry> {
        let all = entries(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PROC, 0]);
        all.into_iter().map(|(entry, _)| entry).collect()
    }

    pub(super) fn entry(pid: i32) -> Option<Entry> {
        of(pid).pop().map(|(entry, _)| entry)
    }

    pub(super) fn real_user(pid: i32) -> Option<u32> {
        of(pid).pop().map(|(_, user)| user)
    }

    fn of(pid: i32) -> Vec<(Entry, u32)> {
        entries(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid])
    }

    pub(super) fn environment(pid: i32, most: usize) -> Option<Vec<u8>> {
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_ENV, pid];
        match ask_with(&name, most) {
            Ok(bytes) => Some(bytes),
            // The part that fits was copied (sysctl(3)).
            Err((libc::ENOMEM, bytes)) => Some(bytes),
            Err(_) => None,
        }
    }

    /// Processes, each with its real user.
    fn entries(name: &[libc::c_int]) -> Vec<(Entry, u32)> {
        let Some(bytes) = ask(name) else { return Vec::new() };
        bytes.chunks_exact(size_of::<libc::kinfo_proc>()).map_while(read).collect()
    }

    /// `None` where the kernel's structure differs from this program's.
    fn read(bytes: &[u8]) -> Option<(Entry, u32)> {
        let mut info = MaybeUninit::<libc::kinfo_proc>::uninit();
        // SAFETY: the kernel wrote a whole structure there, any bits are a value of it, and the
        // slice has exactly its length.
        let info = unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), info.as_mut_ptr().cast(), bytes.len());
            info.assume_init()
        };
        if usize::try_from(info.ki_structsize).ok()? != bytes.len() {
            return None;
        }
        // By the wall clock, to the microsecond, fixed when the process started.
        let start = format!("{}.{:06}", info.ki_start.tv_sec, info.ki_start.tv_usec);
        let [first, second, ..] = info.ki_comm.map(|byte| byte as u64);
        let entry = Entry {
            id: ProcessId { pid: info.ki_pid, start },
            parent: info.ki_ppid,
            session: info.ki_sid,
            zombie: info.ki_stat == ZOMBIE,
            image: (info.ki_vmspace as usize as u64, first << 8 | second),
        };
        Some((entry, info.ki_ruid))
    }

    /// Calls sysctl(3), with a larger buffer until the reply fits.
    fn ask(name: &[libc::c_int]) -> Option<Vec<u8>> {
        let mut room = 64 * 1024;
        loop {
            match ask_with(name, room) {
                Ok(bytes) => return Some(bytes),
                Err((libc::ENOMEM, _)) if room < MOST => room *= 2,
                Err(_) => return None,
            }
        }
    }

    /// Calls sysctl(3) once, with a buffer of `room` bytes. An error is its errno, and the bytes
    /// written nevertheless.
    fn ask_with(name: &[libc::c_int], room: usize) -> Result<Vec<u8>, (i32, Vec<u8>)> {
        let mut bytes = vec![0_u8; room];
        let mut length = bytes.len();
        // SAFETY: reads the name of its given length, writes at most `length` bytes of a local
        // buffer.
        let status = unsafe {
            libc::sysctl(
                name.as_ptr(),
                name.len() as libc::c_uint,
                bytes.as_mut_ptr().cast(),
                &mut length,
                std::ptr::null(),
                0,
            )
        };
        bytes.truncate(length.min(room));
        if status == 0 {
            return Ok(bytes);
        }
        Err((std::io::Error::last_os_error().raw_os_error().unwrap_or(0), bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn environment_is_read_up_to_its_bound_only() {
        let mut child = Command::new("sleep")
            .arg("60")
            .env_clear()
            .envs((0..20).map(|n| (format!("V{n:02}"), "x".repeat(10_000))))
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        // The child may not have become `sleep` yet.
        let is_there = |name| variable(pid, name).flatten().is_some();
        while !is_there("V00=x") {
            std::thread::yield_now();
        }
        let read = system::environment(pid, ENVIRONMENT).map(|block| block.len());
        assert_eq!((read, is_there("V19=")), (Some(ENVIRONMENT), false));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A process may give itself any name, and must not escape a signal by it.
    #[cfg(target_os = "linux")]
    #[test]
    fn process_with_any_name_is_listed() {
        let script = "printf '%b' '\\377) Z 0 0' >/proc/$$/comm; echo; read wait";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let entry = entry(child.id() as i32).unwrap();
        assert_eq!((entry.parent, entry.zombie), (std::process::id() as i32, false));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_child_is_listed_with_its_start_and_its_environment() {
        let mut child = Command::new("sleep").arg("60").env("SEEN_BY", "us 1").spawn().unwrap();
        let pid = child.id() as i32;
        let entry = all().into_iter().find(|entry| entry.id.pid == pid).unwrap();
        assert_eq!(entry.parent, std::process::id() as i32);
        assert!(!entry.zombie);
        assert_eq!(start_of(pid), Some(entry.id.start));
        assert_ne!(start_of(pid), start_of(std::process::id() as i32));
        // The child may not have become `sleep` yet.
        while variable(pid, "SEEN_BY=") != Some(Some("SEEN_BY=us 1".to_owned())) {
            std::thread::yield_now();
        }
        assert_eq!(real_user(pid), Some(nix::unistd::getuid().as_raw()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((start_of(pid), real_user(pid)), (None, None));
    }
}

//! The host's processes according to the kernel: start time, parent and initial environment.
//!
//! A process number alone identifies nothing after a crash: it may have been reused. Number and
//! start time together identify one process.

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub pid: i32,
    /// Number of its parent.
    pub parent: i32,
    /// Number of its session.
    pub session: i32,
    /// It has ended, but was not reaped.
    pub zombie: bool,
    /// Start time, in a form that is the same for each query and differs after each boot of the
    /// host.
    pub start: String,
}

/// All processes; empty where the kernel does not report them.
pub fn all() -> Vec<Entry> {
    system::all()
}

/// Start time of a process, if it exists.
pub fn start_of(pid: i32) -> Option<String> {
    system::entry(pid).map(|entry| entry.start)
}

/// Maximum number of environment bytes read. A job has at most 32 KiB of variables, so its mark
/// stands before this limit; processes with larger environments cost no more.
const ENVIRONMENT: usize = 64 * 1024;

/// The beginning of the initial environment of a process, `NAME=value` terminated by NULs. Empty
/// where the kernel does not show it.
pub(super) fn environment(pid: i32) -> Vec<u8> {
    system::environment(pid, ENVIRONMENT).unwrap_or_default()
}

/// Whether the process was started with this `NAME=value` in its environment.
pub fn has_variable(pid: i32, variable: &str) -> bool {
    environment(pid).split(|&byte| byte == 0).any(|v| v == variable.as_bytes())
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::io::Read;
    use std::sync::OnceLock;

    use super::Entry;

    pub(super) fn all() -> Vec<Entry> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(entry)
            .collect()
    }

    /// proc_pid_stat(5): the name in parentheses may contain anything, so the fields begin after
    /// the last `)`: state, ppid, pgrp, session, and as the twentieth the start in ticks since
    /// boot.
    pub(super) fn entry(pid: i32) -> Option<Entry> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Entry {
            pid,
            parent: number(1)?,
            session: number(3)?,
            zombie: matches!(*fields.first()?, "Z" | "X"),
            start: start_in(boot(), fields.get(19)?)?,
        })
    }

    pub(super) fn environment(pid: i32, most: usize) -> Option<Vec<u8>> {
        let file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
        let mut block = Vec::new();
        file.take(most as u64).read_to_end(&mut block).ok()?;
        Some(block)
    }

    /// `None` if the boot is unknown: after another boot the value might match another process.
    fn start_in(boot: &str, ticks: &str) -> Option<String> {
        (!boot.is_empty()).then(|| format!("{boot}.{ticks}"))
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
            assert_eq!(start_in("b", "7").as_deref(), Some("b.7"));
            assert_eq!(start_in("", "7"), None);
        }
    }
}

#[cfg(target_os = "freebsd")]
mod system {
    use std::mem::{MaybeUninit, size_of};

    use super::Entry;

    /// `SZOMB` of <sys/proc.h>.
    const ZOMBIE: libc::c_char = 5;
    /// Maximum size of a `kern.proc` reply, in bytes: some fifty thousand processes.
    const MOST: usize = 64 << 20;

    pub(super) fn all() -> Vec<Entry> {
        entries(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PROC, 0])
    }

    pub(super) fn entry(pid: i32) -> Option<Entry> {
        entries(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid]).pop()
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

    fn entries(name: &[libc::c_int]) -> Vec<Entry> {
        let Some(bytes) = ask(name) else { return Vec::new() };
        bytes.chunks_exact(size_of::<libc::kinfo_proc>()).map_while(read).collect()
    }

    /// `None` where the kernel's structure differs from this program's.
    fn read(bytes: &[u8]) -> Option<Entry> {
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
        Some(Entry {
            pid: info.ki_pid,
            parent: info.ki_ppid,
            session: info.ki_sid,
            zombie: info.ki_stat == ZOMBIE,
            // By the wall clock, to the microsecond, fixed when the process started.
            start: format!("{}.{:06}", info.ki_start.tv_sec, info.ki_start.tv_usec),
        })
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
            .envs((0..20).map(|n| (format!("V{n:02}"), "x".repeat(100_000))))
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        // The child may not have become `sleep` yet.
        while !environment(pid).starts_with(b"V00=x") {
            std::thread::yield_now();
        }
        assert_eq!(environment(pid).len(), ENVIRONMENT);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_child_is_listed_with_its_start_and_its_environment() {
        let mut child = Command::new("sleep").arg("60").env("SEEN_BY", "us 1").spawn().unwrap();
        let pid = child.id() as i32;
        let entry = all().into_iter().find(|entry| entry.pid == pid).unwrap();
        assert_eq!(entry.parent, std::process::id() as i32);
        assert!(!entry.zombie);
        assert_eq!(start_of(pid), Some(entry.start));
        assert_ne!(start_of(pid), start_of(std::process::id() as i32));
        // The child may not have become `sleep` yet.
        while !has_variable(pid, "SEEN_BY=us 1") {
            std::thread::yield_now();
        }
        assert!(!has_variable(pid, "SEEN_BY=us"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(start_of(pid), None);
    }
}

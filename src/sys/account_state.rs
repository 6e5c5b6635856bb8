//! Whether an account may be used, as the system's own files say: locked, expired, or neither.
//!
//! FreeBSD has both in `master.passwd` (pw(8) puts `*LOCKED*` before the hash), Linux in `shadow`
//! (`passwd -l` and `usermod -L` put `!` before it). Who is not root, and may not look, sees none.

use nix::unistd::User;
use std::io;

#[cfg(target_os = "linux")]
use nix::errno::Errno;
#[cfg(target_os = "freebsd")]
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

/// See the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountState {
    /// Nothing is known against it.
    Usable,
    /// Somebody locked it.
    Locked,
    /// Its time is over.
    Expired,
}

/// The state of this account.
///
/// # Errors
/// None: the entry that was looked up has it all.
#[cfg(target_os = "freebsd")]
pub fn of(user: &User) -> io::Result<AccountState> {
    Ok(if user.passwd.as_bytes().starts_with(b"*LOCKED*") {
        AccountState::Locked
    } else if user.expire > 0 && user.expire <= now() {
        AccountState::Expired
    } else {
        AccountState::Usable
    })
}

/// Whether the account has an empty password. False where that cannot be found out.
pub fn has_empty_password(user: &User) -> bool {
    #[cfg(target_os = "freebsd")]
    return geteuid().is_root() && user.passwd.is_empty();
    #[cfg(target_os = "linux")]
    matches!(shadow(user), Ok(Some((hash, _))) if hash.is_empty())
}

/// The state of this account.
///
/// # Errors
/// The name service fails: then nothing is known for the account.
#[cfg(target_os = "linux")]
pub fn of(user: &User) -> io::Result<AccountState> {
    const DAY: i64 = 24 * 3600;
    let Some((hash, expires)) = shadow(user)? else { return Ok(AccountState::Usable) };
    Ok(if is_locked(&hash) {
        AccountState::Locked
    } else if expires >= 0 && expires.saturating_mul(DAY) <= now() {
        AccountState::Expired
    } else {
        AccountState::Usable
    })
}

/// Hash of the password, and the day since 1970 on which the account expires, negative for none.
/// `None` where the account has no such entry, or only root may look.
#[cfg(target_os = "linux")]
fn shadow(user: &User) -> io::Result<Option<(Vec<u8>, i64)>> {
    use std::ffi::{CStr, CString};
    let name = CString::new(user.name.as_str())?;
    Errno::clear();
    // SAFETY: the name is a C string; the entry is the C library's own and stays as it is until the
    // next such call, of which there is none before we are done with it.
    let Some(entry) = (unsafe { libc::getspnam(name.as_ptr()).as_ref() }) else {
        return lack_of_entry(Errno::last()).map(|()| None);
    };
    let hash = if entry.sp_pwdp.is_null() {
        Vec::new()
    } else {
        // SAFETY: not null, so a C string of that entry.
        unsafe { CStr::from_ptr(entry.sp_pwdp) }.to_bytes().to_vec()
    };
    #[allow(clippy::useless_conversion, reason = "c_long has 32 bits on some")]
    Ok(Some((hash, i64::from(entry.sp_expire))))
}

/// Meaning of a lacking entry: no entry, or a look-up that failed (getspnam(3) has one
/// return value for both; the C library leaves ENOENT, and more, of files and services that are not
/// there).
#[cfg(target_os = "linux")]
fn lack_of_entry(errno: Errno) -> io::Result<()> {
    let has_failed = [
        Errno::EIO,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOMEM,
        Errno::EINTR,
        Errno::EAGAIN,
        Errno::ETIMEDOUT,
    ];
    if has_failed.contains(&errno) { Err(errno.into()) } else { Ok(()) }
}

/// A password was there and is locked; an account that never had one (`!`, `!!`, `*`) is used with
/// keys, and nobody locked it.
#[cfg(target_os = "linux")]
fn is_locked(hash: &[u8]) -> bool {
    hash.first() == Some(&b'!') && hash.iter().any(|byte| !matches!(byte, b'!' | b'*'))
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn account_state_after_failed_look_up_is_an_error() {
        for errno in [Errno::from_raw(0), Errno::ENOENT, Errno::EACCES] {
            assert!(lack_of_entry(errno).is_ok(), "{errno}");
        }
        assert!(lack_of_entry(Errno::EIO).is_err());
        assert!(lack_of_entry(Errno::EMFILE).is_err());
    }

    #[test]
    fn a_password_that_was_locked_is_told_from_none() {
        assert!(is_locked(b"!$6$salt$hash"));
        for hash in ["$6$salt$hash", "!", "!!", "!*", "*", ""] {
            assert!(!is_locked(hash.as_bytes()), "{hash}");
        }
    }
}

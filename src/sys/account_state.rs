//! Account status according to the system's own files: locked, expired, or usable.
//!
//! FreeBSD stores both in `master.passwd` (pw(8) puts `*LOCKED*` before the hash), Linux in
//! `shadow` (`passwd -l` and `usermod -L` put `!` before it). A process that is not root and cannot
//! read them sees neither.

use nix::unistd::User;
use std::io;

#[cfg(target_os = "linux")]
use nix::errno::Errno;
#[cfg(target_os = "freebsd")]
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

/// Status of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountState {
    /// Neither locked nor expired.
    Usable,
    /// Locked by an administrator.
    Locked,
    /// Past its expiry date.
    Expired,
}

/// The status of an account.
///
/// # Errors None: the entry contains everything.
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

/// Whether the account has an empty password. False where that cannot be determined.
pub fn has_empty_password(user: &User) -> bool {
    #[cfg(target_os = "freebsd")]
    return geteuid().is_root() && user.passwd.is_empty();
    #[cfg(target_os = "linux")]
    matches!(shadow(user), Ok(Some((hash, _))) if hash.is_empty())
}

/// The status of an account.
///
/// # Errors The name service fails: then the account must not be trusted.
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
/// `None` where the account has no such entry, or only root may read it.
#[cfg(target_os = "linux")]
fn shadow(user: &User) -> io::Result<Option<(Vec<u8>, i64)>> {
    use std::ffi::{CStr, CString};
    let name = CString::new(user.name.as_str())?;
    Errno::clear();
    // SAFETY: the name is a C string; the entry belongs to the C library and stays valid until the
    // next such call, which does not happen before its last use here.
    let Some(entry) = (unsafe { libc::getspnam(name.as_ptr()).as_ref() }) else {
        return lack_of_entry(Errno::last()).map(|()| None);
    };
    let hash = if entry.sp_pwdp.is_null() {
        Vec::new()
    } else {
        // SAFETY: not null, therefore a C string of that entry.
        unsafe { CStr::from_ptr(entry.sp_pwdp) }.to_bytes().to_vec()
    };
    #[allow(clippy::useless_conversion, reason = "c_long has 32 bits on some")]
    Ok(Some((hash, i64::from(entry.sp_expire))))
}

/// Meaning of a missing entry: no entry, or a failed look-up (getspnam(3) has one return value for
/// both; the C library leaves ENOENT, and others, from missing files and services).
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

/// Whether a password exists and is locked; an account that never had one (`!`, `!!`, `*`) is used
/// with keys, and is not locked.
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
    fn locked_password_is_distinguished_from_none() {
        assert!(is_locked(b"!$6$salt$hash"));
        for hash in ["$6$salt$hash", "!", "!!", "!*", "*", ""] {
            assert!(!is_locked(hash.as_bytes()), "{hash}");
        }
    }
}

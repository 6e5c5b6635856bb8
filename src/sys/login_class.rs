//! The login class of a user: resource limits, priority and processors from login.conf(5) of
//! FreeBSD. Linux has no login classes.

use std::ffi::CStr;

use nix::errno::Errno;

/// Applies the login class of a user to this process. To be called as root, in a child that becomes
/// that user; umask and environment stay unchanged.
///
/// # Errors The user does not exist, or the class cannot be applied: a program must not run without
/// its limits.
pub(super) fn enter(user: &CStr) -> Result<(), Errno> {
    system::enter(user)
}

#[cfg(target_os = "freebsd")]
mod system {
    use std::ffi::{CStr, c_int, c_uint, c_void};
    use std::ptr;

    use nix::errno::Errno;

    type SetUserContext =
        unsafe extern "C" fn(*mut c_void, *const libc::passwd, libc::uid_t, c_uint) -> c_int;

    /// The number differs between FreeBSD 14 and 15.
    const NAMES: [&CStr; 3] = [c"libutil.so.10", c"libutil.so.9", c"libutil.so"];

    // <login_cap.h>.
    const PRIORITY: c_uint = 0x0008;
    const RESOURCES: c_uint = 0x0010;
    const MAC: c_uint = 0x0100;
    const CPU_MASK: c_uint = 0x0200;
    const LOGIN_CLASS: c_uint = 0x0400;
    const WANTED: c_uint = PRIORITY | RESOURCES | MAC | CPU_MASK | LOGIN_CLASS;

    pub(super) fn enter(user: &CStr) -> Result<(), Errno> {
        let set = load().ok_or(Errno::ENOSYS)?;
        Errno::clear();
        // SAFETY: a C string; the process has one thread, and no other account is looked up before
        // the last use of this one.
        let account = unsafe { libc::getpwnam(user.as_ptr()) };
        if account.is_null() {
            let why = Errno::last_raw();
            return Err(if why == 0 { Errno::ENOENT } else { Errno::from_raw(why) });
        }
        // SAFETY: the class is found through the account, which belongs to the C library.
        let status = unsafe { set(ptr::null_mut(), account, (*account).pw_uid, WANTED) };
        Errno::result(status).map(drop)
    }

    fn load() -> Option<SetUserContext> {
        let open = |name: &&CStr| {
            // SAFETY: a C string; the library's own initialisers run, as for any linked library.
            let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
            (!library.is_null()).then_some(library)
        };
        let library = NAMES.iter().find_map(open)?;
        // SAFETY: an open library and a C string.
        let symbol = unsafe { libc::dlsym(library, c"setusercontext".as_ptr()) };
        if symbol.is_null() {
            return None;
        }
        // SAFETY: the function of this name has this type, <login_cap.h>.
        Some(unsafe { std::mem::transmute::<*mut c_void, SetUserContext>(symbol) })
    }
}

#[cfg(not(target_os = "freebsd"))]
mod system {
    use std::ffi::CStr;

    use nix::errno::Errno;
    use nix::unistd::User;

    pub(super) fn enter(user: &CStr) -> Result<(), Errno> {
        let name = user.to_str().map_err(|_| Errno::EINVAL)?;
        User::from_name(name)?.map(drop).ok_or(Errno::ENOENT)
    }
}

/// Sets the login name of this process's session, as reported by getlogin(2) of FreeBSD; an empty
/// name is ignored. Linux has no such name. To be called by the leader of a session of its own, as
/// root: login(1) does it between the groups and the login class.
pub(super) fn set_login_name(name: &CStr) -> Result<(), Errno> {
    #[cfg(target_os = "freebsd")]
    // SAFETY: reads a C string.
    return Errno::result(unsafe { libc::setlogin(name.as_ptr()) }).map(drop);
    #[cfg(not(target_os = "freebsd"))]
    {
        let _ = name;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_there_is_not_has_no_class() {
        assert_eq!(enter(c"nobody-of-that-name"), Err(Errno::ENOENT));
    }

    #[test]
    fn root_enters_its_own() {
        if nix::unistd::geteuid().is_root() {
            assert_eq!(enter(c"root"), Ok(()));
        }
    }
}

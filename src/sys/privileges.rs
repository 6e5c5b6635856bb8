//! Drops root privileges permanently, or temporarily for one call.

use std::ffi::CString;
use std::io;

use nix::unistd::{
    Gid, Uid, User, getegid, geteuid, getgid, getgroups, getresgid, getresuid, setegid, seteuid,
    setgid, setuid,
};

use super::spawn::init_groups;

/// Becomes this user with its groups, and verifies that root cannot be regained. Requires root.
///
/// # Errors A system call fails, or a privilege remains.
pub fn become_user(user: &User) -> io::Result<()> {
    let name = CString::new(user.name.as_str())?;
    // Groups first, the user last: after that no change is possible.
    init_groups(&name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    verify(user.uid, user.gid)
}

/// Calls a function with the privileges of this user, and becomes root again afterwards. Requires
/// root.
///
/// # Errors One of the two changes fails.
pub fn for_once_as<T>(user: &User, what: impl FnOnce() -> T) -> io::Result<T> {
    let (uid, gid) = (geteuid(), getegid());
    setegid(user.gid)?;
    seteuid(user.uid)?;
    let done = what();
    seteuid(uid)?;
    setegid(gid)?;
    Ok(done)
}

fn verify(uid: Uid, gid: Gid) -> io::Result<()> {
    let (users, groups) = (getresuid()?, getresgid()?);
    let is_user = [users.real, users.effective, users.saved].iter().all(|other| *other == uid);
    let is_group = [groups.real, groups.effective, groups.saved].iter().all(|other| *other == gid);
    if !is_user || !is_group || getgid() != gid {
        return Err(io::Error::other("real, effective and saved ids are not all the user's"));
    }
    if !uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("it could become root again"));
    }
    if !gid.eq(&Gid::from_raw(0)) && getgroups()?.contains(&Gid::from_raw(0)) {
        return Err(io::Error::other("it is still in the group of root"));
    }
    Ok(())
}

//! Becoming a user who may little, for good.

use std::ffi::CString;
use std::io;

use nix::unistd::{
    Gid, Uid, User, getegid, geteuid, getgid, getgroups, getresgid, getresuid, setegid, seteuid,
    setgid, setuid,
};

use super::spawn::init_groups;

/// Becomes this user with its groups, and makes sure that there is no way back. Only root can.
///
/// # Errors
/// The system refuses, or something of what we were is left.
pub fn become_user(user: &User) -> io::Result<()> {
    let name = CString::new(user.name.as_str())?;
    // Groups first, the user last: after that nothing can be changed any more.
    init_groups(&name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    verify(user.uid, user.gid)
}

/// Does something with the rights of this user, and is root again afterwards. Only root can.
///
/// # Errors
/// The system refuses one of the two changes.
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

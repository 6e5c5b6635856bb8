//! Confinement of a process that only relays: capability mode of capsicum(4) on FreeBSD, where no
//! path can be opened any more and each descriptor has only the rights that it needs; on Linux,
//! whose sandboxes belong to the supervisor, `no_new_privs`.
//!
//! An accepted connection has the rights of its listener: accept(2) of FreeBSD.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Purpose of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Accept connections, and read and write them.
    Accept,
    /// Read files in a directory, and watch it.
    ReadBelow,
    /// Connect to a socket in a directory.
    ConnectBelow,
    /// Remove files in a directory.
    RemoveBelow,
    /// Be watched for changes.
    Watch,
    /// Stay open, for a lock.
    Hold,
    /// Write.
    Write,
}

/// Limits a descriptor to the rights for this purpose.
#[cfg(target_os = "freebsd")]
pub fn limit(descriptor: BorrowedFd<'_>, right: Right) -> io::Result<()> {
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    // rights(4). Event notification always requires CAP_EVENT.
    let rights: &[u64] = match right {
        Right::Accept => &[
            libc::CAP_ACCEPT,
            libc::CAP_EVENT,
            libc::CAP_FSTAT,
            libc::CAP_GETPEERNAME,
            libc::CAP_GETSOCKNAME,
            libc::CAP_GETSOCKOPT,
            libc::CAP_READ,
            libc::CAP_SETSOCKOPT,
            libc::CAP_SHUTDOWN,
            libc::CAP_WRITE,
        ],
        Right::ReadBelow => &[
            libc::CAP_EVENT,
            libc::CAP_FCNTL,
            libc::CAP_FSTAT,
            libc::CAP_LOOKUP,
            libc::CAP_READ,
            libc::CAP_SEEK,
        ],
        Right::ConnectBelow => &[libc::CAP_CONNECTAT],
        Right::RemoveBelow => &[libc::CAP_UNLINKAT],
        Right::Watch => &[libc::CAP_EVENT],
        Right::Hold => &[libc::CAP_FLOCK, libc::CAP_FSTAT],
        Right::Write => &[libc::CAP_EVENT, libc::CAP_FCNTL, libc::CAP_FSTAT, libc::CAP_WRITE],
    };
    let mut set = MaybeUninit::<libc::cap_rights_t>::zeroed();
    // SAFETY: initialises a local set; the list of rights is empty and ends with 0 as required.
    unsafe { libc::__cap_rights_init(libc::CAP_RIGHTS_VERSION, set.as_mut_ptr(), 0_u64) };
    for right in rights {
        // SAFETY: as above, with one right of rights(4); the set was initialised.
        unsafe { libc::__cap_rights_set(set.as_mut_ptr(), *right, 0_u64) };
    }
    // SAFETY: an open descriptor, and an initialised set.
    match unsafe { libc::cap_rights_limit(descriptor.as_raw_fd(), set.as_ptr()) } {
        0 => Ok(()),
        _ => ignore_lack(io::Error::last_os_error()).map(drop),
    }
}

/// Does nothing on this system.
#[cfg(target_os = "linux")]
pub fn limit(_: BorrowedFd<'_>, _: Right) -> io::Result<()> {
    Ok(())
}

/// Enters capability mode, irreversibly. True where no path can be opened any more.
#[cfg(target_os = "freebsd")]
pub fn enter() -> io::Result<bool> {
    // SAFETY: takes no arguments, changes a mode of this process.
    match unsafe { libc::cap_enter() } {
        0 => Ok(true),
        _ => ignore_lack(io::Error::last_os_error()),
    }
}

/// A kernel without capsicum is the operator's choice; returns false.
#[cfg(target_os = "freebsd")]
fn ignore_lack(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Ok(false),
        Some(_) | None => Err(error),
    }
}

/// Sets `no_new_privs`, irreversibly. True where no path can be opened any more.
#[cfg(target_os = "linux")]
pub fn enter() -> io::Result<bool> {
    nix::errno::Errno::result(
        // SAFETY: sets a flag of this process; takes integers only.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) },
    )?;
    Ok(false)
}

/// Connects to the socket `name` in a directory that was opened earlier, and was at `path` then.
#[cfg(target_os = "freebsd")]
pub fn connect_below(
    directory: BorrowedFd<'_>,
    _path: &Path,
    name: &str,
    socket: &UnixDatagram,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    unsafe extern "C" {
        // connectat(2)
        fn connectat(
            directory: libc::c_int,
            socket: libc::c_int,
            name: *const libc::sockaddr,
            length: libc::socklen_t,
        ) -> libc::c_int;
    }
    // SAFETY: all zeros is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // One byte is reserved for the NUL.
    if name.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: open descriptors, and a local address with its true length.
    let status = unsafe {
        connectat(
            directory.as_raw_fd(),
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            length,
        )
    };
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Connects to the socket `name` in a directory that was opened earlier, and was at `path` then.
#[cfg(target_os = "linux")]
pub fn connect_below(
    _directory: BorrowedFd<'_>,
    path: &Path,
    name: &str,
    socket: &UnixDatagram,
) -> io::Result<()> {
    socket.connect(path.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn limited_descriptors_keep_the_rights_for_their_purpose() {
        let path = std::env::temp_dir().join(format!("se-confinement-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let receiver = UnixDatagram::bind(path.join("log")).unwrap();
        let directory = File::open(&path).unwrap();
        limit(directory.as_fd(), Right::ConnectBelow).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        connect_below(directory.as_fd(), &path, "log", &sender).unwrap();
        sender.send(b"a line").unwrap();
        let mut bytes = [0; 16];
        assert_eq!(receiver.recv(&mut bytes).unwrap(), 6);
        assert!(connect_below(directory.as_fd(), &path, "none", &sender).is_err());

        fs::write(path.join("file"), "text").unwrap();
        let mut file = File::open(path.join("file")).unwrap();
        limit(file.as_fd(), Right::ReadBelow).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        fs::remove_dir_all(&path).unwrap();
    }
}

//! The user and groups of the process at the other end of a Unix socket. The kernel vouches for
//! them, so a local peer needs no password.
//!
//! A role follows from these numbers alone. User 0 and group 0 are privileged, and 0 is also the
//! value of an unused field. Therefore every reply of the kernel is checked for length, layout and
//! count, only counted entries are read, and a reply that does not fit is an error.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A local peer as the kernel recorded it when the peer connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Effective user.
    pub uid: u32,
    /// Effective group, then supplementary groups. FreeBSD reports 16 groups at most (unix(4)).
    pub groups: Vec<u32>,
}

/// The credentials of the peer of a connected Unix stream socket.
///
/// # Errors The kernel does not know them, or its reply has an unknown layout. Such a peer has no
/// role.
#[cfg(target_os = "freebsd")]
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut reply = local::Xucred::UNKNOWN;
    // SAFETY: any bits are a value of the structure, which has the layout of `struct xucred`.
    let length = unsafe {
        read_option(
            socket,
            libc::SOL_LOCAL,
            libc::LOCAL_PEERCRED,
            std::slice::from_mut(&mut reply),
        )?
    };
    local::decode(&reply, length)
}

/// The credentials of the peer of a connected Unix stream socket.
///
/// # Errors The kernel does not know them, or its reply has an unknown layout. Such a peer has no
/// role.
#[cfg(target_os = "linux")]
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut reply = libc::ucred { pid: 0, uid: UNKNOWN, gid: UNKNOWN };
    // SAFETY: any bits are a value of the structure.
    let length = unsafe {
        read_option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, std::slice::from_mut(&mut reply))?
    };
    if length != size_of_val(&reply) || reply.uid == UNKNOWN {
        return Err(not_understood("SO_PEERCRED"));
    }
    let mut groups = vec![reply.gid];
    groups.extend(supplementary_groups(socket)?);
    Ok(PeerCredentials { uid: reply.uid, groups })
}

/// SO_PEERGROUPS, Linux 4.13. An older kernel reports no supplementary groups: less privilege.
#[cfg(target_os = "linux")]
fn supplementary_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // A process has at most NGROUPS_MAX groups; most have few.
    const MAX: usize = 65_536;
    let mut groups = vec![UNKNOWN; 64];
    loop {
        // SAFETY: any bits are a number.
        match unsafe { read_option(socket, libc::SOL_SOCKET, libc::SO_PEERGROUPS, &mut groups) } {
            Ok(length) => {
                groups.truncate(length / size_of::<libc::gid_t>());
                return Ok(groups);
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ERANGE) if groups.len() < MAX => {
                    groups.resize(groups.len() * 2, UNKNOWN);
                }
                Some(libc::ENOPROTOOPT | libc::ENODATA) => return Ok(vec![]),
                Some(_) | None => return Err(error),
            },
        }
    }
}

/// No user and no group has this number: `(uid_t)-1`, the kernel's value for "none".
const UNKNOWN: u32 = u32::MAX;

/// getsockopt(2) into `values`. Returns the length that the kernel reports, in bytes.
///
/// # Safety
/// Any bits are a value of `T`.
unsafe fn read_option<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    values: &mut [T],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(size_of_val(values)).map_err(io::Error::other)?;
    // SAFETY: `values` is writable for `length` bytes and the kernel writes no more; by the contract
    // of this function they are values of `T` afterwards.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(length as usize) }
}

fn not_understood(option: &str) -> io::Error {
    let message = format!("the kernel's reply to {option} is not understood");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The reply of FreeBSD to `LOCAL_PEERCRED`. Compiled for tests everywhere: privileges depend on
/// it, and most tests run on Linux.
#[cfg(any(test, target_os = "freebsd"))]
mod local {
    use std::io;

    use super::{PeerCredentials, UNKNOWN, not_understood};

    /// `XU_NGROUPS` of <sys/ucred.h>.
    pub(super) const GROUPS: usize = 16;
    /// `XUCRED_VERSION` of the same.
    const VERSION: u32 = 0;

    /// `struct xucred` of the same. nix reads it too, but returns all entries of `groups`,
    /// including those beyond the count.
    #[repr(C)]
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Xucred {
        pub(super) version: u32,
        pub(super) uid: u32,
        /// Valid entries of `groups`: the effective group is the first, the others are supplementary.
        pub(super) group_count: libc::c_short,
        pub(super) groups: [u32; GROUPS],
        /// A union of a pointer and the process number.
        pub(super) pid: usize,
    }

    #[cfg(target_os = "freebsd")]
    const _: () = {
        use std::mem::offset_of;
        assert!(size_of::<Xucred>() == size_of::<libc::xucred>());
        assert!(offset_of!(Xucred, uid) == offset_of!(libc::xucred, cr_uid));
        assert!(offset_of!(Xucred, group_count) == offset_of!(libc::xucred, cr_ngroups));
        assert!(offset_of!(Xucred, groups) == offset_of!(libc::xucred, cr_groups));
        assert!(VERSION == libc::XUCRED_VERSION);
    };

    impl Xucred {
        /// Rejected by [`decode`], should the kernel write nothing.
        #[cfg_attr(not(target_os = "freebsd"), expect(dead_code, reason = "tests use their own"))]
        pub(super) const UNKNOWN: Xucred = Xucred {
            version: u32::MAX,
            uid: UNKNOWN,
            group_count: -1,
            groups: [UNKNOWN; GROUPS],
            pid: 0,
        };
    }

    /// The credentials in `reply`, of which the kernel wrote `length` bytes.
    ///
    /// # Errors The length is not that of the structure, the version is unknown, the user is
    /// `UNKNOWN`, or the count exceeds the entries.
    pub(super) fn decode(reply: &Xucred, length: usize) -> io::Result<PeerCredentials> {
        let count = usize::try_from(reply.group_count).ok();
        let groups = count.and_then(|count| reply.groups.get(..count));
        match groups {
            Some(groups)
                if length == size_of::<Xucred>()
                    && reply.version == VERSION
                    && reply.uid != UNKNOWN =>
            {
                Ok(PeerCredentials { uid: reply.uid, groups: groups.to_vec() })
            }
            Some(_) | None => Err(not_understood("LOCAL_PEERCRED")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork, getegid, geteuid, getgroups};

    use super::local::{GROUPS, Xucred, decode};
    use super::*;

    const LENGTH: usize = size_of::<Xucred>();

    /// A reply as written by cru2x() of FreeBSD's kernel: zeros, then the fields.
    fn reply(uid: u32, groups: &[u32]) -> Xucred {
        let mut all = [0; GROUPS];
        all[..groups.len()].copy_from_slice(groups);
        Xucred { version: 0, uid, group_count: groups.len() as _, groups: all, pid: 4711 }
    }

    fn groups_of(reply: &Xucred) -> Option<Vec<u32>> {
        decode(reply, LENGTH).ok().map(|peer| peer.groups)
    }

    #[test]
    fn xucred_of_few_groups_yields_these_and_not_wheel() {
        let peer = decode(&reply(1001, &[1001, 5]), LENGTH).unwrap();
        assert_eq!(peer, PeerCredentials { uid: 1001, groups: vec![1001, 5] });
        assert_eq!(groups_of(&reply(1001, &[1001])), Some(vec![1001]));
        assert_eq!(groups_of(&reply(0, &[0, 5])), Some(vec![0, 5]));
    }

    #[test]
    fn xucred_of_sixteen_groups_yields_all_of_them() {
        let full: Vec<u32> = (100..116).collect();
        assert_eq!(groups_of(&reply(1001, &full)), Some(full));
    }

    #[test]
    fn xucred_without_groups_yields_none() {
        assert_eq!(groups_of(&reply(1001, &[])), Some(vec![]));
    }

    #[test]
    fn xucred_entries_behind_the_count_are_not_read() {
        let mut reply = reply(1001, &[1001]);
        reply.groups[1..].copy_from_slice(&[0, 5, u32::MAX, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
        assert_eq!(groups_of(&reply), Some(vec![1001]));
    }

    #[test]
    fn xucred_with_impossible_count_is_refused() {
        for count in [-1, i16::MIN, 17, i16::MAX] {
            let reply = Xucred { group_count: count, ..reply(1001, &[1001]) };
            assert_eq!(groups_of(&reply), None, "{count}");
        }
    }

    #[test]
    fn xucred_of_other_version_length_or_user_is_refused() {
        let good = reply(1001, &[1001]);
        assert!(decode(&good, LENGTH).is_ok());
        for length in [0, 4, LENGTH - 1, LENGTH + 1, usize::MAX] {
            assert!(decode(&good, length).is_err(), "{length}");
        }
        assert_eq!(groups_of(&Xucred { version: 1, ..good }), None);
        assert_eq!(groups_of(&Xucred { uid: u32::MAX, ..good }), None);
    }

    /// This process's groups as a peer sees them. getgroups(2) lists the effective group on FreeBSD
    /// up to 14, and where an older libc was linked; Linux lists it if it is supplementary too.
    fn is_own(groups: &[u32]) -> bool {
        let listed: Vec<u32> =
            getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        let with_effective = [&[getegid().as_raw()], &listed[..]].concat();
        // FreeBSD reports 16.
        let most = if cfg!(target_os = "freebsd") { GROUPS } else { usize::MAX };
        [listed, with_effective].iter().any(|own| own.iter().take(most).eq(groups))
    }

    #[test]
    fn peer_of_own_socket_has_exactly_own_user_and_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = peer_credentials(one.as_fd()).unwrap();
        assert_eq!(peer.uid, geteuid().as_raw());
        assert_eq!(peer.groups.first(), Some(&getegid().as_raw()));
        assert!(is_own(&peer.groups), "{:?}, but we have {:?}", peer.groups, getgroups());
    }

    /// The peer of a connection from a child that has become this user with these groups before it
    /// connected.
    fn peer_with(uid: u32, groups: &[u32]) -> PeerCredentials {
        let name = format!("se-peer-{}-{}", std::process::id(), groups.len());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let address = UnixAddr::new(&path).unwrap();
        let socket =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        // SAFETY: the child makes system calls only, on local values, and runs no destructors.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            // SAFETY: as above.
            ForkResult::Child => unsafe {
                let is_other = libc::setgroups(groups.len() as _, groups.as_ptr()) == 0
                    && libc::setgid(groups[0]) == 0
                    && libc::setuid(uid) == 0;
                let is_connected = connect(socket.as_raw_fd(), &address).is_ok();
                libc::_exit(i32::from(!(is_other && is_connected)));
            },
        };
        let status = waitpid(child, None).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(status, WaitStatus::Exited(child, 0));
        let (stream, _) = listener.accept().unwrap();
        peer_credentials(stream.as_fd()).unwrap()
    }

    #[test]
    fn peer_without_group_zero_reports_none() {
        if !geteuid().is_root() {
            support::skip("only root can become another user");
            return;
        }
        for groups in [vec![54_321], vec![54_321, 54_322], (54_321..54_336).collect()] {
            let mut peer = peer_with(54_320, &groups);
            // The effective group may be a supplementary one too.
            peer.groups.dedup();
            assert_eq!(peer, PeerCredentials { uid: 54_320, groups });
        }
    }
}

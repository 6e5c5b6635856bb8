//! Who is at the other end of a Unix socket: told by the kernel, so it needs no password.

use std::io;
use std::os::fd::BorrowedFd;

/// A local peer as the kernel knows it, at the time when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Effective user.
    pub uid: u32,
    /// Effective group and supplementary groups. FreeBSD tells 16 at most (unix(4)).
    pub groups: Vec<u32>,
}

/// Asks the kernel for the peer of a connected Unix stream socket.
#[cfg(target_os = "freebsd")]
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    use nix::sys::socket::{getsockopt, sockopt::LocalPeerCred};
    let credentials = getsockopt(&socket, LocalPeerCred)?;
    Ok(PeerCredentials { uid: credentials.uid(), groups: credentials.groups().to_vec() })
}

/// Asks the kernel for the peer of a connected Unix stream socket.
#[cfg(target_os = "linux")]
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials as UnixCredentials};
    let credentials = getsockopt(&socket, UnixCredentials)?;
    let mut groups = vec![credentials.gid()];
    groups.extend(supplementary_groups(socket)?);
    Ok(PeerCredentials { uid: credentials.uid(), groups })
}

/// SO_PEERGROUPS, Linux 4.13.
#[cfg(target_os = "linux")]
fn supplementary_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    use std::os::fd::AsRawFd;
    // A process has at most NGROUPS_MAX groups; most have few.
    const MOST: usize = 65_536;
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut bytes = room as libc::socklen_t;
        // SAFETY: `groups` is writable for `bytes` bytes, and the kernel writes no more than that.
        let status = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let written = bytes as usize / size_of::<libc::gid_t>();
        if status == 0 {
            groups.truncate(written);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ERANGE) if groups.len() < MOST => {
                groups.resize(written.clamp(groups.len() * 2, MOST), 0);
            }
            Some(libc::ENOPROTOOPT | libc::ENODATA) => return Ok(vec![]),
            Some(_) | None => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_of_our_own_socket_is_us() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = peer_credentials(one.as_fd()).unwrap();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.groups.contains(&nix::unistd::getegid().as_raw()));
        for group in nix::unistd::getgroups().unwrap() {
            assert!(peer.groups.contains(&group.as_raw()), "{group} is missing");
        }
    }
}

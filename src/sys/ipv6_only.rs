//! IPV6_V6ONLY: an IPv6 listener that does not claim the IPv4 port.
//!
//! FreeBSD sets it by default and Linux does not, so it is always set explicitly.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Restricts an IPv6 socket to IPv6; to be called before `bind`.
pub fn set_ipv6_only(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a local int, passed with its true size.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_V6ONLY,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! IPV6_V6ONLY: an IPv6 listener that leaves the IPv4 port alone.
//!
//! FreeBSD sets it by default and Linux does not, so it is always said.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes an IPv6 socket take IPv6 only; before `bind`.
pub fn set_ipv6_only(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int of ours, and its true size is given.
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

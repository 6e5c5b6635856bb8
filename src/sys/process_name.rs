//! The name of this process in the process list.

use std::ffi::CStr;

/// Shows this process as `sysadm-events: NAME` (FreeBSD), or as the first 15 bytes of NAME (Linux).
pub(super) fn set(name: &'static CStr) {
    #[cfg(target_os = "freebsd")]
    // SAFETY: the format takes one C string, and both are static.
    unsafe {
        libc::setproctitle(c"%s".as_ptr(), name.as_ptr());
    }
    #[cfg(target_os = "linux")]
    // SAFETY: reads a static C string.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0);
    }
}

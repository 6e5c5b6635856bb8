//! The name under which the system's list of processes shows us.

use std::ffi::CStr;

/// Shows this process as `sysadm-events: NAME` (FreeBSD), or as NAME, of which Linux keeps 15
/// bytes.
pub(super) fn set(name: &'static CStr) {
    #[cfg(target_os = "freebsd")]
    // SAFETY: the format takes one C string, and both live for ever.
    unsafe {
        libc::setproctitle(c"%s".as_ptr(), name.as_ptr());
    }
    #[cfg(target_os = "linux")]
    // SAFETY: reads a C string that lives for ever.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0);
    }
}

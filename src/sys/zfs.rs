//! Whether ZFS is there, without asking `zpool`: run by root, that would load the kernel module.
//!
//! Only memory file systems of the kernel are looked at, so the answer comes at once, whatever has
//! happened to the disks.

use std::path::Path;

/// True where ZFS runs in the kernel and can be reached from here.
///
/// The module makes `/dev/zfs` in devfs when it is loaded (`zfs_ioctl_os.c`); a jail that may not
/// use ZFS does not see it.
#[cfg(target_os = "freebsd")]
pub fn is_there() -> bool {
    Path::new("/dev/zfs").exists()
}

/// True where ZFS runs, in the kernel or as zfs-fuse, and can be reached from here.
///
/// `/dev/zfs` alone says nothing: the node may be there before the module, and to open it loads it
/// (`devname:zfs` among the module's aliases). A container sees the module and may have no node.
#[cfg(target_os = "linux")]
pub fn is_there() -> bool {
    let exists = |path: &str| Path::new(path).exists();
    exists("/sys/module/zfs") && exists("/dev/zfs") || exists("/run/zfs/zfs_socket")
}

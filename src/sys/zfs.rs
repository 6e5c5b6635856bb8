//! Presence of ZFS, without running `zpool`: run by root, that would load the kernel module.
//!
//! Only memory file systems of the kernel are accessed, so the check does not block, whatever the
//! state of the disks.

use std::path::Path;

/// True where ZFS runs in the kernel and is accessible to this process.
///
/// The module creates `/dev/zfs` in devfs when it is loaded (`zfs_ioctl_os.c`); a jail without ZFS
/// does not see it.
#[cfg(target_os = "freebsd")]
pub fn is_there() -> bool {
    Path::new("/dev/zfs").exists()
}

/// True where ZFS runs, in the kernel or as zfs-fuse, and is accessible to this process.
///
/// `/dev/zfs` alone is no evidence: the node may exist before the module, and opening it loads the
/// module (`devname:zfs` among the module's aliases). A container sees the module and may lack the
/// node.
#[cfg(target_os = "linux")]
pub fn is_there() -> bool {
    let exists = |path: &str| Path::new(path).exists();
    exists("/sys/module/zfs") && exists("/dev/zfs") || exists("/run/zfs/zfs_socket")
}

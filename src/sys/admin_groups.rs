//! Groups of administrators.

/// The groups whose members administer the system by its own custom.
#[cfg(target_os = "freebsd")]
pub const ADMIN_GROUPS: &[&str] = &["wheel"];

/// The groups whose members administer the system by its own custom. Debian has no `wheel`.
#[cfg(not(target_os = "freebsd"))]
pub const ADMIN_GROUPS: &[&str] = &["wheel", "sudo"];

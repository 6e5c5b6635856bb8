//! The few system calls that no crate wraps, one small file each, for FreeBSD and Linux.
//!
//! This module contains all `unsafe` code of the crate; each block states why it is sound.

pub mod account_state;
pub mod admin_groups;
pub mod children;
pub mod confinement;
pub mod descriptors;
pub mod files;
pub mod fork;
pub mod guarded_path;
pub mod ipv6_only;
pub mod leave;
pub mod local_time;
mod login_class;
pub mod may_block;
pub mod memory;
pub mod pam;
mod parent_death;
pub mod peer_credentials;
pub mod privileges;
mod process_name;
pub mod process_signal;
pub mod process_table;
pub mod process_tree;
pub mod processor_time;
pub mod signals;
pub mod spawn;
pub mod standard_error;
pub mod survivors;
pub mod window;
pub mod zfs;

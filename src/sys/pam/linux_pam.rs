//! Linux-PAM: names and constants of its `_pam_types.h`.

use std::ffi::{CStr, c_int};

/// File names of the library.
pub(super) const NAMES: [&CStr; 2] = [c"libpam.so.0", c"libpam.so"];

pub(super) const PERM_DENIED: c_int = 6;
pub(super) const AUTH_ERR: c_int = 7;
pub(super) const USER_UNKNOWN: c_int = 10;
pub(super) const MAXTRIES: c_int = 11;
pub(super) const NEW_AUTHTOK_REQD: c_int = 12;
pub(super) const ACCT_EXPIRED: c_int = 13;
pub(super) const CONV_ERR: c_int = 19;
pub(super) const AUTHTOK_EXPIRED: c_int = 27;

/// Suppresses messages for people.
pub(super) const SILENT: c_int = 0x8000;

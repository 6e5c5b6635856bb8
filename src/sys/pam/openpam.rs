//! OpenPAM, FreeBSD's: names and constants of its `pam_constants.h`.

use std::ffi::{CStr, c_int};

/// File names of the library: FreeBSD 14 and 15, then older ones.
pub(super) const NAMES: [&CStr; 3] = [c"libpam.so.6", c"libpam.so.5", c"libpam.so"];

pub(super) const CONV_ERR: c_int = 6;
pub(super) const PERM_DENIED: c_int = 7;
pub(super) const MAXTRIES: c_int = 8;
pub(super) const AUTH_ERR: c_int = 9;
pub(super) const NEW_AUTHTOK_REQD: c_int = 10;
pub(super) const USER_UNKNOWN: c_int = 13;
pub(super) const ACCT_EXPIRED: c_int = 17;
pub(super) const AUTHTOK_EXPIRED: c_int = 18;

/// Suppresses messages for people.
pub(super) const SILENT: c_int = c_int::MIN;

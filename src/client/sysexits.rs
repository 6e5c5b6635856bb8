//! What a command's exit tells a script: numbers of sysexits(3), by name.
//!
//! They are part of the contract with whoever scripts our commands, so they stand in one place.

/// The command line is wrong, or the daemon says that the request is.
pub const USAGE: u8 = 64;
/// An input file cannot be read.
pub const NO_INPUT: u8 = 66;
/// No daemon answers, or it went away.
pub const UNAVAILABLE: u8 = 69;
/// What we read or write locally cannot be read or written.
pub const IO: u8 = 74;
/// Not now: what is asked for is in use.
pub const TEMPORARY: u8 = 75;
/// The peer does not speak our protocol, or is not whom it should be.
pub const PROTOCOL: u8 = 76;
/// Not permitted.
pub const NO_PERMISSION: u8 = 77;
/// The configuration is wrong.
pub const CONFIGURATION: u8 = 78;

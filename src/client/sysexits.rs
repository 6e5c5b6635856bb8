//! Exit codes of sysexits(3), by name.
//!
//! They are a contract for scripts that run the commands.

/// The command line is wrong, or the daemon rejected the request as invalid.
pub const USAGE: u8 = 64;
/// An input file cannot be read.
pub const NO_INPUT: u8 = 66;
/// No daemon responds, or the connection was lost.
pub const UNAVAILABLE: u8 = 69;
/// A local read or write failed.
pub const IO: u8 = 74;
/// A temporary failure: the resource is in use.
pub const TEMPORARY: u8 = 75;
/// The peer violates the protocol, or is not the expected one.
pub const PROTOCOL: u8 = 76;
/// Not permitted.
pub const NO_PERMISSION: u8 = 77;
/// The configuration is wrong.
pub const CONFIGURATION: u8 = 78;

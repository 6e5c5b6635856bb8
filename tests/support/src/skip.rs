//! Tests that cannot be run everywhere, and say so.

use std::env;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};

/// Says that this test is not run, and why; where `NO_SKIP` is set that is a failure. Past the test
/// harness, which keeps what a good test prints to itself.
pub fn skip(why: &str) {
    assert!(env::var_os("NO_SKIP").is_none(), "with NO_SKIP nothing may be skipped, but: {why}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Where nobody reads it there is nobody to be told.
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

/// Whether connections can come from loopback addresses beside 127.0.0.1, as on Linux from each of
/// 127.0.0.0/8; where not, this test is skipped.
pub fn has_loopback_addresses() -> bool {
    let has = TcpListener::bind((Ipv4Addr::new(127, 255, 1, 1), 0)).is_ok();
    if !has {
        skip("of 127.0.0.0/8 this host has 127.0.0.1 only, as FreeBSD does");
    }
    has
}

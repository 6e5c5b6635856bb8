//! Tests that cannot run everywhere, and report it.

use std::env;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};

/// Reports that this test is skipped, and why; with `NO_SKIP` that is a failure. Bypasses the test
/// harness, which captures the output of a passing test.
pub fn skip(why: &str) {
    assert!(env::var_os("NO_SKIP").is_none(), "with NO_SKIP nothing may be skipped, but: {why}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // A closed standard error is ignored.
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

/// Whether connections can come from loopback addresses other than 127.0.0.1, as on Linux from each
/// of 127.0.0.0/8; otherwise this test is skipped.
pub fn has_loopback_addresses() -> bool {
    let has = TcpListener::bind((Ipv4Addr::new(127, 255, 1, 1), 0)).is_ok();
    if !has {
        skip("of 127.0.0.0/8 this host has 127.0.0.1 only, as FreeBSD does");
    }
    has
}

//! Tests that cannot be run everywhere, and say so.

use std::env;
use std::io::{self, Write};

/// Says that this test is not run, and why; where `NO_SKIP` is set that is a failure. Past the test
/// harness, which keeps what a good test prints to itself.
pub fn skip(why: &str) {
    assert!(env::var_os("NO_SKIP").is_none(), "with NO_SKIP nothing may be skipped, but: {why}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Where nobody reads it there is nobody to be told.
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

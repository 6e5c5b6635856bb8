//! How the release is linked: as small as it can be on an appliance.
//!
//! Its panics abort (`panic = "abort"`), so nothing ever unwinds the stack; the tables for that are
//! a tenth of the program, and are left out. On Linux, addresses that the loader has to adjust are
//! written in the packed form; not every linker for FreeBSD knows that one. A debug build has all
//! that a debugger wants.

use std::path::PathBuf;
use std::{env, fs};

/// For GNU ld and lld alike.
const WITHOUT_UNWIND_TABLES: &str = "\
SECTIONS {
  /DISCARD/ : { *(.eh_frame .eh_frame.* .gcc_except_table .gcc_except_table.*) }
}
INSERT BEFORE .text;
";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let Some(out) = env::var_os("OUT_DIR").filter(|_| is_release) else { return };
    let script = PathBuf::from(out).join("without-unwind-tables.ld");
    fs::write(&script, WITHOUT_UNWIND_TABLES).expect("OUT_DIR can be written");
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
    println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

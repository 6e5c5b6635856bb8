//! Linking of the release: as small as possible, for appliances.
//!
//! Its panics abort (`panic = "abort"`), so nothing ever unwinds the stack; the tables for that are
//! a tenth of the program, and are omitted. On Linux, relocations are written in the packed form;
//! not every linker for FreeBSD supports it. A debug build has all that a debugger needs.
//!
//! The log rules of `etc/rules` are embedded without their comments and samples.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
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
    println!("cargo:rerun-if-changed=etc/rules");
    if let Some(out) = env::var_os("OUT_DIR") {
        let rules = embedded_rules(Path::new("etc/rules"));
        fs::write(Path::new(&out).join("rules.rs"), rules).expect("OUT_DIR can be written");
    }
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

/// A Rust slice of each file's name and text. `[samples]` is the last section of each.
fn embedded_rules(directory: &Path) -> String {
    let files = fs::read_dir(directory).expect("etc/rules can be read");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let mut slice = "&[".to_owned();
    for file in files {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("a file of rules can be read");
        let rules = text.split("\n[samples]").next().unwrap_or_default();
        let is_rule = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let rules: Vec<&str> = rules.lines().filter(is_rule).collect();
        write!(slice, "({name:?}, {:?}),", rules.join("\n")).expect("a string can be written");
    }
    slice + "]"
}

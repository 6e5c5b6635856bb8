//! The executable. All code is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    sysadm_events::cli::main()
}

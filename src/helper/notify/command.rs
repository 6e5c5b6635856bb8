//! Runs a program with a text on its standard input.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::notify::shown;

/// Bytes of its output that are of interest.
const OUTPUT: usize = 4096;
/// Wait for output that a program printed before it ended; what it leaves behind may go on printing.
const REST: Duration = Duration::from_millis(200);

/// Runs a program without a shell and waits for its end; returns the first line that it printed.
///
/// # Errors
/// It could not be started, or has not ended with code 0: the reason.
pub(super) fn run<A: AsRef<OsStr>>(
    program: &Path,
    arguments: &[A],
    input: &[u8],
) -> Result<String, String> {
    let name = program.display();
    let (output, writer) = io::pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    let errors = writer.try_clone().map_err(|error| format!("cannot make a pipe: {error}"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(writer).stderr(errors);
    let mut child = command.spawn().map_err(|error| format!("cannot run {name}: {error}"))?;
    // It holds copies of the ends that the program writes to.
    drop(command);
    let printed = read_in_background(output);
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read all of it states the outcome by its exit code.
        let _ = stdin.write_all(input);
    }
    let status = child.wait().map_err(|error| format!("cannot wait for {name}: {error}"))?;
    let printed = printed.recv_timeout(REST).unwrap_or_default();
    let first = printed.lines().find(|line| !line.trim().is_empty()).map(shown);
    if status.success() {
        return Ok(first.unwrap_or_else(|| "exit code 0".to_owned()));
    }
    let first = first.map_or(String::new(), |line| format!(": {line}"));
    Err(match status.code() {
        Some(code) => format!("{name} ended with exit code {code}{first}"),
        None => format!("{name} was ended by a signal{first}"),
    })
}

/// Reads to the end, so that the program is never held up; the first bytes come when it is there.
fn read_in_background(mut output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut first = Vec::new();
        let _ = output.by_ref().take(OUTPUT as u64).read_to_end(&mut first);
        let is_full = first.len() == OUTPUT;
        let text = String::from_utf8_lossy(&first).into_owned();
        if is_full {
            let _ = sender.send(text);
            let _ = io::copy(&mut output, &mut io::sink());
        } else {
            let _ = sender.send(text);
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &str) -> Result<String, String> {
        run(Path::new("/bin/sh"), &["-c", script], input.as_bytes())
    }

    #[test]
    fn exit_code_and_first_line_are_the_outcome() {
        assert_eq!(sh("cat", "one\ntwo\n"), Ok("one".to_owned()));
        assert_eq!(sh("true", "x"), Ok("exit code 0".to_owned()));
        let failed = sh("echo out of paper >&2; exit 75", "x");
        assert_eq!(failed, Err("/bin/sh ended with exit code 75: out of paper".to_owned()));
        assert_eq!(sh("kill -9 $$", "x"), Err("/bin/sh was ended by a signal".to_owned()));
        let none = run(Path::new("/nonexistent/x"), &[""; 0], b"").unwrap_err();
        assert!(none.starts_with("cannot run /nonexistent/x: "), "{none}");
    }

    #[test]
    fn program_that_prints_much_or_reads_nothing_is_not_held_up() {
        let much = "x".repeat(300_000);
        assert!(sh("cat >/dev/null; head -c 1000000 /dev/zero", &much).is_ok());
        assert!(sh("exec <&-; exit 0", &much).is_ok());
    }
}

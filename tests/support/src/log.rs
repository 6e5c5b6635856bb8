//! Lines printed by a process, stored as they arrive, so that a test can wait for one.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::{Outcome, PATIENCE};

/// Lines so far, shared with the thread that reads them.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Reads `source` to its end, in a thread: a full pipe would block the process.
    pub fn of(source: impl Read + Send + 'static) -> Log {
        let log = Log::default();
        let ours = log.clone();
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                ours.change(|lines| lines.lines.push(text));
                line.clear();
            }
            ours.change(|lines| lines.ended = true);
        });
        log
    }

    fn change(&self, change: impl FnOnce(&mut Lines)) {
        change(&mut self.lock());
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// Waits for a line that contains `text`, starting with line number `from`; returns the line,
    /// and the number of the next one.
    pub fn wait_from(&self, from: usize, text: &str) -> Outcome<(String, usize)> {
        let patience = Instant::now() + PATIENCE;
        let mut lines = self.lock();
        let mut next = from;
        loop {
            while let Some(line) = lines.lines.get(next) {
                next += 1;
                if line.contains(text) {
                    return Ok((line.clone(), next));
                }
            }
            let left = patience.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let said = lines.lines.join("\n");
                return Err(format!("no line with {text:?} came; there were:\n{said}").into());
            }
            let waited = self.0.1.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a line that contains `text`, at any position.
    pub fn wait(&self, text: &str) -> Outcome<String> {
        self.wait_from(0, text).map(|(line, _)| line)
    }

    /// Waits for the end of the output: the process, and all that share its descriptor, are gone.
    pub fn wait_end(&self) -> Outcome<Vec<String>> {
        let patience = Instant::now() + PATIENCE;
        let mut lines = self.lock();
        while !lines.ended {
            let left = patience.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("still open after:\n{}", lines.lines.join("\n")).into());
            }
            let waited = self.0.1.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(lines.lines.clone())
    }
}

//! A replication under way, as a person sees it who watches on a terminal.

use std::io::Read;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use support::{Cli, Daemon, Outcome, PATIENCE, Peer, Pty, Setup, append};

use super::PROGRAM;

/// What a terminal shows: as much of one as the program needs, and nothing else may come.
#[derive(Clone, Debug, Default)]
struct Shown {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Of a character or a sequence that is not whole yet.
    rest: Vec<u8>,
}

impl Shown {
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(_) => self.rest.len(),
            Err(error) => error.valid_up_to(),
        };
        let text: String = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        let mut rest = text.as_str();
        while let Some(next) = rest.chars().next() {
            let behind = &rest[next.len_utf8()..];
            rest = match next {
                '\u{1b}' => match self.sequence(behind) {
                    Some(behind) => behind,
                    None => break,
                },
                '\n' => {
                    (self.row, self.column) = (self.row + 1, 0);
                    behind
                }
                '\r' => {
                    self.column = 0;
                    behind
                }
                other => {
                    self.put(other);
                    behind
                }
            };
        }
        let taken = text.len() - rest.len();
        self.rest.drain(..taken);
    }

    /// `[2A`: so many up; `[J`: nothing from here on; `[1m`: of a colour.
    fn sequence<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        let end = text.find(|c: char| c.is_ascii_alphabetic())?;
        let number = text[1..end].parse::<usize>().unwrap_or(1);
        match &text[end..=end] {
            "m" => {}
            "A" => self.row = self.row.checked_sub(number).unwrap_or_else(|| panic!("above all")),
            "J" => {
                self.lines.truncate(self.row + 1);
                if let Some(line) = self.lines.get_mut(self.row) {
                    line.truncate(self.column);
                }
            }
            other => panic!("a terminal need not know {other:?}"),
        }
        Some(&text[end + 1..])
    }

    fn put(&mut self, character: char) {
        if self.lines.len() <= self.row {
            self.lines.resize(self.row + 1, Vec::new());
        }
        let line = &mut self.lines[self.row];
        if line.len() <= self.column {
            line.resize(self.column + 1, ' ');
        }
        line[self.column] = character;
        self.column += 1;
    }

    /// Without what is empty at the end.
    fn text(&self) -> Vec<String> {
        let lines = self.lines.iter().map(|line| line.iter().collect::<String>());
        let mut lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }
}

/// Somebody who watches.
struct Watcher {
    child: Child,
    shown: Arc<(Mutex<Shown>, Condvar)>,
}

impl Watcher {
    /// Begins to watch, and waits until the daemon knows of it.
    fn start(daemon: &Daemon) -> Outcome<Watcher> {
        let terminal = Pty::new()?;
        let mut command = Cli::to(daemon, "watch")
            .arg("life-preserver")
            .env("TERM", "xterm-256color")
            .into_command();
        command.stdin(terminal.stdio()?).stdout(terminal.stdio()?).stderr(terminal.stdio()?);
        let child = command.spawn()?;
        // Our copies of the terminal are in it, and would keep it open.
        drop(command);
        let shown = Arc::<(Mutex<Shown>, Condvar)>::default();
        let ours = shown.clone();
        let mut screen = terminal.into_screen();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut bytes) {
                ours.0.lock().unwrap().take(&bytes[..read]);
                ours.1.notify_all();
            }
        });
        let watcher = Watcher { child, shown };
        let mut peer = Peer::local(daemon)?;
        let patience = Instant::now() + PATIENCE;
        while peer.request("rpc", "status", &serde_json::Value::Null)?["subscribers"] != 1 {
            assert!(Instant::now() < patience, "nobody subscribes");
        }
        Ok(watcher)
    }

    /// What is shown once `wanted` is true of it.
    fn wait(&self, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let shown = self.shown.0.lock().unwrap();
        let waiting = self.shown.1.wait_timeout_while(shown, PATIENCE, |it| !wanted(&it.text()));
        let (shown, waited) = waiting.unwrap();
        assert!(!waited.timed_out(), "what is shown: {:#?}", shown.text());
        shown.text()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line without its time of day.
fn timeless(line: &str) -> &str {
    line.get(8..).unwrap_or_default().trim_start()
}

#[test]
fn replication_is_one_line_with_a_bar_redrawn_in_place() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?.with("life_preserver.progress_interval", r#""10ms""#);
    let daemon = setup.start()?;
    let watcher = Watcher::start(&daemon)?;
    let file = setup.directory().join("logs/send");
    let begins = format!("now: Starting replication SYNC task on tank/home: {}\n", file.display());
    append(&setup.log(), begins)?;
    watcher.wait(|lines| lines.len() == 1);
    append(&file, "total estimated size is 10.0M\n")?;
    for (sent, bar) in [
        ("2.50M", "▶ tank/home  [██████░░░░░░░░░░░░░░░░░░]     25%  2.50M/10.0M"),
        ("5.00M", "▶ tank/home  [████████████░░░░░░░░░░░░]     50%  5.00M/10.0M"),
        ("10.0M", "▶ tank/home  [████████████████████████]    100%  10.0M/10.0M"),
    ] {
        append(&file, format!("12:00:01   {sent}   tank/home@a\n"))?;
        let lines = watcher
            .wait(|lines| lines.last().is_some_and(|line| line.contains(&format!("  {sent}/"))));
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert_eq!(lines[1].trim_start(), bar);
    }
    // What else happens stands above it.
    append(&setup.log(), "now: Creating snapshot on tank\n")?;
    let lines = watcher.wait(|lines| lines.len() == 3);
    assert_eq!(timeless(&lines[1]), "1 - Information  snapshot     now: New snapshot of tank");
    assert!(lines[2].ends_with("100%  10.0M/10.0M"), "{lines:#?}");
    // With the end it is gone.
    append(&setup.log(), "now: Finished replication task on tank/home -> b\n")?;
    let lines = watcher.wait(|lines| lines.last().is_some_and(|line| line.contains("Finished")));
    let received: Vec<&str> = lines.iter().map(|line| timeless(line)).collect();
    assert_eq!(
        received,
        [
            "1 - Information  replication  now: Starting replication for tank/home",
            "1 - Information  snapshot     now: New snapshot of tank",
            "1 - Information  replication  now: Finished replication for tank/home",
        ]
    );
    Ok(())
}

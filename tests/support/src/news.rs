//! Growing logs, and the clients of their events.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Daemon, Outcome, Peer, Setup, Stream};

impl Setup {
    /// One that follows [`Setup::log`].
    pub fn following(program: &str) -> Outcome<Setup> {
        let setup = Setup::new(program)?;
        let log = format!("{:?}", setup.log());
        Ok(setup.with("life_preserver.log", log))
    }

    /// The log of Life Preserver, in a directory that does not exist at first.
    pub fn log(&self) -> PathBuf {
        self.directory().join("logs/lp.log")
    }
}

impl Peer {
    /// A client of the local socket that subscribes to snapshots and replications.
    pub fn reader(daemon: &Daemon) -> Outcome<Peer> {
        let mut peer = Peer::local(daemon)?;
        peer.request("events", "subscribe", &json!(["life-preserver"]))?;
        Ok(peer)
    }

    /// `args` of the next event of a snapshot or a replication.
    pub fn news(&mut self) -> Outcome<Value> {
        loop {
            let mut frame = self.frame()?;
            if frame["name"] == "life_preserver" {
                return Ok(frame["args"].take());
            }
        }
    }

    /// The messages of the next `count` events.
    pub fn messages(&mut self, count: usize) -> Outcome<Vec<String>> {
        (0..count).map(|_| self.message()).collect()
    }

    /// The message of the next event.
    pub fn message(&mut self) -> Outcome<String> {
        let news = self.news()?;
        Ok(news["message"].as_str().ok_or("no message")?.to_owned())
    }

    /// Converts it to a counter, which reads as fast as possible. All frames so far must have been
    /// read.
    pub fn into_counter(self) -> Counter {
        Counter { stream: self.into_stream(), bytes: Vec::new(), at: 0 }
    }
}

/// Appends to a log, which is created with its directory if missing.
pub fn append(log: &Path, text: impl AsRef<[u8]>) -> Outcome<()> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(log)?;
    file.write_all(text.as_ref())?;
    Ok(())
}

/// The line of a numbered snapshot, with its end.
pub fn snapshot(number: usize) -> String {
    format!("now: Creating snapshot on tank/{number}\n")
}

/// The message of its event.
pub fn snapshot_message(number: usize) -> String {
    format!("now: New snapshot of tank/{number}")
}

/// Lines of these snapshots.
pub fn snapshots(numbers: std::ops::Range<usize>) -> String {
    numbers.map(snapshot).collect()
}

/// The messages of their events.
pub fn snapshot_messages(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(snapshot_message).collect()
}

/// A client that only identifies events.
pub struct Counter {
    stream: Stream,
    bytes: Vec<u8>,
    at: usize,
}

impl Counter {
    /// Reads the events of all snapshots with these numbers, which must come in order, each once.
    pub fn expect(&mut self, numbers: std::ops::Range<usize>) -> Outcome<()> {
        for wanted in numbers {
            let frame = self.frame()?;
            let number = number_in(frame);
            if number != Some(wanted) {
                let frame = String::from_utf8_lossy(frame).into_owned();
                return Err(format!("not snapshot {wanted} but {frame}").into());
            }
        }
        Ok(())
    }

    /// The next text (RFC 6455 section 5.2, unmasked); pings are ignored.
    fn frame(&mut self) -> Outcome<&[u8]> {
        loop {
            let waiting = self.bytes.get(self.at..).unwrap_or_default();
            let Some((first, head, length)) = head(waiting) else {
                self.read_more()?;
                continue;
            };
            let start = self.at + head;
            if self.bytes.len() < start + length {
                self.read_more()?;
                continue;
            }
            self.at = start + length;
            match first {
                0x81 => return Ok(&self.bytes[start..start + length]),
                0x89 => {}
                other => return Err(format!("a frame that begins with {other:#x}").into()),
            }
        }
    }

    fn read_more(&mut self) -> Outcome<()> {
        self.bytes.drain(..self.at);
        self.at = 0;
        let filled = self.bytes.len();
        self.bytes.resize(filled + 64 * 1024, 0);
        let read = self.stream.read(&mut self.bytes[filled..])?;
        self.bytes.truncate(filled + read);
        if read == 0 { Err("the connection has ended".into()) } else { Ok(()) }
    }
}

/// First byte, length of the head, length of the payload.
fn head(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    match bytes {
        [first, 126, high, low, ..] => {
            Some((*first, 4, usize::from(u16::from_be_bytes([*high, *low]))))
        }
        [_, 126 | 127, ..] => None,
        [first, length, ..] => Some((*first, 2, usize::from(*length))),
        _ => None,
    }
}

/// The number after `tank/`.
fn number_in(frame: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"tank/";
    let at = frame.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let digits = frame[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}

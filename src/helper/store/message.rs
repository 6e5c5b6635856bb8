//! Messages between the daemon and its store, in frames of the channel.

use super::super::channel::{Channel, Frame, put};

/// A request of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Append a line to the journal.
    Line(Vec<u8>),
    /// Append a line to the journal of notifications.
    Notification(Vec<u8>),
    /// Make all lines so far durable, and report it with this number.
    Commit(u64),
    /// Append to a job's log of at most `limit` bytes; `at` is the offset in the job's output.
    Log { serial: u64, at: u64, limit: u64, text: Vec<u8> },
    /// No more output of that job for now.
    CloseLog(u64),
    /// Delete the job.
    Forget(u64),
    /// Replace a state file, and report it.
    Persist { request: u64, name: String, bytes: Vec<u8> },
    /// Read a part of a job's log; the query as JSON.
    ReadText { request: u64, question: Vec<u8> },
    /// Read the logs of a job's commands; the query as JSON.
    ReadPieces { request: u64, question: Vec<u8> },
    /// Change the registered keys, or read them; the request as JSON.
    Keys { request: u64, question: Vec<u8> },
    /// Read at most `length` bytes of a job's log, the first available ones from `from` on. The
    /// reply is their offset in the output, in eight bytes, and the bytes.
    ReadOutput { request: u64, serial: u64, from: u64, length: u64 },
    /// Append an event to the history of at most `limit` bytes; `lost` before it never came. A limit
    /// of 0 removes the history.
    Event { lost: u64, limit: u64, frame: Vec<u8> },
    /// Read a page of the history; the question as JSON, and so is the answer.
    History { request: u64, question: Vec<u8> },
}

/// A reply of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Everything up to this commit is durable.
    Persisted(u64),
    /// Records between the last successful commit and this one are not in the journal.
    Failed { commit: u64, why: String },
    /// The reply to a request, as JSON.
    Answer { request: u64, answer: Vec<u8> },
    /// The request failed.
    NoAnswer { request: u64, why: String },
    /// A line for the daemon's log.
    Remark(String),
    /// Number of [`Order::Log`]s carried out since the store started.
    Logged(u64),
    /// So many [`Order::Event`]s were carried out since the store began.
    Recorded(u64),
}

/// Recipient of frames: a channel, or the bytes for one.
pub(super) trait Frames {
    /// Adds a frame.
    fn frame(&mut self, kind: u8, number: u64, parts: &[&[u8]]);
}

impl Frames for Channel {
    fn frame(&mut self, kind: u8, number: u64, parts: &[&[u8]]) {
        self.send(kind, number, parts);
    }
}

impl Frames for Vec<u8> {
    fn frame(&mut self, kind: u8, number: u64, parts: &[&[u8]]) {
        put(self, kind, number, parts);
    }
}

/// Sends an [`Order::Log`], without copying the output first.
pub(super) fn put_log(out: &mut impl Frames, serial: u64, at: u64, limit: u64, output: &[u8]) {
    out.frame(3, serial, &[&at.to_le_bytes(), &limit.to_le_bytes(), output]);
}

/// The same of an [`Order::Event`].
pub(super) fn put_event(out: &mut impl Frames, lost: u64, limit: u64, frame: &[u8]) {
    out.frame(11, lost, &[&limit.to_le_bytes(), frame]);
}

fn number(body: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = body.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

impl Order {
    pub(super) fn put(&self, out: &mut impl Frames) {
        match self {
            Order::Line(line) => out.frame(1, 0, &[line]),
            Order::Commit(commit) => out.frame(2, *commit, &[]),
            Order::Log { serial, at, limit, text } => put_log(out, *serial, *at, *limit, text),
            Order::CloseLog(serial) => out.frame(4, *serial, &[]),
            Order::Forget(serial) => out.frame(5, *serial, &[]),
            Order::Persist { request, name, bytes } => {
                let length = (name.len() as u64).to_le_bytes();
                out.frame(6, *request, &[&length, name.as_bytes(), bytes]);
            }
            Order::ReadText { request, question } => out.frame(7, *request, &[question]),
            Order::ReadPieces { request, question } => out.frame(8, *request, &[question]),
            Order::Keys { request, question } => out.frame(9, *request, &[question]),
            Order::ReadOutput { request, serial, from, length } => {
                let numbers = [serial, from, length].map(|number| number.to_le_bytes());
                out.frame(10, *request, &numbers.each_ref().map(|number| number.as_slice()));
            }
            Order::Event { lost, limit, frame } => put_event(out, *lost, *limit, frame),
            Order::History { request, question } => out.frame(12, *request, &[question]),
            Order::Notification(line) => out.frame(13, 0, &[line]),
        }
    }

    /// The order of a frame. Invalid ones are skipped: both ends are the same program.
    pub(super) fn read(frame: &Frame) -> Option<Order> {
        let (first, rest) = (frame.number, frame.body.as_slice());
        Some(match frame.kind {
            1 => Order::Line(rest.to_vec()),
            13 => Order::Notification(rest.to_vec()),
            2 => Order::Commit(first),
            3 => {
                let (at, rest) = number(rest)?;
                let (limit, text) = number(rest)?;
                Order::Log { serial: first, at, limit, text: text.to_vec() }
            }
            4 => Order::CloseLog(first),
            5 => Order::Forget(first),
            6 => {
                let (length, rest) = number(rest)?;
                let (name, bytes) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                Order::Persist { request: first, name: text(name), bytes: bytes.to_vec() }
            }
            7 => Order::ReadText { request: first, question: rest.to_vec() },
            8 => Order::ReadPieces { request: first, question: rest.to_vec() },
            9 => Order::Keys { request: first, question: rest.to_vec() },
            10 => {
                let (serial, rest) = number(rest)?;
                let (from, rest) = number(rest)?;
                let (length, _) = number(rest)?;
                Order::ReadOutput { request: first, serial, from, length }
            }
            11 => {
                let (limit, frame) = number(rest)?;
                Order::Event { lost: first, limit, frame: frame.to_vec() }
            }
            12 => Order::History { request: first, question: rest.to_vec() },
            _ => return None,
        })
    }
}

impl Report {
    pub(super) fn put(&self, out: &mut impl Frames) {
        match self {
            Report::Persisted(commit) => out.frame(1, *commit, &[]),
            Report::Failed { commit, why } => out.frame(2, *commit, &[why.as_bytes()]),
            Report::Answer { request, answer } => out.frame(3, *request, &[answer]),
            Report::NoAnswer { request, why } => out.frame(4, *request, &[why.as_bytes()]),
            Report::Remark(remark) => out.frame(5, 0, &[remark.as_bytes()]),
            Report::Logged(count) => out.frame(6, *count, &[]),
            Report::Recorded(count) => out.frame(7, *count, &[]),
        }
    }

    /// As [`Order::read`].
    pub(super) fn read(frame: &Frame) -> Option<Report> {
        let (first, rest) = (frame.number, frame.body.as_slice());
        Some(match frame.kind {
            1 => Report::Persisted(first),
            2 => Report::Failed { commit: first, why: text(rest) },
            3 => Report::Answer { request: first, answer: rest.to_vec() },
            4 => Report::NoAnswer { request: first, why: text(rest) },
            5 => Report::Remark(text(rest)),
            6 => Report::Logged(first),
            7 => Report::Recorded(first),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::channel::first;
    use super::*;

    #[test]
    fn messages_are_decoded_as_encoded() {
        let orders = [
            Order::Line(b"{}".to_vec()),
            Order::Notification(b"{}".to_vec()),
            Order::Commit(u64::MAX),
            Order::Log { serial: 1, at: 2, limit: 3, text: b"x\n".to_vec() },
            Order::CloseLog(3),
            Order::Forget(4),
            Order::Persist { request: 7, name: "tail".into(), bytes: vec![0, 255] },
            Order::ReadText { request: 5, question: b"q".to_vec() },
            Order::ReadPieces { request: 6, question: vec![] },
            Order::Keys { request: 8, question: b"k".to_vec() },
            Order::ReadOutput { request: 9, serial: 1, from: 2, length: 3 },
            Order::Event { lost: 1, limit: 2, frame: b"{}".to_vec() },
            Order::History { request: 10, question: b"q".to_vec() },
        ];
        for order in orders {
            let mut bytes = Vec::new();
            order.put(&mut bytes);
            assert_eq!(Order::read(&first(&bytes).unwrap().0), Some(order));
        }
        let reports = [
            Report::Persisted(7),
            Report::Failed { commit: 8, why: "full".into() },
            Report::Answer { request: 9, answer: b"[]".to_vec() },
            Report::NoAnswer { request: 10, why: "gone".into() },
            Report::Remark("set aside".into()),
            Report::Logged(11),
            Report::Recorded(12),
        ];
        for report in reports {
            let mut bytes = Vec::new();
            report.put(&mut bytes);
            assert_eq!(Report::read(&first(&bytes).unwrap().0), Some(report));
        }
    }
}

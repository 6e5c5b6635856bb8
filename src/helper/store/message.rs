//! Messages between the daemon and its store, and their encoding.
//!
//! Both ends are one program (the store is forked), so the format is private: length, kind, numbers
//! of eight bytes, and at most one text or block after them.

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

/// Size of the header: length of the rest, and the kind.
const HEAD: usize = 5;

/// A buffer to which blocks of bytes are appended.
pub(super) trait Bytes: for<'b> Extend<&'b u8> {}

impl<B: for<'b> Extend<&'b u8>> Bytes for B {}

/// Appends a message to `out`.
fn put(out: &mut impl Bytes, kind: u8, numbers: &[u64], rest: &[u8]) {
    let length = u32::try_from(8 * numbers.len() + rest.len()).unwrap_or(u32::MAX);
    out.extend(&length.to_le_bytes());
    out.extend(&[kind]);
    numbers.iter().for_each(|number| out.extend(&number.to_le_bytes()));
    out.extend(rest);
}

/// Appends an [`Order::Log`] to `out`, without copying the output first.
pub(super) fn put_log(out: &mut impl Bytes, serial: u64, at: u64, limit: u64, output: &[u8]) {
    put(out, 3, &[serial, at, limit], output);
}

/// The same of an [`Order::Event`].
pub(super) fn put_event(out: &mut impl Bytes, lost: u64, limit: u64, frame: &[u8]) {
    put(out, 11, &[lost, limit], frame);
}

/// The first complete message of `bytes`: kind, payload, and total length.
fn first(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (kind, rest) = rest.split_first()?;
    Some((*kind, rest.get(..length)?, HEAD + length))
}

fn number(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = payload.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

impl Order {
    pub(super) fn put(&self, out: &mut impl Bytes) {
        match self {
            Order::Line(line) => put(out, 1, &[], line),
            Order::Commit(commit) => put(out, 2, &[*commit], &[]),
            Order::Log { serial, at, limit, text } => put(out, 3, &[*serial, *at, *limit], text),
            Order::CloseLog(serial) => put(out, 4, &[*serial], &[]),
            Order::Forget(serial) => put(out, 5, &[*serial], &[]),
            Order::Persist { request, name, bytes } => {
                let rest = [name.as_bytes(), bytes].concat();
                put(out, 6, &[*request, name.len() as u64], &rest);
            }
            Order::ReadText { request, question } => put(out, 7, &[*request], question),
            Order::ReadPieces { request, question } => put(out, 8, &[*request], question),
            Order::Keys { request, question } => put(out, 9, &[*request], question),
            Order::ReadOutput { request, serial, from, length } => {
                put(out, 10, &[*request, *serial, *from, *length], &[]);
            }
            Order::Event { lost, limit, frame } => put_event(out, *lost, *limit, frame),
            Order::History { request, question } => put(out, 12, &[*request], question),
            Order::Notification(line) => put(out, 13, &[], line),
        }
    }

    /// The first complete order of `bytes`, and its length. Invalid ones are skipped: both ends are
    /// the same program.
    pub(super) fn take(bytes: &[u8]) -> Option<(Option<Order>, usize)> {
        let (kind, payload, length) = first(bytes)?;
        Some((Order::read(kind, payload), length))
    }

    fn read(kind: u8, payload: &[u8]) -> Option<Order> {
        if kind == 1 {
            return Some(Order::Line(payload.to_vec()));
        }
        if kind == 13 {
            return Some(Order::Notification(payload.to_vec()));
        }
        let (first, rest) = number(payload)?;
        Some(match kind {
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
    pub(super) fn put(&self, out: &mut impl Bytes) {
        match self {
            Report::Persisted(commit) => put(out, 1, &[*commit], &[]),
            Report::Failed { commit, why } => put(out, 2, &[*commit], why.as_bytes()),
            Report::Answer { request, answer } => put(out, 3, &[*request], answer),
            Report::NoAnswer { request, why } => put(out, 4, &[*request], why.as_bytes()),
            Report::Remark(remark) => put(out, 5, &[0], remark.as_bytes()),
            Report::Logged(count) => put(out, 6, &[*count], &[]),
            Report::Recorded(count) => put(out, 7, &[*count], &[]),
        }
    }

    /// As [`Order::take`].
    pub(super) fn take(bytes: &[u8]) -> Option<(Option<Report>, usize)> {
        let (kind, payload, length) = first(bytes)?;
        let report = number(payload).and_then(|(first, rest)| match kind {
            1 => Some(Report::Persisted(first)),
            2 => Some(Report::Failed { commit: first, why: text(rest) }),
            3 => Some(Report::Answer { request: first, answer: rest.to_vec() }),
            4 => Some(Report::NoAnswer { request: first, why: text(rest) }),
            5 => Some(Report::Remark(text(rest))),
            6 => Some(Report::Logged(first)),
            7 => Some(Report::Recorded(first)),
            _ => None,
        });
        Some((report, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_decoded_from_any_split_of_their_bytes() {
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
            for cut in 0..bytes.len() {
                assert_eq!(Order::take(&bytes[..cut]), None);
            }
            let length = bytes.len();
            bytes.extend(b"more");
            assert_eq!(Order::take(&bytes), Some((Some(order), length)));
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
            let length = bytes.len();
            assert_eq!(Report::take(&bytes), Some((Some(report), length)));
        }
    }
}

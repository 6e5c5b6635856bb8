//! The channel between the loop and a worker: its state, the frames, and the loop's buffers.
//!
//! A frame has the length of its body, a kind, a number, and the body. Both ends are one program (a
//! worker is forked), so the form is private. A frame may contain a password: buffers of frames
//! that are sent are zeroized, and none is reallocated, which would leave a copy.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};

use zeroize::Zeroizing;

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Meaning of the frame.
    pub kind: u8,
    /// Number of the request or of its subject.
    pub number: u64,
    /// Content; zeroized on drop.
    pub body: Zeroizing<Vec<u8>>,
}

/// Length of a frame without its body: length, kind, number.
const HEAD: usize = 4 + 1 + 8;
/// Size of a buffer of the loop, unless one frame needs more.
const BUFFER: usize = 4096;
/// Buffers that are written at once.
const SLICES: usize = 32;

/// Appends a frame whose body is the concatenation of `parts`.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, number: u64, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(HEAD + length);
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.push(kind);
    out.extend(number.to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn head(bytes: [u8; HEAD]) -> (usize, u8, u64) {
    let [a, b, c, d, kind, number @ ..] = bytes;
    (u32::from_le_bytes([a, b, c, d]) as usize, kind, u64::from_le_bytes(number))
}

/// The first frame of `bytes` if it is whole, and its length.
pub(super) fn first(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (bytes, rest) = bytes.split_first_chunk()?;
    let (length, kind, number) = head(*bytes);
    let body = Zeroizing::new(rest.get(..length)?.to_vec());
    Some((Frame { kind, number, body }, HEAD + length))
}

/// In the worker: waits for the next frame. `None` at the end of the stream, or for a body of more
/// than `longest` bytes.
pub(super) fn read(socket: &mut impl Read, longest: usize) -> io::Result<Option<Frame>> {
    let mut bytes = [0; HEAD];
    match socket.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (length, kind, number) = head(bytes);
    if length > longest {
        return Ok(None);
    }
    let mut body = Zeroizing::new(vec![0; length]);
    socket.read_exact(&mut body)?;
    Ok(Some(Frame { kind, number, body }))
}

/// State of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// There is none.
    #[default]
    Absent,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It was killed, or its socket closed; its exit has not been reported.
    Ending,
}

/// The loop's end of a channel.
#[derive(Debug, Default)]
pub struct Channel {
    condition: Condition,
    /// Never empty ones; of the first, `sent` bytes are written.
    outgoing: VecDeque<Zeroizing<Vec<u8>>>,
    sent: usize,
    /// Bytes to be sent.
    queued: usize,
    incoming: Vec<u8>,
}

impl Channel {
    /// State of the worker.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// A worker is to be started if there is none; true where that is so.
    pub fn start(&mut self) -> bool {
        let is_new = self.condition == Condition::Absent;
        if is_new {
            self.condition = Condition::Starting;
        }
        is_new
    }

    /// The worker runs, unless it is to end.
    pub fn started(&mut self) {
        if self.condition != Condition::Ending {
            self.condition = Condition::Running;
        }
    }

    /// The worker is to end; true where it runs. Frames that it did not take are dropped; frames that are
    /// queued from now on are for the next worker.
    pub fn end(&mut self) -> bool {
        let runs = self.condition == Condition::Running;
        if runs {
            self.condition = Condition::Ending;
            self.clear();
        }
        runs
    }

    /// The worker has exited, or could not be started. Frames that it did not take are
    /// dropped.
    pub fn ended(&mut self) {
        if self.condition == Condition::Running {
            self.clear();
        }
        self.condition = Condition::Absent;
        self.incoming.clear();
    }

    /// Drops all frames that are to be sent.
    pub fn clear(&mut self) {
        self.outgoing = VecDeque::new();
        (self.sent, self.queued) = (0, 0);
    }

    /// Bytes to be sent.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Queues a frame whose body is the concatenation of `parts`.
    pub fn send(&mut self, kind: u8, number: u64, parts: &[&[u8]]) {
        let length = HEAD + parts.iter().map(|part| part.len()).sum::<usize>();
        self.queued += length;
        let has_room = |last: &&mut Zeroizing<Vec<u8>>| last.capacity() - last.len() >= length;
        if let Some(last) = self.outgoing.back_mut().filter(has_room) {
            return put(last, kind, number, parts);
        }
        let mut buffer = Zeroizing::new(Vec::with_capacity(length.max(BUFFER)));
        put(&mut buffer, kind, number, parts);
        self.outgoing.push_back(buffer);
    }

    /// Bytes for the worker; none while it does not run.
    pub fn bytes(&self) -> Vec<IoSlice<'_>> {
        if self.condition != Condition::Running {
            return Vec::new();
        }
        let mut skip = self.sent;
        let rest = |buffer| <[u8]>::get(buffer, std::mem::take(&mut skip)..).unwrap_or_default();
        let buffers = self.outgoing.iter().take(SLICES).map(|buffer| buffer.as_slice());
        buffers.map(rest).map(IoSlice::new).collect()
    }

    /// The socket has taken this many of them.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        self.queued -= bytes;
        while let Some(first) = self.outgoing.front().filter(|first| first.len() <= self.sent) {
            self.sent -= first.len();
            self.outgoing.pop_front();
        }
        if self.outgoing.is_empty() {
            self.outgoing = VecDeque::new();
        }
    }

    /// Takes bytes from the worker; the frames that are whole by now.
    pub fn received(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.incoming.extend_from_slice(bytes);
        let (mut frames, mut done) = (Vec::new(), 0);
        while let Some((frame, length)) = first(self.incoming.get(done..).unwrap_or_default()) {
            frames.push(frame);
            done += length;
        }
        self.incoming.drain(..done);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, number: u64, body: &[u8]) -> Frame {
        Frame { kind, number, body: Zeroizing::new(body.to_vec()) }
    }

    #[test]
    fn frame_is_read_as_written_once_whole() {
        let mut bytes = Vec::new();
        put(&mut bytes, 2, 7, &[b"ques", b"tion"]);
        for cut in 0..bytes.len() {
            assert_eq!(first(&bytes[..cut]), None);
        }
        assert_eq!(first(&bytes), Some((frame(2, 7, b"question"), bytes.len())));
        assert_eq!(read(&mut bytes.as_slice(), 8).unwrap(), Some(frame(2, 7, b"question")));
        assert_eq!(read(&mut bytes.as_slice(), 7).unwrap(), None);
        assert_eq!(read(&mut &b""[..], 8).unwrap(), None);
        assert!(read(&mut &bytes[..HEAD + 3], 8).is_err());
    }

    #[test]
    fn frames_arrive_in_order_by_any_split_of_their_bytes() {
        let (mut sender, mut receiver) = (Channel::default(), Channel::default());
        for channel in [&mut sender, &mut receiver] {
            assert!(channel.start() && !channel.start());
            channel.started();
        }
        let bodies: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; 37 * usize::from(n)]).collect();
        for (number, body) in (0..).zip(&bodies) {
            sender.send(1, number, &[body]);
        }
        let mut got = Vec::new();
        for step in 1.. {
            let taken: Vec<u8> =
                sender.bytes().iter().flat_map(|b| b.to_vec()).take(step).collect();
            if taken.is_empty() {
                break;
            }
            sender.sent(taken.len());
            got.extend(receiver.received(&taken));
        }
        let sent: Vec<Frame> =
            (0..).zip(&bodies).map(|(number, body)| frame(1, number, body)).collect();
        assert_eq!(got, sent);
        assert_eq!((sender.queued(), sender.outgoing.len()), (0, 0));
    }

    #[test]
    fn frame_is_written_by_one_allocation_and_to_a_running_worker_only() {
        let mut channel = Channel::default();
        channel.send(1, 1, &[&[b'x'; 2 * BUFFER]]);
        let buffer = channel.outgoing.front().unwrap();
        assert_eq!(buffer.len(), buffer.capacity(), "a second allocation would leave a copy");
        assert!(channel.bytes().is_empty());
        channel.start();
        assert!(!channel.end(), "it is being started");
        channel.started();
        assert_eq!(channel.bytes().len(), 1);
        channel.sent(5);
        assert!(channel.end() && !channel.end());
        assert_eq!(channel.queued(), 0, "half a frame means nothing to the next worker");
        channel.send(1, 2, &[]);
        assert!(channel.bytes().is_empty());
        channel.ended();
        channel.start();
        channel.started();
        assert_eq!(channel.bytes()[0].len(), channel.queued());
    }
}

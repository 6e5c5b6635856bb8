//! WebSocket framing, from bytes to messages and back (RFC 6455), without I/O.
//!
//! Headers, opcodes, masks and close codes are tungstenite's. Its `WebSocket` is not used here for
//! three reasons: it holds a read buffer for each connection, even an idle one; it copies each
//! message that is sent, while messages here are shared among all subscribers; and it does not
//! expose that a message is incomplete, which a server must limit.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use zeroize::Zeroize;

/// Reason for closing a connection, as sent to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// RFC 6455 section 7.4.
    pub code: u16,
    /// For people; at most 123 bytes are sent.
    pub why: String,
}

impl CloseReason {
    /// Creates a reason.
    pub fn new(code: u16, why: impl Into<String>) -> CloseReason {
        CloseReason { code, why: why.into() }
    }
}

/// A complete message or control frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A text, or a binary message that contains UTF-8.
    Message(String),
    /// Requires a pong with the same payload.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// A close frame; the reply has the same code, if any.
    Close(Option<u16>),
}

/// Maximum payload of a control frame, in bytes (RFC 6455 section 5.5).
const CONTROL_PAYLOAD: u64 = 125;

/// Assembles messages from bytes. Without incomplete input it holds no memory.
#[derive(Debug, Default)]
pub struct Assembler {
    /// Unparsed bytes: less than a frame, except within [`Assembler::next`].
    inbox: Vec<u8>,
    /// Payload of the fragments so far.
    message: Vec<u8>,
    /// A fragmented message is incomplete.
    fragmented: bool,
    /// Input comes from a server, whose frames are not masked.
    of_server: bool,
}

impl Assembler {
    /// For input from a server.
    pub fn of_server() -> Assembler {
        Assembler { of_server: true, ..Assembler::default() }
    }

    /// Appends input.
    pub fn push(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// Number of bytes held.
    pub fn held(&self) -> usize {
        self.inbox.capacity() + self.message.capacity()
    }

    /// Whether a message or frame is incomplete.
    pub fn is_midway(&self) -> bool {
        self.fragmented || !self.inbox.is_empty()
    }

    /// The next complete message or control frame. A message of more than `max_message` bytes is
    /// rejected as soon as a header announces it.
    pub fn next(&mut self, max_message: usize) -> Result<Option<Arrived>, CloseReason> {
        while let Some((header, payload)) = self.next_frame(max_message)? {
            let arrived = match header.opcode {
                OpCode::Control(control) => control_frame(control, payload)?,
                OpCode::Data(data) => self.data_frame(data, header.is_final, payload)?,
            };
            if arrived.is_some() {
                return Ok(arrived);
            }
        }
        if self.inbox.is_empty() {
            self.inbox = Vec::new();
        }
        Ok(None)
    }

    fn next_frame(
        &mut self,
        max_message: usize,
    ) -> Result<Option<(FrameHeader, Vec<u8>)>, CloseReason> {
        let mut cursor = Cursor::new(&self.inbox);
        let parsed = FrameHeader::parse(&mut cursor)
            .map_err(|error| CloseReason::new(1002, error.to_string()))?;
        let Some((header, length)) = parsed else { return Ok(None) };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(CloseReason::new(1002, "reserved bits are set, no extension is agreed on"));
        }
        let mask = match (header.mask, self.of_server) {
            (Some(mask), false) => mask,
            (None, true) => [0; 4],
            (None, false) => {
                return Err(CloseReason::new(1002, "a client's frames must be masked"));
            }
            (Some(_), true) => {
                return Err(CloseReason::new(1002, "a server's frames must not be masked"));
            }
        };
        match header.opcode {
            OpCode::Control(_) if length > CONTROL_PAYLOAD => {
                return Err(CloseReason::new(1002, "a control frame has at most 125 bytes"));
            }
            OpCode::Control(_) if !header.is_final => {
                return Err(CloseReason::new(1002, "a control frame must not be fragmented"));
            }
            OpCode::Data(_) if length > max_message.saturating_sub(self.message.len()) as u64 => {
                let why = format!("a message has at most {max_message} bytes here");
                return Err(CloseReason::new(1009, why));
            }
            OpCode::Control(_) | OpCode::Data(_) => {}
        }
        let start = cursor.position() as usize;
        let end = start + length as usize;
        let Some(frame) = self.inbox.get_mut(..end) else { return Ok(None) };
        let mut payload = frame.get(start..).unwrap_or_default().to_vec();
        // May contain a secret, which could be unmasked.
        frame.zeroize();
        self.inbox.drain(..end);
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Ok(Some((header, payload)))
    }

    fn data_frame(
        &mut self,
        data: Data,
        is_final: bool,
        payload: Vec<u8>,
    ) -> Result<Option<Arrived>, CloseReason> {
        match (data, self.fragmented) {
            (Data::Continue, false) => {
                return Err(CloseReason::new(1002, "nothing to be continued"));
            }
            (Data::Text | Data::Binary, true) => {
                return Err(CloseReason::new(1002, "a message began inside another"));
            }
            (Data::Continue | Data::Text | Data::Binary | Data::Reserved(_), _) => {}
        }
        let message = if self.message.is_empty() {
            payload
        } else {
            self.message.extend_from_slice(&payload);
            std::mem::take(&mut self.message)
        };
        self.fragmented = !is_final;
        if !is_final {
            self.message = message;
            return Ok(None);
        }
        match String::from_utf8(message) {
            Ok(text) => Ok(Some(Arrived::Message(text))),
            Err(_) => Err(CloseReason::new(1007, "a message must be UTF-8")),
        }
    }
}

fn control_frame(control: Control, payload: Vec<u8>) -> Result<Option<Arrived>, CloseReason> {
    match control {
        Control::Ping => Ok(Some(Arrived::Ping(payload))),
        Control::Pong => Ok(Some(Arrived::Pong)),
        Control::Reserved(_) => Err(CloseReason::new(1002, "a reserved opcode")),
        Control::Close => match payload.as_slice() {
            [] => Ok(Some(Arrived::Close(None))),
            [_] => Err(CloseReason::new(1002, "half a close code")),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !CloseCode::from(code).is_allowed() {
                    return Err(CloseReason::new(1002, "no such close code"));
                }
                if std::str::from_utf8(reason).is_err() {
                    return Err(CloseReason::new(1007, "a close reason must be UTF-8"));
                }
                Ok(Some(Arrived::Close(Some(code))))
            }
        },
    }
}

/// Maximum length of a server's frame header, in bytes.
pub(super) const HEADER: usize = 10;

/// The header of a text or binary frame, and its length.
pub(super) fn data_header(payload: usize, is_binary: bool) -> ([u8; HEADER], usize) {
    let data = if is_binary { Data::Binary } else { Data::Text };
    let header = FrameHeader { opcode: OpCode::Data(data), ..FrameHeader::default() };
    let mut bytes = [0; HEADER];
    let mut rest = &mut bytes[..];
    // A header without mask has at most ten bytes, so it always fits.
    let _ = header.format(payload as u64, &mut rest);
    (bytes, header.len(payload as u64))
}

fn control(opcode: Control, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { opcode: OpCode::Control(opcode), ..FrameHeader::default() };
    let mut frame = Vec::with_capacity(2 + payload.len());
    let _ = header.format(payload.len() as u64, &mut frame);
    frame.extend_from_slice(payload);
    frame
}

/// A ping without payload.
pub(super) fn ping() -> Vec<u8> {
    control(Control::Ping, &[])
}

/// A pong.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    control(Control::Pong, payload)
}

/// A close frame; without a reason it replies to one without a code.
pub(super) fn close(reason: Option<&CloseReason>) -> Vec<u8> {
    let Some(reason) = reason else { return control(Control::Close, &[]) };
    let room = CONTROL_PAYLOAD as usize - 2;
    let end = reason.why.floor_char_boundary(room);
    let mut payload = reason.code.to_be_bytes().to_vec();
    payload.extend(reason.why.bytes().take(end));
    control(Control::Close, &payload)
}

/// Encoder of a client's frames.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    /// Must differ for each frame (RFC 6455 section 5.3).
    pub mask: [u8; 4],
}

impl Masked {
    /// Appends a text frame.
    pub fn text(self, payload: &[u8], to: &mut Vec<u8>) {
        self.frame(OpCode::Data(Data::Text), payload, to);
    }

    /// Appends a ping.
    pub fn ping(self, to: &mut Vec<u8>) {
        self.frame(OpCode::Control(Control::Ping), &[], to);
    }

    /// Appends a pong.
    pub fn pong(self, payload: &[u8], to: &mut Vec<u8>) {
        self.frame(OpCode::Control(Control::Pong), payload, to);
    }

    /// Appends the close frame with this code.
    pub fn close(self, code: u16, to: &mut Vec<u8>) {
        self.frame(OpCode::Control(Control::Close), &code.to_be_bytes(), to);
    }

    fn frame(self, opcode: OpCode, payload: &[u8], to: &mut Vec<u8>) {
        let header = FrameHeader { opcode, mask: Some(self.mask), ..FrameHeader::default() };
        // It fails only when out of memory.
        let _ = header.format(payload.len() as u64, to);
        to.extend(payload.iter().zip(self.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_client_and_server_are_read_by_the_other() {
        let mut bytes = Vec::new();
        let masked = Masked { mask: [9, 8, 7, 6] };
        masked.text(b"{}", &mut bytes);
        masked.text("x".repeat(70_000).as_bytes(), &mut bytes);
        masked.ping(&mut bytes);
        masked.pong(b"p", &mut bytes);
        masked.close(1001, &mut bytes);
        let [first, long, ping, pong, close] = &all(&bytes).unwrap()[..] else { panic!() };
        assert_eq!((first, long), (&text("{}"), &text(&"x".repeat(70_000))));
        assert_eq!((ping, pong), (&Arrived::Ping(vec![]), &Arrived::Pong));
        assert_eq!(close, &Arrived::Close(Some(1001)));

        let mut server = Assembler::of_server();
        server.push(b"\x81\x02{}");
        assert_eq!(server.next(100).unwrap(), Some(text("{}")));
        server.push(&bytes);
        assert_eq!(server.next(100).unwrap_err().code, 1002);
    }

    /// A masked frame as a client sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            n @ 0..=125 => bytes.push(0x80 | n as u8),
            n @ 126..=65535 => {
                bytes.push(0x80 | 126);
                bytes.extend((n as u16).to_be_bytes());
            }
            n => {
                bytes.push(0x80 | 127);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        bytes
    }

    fn all(bytes: &[u8]) -> Result<Vec<Arrived>, CloseReason> {
        let mut assembler = Assembler::default();
        assembler.push(bytes);
        let mut arrived = vec![];
        while let Some(one) = assembler.next(100_000)? {
            arrived.push(one);
        }
        Ok(arrived)
    }

    fn code(bytes: &[u8]) -> u16 {
        all(bytes).unwrap_err().code
    }

    fn text(text: &str) -> Arrived {
        Arrived::Message(text.into())
    }

    #[test]
    fn messages_of_every_length_form_arrive_whole() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = "x".repeat(length);
            let bytes = frame(0x81, payload.as_bytes());
            assert_eq!(all(&bytes).unwrap(), [text(&payload)]);
            let mut assembler = Assembler::default();
            for (i, byte) in bytes.iter().enumerate() {
                assert_eq!(assembler.is_midway(), i > 0);
                assembler.push(&[*byte]);
                if i + 1 < bytes.len() && (i < 20 || i % 997 == 0) {
                    assert_eq!(assembler.next(100_000).unwrap(), None);
                }
            }
            assert_eq!(assembler.next(100_000).unwrap(), Some(text(&payload)));
            assert_eq!(assembler.next(100_000).unwrap(), None);
            assert!(!assembler.is_midway());
        }
    }

    #[test]
    fn fragments_are_joined_around_control_frames() {
        let euro = "€".as_bytes();
        let bytes = [
            frame(0x01, &euro[..1]),
            frame(0x89, b"p"),
            frame(0x00, &euro[1..2]),
            frame(0x8a, b""),
            frame(0x80, &euro[2..]),
            frame(0x82, b"binary"),
        ]
        .concat();
        let expected = [Arrived::Ping(b"p".into()), Arrived::Pong, text("€"), text("binary")];
        assert_eq!(all(&bytes).unwrap(), expected);
    }

    #[test]
    fn violations_are_named_by_their_code() {
        assert_eq!(code(&[0x81, 0x01, b'x']), 1002, "unmasked");
        assert_eq!(code(&frame(0xc1, b"x")), 1002, "reserved bit");
        assert_eq!(code(&frame(0x83, b"x")), 1002, "reserved data opcode");
        assert_eq!(code(&frame(0x8b, b"x")), 1002, "reserved control opcode");
        assert_eq!(code(&frame(0x80, b"x")), 1002, "nothing to continue");
        assert_eq!(code(&[frame(0x01, b"x"), frame(0x81, b"y")].concat()), 1002, "interleaved");
        assert_eq!(code(&frame(0x09, b"x")), 1002, "fragmented ping");
        assert_eq!(code(&frame(0x89, &[0; 126])), 1002, "long ping");
        assert_eq!(code(&frame(0x88, &[3])), 1002, "half a code");
        assert_eq!(code(&frame(0x88, &999u16.to_be_bytes())), 1002, "code below 1000");
        assert_eq!(code(&frame(0x88, &1005u16.to_be_bytes())), 1002, "code not to be sent");
        assert_eq!(code(&frame(0x88, &[3, 232, 0xff])), 1007, "reason not UTF-8");
        assert_eq!(code(&frame(0x81, &[0xff])), 1007, "text not UTF-8");
        assert_eq!(code(&[frame(0x01, b"x"), frame(0x80, &[0xff])].concat()), 1007);
    }

    #[test]
    fn close_frame_has_its_code() {
        assert_eq!(all(&frame(0x88, b"")).unwrap(), [Arrived::Close(None)]);
        assert_eq!(all(&frame(0x88, &[3, 232, b'x'])).unwrap(), [Arrived::Close(Some(1000))]);
    }

    #[test]
    fn a_message_too_big_is_refused_at_its_header() {
        let mut header = frame(0x81, &vec![0; 100_001]);
        header.truncate(14);
        assert_eq!(code(&header), 1009);
        let mut huge = vec![0x81, 0xff];
        huge.extend([0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]);
        assert_eq!(code(&huge), 1009);
        let fragments = [frame(0x01, &[b'x'; 60_000]), frame(0x80, &[b'x'; 60_000])].concat();
        assert_eq!(code(&fragments), 1009);
    }

    #[test]
    fn server_frames_are_not_masked() {
        assert_eq!(data_header(5, false), ([0x81, 5, 0, 0, 0, 0, 0, 0, 0, 0], 2));
        assert_eq!(data_header(300, true).0[..4], [0x82, 126, 1, 44]);
        assert_eq!(data_header(70_000, false).1, 10);
        assert_eq!(ping(), [0x89, 0]);
        assert_eq!(pong(b"x"), [0x8a, 1, b'x']);
        assert_eq!(close(None), [0x88, 0]);
        let long = close(Some(&CloseReason::new(1013, "ä".repeat(100))));
        assert_eq!(long[..4], [0x88, 124, 3, 245]);
        assert!(std::str::from_utf8(&long[4..]).is_ok());
    }
}

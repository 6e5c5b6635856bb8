//! Hand-made bytes: input that no client library would send, and parts of replies that it would
//! hide.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use crate::{Daemon, Outcome, Stream, Transport};

/// An upgrade request with additional lines, each with its line end.
///
/// The key is the example of RFC 6455: nothing depends on it, and the reply is not checked.
pub fn upgrade_request(headers: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
}

/// A client's frame (RFC 6455 section 5.2), masked. `first` is its first byte: 0x81 for a whole
/// text, 0x01 for an incomplete one, 0x89 for a ping.
pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = client_header(first, payload.len() as u64);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The first bytes of a masked frame, up to its mask: the announced payload need not follow.
pub fn client_header(first: u8, payload: u64) -> Vec<u8> {
    let mut header = vec![first];
    if payload < 126 {
        header.push(0x80 | payload as u8);
    } else if let Ok(medium) = u16::try_from(payload) {
        header.push(0x80 | 126);
        header.extend_from_slice(&medium.to_be_bytes());
    } else {
        header.push(0x80 | 127);
        header.extend_from_slice(&payload.to_be_bytes());
    }
    header
}

impl Stream {
    /// Connects to a daemon and upgrades, including TLS.
    pub fn open(daemon: &Daemon, transport: Transport) -> Outcome<Stream> {
        let mut stream = Stream::dial(daemon, transport)?;
        stream.upgrade("")?;
        Ok(stream)
    }

    /// Upgrades, with additional lines in the request.
    pub fn upgrade(&mut self, headers: &str) -> Outcome<()> {
        self.send(upgrade_request(headers).as_bytes())?;
        let head = self.read_head()?;
        if head.starts_with("HTTP/1.1 101 ") {
            Ok(())
        } else {
            Err(format!("no upgrade: {head}").into())
        }
    }

    /// Sends bytes at once.
    pub fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.write_all(bytes)?;
        self.flush()?;
        Ok(())
    }

    /// The next frame of a server: its first byte, and its payload.
    pub fn read_frame(&mut self) -> Outcome<(u8, Vec<u8>)> {
        self.read_frame_slowly(usize::MAX, Duration::ZERO)
    }

    /// The same by a slow client: this many bytes at a time, with a pause after each.
    pub fn read_frame_slowly(&mut self, bytes: usize, pause: Duration) -> Outcome<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.read_exact(&mut head)?;
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.read_exact(&mut length)?;
                u16::from_be_bytes(length).into()
            }
            127 => {
                let mut length = [0; 8];
                self.read_exact(&mut length)?;
                usize::try_from(u64::from_be_bytes(length))?
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        for piece in payload.chunks_mut(bytes) {
            self.read_exact(piece)?;
            thread::sleep(pause);
        }
        Ok((head[0], payload))
    }

    /// Reads to the close frame, dropping text frames; returns its code and reason.
    pub fn read_close(&mut self) -> Outcome<(u16, String)> {
        loop {
            match self.read_frame()? {
                (0x88, payload) => {
                    let code = payload.first_chunk().ok_or("a close frame without a code")?;
                    let why = String::from_utf8(payload[2..].to_vec())?;
                    return Ok((u16::from_be_bytes(*code), why));
                }
                (0x81 | 0x89 | 0x8a, _) => {}
                (other, _) => return Err(format!("a frame that begins with {other:#x}").into()),
            }
        }
    }
}

//! What the daemon and its accounts helper say to each other, and how that becomes bytes.
//!
//! Both ends are one program (the helper is forked), so the form is ours alone: length, kind, the
//! number of the question, and what is asked or answered. A password travels as it is, and every
//! buffer that it stood in is wiped.

use std::io::{self, Read};

use zeroize::Zeroizing;

use super::RequestId;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The numbers of groups; [`super::Asked`] as JSON.
    Groups,
    /// What is known of users; a [`super::UsersQuestion`] as JSON.
    Users,
    /// Whether a password is right, or an account may be used; service, user, address and, for the
    /// first, password, with NUL between them.
    Check,
    /// The addresses of a host; its name.
    Host,
    /// The check or host of that number is not wanted any more. Answered by an empty list.
    Forget,
}

/// The head of a message: length of the body, kind, number.
const HEAD: usize = 4 + 1 + 8;
/// The longest body, in bytes: some hundred thousand users.
const BODY: usize = 16 * 1024 * 1024;

/// A message to the helper; wiped when it is dropped.
pub(super) type Frame = Zeroizing<Vec<u8>>;

/// Puts a message together, in one allocation.
pub(super) fn order(kind: Kind, request: RequestId, parts: &[&[u8]]) -> Frame {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Zeroizing::new(Vec::with_capacity(HEAD + length));
    frame.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    frame.push(match kind {
        Kind::Groups => 1,
        Kind::Users => 2,
        Kind::Check => 3,
        Kind::Forget => 4,
        Kind::Host => 5,
    });
    frame.extend(request.to_le_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

/// In the helper: reads the next message. `None` at the end, or where it makes no sense.
pub(super) fn read_order(socket: &mut impl Read) -> io::Result<Option<(Kind, RequestId, Frame)>> {
    let mut head = [0; HEAD];
    match socket.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let [a, b, c, d, kind, request @ ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let kind = match kind {
        1 => Kind::Groups,
        2 => Kind::Users,
        3 => Kind::Check,
        4 => Kind::Forget,
        5 => Kind::Host,
        _ => return Ok(None),
    };
    if length > BODY {
        return Ok(None);
    }
    let mut body = Zeroizing::new(vec![0; length]);
    socket.read_exact(&mut body)?;
    Ok(Some((kind, u64::from_le_bytes(request), body)))
}

/// In the helper: an answer, JSON.
pub(super) fn report(request: RequestId, answer: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + answer.len());
    bytes.extend(u32::try_from(answer.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(request.to_le_bytes());
    bytes.extend_from_slice(answer);
    bytes
}

/// The first answer in `bytes` if it is whole, and how many bytes it took.
pub(super) fn take_report(bytes: &[u8]) -> Option<(RequestId, &[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (request, rest) = rest.split_first_chunk::<8>()?;
    let length = u32::from_le_bytes(*length) as usize;
    Some((u64::from_le_bytes(*request), rest.get(..length)?, 12 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let bytes = order(Kind::Check, 7, &[b"service\0", b"secret"]);
        assert_eq!(bytes.len(), bytes.capacity(), "a second allocation would leave a copy");
        let mut source = bytes.as_slice();
        let (kind, request, body) = read_order(&mut source).unwrap().unwrap();
        assert_eq!((kind, request, body.as_slice()), (Kind::Check, 7, &b"service\0secret"[..]));
        assert!(read_order(&mut source).unwrap().is_none());
        assert!(read_order(&mut &bytes[..bytes.len() - 1]).is_err());
        assert!(read_order(&mut &[0; HEAD][..]).unwrap().is_none());
    }

    #[test]
    fn an_answer_is_taken_when_it_is_whole() {
        let mut bytes = report(9, b"[1]");
        for cut in 0..bytes.len() {
            assert_eq!(take_report(&bytes[..cut]), None);
        }
        bytes.push(1);
        assert_eq!(take_report(&bytes), Some((9, &b"[1]"[..], 15)));
    }
}

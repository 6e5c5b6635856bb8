//! Messages between the daemon and its accounts helper, and their encoding.
//!
//! Both ends are one program (the helper is forked), so the format is private: length, kind,
//! request number, and the request or reply. A password is sent in clear, and every buffer that
//! contained it is zeroized.

use std::io::{self, Read};

use zeroize::Zeroizing;

use super::RequestId;

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Look up numbers of groups; [`super::Asked`] as JSON.
    Groups,
    /// Look up users; a [`super::UsersQuestion`] as JSON.
    Users,
    /// Verify a password, or check an account; service, user, address and, for the first, password,
    /// separated by NULs.
    Check,
    /// Look up the addresses of a host; its name.
    Host,
    /// Cancel the check or look-up with that number. The reply is an empty list.
    Forget,
}

/// Size of the header: length of the body, kind, number.
const HEAD: usize = 4 + 1 + 8;
/// Maximum size of a body, in bytes: some hundred thousand users.
const BODY: usize = 16 * 1024 * 1024;

/// A message to the helper; zeroized on drop.
pub(super) type Frame = Zeroizing<Vec<u8>>;

/// Encodes a request, in one allocation.
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

/// In the helper: reads the next request. `None` at the end of the stream, or for an invalid one.
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

/// In the helper: encodes a reply, JSON.
pub(super) fn report(request: RequestId, answer: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + answer.len());
    bytes.extend(u32::try_from(answer.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(request.to_le_bytes());
    bytes.extend_from_slice(answer);
    bytes
}

/// The first complete reply in `bytes`, and its length.
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
    fn order_encoded_and_decoded_is_unchanged() {
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
    fn reply_is_taken_when_complete() {
        let mut bytes = report(9, b"[1]");
        for cut in 0..bytes.len() {
            assert_eq!(take_report(&bytes[..cut]), None);
        }
        bytes.push(1);
        assert_eq!(take_report(&bytes), Some((9, &b"[1]"[..], 15)));
    }
}

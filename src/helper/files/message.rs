//! Frames between the daemon and a file worker: length of the body, kind, subject, body.
//!
//! Both ends are one program (the worker is forked), so the form is private.

use std::io::{self, Read};

use super::Subject;

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the worker: a question about a subject.
    Ask,
    /// To the worker: it closes what it holds open for a subject. Has no answer.
    Release,
    /// From the worker: the answer.
    Answer,
    /// From the worker: something about a subject has changed, or may have.
    Changed,
}

const KINDS: [Kind; 4] = [Kind::Ask, Kind::Release, Kind::Answer, Kind::Changed];
/// Length of a frame without its body.
const HEAD: usize = 4 + 1 + 8;
/// The longest body of a question, in bytes.
const LONGEST_QUESTION: usize = 1024 * 1024;

/// Appends a frame whose body is the concatenation of `parts`.
pub(super) fn put(out: &mut Vec<u8>, kind: Kind, subject: Subject, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(HEAD + length);
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.push(kind as u8);
    out.extend(subject.to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn head(bytes: &[u8; HEAD]) -> Option<(usize, Kind, Subject)> {
    let [a, b, c, d, kind, subject @ ..] = *bytes;
    let kind = *KINDS.get(usize::from(kind))?;
    Some((u32::from_le_bytes([a, b, c, d]) as usize, kind, Subject::from_le_bytes(subject)))
}

/// The first frame of `bytes` if it is whole: kind, subject, body and the length of the frame.
pub(super) fn first(bytes: &[u8]) -> Option<(Kind, Subject, &[u8], usize)> {
    let (bytes, rest) = bytes.split_first_chunk::<HEAD>()?;
    let (length, kind, subject) = head(bytes)?;
    Some((kind, subject, rest.get(..length)?, HEAD + length))
}

/// In the worker: reads the next frame; `None` at the end, or where it is malformed.
pub(super) fn read(socket: &mut impl Read) -> io::Result<Option<(Kind, Subject, Vec<u8>)>> {
    let mut bytes = [0; HEAD];
    match socket.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let Some((length, kind, subject)) = head(&bytes).filter(|head| head.0 <= LONGEST_QUESTION)
    else {
        return Ok(None);
    };
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok(Some((kind, subject, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_read_as_written_once_whole() {
        let mut bytes = Vec::new();
        put(&mut bytes, Kind::Ask, 7, &[b"ques", b"tion"]);
        for cut in 0..bytes.len() {
            assert_eq!(first(&bytes[..cut]), None);
        }
        let whole = (Kind::Ask, 7, &b"question"[..], bytes.len());
        assert_eq!(first(&bytes), Some(whole));
        let read_back = read(&mut bytes.as_slice()).unwrap();
        assert_eq!(read_back, Some((Kind::Ask, 7, b"question".to_vec())));
        assert_eq!(read(&mut &b""[..]).unwrap(), None);
        assert!(read(&mut &bytes[..HEAD + 3]).is_err());
        bytes[4] = 9;
        assert_eq!((first(&bytes), read(&mut bytes.as_slice()).unwrap()), (None, None));
    }
}

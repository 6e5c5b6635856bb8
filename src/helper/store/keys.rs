//! The registered keys: the store reads and changes their file, because the disk may block.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::auth::key::{ChangeError, InsertError, KeyChange, KeyStore};
use crate::sys::may_block::MayBlock;

/// Identifies the content of a file: device and inode, size, and modification time.
pub type Stamp = (u64, u64, u64, i64, i64);

/// A request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeysQuestion {
    /// A change to make first.
    pub change: Option<KeyChange>,
    /// The known content, which need not be read again.
    pub known: Option<Stamp>,
}

/// The reply: one line of JSON, and behind it the content of the file, which the loop need not
/// parse at once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeysAnswer {
    /// Why the change was rejected.
    pub refused: Option<InsertError>,
    /// The content of the file follows; otherwise it is known.
    is_new: bool,
    /// The stamp of the file; `None` where there is none.
    pub stamp: Option<Stamp>,
}

impl KeysAnswer {
    /// Decodes a reply: its first line, and the content of the file unless that is known.
    ///
    /// # Errors The bytes are no reply.
    pub fn decode(mut bytes: Vec<u8>) -> io::Result<(KeysAnswer, Option<Vec<u8>>)> {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let answer: KeysAnswer = serde_json::from_slice(bytes.get(..end).unwrap_or_default())?;
        bytes.drain(..bytes.len().min(end + 1));
        let file = answer.is_new.then_some(bytes);
        Ok((answer, file))
    }
}

/// In the store.
pub(super) fn answer(path: &Path, question: &[u8], may_block: MayBlock) -> io::Result<Vec<u8>> {
    let question: KeysQuestion = serde_json::from_slice(question)?;
    let mut answer = KeysAnswer::default();
    if let Some(change) = question.change {
        match KeyStore::change(path, may_block, |store| change.apply(store)) {
            Ok(()) => {}
            Err(ChangeError::Refused(why)) => answer.refused = Some(why),
            Err(ChangeError::File(error)) => return Err(error),
        }
    }
    // The stamp first: a change in between is then read once more, not once less.
    answer.stamp = stamp(path, may_block)?;
    answer.is_new = answer.stamp.is_none() || answer.stamp != question.known;
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    if answer.is_new {
        bytes.append(&mut KeyStore::read_bytes(path, may_block)?);
    }
    Ok(bytes)
}

fn stamp(path: &Path, _: MayBlock) -> io::Result<Option<Stamp>> {
    match std::fs::metadata(path) {
        Ok(file) => {
            Ok(Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

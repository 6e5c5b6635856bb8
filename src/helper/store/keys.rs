//! The registered keys: the store reads and changes their file, since the disk may hang.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::auth::key::{ChangeError, InsertError, KeyChange, KeyStore};

/// By what a file is told from the one before: device and inode, size, and when it was changed.
pub type Stamp = (u64, u64, u64, i64, i64);

/// What is asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeysQuestion {
    /// What is to be changed first.
    pub change: Option<KeyChange>,
    /// What is known already, and need not be read again.
    pub known: Option<Stamp>,
}

/// What is answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeysAnswer {
    /// Why the change was refused.
    pub refused: Option<InsertError>,
    /// What the file holds now; `None` where that is known already.
    pub file: Option<String>,
    /// Which file that is; `None` where there is none.
    pub stamp: Option<Stamp>,
}

/// In the store.
pub(super) fn answer(path: &Path, question: &[u8]) -> io::Result<Vec<u8>> {
    let question: KeysQuestion = serde_json::from_slice(question)?;
    let mut answer = KeysAnswer::default();
    if let Some(change) = question.change {
        match KeyStore::change(path, |store| change.apply(store)) {
            Ok(()) => {}
            Err(ChangeError::Refused(why)) => answer.refused = Some(why),
            Err(ChangeError::File(error)) => return Err(error),
        }
    }
    // The stamp first: what is changed in between is then read once more, not once less.
    answer.stamp = stamp(path)?;
    if answer.stamp.is_none() || answer.stamp != question.known {
        let bytes = KeyStore::read_bytes(path)?;
        answer.file = Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(serde_json::to_vec(&answer)?)
}

fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match std::fs::metadata(path) {
        Ok(file) => {
            Ok(Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

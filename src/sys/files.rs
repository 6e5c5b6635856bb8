//! Reading files from the system, where that may block, or from a snapshot of an earlier reading.
//!
//! A worker that may block reads files through [`Files::recording`] and sends the [`Files::snapshot`]
//! to the poll loop, which reads the same files again from there: with the same code, and without
//! touching a file system.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::may_block::MayBlock;

/// Where files are read from.
pub struct Files(Source);

enum Source {
    System(MayBlock, Option<RefCell<Records>>),
    Snapshot(Records),
}

/// By kind and path; an error is its number.
type Records = BTreeMap<(Kind, PathBuf), Result<Zeroizing<Vec<u8>>, i32>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    File,
    /// Paths, each with a NUL behind it.
    Directory,
}

impl Files {
    /// Reads from the system.
    pub const fn of_system(may_block: MayBlock) -> Files {
        Files(Source::System(may_block, None))
    }

    /// Reads from the system, for a snapshot.
    pub const fn recording(may_block: MayBlock) -> Files {
        Files(Source::System(may_block, Some(RefCell::new(BTreeMap::new()))))
    }

    /// The permission to touch the system, if files are read from there.
    pub fn may_block(&self) -> Option<MayBlock> {
        match &self.0 {
            Source::System(may_block, _) => Some(*may_block),
            Source::Snapshot(_) => None,
        }
    }

    /// Content of a file, at most `most` bytes.
    ///
    /// # Errors
    /// The system's; a snapshot knows only what was read for it.
    pub fn read(&self, path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
        self.get(Kind::File, path, || {
            let file = File::open(path)?;
            // Grown once: what the reading leaves behind in memory could be a secret.
            let size = file.metadata().map_or(0, |about| about.len()).min(most);
            let mut bytes =
                Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 32));
            file.take(most).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    /// The files of a directory with that extension, `most` at most, in no order.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub fn list(&self, directory: &Path, extension: &str, most: usize) -> io::Result<Vec<PathBuf>> {
        let bytes = self.get(Kind::Directory, directory, || {
            let mut bytes = Vec::new();
            let mut count = 0;
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                if path.extension() == Some(OsStr::new(extension)) && count < most {
                    count += 1;
                    bytes.extend_from_slice(path.as_os_str().as_bytes());
                    bytes.push(0);
                }
            }
            Ok(Zeroizing::new(bytes))
        })?;
        let paths = bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        Ok(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
    }

    fn get(
        &self,
        kind: Kind,
        path: &Path,
        read: impl FnOnce() -> io::Result<Zeroizing<Vec<u8>>>,
    ) -> io::Result<Zeroizing<Vec<u8>>> {
        match &self.0 {
            Source::Snapshot(records) => match records.get(&(kind, path.to_owned())) {
                Some(Ok(bytes)) => Ok(bytes.clone()),
                Some(Err(number)) => Err(io::Error::from_raw_os_error(*number)),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Source::System(_, records) => {
                let read = read();
                if let Some(records) = records {
                    let record = match &read {
                        Ok(bytes) => Ok(bytes.clone()),
                        Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
                    };
                    records.borrow_mut().insert((kind, path.to_owned()), record);
                }
                read
            }
        }
    }

    /// All that was read by now, for [`Files::of_snapshot`].
    pub fn snapshot(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::new());
        let mut put = |records: &Records| {
            let size = |record: &Result<Zeroizing<Vec<u8>>, i32>| {
                record.as_ref().map_or(0, |bytes| bytes.len())
            };
            let sizes = records
                .iter()
                .map(|((_, path), record)| 13 + path.as_os_str().len() + size(record));
            bytes.reserve(sizes.sum());
            for ((kind, path), record) in records {
                let none = Zeroizing::new(Vec::new());
                let (content, number) = match record {
                    Ok(content) => (content, 0),
                    Err(number) => (&none, *number),
                };
                bytes.push(*kind as u8);
                bytes.extend_from_slice(&number.to_le_bytes());
                for part in [path.as_os_str().as_bytes(), content] {
                    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
                    bytes.extend_from_slice(&length.to_le_bytes());
                    bytes.extend_from_slice(part);
                }
            }
        };
        match &self.0 {
            Source::System(_, Some(records)) => put(&records.borrow()),
            Source::System(_, None) => {}
            Source::Snapshot(records) => put(records),
        }
        bytes
    }

    /// Reads from a snapshot; `None` where it is cut.
    pub fn of_snapshot(mut bytes: &[u8]) -> Option<Files> {
        fn part<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            *bytes = rest;
            Some(part)
        }
        let mut records = Records::new();
        while let Some((kind, rest)) = bytes.split_first() {
            let kind = if *kind == Kind::File as u8 { Kind::File } else { Kind::Directory };
            let (number, rest) = rest.split_first_chunk::<4>()?;
            bytes = rest;
            let path = PathBuf::from(OsString::from_vec(part(&mut bytes)?.to_vec()));
            let content = Zeroizing::new(part(&mut bytes)?.to_vec());
            let number = i32::from_le_bytes(*number);
            records.insert((kind, path), if number == 0 { Ok(content) } else { Err(number) });
        }
        Some(Files(Source::Snapshot(records)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_reads_as_system_did() {
        let directory =
            std::env::temp_dir().join(format!("sysadm-events-files-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in [("a.toml", "first"), ("b.toml", "second"), ("c.txt", "third")] {
            fs::write(directory.join(name), text).unwrap();
        }
        let (first, absent) = (directory.join("a.toml"), directory.join("absent"));
        let recording = Files::recording(MayBlock::before_loop());
        let look = |files: &Files| {
            let mut listed = files.list(&directory, "toml", 9).unwrap();
            listed.sort();
            let read = files.read(&first, 3).unwrap();
            let errors = [
                files.read(&absent, 9).unwrap_err().raw_os_error(),
                files.list(&absent, "toml", 9).unwrap_err().raw_os_error(),
            ];
            (listed, read, errors)
        };
        let by_system = look(&recording);
        assert_eq!(by_system.0, [first.clone(), directory.join("b.toml")]);
        assert_eq!((by_system.1.as_slice(), by_system.2), (&b"fir"[..], [Some(libc::ENOENT); 2]));
        let bytes = recording.snapshot();
        fs::remove_dir_all(&directory).unwrap();
        let snapshot = Files::of_snapshot(&bytes).unwrap();
        assert_eq!(look(&snapshot), by_system);
        assert!(snapshot.may_block().is_none());
        assert!(snapshot.read(&directory.join("c.txt"), 9).is_err(), "it was not read");
        assert!(Files::of_snapshot(&bytes[..bytes.len() - 1]).is_none());
    }
}

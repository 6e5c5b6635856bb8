//! A file system that does not answer: a mirror of a directory over FUSE, in which chosen names hang
//! until they are released. Needs root, and FUSE in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::unistd::geteuid;

use crate::{Directory, Outcome, skip};

/// Mounts the device that is standard input; the directory follows.
const MOUNT: &[&str] = if cfg!(target_os = "freebsd") {
    &["mount_fusefs", "-o", "allow_other", "0"]
} else {
    &["mount", "-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "stuck"]
};

/// The mirror; the file system ends when it is dropped, with an error for who still waits.
#[derive(Debug)]
pub struct StuckFs {
    directory: Directory,
    state: Arc<Mutex<State>>,
    device: File,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// Names that hang, as paths below the mirror.
    hanging: BTreeSet<PathBuf>,
    /// Requests for them.
    held: Vec<(PathBuf, Vec<u8>)>,
    /// By number, which is also the place; the first is none, the second the mirror.
    nodes: Vec<PathBuf>,
    numbers: BTreeMap<PathBuf, u64>,
}

impl StuckFs {
    /// Mounts it; `None`, which is said, where that cannot be.
    pub fn mount() -> Outcome<Option<StuckFs>> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let (Ok(device), true) = (device, geteuid().is_root()) else {
            skip("a file system that hangs needs root and /dev/fuse (FreeBSD: kldload fusefs)");
            return Ok(None);
        };
        let directory = Directory::new()?;
        fs::create_dir(directory.join("source"))?;
        fs::create_dir(directory.join("mount"))?;
        let mounted = Command::new(MOUNT[0])
            .args(&MOUNT[1..])
            .arg(directory.join("mount"))
            .stdin(Stdio::from(device.try_clone()?))
            .status()?;
        if !mounted.success() {
            skip("FUSE cannot be mounted here");
            return Ok(None);
        }
        let state = Arc::new(Mutex::new(State {
            nodes: vec![PathBuf::new(), PathBuf::new()],
            numbers: BTreeMap::from([(PathBuf::new(), 1)]),
            ..State::default()
        }));
        let (source, theirs, ours) =
            (directory.join("source"), Arc::clone(&state), device.try_clone()?);
        let server = Some(thread::spawn(move || serve(&source, &theirs, &ours)));
        Ok(Some(StuckFs { directory, state, device, server }))
    }

    /// Where a name is in the mirror.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join("mount").join(name)
    }

    /// Where it is in the directory behind the mirror, which never hangs.
    pub fn source(&self, name: &str) -> PathBuf {
        self.directory.join("source").join(name)
    }

    /// From now on no question about the name, or about what is below it, is answered.
    pub fn hang(&self, name: &str) {
        lock(&self.state).hanging.insert(name.into());
    }

    /// Whether a process waits for an answer.
    pub fn is_waited_for(&self) -> bool {
        !lock(&self.state).held.is_empty()
    }

    /// Answers all questions, and those that waited.
    pub fn release(&self) {
        let mut state = lock(&self.state);
        state.hanging.clear();
        for (_, request) in std::mem::take(&mut state.held) {
            answer(&self.directory.join("source"), &mut state, &self.device, &request);
        }
    }
}

impl Drop for StuckFs {
    fn drop(&mut self) {
        // By force: requests that are under way fail, and the server's read ends.
        for how in ["-f", "-l"] {
            let mount = self.directory.join("mount");
            let command = Command::new("umount").arg(how).arg(mount).stderr(Stdio::null()).status();
            let _ = command;
        }
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// Length of the head of a request.
const HEAD: usize = 40;

fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

fn short(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

/// Answers until the connection is aborted.
fn serve(source: &Path, state: &Mutex<State>, device: &File) {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let request = match (&*device).read(&mut buffer) {
            Ok(length) => buffer[..length].to_vec(),
            // One that was interrupted before it was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut state = lock(state);
        let about = state.about(&request);
        if state.hanging.iter().any(|name| about.starts_with(name)) {
            state.held.push((about, request));
        } else {
            answer(source, &mut state, device, &request);
        }
    }
}

impl State {
    /// The path that a request is about; that of the mirror where no answer may hang.
    fn about(&self, request: &[u8]) -> PathBuf {
        let node = self.nodes.get(number(request, 16) as usize).cloned().unwrap_or_default();
        match short(request, 4) {
            LOOKUP => node.join(name(request)),
            GETATTR | OPEN | READ | OPENDIR | READDIR => node,
            _ => PathBuf::new(),
        }
    }

    fn number(&mut self, path: PathBuf) -> u64 {
        let nodes = &mut self.nodes;
        *self.numbers.entry(path).or_insert_with_key(|path| {
            nodes.push(path.clone());
            nodes.len() as u64 - 1
        })
    }
}

fn name(request: &[u8]) -> &OsStr {
    let name = request.get(HEAD..).unwrap_or_default();
    OsStr::from_bytes(name.split(|byte| *byte == 0).next().unwrap_or_default())
}

fn answer(source: &Path, state: &mut State, device: &File, request: &[u8]) {
    let (operation, unique) = (short(request, 4), number(request, 8));
    if [FORGET, BATCH_FORGET, INTERRUPT].contains(&operation) {
        return;
    }
    let (error, body) = match reply(source, state, operation, request) {
        Ok(body) => (0, body),
        Err(error) => (-error.raw_os_error().unwrap_or(nix::libc::EIO), Vec::new()),
    };
    let mut bytes = Vec::new();
    bytes.extend((16 + body.len() as u32).to_le_bytes());
    bytes.extend(error.to_le_bytes());
    bytes.extend(unique.to_le_bytes());
    bytes.extend(body);
    // It fails where the process is gone.
    let _ = (&*device).write(&bytes);
}

fn reply(source: &Path, state: &mut State, operation: u32, request: &[u8]) -> io::Result<Vec<u8>> {
    let node = state.nodes.get(number(request, 16) as usize).cloned().unwrap_or_default();
    let path = source.join(&node);
    let mut body = Vec::new();
    match operation {
        INIT => {
            // Version 7.31; sizes of 128 KiB; nothing else is agreed on.
            [7u32, 31, 128 * 1024, 0].iter().for_each(|word| body.extend(word.to_le_bytes()));
            [16u16, 12].iter().for_each(|half| body.extend(half.to_le_bytes()));
            [128 * 1024u32, 1].iter().for_each(|word| body.extend(word.to_le_bytes()));
            body.resize(64, 0);
        }
        LOOKUP => {
            let about = fs::symlink_metadata(path.join(name(request)))?;
            body.extend(state.number(node.join(name(request))).to_le_bytes());
            // No generation, and nothing is valid for any time.
            body.resize(40, 0);
            body.extend(attributes(&about));
        }
        GETATTR => {
            let about = fs::symlink_metadata(path)?;
            body.resize(16, 0);
            body.extend(attributes(&about));
        }
        OPEN | OPENDIR => {
            fs::symlink_metadata(path)?;
            // Without a cache in the kernel: each read comes here.
            body.extend(0u64.to_le_bytes());
            body.extend([u32::from(operation == OPEN), 0].iter().flat_map(|it| it.to_le_bytes()));
        }
        READ => {
            let (offset, size) = (number(request, HEAD + 8), short(request, HEAD + 16));
            body.resize(size as usize, 0);
            let length = File::open(path)?.read_at(&mut body, offset)?;
            body.truncate(length);
        }
        READDIR => {
            let offset = number(request, HEAD + 8) as usize;
            for (at, entry) in fs::read_dir(path)?.enumerate().skip(offset) {
                let name = entry?.file_name();
                let name = name.as_bytes();
                body.extend(1u64.to_le_bytes());
                body.extend((at as u64 + 1).to_le_bytes());
                body.extend((name.len() as u32).to_le_bytes());
                body.extend(0u32.to_le_bytes());
                body.extend(name);
                body.resize(body.len().next_multiple_of(8), 0);
            }
        }
        STATFS => body.resize(80, 0),
        RELEASE | RELEASEDIR | FLUSH => {}
        _ => return Err(io::Error::from_raw_os_error(nix::libc::ENOSYS)),
    }
    Ok(body)
}

/// `struct fuse_attr`.
fn attributes(about: &Metadata) -> Vec<u8> {
    let long = [
        about.ino(),
        about.size(),
        about.blocks(),
        about.atime() as u64,
        about.mtime() as u64,
        about.ctime() as u64,
    ];
    let short = [
        about.atime_nsec() as u32,
        about.mtime_nsec() as u32,
        about.ctime_nsec() as u32,
        about.mode(),
        about.nlink() as u32,
        about.uid(),
        about.gid(),
        0,
        4096,
        0,
    ];
    let long = long.iter().flat_map(|it| it.to_le_bytes());
    long.chain(short.iter().flat_map(|it| it.to_le_bytes())).collect()
}

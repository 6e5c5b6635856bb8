//! Standard output, written by a separate thread.
//!
//! A pipe or a terminal may block, and Ctrl-C must be noticed meanwhile. `O_NONBLOCK` is no
//! alternative: the open file is shared with other programs, which would see `EAGAIN`. A write that
//! cannot block according to poll(2) is 512 bytes on FreeBSD.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tungstenite::Bytes;

/// The rest is not written when the process exits.
pub(super) struct StandardOutput {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    /// Readable when something was written.
    progress: UnixStream,
    /// Bytes so far.
    pushed: u64,
}

#[derive(Default)]
struct Shared {
    queue: Vec<Bytes>,
    /// Bytes written, or given up after an error.
    written: u64,
    error: Option<Errno>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StandardOutput {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<StandardOutput> {
        let (progress, sender) = UnixStream::pair()?;
        progress.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        let shared = Arc::<(Mutex<Shared>, Condvar)>::default();
        let theirs = shared.clone();
        thread::Builder::new().spawn(move || write_all(&theirs, &sender))?;
        Ok(StandardOutput { shared, progress, pushed: 0 })
    }

    /// Appends bytes. The caller bounds them by what [`StandardOutput::pending`] says.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.pushed += bytes.len() as u64;
        lock(&self.shared.0).queue.push(bytes);
        self.shared.1.notify_one();
    }

    /// Bytes that are not written yet, or the error that ended writing.
    pub(super) fn pending(&mut self) -> Result<u64, Errno> {
        while let Ok(1..) = self.progress.read(&mut [0; 64]) {}
        let shared = lock(&self.shared.0);
        shared.error.map_or(Ok(self.pushed - shared.written), Err)
    }
}

/// Readable when [`StandardOutput::pending`] has changed.
impl AsFd for StandardOutput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.progress.as_fd()
    }
}

/// Writes what is pushed, until the first error.
fn write_all(shared: &(Mutex<Shared>, Condvar), mut progress: &UnixStream) {
    loop {
        let idle = |shared: &mut Shared| shared.queue.is_empty();
        let waited = shared.1.wait_while(lock(&shared.0), idle);
        let queue = std::mem::take(&mut waited.unwrap_or_else(PoisonError::into_inner).queue);
        for bytes in queue {
            let result = write(&bytes);
            let mut shared = lock(&shared.0);
            shared.written += bytes.len() as u64;
            shared.error = result.err();
            // A full pipe wakes as well.
            let _ = progress.write(&[0]);
            if shared.error.is_some() {
                return;
            }
        }
    }
}

fn write(mut bytes: &[u8]) -> Result<(), Errno> {
    let stdout = io::stdout();
    while !bytes.is_empty() {
        match nix::unistd::write(&stdout, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Another program has set O_NONBLOCK.
            Err(Errno::EAGAIN) => {
                let _ =
                    poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

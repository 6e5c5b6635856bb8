//! The bare loop that the bridge is held against: a process that copies what comes in by one socket
//! to another one, and looks at nothing.

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};

use support::{Outcome, Process};

/// The argument that makes this program the copier.
pub(crate) const COPIER: &str = "bare-copier";

/// Read at once, in bytes: as much as the bridge reads of a peer.
const READ: usize = 16 * 1024;

/// The copier as its parent sees it: a process and the far ends of its two sockets.
pub(crate) struct Copier {
    child: Child,
    /// Input …
    pub(crate) into: TcpStream,
    /// … and output.
    pub(crate) out: TcpStream,
}

impl Copier {
    pub(crate) fn start() -> Outcome<Copier> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let child = Command::new(env::current_exe()?)
            .arg(COPIER)
            .arg(listener.local_addr()?.to_string())
            .stdin(Stdio::null())
            .spawn()?;
        let (into, _) = listener.accept()?;
        let (out, _) = listener.accept()?;
        into.set_nodelay(true)?;
        Ok(Copier { child, into, out })
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        // The end of its first socket is the end of it.
        let _ = self.into.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The copier itself: its argument is the address to connect to, twice.
pub(crate) fn copier(arguments: &[String]) -> ExitCode {
    match copy(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{COPIER}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn copy(arguments: &[String]) -> Outcome<()> {
    let [address] = arguments else { return Err("wants an address".into()) };
    let mut from = TcpStream::connect(address)?;
    let mut to = TcpStream::connect(address)?;
    to.set_nodelay(true)?;
    let mut bytes = vec![0; READ];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..count])?;
    }
}

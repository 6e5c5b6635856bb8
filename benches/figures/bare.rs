//! The bare loop that the fan-out is held against: a process that writes given bytes to sockets.
//!
//! It is this program once more, started with a private argument, so that its processor time is
//! counted just as the daemon's is. It knows nothing: a round of frames comes in on its standard
//! input, each is written to each socket in turn, and that is all.

use std::env;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use support::{Outcome, Peer, Process, Stream};

/// The argument that makes this program the writer.
pub(crate) const WRITER: &str = "bare-writer";

/// The writer as its parent sees it: a process and the far ends of its sockets.
pub(crate) struct Bare {
    child: Child,
    orders: Option<ChildStdin>,
    /// The reading ends, the same kind of reader as those of the daemon.
    pub(crate) readers: Vec<Peer>,
}

impl Bare {
    /// Starts a writer with `count` TCP connections on loopback.
    pub(crate) fn start(count: usize) -> Outcome<Bare> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut child = Command::new(env::current_exe()?)
            .arg(WRITER)
            .arg(listener.local_addr()?.to_string())
            .arg(count.to_string())
            .stdin(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take();
        let readers = (0..count)
            .map(|_| Peer::over(Stream::Plain(listener.accept()?.0)))
            .collect::<Outcome<Vec<Peer>>>()?;
        Ok(Bare { child, orders, readers })
    }

    /// The process to look at.
    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Has one round written to all sockets.
    pub(crate) fn write(&mut self, frames: &[Vec<u8>]) -> Outcome<()> {
        let mut order = Vec::new();
        order.extend_from_slice(&u32::try_from(frames.len())?.to_be_bytes());
        for frame in frames {
            order.extend_from_slice(&u32::try_from(frame.len())?.to_be_bytes());
            order.extend_from_slice(frame);
        }
        let orders = self.orders.as_mut().ok_or("the writer has ended")?;
        orders.write_all(&order)?;
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // The end of its standard input is the end of the writer.
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// The writer itself: arguments are the address to connect to and how often.
pub(crate) fn writer(arguments: &[String]) -> ExitCode {
    match write_rounds(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{WRITER}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_rounds(arguments: &[String]) -> Outcome<()> {
    let [address, count] = arguments else {
        return Err("wants an address and a number".into());
    };
    let mut sockets = (0..count.parse()?)
        .map(|_| {
            let socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            Ok(socket)
        })
        .collect::<io::Result<Vec<TcpStream>>>()?;
    let mut orders = BufReader::new(io::stdin().lock());
    while let Some(frames) = next_number(&mut orders)? {
        for _ in 0..frames {
            let length = next_number(&mut orders)?.ok_or("half an order")?;
            let mut frame = vec![0; usize::try_from(length)?];
            orders.read_exact(&mut frame)?;
            for socket in &mut sockets {
                socket.write_all(&frame)?;
            }
        }
    }
    Ok(())
}

/// The next 32 bits, big end first; `None` at the end of the input.
fn next_number(orders: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    match orders.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(u32::from_be_bytes(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

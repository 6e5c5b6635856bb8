//! Code of both daemons, `serve` and `bridge`: start-up (addresses, state directory and its lock,
//! errors), and the front: connections that have not authenticated.

mod address;
mod directory;
mod error;
mod front;
mod pid_file;

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{info, warn};
use ring::rand::{SecureRandom, SystemRandom};

use crate::auth::key::Damaged;
use crate::config::Config;
use crate::net::certificate::ServerSide;
use crate::sys::{descriptors, memory, signals};
use crate::wire::to_hex;

pub use address::{Address, bind, is_proxy};
pub use directory::{lock, make_private};
pub use error::StartError;
pub use front::{AcceptEnd, Front, FrontLimits, Guest, Guests, Listening};
pub use pid_file::PidFile;

/// Prepares the process, however it was started. To be called first.
pub fn prepare(config: &Config) {
    descriptors::close_inherited();
    signals::reset();
    memory::return_memory_early();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    crate::logger::begin(config.log.level, config.log.target);
}

/// Logs the certificate's fingerprint, if it has changed.
pub fn log_fingerprint(now: Option<&ServerSide>, before: Option<&ServerSide>) {
    let before = before.map(|tls| &tls.fingerprint);
    if let Some(ServerSide { fingerprint, .. }) = now.filter(|tls| before != Some(&tls.fingerprint))
    {
        info!("certificate sha256 {fingerprint}");
    }
}

/// Maximum number of damaged lines named; beyond it only their number.
const NAMED: usize = 10;

/// Logs the damaged lines of a key file.
pub fn log_damaged(path: &Path, damaged: &[Damaged]) {
    for Damaged { line, why, .. } in damaged.iter().take(NAMED) {
        warn!("{}:{line}: left out: {why}", path.display());
    }
    if damaged.len() > NAMED {
        warn!("{}: {} more lines are left out", path.display(), damaged.len() - NAMED);
    }
}

/// An unpredictable number; the clock where the system has no random bits, so it is not for
/// secrets.
pub fn random_number() -> u64 {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| u64::from(time.subsec_nanos())),
    }
}

/// The host name.
pub fn hostname() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    name.ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// This many random bytes, as hexadecimal digits.
///
/// # Errors
/// The system gives no random bits.
pub fn random_hex(bytes: usize) -> io::Result<String> {
    hex_of(bytes, |random| SystemRandom::new().fill(random))
}

fn hex_of<E>(bytes: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> io::Result<String> {
    let mut random = vec![0; bytes];
    fill(&mut random).map_err(|_| io::Error::other("the system gives no random bits"))?;
    Ok(to_hex(&random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_digits_are_an_error_without_random_bits() {
        let given = hex_of(2, |random| {
            random.copy_from_slice(&[0x0a, 0xff]);
            Ok::<(), ()>(())
        });
        assert_eq!(given.unwrap(), "0aff");
        assert!(hex_of(2, |_| Err(())).is_err());
        assert_eq!(random_hex(8).unwrap().len(), 16);
    }
}

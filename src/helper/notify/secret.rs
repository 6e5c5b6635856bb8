//! Files with secrets: only their owner may read them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use crate::sys::may_block::MayBlock;

/// The longest file, in bytes.
const LONGEST: u64 = 64 * 1024;
/// Headers of one file at most.
const MOST_HEADERS: usize = 32;

/// Content of a file with a secret, without the line end at its end.
///
/// # Errors
/// It cannot be read, belongs to another user than root or the daemon's, or is accessible to
/// others.
pub(super) fn read(path: &Path, _: MayBlock) -> Result<Zeroizing<Vec<u8>>, String> {
    let name = path.display();
    let cannot = |error: io::Error| format!("cannot read {name}: {error}");
    // Without waiting for a writer of a FIFO.
    let flags = OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    check(&file, path)?;
    let mut secret = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    file.take(LONGEST + 1).read_to_end(&mut secret).map_err(cannot)?;
    if secret.len() as u64 > LONGEST {
        return Err(format!("{name} has more than {LONGEST} bytes"));
    }
    while secret.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        secret.pop();
    }
    if secret.is_empty() {
        return Err(format!("{name} is empty"));
    }
    Ok(secret)
}

fn check(file: &File, path: &Path) -> Result<(), String> {
    let name = path.display();
    let about = file.metadata().map_err(|error| format!("cannot read {name}: {error}"))?;
    if !about.is_file() {
        return Err(format!("{name} is not a file"));
    }
    let (owner, own) = (about.uid(), geteuid().as_raw());
    if owner != own && owner != 0 {
        return Err(format!(
            "{name} belongs to the user {owner}: it must be root's, or the daemon's"
        ));
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{name} has the mode {mode:04o}: only its owner may read it (chmod 600)"
        ));
    }
    Ok(())
}

/// Headers of a file, one a line: `NAME: VALUE`.
///
/// # Errors
/// A line has another form; the text names its number, and nothing of its content.
pub(super) fn headers(
    text: &[u8],
    path: &Path,
) -> Result<Vec<(String, Zeroizing<String>)>, String> {
    let name = path.display();
    let text = std::str::from_utf8(text).map_err(|_| format!("{name} is not UTF-8"))?;
    let mut headers = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let is_token = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match line.split_once(':') {
            Some((header, value)) if is_token(header) && headers.len() < MOST_HEADERS => {
                headers.push((header.to_owned(), Zeroizing::new(value.trim().to_owned())));
            }
            _ => {
                let form = "write a header a line, like \"Authorization: Bearer …\"";
                return Err(format!("{name}:{}: is no header: {form}", number + 1));
            }
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn file_that_others_may_read_is_refused() {
        let path = std::env::temp_dir().join(format!("se-secret-{}", std::process::id()));
        fs::write(&path, "hush\n").unwrap();
        let may_block = MayBlock::before_loop();
        for (mode, is_fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match read(&path, may_block) {
                Ok(secret) => assert!(is_fine && secret.as_slice() == b"hush", "{mode:o}"),
                Err(why) => assert!(!is_fine && why.contains("chmod 600"), "{why}"),
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "\n").unwrap();
        assert!(read(&path, may_block).unwrap_err().ends_with("is empty"));
        fs::remove_file(&path).unwrap();
        assert!(read(&path, may_block).unwrap_err().starts_with("cannot read "));
        assert!(read(Path::new("/dev/null"), may_block).unwrap_err().ends_with("is not a file"));
    }

    #[test]
    fn headers_stand_one_a_line() {
        let path = Path::new("/h");
        let read = headers(b"# token\nAuthorization: Bearer a:b\n\nX-Gotify-Key:k", path).unwrap();
        assert_eq!(read[0], ("Authorization".to_owned(), Zeroizing::new("Bearer a:b".to_owned())));
        assert_eq!(read[1].1.as_str(), "k");
        for wrong in ["secret", "a b: c", ": x", "\u{e4}: x"] {
            let why = headers(wrong.as_bytes(), path).unwrap_err();
            assert!(why.starts_with("/h:1: ") && !why.contains("secret"), "{why}");
        }
    }
}

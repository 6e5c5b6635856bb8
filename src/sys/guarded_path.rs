//! Opens files below directories that other users own.
//!
//! The daemon is root and reads logs wherever the configuration names them. A user who owns the
//! directory of one could put a link there, to a file that this user may not read, and see its
//! lines in events. So a path is resolved one component at a time, and the owner of each directory
//! determines what is trusted in it:
//!
//! * A symbolic link is followed where it and its directory belong to root or to the daemon's own
//!   user. Below a directory of another user none is followed.
//! * A file with more than one name is refused where other users can create names: in a directory
//!   of another user, and in one that its group or everybody can write.
//! * A file in a directory of another user must belong to that user: a hard link does not change
//!   the owner.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::geteuid;

use super::may_block::MayBlock;

/// Maximum number of symbolic links followed for one path; the kernels' limits are 32 or 40.
const LINKS: usize = 32;

/// A resolved path: the directory and the name of a file in it that is not a link.
struct ResolvedPath {
    directory: OwnedFd,
    name: OsString,
    guard: Guard,
    about: FileStat,
}

/// Trust in the names of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    /// The owner, where that is neither root nor the daemon's own user.
    other_owner: Option<u32>,
    /// Users other than these two can create names in it.
    is_open: bool,
    /// An ancestor belongs to another user.
    is_below_other: bool,
}

impl Guard {
    fn new(about: &FileStat, above: Option<Guard>, own_uid: u32) -> Guard {
        let other_owner = (!is_trusted(about.st_uid, own_uid)).then_some(about.st_uid);
        let others_write =
            Mode::from_bits_truncate(about.st_mode).intersects(Mode::S_IWGRP | Mode::S_IWOTH);
        Guard {
            other_owner,
            is_open: other_owner.is_some() || others_write,
            is_below_other: above
                .is_some_and(|above| above.is_below_other || above.other_owner.is_some()),
        }
    }

    fn check_link(&self, about: &FileStat, own_uid: u32) -> io::Result<()> {
        match (self.other_owner, self.is_below_other) {
            (Some(owner), _) => Err(refuse(format!(
                "there is a symbolic link in a directory of uid {owner}, where links are not followed"
            ))),
            (None, true) => Err(refuse(
                "there is a symbolic link below a directory of another user, where links are not \
                 followed"
                    .to_owned(),
            )),
            (None, false) if !is_trusted(about.st_uid, own_uid) => Err(refuse(format!(
                "there is a symbolic link of uid {}, which is not followed",
                about.st_uid
            ))),
            (None, false) => Ok(()),
        }
    }

    fn check_file(&self, about: &FileStat) -> io::Result<()> {
        if kind(about) != SFlag::S_IFREG {
            return Err(io::Error::other("it is not a regular file"));
        }
        match self.other_owner {
            Some(owner) if owner != about.st_uid => Err(refuse(format!(
                "it belongs to uid {} in a directory of uid {owner}: it must be that user's own",
                about.st_uid
            ))),
            Some(_) | None if self.is_open && about.st_nlink > 1 => Err(refuse(
                "it has more than one name (hard links), in a directory that others can write"
                    .to_owned(),
            )),
            Some(_) | None => Ok(()),
        }
    }
}

fn is_trusted(uid: u32, own_uid: u32) -> bool {
    uid == 0 || uid == own_uid
}

fn refuse(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

fn kind(about: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT
}

/// The status of the regular file that `path` leads to, which is not opened.
///
/// # Errors
/// The system's; it is no regular file, or the owner of a directory on the way is not trusted with
/// what stands there.
pub fn stat_regular(path: &Path, _: MayBlock) -> io::Result<FileStat> {
    let place = resolve(path)?;
    place.guard.check_file(&place.about)?;
    Ok(place.about)
}

/// Opens the regular file that `path` leads to for reading.
///
/// Anything else is not opened at all: the opening of a FIFO could wait, that of a tape wind it.
///
/// # Errors
/// As [`stat_regular`], or the file cannot be opened.
pub fn open_regular(path: &Path, _: MayBlock) -> io::Result<File> {
    let ResolvedPath { directory, name, guard, about } = resolve(path)?;
    guard.check_file(&about)?;
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file = openat(&directory, name.as_os_str(), flags, Mode::empty())?;
    // Another file may have the name now.
    guard.check_file(&fstat(&file)?)?;
    Ok(File::from(file))
}

fn resolve(path: &Path) -> io::Result<ResolvedPath> {
    let own_uid = geteuid().as_raw();
    let begin = |path: &Path| -> io::Result<(OwnedFd, Guard)> {
        let start = if path.is_absolute() { "/" } else { "." };
        let directory = openat(AT_FDCWD, start, DIRECTORY, Mode::empty())?;
        let guard = Guard::new(&fstat(&directory)?, None, own_uid);
        Ok((directory, guard))
    };
    let (mut directory, mut guard) = begin(path)?;
    let mut pending: Vec<OsString> = components(path);
    let mut links = 0;
    while let Some(name) = pending.pop() {
        let about = fstatat(&directory, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind(&about) == SFlag::S_IFLNK {
            guard.check_link(&about, own_uid)?;
            links += 1;
            if links > LINKS {
                return Err(nix::errno::Errno::ELOOP.into());
            }
            let target = readlinkat(&directory, name.as_os_str())?;
            let target = Path::new(&target);
            if target.is_absolute() {
                (directory, guard) = begin(target)?;
            }
            pending.extend(components(target));
        } else if pending.is_empty() {
            return Ok(ResolvedPath { directory, name, guard, about });
        } else {
            directory = openat(&directory, name.as_os_str(), DIRECTORY, Mode::empty())?;
            guard = Guard::new(&fstat(&directory)?, Some(guard), own_uid);
        }
    }
    Err(nix::errno::Errno::EISDIR.into())
}

/// For a directory that is only traversed; a link in its place is refused.
const DIRECTORY: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The names in a path, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    let mut names: Vec<OsString> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
    use std::path::PathBuf;

    /// An arbitrary unprivileged user.
    const OTHER: u32 = 54_321;

    /// `mine/secret`, and `theirs`, a directory of another user. Removed on drop.
    struct Scene(PathBuf);

    impl Scene {
        /// `None` where the tests do not run as root.
        fn new(name: &str) -> Option<Scene> {
            if !geteuid().is_root() {
                return None;
            }
            let path = std::env::temp_dir().join(format!("guarded-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            for directory in ["mine", "theirs"] {
                fs::create_dir_all(path.join(directory)).unwrap();
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            fs::write(path.join("mine/secret"), "secret").unwrap();
            chown(path.join("theirs"), Some(OTHER), Some(OTHER)).unwrap();
            Some(Scene(path))
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// Whether the file of that name is opened; both functions agree on it.
        fn opens(&self, name: &str) -> Result<(), String> {
            let opened = open_regular(&self.at(name), MayBlock::before_loop())
                .map(drop)
                .map_err(|error| error.to_string());
            let stat = stat_regular(&self.at(name), MayBlock::before_loop())
                .map(drop)
                .map_err(|error| error.to_string());
            assert_eq!(opened, stat, "{name}");
            opened
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn links_of_trusted_owners_are_followed() {
        let Some(scene) = Scene::new("trusted") else { return };
        symlink("secret", scene.at("mine/relative")).unwrap();
        symlink(scene.at("mine/secret"), scene.at("mine/absolute")).unwrap();
        symlink("../mine", scene.at("mine/directory")).unwrap();
        symlink("loop", scene.at("mine/loop")).unwrap();
        for name in ["relative", "absolute", "directory/relative", "./directory/../mine/secret"] {
            assert_eq!(scene.opens(&format!("mine/{name}")), Ok(()), "{name}");
        }
        assert!(scene.opens("mine/loop").is_err());
        // In a directory that everybody can write, the owner of the link is checked too.
        fs::set_permissions(scene.at("mine"), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(scene.opens("mine/relative"), Ok(()));
        lchown(scene.at("mine/relative"), Some(OTHER), Some(OTHER)).unwrap();
        assert!(scene.opens("mine/relative").unwrap_err().contains("link of uid 54321"));
    }

    #[test]
    fn links_below_directories_of_others_are_not_followed() {
        let Some(scene) = Scene::new("theirs") else { return };
        symlink(scene.at("mine/secret"), scene.at("theirs/log")).unwrap();
        symlink(scene.at("mine"), scene.at("theirs/directory")).unwrap();
        // Root's own directory below theirs, and root's own links: the other user can move all of
        // them.
        fs::create_dir(scene.at("theirs/roots")).unwrap();
        symlink("/etc/passwd", scene.at("theirs/roots/log")).unwrap();
        for name in ["theirs/log", "theirs/directory/secret", "theirs/roots/log"] {
            let why = scene.opens(name).unwrap_err();
            assert!(why.contains("not followed"), "{name}: {why}");
        }
        fs::write(scene.at("theirs/own"), "").unwrap();
        chown(scene.at("theirs/own"), Some(OTHER), Some(OTHER)).unwrap();
        assert_eq!(scene.opens("theirs/own"), Ok(()));
        // A link of root's to that directory stands in root's directory.
        symlink("../theirs/own", scene.at("mine/to-theirs")).unwrap();
        assert_eq!(scene.opens("mine/to-theirs"), Ok(()));
        symlink("../theirs/log", scene.at("mine/to-their-link")).unwrap();
        assert!(scene.opens("mine/to-their-link").is_err());
    }

    #[test]
    fn hard_links_where_others_make_names_are_refused() {
        let Some(scene) = Scene::new("hard") else { return };
        fs::hard_link(scene.at("mine/secret"), scene.at("mine/second")).unwrap();
        assert_eq!(scene.opens("mine/second"), Ok(()));
        fs::hard_link(scene.at("mine/secret"), scene.at("theirs/log")).unwrap();
        let why = scene.opens("theirs/log").unwrap_err();
        assert!(why.contains("belongs to uid 0 in a directory of uid 54321"), "{why}");
        // Its other names may have been removed.
        fs::remove_file(scene.at("mine/second")).unwrap();
        fs::rename(scene.at("mine/secret"), scene.at("theirs/log")).unwrap();
        assert!(scene.opens("theirs/log").is_err());
        fs::write(scene.at("mine/new"), "").unwrap();
        fs::hard_link(scene.at("mine/new"), scene.at("mine/newer")).unwrap();
        fs::set_permissions(scene.at("mine"), fs::Permissions::from_mode(0o775)).unwrap();
        assert!(scene.opens("mine/new").unwrap_err().contains("more than one name"));
    }

    #[test]
    fn files_of_other_kinds_are_not_opened() {
        let Some(scene) = Scene::new("kinds") else { return };
        nix::unistd::mkfifo(&scene.at("mine/fifo"), Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", scene.at("mine/device")).unwrap();
        for name in ["mine/fifo", "mine/device", "mine"] {
            assert_eq!(scene.opens(name).unwrap_err(), "it is not a regular file", "{name}");
        }
        let absent = stat_regular(&scene.at("mine/nothing"), MayBlock::before_loop()).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }
}

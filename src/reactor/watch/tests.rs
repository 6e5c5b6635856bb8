//! On real files, with the kernel's own notifications.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

const MAY_BLOCK: MayBlock = MayBlock::before_loop();

struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let name = format!("sysadm-events-watch-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Keys reported until the time is over, which is long for expected events and short for unexpected
/// ones.
fn reported(watches: &mut Watches<&'static str>, time: Duration) -> Vec<&'static str> {
    let end = Instant::now() + time;
    let mut reported = Vec::new();
    while reported.is_empty() && Instant::now() < end {
        let left = end.saturating_duration_since(Instant::now());
        let mut asked = [PollFd::new(watches.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut asked, PollTimeout::try_from(left).unwrap());
        watches.changed(|key| reported.push(key));
    }
    reported
}

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

#[test]
fn a_file_that_is_written_renamed_or_removed_wakes_its_owner() {
    let directory = Directory::new("file");
    let path = directory.0.join("log");
    let mut watches = Watches::new().unwrap();
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let watch = watches.file(&File::open(&path).unwrap(), "file", MAY_BLOCK).unwrap();
    file.write_all(b"x").unwrap();
    assert_eq!(reported(&mut watches, LONG), ["file"]);
    file.set_len(0).unwrap();
    assert_eq!(reported(&mut watches, LONG), ["file"]);
    fs::rename(&path, directory.0.join("log.0")).unwrap();
    assert_eq!(reported(&mut watches, LONG), ["file"]);
    if !REPORTS_WRITE_AFTER_TRUNCATION {
        file.write_all(b"x").unwrap();
        assert!(reported(&mut watches, SHORT).is_empty(), "this kernel does report it");
    }
    file.write_all(b"y").unwrap();
    assert_eq!(reported(&mut watches, LONG), ["file"]);
    watches.forget(watch);
    file.write_all(b"z").unwrap();
    assert!(reported(&mut watches, SHORT).is_empty());
}

#[test]
fn name_that_appears_or_vanishes_wakes_its_owner() {
    let directory = Directory::new("directory");
    let mut watches = Watches::new().unwrap();
    watches.directory(&directory.0, "log".as_ref(), "directory", MAY_BLOCK).unwrap();
    fs::write(directory.0.join("log"), b"").unwrap();
    assert_eq!(reported(&mut watches, LONG), ["directory"]);
    fs::remove_file(directory.0.join("log")).unwrap();
    assert_eq!(reported(&mut watches, LONG), ["directory"]);
    fs::create_dir(directory.0.join("log")).unwrap();
    assert_eq!(reported(&mut watches, LONG), ["directory"]);
}

#[test]
fn watch_of_a_removed_file_ends_and_is_reported() {
    let directory = Directory::new("removed");
    let inner = directory.0.join("inner");
    fs::create_dir(&inner).unwrap();
    let mut watches = Watches::new().unwrap();
    let watch = watches.directory(&inner, "log".as_ref(), "inner", MAY_BLOCK).unwrap();
    assert!(watches.is_alive(&watch));
    fs::remove_dir(&inner).unwrap();
    while watches.is_alive(&watch) {
        assert_eq!(reported(&mut watches, LONG), ["inner"]);
    }
}

#[test]
fn two_watches_of_one_file_are_independent() {
    let directory = Directory::new("two");
    let path = directory.0.join("log");
    fs::write(&path, b"").unwrap();
    let mut watches = Watches::new().unwrap();
    let file = File::open(&path).unwrap();
    let one = watches.file(&file, "one", MAY_BLOCK).unwrap();
    watches.file(&file, "two", MAY_BLOCK).unwrap();
    let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
    writer.write_all(b"x").unwrap();
    assert_eq!(reported(&mut watches, LONG), ["one", "two"]);
    watches.forget(one);
    writer.write_all(b"x").unwrap();
    assert_eq!(reported(&mut watches, LONG), ["two"]);
}

#[test]
fn missing_file_cannot_be_watched() {
    let directory = Directory::new("absent");
    let mut watches = Watches::new().unwrap();
    assert!(watches.directory(&directory.0.join("no"), "log".as_ref(), "x", MAY_BLOCK).is_err());
    fs::write(directory.0.join("file"), b"").unwrap();
    assert!(watches.directory(&directory.0.join("file"), "log".as_ref(), "x", MAY_BLOCK).is_err());
}

#[test]
fn the_disk_of_this_host_is_local() {
    assert!(is_local(&File::open(std::env::current_exe().unwrap()).unwrap()));
}

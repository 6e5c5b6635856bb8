//! On real files, with the kernel's own notifications.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::{Reactor, Ready};
use super::*;

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

/// Keys reported until the deadline of key "end", which is late for expected events and early for
/// unexpected ones. Signals are those of the whole process: other tests may have caused them.
fn reported(reactor: &mut Reactor<&'static str>, patience: Duration) -> Vec<&'static str> {
    let mut ready = Vec::new();
    reactor.set_deadline("end", Some(Instant::now() + patience));
    while ready.is_empty() {
        reactor.turn(&mut ready).unwrap();
        ready.retain(|ready| !matches!(ready, Ready::Signal(_)));
    }
    ready
        .into_iter()
        .filter_map(|ready| match ready {
            Ready::Changed(key) => Some(key),
            Ready::Deadline(_) => None,
            other => panic!("{other:?}"),
        })
        .collect()
}

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

#[test]
fn a_file_that_is_written_renamed_or_removed_wakes_its_owner() {
    let directory = Directory::new("file");
    let path = directory.0.join("log");
    let mut reactor = Reactor::new().unwrap();
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let watch = reactor.watch_file(&File::open(&path).unwrap(), "file").unwrap();
    file.write_all(b"x").unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["file"]);
    file.set_len(0).unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["file"]);
    fs::rename(&path, directory.0.join("log.0")).unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["file"]);
    if !REPORTS_WRITE_AFTER_TRUNCATION {
        file.write_all(b"x").unwrap();
        assert!(reported(&mut reactor, SHORT).is_empty(), "this kernel does report it");
    }
    file.write_all(b"y").unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["file"]);
    reactor.unwatch(watch);
    file.write_all(b"z").unwrap();
    assert!(reported(&mut reactor, SHORT).is_empty());
}

#[test]
fn name_that_appears_or_vanishes_wakes_its_owner() {
    let directory = Directory::new("directory");
    let mut reactor = Reactor::new().unwrap();
    reactor.watch_directory(&directory.0, "log".as_ref(), "directory").unwrap();
    fs::write(directory.0.join("log"), b"").unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["directory"]);
    fs::remove_file(directory.0.join("log")).unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["directory"]);
    fs::create_dir(directory.0.join("log")).unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["directory"]);
}

#[test]
fn watch_of_a_removed_file_ends_and_is_reported() {
    let directory = Directory::new("removed");
    let inner = directory.0.join("inner");
    fs::create_dir(&inner).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let watch = reactor.watch_directory(&inner, "log".as_ref(), "inner").unwrap();
    assert!(reactor.is_watched(&watch));
    fs::remove_dir(&inner).unwrap();
    while reactor.is_watched(&watch) {
        assert_eq!(reported(&mut reactor, LONG), ["inner"]);
    }
}

#[test]
fn two_watches_of_one_file_are_independent() {
    let directory = Directory::new("two");
    let path = directory.0.join("log");
    fs::write(&path, b"").unwrap();
    let mut reactor = Reactor::new().unwrap();
    let file = File::open(&path).unwrap();
    let one = reactor.watch_file(&file, "one").unwrap();
    reactor.watch_file(&file, "two").unwrap();
    let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
    writer.write_all(b"x").unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["one", "two"]);
    reactor.unwatch(one);
    writer.write_all(b"x").unwrap();
    assert_eq!(reported(&mut reactor, LONG), ["two"]);
}

#[test]
fn missing_file_cannot_be_watched() {
    let directory = Directory::new("absent");
    let mut reactor = Reactor::new().unwrap();
    assert!(reactor.watch_directory(&directory.0.join("no"), "log".as_ref(), "x").is_err());
    fs::write(directory.0.join("file"), b"").unwrap();
    assert!(reactor.watch_directory(&directory.0.join("file"), "log".as_ref(), "x").is_err());
}

#[test]
fn the_disk_of_this_host_is_local() {
    assert!(is_local(&File::open(std::env::current_exe().unwrap()).unwrap()));
}

//! Logs and the files under their names, which change.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{chown, symlink};

use serde_json::json;
use support::{
    Outcome, Peer, Setup, Signal, append, skip, snapshot, snapshot_message, snapshot_messages,
    snapshots,
};

use super::PROGRAM;

#[test]
fn a_first_start_begins_at_the_end() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    append(&setup.log(), snapshots(0..100) + "now: Creating snap")?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), "shot on tank/100\n")?;
    assert_eq!(peer.message()?, snapshot_message(100));
    Ok(())
}

#[test]
fn log_in_a_later_directory_is_read_whole() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let log = setup.directory().join("a/b/c/lp.log");
    let setup = setup.with("life_preserver.log", format!("{log:?}"));
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    // One level after the other, and the name of a level as a file first.
    fs::create_dir(setup.directory().join("a"))?;
    fs::write(setup.directory().join("a/b"), b"")?;
    fs::remove_file(setup.directory().join("a/b"))?;
    fs::create_dir_all(setup.directory().join("a/b/c"))?;
    append(&log, snapshots(0..3))?;
    assert_eq!(peer.messages(3)?, snapshot_messages(0..3));
    // All of it is removed, and created again.
    fs::remove_dir_all(setup.directory().join("a"))?;
    append(&log, snapshots(3..5))?;
    assert_eq!(peer.messages(2)?, snapshot_messages(3..5));
    append(&log, snapshots(5..6))?;
    assert_eq!(peer.messages(1)?, snapshot_messages(5..6));
    Ok(())
}

#[test]
fn removed_directory_with_an_open_log_is_handled() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    append(&setup.log(), "")?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    let mut log = OpenOptions::new().append(true).open(setup.log())?;
    fs::remove_file(setup.log())?;
    // The event shows that the daemon has seen that, and a reply that it does not poll any more.
    log.write_all(snapshot(0).as_bytes())?;
    assert_eq!(peer.message()?, snapshot_message(0));
    for _ in 0..3 {
        peer.request("rpc", "identify", &json!({}))?;
    }
    fs::remove_dir(setup.directory().join("logs"))?;
    append(&setup.log(), snapshot(1))?;
    assert_eq!(peer.message()?, snapshot_message(1));
    log.write_all(snapshot(2).as_bytes())?;
    assert_eq!(peer.message()?, snapshot_message(2));
    Ok(())
}

#[test]
fn lines_are_reported_when_terminated_with_any_content() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    for piece in ["now: Creat", "ing snapshot o", "n tank/0", "\r", "\n"] {
        append(&setup.log(), piece)?;
    }
    assert_eq!(peer.message()?, snapshot_message(0));
    append(&setup.log(), b"no\xffw: Creating snapshot on tank/\xc3\xa9\xc3\n")?;
    assert_eq!(peer.message()?, "no\u{fffd}w: New snapshot of tank/é\u{fffd}");
    Ok(())
}

#[test]
fn unterminated_line_is_cut_and_reported() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), format!("now: ERROR: snapshot {}", "x".repeat(100_000)))?;
    let cut = peer.message()?;
    assert!(cut.starts_with("now: ERROR: snapshot xxx") && cut.ends_with('…'), "{cut}");
    assert!(cut.len() < 5000, "{}", cut.len());
    let said = daemon.log().wait("life_preserver.max_line")?;
    assert!(said.contains("lp.log: a line is longer than 4096 bytes"), "{said}");
    append(&setup.log(), "y".repeat(100_000) + "\n" + &snapshot(1))?;
    assert_eq!(peer.message()?, snapshot_message(1));
    Ok(())
}

#[test]
fn a_log_that_is_renamed_away_is_read_to_its_end() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), snapshots(0..10))?;
    peer.messages(10)?;
    let rotated = setup.log().with_extension("log.0");
    for round in 0..5 {
        let first = 10 + 20 * round;
        // A writer that keeps it open, and is slow to notice.
        let mut writer = OpenOptions::new().append(true).open(setup.log())?;
        writer.write_all(snapshots(first..first + 5).as_bytes())?;
        fs::rename(setup.log(), &rotated)?;
        writer.write_all(snapshots(first + 5..first + 10).as_bytes())?;
        assert_eq!(peer.messages(10)?, snapshot_messages(first..first + 10));
        append(&setup.log(), snapshots(first + 10..first + 20))?;
        assert_eq!(peer.messages(10)?, snapshot_messages(first + 10..first + 20));
    }
    Ok(())
}

#[test]
fn log_copied_and_truncated_loses_no_line() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    let old = setup.log().with_extension("log.old");
    append(&setup.log(), snapshots(0..10))?;
    peer.messages(10)?;
    for round in 0..5 {
        let first = 10 + 15 * round;
        // It cannot poll meanwhile: it finds the worst possible state.
        daemon.signal(Signal::SIGSTOP)?;
        append(&setup.log(), snapshots(first..first + 10))?;
        fs::copy(setup.log(), &old)?;
        fs::write(setup.log(), format!("Mon Nov 23 17:50:{round:02} UTC 2026: Rotate Logfile\n"))?;
        append(&setup.log(), snapshots(first + 10..first + 15))?;
        daemon.signal(Signal::SIGCONT)?;
        assert_eq!(peer.messages(15)?, snapshot_messages(first..first + 15));
    }
    Ok(())
}

#[test]
fn truncated_log_grown_past_its_old_end_is_read_from_start() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), snapshots(0..50))?;
    peer.messages(50)?;
    for round in 1..5 {
        let first = 1000 * round;
        daemon.signal(Signal::SIGSTOP)?;
        fs::write(setup.log(), "")?;
        append(&setup.log(), snapshots(first..first + 200))?;
        daemon.signal(Signal::SIGCONT)?;
        assert_eq!(peer.messages(200)?, snapshot_messages(first..first + 200));
    }
    Ok(())
}

#[test]
fn replaced_or_missing_log_is_followed_by_name() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&setup.log(), snapshots(0..5))?;
    peer.messages(5)?;
    let new = setup.directory().join("logs/new");
    append(&new, snapshots(5..10))?;
    fs::rename(&new, setup.log())?;
    assert_eq!(peer.messages(5)?, snapshot_messages(5..10));
    fs::remove_file(setup.log())?;
    append(&setup.log(), snapshots(10..15))?;
    assert_eq!(peer.messages(5)?, snapshot_messages(10..15));
    // A link to a file elsewhere is a log, too.
    let elsewhere = setup.directory().join("elsewhere");
    append(&elsewhere, snapshots(15..20))?;
    fs::remove_file(setup.log())?;
    std::os::unix::fs::symlink(&elsewhere, setup.log())?;
    assert_eq!(peer.messages(5)?, snapshot_messages(15..20));
    append(&elsewhere, snapshot(20))?;
    assert_eq!(peer.message()?, snapshot_message(20));
    Ok(())
}

#[test]
fn log_in_directory_of_another_user_is_not_followed_through_links() -> Outcome<()> {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can make a directory of another user");
        return Ok(());
    }
    const OTHER: u32 = 54_321;
    let setup = Setup::following(PROGRAM)?;
    let (log, secret) = (setup.log(), setup.directory().join("secret"));
    let theirs = log.parent().ok_or("no directory")?.to_owned();
    fs::write(&secret, snapshots(0..1))?;
    fs::create_dir(&theirs)?;
    chown(&theirs, Some(OTHER), Some(OTHER))?;
    append(&log, "")?;
    chown(&log, Some(OTHER), Some(OTHER))?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&log, snapshots(1..2))?;
    assert_eq!(peer.message()?, snapshot_message(1));
    // The user puts others' files in its place, one after the other.
    let fifo = theirs.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    symlink(&secret, theirs.join("link"))?;
    fs::hard_link(&secret, theirs.join("hard"))?;
    for (planted, why) in [
        (
            "link",
            "cannot be followed: there is a symbolic link in a directory of uid 54321, where links are not followed",
        ),
        ("hard", "it belongs to uid 0 in a directory of uid 54321"),
        ("fifo", "it is not a regular file"),
    ] {
        fs::rename(theirs.join(planted), &log)?;
        daemon.log().wait(why)?;
    }
    fs::remove_file(&log)?;
    append(&log, snapshots(2..3))?;
    chown(&log, Some(OTHER), Some(OTHER))?;
    // Nothing of the secret precedes it.
    assert_eq!(peer.message()?, snapshot_message(2));
    // Where the directory is above the log's own, nothing below it may be a link either.
    fs::rename(&theirs, theirs.with_extension("before"))?;
    symlink(setup.directory().join("real"), &theirs)?;
    fs::create_dir(setup.directory().join("real"))?;
    append(&setup.directory().join("real/lp.log"), snapshots(3..4))?;
    // This one is root's, in root's directory.
    assert_eq!(peer.message()?, snapshot_message(3));
    Ok(())
}

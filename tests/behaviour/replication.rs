//! Replications under way: their progress, from the file that the log names.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use support::{Outcome, Peer, Setup, append};

use super::PROGRAM;

fn start(dataset: &str, file: &Path) -> String {
    format!("now: Starting replication SYNC task on {dataset}: {}\n", file.display())
}

#[test]
fn progress_is_read_from_the_file_named_in_the_log() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    let file = setup.directory().join("logs/lastrep-send-log");
    append(&setup.log(), start("tank/home", &file))?;
    assert_eq!(peer.message()?, "now: Starting replication for tank/home");
    append(
        &file,
        "full send of tank/home@auto-1 estimated size is 1.23G\ntotal estimated size is 1.23G\n\
         TIME        SENT   SNAPSHOT tank/home@auto-1\n17:50:48   12.3M   tank/home@auto-1\n",
    )?;
    let news = peer.news()?;
    assert_eq!(news["message"], "Replicating tank/home: 12.3M/1.23G (0.9%)");
    assert_eq!(news["priority"], "0 - Information");
    assert_eq!(news["class"], "replication");
    append(&file, "warning: cannot send: signal received\n")?;
    append(&setup.log(), "now: Finished replication task on tank/home -> b\n")?;
    assert_eq!(peer.message()?, "now: Finished replication for tank/home");
    // The next one truncates the same file.
    append(&setup.log(), start("tank/var", &file))?;
    assert_eq!(peer.message()?, "now: Starting replication for tank/var");
    fs::write(
        &file,
        "incremental\ttank/var@a\ttank/var@b\t231091568\nsize\t231091568\n\
         18:12:18\t30878088\ttank/var@b\n",
    )?;
    assert_eq!(peer.message()?, "Replicating tank/var: 29.4M/220M (13.3%)");
    Ok(())
}

#[test]
fn two_replications_report_once_a_second_each() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    let files = ["one", "two"].map(|name| setup.directory().join("logs").join(name));
    let datasets = ["tank", "pool"];
    for (dataset, file) in datasets.iter().zip(&files) {
        append(&setup.log(), start(dataset, file))?;
        append(file, "total estimated size is 1000M\n")?;
    }
    peer.messages(2)?;
    let begin = Instant::now();
    let mut received = [Vec::new(), Vec::new()];
    let mut sent = 0;
    // The last progress of each is reported, whatever was omitted before.
    while received
        .iter()
        .any(|received: &Vec<String>| received.last().is_none_or(|it| !it.contains("(100%)")))
    {
        if sent < 1000 {
            sent += 250;
            for (dataset, file) in datasets.iter().zip(&files) {
                append(file, format!("12:00:00   {sent}M   {dataset}@a\n"))?;
            }
        }
        let message = peer.message()?;
        let of = usize::from(message.starts_with("Replicating pool: "));
        assert!(message.starts_with(&format!("Replicating {}: ", datasets[of])), "{message}");
        received[of].push(message);
    }
    let seconds = begin.elapsed().as_secs() as usize;
    for received in &received {
        // One at once, then one each second; the clocks of the two ends are not one.
        assert!(
            received.len() >= 2 && received.len() <= seconds + 2,
            "{} in {seconds} s",
            received.len()
        );
    }
    Ok(())
}

#[test]
fn missing_or_invalid_progress_file_disturbs_nothing() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    let absent = setup.directory().join("no/such/file");
    let fifo = setup.directory().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    for (dataset, file) in [("a", &absent), ("b", &fifo), ("c", &PathBuf::from("/dev/zero"))] {
        append(&setup.log(), start(dataset, file))?;
        assert_eq!(peer.message()?, format!("now: Starting replication for {dataset}"));
    }
    append(&setup.log(), "now: Creating snapshot on tank\n")?;
    assert_eq!(peer.message()?, "now: New snapshot of tank");
    Ok(())
}

#[test]
fn the_progress_of_a_replication_is_followed_on_after_a_restart() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    let file = setup.directory().join("logs/send");
    append(&setup.log(), start("tank", &file))?;
    append(&file, "total estimated size is 10.0M\n12:00:01   1.00M   tank@a\n")?;
    assert_eq!(peer.messages(2)?[1], "Replicating tank: 1.00M/10.0M (10%)");
    drop(peer);
    daemon.stop()?;
    let daemon = setup.start()?;
    let mut peer = Peer::reader(&daemon)?;
    append(&file, "12:00:02   5.00M   tank@a\n")?;
    // Progress reported before may be repeated once.
    let mut received = peer.message()?;
    if received == "Replicating tank: 1.00M/10.0M (10%)" {
        received = peer.message()?;
    }
    assert_eq!(received, "Replicating tank: 5.00M/10.0M (50%)");
    Ok(())
}

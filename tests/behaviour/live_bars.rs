//! A running replication on the terminal of a watching person.

use support::{Cli, Outcome, Peer, Setup, append};

use super::PROGRAM;
use super::cli_watch::wait_for_subscribers;
use super::viewer::Viewer;

/// A line without its time of day.
fn timeless(line: &str) -> &str {
    line.get(8..).unwrap_or_default().trim_start()
}

#[test]
fn replication_is_one_line_with_a_bar_redrawn_in_place() -> Outcome<()> {
    let setup = Setup::following(PROGRAM)?.with("life_preserver.progress_interval", r#""10ms""#);
    let daemon = setup.start()?;
    let watcher = Viewer::start(Cli::to(&daemon, "watch").arg("life-preserver"), (24, 80))?;
    wait_for_subscribers(&mut Peer::local(&daemon)?, 1);
    let file = setup.directory().join("logs/send");
    let begins = format!("now: Starting replication SYNC task on tank/home: {}\n", file.display());
    append(&setup.log(), begins)?;
    watcher.wait(|lines| lines.len() == 1);
    append(&file, "total estimated size is 10.0M\n")?;
    for (sent, bar) in [
        ("2.50M", "▶ tank/home     25%  [██████░░░░░░░░░░░░░░░░░░]  2.50M/10.0M"),
        ("5.00M", "▶ tank/home     50%  [████████████░░░░░░░░░░░░]  5.00M/10.0M"),
        ("10.0M", "▶ tank/home    100%  [████████████████████████]  10.0M/10.0M"),
    ] {
        append(&file, format!("12:00:01   {sent}   tank/home@a\n"))?;
        let lines = watcher
            .wait(|lines| lines.last().is_some_and(|line| line.contains(&format!("]  {sent}/"))));
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert_eq!(lines[1].trim_start(), bar);
    }
    // Other events stand above it.
    append(&setup.log(), "now: Creating snapshot on tank\n")?;
    let lines = watcher.wait(|lines| lines.len() == 3);
    assert_eq!(timeless(&lines[1]), "1 snapshot    now: New snapshot of tank");
    assert!(lines[2].ends_with("10.0M/10.0M"), "{lines:#?}");
    // With the end it is gone.
    append(&setup.log(), "now: Finished replication task on tank/home -> b\n")?;
    let lines = watcher.wait(|lines| lines.last().is_some_and(|line| line.contains("Finished")));
    let received: Vec<&str> = lines.iter().map(|line| timeless(line)).collect();
    assert_eq!(
        received,
        [
            "1 replication now: Starting replication for tank/home",
            "1 snapshot    now: New snapshot of tank",
            "1 replication now: Finished replication for tank/home",
        ]
    );
    Ok(())
}

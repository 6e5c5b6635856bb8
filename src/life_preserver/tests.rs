//! The subsystem on real files, polled by hand.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::*;
use crate::config::Rules;
use crate::reactor::{Reactor, Watch};

/// A kernel that reports all changes, optionally except the first write after a truncation.
struct Seeing {
    reactor: Reactor<FollowId>,
    reports_write_after_truncation: bool,
}

impl Watching for Seeing {
    fn file(&mut self, file: &File, id: FollowId) -> io::Result<Watch> {
        self.reactor.watch_file(file, id)
    }

    fn directory(&mut self, path: &Path, name: &OsStr, id: FollowId) -> io::Result<Watch> {
        self.reactor.watch_directory(path, name, id)
    }

    fn is_watched(&self, watch: &Watch) -> bool {
        self.reactor.is_watched(watch)
    }

    fn unwatch(&mut self, watch: Watch) {
        self.reactor.unwatch(watch);
    }

    fn reports_write_after_truncation(&self) -> bool {
        self.reports_write_after_truncation
    }
}

/// A kernel that reports nothing.
struct Blind;

impl Watching for Blind {
    fn file(&mut self, _: &File, _: FollowId) -> io::Result<Watch> {
        Err(io::Error::other("blind"))
    }

    fn directory(&mut self, _: &Path, _: &OsStr, _: FollowId) -> io::Result<Watch> {
        Err(io::Error::other("blind"))
    }

    fn is_watched(&self, _: &Watch) -> bool {
        false
    }

    fn unwatch(&mut self, _: Watch) {}
}

fn rules(name: &str) -> Arc<RuleSet> {
    Rules::default().get(name).unwrap()
}

struct House {
    directory: PathBuf,
    log: PathBuf,
    limits: Limits,
    rules: Vec<Arc<RuleSet>>,
    it: Option<LifePreserver>,
    now: Moment,
}

impl House {
    fn new(test: &str) -> House {
        let name = format!("sysadm-events-life-{}-{test}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let limits = Limits {
            max_line: 200,
            slice: 4096,
            poll_interval: Duration::from_secs(5),
            check_interval: Duration::from_secs(60),
            rotation_wait: Duration::from_secs(10),
            max_replications: 2,
            progress_interval: Duration::from_secs(1),
            progress_timeout: Duration::from_secs(1000),
        };
        let (log, rules) = (directory.join("lp.log"), vec![rules("lpreserver")]);
        House { directory, log, limits, rules, it: None, now: Moment::now() }
    }

    fn source(&self) -> Source {
        Source { log: self.log.clone(), rules: self.rules.clone() }
    }

    fn start(&mut self, kept: Option<&[u8]>) -> Option<String> {
        let (it, wrong) =
            LifePreserver::begin(self.limits, vec![self.source()], kept, &mut Blind, self.now);
        self.it = Some(it);
        wrong
    }

    fn restart(&mut self) {
        let kept = self.it().memory();
        assert_eq!(self.start(Some(&kept)), None);
    }

    fn it(&mut self) -> &mut LifePreserver {
        self.it.as_mut().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// All current messages, without their time stamps.
    fn told(&mut self) -> Vec<String> {
        let now = self.now;
        let it = self.it();
        it.mark_all(now.instant);
        let mut told = Vec::new();
        loop {
            match it.next(true, Budget::endless(), &mut Blind, now) {
                Next::Event(event) => {
                    told.push(event.message.trim_start_matches("now: ").to_owned());
                }
                Next::More => it.begin_turn(),
                Next::Waiting => panic!("it may read"),
                Next::Idle => {
                    it.begin_turn();
                    return told;
                }
            }
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn append(path: &Path, text: impl AsRef<[u8]>) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

fn snapshots(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("now: Creating snapshot on tank/{n}\n")).collect()
}

fn news(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|n| format!("New snapshot of tank/{n}")).collect()
}

#[test]
fn a_first_start_begins_at_the_end() {
    let mut house = House::new("first");
    append(&house.log, snapshots(0, 50));
    house.start(None);
    assert!(house.told().is_empty());
    append(&house.log, snapshots(50, 3));
    assert_eq!(house.told(), news(50, 3));
    assert!(house.told().is_empty());
}

#[test]
fn a_line_that_had_no_end_at_the_first_start_is_told_when_it_has() {
    let mut house = House::new("first-partial");
    append(&house.log, snapshots(0, 2) + "now: Creating snapsh");
    house.start(None);
    assert!(house.told().is_empty());
    append(&house.log, "ot on tank/x\n");
    assert_eq!(house.told(), ["New snapshot of tank/x"]);
}

#[test]
fn the_rest_of_a_line_that_is_too_long_at_the_first_start_is_none() {
    let mut house = House::new("first-long");
    append(&house.log, "x".repeat(1000));
    house.start(None);
    append(&house.log, ": Creating snapshot on tank/no\nnow: Creating snapshot on tank/yes\n");
    assert_eq!(house.told(), ["New snapshot of tank/yes"]);
}

#[test]
fn a_log_in_a_directory_that_appears_later_is_read_from_its_beginning() {
    let mut house = House::new("later");
    house.log = house.path("a/b/lp.log");
    house.start(None);
    assert!(house.told().is_empty());
    fs::create_dir_all(house.path("a/b")).unwrap();
    assert!(house.told().is_empty());
    append(&house.log, snapshots(0, 2));
    assert_eq!(house.told(), news(0, 2));
}

#[test]
fn half_a_line_is_waited_for() {
    let mut house = House::new("half");
    append(&house.log, "");
    house.start(None);
    for piece in ["now: Crea", "ting snapshot o", "n tank/0\r", "\nnow: "] {
        assert!(house.told().is_empty(), "{piece:?}");
        append(&house.log, piece);
    }
    assert_eq!(house.told(), news(0, 1));
    append(&house.log, "Creating snapshot on tank/1\n");
    assert_eq!(house.told(), news(1, 1));
}

#[test]
fn a_line_without_end_is_cut_and_what_follows_is_read() {
    let mut house = House::new("endless");
    append(&house.log, "");
    house.start(None);
    append(&house.log, format!("now: ERROR: snapshot {}", "y".repeat(9000)));
    let told = house.told();
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("ERROR: snapshot yyy") && told[0].ends_with("y…"), "{told:?}");
    assert!(told[0].len() < 220, "{}", told[0].len());
    append(&house.log, "z".repeat(9000) + "\n" + &snapshots(0, 1));
    assert_eq!(house.told(), news(0, 1));
    // Also over a restart in the middle of the line.
    append(&house.log, "y".repeat(9000));
    house.told();
    house.restart();
    append(&house.log, format!("now: {}{}", snapshots(5, 1), snapshots(6, 1)));
    assert_eq!(house.told(), news(6, 1));
}

#[test]
fn a_log_that_is_renamed_away_is_read_to_its_end_first() {
    let mut house = House::new("rename");
    append(&house.log, "");
    house.start(None);
    append(&house.log, snapshots(0, 3));
    fs::rename(&house.log, house.path("lp.log.0")).unwrap();
    assert_eq!(house.told(), news(0, 3));
    append(&house.path("lp.log.0"), snapshots(3, 1));
    assert_eq!(house.told(), news(3, 1), "who has it open goes on writing to it");
    append(&house.path("lp.log.0"), snapshots(4, 1));
    append(&house.log, snapshots(5, 2));
    assert_eq!(house.told(), news(4, 3));
    append(&house.path("lp.log.0"), snapshots(7, 1));
    assert_eq!(house.told(), news(7, 1), "and does so for a while");
    append(&house.path("lp.log.0"), snapshots(8, 1));
    house.pass(11);
    assert_eq!(house.told(), news(8, 1), "it is looked at once more before it is let go");
    house.pass(11);
    house.told();
    append(&house.path("lp.log.0"), snapshots(9, 1));
    append(&house.log, snapshots(10, 1));
    assert_eq!(house.told(), news(10, 1));
}

#[test]
fn a_log_that_was_quiet_for_long_is_read_on_for_as_long_when_it_is_renamed_away() {
    let mut house = House::new("rename-quiet");
    append(&house.log, "");
    house.start(None);
    house.told();
    house.pass(3600);
    fs::rename(&house.log, house.path("lp.log.0")).unwrap();
    append(&house.log, snapshots(0, 1));
    assert_eq!(house.told(), news(0, 1));
    append(&house.path("lp.log.0"), snapshots(1, 1));
    assert_eq!(house.told(), news(1, 1));
}

#[test]
fn a_log_that_is_copied_and_emptied_loses_nothing() {
    // As `backend/runsnap.sh` of Life Preserver does it: cp log log.old; echo … > log
    let mut house = House::new("copy");
    append(&house.log, "");
    house.start(None);
    append(&house.log, snapshots(0, 10));
    assert_eq!(house.told(), news(0, 10));
    // Written, and removed before it is read.
    append(&house.log, snapshots(10, 3));
    fs::copy(&house.log, house.path("lp.log.old")).unwrap();
    fs::write(&house.log, "later: Rotate Logfile\n").unwrap();
    append(&house.log, snapshots(13, 1));
    assert_eq!(house.told(), news(10, 4));
    append(&house.log, snapshots(14, 1));
    assert_eq!(house.told(), news(14, 1));
}

#[test]
fn one_that_grew_past_the_old_end_between_two_looks_is_known() {
    let mut house = House::new("regrown");
    append(&house.log, "");
    house.start(None);
    append(&house.log, snapshots(0, 20));
    assert_eq!(house.told(), news(0, 20));
    for round in 1..4 {
        fs::write(&house.log, "").unwrap();
        append(&house.log, snapshots(100 * round, 50));
        assert_eq!(house.told(), news(100 * round, 50));
    }
    // Of exactly the same length.
    fs::write(&house.log, snapshots(700, 50)).unwrap();
    assert_eq!(house.told(), news(700, 50));
}

#[test]
fn another_file_under_the_name_is_read_from_its_beginning() {
    let mut house = House::new("replaced");
    append(&house.log, snapshots(0, 5));
    house.start(None);
    append(&house.path("new"), snapshots(10, 5));
    append(&house.log, snapshots(5, 1));
    fs::rename(house.path("new"), &house.log).unwrap();
    assert_eq!(house.told(), [news(5, 1), news(10, 5)].concat());
    fs::remove_file(&house.log).unwrap();
    assert!(house.told().is_empty());
    append(&house.log, snapshots(20, 1));
    assert_eq!(house.told(), news(20, 1));
}

#[test]
fn a_rollback_of_the_file_system_repeats_nothing() {
    let mut house = House::new("rollback");
    append(&house.log, "");
    house.start(None);
    append(&house.log, snapshots(0, 30));
    house.told();
    fs::write(&house.log, snapshots(0, 20)).unwrap();
    assert!(house.told().is_empty());
    append(&house.log, snapshots(20, 1));
    assert_eq!(house.told(), news(20, 1));
}

#[test]
fn what_was_written_while_it_was_down_is_told() {
    let mut house = House::new("down");
    append(&house.log, snapshots(0, 5));
    house.start(None);
    append(&house.log, snapshots(5, 1));
    assert_eq!(house.told(), news(5, 1));
    let kept = house.it().memory();
    append(&house.log, snapshots(6, 4));
    house.start(Some(&kept));
    assert_eq!(house.told(), news(6, 4));
    // Also where the log did not exist before.
    let mut house = House::new("down-absent");
    house.start(None);
    let kept = house.it().memory();
    append(&house.log, snapshots(0, 2));
    house.start(Some(&kept));
    assert_eq!(house.told(), news(0, 2));
}

#[test]
fn rotations_while_it_was_down_lose_nothing() {
    let rename = |house: &House| fs::rename(&house.log, house.path("lp.log.0")).unwrap();
    let copy = |house: &House| {
        fs::copy(&house.log, house.path("lp.log.old")).unwrap();
        fs::write(&house.log, "").unwrap();
    };
    for (name, copied) in [("down-rename", false), ("down-copy", true)] {
        let mut house = House::new(name);
        append(&house.log, "");
        house.start(None);
        append(&house.log, snapshots(0, 20));
        house.told();
        let kept = house.it().memory();
        append(&house.log, snapshots(20, 5));
        if copied {
            copy(&house);
        } else {
            rename(&house);
        }
        append(&house.log, snapshots(25, 90));
        // Similar files.
        append(&house.path("lp.log.9"), snapshots(0, 3));
        append(&house.path("lp.logger"), snapshots(500, 90));
        house.start(Some(&kept));
        assert_eq!(house.told(), news(20, 95), "{name}");
    }
}

#[test]
fn a_restart_in_the_middle_of_two_files_goes_on_in_both() {
    let mut house = House::new("both");
    append(&house.log, "");
    house.start(None);
    append(&house.log, snapshots(0, 3));
    house.told();
    fs::rename(&house.log, house.path("lp.log.0")).unwrap();
    append(&house.log, snapshots(3, 3));
    assert_eq!(house.told(), news(3, 3));
    append(&house.path("lp.log.0"), snapshots(6, 1));
    append(&house.log, snapshots(7, 1));
    house.restart();
    assert_eq!(house.told(), news(6, 2));
}

#[test]
fn a_log_whose_file_is_gone_is_read_from_its_beginning() {
    let mut house = House::new("gone");
    append(&house.log, snapshots(0, 9));
    house.start(None);
    house.told();
    let kept = house.it().memory();
    fs::remove_file(&house.log).unwrap();
    append(&house.log, snapshots(100, 2));
    house.start(Some(&kept));
    assert_eq!(house.told(), news(100, 2));
}

#[test]
fn a_memory_that_cannot_be_read_is_a_first_start() {
    let mut house = House::new("damaged");
    append(&house.log, snapshots(0, 9));
    let wrong = house.start(Some(b"{\"version\": 99}")).unwrap();
    assert!(wrong.contains("version 99"), "{wrong}");
    assert!(house.told().is_empty());
    append(&house.log, snapshots(9, 1));
    assert_eq!(house.told(), news(9, 1));
}

#[test]
fn what_is_no_file_is_said_and_waited_for() {
    let mut house = House::new("no-file");
    fs::create_dir(&house.log).unwrap();
    house.start(None);
    assert!(house.told().is_empty());
    let status = house.it().status(SystemTime::now());
    let trouble = status["logs"][0]["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("not a regular file"), "{trouble}");
    fs::remove_dir(&house.log).unwrap();
    house.told();
    append(&house.log, snapshots(0, 1));
    assert_eq!(house.told(), news(0, 1));
    assert_eq!(house.it().status(SystemTime::now())["logs"][0]["trouble"], Value::Null);
    // Opening a FIFO would block.
    fs::remove_file(&house.log).unwrap();
    nix::unistd::mkfifo(&house.log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(house.told().is_empty());
}

#[test]
fn one_slice_is_read_in_a_turn() {
    let mut house = House::new("slices");
    append(&house.log, "");
    house.start(None);
    append(&house.log, snapshots(0, 1000));
    let now = house.now;
    let it = house.it();
    it.mark_all(now.instant);
    let (mut turns, mut events) = (1, 0);
    loop {
        let before = it.consumed();
        let in_turn = loop {
            match it.next(true, Budget::endless(), &mut Blind, now) {
                Next::Event(_) => events += 1,
                other => break other,
            }
        };
        assert!(it.consumed() - before <= 4096);
        match in_turn {
            Next::More => turns += 1,
            Next::Idle => break,
            other => panic!("{other:?}"),
        }
        it.begin_turn();
    }
    assert_eq!(events, 1000);
    assert!(turns >= snapshots(0, 1000).len() / 4096, "{turns}");
}

#[test]
fn spent_budget_leaves_rest_of_slice_for_next_turn() {
    let mut house = House::new("budget");
    append(&house.log, "");
    house.start(None);
    append(&house.log, "of no interest\n".repeat(20) + &snapshots(0, 1));
    let now = house.now;
    let it = house.it();
    it.mark_all(now.instant);
    let spent = Budget::of(Duration::ZERO);
    for line in 1..=20 {
        assert_eq!(it.next(true, spent, &mut Blind, now), Next::More);
        assert_eq!(it.consumed(), line * "of no interest\n".len() as u64);
        it.begin_turn();
    }
    assert!(matches!(it.next(true, spent, &mut Blind, now), Next::Event(_)));
}

#[test]
fn where_logs_may_not_be_read_nothing_is_lost() {
    let mut house = House::new("waiting");
    append(&house.log, "");
    house.start(None);
    append(&house.log, snapshots(0, 1));
    let now = house.now;
    let it = house.it();
    it.mark_all(now.instant);
    assert_eq!(it.next(false, Budget::endless(), &mut Blind, now), Next::Waiting);
    assert_eq!(it.next(false, Budget::endless(), &mut Blind, now), Next::Waiting);
    assert!(matches!(it.next(true, Budget::endless(), &mut Blind, now), Next::Event(_)));
    assert_eq!(it.next(true, Budget::endless(), &mut Blind, now), Next::More);
}

#[test]
fn a_replication_from_beginning_to_end() {
    let mut house = House::new("replication");
    append(&house.log, "");
    let file = house.path("lastrep-send-log");
    fs::write(&file, "total estimated size is 1M\n12:00:00   0.50M   tank@old\n").unwrap();
    house.start(None);
    house.now.wall += Duration::from_secs(60);
    let start = format!("now: Starting replication SYNC task on tank: {}\n", file.display());
    append(&house.log, &start);
    assert_eq!(house.told(), ["Starting replication for tank"], "what is old is not told");
    // `zfs send` empties the file.
    fs::write(
        &file,
        "full send of tank@a estimated size is 10.0M\ntotal estimated size is 10.0M\n",
    )
    .unwrap();
    assert!(house.told().is_empty());
    append(&file, "TIME        SENT   SNAPSHOT tank@a\n12:00:01   1.00M   tank@a");
    assert!(house.told().is_empty());
    append(&file, "\n");
    assert_eq!(house.told(), ["Replicating tank: 1.00M/10.0M (10%)"]);
    append(&file, "12:00:02   5.00M   tank@a\n");
    assert!(house.told().is_empty(), "at most one a second");
    append(&file, "12:00:03   9.99M   tank@a\n");
    house.pass(1);
    assert_eq!(house.told(), ["Replicating tank: 9.99M/10.0M (99.9%)"]);
    append(&file, "12:00:04   10.0M   tank@a\n");
    append(&house.log, "now: Finished replication task on tank -> backup\n");
    assert_eq!(house.told(), ["Finished replication for tank"]);
    house.pass(9);
    assert!(house.told().is_empty());
    // The next replication finds the old content, and truncates the same file.
    append(&house.log, &start);
    assert_eq!(house.told(), ["Starting replication for tank"]);
    fs::write(&file, "total estimated size is 20.0M\n12:00:01   1.00M   tank@b\n").unwrap();
    assert_eq!(house.told(), ["Replicating tank: 1.00M/20.0M (5%)"]);
}

#[test]
fn a_file_that_was_just_written_is_of_the_replication_that_begins() {
    let mut house = House::new("fresh");
    append(&house.log, "");
    house.start(None);
    let file = house.path("progress");
    append(&file, "total estimated size is 10.0M\n12:00:01   1.00M   tank@a\n");
    append(
        &house.log,
        format!("now: Starting replication SYNC task on tank: {}\n", file.display()),
    );
    house.now.wall = SystemTime::now();
    assert_eq!(
        house.told(),
        ["Starting replication for tank", "Replicating tank: 1.00M/10.0M (10%)"]
    );
}

#[test]
fn a_replication_goes_on_over_a_restart() {
    let mut house = House::new("replication-restart");
    append(&house.log, "");
    house.start(None);
    let file = house.path("progress");
    append(
        &house.log,
        format!("now: Starting replication SYNC task on tank: {}\n", file.display()),
    );
    house.told();
    house.restart();
    append(&file, "total estimated size is 10.0M\n12:00:01   1.00M   tank@a\n");
    // The turn began before the write.
    assert!(house.now.wall < SystemTime::now());
    assert_eq!(house.told(), ["Replicating tank: 1.00M/10.0M (10%)"]);
}

#[test]
fn of_files_with_progress_only_so_many_are_open() {
    let mut house = House::new("files");
    append(&house.log, "");
    house.start(None);
    for number in 0..20 {
        let file = house.path(&format!("progress-{number}"));
        append(&file, "12:00:01   1.00M   x@a\n");
        append(
            &house.log,
            format!("now: Starting replication SYNC task on tank/{number}: {}\n", file.display()),
        );
        house.told();
        assert!(house.it().files.len() <= 3, "{}", house.it().files.len());
    }
    assert_eq!(house.it().replications.iter().count(), 2);
}

#[test]
fn other_programs_have_their_rules() {
    let mut house = House::new("rules");
    house.rules.push(rules("sanoid"));
    append(&house.log, "");
    house.start(None);
    append(
        &house.log,
        snapshots(0, 1) + "INFO: taking snapshots...\ntaking snapshot tank/1@autosnap_x\n",
    );
    assert_eq!(house.told(), ["New snapshot of tank/0", "Taking snapshot of tank/1"]);
}

#[test]
fn another_configuration_keeps_what_is_followed() {
    let mut house = House::new("configure");
    append(&house.log, "");
    house.start(None);
    append(&house.log, snapshots(0, 1));
    let other = house.path("other.log");
    append(&other, snapshots(90, 1));
    let sources =
        vec![house.source(), Source { log: other.clone(), rules: vec![rules("lpreserver")] }];
    let (limits, now) = (house.limits, house.now.instant);
    house.it().configure(limits, sources, &mut Blind, now);
    append(&other, snapshots(1, 1));
    assert_eq!(house.told(), news(0, 2), "a new log is followed from its end");
    let sources = vec![Source { log: other.clone(), rules: vec![rules("lpreserver")] }];
    house.it().configure(limits, sources, &mut Blind, now);
    append(&house.log, snapshots(2, 1));
    append(&other, snapshots(3, 1));
    assert_eq!(house.told(), news(3, 1));
    house.it().configure(limits, vec![], &mut Blind, now);
    assert_eq!(house.it().due(), None, "nothing is waited for");
}

#[test]
fn it_says_what_was_last() {
    let mut house = House::new("status");
    append(&house.log, "");
    house.start(None);
    append(
        &house.log,
        "now: Creating snapshot on tank\nnow: Finished replication task on tank -> b\n\
         now: Creating snapshot on tank/a\nnow: Starting replication SYNC task on tank: /no/file\n",
    );
    house.told();
    house.restart();
    let status = house.it.as_ref().unwrap().status(house.now.wall + Duration::from_secs(90));
    assert_eq!(status["snapshot"]["message"], "now: New snapshot of tank/a");
    assert_eq!(status["snapshot"]["priority"], "1 - Information");
    let age = status["snapshot"]["age"].as_u64().unwrap();
    assert!((89..=91).contains(&age), "{age}");
    assert_eq!(status["replication"]["message"], "now: Starting replication for tank");
    assert_eq!(status["running"], json!([{ "dataset": "tank", "progress": null }]));
    assert_eq!(status["logs"][0]["log"], house.log.to_str().unwrap());
}

#[test]
fn blind_it_looks_often_and_else_seldom() {
    let mut house = House::new("due");
    house.start(None);
    let (start, poll) = (house.now.instant, house.limits.poll_interval);
    assert_eq!(house.it().due(), Some(start + poll));
    house.pass(5);
    house.told();
    let now = house.now.instant;
    assert_eq!(house.it().due(), Some(now + poll));
}

#[test]
fn truncated_log_is_polled_until_longer_than_before() {
    for reports_write_after_truncation in [false, true] {
        let mut house = House::new("truncated");
        let reactor = Reactor::new().unwrap();
        let mut kernel = Seeing { reactor, reports_write_after_truncation };
        append(&house.log, snapshots(0, 5));
        let (source, now, limits) = (house.source(), house.now, house.limits);
        let begun = LifePreserver::begin(limits, vec![source], None, &mut kernel, now);
        house.it = Some(begun.0);
        let log = house.log.clone();
        // Seconds until the next poll.
        let mut look = || {
            house.it().mark_all(now.instant);
            loop {
                match house.it().next(true, Budget::endless(), &mut kernel, now) {
                    Next::Event(_) => {}
                    Next::More => house.it().begin_turn(),
                    Next::Waiting => panic!("it may read"),
                    Next::Idle => break,
                }
            }
            house.it().begin_turn();
            house.it().due().unwrap().saturating_duration_since(now.instant).as_secs()
        };
        let after_truncation = if reports_write_after_truncation { 60 } else { 5 };
        assert_eq!(look(), 60);
        OpenOptions::new().write(true).truncate(true).open(&log).unwrap();
        assert_eq!(look(), after_truncation);
        // Another writer may still have its old offset.
        append(&log, snapshots(5, 4));
        assert_eq!(look(), after_truncation);
        append(&log, snapshots(9, 2));
        assert_eq!(look(), 60);
    }
}

#[test]
fn a_message_is_bounded() {
    assert_eq!(bounded("abc".into(), 10, false), "abc");
    assert_eq!(bounded("abc".into(), 10, true), "abc…");
    let long = bounded("é".repeat(1000), 10, false);
    assert!(long.len() <= 10 + 256 + '…'.len_utf8() && long.ends_with("é…"), "{}", long.len());
}

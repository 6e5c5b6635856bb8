//! The subsystem on real files, polled by hand.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::*;
use crate::config::Rules;
use crate::reactor::{Watch, Watches};
use crate::sys::may_block::MayBlock;

/// A kernel that reports all changes, optionally except the first write after a truncation.
struct Seeing {
    watches: Watches<FollowId>,
    reports_write_after_truncation: bool,
}

impl Watching for Seeing {
    fn file(&mut self, file: &File, id: FollowId, may_block: MayBlock) -> io::Result<Watch> {
        self.watches.file(file, id, may_block)
    }

    fn directory(
        &mut self,
        path: &Path,
        name: &OsStr,
        id: FollowId,
        may_block: MayBlock,
    ) -> io::Result<Watch> {
        self.watches.directory(path, name, id, may_block)
    }

    fn is_watched(&self, watch: &Watch) -> bool {
        self.watches.is_alive(watch)
    }

    fn unwatch(&mut self, watch: Watch) {
        self.watches.forget(watch);
    }

    fn reports_write_after_truncation(&self) -> bool {
        self.reports_write_after_truncation
    }
}

/// A kernel that reports nothing.
struct Blind;

impl Watching for Blind {
    fn file(&mut self, _: &File, _: FollowId, _: MayBlock) -> io::Result<Watch> {
        Err(io::Error::other("blind"))
    }

    fn directory(&mut self, _: &Path, _: &OsStr, _: FollowId, _: MayBlock) -> io::Result<Watch> {
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

struct Fixture {
    directory: PathBuf,
    log: PathBuf,
    limits: FollowLimits,
    rules: Vec<Arc<RuleSet>>,
    it: Option<LifePreserver>,
    now: Moment,
    kernel: Box<dyn Watching>,
    looks: Looks,
    /// Each question goes to a new worker.
    is_forgetful: bool,
}

impl Fixture {
    fn new(test: &str) -> Fixture {
        let name = format!("sysadm-events-life-{}-{test}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let limits = FollowLimits {
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
        Fixture {
            directory,
            log,
            limits,
            rules,
            it: None,
            now: Moment::now(),
            kernel: Box::new(Blind),
            looks: Looks::default(),
            is_forgetful: false,
        }
    }

    fn source(&self) -> Source {
        Source { log: self.log.clone(), rules: self.rules.clone() }
    }

    fn start(&mut self, persisted: Option<&[u8]>) -> Option<String> {
        let (it, wrong) =
            LifePreserver::begin(self.limits, vec![self.source()], persisted, self.now);
        self.it = Some(it);
        self.looks = Looks::default();
        self.find();
        wrong
    }

    fn restart(&mut self) {
        let persisted = self.it().memory();
        assert_eq!(self.start(Some(&persisted)), None);
    }

    fn it(&mut self) -> &mut LifePreserver {
        self.it.as_mut().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Has a question answered.
    fn ask(&mut self, id: FollowId, question: &[u8]) {
        if self.is_forgetful {
            self.looks = Looks::default();
        }
        let (now, may_block) = (self.now, MayBlock::before_loop());
        let answer = self.looks.answer(id, question, &mut *self.kernel, may_block, now.instant);
        self.it().on_answer(id, answer.concat(), now);
    }

    /// Has all files found that are still to be.
    fn find(&mut self) {
        let now = self.now;
        while let Some((id, _, question)) = self.it().next_to_find(now.instant) {
            self.ask(id, &question);
        }
    }

    /// The next item when all questions are answered at once.
    fn next(&mut self, may_read: bool, budget: Budget) -> Next {
        let now = self.now;
        loop {
            match self.it().next(may_read, budget, now) {
                Next::Ask(id, _, question) => self.ask(id, &question),
                Next::Release(id) => self.looks.release(id, &mut *self.kernel),
                other => return other,
            }
        }
    }

    /// All current messages, without their time stamps.
    fn messages(&mut self) -> Vec<String> {
        let now = self.now;
        self.it().mark_all(now.instant);
        let mut messages = Vec::new();
        loop {
            match self.next(true, Budget::endless()) {
                Next::Event(event) => {
                    messages.push(event.message.trim_start_matches("now: ").to_owned());
                }
                Next::More => self.it().begin_turn(),
                Next::Idle => {
                    self.it().begin_turn();
                    return messages;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
    }
}

impl Drop for Fixture {
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
    let mut fixture = Fixture::new("first");
    append(&fixture.log, snapshots(0, 50));
    fixture.start(None);
    assert!(fixture.messages().is_empty());
    append(&fixture.log, snapshots(50, 3));
    assert_eq!(fixture.messages(), news(50, 3));
    assert!(fixture.messages().is_empty());
}

#[test]
fn unterminated_line_at_first_start_is_reported_when_complete() {
    let mut fixture = Fixture::new("first-partial");
    append(&fixture.log, snapshots(0, 2) + "now: Creating snapsh");
    fixture.start(None);
    assert!(fixture.messages().is_empty());
    append(&fixture.log, "ot on tank/x\n");
    assert_eq!(fixture.messages(), ["New snapshot of tank/x"]);
}

#[test]
fn rest_of_an_overlong_line_at_first_start_is_ignored() {
    let mut fixture = Fixture::new("first-long");
    append(&fixture.log, "x".repeat(1000));
    fixture.start(None);
    append(&fixture.log, ": Creating snapshot on tank/no\nnow: Creating snapshot on tank/yes\n");
    assert_eq!(fixture.messages(), ["New snapshot of tank/yes"]);
}

#[test]
fn log_in_a_later_directory_is_read_from_its_beginning() {
    let mut fixture = Fixture::new("later");
    fixture.log = fixture.path("a/b/lp.log");
    fixture.start(None);
    assert!(fixture.messages().is_empty());
    fs::create_dir_all(fixture.path("a/b")).unwrap();
    assert!(fixture.messages().is_empty());
    append(&fixture.log, snapshots(0, 2));
    assert_eq!(fixture.messages(), news(0, 2));
}

#[test]
fn half_a_line_is_waited_for() {
    let mut fixture = Fixture::new("half");
    append(&fixture.log, "");
    fixture.start(None);
    for piece in ["now: Crea", "ting snapshot o", "n tank/0\r", "\nnow: "] {
        assert!(fixture.messages().is_empty(), "{piece:?}");
        append(&fixture.log, piece);
    }
    assert_eq!(fixture.messages(), news(0, 1));
    append(&fixture.log, "Creating snapshot on tank/1\n");
    assert_eq!(fixture.messages(), news(1, 1));
}

#[test]
fn unterminated_line_is_cut_and_later_lines_are_read() {
    let mut fixture = Fixture::new("endless");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, format!("now: ERROR: snapshot {}", "y".repeat(9000)));
    let messages = fixture.messages();
    assert_eq!(messages.len(), 1);
    assert!(
        messages[0].starts_with("ERROR: snapshot yyy") && messages[0].ends_with("y…"),
        "{messages:?}"
    );
    assert!(messages[0].len() < 220, "{}", messages[0].len());
    append(&fixture.log, "z".repeat(9000) + "\n" + &snapshots(0, 1));
    assert_eq!(fixture.messages(), news(0, 1));
    // Also over a restart in the middle of the line.
    append(&fixture.log, "y".repeat(9000));
    fixture.messages();
    fixture.restart();
    append(&fixture.log, format!("now: {}{}", snapshots(5, 1), snapshots(6, 1)));
    assert_eq!(fixture.messages(), news(6, 1));
}

#[test]
fn a_log_that_is_renamed_away_is_read_to_its_end_first() {
    let mut fixture = Fixture::new("rename");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 3));
    fs::rename(&fixture.log, fixture.path("lp.log.0")).unwrap();
    assert_eq!(fixture.messages(), news(0, 3));
    append(&fixture.path("lp.log.0"), snapshots(3, 1));
    assert_eq!(fixture.messages(), news(3, 1), "who has it open goes on writing to it");
    append(&fixture.path("lp.log.0"), snapshots(4, 1));
    append(&fixture.log, snapshots(5, 2));
    assert_eq!(fixture.messages(), news(4, 3));
    append(&fixture.path("lp.log.0"), snapshots(7, 1));
    assert_eq!(fixture.messages(), news(7, 1), "and does so for a while");
    append(&fixture.path("lp.log.0"), snapshots(8, 1));
    fixture.pass(11);
    assert_eq!(fixture.messages(), news(8, 1), "it is looked at once more before it is let go");
    fixture.pass(11);
    fixture.messages();
    append(&fixture.path("lp.log.0"), snapshots(9, 1));
    append(&fixture.log, snapshots(10, 1));
    assert_eq!(fixture.messages(), news(10, 1));
}

/// Each question goes to a worker that has nothing open, as after one that hung.
fn with_new_workers(test: &str) -> Fixture {
    let mut fixture = Fixture::new(test);
    fixture.is_forgetful = true;
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 30));
    assert_eq!(fixture.messages(), news(0, 30));
    fixture
}

#[test]
fn new_worker_reads_renamed_log_to_its_end() {
    let mut fixture = with_new_workers("worker-rename");
    append(&fixture.log, snapshots(30, 2));
    fs::rename(&fixture.log, fixture.path("lp.log.0")).unwrap();
    assert_eq!(fixture.messages(), news(30, 2));
    append(&fixture.path("lp.log.0"), snapshots(32, 1));
    append(&fixture.log, snapshots(33, 200));
    assert_eq!(fixture.messages(), news(32, 201));
}

#[test]
fn new_worker_reads_copied_and_emptied_log_to_its_end() {
    let mut fixture = with_new_workers("worker-copy");
    append(&fixture.log, snapshots(30, 3));
    fs::copy(&fixture.log, fixture.path("lp.log.old")).unwrap();
    fs::write(&fixture.log, snapshots(33, 40)).unwrap();
    assert_eq!(fixture.messages(), news(30, 43));
    append(&fixture.log, snapshots(73, 1));
    assert_eq!(fixture.messages(), news(73, 1));
}

#[test]
fn new_worker_repeats_nothing_after_rollback() {
    let mut fixture = with_new_workers("worker-rollback");
    fs::write(&fixture.log, snapshots(0, 20)).unwrap();
    assert!(fixture.messages().is_empty());
    append(&fixture.log, snapshots(20, 1));
    assert_eq!(fixture.messages(), news(20, 1));
}

#[test]
fn new_worker_reads_progress_from_where_the_last_was() {
    let mut fixture = with_new_workers("worker-progress");
    let file = fixture.path("progress");
    append(&file, "total estimated size is 10.0M\n12:00:01   1.00M   tank@a\n");
    let start = format!("now: Starting replication SYNC task on tank: {}\n", file.display());
    append(&fixture.log, &start);
    fixture.now.wall = SystemTime::now();
    let first = ["Starting replication for tank", "Replicating tank: 1.00M/10.0M (10%)"];
    assert_eq!(fixture.messages(), first);
    append(&file, "12:00:02   5.00M   tank@a\n");
    fixture.pass(1);
    assert_eq!(fixture.messages(), ["Replicating tank: 5.00M/10.0M (50%)"]);
    // The same file, emptied and written anew.
    fs::write(&file, "total estimated size is 20.0M\n12:00:03   2.00M   tank@b\n").unwrap();
    fixture.pass(1);
    assert_eq!(fixture.messages(), ["Replicating tank: 2.00M/20.0M (10%)"]);
}

#[test]
fn log_that_hangs_is_read_on_where_it_was_once_it_answers() {
    let mut fixture = Fixture::new("hangs");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 3));
    fixture.messages();
    append(&fixture.log, snapshots(3, 3));
    let now = fixture.now;
    fixture.it().mark_all(now.instant);
    let Next::Ask(id, path, question) = fixture.it().next(true, Budget::endless(), now) else {
        panic!("nothing is asked")
    };
    assert_eq!(path, fixture.log);
    fixture.it().on_hanging(id, now.wall);
    let status = fixture.it().status(now.wall);
    assert_eq!(status["logs"][0]["hanging"], rfc3339(now.wall));
    let before = fixture.it().memory();
    // It is not asked again.
    assert!(fixture.messages().is_empty());
    append(&fixture.log, snapshots(6, 3));
    fixture.ask(id, &question);
    assert_eq!(fixture.messages(), news(3, 6));
    assert_eq!(fixture.it().status(now.wall)["logs"][0]["hanging"], Value::Null);
    // A daemon that starts meanwhile reads on at the same place.
    fixture.start(Some(&before));
    assert_eq!(fixture.messages(), news(3, 6));
}

#[test]
fn log_that_hangs_at_start_keeps_its_position() {
    let mut fixture = Fixture::new("hangs-at-start");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 3));
    fixture.messages();
    let persisted = fixture.it().memory();
    let (source, now) = (fixture.source(), fixture.now);
    let begun = LifePreserver::begin(fixture.limits, vec![source], Some(&persisted), now);
    fixture.it = Some(begun.0);
    let (id, _, question) = fixture.it().next_to_find(now.instant).unwrap();
    assert!(fixture.it().is_finding());
    fixture.it().on_hanging(id, now.wall);
    assert!(!fixture.it().is_finding(), "no search is pending");
    assert!(fixture.messages().is_empty());
    assert_eq!(fixture.it().memory(), persisted);
    append(&fixture.log, snapshots(3, 1));
    fixture.ask(id, &question);
    assert_eq!(fixture.messages(), news(3, 1));
}

#[test]
fn quiet_log_is_still_read_after_it_was_renamed() {
    let mut fixture = Fixture::new("rename-quiet");
    append(&fixture.log, "");
    fixture.start(None);
    fixture.messages();
    fixture.pass(3600);
    fs::rename(&fixture.log, fixture.path("lp.log.0")).unwrap();
    append(&fixture.log, snapshots(0, 1));
    assert_eq!(fixture.messages(), news(0, 1));
    append(&fixture.path("lp.log.0"), snapshots(1, 1));
    assert_eq!(fixture.messages(), news(1, 1));
}

#[test]
fn a_log_that_is_copied_and_emptied_loses_nothing() {
    // As `backend/runsnap.sh` of Life Preserver does it: cp log log.old; echo … > log
    let mut fixture = Fixture::new("copy");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 10));
    assert_eq!(fixture.messages(), news(0, 10));
    // Written, and removed before it is read.
    append(&fixture.log, snapshots(10, 3));
    fs::copy(&fixture.log, fixture.path("lp.log.old")).unwrap();
    fs::write(&fixture.log, "later: Rotate Logfile\n").unwrap();
    append(&fixture.log, snapshots(13, 1));
    assert_eq!(fixture.messages(), news(10, 4));
    append(&fixture.log, snapshots(14, 1));
    assert_eq!(fixture.messages(), news(14, 1));
}

#[test]
fn truncated_log_that_grew_past_its_old_end_is_detected() {
    let mut fixture = Fixture::new("regrown");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 20));
    assert_eq!(fixture.messages(), news(0, 20));
    for round in 1..4 {
        fs::write(&fixture.log, "").unwrap();
        append(&fixture.log, snapshots(100 * round, 50));
        assert_eq!(fixture.messages(), news(100 * round, 50));
    }
    // Of exactly the same length.
    fs::write(&fixture.log, snapshots(700, 50)).unwrap();
    assert_eq!(fixture.messages(), news(700, 50));
}

#[test]
fn another_file_under_the_name_is_read_from_its_beginning() {
    let mut fixture = Fixture::new("replaced");
    append(&fixture.log, snapshots(0, 5));
    fixture.start(None);
    append(&fixture.path("new"), snapshots(10, 5));
    append(&fixture.log, snapshots(5, 1));
    fs::rename(fixture.path("new"), &fixture.log).unwrap();
    assert_eq!(fixture.messages(), [news(5, 1), news(10, 5)].concat());
    fs::remove_file(&fixture.log).unwrap();
    assert!(fixture.messages().is_empty());
    append(&fixture.log, snapshots(20, 1));
    assert_eq!(fixture.messages(), news(20, 1));
}

#[test]
fn a_rollback_of_the_file_system_repeats_nothing() {
    let mut fixture = Fixture::new("rollback");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 30));
    fixture.messages();
    fs::write(&fixture.log, snapshots(0, 20)).unwrap();
    assert!(fixture.messages().is_empty());
    append(&fixture.log, snapshots(20, 1));
    assert_eq!(fixture.messages(), news(20, 1));
}

#[test]
fn lines_written_while_down_are_reported() {
    let mut fixture = Fixture::new("down");
    append(&fixture.log, snapshots(0, 5));
    fixture.start(None);
    append(&fixture.log, snapshots(5, 1));
    assert_eq!(fixture.messages(), news(5, 1));
    let persisted = fixture.it().memory();
    append(&fixture.log, snapshots(6, 4));
    fixture.start(Some(&persisted));
    assert_eq!(fixture.messages(), news(6, 4));
    // Also where the log did not exist before.
    let mut fixture = Fixture::new("down-absent");
    fixture.start(None);
    let persisted = fixture.it().memory();
    append(&fixture.log, snapshots(0, 2));
    fixture.start(Some(&persisted));
    assert_eq!(fixture.messages(), news(0, 2));
}

#[test]
fn rotations_while_down_lose_no_line() {
    let rename = |fixture: &Fixture| fs::rename(&fixture.log, fixture.path("lp.log.0")).unwrap();
    let copy = |fixture: &Fixture| {
        fs::copy(&fixture.log, fixture.path("lp.log.old")).unwrap();
        fs::write(&fixture.log, "").unwrap();
    };
    for (name, copied) in [("down-rename", false), ("down-copy", true)] {
        let mut fixture = Fixture::new(name);
        append(&fixture.log, "");
        fixture.start(None);
        append(&fixture.log, snapshots(0, 20));
        fixture.messages();
        let persisted = fixture.it().memory();
        append(&fixture.log, snapshots(20, 5));
        if copied {
            copy(&fixture);
        } else {
            rename(&fixture);
        }
        append(&fixture.log, snapshots(25, 90));
        // Similar files.
        append(&fixture.path("lp.log.9"), snapshots(0, 3));
        append(&fixture.path("lp.logger"), snapshots(500, 90));
        fixture.start(Some(&persisted));
        assert_eq!(fixture.messages(), news(20, 95), "{name}");
    }
}

#[test]
fn restart_between_two_generations_continues_both() {
    let mut fixture = Fixture::new("both");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 3));
    fixture.messages();
    fs::rename(&fixture.log, fixture.path("lp.log.0")).unwrap();
    append(&fixture.log, snapshots(3, 3));
    assert_eq!(fixture.messages(), news(3, 3));
    append(&fixture.path("lp.log.0"), snapshots(6, 1));
    append(&fixture.log, snapshots(7, 1));
    fixture.restart();
    assert_eq!(fixture.messages(), news(6, 2));
}

#[test]
fn log_after_loss_of_its_file_is_read_from_its_beginning() {
    let mut fixture = Fixture::new("gone");
    append(&fixture.log, snapshots(0, 9));
    fixture.start(None);
    fixture.messages();
    let persisted = fixture.it().memory();
    fs::remove_file(&fixture.log).unwrap();
    append(&fixture.log, snapshots(100, 2));
    fixture.start(Some(&persisted));
    assert_eq!(fixture.messages(), news(100, 2));
}

#[test]
fn a_memory_that_cannot_be_read_is_a_first_start() {
    let mut fixture = Fixture::new("damaged");
    append(&fixture.log, snapshots(0, 9));
    let wrong = fixture.start(Some(b"{\"version\": 99}")).unwrap();
    assert!(wrong.contains("version 99"), "{wrong}");
    assert!(fixture.messages().is_empty());
    append(&fixture.log, snapshots(9, 1));
    assert_eq!(fixture.messages(), news(9, 1));
}

#[test]
fn path_that_is_not_a_file_is_reported_and_polled() {
    let mut fixture = Fixture::new("no-file");
    fs::create_dir(&fixture.log).unwrap();
    fixture.start(None);
    assert!(fixture.messages().is_empty());
    let status = fixture.it().status(SystemTime::now());
    let last_error = status["logs"][0]["trouble"].as_str().unwrap().to_owned();
    assert!(last_error.contains("not a regular file"), "{last_error}");
    fs::remove_dir(&fixture.log).unwrap();
    fixture.messages();
    append(&fixture.log, snapshots(0, 1));
    assert_eq!(fixture.messages(), news(0, 1));
    assert_eq!(fixture.it().status(SystemTime::now())["logs"][0]["trouble"], Value::Null);
    // Opening a FIFO would block.
    fs::remove_file(&fixture.log).unwrap();
    nix::unistd::mkfifo(&fixture.log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(fixture.messages().is_empty());
}

#[test]
fn one_slice_is_read_in_a_turn() {
    let mut fixture = Fixture::new("slices");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 1000));
    let now = fixture.now;
    fixture.it().mark_all(now.instant);
    let (mut turns, mut events) = (1, 0);
    loop {
        let before = fixture.it().consumed();
        let in_turn = loop {
            match fixture.next(true, Budget::endless()) {
                Next::Event(_) => events += 1,
                other => break other,
            }
        };
        assert!(fixture.it().consumed() - before <= 4096);
        match in_turn {
            Next::More => turns += 1,
            Next::Idle => break,
            other => panic!("{other:?}"),
        }
        fixture.it().begin_turn();
    }
    assert_eq!(events, 1000);
    assert!(turns >= snapshots(0, 1000).len() / 4096, "{turns}");
}

#[test]
fn spent_budget_leaves_rest_of_slice_for_next_turn() {
    let mut fixture = Fixture::new("budget");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, "of no interest\n".repeat(20) + &snapshots(0, 1));
    let now = fixture.now;
    fixture.it().mark_all(now.instant);
    let spent = Budget::of(Duration::ZERO);
    for line in 1..=20 {
        assert_eq!(fixture.next(true, spent), Next::More);
        assert_eq!(fixture.it().consumed(), line * "of no interest\n".len() as u64);
        fixture.it().begin_turn();
    }
    assert!(matches!(fixture.next(true, spent), Next::Event(_)));
}

#[test]
fn paused_logs_lose_no_line() {
    let mut fixture = Fixture::new("waiting");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 1));
    let now = fixture.now;
    fixture.it().mark_all(now.instant);
    assert_eq!(fixture.next(false, Budget::endless()), Next::Waiting);
    assert_eq!(fixture.next(false, Budget::endless()), Next::Waiting);
    assert!(matches!(fixture.next(true, Budget::endless()), Next::Event(_)));
    assert_eq!(fixture.next(true, Budget::endless()), Next::More);
}

#[test]
fn a_replication_from_beginning_to_end() {
    let mut fixture = Fixture::new("replication");
    append(&fixture.log, "");
    let file = fixture.path("lastrep-send-log");
    fs::write(&file, "total estimated size is 1M\n12:00:00   0.50M   tank@old\n").unwrap();
    fixture.start(None);
    fixture.now.wall += Duration::from_secs(60);
    let start = format!("now: Starting replication SYNC task on tank: {}\n", file.display());
    append(&fixture.log, &start);
    assert_eq!(fixture.messages(), ["Starting replication for tank"], "old lines are not reported");
    // `zfs send` empties the file.
    fs::write(
        &file,
        "full send of tank@a estimated size is 10.0M\ntotal estimated size is 10.0M\n",
    )
    .unwrap();
    assert!(fixture.messages().is_empty());
    append(&file, "TIME        SENT   SNAPSHOT tank@a\n12:00:01   1.00M   tank@a");
    assert!(fixture.messages().is_empty());
    append(&file, "\n");
    assert_eq!(fixture.messages(), ["Replicating tank: 1.00M/10.0M (10%)"]);
    append(&file, "12:00:02   5.00M   tank@a\n");
    assert!(fixture.messages().is_empty(), "at most one a second");
    append(&file, "12:00:03   9.99M   tank@a\n");
    fixture.pass(1);
    assert_eq!(fixture.messages(), ["Replicating tank: 9.99M/10.0M (99.9%)"]);
    append(&file, "12:00:04   10.0M   tank@a\n");
    append(&fixture.log, "now: Finished replication task on tank -> backup\n");
    assert_eq!(fixture.messages(), ["Finished replication for tank"]);
    fixture.pass(9);
    assert!(fixture.messages().is_empty());
    // The next replication finds the old content, and truncates the same file.
    append(&fixture.log, &start);
    assert_eq!(fixture.messages(), ["Starting replication for tank"]);
    fs::write(&file, "total estimated size is 20.0M\n12:00:01   1.00M   tank@b\n").unwrap();
    assert_eq!(fixture.messages(), ["Replicating tank: 1.00M/20.0M (5%)"]);
}

#[test]
fn fresh_progress_file_belongs_to_the_new_replication() {
    let mut fixture = Fixture::new("fresh");
    append(&fixture.log, "");
    fixture.start(None);
    let file = fixture.path("progress");
    append(&file, "total estimated size is 10.0M\n12:00:01   1.00M   tank@a\n");
    append(
        &fixture.log,
        format!("now: Starting replication SYNC task on tank: {}\n", file.display()),
    );
    fixture.now.wall = SystemTime::now();
    assert_eq!(
        fixture.messages(),
        ["Starting replication for tank", "Replicating tank: 1.00M/10.0M (10%)"]
    );
}

#[test]
fn replication_continues_after_a_restart() {
    let mut fixture = Fixture::new("replication-restart");
    append(&fixture.log, "");
    fixture.start(None);
    let file = fixture.path("progress");
    append(
        &fixture.log,
        format!("now: Starting replication SYNC task on tank: {}\n", file.display()),
    );
    fixture.messages();
    fixture.restart();
    append(&file, "total estimated size is 10.0M\n12:00:01   1.00M   tank@a\n");
    // The turn began before the write.
    assert!(fixture.now.wall < SystemTime::now());
    assert_eq!(fixture.messages(), ["Replicating tank: 1.00M/10.0M (10%)"]);
}

#[test]
fn of_files_with_progress_only_so_many_are_open() {
    let mut fixture = Fixture::new("files");
    append(&fixture.log, "");
    fixture.start(None);
    for number in 0..20 {
        let file = fixture.path(&format!("progress-{number}"));
        append(&file, "12:00:01   1.00M   x@a\n");
        append(
            &fixture.log,
            format!("now: Starting replication SYNC task on tank/{number}: {}\n", file.display()),
        );
        fixture.messages();
        assert!(fixture.it().files.len() <= 3, "{}", fixture.it().files.len());
    }
    assert_eq!(fixture.it().replications.iter().count(), 2);
}

#[test]
fn other_programs_have_their_rules() {
    let mut fixture = Fixture::new("rules");
    fixture.rules.push(rules("sanoid"));
    append(&fixture.log, "");
    fixture.start(None);
    append(
        &fixture.log,
        snapshots(0, 1) + "INFO: taking snapshots...\ntaking snapshot tank/1@autosnap_x\n",
    );
    assert_eq!(fixture.messages(), ["New snapshot of tank/0", "Taking snapshot of tank/1"]);
}

#[test]
fn reconfiguration_keeps_followed_logs() {
    let mut fixture = Fixture::new("configure");
    append(&fixture.log, "");
    fixture.start(None);
    append(&fixture.log, snapshots(0, 1));
    let other = fixture.path("other.log");
    append(&other, snapshots(90, 1));
    let sources =
        vec![fixture.source(), Source { log: other.clone(), rules: vec![rules("lpreserver")] }];
    let limits = fixture.limits;
    fixture.it().configure(limits, sources);
    fixture.find();
    append(&other, snapshots(1, 1));
    assert_eq!(fixture.messages(), news(0, 2), "a new log is followed from its end");
    let sources = vec![Source { log: other.clone(), rules: vec![rules("lpreserver")] }];
    fixture.it().configure(limits, sources);
    append(&fixture.log, snapshots(2, 1));
    append(&other, snapshots(3, 1));
    assert_eq!(fixture.messages(), news(3, 1));
    fixture.it().configure(limits, vec![]);
    assert_eq!(fixture.it().due(), None, "nothing is waited for");
}

#[test]
fn status_has_the_last_events() {
    let mut fixture = Fixture::new("status");
    append(&fixture.log, "");
    fixture.start(None);
    append(
        &fixture.log,
        "now: Creating snapshot on tank\nnow: Finished replication task on tank -> b\n\
         now: Creating snapshot on tank/a\nnow: Starting replication SYNC task on tank: /no/file\n",
    );
    fixture.messages();
    fixture.restart();
    let status = fixture.it.as_ref().unwrap().status(fixture.now.wall + Duration::from_secs(90));
    assert_eq!(status["snapshot"]["message"], "now: New snapshot of tank/a");
    assert_eq!(status["snapshot"]["priority"], "1 - Information");
    let age = status["snapshot"]["age"].as_u64().unwrap();
    assert!((89..=91).contains(&age), "{age}");
    assert_eq!(status["replication"]["message"], "now: Starting replication for tank");
    assert_eq!(status["running"], json!([{ "dataset": "tank", "progress": null }]));
    assert_eq!(status["logs"][0]["log"], fixture.log.to_str().unwrap());
}

#[test]
fn unwatched_log_is_polled_often_and_others_rarely() {
    let mut fixture = Fixture::new("due");
    fixture.start(None);
    let (start, poll) = (fixture.now.instant, fixture.limits.poll_interval);
    assert_eq!(fixture.it().due(), Some(start + poll));
    fixture.pass(5);
    fixture.messages();
    let now = fixture.now.instant;
    assert_eq!(fixture.it().due(), Some(now + poll));
}

#[test]
fn truncated_log_is_polled_until_longer_than_before() {
    for reports_write_after_truncation in [false, true] {
        let mut fixture = Fixture::new("truncated");
        let watches = Watches::new().unwrap();
        fixture.kernel = Box::new(Seeing { watches, reports_write_after_truncation });
        append(&fixture.log, snapshots(0, 5));
        fixture.start(None);
        let log = fixture.log.clone();
        // Seconds until the next poll.
        let mut look = || {
            fixture.messages();
            let now = fixture.now.instant;
            fixture.it().due().unwrap().saturating_duration_since(now).as_secs()
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

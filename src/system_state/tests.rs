//! Checks driven by hand, with made-up time and output of real `zpool` commands.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::captures::{self, Capture};
use super::*;
use crate::wire::{Priority, Published, Spelling};

/// A host with a system state, a clock, and the effects so far.
struct Host {
    state: SystemState,
    start: Instant,
    elapsed: Duration,
    hostname: String,
    zfs: bool,
    /// Effects since they were last taken, without looks.
    effects: Vec<Effect>,
}

fn limits() -> SystemStateLimits {
    SystemStateLimits {
        interval: Duration::from_secs(60),
        report_interval: Duration::from_secs(900),
        zpool_deadline: Duration::from_secs(10),
        zpool_output: 64 * 1024,
        capacity_warning: 90,
        event_delay: Duration::from_millis(200),
        event_pause: Duration::from_secs(30),
        max_event: 256 * 1024,
    }
}

const LIST: &str = "list -H -o name,size,allocated,free,checkpoint,expandsize,fragmentation,\
                    capacity,dedupratio,health,altroot";
const STATUS: &str = "status";
const BRIEF: &str = "status -x";
const HEALTHY: &str = "all pools are healthy\n";
const DAMAGED: &str = "  pool: tank\n state: ONLINE\nstatus: One or more devices has experienced an \
                       unrecoverable error.\n";

/// A line of `zpool list` of OpenZFS.
fn line(name: &str, health: &str, capacity: &str) -> String {
    format!("{name}\t112M\t20.2M\t91.8M\t-\t-\t23%\t{capacity}\t1.00x\t{health}\t-\n")
}

impl Host {
    fn with(limits: SystemStateLimits) -> Host {
        Host {
            state: SystemState::new(limits, "nas"),
            start: Instant::now(),
            elapsed: Duration::ZERO,
            hostname: "nas".to_owned(),
            zfs: true,
            effects: Vec::new(),
        }
    }

    /// A host whose first check runs `zpool list`.
    fn new() -> Host {
        let mut host = Host::with(limits());
        host.state.begin(host.now());
        assert_eq!(host.asked(), [LIST]);
        host
    }

    /// A host after its first check: its only pool is ONLINE.
    fn with_pool() -> Host {
        let mut host = Host::new();
        host.answers(&line("tank", "ONLINE", "12%"));
        assert_eq!(host.asked(), [STATUS]);
        host.answers(HEALTHY);
        assert_eq!(host.reported().len(), 1);
        host
    }

    fn now(&self) -> Moment {
        let wall: SystemTime = UNIX_EPOCH + Duration::from_secs(1_795_456_247) + self.elapsed;
        Moment { instant: self.start + self.elapsed, wall }
    }

    /// Advances time; each deadline is served on time.
    fn pass(&mut self, time: Duration) {
        let end = self.elapsed + time;
        self.settle();
        while let Some(due) = self.state.due().filter(|due| *due <= self.start + end) {
            self.elapsed = self.elapsed.max(due - self.start);
            self.state.on_deadline(self.now());
            self.settle();
        }
        self.elapsed = end;
    }

    fn settle(&mut self) {
        while let Some(effect) = self.state.next_effect() {
            match effect {
                Effect::Look => self.state.looked(self.hostname.clone(), self.zfs, self.now()),
                effect => self.effects.push(effect),
            }
        }
    }

    fn take<T>(&mut self, wanted: impl Fn(&Effect) -> Option<T>) -> Vec<T> {
        self.settle();
        let mut taken = Vec::new();
        self.effects.retain(|effect| {
            let found = wanted(effect);
            let keep = found.is_none();
            taken.extend(found);
            keep
        });
        taken
    }

    /// Commands since the last call.
    fn asked(&mut self) -> Vec<String> {
        self.take(|effect| match effect {
            Effect::Ask(arguments) => Some(arguments.join(" ")),
            Effect::AskLabel(arguments) => Some(format!("zdb {}", arguments.join(" "))),
            _ => None,
        })
    }

    /// The `args` of events since the last call, as sent.
    fn reported(&mut self) -> Vec<Value> {
        self.take(|effect| match effect {
            Effect::Publish(event) => {
                let published = Published::new(event.clone(), 1, "e".into(), "".into(), 256 * 1024);
                let frame = published.frame(Spelling::default());
                let mut frame: Value = serde_json::from_slice(&frame).unwrap();
                Some(frame["args"].take())
            }
            _ => None,
        })
    }

    fn reported_once(&mut self) -> Value {
        let reported = self.reported();
        assert_eq!(reported.len(), 1, "{reported:#?}");
        reported.into_iter().next().unwrap()
    }

    fn reported_once_after_status(&mut self) -> Value {
        if self.asked().last().is_some_and(|asked| asked == STATUS) {
            self.answers(HEALTHY);
        }
        self.reported_once()
    }

    fn said(&mut self) -> Vec<String> {
        self.take(|effect| match effect {
            Effect::Say(_, text) => Some(text.clone()),
            _ => None,
        })
    }

    fn was_killed(&mut self) -> bool {
        !self.take(|effect| matches!(effect, Effect::Kill).then_some(())).is_empty()
    }

    /// Whether a feed is looked for, and if so whether `zpool events` may be one.
    fn attaches(&mut self) -> Option<bool> {
        let found = self.take(|effect| match effect {
            Effect::Attach { events } => Some(events.as_ref().is_some_and(|arguments| {
                assert_eq!(arguments.join(" "), "events -H -f");
                true
            })),
            _ => None,
        });
        assert!(found.len() < 2);
        found.first().copied()
    }

    fn ends(&mut self, out: &str, errors: &str, exit: Exit) {
        self.state.printed(out.as_bytes());
        self.state.complained(errors.as_bytes());
        self.state.ended(exit, None, self.now());
        self.settle();
    }

    fn follower_ends(&mut self, exit: Exit, errors: &str) {
        let mut complaint = Complaint::default();
        complaint.push(errors.as_bytes());
        self.state.follower_ended(exit, &complaint, None);
    }

    fn answers(&mut self, out: &str) {
        self.ends(out, "", Exit::Code(0));
    }

    /// Replays a captured command.
    fn replays(&mut self, capture: &Capture) {
        match capture.exit {
            Some(exit) => self.ends(capture.out, capture.errors, exit),
            None => self.pass(limits().zpool_deadline),
        }
    }

    /// A whole check with this list and this status.
    fn checks(&mut self, list: &str, status: &str) {
        assert_eq!(self.asked(), [LIST]);
        self.answers(list);
        if self.asked() == [STATUS] {
            self.answers(status);
        }
    }
}

fn health(args: &Value, pool: &str) -> (String, String, String) {
    let text = |key: &str| args["zpools"][pool][key].as_str().unwrap_or("?").to_owned();
    (text("health"), text("capacity"), text("priority"))
}

/// The result of a check of the captured outputs of a state: one line per pool.
fn made_of(file: &'static str, state: &str) -> String {
    let captures = captures::read(file);
    let find = |command: &str| {
        let found = captures.iter().find(|c| c.state == state && c.command.starts_with(command));
        found.unwrap_or_else(|| panic!("{command} of {state}"))
    };
    let mut host = Host::new();
    host.replays(find("zpool list -H"));
    if host.asked() == [STATUS] {
        host.replays(find("zpool status"));
    }
    let args = host.reported_once();
    let mut made = format!("{}\n", args["priority"].as_str().unwrap());
    if let Some(error) = args["zpool_error"].as_str() {
        made.push_str(&format!("error {error}\n"));
    }
    match args["zpools"].as_object() {
        None => made.push_str("no ZFS\n"),
        Some(pools) if pools.is_empty() => made.push_str("no pools\n"),
        Some(pools) => {
            for (name, pool) in pools {
                let keys = ["size", "alloc", "free", "frag", "expandsz", "dedup", "altroot"];
                let more = keys.map(|key| pool[key].as_str().unwrap()).join(" ");
                let ckpoint = pool["ckpoint"].as_str().unwrap();
                let (health, capacity, priority) = health(&args, name);
                made.push_str(&format!(
                    "{name}| {health} {capacity} {} | {more} {ckpoint}",
                    priority.split(' ').next().unwrap()
                ));
                if let Some(status) = pool.get("status") {
                    let status: String = status.as_str().unwrap().chars().take(50).collect();
                    made.push_str(&format!(" | {}", status.trim_end()));
                }
                if let Some(errors) = pool.get("errors") {
                    made.push_str(&format!(" | {}", errors.as_str().unwrap()));
                }
                let words = |object: &Value, keys: &[&str]| {
                    let words = keys.iter().filter_map(|key| object[*key].as_str());
                    words.collect::<Vec<_>>().join(" ")
                };
                if let Some(scan) = pool.get("scan") {
                    let keys = ["function", "state", "done", "repaired", "errors"];
                    made.push_str(&format!(" | {}", words(scan, &keys)));
                }
                for device in pool["devices"].as_array().into_iter().flatten() {
                    let keys = ["class", "name", "state", "read", "write", "cksum", "note"];
                    made.push_str(&format!("\n  {}", words(device, &keys)));
                }
                made.push('\n');
            }
        }
    }
    made
}

/// The expected result of each captured state, determined by a person.
const MEANING: &str = include_str!("../../tests/zfs/meaning.txt");

#[test]
fn captured_states_have_the_expected_results() {
    let mut judged = 0_usize;
    for section in MEANING.split("\n== ").skip(1) {
        let (head, expected) = section.split_once('\n').unwrap();
        let (version, state) = head.split_once(' ').unwrap();
        let file = match version {
            "openzfs-2.3.9" => captures::OPENZFS_2_3,
            "openzfs-2.1.11" => captures::OPENZFS_2_1,
            other => panic!("{other}"),
        };
        assert_eq!(made_of(file, state).trim_end(), expected.trim_end(), "{head}");
        judged += 1;
    }
    let is_list = |c: &Capture| c.command.contains("list -H") || c.command.contains("status -x");
    let captured = [captures::OPENZFS_2_3, captures::OPENZFS_2_1].map(|file| {
        let mut states: Vec<&str> =
            captures::read(file).iter().filter(|c| is_list(c)).map(|c| c.state).collect();
        states.dedup();
        states.len()
    });
    assert_eq!(judged, captured.iter().sum::<usize>(), "a state has no meaning");
}

#[test]
fn an_event_has_the_documented_keys() {
    let mut host = Host::new();
    host.answers(&line("tank", "ONLINE", "12%"));
    host.answers(HEALTHY);
    assert_eq!(
        host.reported_once(),
        json!({"hostname": "nas", "priority": "0 - Information", "zpools": {"tank": {
            "size": "112M", "alloc": "20.2M", "free": "91.8M", "frag": "23%", "expandsz": "-",
            "dedup": "1.00x", "altroot": "-", "capacity": "12%", "health": "ONLINE", "ckpoint": "-",
            "priority": "0 - Information"}}})
    );
}

#[test]
fn unsupported_column_is_learned_once() {
    let captured = captures::read(captures::ZFS_FUSE);
    let run = |command: &str| captured.iter().find(|c| c.command == command).unwrap();
    let mut host = Host::with(limits());
    host.state.begin(host.now());
    let refused = run(&format!("zpool {LIST}"));
    assert_eq!(refused.exit, Some(Exit::Code(2)));
    // The captured refusal names the first; the others are refused with the same text.
    let mut known = LIST.to_owned();
    for property in ["checkpoint", "expandsize", "fragmentation"] {
        assert_eq!(host.asked(), [known.clone()]);
        let errors = refused.errors.replace("'checkpoint'", &format!("'{property}'"));
        host.ends("", &errors, Exit::Code(2));
        known = known.replace(&format!("{property},"), "");
    }
    assert_eq!(host.asked(), [known.clone()]);
    host.replays(run(&format!("zpool {known}")));
    assert_eq!(host.asked(), [STATUS]);
    host.replays(run("zpool status -x"));
    let args = host.reported_once();
    let status = "One or more devices has been taken offline by the administrator. Sufficient \
                  replicas exist for the pool to continue functioning in a degraded state.";
    assert_eq!(
        args["zpools"]["tank"],
        json!({"size": "123M", "alloc": "412K", "free": "123M", "frag": "-", "expandsz": "-",
               "dedup": "1.00x", "altroot": "-", "capacity": "0%", "health": "DEGRADED",
               "status": status, "priority": "9 - Urgent",
               "action": "Online the device using 'zpool online' or replace the device with \
                          'zpool replace'.",
               "devices": [{"name": "/vdevs/d1", "state": "OFFLINE", "read": "0", "write": "0",
                            "cksum": "0"}]})
    );
    host.pass(Duration::from_secs(60));
    assert_eq!(host.asked(), [known.clone()]);
    host.replays(run(&format!("zpool {known}")));
    // A reload may change the `zpool`.
    host.state.reload(limits(), host.now());
    host.answers(HEALTHY);
    host.pass(Duration::ZERO);
    assert_eq!(host.asked(), [STATUS, LIST]);
}

#[test]
fn reload_does_not_affect_a_running_command() {
    let mut host = Host::new();
    let refused = "bad property list: invalid property 'checkpoint'\n";
    host.ends("", refused, Exit::Code(2));
    let known = LIST.replace("checkpoint,", "");
    assert_eq!(host.asked(), [known]);
    host.state.reload(limits(), host.now());
    let shorter = line("tank", "ONLINE", "12%").replacen("-\t", "", 1);
    host.answers(&shorter);
    assert_eq!(host.asked(), [STATUS]);
    host.answers(HEALTHY);
    assert_eq!(host.reported_once().get("zpool_error"), None);
    host.pass(Duration::ZERO);
    assert_eq!(host.asked(), [LIST], "the one after it asks for all again");
}

#[test]
fn a_needed_property_that_is_refused_is_an_error() {
    for refused in ["name", "health", "colour"] {
        let mut host = Host::new();
        let errors = format!("bad property list: invalid property '{refused}'\nusage:\n");
        host.ends("", &errors, Exit::Code(2));
        assert_eq!(host.asked(), Vec::<String>::new());
        let error = "zpool list ended with code 2: bad property list: invalid property";
        assert_eq!(host.reported_once()["zpool_error"], format!("{error} '{refused}'"));
    }
}

#[test]
fn no_zfs_is_no_error() {
    let no_zfs = json!({"hostname": "nas", "priority": "0 - Information"});
    // Without the module `zpool` is not even run.
    let mut host = Host::with(limits());
    host.zfs = false;
    host.state.begin(host.now());
    assert_eq!(host.reported_once(), no_zfs);
    assert_eq!((host.asked(), host.attaches()), (vec![], None));
    // Not installed.
    let mut host = Host::new();
    let error = io::Error::from_raw_os_error(libc::ENOENT);
    host.state.ended(Exit::Code(127), Some((Step::Run, error)), host.now());
    assert_eq!(host.reported_once(), no_zfs);
    // Loaded, but not reachable; the first is captured from zfs-fuse, the others are OpenZFS's.
    for errors in [
        "connect: No such file or directory\nPlease make sure that the zfs-fuse daemon is running.\n",
        "connect: Connection refused\nPlease make sure that the zfs-fuse daemon is running.\n",
        "The /dev/zfs device is missing and must be created.\n",
    ] {
        let mut host = Host::new();
        host.ends("", errors, Exit::Code(1));
        assert_eq!(host.reported_once(), no_zfs, "{errors}");
    }
    // It disappears, and comes back.
    let mut host = Host::with_pool();
    host.zfs = false;
    host.pass(Duration::from_secs(60));
    let args = host.reported_once();
    assert_eq!(
        (args.get("zpools"), &args["zpools_gone"]["tank"]["how"]),
        (None, &json!("vanished"))
    );
    assert_eq!(args["priority"], "7 - Critical");
    host.zfs = true;
    host.pass(Duration::from_secs(60));
    host.checks(&line("tank", "ONLINE", "12%"), "");
    let args = host.reported_once();
    assert_eq!((args.get("zpools_gone"), &args["priority"]), (None, &json!("0 - Information")));
}

/// The error of the first check.
fn error_of(out: &str, errors: &str, exit: Exit) -> String {
    let mut host = Host::new();
    host.ends(out, errors, exit);
    let args = host.reported_once();
    assert_eq!((&args["priority"], args.get("zpools")), (&json!("9 - Urgent"), None));
    args["zpool_error"].as_str().unwrap().to_owned()
}

#[test]
fn failures_are_reported_unchanged() {
    let captured = captures::read(captures::OPENZFS_2_1);
    let run = captured.iter().find(|c| c.state == "03-user-nonroot-devzfs0600").unwrap();
    assert_eq!(
        error_of(run.out, run.errors, run.exit.unwrap()),
        "zpool list ended with code 1: Permission denied the ZFS utilities must be run as root."
    );
    let captured = captures::read(captures::ZFS_FUSE);
    let run = captured.iter().find(|c| c.command.starts_with("setpriv")).unwrap();
    assert_eq!(
        error_of(run.out, run.errors, run.exit.unwrap()),
        "zpool list ended with code 1: connect: Permission denied"
    );
    assert_eq!(error_of("", "", Exit::Code(3)), "zpool list ended with code 3");
    // It died in the middle of its output.
    let begun = line("tank", "ONLINE", "12%");
    assert_eq!(error_of(&begun, "", Exit::Signal(9)), "zpool list was ended by signal 9");
    let mut host = Host::new();
    let error = io::Error::from_raw_os_error(libc::EACCES);
    host.state.ended(Exit::Code(127), Some((Step::Run, error)), host.now());
    let said = host.reported_once()["zpool_error"].as_str().unwrap().to_owned();
    assert!(said.starts_with("zpool list could not be started: Permission denied"), "{said}");
    let mut host = Host::new();
    host.state.not_started(&io::Error::from_raw_os_error(libc::EAGAIN), host.now());
    assert!(host.reported_once()["zpool_error"].is_string());
    // The next check tries again.
    host.pass(Duration::from_secs(60));
    host.checks("", "");
    assert_eq!(host.reported_once()["zpools"], json!({}));
}

#[test]
fn unreadable_output_is_no_list() {
    let unreadable = |out: &str| {
        let error = error_of(out, "", Exit::Code(0));
        error.strip_prefix("zpool list printed what cannot be read: ").unwrap().to_owned()
    };
    let whole = line("tank", "ONLINE", "12%");
    assert_eq!(unreadable(whole.trim_end()), "the last line breaks off");
    assert_eq!(
        unreadable("NAME   SIZE  ALLOC\n"),
        "line 1: 1 columns, not 11, in \"NAME   SIZE  ALLOC\""
    );
    assert_eq!(unreadable(&format!("{whole}{whole}")), "line 2: \"tank\" is there twice");
    assert_eq!(unreadable(&line("", "ONLINE", "12%")), {
        let shown = "\\t112M\\t20.2M\\t91.8M\\t-\\t-\\t23%\\t12%\\t1.00x\\tONLINE\\t-";
        format!("line 1: no name in \"{shown}\"")
    });
    assert_eq!(unreadable(&line("tank", "ONLINE", "12")), "line 1: \"12\" is no capacity");
    assert_eq!(unreadable("\u{1b}[2J\0\n"), "line 1: 1 columns, not 11, in \"\\u{1b}[2J\\0\"");
    assert!(unreadable(&"x".repeat(10_000)).len() < 200);
    assert!(unreadable(&format!("{}\n", "x".repeat(10_000))).len() < 200);
    // With more and with fewer columns.
    for (more, number) in [("\t-\n", 12), ("\n", 10)] {
        let line = whole.strip_suffix("\t-\n").unwrap();
        let line = if number == 12 { whole.trim_end() } else { line };
        assert!(
            unreadable(&format!("{line}{more}")).contains(&format!("{number} columns, not 11"))
        );
    }
    // No pools has two spellings.
    for none in ["", "no pools available\n"] {
        let mut host = Host::new();
        host.answers(none);
        assert_eq!(host.reported_once()["zpools"], json!({}), "{none:?}");
    }
    // A pool that cannot be opened has dashes for figures; bytes of an altroot are arbitrary.
    let mut host = Host::new();
    host.state.printed(b"tank\t-\t-\t-\t-\t-\t-\t-\t-\tUNAVAIL\t/mnt/\xff \n");
    host.answers("");
    let args = host.reported_once_after_status();
    assert_eq!(args["zpools"]["tank"]["altroot"], "/mnt/\u{fffd} ");
    assert_eq!(args["priority"], "9 - Urgent");
}

#[test]
fn status_is_read_or_reported_as_unreadable() {
    let with = |status: &str, errors: &str, exit: Exit| {
        let mut host = Host::new();
        host.answers(&line("tank", "ONLINE", "12%"));
        host.ends(status, errors, exit);
        host.reported_once()
    };
    let args = with("warning: something new\n", "", Exit::Code(0));
    assert_eq!(
        args["zpool_error"],
        "zpool status printed what cannot be read: no pool in \"warning: something new\""
    );
    assert_eq!(health(&args, "tank").0, "ONLINE");
    let args = with("  pool: tank\n state: ONLI", "", Exit::Code(0));
    assert!(args["zpool_error"].as_str().unwrap().ends_with("the last line breaks off"));
    let args = with("", "cannot open", Exit::Code(1));
    assert_eq!(args["zpool_error"], "zpool status ended with code 1: cannot open");
    // A page without a status, and one of a pool that is not in the list.
    let args = with("  pool: tank\n state: ONLINE\nconfig:\n\n  pool: other\n", "", Exit::Code(0));
    assert_eq!(args["zpools"]["tank"].get("status"), None);
    assert_eq!(args["zpools"].as_object().unwrap().len(), 1);
    // A status is bounded, and has one line.
    let long = format!("  pool: tank\nstatus: a\u{e4}\n{}", "\tb  \u{e4}\n".repeat(1000));
    let args = with(&long, "", Exit::Code(0));
    let status = args["zpools"]["tank"]["status"].as_str().unwrap();
    assert!(status.starts_with("a\u{e4} b \u{e4} b ") && status.len() <= 500, "{status}");
    // Names are compared whole, with their blanks.
    let mut host = Host::new();
    host.answers(&(line("a", "ONLINE", "1%") + &line("a ", "ONLINE", "1%")));
    host.answers("  pool: a \n state: ONLINE\nstatus: new\n");
    let args = host.reported_once();
    assert_eq!(args["zpools"]["a"].get("status"), None);
    assert_eq!(health(&args, "a ").2, "6 - Critical");
}

#[test]
fn changed_allocation_is_no_event_until_the_report_interval() {
    let mut host = Host::with_pool();
    let other = line("tank", "ONLINE", "12%").replace("20.2M", "20.9M");
    let mut reported = Vec::new();
    for minute in 1..=45 {
        host.pass(Duration::from_secs(60));
        host.checks(&other, HEALTHY);
        reported.extend(host.reported().iter().map(|args| {
            assert_eq!(args["zpools"]["tank"]["alloc"], "20.9M");
            minute
        }));
    }
    assert_eq!(reported, [15, 30, 45]);
}

#[test]
fn each_change_is_exactly_one_event() {
    let mut host = Host::with_pool();
    let mut check = |list: &str, status: &str| {
        host.pass(Duration::from_secs(60));
        host.checks(list, status);
        host.reported()
    };
    let degraded = "  pool: tank\n state: DEGRADED\nstatus: offline\n";
    let online = |capacity| line("tank", "ONLINE", capacity);
    for (list, status, expected, overall) in [
        (line("tank", "DEGRADED", "12%"), degraded, ("DEGRADED", "12%", "9 - Urgent"), 9),
        (online("12%"), HEALTHY, ("ONLINE", "12%", "0 - Information"), 0),
        (online("90%"), HEALTHY, ("ONLINE", "90%", "0 - Information"), 0),
        (online("91%"), HEALTHY, ("ONLINE", "91%", "6 - Critical"), 6),
        (online("91%") + &line("b", "ONLINE", "0%"), HEALTHY, ("ONLINE", "91%", "6 - Critical"), 6),
        // The other one vanishes, and that is reported until it is back.
        (online("91%"), HEALTHY, ("ONLINE", "91%", "6 - Critical"), 7),
        (online("95%"), DAMAGED, ("ONLINE", "95%", "7 - Critical"), 7),
        (online("9%"), "  pool: tank\nstatus: new\n", ("ONLINE", "9%", "6 - Critical"), 7),
        (line("tank", "BOGUS", "1%"), HEALTHY, ("BOGUS", "1%", "9 - Urgent"), 9),
    ] {
        let reported = check(&list, status);
        assert_eq!(reported.len(), 1, "{list}: {reported:#?}");
        let (health, capacity, priority) = health(&reported[0], "tank");
        assert_eq!((health.as_str(), capacity.as_str(), priority.as_str()), expected);
        assert!(reported[0]["priority"].as_str().unwrap().starts_with(&overall.to_string()));
        assert_eq!(check(&list, status), Vec::<Value>::new(), "{list}");
    }
    let gone = check("", "");
    assert_eq!((gone.len(), &gone[0]["zpools"]), (1, &json!({})));
}

/// A page of `zpool status` of a pool on the devices `a` and `b c`, with these lines before its
/// table.
fn page(pool: &str, lines: &str) -> String {
    format!(
        "  pool: {pool}\n state: ONLINE\n{lines}config:\n\n\tNAME        STATE     READ WRITE CKSUM\n\t\
         {pool:<10}  ONLINE       0     0     0\n\t  mirror-0  ONLINE       0     0     0\n\t    \
         /v/a    ONLINE       0     0     0\n\t    /v/b c  ONLINE       0     0     0\n\n\
         errors: No known data errors\n"
    )
}

/// A host whose pool `tank` is on `/v/a` and `/v/b c`.
fn host_with_devices() -> Host {
    let mut host = Host::new();
    host.answers(&line("tank", "ONLINE", "12%"));
    assert_eq!(host.asked(), [STATUS]);
    host.answers(&page("tank", ""));
    assert_eq!(host.reported_once()["priority"], "0 - Information");
    host
}

fn label(pool: &str, state: u8) -> String {
    format!("LABEL 0\n    version: 23\n    name: '{pool}'\n    state: {state}\n    txg: 11\n")
}

#[test]
fn missing_pool_is_explained_by_labels_of_its_devices() {
    for (answers, how, priority) in [
        (vec![label("tank", 1)], "exported", "1 - Information"),
        (vec![label("tank", 2)], "destroyed", "1 - Information"),
        (vec![label("other", 0)], "renamed", "1 - Information"),
        (
            vec!["failed to unpack label 0\n".to_owned(), label("tank", 1)],
            "exported",
            "1 - Information",
        ),
        (vec![label("tank", 0), label("tank", 0)], "vanished", "7 - Critical"),
        (vec![String::new(), String::new()], "vanished", "7 - Critical"),
    ] {
        let mut host = host_with_devices();
        host.pass(Duration::from_secs(60));
        assert_eq!(host.asked(), [LIST]);
        host.answers("");
        for (device, answer) in ["/v/a", "/v/b c"].into_iter().zip(&answers) {
            assert_eq!(host.asked(), [format!("zdb -l {device}")]);
            host.answers(answer);
        }
        let args = host.reported_once();
        let expected = json!({"tank": {"how": how, "health": "ONLINE", "priority": priority}});
        assert_eq!((&args["zpools_gone"], &args["priority"]), (&expected, &json!(priority)));
        // A vanished pool is reported until it is back or the configuration is reloaded.
        host.pass(Duration::from_secs(60));
        host.checks("", "");
        assert_eq!(host.reported(), Vec::<Value>::new());
        assert_eq!(host.state.priority(), Priority::new(if how == "vanished" { 7 } else { 0 }));
        host.state.reload(limits(), host.now());
        host.pass(Duration::ZERO);
        host.checks("", "");
        assert_eq!(host.reported().len(), usize::from(how == "vanished"));
        assert_eq!(host.state.priority(), Priority::new(0));
    }
}

#[test]
fn missing_pool_not_online_before_is_critical() {
    for (health, page) in [("DEGRADED", HEALTHY), ("SUSPENDED", HEALTHY)] {
        let mut host = Host::new();
        host.answers(&line("tank", health, "12%"));
        assert_eq!(host.asked(), [STATUS]);
        host.answers(page);
        host.reported();
        host.state.attached(Some(Feed::Events), host.now());
        host.state.heard(b"Nov 23 2026 18:09:22.6\tsysevent.fs.zfs.pool_export\n", host.now());
        host.pass(Duration::from_secs(1));
        host.checks("", "");
        let args = host.reported_once();
        let gone = json!({"how": "exported", "health": health, "priority": "7 - Critical"});
        assert_eq!(args["zpools_gone"]["tank"], gone);
        assert_eq!(args["priority"], "7 - Critical");
    }
}

#[test]
fn missing_pool_is_explained_by_the_feed_without_a_label() {
    let mut host = host_with_devices();
    host.state.attached(Some(Feed::Devd), host.now());
    host.pass(Duration::from_millis(200));
    host.checks(&line("tank", "ONLINE", "12%"), &page("tank", ""));
    let event =
        b"!system=ZFS subsystem=ZFS type=sysevent.fs.zfs.pool_export  pool=tank pool_guid=1\n";
    host.state.heard(event, host.now());
    host.pass(Duration::from_secs(1));
    assert_eq!(host.asked(), [LIST]);
    host.answers("");
    assert_eq!(host.asked(), Vec::<String>::new());
    assert_eq!(host.reported_once()["zpools_gone"]["tank"]["how"], "exported");
}

#[test]
fn event_without_a_name_explains_the_pool_that_has_just_left() {
    let (tank, other) = (line("tank", "ONLINE", "12%"), line("other", "ONLINE", "1%"));
    let mut host = Host::new();
    host.answers(&(tank.clone() + &other));
    assert_eq!(host.asked(), [STATUS]);
    host.answers(HEALTHY);
    host.state.attached(Some(Feed::Events), host.now());
    host.pass(Duration::from_secs(1));
    host.checks(&(tank.clone() + &other), HEALTHY);
    host.reported();
    host.pass(Duration::from_secs(60));
    host.checks(&other, HEALTHY);
    assert_eq!(host.reported_once()["zpools_gone"]["tank"]["how"], "vanished");
    host.state.heard(b"Nov 23 2026 18:09:22.6\tsysevent.fs.zfs.pool_export\n", host.now());
    host.pass(Duration::from_secs(5));
    host.checks("", HEALTHY);
    let gone = &host.reported_once()["zpools_gone"];
    assert_eq!(
        (&gone["tank"]["how"], &gone["other"]["how"]),
        (&json!("vanished"), &json!("exported"))
    );
}

#[test]
fn unresponsive_device_gives_no_reason() {
    let mut host = host_with_devices();
    host.pass(Duration::from_secs(60));
    assert_eq!(host.asked(), [LIST]);
    host.answers("");
    assert_eq!(host.asked(), ["zdb -l /v/a"]);
    host.pass(Duration::from_secs(10));
    assert!(host.was_killed());
    let args = host.reported_once();
    assert_eq!(args["zpools_gone"]["tank"]["how"], "vanished");
    assert_eq!(args.get("zpool_error"), None);
    host.state.ended(Exit::Signal(9), None, host.now());
    // No `zdb` at all.
    let mut host = host_with_devices();
    host.pass(Duration::from_secs(60));
    assert_eq!(host.asked(), [LIST]);
    host.answers("");
    for device in ["/v/a", "/v/b c"] {
        assert_eq!(host.asked(), [format!("zdb -l {device}")]);
        host.state.not_started(&io::Error::from_raw_os_error(libc::ENOENT), host.now());
    }
    assert_eq!(host.reported_once()["zpools_gone"]["tank"]["how"], "vanished");
}

#[test]
fn refusal_is_reported_once_and_is_no_lasting_failure() {
    for errors in [
        "Permission denied the ZFS utilities must be run as root.\n",
        "connect: Permission denied\ninternal error: failed to initialize ZFS library\n",
        "Unable to open /dev/zfs: Operation not permitted.\n",
    ] {
        let mut host = Host::new();
        host.ends("", errors, Exit::Code(1));
        let args = host.reported_once();
        assert!(args["zpool_error"].is_string());
        assert_eq!(args["priority"], "9 - Urgent");
        assert_eq!(host.state.priority(), Priority::new(0));
        for minute in 1..=30 {
            host.pass(Duration::from_secs(60));
            assert_eq!(host.asked(), [LIST]);
            host.ends("", errors, Exit::Code(1));
            for args in host.reported() {
                assert_eq!((minute % 15, &args["priority"]), (0, &json!("0 - Information")));
            }
        }
        assert_eq!(host.said().iter().filter(|text| text.contains("zpool list ended")).count(), 1);
        // The pools become visible after all.
        host.pass(Duration::from_secs(60));
        host.checks(&line("tank", "ONLINE", "12%"), HEALTHY);
        assert_eq!(host.reported_once().get("zpool_error"), None);
        // Pools that were seen and are no longer visible are not a matter of privileges.
        host.pass(Duration::from_secs(60));
        host.ends("", errors, Exit::Code(1));
        assert_eq!(host.reported_once()["priority"], "9 - Urgent");
    }
}

fn scanning(done: &str) -> String {
    format!(
        "  scan: scrub in progress since Mon Nov 23 18:11:47 2026\n\t1M / 2M scanned, 1M / 2M \
         issued\n\t0B repaired, {done} done, no estimated completion time\n"
    )
}

#[test]
fn scrub_is_an_event_at_its_begin_each_minute_and_at_its_end() {
    let mut short = limits();
    short.interval = Duration::from_secs(10);
    let mut host = Host::with(short);
    host.state.begin(host.now());
    host.checks(&line("tank", "ONLINE", "12%"), &page("tank", ""));
    assert_eq!(host.reported().len(), 1);
    host.said();
    host.state.request(host.now());
    host.pass(Duration::ZERO);
    host.checks(&line("tank", "ONLINE", "12%"), &page("tank", &scanning("0.00%")));
    let scan = &host.reported_once()["zpools"]["tank"]["scan"];
    assert_eq!((&scan["state"], &scan["done"]), (&json!("running"), &json!("0.00%")));
    let mut done = Vec::new();
    for tick in 1..=30 {
        host.pass(Duration::from_secs(10));
        host.checks(
            &line("tank", "ONLINE", "12%"),
            &page("tank", &scanning(&format!("{tick}.00%"))),
        );
        done.extend(host.reported().iter().map(|args| {
            assert_eq!(args["priority"], "0 - Information");
            args["zpools"]["tank"]["scan"]["done"].as_str().unwrap().to_owned()
        }));
    }
    assert_eq!(done, ["6.00%", "12.00%", "18.00%", "24.00%", "30.00%"]);
    assert_eq!(host.said()[0], "pool \"tank\": scrub running");
    let ended = |errors: &str| {
        let date = "Mon Nov 23 18:20:00 2026";
        format!("  scan: scrub repaired 1.5M in 00:08:13 with {errors} errors on {date}\n")
    };
    for (errors, priority) in [("0", "0 - Information"), ("3", "7 - Critical")] {
        host.pass(Duration::from_secs(10));
        host.checks(&line("tank", "ONLINE", "12%"), &page("tank", &ended(errors)));
        let args = host.reported_once();
        assert_eq!(args["priority"], priority);
        assert_eq!(
            args["zpools"]["tank"]["scan"],
            json!({"function": "scrub", "state": "finished", "time": "Mon Nov 23 18:20:00 2026",
                   "repaired": "1.5M", "errors": errors})
        );
        let ended = format!("pool \"tank\": scrub finished, repaired 1.5M, {errors} errors");
        assert!(host.said().contains(&ended));
        host.pass(Duration::from_secs(10));
        host.answers(&line("tank", "ONLINE", "12%"));
        if errors == "0" {
            assert_eq!(host.asked(), [LIST], "a scrub that has ended is not watched");
            host.state.request(host.now());
            host.pass(Duration::from_secs(1));
            host.checks(&line("tank", "ONLINE", "12%"), &page("tank", &scanning("0.00%")));
            host.reported();
        }
    }
}

#[test]
fn status_too_long_is_asked_for_wounded_pools_alone() {
    let mut host = Host::new();
    host.answers(&line("tank", "ONLINE", "12%"));
    assert_eq!(host.asked(), [STATUS]);
    while host.state.printed(page("tank", "").as_bytes()) {}
    assert!(host.was_killed());
    assert_eq!(host.reported(), Vec::<Value>::new(), "nothing is known yet");
    host.state.ended(Exit::Signal(9), None, host.now());
    host.pass(Duration::ZERO);
    assert_eq!(host.asked(), [LIST]);
    host.answers(&line("tank", "ONLINE", "12%"));
    assert_eq!(host.asked(), [BRIEF]);
    host.answers(DAMAGED);
    let args = host.reported_once();
    assert_eq!((&args["priority"], args.get("zpool_error")), (&json!("7 - Critical"), None));
    assert_eq!(host.said().iter().filter(|text| text.contains("zpool_output")).count(), 1);
    // That is limited too.
    host.pass(Duration::from_secs(60));
    host.answers(&line("tank", "ONLINE", "12%"));
    while host.state.printed(DAMAGED.as_bytes()) {}
    assert_eq!(host.reported_once()["zpool_error"], "zpool status printed more than 65536 bytes");
}

#[test]
fn status_refused_without_x_is_run_with_it() {
    let mut host = Host::new();
    host.answers(&line("tank", "ONLINE", "12%"));
    assert_eq!(host.asked(), [STATUS]);
    host.ends("", "usage:\n", Exit::Code(2));
    assert_eq!(host.asked(), [BRIEF]);
    host.answers(HEALTHY);
    assert_eq!(host.reported_once()["priority"], "0 - Information");
}

#[test]
fn changed_host_name_is_reported_once() {
    let mut host = Host::with_pool();
    host.hostname = "nas2".to_owned();
    host.pass(Duration::from_secs(60));
    host.checks(&line("tank", "ONLINE", "12%"), HEALTHY);
    let args = host.reported_once();
    assert_eq!((&args["hostname"], &args["hostnamechanged"]), (&json!("nas2"), &json!("true")));
    assert_eq!(args["hostname_was"], "nas");
    assert_eq!(args["priority"], "3 - Warning");
    assert_eq!(host.state.hostname(), "nas2");
    host.pass(Duration::from_secs(60));
    host.checks(&line("tank", "DEGRADED", "12%"), HEALTHY);
    let args = host.reported_once();
    assert_eq!((args.get("hostnamechanged"), &args["priority"]), (None, &json!("9 - Urgent")));
    assert_eq!(args.get("hostname_was"), None);
    // Also without ZFS.
    let mut host = Host::with(limits());
    host.zfs = false;
    host.state.begin(host.now());
    assert_eq!(host.reported().len(), 1);
    host.hostname = "nas3".to_owned();
    host.pass(Duration::from_secs(60));
    let args = host.reported_once();
    assert_eq!((&args["priority"], &args["hostname_was"]), (&json!("3 - Warning"), &json!("nas")));
}

#[test]
fn priority_after_a_host_name_change_falls_back_with_an_event() {
    let mut host = Host::with_pool();
    let check = |host: &mut Host| {
        host.pass(Duration::from_secs(60));
        host.checks(&line("tank", "ONLINE", "12%"), HEALTHY);
        host.reported()
    };
    check(&mut host);
    host.hostname = "nas2".to_owned();
    assert_eq!(check(&mut host)[0]["priority"], "3 - Warning");
    let after = check(&mut host);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0]["priority"], "0 - Information");
    assert_eq!(after[0].get("hostnamechanged"), None);
    assert_eq!(check(&mut host), Vec::<Value>::new());
}

#[test]
fn hanging_zpool_is_killed_reported_once_and_not_run_again() {
    let mut host = Host::with_pool();
    host.pass(Duration::from_secs(60));
    assert_eq!(host.asked(), [LIST]);
    host.pass(Duration::from_secs(9));
    assert!(!host.was_killed());
    host.pass(Duration::from_secs(1));
    assert!(host.was_killed());
    let args = host.reported_once();
    assert_eq!(args["zpool_error"], "zpool list did not answer within 10s");
    assert_eq!(args["priority"], "9 - Urgent");
    assert_eq!(health(&args, "tank").0, "ONLINE", "the last known");
    // It cannot be killed: a suspended pool blocks it. The host name is still checked.
    host.pass(Duration::from_secs(600));
    assert_eq!((host.asked(), host.reported(), host.was_killed()), (vec![], vec![], false));
    host.hostname = "nas2".to_owned();
    host.state.request(host.now());
    host.pass(Duration::from_secs(60));
    let args = host.reported_once();
    assert_eq!((&args["hostname"], &args["priority"]), (&json!("nas2"), &json!("9 - Urgent")));
    assert!(args["zpool_error"].is_string());
    let said = host.said();
    let stuck = said.iter().filter(|text| text.contains("cannot be ended")).count();
    assert_eq!(stuck, 1, "{said:#?}");
    assert_eq!(host.asked(), Vec::<String>::new());
    // It has ended, and a check follows at once.
    host.state.ended(Exit::Signal(9), None, host.now());
    host.pass(Duration::ZERO);
    host.checks(&line("tank", "SUSPENDED", "12%"), "  pool: tank\nstatus: failed\n");
    let args = host.reported_once();
    assert_eq!((health(&args, "tank").0.as_str(), args.get("zpool_error")), ("SUSPENDED", None));
}

#[test]
fn killed_zpool_that_ends_is_run_again_by_the_timer() {
    let mut host = Host::with_pool();
    for _ in 0..3 {
        host.pass(Duration::from_secs(60));
        assert_eq!(host.asked(), [LIST]);
        host.pass(Duration::from_secs(10));
        assert!(host.was_killed());
        host.state.ended(Exit::Signal(9), None, host.now());
        host.pass(Duration::ZERO);
        assert_eq!(host.asked(), Vec::<String>::new());
        host.elapsed -= Duration::from_secs(10);
    }
    assert_eq!(host.reported().len(), 1, "it is reported once");
    host.pass(Duration::from_secs(60));
    host.checks(&line("tank", "ONLINE", "12%"), HEALTHY);
    assert_eq!(host.reported_once().get("zpool_error"), None, "its end is reported");
}

#[test]
fn hanging_status_is_reported_with_the_new_list() {
    let mut host = Host::with_pool();
    host.pass(Duration::from_secs(60));
    host.answers(&line("tank", "DEGRADED", "12%"));
    assert_eq!(host.asked(), [LIST, STATUS]);
    host.pass(Duration::from_secs(10));
    assert!(host.was_killed());
    let args = host.reported_once();
    assert_eq!(health(&args, "tank").0, "DEGRADED");
    assert_eq!(args["zpool_error"], "zpool status did not answer within 10s");
    // A list that succeeds is no news as long as the status fails.
    host.state.ended(Exit::Signal(9), None, host.now());
    host.pass(Duration::from_secs(50));
    host.answers(&line("tank", "DEGRADED", "12%"));
    assert_eq!(host.asked(), [LIST, STATUS]);
    host.pass(Duration::from_secs(10));
    assert_eq!(host.reported(), Vec::<Value>::new());
    host.state.ended(Exit::Signal(9), None, host.now());
    host.pass(Duration::from_secs(50));
    host.checks(&line("tank", "DEGRADED", "12%"), "  pool: tank\nstatus: offline\n");
    assert_eq!(host.reported_once().get("zpool_error"), None);
}

#[test]
fn flooding_zpool_is_killed_at_its_limit() {
    let mut host = Host::new();
    let mut printed = 0;
    while host.state.printed(&[b'x'; 1000]) {
        printed += 1000;
        host.state.complained(&[b'y'; 1000]);
    }
    assert_eq!(printed, 65_000);
    assert!(host.was_killed());
    assert_eq!(host.reported_once()["zpool_error"], "zpool list printed more than 65536 bytes");
    assert!(!host.state.printed(b"more"));
    assert_eq!(host.reported(), Vec::<Value>::new());
}

#[test]
fn status_is_run_with_a_reason_and_every_few_checks() {
    let mut host = Host::with_pool();
    let fine = line("tank", "ONLINE", "12%");
    let mut asked_status = Vec::new();
    for minute in 1..=12 {
        host.pass(Duration::from_secs(60));
        assert_eq!(host.asked(), [LIST]);
        host.answers(&fine);
        if host.asked() == [STATUS] {
            asked_status.push(minute);
            host.answers(HEALTHY);
        }
    }
    assert_eq!(asked_status, [5, 10]);
    // While something is wrong each check runs `zpool status`, so that the end is seen.
    let damaged = DAMAGED;
    host.state.heard(b"", host.now());
    host.state.request(host.now());
    host.pass(Duration::ZERO);
    host.checks(&fine, damaged);
    assert_eq!(host.reported_once()["priority"], "7 - Critical");
    for _ in 0..3 {
        host.pass(Duration::from_secs(60));
        host.answers(&fine);
        assert_eq!(host.asked(), [LIST, STATUS]);
        host.answers(damaged);
    }
    host.pass(Duration::from_secs(60));
    host.checks(&fine, HEALTHY);
    assert_eq!(host.reported_once()["priority"], "0 - Information");
    // Without pools `zpool status` is not run.
    host.pass(Duration::from_secs(60));
    host.checks("", "");
    host.state.request(host.now());
    host.pass(Duration::ZERO);
    host.answers("");
    assert_eq!(host.asked(), [LIST]);
}

#[test]
fn request_starts_a_check_or_follows_the_running_one() {
    let mut host = Host::with_pool();
    assert!(host.state.request(host.now()));
    host.pass(Duration::ZERO);
    assert_eq!(host.asked(), [LIST]);
    assert!(!host.state.request(host.now()), "one is under way");
    host.answers("");
    host.pass(Duration::from_millis(999));
    assert_eq!(host.asked(), Vec::<String>::new(), "not more than one a second");
    host.pass(Duration::from_millis(1));
    assert_eq!(host.asked(), [LIST]);
}

#[test]
fn the_kernels_events_make_a_check_at_once() {
    let mut host = Host::with_pool();
    assert_eq!(host.attaches(), Some(true));
    host.state.attached(Some(Feed::Devd), host.now());
    // A check follows for what happened before the feed began.
    host.pass(Duration::from_millis(200));
    host.checks(&line("tank", "ONLINE", "12%"), HEALTHY);
    let said = host.said();
    assert!(
        said.contains(&"pools are checked when devd reports a change, and every 60s".to_owned())
    );
    host.pass(Duration::from_secs(10));
    host.state.heard(b"!system=DEVFS subsystem=CDEV type=CREATE cdev=da1\n", host.now());
    host.state.heard(
        b"!system=ZFS subsystem=ZFS type=sysevent.fs.zfs.history_event  pool=tank\n",
        host.now(),
    );
    host.pass(Duration::from_secs(1));
    assert_eq!(host.asked(), Vec::<String>::new());
    let fault = b"!system=ZFS subsystem=ZFS type=resource.fs.zfs.statechange  pool=tank\n";
    host.state.heard(fault, host.now());
    host.pass(Duration::from_millis(199));
    assert_eq!(host.asked(), Vec::<String>::new());
    host.state.heard(fault, host.now());
    host.pass(Duration::from_millis(1));
    host.checks(&line("tank", "DEGRADED", "12%"), "  pool: tank\nstatus: offline\n");
    assert_eq!(host.reported_once()["priority"], "9 - Urgent");
    // The timer counts from the last check.
    host.pass(Duration::from_millis(59_999));
    assert_eq!(host.asked(), Vec::<String>::new());
    host.pass(Duration::from_millis(1));
    assert_eq!(host.asked(), [LIST]);
}

#[test]
fn ended_feed_is_looked_for_again_and_logged_once() {
    let mut host = Host::with_pool();
    let fine = line("tank", "ONLINE", "12%");
    assert_eq!(host.attaches(), Some(true));
    host.state.attached(Some(Feed::Events), host.now());
    host.pass(Duration::from_millis(200));
    host.checks(&fine, HEALTHY);
    assert!(host.said().iter().any(|text| text.contains("when zpool events reports a change")));
    assert_eq!(host.attaches(), None);
    host.follower_ends(Exit::Code(255), "cannot get event: signal received\n");
    host.pass(Duration::from_secs(60));
    host.checks(&fine, HEALTHY);
    assert_eq!(host.said(), ["pools are checked every 60s only, for now"]);
    assert_eq!(host.attaches(), Some(true));
    // This time it ends at once, repeatedly: nothing is logged, and only the timer retries.
    for _ in 0..5 {
        host.state.attached(Some(Feed::Events), host.now());
        host.follower_ends(Exit::Signal(11), "");
        host.pass(Duration::from_secs(1));
        host.checks(&fine, HEALTHY);
        assert_eq!((host.said(), host.attaches()), (vec![], None));
        host.pass(Duration::from_secs(60));
        host.checks(&fine, HEALTHY);
        assert_eq!(host.attaches(), Some(true));
    }
    host.state.attached(Some(Feed::Events), host.now());
    host.pass(Duration::from_secs(1));
    host.checks(&fine, HEALTHY);
    assert_eq!(host.said().len(), 1);
    // A `zpool` without events is not tried again, but devd is.
    host.follower_ends(Exit::Code(2), "unrecognized command 'events'\n");
    host.pass(Duration::from_secs(60));
    host.checks(&fine, HEALTHY);
    assert_eq!(
        host.said(),
        ["pools are checked every 60s only: no devd, and zpool events ended with code 2: \
          unrecognized command 'events'"]
    );
    assert_eq!(host.attaches(), Some(false));
    host.state.attached(None, host.now());
    assert_eq!(host.said(), Vec::<String>::new());
}

#[test]
fn feed_is_not_looked_for_while_a_disk_may_hang() {
    let mut host = Host::new();
    host.answers(&line("tank", "SUSPENDED", "12%"));
    assert_eq!(host.asked(), [STATUS]);
    host.answers("  pool: tank\nstatus: failed\n");
    assert_eq!(host.attaches(), None);
    host.pass(Duration::from_secs(60));
    host.checks(&line("tank", "ONLINE", "12%"), HEALTHY);
    assert_eq!(host.attaches(), Some(true));
}

#[test]
fn pools_that_an_event_cannot_hold_are_those_that_matter_least() {
    let mut small = limits();
    small.max_event = 64 * 1024;
    let mut host = Host::with(small);
    host.state.begin(host.now());
    assert_eq!(host.asked(), [LIST]);
    let mut list: String = (0..300).map(|n| line(&format!("pool{n:03}"), "ONLINE", "1%")).collect();
    list.push_str(&line("zz", "FAULTED", "1%"));
    host.answers(&list);
    host.answers(HEALTHY);
    let args = host.reported_once();
    assert!(args.to_string().len() < 64 * 1024 - 256);
    let shown = args["zpools"].as_object().unwrap().len();
    assert!(shown > 200 && args["zpools"]["zz"]["health"] == "FAULTED", "{shown}");
    assert_eq!(args["zpools_left_out"], (301 - shown).to_string());
}

#[test]
fn status_has_the_age_of_the_figures() {
    let mut host = Host::with_pool();
    host.pass(Duration::from_secs(12));
    let status = host.state.status(host.now());
    assert_eq!((&status["age"], &status["source"]), (&json!(12), &json!("zpool list")));
    assert_eq!(status["read"], "2026-11-23T17:50:47Z");
    assert_eq!((&status["checks"], &status["woken_by"]), (&json!(1), &Value::Null));
    assert_eq!(health(&status, "tank").2, "0 - Information");
    assert_eq!((&status["interval"], status.get("hostname")), (&json!(60.0), None));
    host.state.attached(Some(Feed::Devd), host.now());
    assert_eq!(host.state.status(host.now())["woken_by"], "devd");
    // A failed check leaves the figures and their age.
    host.pass(Duration::from_secs(1));
    host.ends("", "", Exit::Code(1));
    let status = host.state.status(host.now());
    assert_eq!((&status["age"], &status["priority"]), (&json!(13), &json!("9 - Urgent")));
}

#[test]
fn the_end_of_the_daemon_is_the_end_of_its_processes() {
    let mut host = Host::with_pool();
    host.state.attached(Some(Feed::Events), host.now());
    host.pass(Duration::from_secs(1));
    assert_eq!(host.asked(), [LIST]);
    host.state.stop();
    assert!(host.was_killed());
    assert_eq!(host.take(|effect| matches!(effect, Effect::Detach).then_some(())).len(), 1);
    host.state.ended(Exit::Signal(9), None, host.now());
    host.state.request(host.now());
    host.pass(Duration::from_secs(600));
    assert_eq!((host.asked(), host.reported()), (vec![], vec![]));
}

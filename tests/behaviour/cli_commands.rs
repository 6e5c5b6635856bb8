//! The other commands: their output and exit codes.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Cli, Daemon, Directory, Finished, Gate, Peer, Setup};

use super::PROGRAM;

fn ran(cli: Cli) -> Finished {
    cli.run().unwrap()
}

/// A command without a daemon.
fn alone(words: &[&str]) -> Finished {
    let mut command = Cli::of(PROGRAM, words[0]);
    for word in &words[1..] {
        command = command.arg(word);
    }
    ran(command)
}

const COMMANDS: [&str; 13] = [
    "serve",
    "bridge",
    "check",
    "fingerprint",
    "watch",
    "run",
    "jobs",
    "kill",
    "log",
    "status",
    "call",
    "key",
    "import-legacy",
];

#[test]
fn help_is_given_everywhere() {
    let overview = alone(&["--help"]);
    assert_eq!((overview.code(), &*overview.err), (0, ""));
    for same in [&["-h"][..], &["help"]] {
        assert_eq!(alone(same).out, overview.out, "{same:?}");
    }
    for command in COMMANDS {
        assert!(overview.out.contains(&format!("\n  {command} ")), "{command}: {}", overview.out);
        let help = alone(&[command, "--help"]);
        assert_eq!((help.code(), &*help.err), (0, ""), "{command}");
        assert!(help.out.contains(&format!("Usage: sysadm-events {command}")), "{}", help.out);
        assert_eq!(alone(&[command, "-h"]).out, help.out);
        assert_eq!(alone(&["help", command]).out, help.out);
        // Also after invalid words.
        assert_eq!(alone(&[command, "--help", "--no-such-option"]).out, help.out);
    }
}

#[test]
fn version_is_printed() {
    let expected = format!("sysadm-events {}\n", env!("CARGO_PKG_VERSION"));
    for word in ["--version", "-V"] {
        let version = alone(&[word]);
        assert_eq!((version.code(), &*version.out, &*version.err), (0, &*expected, ""));
    }
}

#[test]
fn wrong_command_line_exits_64_and_names_help() {
    for (words, said) in [
        (&["wach"][..], "wach"),
        (&["--wach"], "--wach"),
        (&["help", "wach"], "wach"),
        (&["jobs", "--jsn"], "unknown option --jsn"),
        (&["whoami", "x"], "unexpected argument \"x\""),
        (&["kill"], "which job"),
        (&["log"], "which job"),
        (&["log", "a", "b"], "unexpected argument \"b\""),
        (&["call", "rpc"], "NAMESPACE and a NAME"),
        (&["call", "rpc", "query", "{"], "not JSON"),
        (&["watch", "--since", "x"], "the number of an event"),
        (&["serve", "x"], "unexpected argument \"x\""),
        (&["serve", "-c"], "-c"),
        (&["jobs", "--socket"], "--socket"),
        (&["jobs", "--socket", "/a", "-c", "/b"], "only one"),
    ] {
        let wrong = alone(words);
        assert_eq!((wrong.code(), &*wrong.out), (64, ""), "{words:?}: {}", wrong.err);
        assert!(wrong.err.contains(said), "{words:?}: {}", wrong.err);
        assert!(wrong.err.contains("--help\"."), "{words:?}: {}", wrong.err);
    }
    let none = ran(Cli::of(PROGRAM, ""));
    assert_eq!(none.code(), 64);
}

#[test]
fn jobs_are_listed_as_a_table_and_as_json() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let list = ran(Cli::to(&daemon, "jobs"));
    assert_eq!(
        (list.code(), &*list.out),
        (0, "ID  QUEUE  STATE  POS  STARTED  TOOK  RESULT  BY  COMMANDS\n")
    );
    peer.run(&json!({ "over": ["true", "false"] })).unwrap();
    watcher.finished("over").unwrap();
    let held = format!("sh -c '{}'", gate.wait());
    peer.submit(&json!({ "id": "runs", "commands": [held], "queue": "q" })).unwrap();
    peer.submit(&json!({ "id": "waits", "commands": ["true"], "queue": "q" })).unwrap();
    watcher.job_until("waits", |args| args["state"] == "pending").unwrap();
    let list = ran(Cli::to(&daemon, "jobs"));
    let rows: Vec<Vec<&str>> =
        list.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1][..4], ["runs", "q", "running", "0"], "{}", list.out);
    assert_eq!(rows[2][..4], ["waits", "q", "pending", "1"], "{}", list.out);
    assert_eq!(rows[2].last(), Some(&"true"), "{}", list.out);
    assert_eq!(rows[3][..3], ["over", "-", "finished"], "{}", list.out);
    assert!(rows[3].ends_with(&["true", "&&", "false"]), "{}", list.out);
    assert!(rows[3].windows(2).any(|cells| cells == ["exit", "1"]), "{}", list.out);
    let column = list.out.lines().next().unwrap().find("COMMANDS").unwrap();
    assert!(list.out.lines().nth(1).unwrap()[column..].starts_with("sh -c"), "{}", list.out);
    let answer = ran(Cli::to(&daemon, "jobs").arg("--json"));
    let answer: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(answer["jobs"], peer.list().unwrap());
    let shown = |words: &[&str]| ran(Cli::to(&daemon, "jobs").args(words));
    assert_eq!(shown(&["--ids"]).out, "runs\nwaits\nover\n");
    assert_eq!(shown(&["--ids", "--state", "pending"]).out, "waits\n");
    assert_eq!(shown(&["--ids", "--queue", "no_queue", "--since", "1d"]).out, "over\n");
    assert_eq!(shown(&["--queues"]).out, "q\n");
    let one = shown(&["over", "none"]);
    assert_eq!((one.code(), &*one.err), (1, "sysadm-events: no such job: \"none\"\n"));
    assert!(one.out.starts_with("job                 over\nstate               finished\n"));
    assert!(one.out.contains("\nresult              [2/2] false: exit 1"), "{}", one.out);
    let commands =
        "\ncommands            true (returned 0)\n                    false (returned 1)\n";
    assert!(one.out.ends_with(commands), "{}", one.out);
    gate.open().unwrap();
    watcher.finished("waits").unwrap();
}

#[test]
fn kill_ends_jobs_and_exits_0_where_one_was_active() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "a": "sleep 1000", "b": "sleep 1000" })).unwrap();
    watcher.job_until("b", |args| args["state"] == "running").unwrap();
    let killed = ran(Cli::to(&daemon, "kill").args(["a", "nothing"]));
    assert_eq!(killed.code(), 0);
    assert_eq!(killed.out, "a: is being ended\nnothing: no such job\n");
    assert_eq!(watcher.finished("a").unwrap()["return_codes/sleep 1000"], "-15");
    let killed = ran(Cli::to(&daemon, "kill").args(["a", "nothing"]));
    assert_eq!((killed.code(), &*killed.out), (1, "a: was not active\nnothing: no such job\n"));
    assert_eq!(ran(Cli::to(&daemon, "kill").arg("b")).code(), 0);
    watcher.finished("b").unwrap();
}

#[test]
fn log_prints_the_output_of_a_job() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut gate = Gate::new(daemon.directory(), "gate").unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    let command =
        format!("sh -c 'printf \"\\033[1mso far\\n\"; {}; seq 1 20000; printf end'", gate.wait());
    let log =
        |more: &[&str]| Cli::to(&daemon, "log").args(more).arg("j").run_with_input(b"").unwrap();
    peer.run(&json!({ "j": command })).unwrap();
    watcher.job_printed("j", &command, "so far\n").unwrap();
    let so_far = log(&[]);
    assert_eq!((so_far.code(), &*so_far.out, &*so_far.err), (0, "\u{1b}[1mso far\n", ""));
    gate.open().unwrap();
    watcher.finished("j").unwrap();
    let numbers: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    let whole = log(&[]);
    assert_eq!((whole.code(), &*whole.err), (0, ""));
    assert_eq!(whole.out, format!("\u{1b}[1mso far\n{numbers}end"));
    // On a terminal control characters are escaped, unless raw output is requested.
    let shown = Cli::to(&daemon, "log").arg("j").start_on_terminal().unwrap().wait().unwrap();
    assert!(shown.out.starts_with("so far\n1\n2\n"), "{:?}", &shown.out[..40]);
    let raw =
        Cli::to(&daemon, "log").args(["--raw", "j"]).start_on_terminal().unwrap().wait().unwrap();
    assert!(raw.out.starts_with("\u{1b}[1mso far\n"), "{:?}", &raw.out[..40]);
    let unknown = ran(Cli::to(&daemon, "log").arg("unknown"));
    assert_eq!((unknown.code(), &*unknown.out), (64, ""));
    assert!(unknown.err.contains("no such job: \"unknown\""), "{}", unknown.err);
    assert!(unknown.err.contains("\"sysadm-events jobs\" lists"), "{}", unknown.err);
}

#[test]
fn errors_of_the_system_are_shown_without_their_number() {
    let directory = Directory::new().unwrap();
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup.start().unwrap();
    let missing = directory.join("missing").display().to_string();
    let cwd = json!({ "action": "submit", "id": "j", "commands": ["true"], "cwd": missing });
    let mut watcher = Peer::watcher(&daemon).unwrap();
    watcher.request("rpc", "dispatcher", &cwd).unwrap();
    let failed = watcher.finished("j").unwrap().to_string();
    assert!(failed.contains("cannot enter the directory"), "{failed}");
    let keyed = ["--url", "ws://127.0.0.1:1", "--key", &missing];
    for said in [
        failed,
        ran(Cli::of(PROGRAM, "jobs").args(["--socket", &missing])).err,
        ran(Cli::of(PROGRAM, "jobs").args(keyed)).err,
        ran(Cli::of(PROGRAM, "check").args(["-c", &missing])).err,
        ran(Cli::of(PROGRAM, "serve").args(["-c", &missing])).err,
        ran(Cli::of(PROGRAM, "key").args(["add", "root", &missing])).err,
        ran(Cli::of(PROGRAM, "jobs").args(["--url", "ws://127.0.0.1:1"])).err,
    ] {
        assert!(!said.contains("os error"), "{said}");
        assert!(!said.is_empty());
    }
}

#[test]
fn status_shows_the_state_of_the_daemon() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    Peer::local(&daemon).unwrap().run(&json!({ "j": "true" })).unwrap();
    watcher.finished("j").unwrap();
    let page = ran(Cli::to(&daemon, "status"));
    assert_eq!((page.code(), &*page.err), (0, ""));
    let line =
        |name: &str| page.out.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(line("host"), format!("host      {host}"));
    assert!(line("daemon").contains(&format!("pid {}", daemon.process().0)), "{}", page.out);
    assert_eq!(line("jobs"), "jobs      0 running, 0 pending, 1 finished");
    let answer = ran(Cli::to(&daemon, "status").arg("--json"));
    let answer: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(answer["pid"], daemon.process().0);
    assert_eq!(answer["jobs"], json!({ "pending": 0, "running": 0, "finished": 1 }));
    assert_eq!(answer["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn call_prints_the_reply_and_exits_1_for_an_error() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let call = |words: &[&str]| ran(Cli::to(&daemon, "call").args(words));
    let reply = call(&["rpc", "identify"]);
    assert_eq!((reply.code(), &*reply.err), (0, ""));
    let args: Value = serde_json::from_str(&reply.out).unwrap();
    assert_eq!(args["type"], "server");
    assert_eq!(reply.out.lines().count(), 1);
    let reply = call(&["rpc", "dispatcher", r#"{"action": "run", "j": "echo ü"}"#]);
    assert_eq!((reply.code(), &*reply.out), (0, "{\"started\":[\"j\"]}\n"));
    for (words, said) in [
        (&["rpc", "dispatcher", r#"{"action": "dance"}"#][..], "400"),
        (&["rpc", "dispatcher", "5"], "400"),
        (&["rpc", "nothing"], "404"),
        (&["weather", "tomorrow"], "404"),
    ] {
        let refused = call(words);
        assert_eq!((refused.code(), &*refused.out), (1, ""), "{words:?}");
        assert!(refused.err.contains(said), "{words:?}: {}", refused.err);
    }
}

#[test]
fn the_fingerprint_is_that_of_the_certificate_that_is_shown() {
    let setup = Setup::new(PROGRAM).unwrap();
    setup.write().unwrap();
    let early = ran(Cli::of(PROGRAM, "fingerprint").arg("-c").arg(setup.file()));
    assert_eq!((early.code(), &*early.out), (78, ""));
    assert!(early.err.contains("cert.pem") && early.err.contains("serve"), "{}", early.err);
    let daemon = setup.start().unwrap();
    let received = ran(Cli::of(PROGRAM, "fingerprint").arg("-c").arg(setup.file()));
    assert_eq!((received.code(), received.out), (0, format!("{}\n", daemon.fingerprint())));
    assert_eq!(daemon.fingerprint().len(), 64);
}

#[test]
fn check_reports_faults_with_file_line_and_suggestion() {
    let directory = Directory::new().unwrap();
    let file = directory.join("c.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        ran(Cli::of(PROGRAM, "check").arg("-c").arg(&file))
    };
    let name = file.display().to_string();
    // Paths that every host has, and a state directory of the test's own.
    let state = directory.join("state");
    let there = format!(
        "[server]\nlisten = [\"127.0.0.1:12150\"]\n[auth]\nfull_access_groups = [\"daemon\"]\n\
         read_only_groups = []\n[life_preserver]\nlog = \"{name}\"\n[system_state]\nzpool = \"/bin/sh\"\n\
         [paths]\nstate = {state:?}\n[relay]\nstate = \"{name}.relay\"\n"
    );
    let good = check(&there);
    assert_eq!((good.code(), good.out, &*good.err), (0, format!("{name}: ok\n"), ""));
    assert_eq!(check("").code(), 0);
    for (text, said) in [
        (
            "[server]\n\nlisen = []\n",
            format!("{name}:3: unknown key \"lisen\" in [server]; did you mean \"listen\"?"),
        ),
        ("[dispatcher]\nmax_running = 0\n", format!("{name}:2: ")),
        ("[dispatcher]\nkill_grace = \"5 parsecs\"\n", format!("{name}:2: ")),
        ("[server]\nlisten_plain = [\"192.0.2.1:80\"]\n", format!("{name}:2: ")),
        ("\n\n[server\n", format!("{name}:3: ")),
        (
            "[server]\nlisten = [\"127.0.0.1:1\"\nmax_clients = 5\n[log]\nlevel = \"info\"\n",
            format!("{name}:2: unclosed array, expected `]`\n"),
        ),
    ] {
        let bad = check(text);
        assert_eq!((bad.code(), &*bad.out), (1, ""), "{text}");
        assert!(bad.err.contains(&said), "{text}: {}", bad.err);
        assert_eq!(bad.err.lines().count(), 1, "{text}: {}", bad.err);
    }
    let two = check("[server]\nlisen = []\n[log]\nlevle = 1\n");
    assert!(two.err.contains(":2: ") && two.err.contains(":4: "), "all of them: {}", two.err);
    let none = ran(Cli::of(PROGRAM, "check").arg("-c").arg(directory.join("none.toml")));
    assert_eq!(none.code(), 1);
    assert!(none.err.contains("none.toml") && none.err.contains("cannot be read"), "{}", none.err);
}

#[test]
fn check_warns_of_names_missing_on_the_host_and_exits_0() {
    let directory = Directory::new().unwrap();
    let file = directory.join("c.toml");
    let text = "[auth]\nfull_access_groups = [\"daemon\", \"no-such-group-1\"]\n\
                read_only_groups = [\"no-such-group-2\"]\n[system_state]\nzpool = \"/nothing/zpool\"\n\
                [life_preserver]\nlog = \"/nothing/lp.log\"\n[[life_preserver.source]]\n\
                log = \"/dev/null\"\nrule = \"sanoid\"\n";
    std::fs::write(&file, text).unwrap();
    let checked = ran(Cli::of(PROGRAM, "check").arg("-c").arg(&file));
    assert_eq!((checked.code(), checked.out), (0, format!("{}: ok\n", file.display())));
    for warning in [
        "there is no group \"no-such-group-1\" on this host (auth.full_access_groups)",
        "there is no group \"no-such-group-2\" on this host (auth.read_only_groups)",
        "/nothing/zpool not found",
        "the log /nothing/lp.log is not there",
        "the log /dev/null cannot be followed: it is not a regular file",
    ] {
        assert!(checked.err.contains(&format!("warning: {warning}")), "{warning}: {}", checked.err);
    }
    assert!(!checked.err.contains("\"daemon\""), "{}", checked.err);
}

#[test]
fn check_runs_the_samples_of_rule_files() {
    let directory = Directory::new().unwrap();
    // The configuration itself lies beside the directory of the rules.
    let own = Directory::new().unwrap();
    let file = own.join("c.toml");
    let text = format!("[life_preserver]\nrules_dir = {:?}\n", directory.path());
    std::fs::write(&file, text).unwrap();
    let rules = |samples: &str| {
        let rule = "[program]\nextends = \"sanoid\"\n[samples]\nlines = '''\n";
        std::fs::write(directory.join("mine.toml"), format!("{rule}{samples}\n'''\n")).unwrap();
        ran(Cli::of(PROGRAM, "check").arg("-c").arg(&file))
    };
    let good = rules("INFO: taking snapshot tank/a@x\n\t=> snapshot\t0\ttank/a");
    assert_eq!(good.code(), 0, "{}", good.err);
    let wrong = rules("INFO: taking snapshot tank/a@x\n\t=> snapshot\t7\ttank/a\nCRIT: bad");
    assert_eq!((wrong.code(), &*wrong.out), (1, ""));
    for said in ["mine.toml: \"INFO: taking", "the sample wants snapshot 7 tank/a", "\"CRIT: bad"] {
        assert!(wrong.err.contains(said), "{said}: {}", wrong.err);
    }
}

#[test]
fn sample_configuration_is_valid() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/sysadm-events.toml.sample");
    let good = alone(&["check", "-c", sample]);
    assert_eq!((good.code(), good.out), (0, format!("{sample}: ok\n")));
}

/// A shell command that enters a network namespace with IPv4's loopback and without IPv6.
const NO_IPV6: &str = "ip link set lo up; \
    test ! -e /proc/sys/net/ipv6 || echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; exec \"$@\"";

#[test]
fn host_without_ipv6_is_served_over_ipv4() {
    let alone = ["unshare", "-n", "sh", "-ec", NO_IPV6, "sh"];
    let works = std::process::Command::new(alone[0]).args(&alone[1..]).arg("true").output();
    if !works.is_ok_and(|output| output.status.success()) {
        return support::skip("it takes root, unshare(1) and ip(8)");
    }
    let setup = Setup::new(PROGRAM).unwrap().under(alone);
    let setup = setup.with("server.listen", "[\"127.0.0.1:0\", \"[::1]:0\"]");
    let daemon = setup.start().unwrap();
    daemon.log().wait("not listening on [::1]:0: this host has no IPv6").unwrap();
    assert_eq!(ran(Cli::to(&daemon, "jobs")).code(), 0);
    // A reload changes nothing.
    daemon.signal(Signal::SIGHUP).unwrap();
    daemon.log().wait("reloaded").unwrap();
    // Without any usable address it cannot serve.
    let deaf = Setup::new(PROGRAM).unwrap().under(alone).with("server.listen", "[\"[::1]:0\"]");
    let deaf = deaf.with("server.listen_plain", "[]").with("server.socket", "\"\"");
    assert_eq!(deaf.launch().unwrap().wait().unwrap().0.code(), Some(69));
}

#[test]
fn daemon_start_failure_is_reported_with_its_exit_code() {
    let setup = Setup::new(PROGRAM).unwrap();
    let mut wrong = setup.clone().with_lines("[server]\nlisen = 1\n").launch().unwrap();
    assert_eq!(wrong.wait().unwrap().0.code(), Some(78));

    let daemon = setup.start().unwrap();
    let taken = Setup::new(PROGRAM).unwrap().with("server.listen", format!("[{:?}]", daemon.tls()));
    let (status, lines) = taken.launch().unwrap().wait().unwrap();
    assert_eq!(status.code(), Some(69), "{lines:?}");
    let said = lines.join("\n");
    assert!(said.contains(daemon.tls()) && said.contains("in use"), "{said}");

    let damaged = Setup::new(PROGRAM).unwrap();
    std::fs::write(damaged.directory().join("cert.pem"), "no certificate").unwrap();
    std::fs::write(damaged.directory().join("key.pem"), "no key").unwrap();
    let (status, lines) = damaged.launch().unwrap().wait().unwrap();
    assert_eq!(status.code(), Some(78), "{lines:?}");
    assert!(lines.join("\n").contains("cert.pem"), "{lines:?}");
}

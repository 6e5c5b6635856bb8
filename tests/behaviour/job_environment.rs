//! The environment of a job: the same whatever the environment of the daemon.

use std::collections::BTreeMap;

use nix::unistd::{Uid, User};
use serde_json::{Value, json};
use support::{Daemon, Outcome, Peer, Setup, Transport};

use super::{PROGRAM, ourselves};

/// Submits a job of one command; returns its code and its output.
fn ran(daemon: &Daemon, command: Value, more: Value) -> Outcome<(String, String)> {
    let mut watcher = Peer::watcher(daemon)?;
    let mut job = json!({ "id": "j", "commands": [command] });
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Peer::local(daemon)?.submit(&job)?;
    let finished = watcher.finished("j")?;
    let shown = finished["cmd_list"][0].as_str().ok_or("no command")?.to_owned();
    let text = |key: &str| finished[key].as_str().unwrap_or("(nothing)").to_owned();
    Ok((text(&format!("return_codes/{shown}")), text(&shown)))
}

fn output(daemon: &Daemon, command: &str) -> String {
    let (code, output) = ran(daemon, json!(command), json!({})).unwrap();
    assert_eq!(code, "0", "{command}: {output}");
    output
}

fn variables(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

const PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin";

#[test]
fn a_job_has_a_fixed_environment_and_nothing_of_the_daemons() {
    let setup = Setup::new(PROGRAM).unwrap();
    let daemon = setup
        .with_env("SECRET", "x")
        .with_env("PATH", "/nowhere:/usr/bin:/bin")
        .with_env("HOME", "/nowhere")
        .with_env("USER", "nobody-at-all")
        .with_env("LANG", "de_DE.ISO8859-1")
        .with_env("LD_LIBRARY_PATH", "/nowhere")
        .start()
        .unwrap();
    let text = output(&daemon, "env");
    let mut found = variables(&text);
    // This one identifies the processes of a job where the kernel does not track them.
    assert!(found.remove("SYSADM_JOB").is_some(), "{text}");
    let (user, home) = ourselves();
    let expected = [("HOME", &*home), ("LANG", "C.UTF-8"), ("PATH", PATH), ("USER", &*user)];
    assert_eq!(found, BTreeMap::from(expected), "{text}");
}

#[test]
fn requested_variables_are_added_and_override_fixed_ones() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let env =
        json!({ "A": "1 = 2", "EMPTY": "", "LANG": "C", "HOME": "/h", "USER": "u", "Ü": "ü" });
    let (_, text) = ran(&daemon, json!("env"), json!({ "env": env })).unwrap();
    let mut found = variables(&text);
    found.remove("SYSADM_JOB");
    let expected = [
        ("A", "1 = 2"),
        ("EMPTY", ""),
        ("LANG", "C"),
        ("HOME", "/h"),
        ("USER", "u"),
        ("Ü", "ü"),
        ("PATH", PATH),
    ];
    assert_eq!(found, BTreeMap::from(expected), "{text}");
    for (env, code) in [
        (json!({ "A": 1 }), 400),
        (json!({ "": "1" }), 400),
        (json!({ "A=B": "1" }), 400),
        (json!({ "A": "1\u{0}" }), 400),
        (json!(["A=1"]), 400),
        (json!({ "A": "x".repeat(33_000) }), 413),
    ] {
        let job = json!({ "commands": ["env"], "env": env });
        assert_eq!(Peer::local(&daemon).unwrap().submit_refused(&job).unwrap().code, code, "{env}");
    }
}

#[test]
fn job_runs_in_the_root_or_the_requested_directory() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    assert_eq!(output(&daemon, "pwd -P"), "/\n");
    let directory = std::fs::canonicalize(daemon.directory().path()).unwrap();
    let (_, text) = ran(&daemon, json!("pwd -P"), json!({ "cwd": directory })).unwrap();
    assert_eq!(text, format!("{}\n", directory.display()));
    let (code, text) = ran(&daemon, json!("true"), json!({ "cwd": "/nowhere/at/all" })).unwrap();
    assert_eq!(code, "-1");
    assert!(text.starts_with("cannot enter the directory /nowhere/at/all: No such file"), "{text}");
    for cwd in [json!("relative"), json!(""), json!("/a\u{0}"), json!(5), json!("/x".repeat(600))] {
        let job = json!({ "commands": ["true"], "cwd": cwd });
        assert_eq!(Peer::local(&daemon).unwrap().submit_refused(&job).unwrap().code, 400, "{cwd}");
    }
}

#[test]
fn program_without_a_slash_is_found_in_the_jobs_path() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start(PROGRAM).unwrap();
    let program = daemon.directory().join("own-program");
    // No interpreter line: run by sh(1), as everywhere.
    std::fs::write(&program, "echo \"$0 $# $1\"\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("/nowhere:{}", daemon.directory().path().display());
    let (code, text) = ran(&daemon, json!("own-program"), json!({})).unwrap();
    assert_eq!((&*code, text.contains("cannot run own-program")), ("-1", true), "{text}");
    let more = json!({ "env": { "PATH": path } });
    let (code, text) = ran(&daemon, json!("own-program 'a b' c"), more.clone()).unwrap();
    assert_eq!((code.as_str(), text), ("0", format!("{} 2 a b\n", program.display())));
    // A script may have as many arguments as a program.
    let many: Vec<String> =
        ["own-program".to_owned()].into_iter().chain((0..1000).map(|n| n.to_string())).collect();
    let (code, text) = ran(&daemon, json!(many), more).unwrap();
    assert_eq!((code.as_str(), text), ("0", format!("{} 1000 0\n", program.display())));
}

#[test]
fn words_are_passed_unchanged() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let words = json!(["printf", "%s|", "a b", "", "$HOME", "'", "\"", "*", "ü\n"]);
    let (code, text) = ran(&daemon, words, json!({})).unwrap();
    assert_eq!((&*code, &*text), ("0", "a b||$HOME|'|\"|*|ü\n|"));
    for commands in [
        json!([[]]),
        json!([[""]]),
        json!([["true", 5]]),
        json!([["a\u{0}"]]),
        json!([5]),
        json!("true"),
        json!(null),
    ] {
        let job = json!({ "commands": commands });
        assert_eq!(Peer::local(&daemon).unwrap().submit_refused(&job).unwrap().code, 400, "{job}");
    }
}

#[test]
fn files_are_made_with_a_umask_of_022() {
    let daemon = Setup::new(PROGRAM).unwrap().after_shell("umask 077").start().unwrap();
    assert_eq!(output(&daemon, "sh -c umask").trim_start_matches('0'), "22\n");
}

#[test]
fn there_is_nothing_to_read() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    assert_eq!(output(&daemon, "sh -c 'cat; echo end'"), "end\n");
    // FreeBSD's /dev/stdin is a node of its own, but its stat(1) asks about standard input.
    let is_null = if cfg!(target_os = "freebsd") {
        "test $(stat -f %r) = $(stat -f %r /dev/null)"
    } else {
        "test /dev/stdin -ef /dev/null"
    };
    assert_eq!(output(&daemon, &format!("sh -c '{is_null} && echo null'")), "null\n");
}

#[test]
fn job_has_only_the_standard_descriptors() {
    let script = "exec 3</etc/passwd 4>/dev/null 9</etc/group";
    let daemon = Setup::new(PROGRAM).unwrap().after_shell(script).start().unwrap();
    // Descriptors of the daemon itself must not be there either.
    let clients: Vec<Peer> =
        Transport::ALL.map(|transport| Peer::known(&daemon, transport).unwrap()).into();
    let mut watcher = Peer::watcher(&daemon).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    peer.run(&json!({ "other": "sleep 1000" })).unwrap();
    watcher.job_until("other", |args| args["state"] == "running").unwrap();
    let text = if cfg!(target_os = "linux") {
        output(&daemon, "sh -c 'ls /proc/$$/fd'")
    } else {
        // FreeBSD without fdescfs: those with one digit can be tried.
        output(
            &daemon,
            "sh -c 'for n in 0 1 2 3 4 5 6 7 8 9; do (eval \": <&$n\") 2>/dev/null && echo $n; done; true'",
        )
    };
    assert_eq!(text, "0\n1\n2\n");
    peer.kill(&json!("other")).unwrap();
    drop(clients);
}

#[test]
fn signals_that_the_daemon_was_started_to_ignore_reach_a_job() {
    let script = "trap '' HUP INT QUIT PIPE ALRM TERM USR1 USR2 CHLD TSTP TTIN TTOU";
    let daemon = Setup::new(PROGRAM).unwrap().after_shell(script).start().unwrap();
    for (name, number) in
        [("HUP", 1), ("INT", 2), ("QUIT", 3), ("PIPE", 13), ("ALRM", 14), ("TERM", 15)]
    {
        if name == "QUIT" && cfg!(target_os = "freebsd") {
            // sh(1) catches it there.
            continue;
        }
        let command = format!("sh -c 'kill -{name} $$; echo ignored'");
        let (code, text) = ran(&daemon, json!(command), json!({})).unwrap();
        assert_eq!((code, &*text), (format!("-{number}"), ""), "{name}");
    }
    if cfg!(target_os = "linux") {
        let text = output(&daemon, "grep -E 'Sig(Blk|Ign)' /proc/self/status");
        assert!(text.lines().count() == 2, "{text}");
        for line in text.lines() {
            let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            // 32 and 33 are the C library's own; its posix_spawn leaves them ignored.
            assert_eq!(mask & !(0b11 << 31), 0, "{text}");
        }
    }
    // A shell cannot end its children by a signal that they ignore from the beginning.
    let nested = "sh -c 'sleep 1000 & kill -HUP $!; wait $!; echo code $?'";
    assert!(output(&daemon, nested).ends_with("code 129\n"));
}

#[test]
fn a_job_leads_a_process_group_and_a_session_of_its_own() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let text = output(&daemon, "sh -c 'ps -o pid= -o pgid= -o ppid= -p $$'");
    let ids: Vec<u32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(ids[0], ids[1], "{text}");
    assert_eq!(ids[2], daemon.process().0, "{text}");
    if cfg!(target_os = "linux") {
        let text = output(&daemon, "sh -c 'ps -o pid= -o sid= -p $$'");
        let ids: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(ids[0], ids[1]);
    }
}

#[test]
fn job_has_the_descriptor_limit_of_the_daemons_start() {
    let daemon = Setup::new(PROGRAM).unwrap().after_shell("ulimit -Sn 123").start().unwrap();
    assert_eq!(output(&daemon, "sh -c 'ulimit -Sn'"), "123\n");
}

#[test]
fn job_runs_as_the_requested_user() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let (name, _) = ourselves();
    let uid = Uid::effective().as_raw();
    for own in [json!(name), json!(uid), json!(uid.to_string()), json!(null)] {
        // An unprivileged daemon cannot even become its own user, because that sets the groups.
        if !own.is_null() && !Uid::effective().is_root() {
            continue;
        }
        let (code, text) = ran(&daemon, json!("id -u"), json!({ "user": own })).unwrap();
        assert_eq!((&*code, text), ("0", format!("{uid}\n")));
    }
    let (code, text) = ran(&daemon, json!("id"), json!({ "user": "no-such-user" })).unwrap();
    assert_eq!((&*code, &*text), ("-1", "there is no user no-such-user\n"));
    // A sign, a blank and a leading zero make neither a name nor a number.
    let texts = ["", "a\nb", "+0", "-0", " 0", "0 ", "00", "+root", "4294967295", "4294967296"];
    let others = [json!(-1), json!(1.5), json!(4_294_967_295_u32), json!(true), json!(["root"])];
    for bad in texts.map(|text| json!(text)).into_iter().chain(others) {
        let job = json!({ "commands": ["id"], "user": bad });
        assert_eq!(Peer::local(&daemon).unwrap().submit_refused(&job).unwrap().code, 400, "{bad}");
    }
    if !Uid::effective().is_root() {
        let (code, text) = ran(&daemon, json!("id"), json!({ "user": "root" })).unwrap();
        assert_eq!(code, "-1");
        assert!(text.starts_with("cannot become the user root: "), "{text}");
        return;
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let home = nobody.dir.display().to_string();
    let show = "sh -c 'id -u; id -g; id -G; echo $HOME $USER; umask; pwd'";
    let expected = format!("{0}\n{1}\n{1}\n{home} nobody\n0022\n/\n", nobody.uid, nobody.gid);
    for user in [json!("nobody"), json!(nobody.uid.as_raw()), json!(nobody.uid.to_string())] {
        let (code, text) = ran(&daemon, json!(show), json!({ "user": user })).unwrap();
        assert_eq!((&*code, &*text), ("0", &*expected), "{user}");
    }
    // A number that nobody has: a group of the same number, and no group of ours.
    let (code, text) =
        ran(&daemon, json!("sh -c 'id -u; id -g; id -G'"), json!({ "user": 54321 })).unwrap();
    assert_eq!((&*code, &*text), ("0", "54321\n54321\n54321\n"));
    if cfg!(target_os = "freebsd") {
        // A shell of FreeBSD has it as its user everywhere, not only in the environment.
        for (user, login) in [(json!("nobody"), "nobody\n"), (json!(54321), "")] {
            let (_, text) = ran(&daemon, json!("logname"), json!({ "user": user })).unwrap();
            assert!(
                if login.is_empty() { !text.contains("root") } else { text == login },
                "{text}"
            );
        }
    }
    // The directory is entered as that user.
    let private = daemon.directory().path();
    let (code, text) =
        ran(&daemon, json!("pwd"), json!({ "user": "nobody", "cwd": private })).unwrap();
    assert_eq!(code, "-1");
    assert!(
        text.contains("cannot enter the directory") && text.contains("Permission denied"),
        "{text}"
    );
    // It cannot regain its privileges.
    let (code, _) =
        ran(&daemon, json!("cat /etc/master.passwd /etc/shadow"), json!({ "user": "nobody" }))
            .unwrap();
    assert_ne!(code, "0");
}

#[test]
fn submit_rejects_unknown_keys() {
    let daemon = Daemon::start(PROGRAM).unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    for bad in [
        json!({ "commands": ["true"], "tiemout": 5 }),
        json!({ "commands": ["true"], "timeout": 0 }),
        json!({ "commands": ["true"], "timeout": -1 }),
        json!({ "commands": ["true"], "timeout": "5" }),
        json!({ "commands": ["true"], "timeout": 1e18 }),
        json!({ "commands": ["true"], "id": "" }),
        json!({ "commands": ["true"], "id": 5 }),
        json!({ "commands": ["true"], "queue": "" }),
        json!({ "commands": ["true"], "queue": "a\nb" }),
        json!({ "commands": ["true"], "queue": "x".repeat(129) }),
        json!({ "commands": [] }),
        json!({ "id": "j" }),
    ] {
        let refused = peer.submit_refused(&bad).unwrap();
        assert_eq!(refused.code, 400, "{bad}: {refused:?}");
    }
    let refused = peer.submit_refused(&json!({ "commands": ["true"], "tiemout": 5 })).unwrap();
    assert!(refused.message.contains("timeout"), "{refused:?}");
    assert_eq!(peer.list().unwrap(), json!({ "no_queue": {} }), "none of them became a job");
    let ids = [
        peer.submit(&json!({ "commands": ["true"] })).unwrap(),
        peer.submit(&json!({ "commands": ["true"] })).unwrap(),
    ];
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| id.starts_with("true-")), "named by the program: {ids:?}");
}

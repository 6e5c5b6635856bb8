//! Notifications by webhook, mail and command, and the queue that they wait in.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};
use support::{Cli, Daemon, Peer, Reply, Setup, Webhook, append, skip, snapshots};

use super::PROGRAM;

/// A target without a digest; `more` are further keys.
fn target(name: &str, destination: &str, more: &str) -> String {
    format!("[[notify]]\nname = \"{name}\"\n{destination}\ndigest = \"0s\"\n{more}\n")
}

fn webhook(name: &str, server: &Webhook, more: &str) -> String {
    let url = format!("webhook = \"http://{}/hook-{name}\"", server.address());
    target(name, &url, &format!("events = [\"dispatcher\"]\n{more}"))
}

/// Submits a job that fails, and waits for its end.
fn fail(peer: &mut Peer, id: &str) {
    peer.submit(&json!({ "id": id, "commands": ["false"] })).unwrap();
    peer.job_until(id, |args| args["state"] == "finished").unwrap();
}

fn watcher(daemon: &Daemon) -> Peer {
    Peer::watcher(daemon).unwrap()
}

/// Waits until the target has accepted everything, and the daemon knows it.
fn wait_until_empty(daemon: &Daemon) {
    let mut peer = Peer::local(daemon).unwrap();
    let begun = std::time::Instant::now();
    loop {
        let status = peer.request("rpc", "status", &json!({})).unwrap();
        assert_eq!(status["notifications"][0]["name"], "a");
        if status["notifications"][0]["waiting"] == 0 {
            return;
        }
        assert!(begun.elapsed() < support::PATIENCE, "{}", status["notifications"]);
    }
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Keys of the entries of all messages, each with the ids of the messages that had it.
fn ids_by_key(messages: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in messages {
        for entry in message["entries"].as_array().unwrap() {
            let key = entry["key"].as_str().unwrap().to_owned();
            found.entry(key).or_default().push(message["id"].as_str().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn failed_job_reaches_a_webhook_signed_and_with_headers() {
    let server = Webhook::start([]).unwrap();
    let setup = Setup::new(PROGRAM).unwrap();
    let (secret, headers) = (setup.directory().join("secret"), setup.directory().join("headers"));
    write_private(&secret, "hush-hush\n");
    write_private(&headers, "Authorization: Bearer very-secret-token\n");
    let files = format!("secret_file = {secret:?}\nheaders_file = {headers:?}\n");
    let setup = setup.with_lines(&webhook("own", &server, &files));
    let daemon = setup.start().unwrap();
    let mut peer = watcher(&daemon);
    peer.submit(&json!({ "id": "fine", "commands": ["true"] })).unwrap();
    fail(&mut peer, "backup");
    let request = server.next().unwrap();
    assert_eq!(request.line, "POST /hook-own");
    assert_eq!(request.header("authorization"), "Bearer very-secret-token");
    let signature = sysadm_events::notify::signature(b"hush-hush", request.body.as_bytes());
    assert_eq!(request.header("x-sysadm-events-signature"), signature);
    let message = request.json().unwrap();
    assert_eq!(message["id"], request.header("x-sysadm-events-id"));
    let subject = message["subject"].as_str().unwrap();
    assert!(
        subject.ends_with(": job backup failed (exit code 1): false (6 Critical)"),
        "{subject}"
    );
    assert_eq!(message["entries"][0]["event"], "dispatcher");
    assert_eq!(message["entries"].as_array().unwrap().len(), 1);
    // A file that others may read is refused, and no line has the secret in it.
    fs::set_permissions(&headers, fs::Permissions::from_mode(0o644)).unwrap();
    fail(&mut peer, "again");
    daemon.log().wait("only its owner may read it (chmod 600)").unwrap();
    let log = daemon.log().lines().join("\n");
    for part in ["very-secret", "hush", "hook-own"] {
        assert!(!log.contains(part), "{log}");
    }
    assert!(server.all().is_empty());
}

#[test]
fn delivery_that_fails_is_repeated_with_the_same_id() {
    let other = Webhook::start([]).unwrap();
    let leads_away = format!("location: http://{}/stolen\r\n", other.address());
    let scripts = [
        ("busy", vec![Reply::with(429, "retry-after: 1\r\n", "")], 2),
        ("broken", vec![Reply::with(500, "", "out of order")], 2),
        ("hangs", vec![Reply::Hang], 2),
        ("closes", vec![Reply::Close], 2),
        ("moved", vec![Reply::with(308, "location: /new\r\n", "")], 2),
        ("away", vec![Reply::with(302, &leads_away, "")], 2),
        ("long", vec![Reply::with(200, "", vec![b'x'; 10 * 1024 * 1024])], 1),
    ];
    let mut setup = Setup::new(PROGRAM).unwrap();
    let mut servers = Vec::new();
    for (name, replies, requests) in scripts {
        let server = Webhook::start(replies).unwrap();
        let deadline = if name == "hangs" { "deadline = \"500ms\"" } else { "" };
        setup = setup.with_lines(&webhook(name, &server, deadline));
        servers.push((name, server, requests));
    }
    let daemon = setup.start().unwrap();
    let mut peer = watcher(&daemon);
    fail(&mut peer, "one");
    for (name, server, requests) in &servers {
        let first = server.next().unwrap();
        for _ in 1..*requests {
            let again = server.next().unwrap();
            assert_eq!(again.body, first.body, "{name}");
            let path = if *name == "moved" { "POST /new" } else { first.line.as_str() };
            assert_eq!(again.line, path);
        }
    }
    // An accepted event is not sent again, and the next one follows.
    fail(&mut peer, "two");
    for (name, server, _) in &servers {
        let next = server.next().unwrap().json().unwrap();
        assert_eq!(next["entries"][0]["key"], "two", "{name}");
    }
    assert!(other.all().is_empty(), "a redirect to another host was followed");
    let log = daemon.log().lines().join("\n");
    for part in ["status 500: out of order", "no outcome within 500ms", "is not followed"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn webhook_with_tls_is_verified_by_ca_file() {
    let server = Webhook::start_tls().unwrap();
    let setup = Setup::new(PROGRAM).unwrap();
    let ca = setup.directory().join("ca.pem");
    fs::write(&ca, &server.certificate).unwrap();
    let url = format!("webhook = \"https://localhost:{}/x\"", server.port());
    let more = format!("format = \"ntfy\"\nevents = [\"dispatcher\"]\nca_file = {ca:?}");
    let setup = setup.with_lines(&target("tls", &url, &more));
    // The system does not know that authority.
    let events = "events = [\"dispatcher\"]";
    let daemon = setup.with_lines(&target("system", &url, events)).start().unwrap();
    fail(&mut watcher(&daemon), "job");
    let request = server.next().unwrap();
    assert_eq!(request.header("priority"), "4");
    assert!(request.header("title").contains("job job failed"), "{request:?}");
    daemon.log().wait("notification system: https://localhost:").unwrap();
    assert!(server.all().is_empty());
}

#[test]
fn command_and_mail_program_get_the_message_without_a_shell() {
    let setup = Setup::new(PROGRAM).unwrap();
    let record = |name: &str| {
        let (script, out) = (setup.directory().join(name), setup.directory().join("out"));
        let out = format!("{}.{name}", out.display());
        let text = format!(
            "#!/bin/sh\n{{ echo \"$@\"; cat; }} > {out}.new && mv {out}.new {out}\necho recorded\n"
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        (script, out)
    };
    let ((command, json_out), (sendmail, mail_out)) = (record("page"), record("sendmail"));
    let events = "events = [\"dispatcher\"]";
    let command = format!("command = [{command:?}, \"$(id)\", \"two words\"]");
    let mail = format!("mail = [\"root\", \"a@example.org\"]\nsendmail = {sendmail:?}");
    let setup = setup
        .with_lines(&target("page", &command, events))
        .with_lines(&target("mail", &mail, events));
    let daemon = setup.start().unwrap();
    let mut peer = watcher(&daemon);
    fail(&mut peer, "nightly");
    let wait_for = |path: &str, part: &str| {
        let mut text = fs::read_to_string(path).unwrap_or_default();
        let begun = std::time::Instant::now();
        while !text.contains(part) {
            assert!(begun.elapsed() < support::PATIENCE, "{path}: {text}");
            thread::yield_now();
            text = fs::read_to_string(path).unwrap_or_default();
        }
        text
    };
    let text = wait_for(&json_out, "nightly");
    let (arguments, message) = text.split_once('\n').unwrap();
    assert_eq!(arguments, "$(id) two words");
    let message: Value = serde_json::from_str(message).unwrap();
    assert_eq!(message["entries"][0]["key"], "nightly");
    let mail = wait_for(&mail_out, "nightly");
    assert!(mail.starts_with("-t -oi\nTo: root, a@example.org\nSubject: "), "{mail}");
    assert!(mail.contains("\n  show:     sysadm-events log nightly\n"), "{mail}");
}

#[test]
fn events_of_a_log_are_joined_in_a_digest() {
    let server = Webhook::start([]).unwrap();
    let lines = webhook("logs", &server, "priority = 0")
        .replace("\"dispatcher\"", "\"life-preserver\"")
        .replace("digest = \"0s\"", "digest = \"1s\"");
    let setup = Setup::following(PROGRAM).unwrap().with_lines(&lines);
    let daemon = setup.start().unwrap();
    append(&setup.log(), snapshots(0..40)).unwrap();
    let mut keys = Vec::new();
    let mut messages = 0;
    while keys.len() < 40 {
        let message = server.next().unwrap().json().unwrap();
        let entries = message["entries"].as_array().unwrap();
        keys.extend(entries.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()));
        messages += 1;
    }
    assert_eq!(keys, support::snapshot_messages(0..40));
    assert!(messages <= 3, "{messages} messages");
    drop(daemon);
}

fn emit(daemon: &Daemon, words: &[&str]) {
    let emitted = Cli::to(daemon, "emit").args(words).run().unwrap();
    assert_eq!(emitted.code(), 0, "{emitted:?}");
}

/// `webhook` for alerts.
fn alerts(name: &str, address: &str, more: &str) -> String {
    let url = format!("webhook = \"http://{address}/hook-{name}\"");
    target(name, &url, &format!("events = [\"alert\", \"notice\"]\n{more}"))
}

#[test]
fn alert_is_reported_when_raised_and_cleared_also_after_a_crash() {
    let server = Webhook::start([]).unwrap();
    let setup = Setup::new(PROGRAM).unwrap().with_lines(&alerts("a", server.address(), ""));
    let daemon = setup.start().unwrap();
    emit(&daemon, &["--key", "disk", "--priority", "9", "disk ada0 is dying"]);
    let raised = server.next().unwrap().json().unwrap();
    let entry = &raised["entries"][0];
    assert_eq!(
        (&entry["state"], &entry["message"]),
        (&json!("raised"), &json!("disk ada0 is dying"))
    );
    let key = entry["key"].as_str().unwrap();
    let text = raised["text"].as_str().unwrap();
    assert!(text.contains(&format!("sysadm-events ack {key}")), "{text}");
    emit(&daemon, &["--priority", "7", "offsite copy done late"]);
    let notice = server.next().unwrap().json().unwrap();
    assert_eq!(notice["entries"][0]["event"], "notice");
    daemon.crash().unwrap();
    // It is active still, which is no news.
    let daemon = setup.start().unwrap();
    emit(&daemon, &["--key", "disk", "--ok", "replaced"]);
    let mut cleared = server.next().unwrap().json().unwrap();
    // The acceptance of the notice may not have been durable at the crash.
    if cleared["id"] == notice["id"] {
        cleared = server.next().unwrap().json().unwrap();
    }
    assert_eq!(cleared["entries"][0]["state"], "cleared");
    assert!(cleared["subject"].as_str().unwrap().contains(": cleared: custom/"), "{cleared}");
    assert!(server.all().is_empty());
}

#[test]
fn target_that_fails_is_an_alert_for_the_others() {
    let (good, bad) = (Webhook::start([]).unwrap(), Webhook::start([]).unwrap());
    let address = bad.address().to_owned();
    drop(bad);
    let setup = Setup::new(PROGRAM)
        .unwrap()
        .with_lines(&alerts("good", good.address(), ""))
        .with_lines(&alerts("bad", &address, ""));
    let daemon = setup.start().unwrap();
    emit(&daemon, &["--key", "disk", "--priority", "9", "disk ada0 is dying"]);
    assert_eq!(good.next().unwrap().json().unwrap()["entries"][0]["message"], "disk ada0 is dying");
    let failing = good.next().unwrap().json().unwrap();
    assert_eq!(failing["entries"][0]["key"], "notify/bad/failing");
    let bad = Webhook::start_at(&address).unwrap();
    let late = bad.next().unwrap().json().unwrap();
    assert_eq!(
        late["entries"].as_array().unwrap().len(),
        1,
        "its own alert is not sent to it: {late}"
    );
    assert_eq!(late["entries"][0]["message"], "disk ada0 is dying");
    drop(daemon);
}

#[test]
fn check_is_pinged_from_the_start_on() {
    let server = Webhook::start([Reply::status(503)]).unwrap();
    let more = "format = \"healthchecks\"\nrepeat = \"10s\"";
    let lines = webhook("hc", &server, more).replace("events = [\"dispatcher\"]\n", "");
    let daemon = Setup::new(PROGRAM).unwrap().with_lines(&lines).start().unwrap();
    for _ in 0..2 {
        let ping = server.next().unwrap();
        assert_eq!(ping.line, "POST /hook-hc");
        assert!(ping.body.ends_with(": no active alert\n"), "{}", ping.body);
    }
    drop(daemon);
}

#[test]
fn queue_survives_kills_and_a_target_that_is_down() {
    let down = Webhook::start([]).unwrap();
    let address = down.address().to_owned();
    let lines = webhook("a", &down, "");
    drop(down);
    let setup = Setup::new(PROGRAM).unwrap().with_lines(&lines);
    let mut jobs = Vec::new();
    for round in 0..4 {
        let daemon = setup.start().unwrap();
        let mut peer = watcher(&daemon);
        let id = format!("job{round}");
        fail(&mut peer, &id);
        jobs.push(id);
        // The event was published: its notification is durable.
        daemon.crash().unwrap();
    }
    let server = Webhook::start_at(&address).unwrap();
    let daemon = setup.start().unwrap();
    let mut messages = Vec::new();
    while ids_by_key(&messages).len() < jobs.len() {
        messages.push(server.next().unwrap().json().unwrap());
    }
    wait_until_empty(&daemon);
    for (key, ids) in ids_by_key(&messages) {
        assert_eq!(ids.len(), 1, "{key}: {ids:?}");
    }
    daemon.stop().unwrap();
    // Accepted events are gone.
    let daemon = setup.start().unwrap();
    fail(&mut watcher(&daemon), "last");
    let next = server.next().unwrap().json().unwrap();
    assert_eq!(next["entries"][0]["key"], "last");
    assert!(server.all().is_empty());
}

/// The seed of a generator without state elsewhere.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Kills daemon or children at moments that vary, in rounds; `NOTIFY_ROUNDS` sets their number.
#[test]
fn kills_lose_no_event_and_repeat_with_the_same_id() {
    let rounds: u64 = std::env::var("NOTIFY_ROUNDS").map_or(8, |rounds| rounds.parse().unwrap());
    let server = Webhook::start([]).unwrap();
    let setup = Setup::new(PROGRAM).unwrap().with_lines(&webhook("a", &server, ""));
    let (mut jobs, mut seed, mut restarts) = (Vec::new(), 7, 0);
    let mut requests = Vec::new();
    let mut daemon = setup.start().unwrap();
    for round in 0..rounds {
        let mut peer = watcher(&daemon);
        for number in 0..1 + random(&mut seed) % 3 {
            let id = format!("job-{round}-{number}");
            // Some are refused, some take a while, some are accepted.
            match random(&mut seed) % 40 {
                0 => server.reply(Reply::Close).unwrap(),
                1 => server.reply(Reply::status(503)).unwrap(),
                _ => {}
            }
            fail(&mut peer, &id);
            jobs.push(id);
        }
        match random(&mut seed) % 3 {
            // The deliveries alone: without its store the daemon would refuse the next job.
            0 => {
                let is_delivery = |child: &u32| {
                    support::Process(*child).name().is_ok_and(|name| name != "sysadm-store")
                };
                for child in daemon.process().children().unwrap().into_iter().filter(is_delivery) {
                    let pid = nix::unistd::Pid::from_raw(i32::try_from(child).unwrap());
                    let _ = nix::sys::signal::kill(pid, support::Signal::SIGKILL);
                }
            }
            _ => {
                daemon.crash().unwrap();
                restarts += 1;
                daemon = setup.start().unwrap();
            }
        }
        requests.extend(server.all());
    }
    // Pauses have grown meanwhile: a restart begins with the shortest one.
    server.recover().unwrap();
    daemon.crash().unwrap();
    let daemon = setup.start().unwrap();
    let accepted = |requests: &[support::Received]| {
        let accepted = requests.iter().map(|request| request.json().unwrap());
        ids_by_key(&accepted.collect::<Vec<_>>())
    };
    while accepted(&requests).len() < jobs.len() {
        requests.push(server.next().unwrap());
    }
    for (key, ids) in accepted(&requests) {
        assert!(ids.iter().all(|id| *id == ids[0]), "{key} has several ids: {ids:?}");
    }
    // One delivery is under way at a time: a kill loses the acceptance of one message at most.
    let mut acceptances: BTreeMap<String, u64> = BTreeMap::new();
    for request in requests.iter().filter(|request| request.status == 200) {
        *acceptances.entry(request.header("x-sysadm-events-id").to_owned()).or_default() += 1;
    }
    let repeated: u64 = acceptances.values().map(|count| count - 1).sum();
    assert!(repeated <= rounds, "{repeated} messages were accepted twice in {rounds} rounds");
    wait_until_empty(&daemon);
    if rounds > 20 {
        let (jobs, requests) = (jobs.len(), requests.len());
        println!(
            "{rounds} rounds, {restarts} restarts, {jobs} jobs, {requests} requests, {} messages, \
             {repeated} acceptances lost",
            acceptances.len()
        );
    }
}

/// An SMTP server in a few lines: it accepts everything, and returns the text of one mail.
fn smtp_server() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, mails) = mpsc::channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut out = stream.try_clone().unwrap();
        out.write_all(b"220 test ESMTP\r\n").unwrap();
        let (mut mail, mut in_data) = (String::new(), false);
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if in_data && line != "." {
                mail.push_str(&line);
                mail.push('\n');
                continue;
            }
            let reply = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
                "." => unreachable!("it has one character"),
                "DATA" => "354 go on",
                "QUIT" => "221 bye",
                _ => "250 fine",
            };
            in_data = line.eq_ignore_ascii_case("DATA");
            out.write_all(format!("{reply}\r\n").as_bytes()).unwrap();
            if reply == "221 bye" {
                break;
            }
        }
        let _ = sender.send(mail);
    });
    (port, mails)
}

#[test]
fn mail_passes_a_real_transfer_agent() {
    let installed = Command::new("msmtp").arg("--version").stdout(Stdio::null()).status();
    if installed.is_err() {
        return skip("there is no msmtp here");
    }
    let (port, mails) = smtp_server();
    let setup = Setup::new(PROGRAM).unwrap();
    let (file, program) = (setup.directory().join("msmtprc"), setup.directory().join("sendmail"));
    write_private(
        &file,
        &format!(
            "account default\nhost 127.0.0.1\nport {port}\nfrom nas@example.org\ntls off\nauth off\n"
        ),
    );
    // Called as sendmail, with the options of sendmail, and a file of its own.
    fs::write(&program, format!("#!/bin/sh\nexec msmtp -C {} \"$@\"\n", file.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mail = format!("mail = [\"root@example.org\"]\nsendmail = {program:?}");
    let setup = setup.with_lines(&target("mail", &mail, "events = [\"dispatcher\"]"));
    let daemon = setup.start().unwrap();
    fail(&mut watcher(&daemon), "nightly");
    let mail = mails.recv_timeout(support::PATIENCE).unwrap();
    assert!(mail.contains("Subject: ") && mail.contains("job nightly failed"), "{mail}");
    assert!(mail.contains("\nMessage-ID: <sysadm-events."), "{mail}");
    assert!(mail.contains("\n  show:     sysadm-events log nightly\n"), "{mail}");
}

#[test]
fn test_of_a_target_prints_its_reply() {
    let server =
        Webhook::start([Reply::with(200, "", "{\"queued\":1}"), Reply::status(403)]).unwrap();
    let daemon =
        Setup::new(PROGRAM).unwrap().with_lines(&webhook("a", &server, "")).start().unwrap();
    let test = |name: &str| Cli::to(&daemon, "notify").args(["--test", name]).run().unwrap();
    let tested = test("a");
    assert_eq!(tested.code(), 0, "{tested:?}");
    let accepted =
        format!("a: accepted: http://{}: status 200: {{\"queued\":1}}\n", server.address());
    assert_eq!(tested.out, accepted);
    assert_eq!(server.next().unwrap().json().unwrap()["test"], true);
    let tested = test("a");
    assert_eq!(tested.code(), 1, "{tested:?}");
    assert!(tested.out.starts_with("a: not accepted: http://"), "{tested:?}");
    let tested = test("b");
    assert!(tested.code() != 0 && tested.err.contains("configured: a"), "{tested:?}");
    let queue = Cli::to(&daemon, "notify").run().unwrap();
    assert!(queue.out.starts_with("NAME  STATE") && queue.out.contains("a     idle"), "{queue:?}");
    let log = daemon.log().lines().join("\n");
    assert!(log.contains("audit: tested notification=\"a\" user="), "{log}");
}

#[test]
fn wrong_targets_are_refused_with_line_and_reason() {
    let rows = [
        ("mail = [\"root\"]\ncolour = 1", "unknown key \"colour\" in [[notify]]"),
        ("", "needs one of mail, webhook and command"),
        ("mail = [\"root\"]\ncommand = [\"/x\"]", "needs one of mail, webhook and command"),
        ("mail = [\"a, b\"]", "is no recipient"),
        ("mail = [\"-oQ/tmp\"]", "is no recipient"),
        ("command = [\"page\"]", "is not an absolute path"),
        ("command = [\"/usr/local/bin/sysadm-events\", \"emit\"]", "would cause the next one"),
        ("webhook = \"https://u:p@h/\"", "has a user or password in it"),
        ("webhook = \"http://h/x\"\nsecret_file = \"/s\"", "in clear: write https://"),
        ("webhook = \"http://127.0.0.1:12150/x\"", "is a listener of this daemon itself"),
        ("webhook = \"https://h/x\"\nrepeat = \"99999999999999999999d\"", "is out of bounds"),
        ("webhook = \"https://h/x\"\nrepeat = \"5s\"", "is out of bounds"),
        ("webhook = \"https://h/x\"\nformat = \"nfty\"", "did you mean \"ntfy\"?"),
        ("webhook = \"https://h/x\"\nquiet = \"22-7\"", "is no time span"),
        ("mail = [\"root\"]\nformat = \"json\"", "has no meaning for mail"),
        ("webhook = \"https://h/x\"\nformat = \"ntfy\"\nsecret_file = \"/s\"", "is signed"),
    ];
    let directory = support::Directory::new().unwrap();
    let file = directory.join("wrong.toml");
    for (keys, expected) in rows {
        fs::write(&file, format!("[[notify]]\nname = \"n\"\n{keys}\n")).unwrap();
        let checked = Cli::of(PROGRAM, "check").args(["-c", file.to_str().unwrap()]).run().unwrap();
        assert_ne!(checked.code(), 0, "{keys}");
        let said = format!("{}{}", checked.out, checked.err);
        assert!(said.contains(expected) && said.contains("wrong.toml:"), "{keys}: {said}");
    }
}

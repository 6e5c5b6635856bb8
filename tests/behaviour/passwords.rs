//! Passwords of the host's accounts, by real PAM with the installed service file: users and groups
//! exist for one test only.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{
    Cli, Daemon, Directory, Group, Outcome, PATIENCE, PamService, Peer, Process, SLOWNESS, Setup,
    Transport, User, has_loopback_addresses, skip, until,
};

use super::PROGRAM;

/// The service file for Linux.
const SERVICE: &str = PamService::TEXT;

/// A daemon with its own groups.
struct Host {
    setup: Setup,
    full: Group,
    read: Group,
    _service: PamService,
}

impl Host {
    /// `None`, with a message, where that is not possible.
    fn new() -> Outcome<Option<Host>> {
        Host::with_service(SERVICE)
    }

    fn with_service(text: &str) -> Outcome<Option<Host>> {
        let Some(service) = PamService::new(text)? else { return Ok(None) };
        let (full, read) = (Group::new()?, Group::new()?);
        let setup = Setup::new(PROGRAM)?
            .with("auth.pam_service", format!("{:?}", service.name()))
            .with("auth.full_access_groups", format!("[{:?}]", full.name()))
            .with("auth.read_only_groups", format!("[{:?}]", read.name()))
            .with("auth.fail_window", r#""1s""#)
            .with("auth.check_deadline", r#""20000ms""#);
        Ok(Some(Host { setup, full, read, _service: service }))
    }
}

fn credentials(user: &str, password: &str) -> Value {
    json!({ "username": user, "password": password })
}

fn right(user: &User) -> Value {
    credentials(user.name(), User::PASSWORD)
}

/// A client authenticated by the right password.
fn known(daemon: &Daemon, user: &User) -> Outcome<Peer> {
    let mut peer = Peer::connect(daemon, Transport::Tls)?;
    peer.request("rpc", "auth", &right(user))?;
    Ok(peer)
}

/// Process number of the accounts helper, if it runs.
fn helper(daemon: &Daemon) -> Outcome<Option<i32>> {
    let status = Peer::local(daemon)?.request("rpc", "status", &json!({}))?;
    Ok(status["accounts"]["pid"].as_i64().map(i32::try_from).transpose()?)
}

#[test]
fn right_password_gives_a_token_and_the_role_of_the_groups() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.start().unwrap();
    for (group, right_of_it) in [(&host.full, "read/write"), (&host.read, "read")] {
        let user = User::new(&[group]).unwrap();
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        let token = peer.request("rpc", "auth", &right(&user)).unwrap();
        assert_eq!(token[1], 15 * 60);
        let may = peer.request("rpc", "query", &json!({})).unwrap();
        assert_eq!(may["rpc/dispatcher"], right_of_it);
        let run = json!({ "action": "run", (user.name()): "true" });
        if right_of_it == "read" {
            assert_eq!(peer.refused("rpc", "dispatcher", &run).unwrap().code, 403);
            let list = json!({ "action": "list" });
            peer.request("rpc", "dispatcher", &list).unwrap();
        } else {
            peer.request("rpc", "dispatcher", &run).unwrap();
        }
        let mut later = Peer::connect(&daemon, Transport::Plain).unwrap();
        later.request("rpc", "auth_token", &json!({ "token": token[0] })).unwrap();
        assert_eq!(later.request("rpc", "query", &json!({})).unwrap(), may);
    }
}

#[test]
fn user_of_neither_group_is_refused_with_the_reason() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.start().unwrap();
    let user = User::new(&[]).unwrap();
    let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
    let refused = peer.refused("rpc", "auth", &right(&user)).unwrap();
    assert_eq!(refused.code, 403);
    for name in [user.name(), host.full.name(), host.read.name()] {
        assert!(refused.message.contains(name), "{}", refused.message);
    }
    assert_eq!(peer.refused("rpc", "query", &json!({})).unwrap().code, 401);
}

#[test]
fn wrong_password_gets_401_for_any_cause() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    // Another authenticated client changes nothing for an unauthenticated one.
    let mut other = known(&daemon, &user).unwrap();
    let open = User::new(&[&host.full]).unwrap();
    open.without_password().unwrap();
    let half = &User::PASSWORD[..5];
    let (twice, nul) = (User::PASSWORD.repeat(2), format!("{}\0", User::PASSWORD));
    for (name, password) in [
        (user.name(), "wrong"),
        (user.name(), half),
        (user.name(), ""),
        (user.name(), &twice),
        (user.name(), &nul),
        (user.name(), &"x".repeat(2000)),
        (open.name(), ""),
        (open.name(), "anything"),
        ("no-such-user-here", User::PASSWORD),
        ("", User::PASSWORD),
        ("a\nb", "c"),
        (&"u".repeat(1000), "c"),
    ] {
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        let refused = peer.refused("rpc", "auth", &credentials(name, password)).unwrap();
        let what = format!("{name:?} {password:?}: {}", refused.message);
        assert_eq!(refused.code, 401, "{what}");
        assert!(refused.message.contains("wrong name or password"), "{what}");
        assert_eq!(peer.refused("rpc", "query", &json!({})).unwrap().code, 401, "{what}");
    }
    other.request("rpc", "query", &json!({})).unwrap();
    let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
    for args in [
        json!({ "username": "u" }),
        json!({ "password": "p" }),
        json!({ "username": 1, "password": [] }),
    ] {
        assert_eq!(peer.refused("rpc", "auth", &args).unwrap().code, 400, "{args}");
    }
    let line = daemon.log().wait("authentication failure from 127.0.0.1: password of \"").unwrap();
    assert!(line.contains(user.name()), "{line}");
    daemon.log().wait(r#"password of "a\nb""#).unwrap();
}

#[test]
fn locked_or_expired_account_is_refused() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.start().unwrap();
    let locked = User::new(&[&host.full]).unwrap();
    locked.lock().unwrap();
    let expired = User::new(&[&host.full]).unwrap();
    expired.expire().unwrap();
    let aged = User::new(&[&host.full]).unwrap();
    aged.expire_password().unwrap();
    for (user, code, why) in [
        (&locked, 401, "wrong name or password"),
        (&expired, 403, "the account has expired"),
        (&aged, 403, "its password has expired"),
    ] {
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        let refused = peer.refused("rpc", "auth", &right(user)).unwrap();
        assert_eq!(refused.code, code, "{}", refused.message);
        assert!(refused.message.contains(why), "{}", refused.message);
        assert_eq!(peer.refused("rpc", "query", &json!({})).unwrap().code, 401);
    }
}

#[test]
fn delayed_pam_failure_delays_no_other_client() {
    // The delay of pam_unix, longer and exact.
    let service = PamService::slow_to_refuse(3);
    let Some(host) = Host::with_service(&service).unwrap() else { return };
    let daemon = host.setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let mut waiting = Peer::connect(&daemon, Transport::Tls).unwrap();
    let began = Instant::now();
    waiting
        .send(&json!({ "namespace": "rpc", "name": "auth", "id": "w", "args": credentials(user.name(), "wrong") }))
        .unwrap();
    // Queued behind it, so replied to after it: the connection is not read meanwhile.
    waiting.send(&json!({ "namespace": "rpc", "name": "identify", "id": "i" })).unwrap();
    let mut local = Peer::local(&daemon).unwrap();
    let mut longest = Duration::ZERO;
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(1) * SLOWNESS {
        let before = Instant::now();
        local.request("rpc", "query", &json!({})).unwrap();
        longest = longest.max(before.elapsed());
        asked += 1;
    }
    assert!(asked > 10 && longest < Duration::from_millis(500) * SLOWNESS, "{asked}, {longest:?}");
    // Even another password is checked meanwhile.
    known(&daemon, &user).unwrap();
    assert!(began.elapsed() < Duration::from_millis(2500) * SLOWNESS, "{:?}", began.elapsed());
    let wrong = waiting.frame().unwrap();
    assert_eq!((&wrong["id"], &wrong["args"]["code"]), (&json!("w"), &json!(401)));
    assert!(began.elapsed() > Duration::from_secs(2) * SLOWNESS, "{:?}", began.elapsed());
    assert_eq!(waiting.frame().unwrap()["id"], "i");
}

#[test]
fn so_many_passwords_are_checked_at_a_time_and_so_many_wait() {
    let service = PamService::slow_to_refuse(3);
    let Some(host) = Host::with_service(&service).unwrap() else { return };
    let setup = host.setup.clone().with("auth.max_checks", 1).with("auth.max_waiting_checks", 1);
    let daemon = setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let mut peers: Vec<Peer> =
        (0..3).map(|_| Peer::connect(&daemon, Transport::Plain).unwrap()).collect();
    let request = |password: &str| json!({ "namespace": "rpc", "name": "auth", "id": "a", "args": credentials(user.name(), password) });
    peers[0].send(&request("wrong")).unwrap();
    helper_is_busy(&daemon, 1).unwrap();
    peers[1].send(&request(User::PASSWORD)).unwrap();
    helper_is_busy(&daemon, 2).unwrap();
    peers[2].send(&request(User::PASSWORD)).unwrap();
    // One of those that wait is refused, whichever.
    assert_eq!(peers[0].frame().unwrap()["args"]["code"], 401);
    let mut replies = [1, 2].map(|peer| peers[peer].frame().unwrap());
    replies.sort_by_key(|reply| reply["name"] == "response");
    assert_eq!(
        (&replies[0]["args"]["code"], &replies[1]["name"]),
        (&json!(429), &json!("response"))
    );
}

#[test]
fn right_password_succeeds_while_wrong_ones_are_pending() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.start().unwrap();
    let users = [User::new(&[&host.full]).unwrap(), User::new(&[&host.full]).unwrap()];
    let request = |name: &str, args: Value| json!({ "namespace": "rpc", "name": name, "id": "w", "args": args });
    // Wrong tokens and passwords, so many that no answer more may be held back, and some wait.
    let mut guessing = Vec::new();
    for guess in 0..9 {
        let mut peer = Peer::connect(&daemon, Transport::Plain).unwrap();
        let attempt = match guess % 3 {
            0 => request("auth_token", json!({ "token": "A".repeat(43) })),
            _ => request("auth", credentials(users[0].name(), "wrong")),
        };
        peer.send(&attempt).unwrap();
        // Behind the attempt, so it has been read.
        Peer::local(&daemon).unwrap().request("rpc", "query", &json!({})).unwrap();
        guessing.push(peer);
    }
    for user in users.iter().rev() {
        known(&daemon, user).unwrap();
    }
    // Each guess has had its answer, and none more than the usual delay for it.
    for mut peer in guessing {
        assert!([401, 429].contains(&peer.frame().unwrap()["args"]["code"].as_u64().unwrap()));
    }
}

#[test]
fn guessing_client_does_not_take_turns_of_others() {
    if !has_loopback_addresses() {
        return;
    }
    let service = PamService::slow_to_refuse(1);
    let Some(host) = Host::with_service(&service).unwrap() else { return };
    let setup = host.setup.clone().with("auth.max_checks", 2).with("auth.max_waiting_checks", 6);
    // The two loopback addresses must be two origins.
    let setup = setup.with("auth.throttle_loopback", true).with("auth.fail_limit", 100);
    let daemon = setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let attempt = json!({ "namespace": "rpc", "name": "auth", "id": "a", "args": credentials(user.name(), "wrong") });
    let mut guessing = Vec::new();
    for _ in 0..10 {
        let mut peer = Peer::connect_from(&daemon, [127, 0, 1, 1].into()).unwrap();
        peer.send(&attempt).unwrap();
        // Behind the attempt, so it has been read.
        Peer::local(&daemon).unwrap().request("rpc", "query", &json!({})).unwrap();
        guessing.push(peer);
    }
    let mut honest = Peer::connect_from(&daemon, [127, 0, 1, 2].into()).unwrap();
    honest.request("rpc", "auth", &right(&user)).unwrap();
}

/// Waits until this number of requests is in flight to the helper.
fn helper_is_busy(daemon: &Daemon, questions: u64) -> Outcome<()> {
    let mut local = Peer::local(daemon)?;
    while local.request("rpc", "status", &json!({}))?["accounts"]["questions"] != questions {}
    Ok(())
}

#[test]
fn passwords_can_be_switched_off_and_need_a_daemon_of_root() {
    let args = credentials("root", "x");
    let daemon = Setup::new(PROGRAM).unwrap().with("auth.pam", false).start().unwrap();
    let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
    let refused = peer.refused("rpc", "auth", &args).unwrap();
    assert_eq!(refused.code, 403);
    assert!(refused.message.contains("pam = false"), "{}", refused.message);
    if nix::unistd::geteuid().is_root() {
        let setup = Setup::new(PROGRAM).unwrap().open_to_all().unwrap().as_user(65534).unwrap();
        let daemon = setup.start().unwrap();
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        let refused = peer.refused("rpc", "auth", &args).unwrap();
        assert_eq!(refused.code, 403);
        assert!(refused.message.contains("not root"), "{}", refused.message);
    }
}

#[test]
fn user_losing_its_role_loses_connection_and_token() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.clone().with("auth.recheck_interval", r#""1s""#).start().unwrap();
    let users: Vec<User> = (0..4).map(|_| User::new(&[&host.full]).unwrap()).collect();
    let [leaves, locked, reads, stays] = &users[..] else { unreachable!() };
    let mut peers: Vec<(Peer, Value)> = Vec::new();
    for user in [leaves, locked, reads, stays] {
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        let token = peer.request("rpc", "auth", &right(user)).unwrap();
        peers.push((peer, json!({ "token": token[0] })));
    }
    leaves.join(&[]).unwrap();
    locked.lock().unwrap();
    reads.join(&[&host.read]).unwrap();
    for (peer, token) in &mut peers[..2] {
        assert_eq!(peer.closed().unwrap(), 1008);
        let mut again = Peer::connect(&daemon, Transport::Tls).unwrap();
        assert_eq!(again.refused("rpc", "auth_token", token).unwrap().code, 401);
    }
    daemon.log().wait(&format!("{} at", reads.name())).unwrap();
    daemon.log().wait("has read access now").unwrap();
    let run = json!({ "action": "run", "j": "true" });
    assert_eq!(peers[2].0.refused("rpc", "dispatcher", &run).unwrap().code, 403);
    peers[3].0.request("rpc", "dispatcher", &run).unwrap();
}

#[test]
fn change_of_user_on_a_connection_is_logged_and_rechecked() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.clone().with("auth.recheck_interval", r#""1s""#).start().unwrap();
    let user = User::new(&[&host.read]).unwrap();
    // Root is not re-checked.
    let mut peer = Peer::local(&daemon).unwrap();
    peer.request("rpc", "query", &json!({})).unwrap();
    peer.request("rpc", "auth", &right(&user)).unwrap();
    let line = format!("audit: authenticated user={:?} role=read by=\"password\"", user.name());
    daemon.log().wait(&line).unwrap();
    let run = json!({ "action": "run", "j": "true" });
    assert_eq!(peer.refused("rpc", "dispatcher", &run).unwrap().code, 403);
    user.lock().unwrap();
    assert_eq!(peer.closed().unwrap(), 1008);
}

#[test]
fn lost_role_is_not_regained_by_an_old_process() {
    let Some(host) = Host::new().unwrap() else { return };
    let setup = host.setup.clone().with("auth.recheck_interval", r#""1s""#);
    let daemon = setup.open_to_all().unwrap().start().unwrap();
    let users: Vec<User> = (0..2).map(|_| User::new(&[&host.full]).unwrap()).collect();
    let [leaves, reads] = &users[..] else { unreachable!() };
    let group = nix::unistd::Group::from_name(host.full.name()).unwrap().unwrap().gid.as_raw();
    // Processes started earlier: the kernel knows their groups, and not that they changed.
    let call = |user: &User, words: &[&str]| {
        let uid = nix::unistd::User::from_name(user.name()).unwrap().unwrap().uid.as_raw();
        Cli::to(&daemon, words[0]).args(&words[1..]).as_user(uid, group)
    };
    let run = ["run", "--detach", "true"];
    assert_eq!(call(leaves, &run).run().unwrap().code(), 0);
    assert_eq!(call(reads, &run).run().unwrap().code(), 0);
    let watching: Vec<_> =
        users.iter().map(|user| call(user, &["watch", "--json"]).start().unwrap()).collect();
    leaves.join(&[]).unwrap();
    reads.join(&[&host.read]).unwrap();
    daemon.log().wait("its account has no access any more").unwrap();
    daemon.log().wait("has read access now").unwrap();
    for user in [leaves, reads] {
        let refused = call(user, &run).run().unwrap();
        assert_ne!(refused.code(), 0, "{}", refused.out);
    }
    assert_ne!(call(leaves, &["call", "rpc", "query"]).run().unwrap().code(), 0);
    assert_eq!(call(reads, &["call", "rpc", "query"]).run().unwrap().code(), 0);
    // A regained group counts again.
    leaves.join(&[&host.full]).unwrap();
    let began = Instant::now();
    while call(leaves, &run).run().unwrap().code() != 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "the right does not come back");
    }
    drop(watching);
}

#[test]
fn group_that_is_made_later_counts_without_a_reload() {
    let Some(host) = Host::new().unwrap() else { return };
    let later = Group::new().unwrap().name().to_owned();
    let setup = host.setup.clone().with("auth.full_access_groups", format!("[{later:?}]"));
    let daemon = setup.open_to_all().unwrap().start().unwrap();
    daemon.log().wait(&format!("there is no group {later:?}")).unwrap();
    let user = User::new(&[&host.read]).unwrap();
    let number = |name: &str| nix::unistd::Group::from_name(name).unwrap().unwrap().gid.as_raw();
    let uid = nix::unistd::User::from_name(user.name()).unwrap().unwrap().uid.as_raw();
    let query =
        |group| Cli::to(&daemon, "call").args(["rpc", "query"]).as_user(uid, group).run().unwrap();
    let refused = query(number(host.read.name()) + 1);
    let named = format!("{} (uid {uid}) is in none of the groups", user.name());
    assert!(refused.err.contains(&named) && refused.err.contains(&later), "{}", refused.err);
    // A session that exists keeps what it had at its beginning.
    let watching = Cli::to(&daemon, "watch").arg("--json").as_user(uid, number(host.read.name()));
    let watching = watching.start().unwrap();
    let mut peer = Peer::local(&daemon).unwrap();
    until("the reader is there", || {
        peer.request("rpc", "status", &json!({})).unwrap()["client_count"] == 2
    });
    let group = Group::named(&later).unwrap();
    user.join(&[&host.read, &group]).unwrap();
    daemon.log().wait("groups are looked up again, since /etc/group has changed").unwrap();
    let began = Instant::now();
    let ran = loop {
        let ran = query(number(&later));
        if ran.code() == 0 {
            break ran;
        }
        assert!(began.elapsed() < PATIENCE, "{}", ran.err);
    };
    assert!(ran.out.contains("\"rpc/dispatcher\":\"read/write\""), "{}", ran.out);
    let logged = daemon.log().lines();
    assert!(!logged.iter().any(|line| line.contains("has full access now")), "{logged:?}");
    drop(watching);
}

#[test]
fn requests_of_one_user_that_wait_are_limited() {
    const MOST: usize = 128;
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.clone().with("store.deadline", r#""1h""#).start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let mut first = Peer::connect(&daemon, Transport::Plain).unwrap();
    let issued = first.request("rpc", "auth", &right(&user)).unwrap();
    let token = json!({ "token": issued[0] });
    let mut peers: Vec<Peer> = (0..MOST)
        .map(|_| {
            let mut peer = Peer::connect(&daemon, Transport::Plain).unwrap();
            peer.request("rpc", "auth_token", &token).unwrap();
            peer
        })
        .collect();
    let mut root = Peer::local(&daemon).unwrap();
    let mut status = || root.request("rpc", "status", &json!({})).unwrap();
    let store = Pid::from_raw(status()["store"]["pid"].as_i64().unwrap().try_into().unwrap());
    kill(store, Signal::SIGSTOP).unwrap();
    for (number, peer) in peers.iter_mut().enumerate() {
        let job = format!("j{number}");
        peer.post("rpc", "dispatcher", &json!({ "action": "run", (job): "true" })).unwrap();
    }
    until("all of them wait", || {
        let jobs = &status()["jobs"];
        let active = jobs["pending"].as_u64().unwrap() + jobs["running"].as_u64().unwrap();
        active == MOST as u64
    });
    let run = json!({ "action": "run", "beyond": "true" });
    assert_eq!(first.refused("rpc", "dispatcher", &run).unwrap().code, 429);
    first.request("rpc", "dispatcher", &json!({ "action": "list" })).unwrap();
    let mut other = Peer::local(&daemon).unwrap();
    other.post("rpc", "dispatcher", &json!({ "action": "run", "of-root": "true" })).unwrap();
    kill(store, Signal::SIGCONT).unwrap();
    assert_eq!(other.frame().unwrap()["args"]["started"], json!(["of-root"]));
    for peer in &mut peers {
        assert_eq!(peer.frame().unwrap()["name"], "response");
    }
    first.request("rpc", "dispatcher", &run).unwrap();
}

#[test]
fn recheck_of_account_with_more_groups_raises_no_role() {
    let Some(host) = Host::new().unwrap() else { return };
    let setup = host.setup.clone().with("auth.recheck_interval", r#""1s""#);
    let daemon = setup.open_to_all().unwrap().start().unwrap();
    let number = |name: &str| nix::unistd::Group::from_name(name).unwrap().unwrap().gid.as_raw();
    // The account is in both groups; its process has dropped the one with full access.
    let dropped = User::new(&[&host.full, &host.read]).unwrap();
    let uid = nix::unistd::User::from_name(dropped.name()).unwrap().unwrap().uid.as_raw();
    let as_dropped = |words: &[&str]| {
        Cli::to(&daemon, words[0]).args(&words[1..]).as_user(uid, number(host.read.name()))
    };
    let watching = as_dropped(&["watch", "--json"]).start().unwrap();
    let issued = as_dropped(&["call", "rpc", "auth"]).run().unwrap();
    let issued: Value = serde_json::from_str(&issued.out).unwrap();
    let token_of_process = json!({ "token": issued[0] });
    // The account of the other one joins the group after authentication.
    let joins = User::new(&[&host.read]).unwrap();
    let mut by_password = Peer::connect(&daemon, Transport::Tls).unwrap();
    let issued = by_password.request("rpc", "auth", &right(&joins)).unwrap();
    let token_of_password = json!({ "token": issued[0] });
    joins.join(&[&host.full, &host.read]).unwrap();
    let by_token = |token: &Value| {
        let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
        peer.request("rpc", "auth_token", token).unwrap();
        peer
    };
    let mut limited = vec![by_password, by_token(&token_of_process), by_token(&token_of_password)];
    // All accounts are looked up together: when this one is closed, the others were re-checked.
    let witness = User::new(&[&host.full]).unwrap();
    let mut closed = known(&daemon, &witness).unwrap();
    witness.join(&[]).unwrap();
    assert_eq!(closed.closed().unwrap(), 1008);
    limited.extend([by_token(&token_of_process), by_token(&token_of_password)]);
    let run = json!({ "action": "run", "j": "true" });
    for (number, peer) in limited.iter_mut().enumerate() {
        let refused = peer.refused("rpc", "dispatcher", &run).unwrap();
        assert_eq!(refused.code, 403, "session {number}: {}", refused.message);
    }
    let lines = daemon.log().lines();
    assert!(!lines.iter().any(|line| line.contains("has full access now")), "{lines:#?}");
    // A new connection with the password has the current role of the account.
    let mut again = known(&daemon, &joins).unwrap();
    again.request("rpc", "dispatcher", &run).unwrap();
    drop(watching);
}

#[test]
fn address_restricted_by_pam_applies_to_rechecks() {
    if !has_loopback_addresses() {
        return;
    }
    let rules = Directory::new().unwrap();
    let file = rules.join("access.conf");
    let service = PamService::restricted_by(&file);
    let Some(host) = Host::with_service(&service).unwrap() else { return };
    let daemon = host.setup.clone().with("auth.recheck_interval", r#""1s""#).start().unwrap();
    let [stays, goes] = [(); 2].map(|()| User::new(&[&host.full]).unwrap());
    let allowed = |user: &User| format!("+:{}:127.0.1.7\n", user.name());
    fs::write(&file, format!("{}{}-:ALL:ALL\n", allowed(&stays), allowed(&goes))).unwrap();
    let mut elsewhere = Peer::connect_from(&daemon, [127, 0, 1, 8].into()).unwrap();
    assert_eq!(elsewhere.refused("rpc", "auth", &right(&stays)).unwrap().code, 403);
    let mut peers = [&stays, &goes].map(|user| {
        let mut peer = Peer::connect_from(&daemon, [127, 0, 1, 7].into()).unwrap();
        peer.request("rpc", "auth", &right(user)).unwrap();
        peer
    });
    // Longer than three inconclusive re-checks, or one with a wrong result.
    peers[0].idle(Duration::from_secs(6)).unwrap();
    peers[0].request("rpc", "query", &json!({})).unwrap();
    fs::write(&file, format!("{}-:ALL:ALL\n", allowed(&stays))).unwrap();
    assert_eq!(peers[1].closed().unwrap(), 1008);
    peers[0].request("rpc", "query", &json!({})).unwrap();
}

#[test]
fn hanging_helper_denies_authentication_and_is_replaced() {
    let Some(host) = Host::new().unwrap() else { return };
    let setup = host
        .setup
        .clone()
        .with("auth.check_deadline", r#""2000ms""#)
        .with("auth.lookup_deadline", r#""1000ms""#);
    let daemon = setup.start().unwrap();
    assert_eq!(helper(&daemon).unwrap(), None, "it is not needed yet");
    let user = User::new(&[&host.full]).unwrap();
    known(&daemon, &user).unwrap();
    let pid = helper(&daemon).unwrap().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let mut peer = Peer::connect(&daemon, Transport::Tls).unwrap();
    let refused = peer.refused("rpc", "auth", &right(&user)).unwrap();
    assert_eq!(refused.code, 500);
    assert!(refused.message.contains("do not answer"), "{}", refused.message);
    assert_eq!(peer.refused("rpc", "query", &json!({})).unwrap().code, 401);
    while Process(pid.unsigned_abs()).is_alive() {}
    peer.request("rpc", "auth", &right(&user)).unwrap();
    assert_ne!(helper(&daemon).unwrap(), Some(pid));
    // One that dies is replaced too.
    let pid = helper(&daemon).unwrap().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    while helper(&daemon).unwrap() == Some(pid) {}
    known(&daemon, &user).unwrap();
}

#[test]
fn groups_that_could_not_be_looked_up_are_looked_up_again() {
    let Some(host) = Host::new().unwrap() else { return };
    let mut setup = host.setup.clone().with("auth.lookup_deadline", r#""1000ms""#);
    setup.set("auth.recheck_interval", r#""5s""#);
    let daemon = setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let mut peer = known(&daemon, &user).unwrap();
    let pid = helper(&daemon).unwrap().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    setup.set("auth.full_access_groups", "[]");
    setup.write().unwrap();
    daemon.reload().unwrap();
    daemon.log().wait("cannot look up groups").unwrap();
    assert_eq!(peer.closed().unwrap(), 1008);
}

#[test]
fn idle_helper_ends() {
    let Some(host) = Host::new().unwrap() else { return };
    let setup = host.setup.clone().with("auth.helper_idle", r#""100ms""#);
    let mut daemon = setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let peer = known(&daemon, &user).unwrap();
    let pid = helper(&daemon).unwrap();
    while helper(&daemon).unwrap().is_some() {}
    drop(peer);
    known(&daemon, &user).unwrap();
    assert_ne!(helper(&daemon).unwrap(), pid);
    daemon.signal(Signal::SIGTERM).unwrap();
    assert_eq!(daemon.wait().unwrap().0.code(), Some(0));
}

#[test]
fn password_is_in_no_log_and_on_no_command_line() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.clone().with("log.level", r#""trace""#).start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let wrong = "an-unmistakable-wrong-secret";
    let mut peer = Peer::connect(&daemon, Transport::Plain).unwrap();
    peer.refused("rpc", "auth", &credentials(user.name(), wrong)).unwrap();
    peer.refused("rpc", "auth_token", &json!({ "token": wrong })).unwrap();
    let token = peer.request("rpc", "auth", &right(&user)).unwrap();
    let helper = helper(&daemon).unwrap().unwrap();
    for file in ["cmdline", "environ"] {
        let seen = fs::read(format!("/proc/{helper}/{file}")).unwrap_or_default();
        let seen = String::from_utf8_lossy(&seen);
        assert!(!seen.contains(wrong) && !seen.contains(User::PASSWORD), "{seen}");
    }
    Cli::to(&daemon, "status").run().unwrap();
    let lines = daemon.stop().unwrap().concat();
    for secret in [wrong, User::PASSWORD, token[0].as_str().unwrap()] {
        assert!(!lines.contains(secret), "{secret} in: {lines}");
    }
    assert!(lines.contains("authentication failure from 127.0.0.1: token"), "{lines}");
}

/// Occurrences of these bytes in the memory of a process, by kind of mapping.
fn places_in_memory(pid: u32, wanted: &[u8]) -> Outcome<Vec<String>> {
    use std::io::{Seek, SeekFrom};
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, rest) = line.split_once(' ').ok_or("no range")?;
        let (from, to) = range.split_once('-').ok_or("no range")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        memory.seek(SeekFrom::Start(from))?;
        if memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        for at in bytes.windows(wanted.len()).enumerate().filter(|(_, w)| *w == wanted).map(|w| w.0)
        {
            let about = &bytes[at.saturating_sub(48)..(at + wanted.len() + 24).min(bytes.len())];
            found.push(format!("{rest}: {}", String::from_utf8_lossy(about)));
        }
    }
    Ok(found)
}

#[test]
fn passwords_and_tokens_are_not_left_in_memory() {
    if !cfg!(target_os = "linux") {
        return skip("memory is read in /proc");
    }
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let mut peers = Vec::new();
    let mut tokens = Vec::new();
    for transport in Transport::ALL {
        let mut peer = Peer::connect(&daemon, transport).unwrap();
        let wrong = credentials(user.name(), "not-the-passw0rd-x");
        assert_eq!(peer.refused("rpc", "auth", &wrong).unwrap().code, 401);
        let token = peer.request("rpc", "auth", &right(&user)).unwrap();
        tokens.push(token[0].as_str().unwrap().to_owned());
        peers.push(peer);
    }
    let pids = [daemon.process().0, helper(&daemon).unwrap().unwrap().unsigned_abs()];
    for pid in pids {
        for secret in ["not-the-passw0rd-x", r#"\"w0rd"#, "\u{e9}: \"w0rd"] {
            let places = places_in_memory(pid, secret.as_bytes()).unwrap();
            assert!(places.is_empty(), "{pid}: {places:#?}");
        }
        for token in &tokens {
            let places = places_in_memory(pid, token.as_bytes()).unwrap();
            assert!(places.is_empty(), "{pid}: {places:#?}");
        }
    }
}

/// A command to the daemon over TLS, as that user.
fn as_user(daemon: &Daemon, command: &str, user: &User) -> Cli {
    let url = format!("wss://{}", daemon.tls());
    Cli::of(PROGRAM, command).args([
        "--url",
        &url,
        "--fingerprint",
        daemon.fingerprint(),
        "--user",
        user.name(),
    ])
}

#[test]
fn a_command_shows_the_password_of_a_file() {
    let Some(host) = Host::new().unwrap() else { return };
    let daemon = host.setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let file = daemon.directory().join("password");
    fs::write(&file, format!("{}\nnot this\n", User::PASSWORD)).unwrap();
    let command = |name| as_user(&daemon, name, &user).arg("--password-file").arg(&file);
    let ran = command("run").args(["--id", "mine", "echo hello"]).run().unwrap();
    assert_eq!((ran.code(), ran.out.as_str()), (0, "hello\n"), "{}", ran.err);
    // Authentication and submission are logged.
    let who = format!("user=\"{}\" role=full by=\"password\" from=\"127.0.0.1:", user.name());
    daemon.log().wait(&format!("audit: authenticated {who}")).unwrap();
    daemon.log().wait(&format!("audit: submitted job=\"mine\" {who}")).unwrap();
    let args =
        ["rpc", "dispatcher", r#"{"action": "submit", "id": "long", "commands": ["sleep 99"]}"#];
    assert_eq!(command("call").args(args).run().unwrap().code(), 0);
    assert_eq!(Cli::to(&daemon, "kill").arg("long").run().unwrap().code(), 0);
    daemon
        .log()
        .wait("audit: killed job=\"long\" user=\"root\" role=full by=\"local socket\"")
        .unwrap();
    fs::write(&file, "wrong\n").unwrap();
    let refused = command("status").run().unwrap();
    assert_eq!(refused.code(), 77, "{}", refused.err);
    assert!(refused.err.contains("wrong name or password"), "{}", refused.err);
}

#[test]
fn password_prompt_on_the_terminal_has_no_echo() {
    let Some(host) = Host::new().unwrap() else { return };
    if std::process::Command::new("script").arg("--version").output().is_err() {
        return skip("a terminal of its own is made by script(1)");
    }
    let daemon = host.setup.start().unwrap();
    let user = User::new(&[&host.full]).unwrap();
    let command = format!(
        "{PROGRAM} call --url wss://{} --fingerprint {} --user {} rpc query",
        daemon.tls(),
        daemon.fingerprint(),
        user.name()
    );
    let mut script = std::process::Command::new("script");
    if cfg!(target_os = "freebsd") {
        script.args(["-q", "/dev/null"]).args(command.split(' '));
    } else {
        script.args(["-q", "-e", "-c", &command, "/dev/null"]);
    }
    let mut script = script
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let mut shown = vec![0];
    // It has no line end to wait for.
    while !shown.ends_with(b" on 127.0.0.1: ") {
        let mut byte = [0];
        screen.read_exact(&mut byte).unwrap();
        shown.extend(byte);
    }
    writeln!(keyboard, "{}", User::PASSWORD).unwrap();
    screen.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8(shown).unwrap();
    assert!(script.wait().unwrap().success(), "{shown}");
    assert!(shown.contains("rpc/dispatcher") && !shown.contains(User::PASSWORD), "{shown}");
}

//! Confinement of the relay: it drops root, and serves without it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::unistd::{User, geteuid};
use serde_json::Value;
use support::{BridgePeer, Cli, Outcome, Peer, PeerKey, Setup, Signal, Sites, register, skip};

use super::bridge::pair;
use crate::PROGRAM;

const A: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

/// An unprivileged user; `None`, with a message, where the tests do not run as root.
fn nobody() -> Option<User> {
    if !geteuid().is_root() {
        skip("only root can become somebody else");
        return None;
    }
    let user = User::from_name("nobody").ok().flatten();
    if user.is_none() {
        skip("there is no user nobody");
    }
    user
}

/// All ids of a process according to ps(1): real, effective and saved user, and group.
fn ids(pid: u32) -> Outcome<Vec<u32>> {
    let columns = ["ruid=", "uid=", "svuid=", "rgid=", "gid=", "svgid="];
    let columns = columns.iter().flat_map(|column| ["-o", column]);
    let output = Command::new("ps").args(columns).args(["-p", &pid.to_string()]).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

#[test]
fn relay_started_as_root_drops_privileges_permanently() -> Outcome<()> {
    let Some(user) = nobody() else { return Ok(()) };
    let setup = Setup::bridge(PROGRAM)?.with("relay.user", r#""nobody""#).open_to_all()?;
    let (state, key) = (setup.directory().join("state"), PeerKey::new()?);
    // Permissions as left by a command that root ran before the first start.
    register(&state, &[("office", &key, &[])])?;
    fs::set_permissions(state.join("keys"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let bridge = setup.start()?;
    bridge.log().wait("running as nobody")?;
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    assert_eq!(ids(bridge.process().0)?, [uid, uid, uid, gid, gid, gid]);
    if cfg!(target_os = "linux") {
        let status = fs::read_to_string(format!("/proc/{}/status", bridge.process().0))?;
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        assert_eq!(line("NoNewPrivs:").map(str::trim), Some("1"), "{status}");
        assert_eq!(line("CapEff:").map(str::trim), Some("0000000000000000"), "{status}");
        let groups = line("Groups:").unwrap_or_default();
        assert!(!groups.split_whitespace().any(|group| group == "0"), "{groups}");
    }
    for file in ["state", "state/keys", "state/lock", "key.pem"] {
        assert_eq!(setup.directory().join(file).symlink_metadata()?.uid(), uid, "{file}");
    }
    let socket = setup.directory().join("socket").symlink_metadata()?;
    assert_eq!((socket.uid(), socket.mode() & 0o777), (0, 0o600));
    let (mut server, of_client, mut client, _) = pair(&bridge, &key, A)?;
    server.send_to(&of_client, "hello")?;
    assert_eq!(client.heard()?.1, "hello");
    // Files are still read: keys, configuration, certificate.
    let other = PeerKey::new()?;
    register(&state, &[("office", &key, &[]), ("ann", &other, &[])])?;
    nix::unistd::chown(&state.join("keys"), Some(user.uid), Some(user.gid))?;
    bridge.log().wait("registered keys: 2")?;
    assert!(bridge.reload()?.contains("reloaded "));
    // Only root and the relay's own user may request the status.
    let status = Cli::to(&bridge, "status").args(["--bridge", "--json"]).run()?;
    assert_eq!(serde_json::from_str::<Value>(&status.out)?["connected"], 2);
    bridge.signal(Signal::SIGTERM)?;
    assert_eq!(server.peer.closed()?, 1001);
    bridge.stop_was_asked()?;
    // Again with the files that it owns now.
    let bridge = setup.start()?;
    pair(&bridge, &key, A)?;
    Ok(())
}

#[test]
fn relay_stopped_leaves_no_socket_file() -> Outcome<()> {
    let bridge = Setup::bridge(PROGRAM)?.start()?;
    let socket = bridge.directory().join("socket");
    assert!(socket.exists());
    bridge.signal(Signal::SIGTERM)?;
    bridge.log().wait("stopping: ")?;
    support::until("the socket file is gone", || socket.symlink_metadata().is_err());
    bridge.stop_was_asked()?;
    Ok(())
}

#[test]
fn keys_that_the_user_cannot_read_are_a_reason_not_to_start() -> Outcome<()> {
    let Some(user) = nobody() else { return Ok(()) };
    let setup = Setup::bridge(PROGRAM)?.with("relay.user", r#""nobody""#).open_to_all()?;
    let (state, key) = (setup.directory().join("state"), PeerKey::new()?);
    register(&state, &[("office", &key, &[])])?;
    fs::set_permissions(state.join("keys"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    // The directory belongs to the user already: then root touches nothing in it.
    nix::unistd::chown(&state, Some(user.uid), Some(user.gid))?;
    let (status, lines) = setup.launch()?.wait()?;
    assert_eq!(status.code(), Some(78), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("cannot read the registered keys")), "{lines:?}");
    assert_eq!(state.join("keys").metadata()?.uid(), 0);
    Ok(())
}

/// An attacker in control of the relay must not become root through root's actions at the next
/// start.
#[test]
fn root_is_led_by_no_link_that_the_user_has_put_there() -> Outcome<()> {
    let Some(user) = nobody() else { return Ok(()) };
    let setup = Setup::bridge(PROGRAM)?.with("relay.user", r#""nobody""#).open_to_all()?;
    let state = setup.directory().join("state");
    setup.start()?.stop()?;
    assert_eq!(state.metadata()?.uid(), user.uid.as_raw());
    let secret = setup.directory().join("of-root");
    type Link = fn(&Path, &Path) -> std::io::Result<()>;
    let links: [Link; 2] =
        [|to, at| std::os::unix::fs::symlink(to, at), |to, at| fs::hard_link(to, at)];
    for link in links {
        let _ = fs::remove_file(&secret);
        fs::write(&secret, "secret")?;
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        fs::remove_file(state.join("lock"))?;
        link(&secret, &state.join("lock"))?;
        let (status, lines) = setup.launch()?.wait()?;
        assert_eq!(status.code(), Some(78), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("state: ")), "{lines:?}");
        let after = secret.metadata()?;
        assert_eq!((after.uid(), fs::read_to_string(&secret)?.as_str()), (0, "secret"));
    }
    Ok(())
}

#[test]
fn a_user_that_does_not_exist_is_named() -> Outcome<()> {
    let Some(_) = nobody() else { return Ok(()) };
    let setup = Setup::bridge(PROGRAM)?.with("relay.user", r#""no-such-user""#);
    let (status, lines) = setup.launch()?.wait()?;
    assert_eq!(status.code(), Some(78), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("there is no user \"no-such-user\"")), "{lines:?}");
    Ok(())
}

#[test]
fn isolated_sites_communicate_through_the_relay() -> Outcome<()> {
    let Some(sites) = Sites::new() else { return Ok(()) };
    let key = PeerKey::new()?;
    let [first, second] = Sites::BETWEEN;
    let setup = Setup::bridge(PROGRAM)?
        .with("relay.listen", format!(r#"["{first}:0", "{second}:0"]"#))
        .under(sites.between());
    register(&setup.directory().join("state"), &[("office", &key, &[])])?;
    let bridge = setup.start()?;
    let address = |outside: &str| -> Outcome<String> {
        let (line, _) = bridge.log().wait_from(0, &format!("listening on wss://{outside}:"))?;
        Ok(line.rsplit('/').next().ok_or("no address")?.to_owned())
    };
    let (at_first, at_second) = (address(first)?, address(second)?);
    let there = TcpListener::bind;
    let listener = sites.at("1", || Ok(there("10.231.1.2:0")?))?;
    let direct = listener.local_addr()?;
    let tried = sites.at("2", || Ok(TcpStream::connect_timeout(&direct, Duration::from_secs(1))?));
    assert!(tried.is_err(), "the sites reach each other");
    let dial = |site: &str, address: &str, kind: &str| -> Outcome<BridgePeer> {
        let peer = sites.at(site, || Peer::connect_to(address, bridge.fingerprint()))?;
        let mut new = BridgePeer::over(peer, kind)?;
        new.authenticate(bridge.fingerprint(), &key)?;
        new.claim_when_asked(&[A])?;
        Ok(new)
    };
    let mut server = dial("1", &at_first, "server")?;
    server.so_far()?;
    let mut client = dial("2", &at_second, "client")?;
    let (of_client, of_server) = (server.list()?, client.list()?);
    client.send_to(&of_server[0], "from the other side")?;
    assert_eq!(server.heard()?, (of_client[0].clone(), "from the other side".to_owned()));
    server.send_to(&of_client[0], "and back")?;
    assert_eq!(client.heard()?, (of_server[0].clone(), "and back".to_owned()));
    drop(server);
    assert_eq!(client.list()?, [""; 0]);
    Ok(())
}

//! The bridge: who is introduced to whom, what reaches whom, and what does not.

use std::time::Duration;

use serde_json::Value;
use support::{BridgePeer, Daemon, Outcome, PeerKey, Setup, register};

use crate::PROGRAM;

/// Sums of keys, as two may have them in common. Which keys they are of is of no interest.
const A: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
const B: &str = "BBBBBBBBBBBBBBBBBBBBBA==";
const C: &str = "CCCCCCCCCCCCCCCCCCCCCA==";

/// A bridge that knows one key, with which all peers of a test come.
fn bridge() -> Outcome<(Daemon, PeerKey)> {
    bridge_with(|setup| setup)
}

fn bridge_with(change: impl FnOnce(Setup) -> Setup) -> Outcome<(Daemon, PeerKey)> {
    let (setup, key) = (change(Setup::bridge(PROGRAM)?), PeerKey::new()?);
    register(&setup.directory().join("state"), &[("office", &key, &[])])?;
    Ok((setup.start()?, key))
}

/// The error that a frame is.
fn code(frame: &str) -> Outcome<u64> {
    let frame: Value = serde_json::from_str(frame)?;
    assert_eq!(frame["name"], "error", "{frame}");
    Ok(frame["args"]["code"].as_u64().ok_or("no code")?)
}

#[test]
fn a_server_and_a_client_with_a_key_in_common_are_introduced_and_speak() -> Outcome<()> {
    let (bridge, key) = bridge()?;
    let mut server = BridgePeer::join(&bridge, "server", &key, &[A, B])?;
    assert_eq!(server.so_far()?, [""; 0]);
    let mut client = BridgePeer::join(&bridge, "client", &key, &[B, C])?;
    let (of_client, of_server) = (server.list()?, client.list()?);
    assert_eq!((of_client.len(), of_server.len()), (1, 1));
    for id in [&of_client[0], &of_server[0]] {
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b)), "{id}");
        assert!(id.len() >= 22, "{id}");
    }
    client.tell(&of_server[0], "{\"to\":\"the server\"}\nwith a second line")?;
    assert_eq!(
        server.heard()?,
        (of_client[0].clone(), "{\"to\":\"the server\"}\nwith a second line".to_owned())
    );
    server.tell(&of_client[0], "tls AAAA")?;
    assert_eq!(client.heard()?, (of_server[0].clone(), "tls AAAA".to_owned()));
    drop(client);
    assert_eq!(server.list()?, [""; 0]);
    Ok(())
}

//! Cost of admitting and refusing clients: TLS, keys, and blocked addresses.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use serde_json::json;
use support::{Daemon, Outcome, Peer, Setup, Stream, Transport};
use sysadm_events::auth::key::{Kind, NO_CERTIFICATE, PrivateKey, PublicKey, Purpose};
use sysadm_events::net::certificate;
use sysadm_events::sys::files::Files;
use sysadm_events::sys::may_block::MayBlock;

use super::PROGRAM;
use super::table::{Table, Verdict};

const HANDSHAKES: u32 = 400;
const BARE: u32 = 200;
const KEYS: u32 = 400;
const REFUSED: u32 = 5_000;
/// The daemon may take so many times what rustls alone takes.
const HANDSHAKE: f64 = 2.0;
/// Of a handshake, what a connection may cost that is not taken.
const REFUSAL: f64 = 0.1;
/// As many legacy keys as a stranger can have tried by default may take so long.
const LEGACY: Duration = Duration::from_millis(50);

pub(crate) fn measure(table: &mut Table) -> Outcome<()> {
    let handshake = handshakes(table)?;
    refusals(table, handshake)?;
    keys(table)?;
    legacy(table)
}

/// Processor time of the daemon for each of so many times something.
fn cost(daemon: &Daemon, times: u32, mut once: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let before = daemon.process().cpu()?;
    for _ in 0..times {
        once()?;
    }
    let cost = daemon.process().cpu()?.saturating_sub(before);
    Ok(cost.as_secs_f64() / f64::from(times))
}

fn handshakes(table: &mut Table) -> Outcome<f64> {
    let daemon = Setup::new(PROGRAM)?.start()?;
    let whole = cost(&daemon, HANDSHAKES, || {
        Peer::connect(&daemon, Transport::Tls)?;
        Ok(())
    })?;
    let bare = bare_handshake(&daemon)?;
    table.row(
        "TLS 1.3 handshakes with upgrade, a core",
        &format!("{:.0} /s", 1.0 / whole),
        &format!("{:.2} x the time of rustls alone", whole / bare),
        &format!("<= {HANDSHAKE} x"),
        Verdict::of(whole <= HANDSHAKE * bare),
    );
    Ok(whole)
}

/// Time of the server's half of a handshake without a socket, in seconds.
fn bare_handshake(daemon: &Daemon) -> Outcome<f64> {
    let file = |name: &str| daemon.directory().join(name);
    let files = Files::of_system(MayBlock::before_loop());
    let server = certificate::server_side(&file("cert.pem"), &file("key.pem"), &files)?.config;
    let client = Stream::client_config(daemon)?;
    let mut took = Duration::ZERO;
    for _ in 0..BARE {
        let mut client =
            ClientConnection::new(Arc::clone(&client), ServerName::try_from("localhost")?)?;
        let mut server = ServerConnection::new(Arc::clone(&server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes)?;
            let start = Instant::now();
            let mut answer = Vec::new();
            if !bytes.is_empty() {
                server.read_tls(&mut bytes.as_slice())?;
                server.process_new_packets()?;
            }
            server.write_tls(&mut answer)?;
            took += start.elapsed();
            client.read_tls(&mut answer.as_slice())?;
            client.process_new_packets()?;
        }
    }
    Ok(took.as_secs_f64() / f64::from(BARE))
}

/// Connections of an address that is blocked.
fn refusals(table: &mut Table, handshake: f64) -> Outcome<()> {
    let setup =
        Setup::new(PROGRAM)?.with("auth.throttle_loopback", true).with("auth.fail_limit", 1);
    let daemon = setup.start()?;
    let blocked = Ipv4Addr::new(127, 0, 1, 1);
    let mut peer = Peer::connect_from(&daemon, blocked)?;
    for _ in 0..2 {
        peer.refused("rpc", "auth_token", &json!({ "token": "wrong" }))?;
    }
    let refused = cost(&daemon, REFUSED, || match Peer::connect_from(&daemon, blocked) {
        Ok(_) => Err("it is not blocked".into()),
        Err(_) => Ok(()),
    })?;
    table.row(
        "a connection of a blocked address: daemon",
        &format!("{:.1} us", refused * 1e6),
        &format!("{:.3} of a handshake", refused / handshake),
        &format!("<= {REFUSAL}"),
        Verdict::of(refused <= REFUSAL * handshake),
    );
    Ok(())
}

/// Keys that are shown on one connection, one after the other, each with a token in the end.
fn keys(table: &mut Table) -> Outcome<()> {
    let daemon = Setup::new(PROGRAM)?.with("auth.pam", false).start()?;
    for kind in [Kind::Ed25519, Kind::Rsa] {
        let key = PrivateKey::generate(kind)?;
        let pem = json!({ "action": "register_ssl_cert", "pub_key": key.public().pem(), "legacy": false });
        Peer::local(&daemon)?.request("rpc", "settings", &pem)?;
        let mut peer = Peer::connect(&daemon, Transport::Plain)?;
        let id = key.public().id().to_string();
        let start = Instant::now();
        let whole = cost(&daemon, KEYS, || {
            let string = peer.challenge()?;
            let signature = key.sign(Purpose::Server, &NO_CERTIFICATE, &string)?;
            let args = json!({ "key": id, "signature": STANDARD.encode(signature) });
            peer.request("rpc", "auth_ssl", &args)?;
            Ok(())
        })?;
        let rate = f64::from(KEYS) / start.elapsed().as_secs_f64();
        let bare = bare_verification(&key)?;
        table.row(
            &format!("{} keys, a core of the daemon", key.public().algorithm()),
            &format!("{:.0} /s", 1.0 / whole),
            &format!("{:.1} x a check alone; all in all {rate:.0} /s", whole / bare),
            "",
            Verdict::Told,
        );
    }
    Ok(())
}

fn bare_verification(key: &PrivateKey) -> Outcome<f64> {
    let string = "a".repeat(160);
    let signature = key.sign(Purpose::Server, &NO_CERTIFICATE, &string)?;
    let start = Instant::now();
    for _ in 0..KEYS {
        if !key.public().verify(Purpose::Server, &NO_CERTIFICATE, &string, &signature) {
            return Err("a signature that is not one".into());
        }
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(KEYS))
}

/// Cost of a signature that no legacy key made, which an unauthenticated client can cause.
fn legacy(table: &mut Table) -> Outcome<()> {
    const TRIED: u32 = 32;
    let key = PrivateKey::generate(Kind::Rsa)?;
    let (public, wrong): (&PublicKey, [u8; 384]) = (key.public(), [1; 384]);
    let start = Instant::now();
    for _ in 0..TRIED {
        if public.verify_raw(&"a".repeat(160), &wrong) {
            return Err("it is no encryption, and was taken".into());
        }
    }
    let took = start.elapsed();
    table.row(
        "32 legacy keys tried for a stranger",
        &format!("{:.1} ms", took.as_secs_f64() * 1e3),
        &format!("{:.0} us each", took.as_secs_f64() * 1e6 / f64::from(TRIED)),
        &format!("<= {} ms", LEGACY.as_millis()),
        Verdict::of(took <= LEGACY),
    );
    Ok(())
}

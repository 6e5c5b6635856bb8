//! Status of the relay: for its operator, and as a line in the log.

use serde_json::{Value, json};

use super::Bridge;
use crate::daemon::Guest;
use crate::moment::Moment;
use crate::sys::memory;

/// Maximum number of peers listed individually.
const LISTED: usize = 4096;

impl Bridge {
    /// The reply to `rpc/status` on the local socket.
    pub(super) fn status(&self, now: Moment) -> Value {
        let known = self.connections.iter().filter(|(_, c)| c.is_admitted() && !c.is_local());
        let peers: Vec<Value> = known
            .take(LISTED)
            .filter_map(|(number, connected)| {
                let peer = self.relay.peer(number)?;
                let registration = peer.standing.registration()?;
                Some(json!({
                    "id": peer.id,
                    "name": registration.name,
                    "type": peer.kind.map(|kind| kind.name()),
                    "hostname": peer.hostname,
                    "peer": connected.origin.to_string(),
                    "legacy": registration.legacy,
                    "keys": peer.keys(),
                    "available": peer.available(),
                    "queue": connected.connection.outbox.used(),
                }))
            })
            .collect();
        json!({
            "type": "bridge",
            "hostname": self.hostname,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime": self.uptime(now),
            "certificate": self.identity.tls.fingerprint,
            "registered": self.keys.len(),
            "connected": self.connections.peers(),
            "strangers": self.connections.unauthenticated(),
            "forwarded": { "frames": self.forwarded.frames, "bytes": self.forwarded.bytes },
            "queue_total": self.connections.waiting(),
            "memory": { "peak_resident": memory::peak_resident() },
            "peers": peers,
        })
    }

    fn uptime(&self, now: Moment) -> u64 {
        now.instant.saturating_duration_since(self.started.instant).as_secs()
    }

    /// The same for people, on one line.
    pub(super) fn status_line(&self, now: Moment) -> String {
        format!(
            "up {} s, {} peers, {} not authenticated, {} keys registered, {} frames with {} bytes \
             passed on, {} bytes in queues, {} KiB resident at most",
            self.uptime(now),
            self.connections.peers(),
            self.connections.unauthenticated(),
            self.keys.len(),
            self.forwarded.frames,
            self.forwarded.bytes,
            self.connections.waiting(),
            memory::peak_resident() / 1024,
        )
    }
}

//! How the daemon is doing: for a request, and for a line in the log.

use serde_json::{Value, json};

use super::Server;
use crate::moment::Moment;
use crate::net::Peer;
use crate::sys::memory;

impl Server {
    /// What `rpc/status` answers.
    pub(super) fn status(&self, now: Moment) -> Value {
        let counts = self.dispatcher.counts();
        let clients: Vec<Value> = self
            .clients
            .iter()
            .map(|(id, client)| {
                json!({
                    "id": id,
                    "peer": client.peer.to_string(),
                    "user": client.session.identity().map(|who| who.user.as_str()),
                    "local": matches!(client.peer, Peer::Local(_)),
                    "outbox": client.connection.outbox().used(),
                })
            })
            .collect();
        json!({
            "hostname": self.hostname,
            "system_state": self.system_state.status(now),
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime": self.uptime(now),
            "epoch": self.hub.epoch(),
            "seq": self.hub.seq(),
            "clients": clients,
            "links": self.links.status(|id| self.clients.user(id)),
            "subscribers": self.hub.subscribers(),
            "jobs": {
                "pending": counts.pending,
                "running": counts.running,
                "finished": counts.finished,
            },
            "life_preserver": self.logs.status(now),
            "queues": self.dispatcher.queues(),
            "store": self.storage.status(),
            "accounts": self.accounts.status(),
            "keys": self.keys.store.len(),
            "outbox_total": self.clients.outbox_bytes(),
            "memory": { "peak_resident": memory::peak_resident() },
        })
    }

    fn uptime(&self, now: Moment) -> u64 {
        now.instant.saturating_duration_since(self.started.instant).as_secs()
    }

    /// The same for people, on one line.
    pub(super) fn status_line(&self, now: Moment) -> String {
        let counts = self.dispatcher.counts();
        format!(
            "up {} s, {} clients ({} not authenticated), jobs: {} running, {} pending, {} finished, \
             {} outputs open, system state {}, event {}, {} bytes in outboxes, {} KiB resident at most, store: {}",
            self.uptime(now),
            self.clients.len(),
            self.clients.strangers(),
            counts.running,
            counts.pending,
            counts.finished,
            self.jobs.open_outputs(),
            self.system_state.priority(),
            self.hub.seq(),
            self.clients.outbox_bytes(),
            memory::peak_resident() / 1024,
            self.storage.store.standing().err().unwrap_or("working"),
        )
    }
}

//! Status of the server: for a request, and as a line in the log.

use std::rc::Rc;

use serde_json::{Value, json};

use super::Server;
use super::clients::{Client, ClientId};
use crate::moment::Moment;
use crate::net::Peer;
use crate::sys::memory;
use crate::wire::JsonFields;

/// Maximum number of clients in one reply.
const PAGE: usize = 64;

impl Server {
    /// The state of the server with the clients after the given one, as JSON text. Its cost does not depend on the number of clients,
    /// and its first page is generated at most once per turn.
    pub(super) fn status_text(&mut self, after: ClientId, now: Moment) -> Rc<str> {
        if after > 0 {
            return self.status(after, now).to_string().into();
        }
        if let Some(text) = &self.status_reply {
            return text.clone();
        }
        let text: Rc<str> = self.status(0, now).to_string().into();
        self.status_reply.insert(text).clone()
    }

    /// The state of the server, with the clients after the given one.
    fn status(&self, after: ClientId, now: Moment) -> Value {
        let counts = self.dispatcher.counts();
        let mut rest = self.clients.after(after);
        let page: Vec<(&ClientId, &Client)> = rest.by_ref().take(PAGE).collect();
        let next = rest.next().and(page.last()).map(|(id, _)| **id);
        let clients: Vec<Value> = page
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
        let mut status = json!({
            "hostname": self.hostname,
            "alerts": self.alerts.alerts.status(now),
            "system_state": self.system_state.status(now),
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime": self.uptime(now),
            "epoch": self.hub.epoch(),
            "seq": self.hub.seq(),
            "clients": clients,
            "client_count": self.clients.len(),
            "links": self.links.status(|id| self.clients.user(id)),
            "subscribers": self.hub.subscribers(),
            "jobs": {
                "pending": counts.pending,
                "running": counts.running,
                "finished": counts.finished,
            },
            "life_preserver": self.logs.status(now),
            "queues": self.dispatcher.queue_sizes(),
            "paused_queues": self.dispatcher.paused_queues(),
            "store": self.storage.status(),
            "notifications": self.notifications.status(now),
            "accounts": self.accounts.status(),
            "files": self.file_workers.status(),
            "hanging": self.hanging(),
            "keys": self.keys.store.len(),
            "outbox_total": self.clients.outbox_bytes(),
            "memory": { "peak_resident": memory::peak_resident() },
        });
        if let Some(next) = next {
            status.set_field("next", next);
        }
        status
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
            self.clients.unauthenticated(),
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

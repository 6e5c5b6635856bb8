//! Requests about alerts, and `emit`.

use super::Server;
use super::clients::{ClientId, Until};
use crate::alerts::{Alerts, Condition, Ended, Kind, Reported};
use crate::auth::{Identity, Proof};
use crate::moment::Moment;
use crate::session::Audit;
use crate::wire::{AlertCommand, Emission, ErrorCode, Event, NoticeEvent, Refusal, Reply, ReplyTo};

/// A client that waits for its alert to be durable.
pub(super) struct Waiting {
    client: ClientId,
    reply: Reply,
    /// The part of the records that has the alert.
    part: usize,
    /// That part is being written with it.
    is_sent: bool,
}

/// Name of a user in keys and as source. A user of the local socket is known by number first and by
/// name later; the key of an alert must not change.
fn source_of(identity: &Identity) -> String {
    match identity.proof {
        Proof::Kernel if identity.uid != 0 => format!("uid-{}", identity.uid),
        Proof::Kernel | Proof::Password | Proof::Key(_) => identity.user.clone(),
    }
}

impl Server {
    /// Carries out a request about alerts, and replies when its effect is durable.
    pub(super) fn on_alert_command(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        command: AlertCommand,
        now: Moment,
    ) {
        let alerts = &mut self.alerts.alerts;
        let identity = self.clients.get(id).and_then(|client| client.session.identity().cloned());
        let Some(identity) = identity else { return };
        let (result, action) = match command {
            AlertCommand::List { page, all } => {
                alerts.forget_old(now);
                let list = alerts.list(page.as_deref(), all, now);
                return self.reply(id, &reply_to, Ok(Reply::Table(list)));
            }
            AlertCommand::Acknowledge { key, note, lasts } => {
                let by = &identity.user;
                let done = alerts.acknowledge(&key, by, note.as_deref(), lasts, now);
                let action = Audit::Acknowledged { key, acknowledged: true };
                (done.map(|keys| ("acknowledged", keys)), action)
            }
            AlertCommand::Unacknowledge { key } => {
                let done = alerts.unacknowledge(&key, now);
                let action = Audit::Acknowledged { key, acknowledged: false };
                (done.map(|keys| ("unacknowledged", keys)), action)
            }
        };
        match result {
            Err(refusal) => self.reply(id, &reply_to, Err(refusal)),
            Ok((name, keys)) => {
                self.audit(id, [action]);
                // The last one is stored last where several parts have changed.
                let last = keys.last().map_or(0, |key| Alerts::part_of(key));
                let reply = Reply::Table(serde_json::json!({ name: keys }));
                self.reply_when_stored(id, reply_to, reply, last);
            }
        }
    }

    /// Publishes a notice, or raises or clears an alert, and replies when that is durable.
    pub(super) fn on_emit(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        emitted: Emission,
        now: Moment,
    ) {
        let identity = self.clients.get(id).and_then(|client| client.session.identity().cloned());
        let Some(identity) = identity else { return };
        let source = source_of(&identity);
        let Emission { message, key, is_ok, priority, class } = emitted;
        let Some(name) = key else {
            let notice = NoticeEvent { message, priority, source, class };
            self.notify_of_notice(&notice, now);
            self.publish(Event::Notice(notice), now);
            let reply = Reply::Table(serde_json::json!({ "seq": self.hub.seq() }));
            self.wait(id, reply_to, Until::Stored);
            return self.await_store(id, reply, now);
        };
        let key = format!("custom/{source}/{name}");
        let part = Alerts::part_of(&key);
        let alerts = &mut self.alerts.alerts;
        let state = if is_ok {
            let cause = if message.is_empty() { "reported as ok".to_owned() } else { message };
            let ended = alerts.resolve(&key, &cause, now);
            self.expectations.expectations.on_emit(&name, &mut self.alerts.alerts, now);
            match ended {
                Ended::Cleared => "cleared",
                Ended::Held => "held",
                Ended::NotActive => "not active",
            }
        } else {
            let most = self.config.alerts.max / 8;
            if !alerts.is_active(&key) && alerts.active_of(&source) >= most.max(8) {
                let why = format!("{source} has {most} active alerts: clear some of them first");
                return self.reply(id, &reply_to, Err(Refusal::new(ErrorCode::TooMany, why)));
            }
            let raise_after = std::time::Duration::ZERO;
            let kind = Kind::Custom;
            let condition =
                Condition { key: key.clone(), kind, source, priority, message, raise_after };
            match alerts.report(condition, now) {
                Reported::Raised => "raised",
                Reported::Active | Reported::Pending => "active",
                Reported::NotShown => "not shown",
            }
        };
        let reply = Reply::Table(serde_json::json!({ "key": key, "state": state }));
        if is_ok {
            // The time of the success is stored in another file.
            self.run_expectations(now);
        }
        self.reply_when_stored(id, reply_to, reply, part);
    }

    /// Replies when the part of the records is durable as it is now.
    fn reply_when_stored(&mut self, id: ClientId, reply_to: ReplyTo, reply: Reply, part: usize) {
        if !self.alerts.is_unstored(part) {
            return self.reply(id, &reply_to, Ok(reply));
        }
        self.wait(id, reply_to, Until::Stored);
        self.alerts.waiting.push(Waiting { client: id, reply, part, is_sent: false });
    }

    /// A part of the records is being written: replies that wait for it belong to it.
    pub(super) fn on_alerts_sent(&mut self, part: usize) {
        let waiting = self.alerts.waiting.iter_mut().filter(|it| it.part == part);
        waiting.for_each(|it| it.is_sent = true);
    }

    /// Replies to clients that waited for a part.
    pub(super) fn reply_after_store(&mut self, part: usize, stored: &Result<(), String>) {
        let (done, waiting): (Vec<Waiting>, Vec<Waiting>) =
            std::mem::take(&mut self.alerts.waiting)
                .into_iter()
                .partition(|it| it.part == part && it.is_sent);
        self.alerts.waiting = waiting;
        for Waiting { client, reply, .. } in done {
            let forgets = |why: &String| format!("done, but a restart may forget it: {why}");
            self.on_stored(client, stored.as_ref().map(|()| reply).map_err(forgets));
        }
    }
}

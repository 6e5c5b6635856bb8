//! Notifications in the loop: events are offered to the queues, records go to the store, and each
//! delivery runs in a child of its own.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use log::{error, info, warn};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::clients::{ClientId, Until};
use super::errands::{Answer, Errand};
use super::storage::Durable;
use super::{PollToken, Server};
use crate::config::Config;
use crate::helper::notify::deliver;
use crate::helper::store::{self, StoreLocation};
use crate::moment::Moment;
use crate::notify::{Delivered, Delivery, DeliveryId, Effect, EventKind, Item, Notifier};
use crate::session::Audit;
use crate::sys::local_time::local_time;
use crate::wire::{
    ErrorCode, Event, JobHead, JobResult, NoticeEvent, Outcome, Priority, Published, Refusal,
    Reply, ReplyTo, rfc3339,
};

/// The queues, and their deliveries under way.
pub(super) struct Notifications {
    pub(super) notifier: Notifier,
    /// Time limit of each delivery under way.
    running: BTreeMap<DeliveryId, Duration>,
}

/// Waiting events of each target in a reply.
const LISTED: usize = 100;
/// Priority of a job that failed.
const FAILED_JOB: Priority = Priority::new(6);

fn minute_of(moment: SystemTime) -> Option<u16> {
    let local = local_time(moment)?;
    Some(u16::from(local.hour) * 60 + u16::from(local.minute))
}

impl Notifications {
    /// Takes over the queues of the run before. At start-up, where blocking is allowed.
    pub(super) fn begin(
        config: &Config,
        place: &StoreLocation,
        hostname: &str,
        now: Moment,
    ) -> Notifications {
        let mut notifier = Notifier::new(hostname, minute_of);
        let path = place.notifications();
        notifier.configure(&config.notify, now);
        if place.journal && path.exists() {
            let loaded = store::load(&path);
            for remark in &loaded.remarks {
                warn!("notifications: {remark}");
            }
            let records = loaded.records.iter().map(|record| record.text.as_str());
            notifier.restore(records, loaded.last_serial, now);
        }
        Notifications { notifier, running: BTreeMap::new() }
    }

    /// State of all queues, for a request.
    pub(super) fn status(&self, now: Moment) -> Value {
        serde_json::to_value(self.notifier.status(now)).unwrap_or_default()
    }
}

impl Server {
    /// Offers a job that has failed to the queues, before its outcome is published.
    pub(super) fn notify_of_failure(
        &mut self,
        job: &JobHead,
        outcome: &Outcome,
        at: &str,
        now: Moment,
    ) {
        if self.notifications.notifier.is_off() {
            return;
        }
        let result = match outcome.result {
            Some(JobResult::TimedOut) => "reached its timeout",
            Some(JobResult::NotStartable) => "could not be started",
            Some(JobResult::Interrupted) => "was interrupted",
            Some(JobResult::Failed | JobResult::Ok | JobResult::Killed | JobResult::Cancelled)
            | None => "failed",
        };
        let code = match (outcome.exit_code, outcome.signal) {
            (_, Some(signal)) => format!(" (signal {signal})"),
            (Some(code), None) => format!(" (exit code {code})"),
            (None, None) => String::new(),
        };
        let command = outcome.failed_command.and_then(|at| job.commands.get(at));
        let command = command.map_or(String::new(), |command| format!(": {command}"));
        let message = format!("job {} {result}{code}{command}", job.id);
        let names = (format!("job-{}", job.serial), job.id.clone(), "job/failed");
        let item = Item::of_event(EventKind::Dispatcher, names, FAILED_JOB, &message, at);
        self.notifications.notifier.on_event(&item, now);
    }

    /// Offers an event from a log to the queues.
    pub(super) fn notify_of_news(&mut self, published: &Published, now: Moment) {
        let Event::LifePreserver(event) = &published.event else { return };
        let id = format!("{}-{}", published.epoch, published.seq);
        let names = (id, event.class.to_owned(), event.class);
        let (priority, message) = (event.priority, event.message.as_str());
        let kind = EventKind::LifePreserver;
        let item = Item::of_event(kind, names, priority, message, &published.time);
        self.notifications.notifier.on_event(&item, now);
    }

    /// Offers a notice to the queues, before it is published.
    pub(super) fn notify_of_notice(&mut self, notice: &NoticeEvent, now: Moment) {
        let id = format!("{}-{}", self.hub.epoch(), self.hub.seq() + 1);
        let key = notice.class.clone().unwrap_or_else(|| notice.source.clone());
        let at = rfc3339(now.wall);
        let mut item = Item::of_event(
            EventKind::Notice,
            (id, key, "notice"),
            notice.priority,
            &notice.message,
            &at,
        );
        item.source.clone_from(&notice.source);
        self.notifications.notifier.on_event(&item, now);
    }

    /// Carries out actions of the queues.
    pub(super) fn carry_out_notifications(&mut self, now: Moment) {
        while let Some(effect) = self.notifications.notifier.next_effect() {
            match effect {
                Effect::Persist { serial, step, record } => {
                    let ticket = Durable::Notification(serial, step);
                    self.storage.store.persist_notification(ticket, record, now.instant);
                }
                Effect::Deliver(delivery) => {
                    self.start_delivery(&delivery, now);
                    // A fork takes a while: the next one comes in the next turn.
                    self.reactor.again(PollToken::Turn);
                    break;
                }
                Effect::Standing { target, failing: Some(why) } => {
                    warn!("notification {target} fails: {why}");
                    self.observe_target(&target, Some(&why), now);
                }
                Effect::Standing { target, failing: None } => {
                    info!("notification {target} is accepted again");
                    self.observe_target(&target, None, now);
                }
                Effect::Tested { test, outcome } => self.on_notification_tested(test, outcome),
                Effect::Remark(remark) => warn!("notification {remark}"),
            }
        }
        self.reactor.set_deadline(PollToken::Notifications, self.notifications.notifier.due());
    }

    fn start_delivery(&mut self, delivery: &Delivery, now: Moment) {
        let target = &delivery.target;
        let errand = Errand::Delivery(delivery.id);
        let path = target.destination.to_string();
        let work = |may_block| {
            let outcome = deliver(delivery, may_block);
            Zeroizing::new(serde_json::to_vec(&outcome).unwrap_or_default())
        };
        let deadline = now.instant + target.deadline;
        let started =
            self.errands.start_until(errand, path.as_ref(), deadline, &mut self.reactor, now, work);
        match started {
            Ok(()) => {
                self.notifications.running.insert(delivery.id, target.deadline);
            }
            Err(error) => {
                error!("cannot start a child for the notification {}: {error}", target.name);
                let why = format!("cannot start a child: {error}");
                let outcome = Delivered::Failed { why, retry_after: None, refused: false };
                self.notifications.notifier.delivered(delivery.id, outcome, now);
            }
        }
    }

    /// The child of a delivery has ended, or was killed at its deadline.
    pub(super) fn on_delivered(&mut self, id: DeliveryId, answer: &Answer, now: Moment) {
        let Some(limit) = self.notifications.running.remove(&id) else { return };
        let outcome = serde_json::from_slice(answer).unwrap_or_else(|_| Delivered::Failed {
            why: format!("no outcome within {limit:?}"),
            retry_after: None,
            refused: false,
        });
        self.notifications.notifier.delivered(id, outcome, now);
    }

    /// The targets, and the events that wait for them, [`LISTED`] at most of each, for a request.
    pub(super) fn waiting_notifications(&self, now: Moment) -> Value {
        let notifier = &self.notifications.notifier;
        let items = notifier.waiting(LISTED).map(|(target, item, sending)| {
            json!({
                "target": target,
                "key": item.key,
                "state": item.state,
                "priority": item.priority.to_string(),
                "message": item.message,
                "at": item.at,
                "sending": sending,
            })
        });
        json!({ "targets": self.notifications.status(now), "waiting": items.collect::<Value>() })
    }

    /// Sends a message to test a target; the client waits for the outcome.
    pub(super) fn test_notification(
        &mut self,
        id: ClientId,
        reply_to: ReplyTo,
        name: &str,
        now: Moment,
    ) {
        match self.notifications.notifier.test(name, id, now) {
            Ok(()) => {
                self.audit(id, [Audit::TestedNotification(name.to_owned())]);
                self.wait(id, reply_to, Until::Tested);
            }
            Err(why) => {
                self.reply(id, &reply_to, Err(Refusal::new(ErrorCode::NotFound, why)));
            }
        }
    }

    fn on_notification_tested(&mut self, id: ClientId, outcome: Delivered) {
        let client = self.clients.get(id);
        if matches!(client.and_then(|client| client.waits_until()), Some(Until::Tested)) {
            let (accepted, reply) = match outcome {
                Delivered::Accepted(reply) => (true, reply),
                Delivered::Failed { why, .. } => (false, why),
            };
            self.end_wait(id, Ok(Reply::NotificationTested { accepted, reply }));
        }
    }
}

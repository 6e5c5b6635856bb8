//! Clients attached to jobs: each gets every byte of the output, once and in order.
//!
//! Flow control is the client's: it acknowledges processed bytes, and at most a window of bytes is
//! unacknowledged. An attachment that *holds* its job throttles the reading of the job's pipe; any
//! other catches up from the log, and is informed of bytes that are no longer available.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use log::warn;
use serde_json::Map;

use super::clients::ClientId;
use super::storage::Purpose;
use super::{PollToken, Server};
use crate::auth::Role;
use crate::dispatcher::{Effect, JobOutput, OUTPUT_READ, Serial};
use crate::helper::store::output_of_answer;
use crate::moment::Moment;
use crate::wire::{
    Attach, Attached, Chunk, ErrorCode, Refusal, binary_output, end_of_output, left_out_of_output,
    output_frames,
};

/// Minimum window, in bytes.
const MIN_WINDOW: u64 = 4096;
/// Default window, in bytes.
const WINDOW: u64 = 256 * 1024;
/// Maximum number of attachments of one client.
const MOST: usize = 64;

/// One attachment.
#[derive(Debug)]
struct Attachment {
    /// The job's id.
    job: String,
    /// Everything before this offset was sent or skipped.
    sent: u64,
    acknowledged: u64,
    /// Maximum number of unacknowledged bytes; 0 for a client that wants only the end of the job.
    window: u64,
    /// The job's pipe is read only as fast as this client acknowledges.
    holds: bool,
    /// It also gets later output.
    follows: bool,
    /// Output goes in binary messages.
    binary: bool,
    /// A part of the log is being read for it.
    reading: bool,
    /// Since when an acknowledgement is due.
    owes_since: Option<Instant>,
}

impl Attachment {
    fn room(&self) -> u64 {
        self.window.saturating_sub(self.sent.saturating_sub(self.acknowledged))
    }

    fn wants_output(&self) -> bool {
        self.window > 0
    }

    /// Bytes that the job may print next for this client, where it holds the job. Small remainders
    /// of a window are not used.
    fn allows(&self, total: u64) -> Option<u64> {
        let room = self.room();
        let is_behind = self.sent < total || self.reading;
        self.holds.then_some(if is_behind || room < self.window / 4 { 0 } else { room })
    }

    fn has_sent(&mut self, to: u64, now: Instant) {
        self.sent = to;
        self.owes_since.get_or_insert(now);
    }
}

/// All attachments.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    map: BTreeMap<(Serial, ClientId), Attachment>,
    /// Jobs whose output is not read because a client holds them.
    held: BTreeSet<Serial>,
    /// Jobs whose attachments have changed.
    changed: BTreeSet<Serial>,
}

impl Attachments {
    fn of_job(&self, serial: Serial) -> Range<(Serial, ClientId)> {
        (serial, 0)..(serial.saturating_add(1), 0)
    }

    fn clients_of(&self, serial: Serial) -> Vec<ClientId> {
        self.map.range(self.of_job(serial)).map(|((_, client), _)| *client).collect()
    }

    /// Bytes of a job's output that may be read now; 0 where reading resumes in a later turn.
    pub(super) fn output_limit(&mut self, serial: Serial, output: Option<&JobOutput<'_>>) -> usize {
        // A job that is being killed is not held.
        let Some(output) = output.filter(|output| !output.is_ending) else { return OUTPUT_READ };
        let attached = self.map.range(self.of_job(serial));
        let limit = attached.filter_map(|(_, attachment)| attachment.allows(output.total)).min();
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(OUTPUT_READ);
        if limit == 0 {
            self.held.insert(serial);
        }
        limit.min(OUTPUT_READ)
    }

    /// Marks the attachments of a job as changed.
    pub(super) fn touch(&mut self, serial: Serial) {
        if self.map.range(self.of_job(serial)).next().is_some() || self.held.contains(&serial) {
            self.changed.insert(serial);
        }
    }

    /// Whether the job's output is not read now.
    pub(super) fn holds(&self, serial: Serial) -> bool {
        self.held.contains(&serial)
    }

    /// When the first attachment that holds a job has owed an acknowledgement for `patience`.
    fn due(&self, patience: Duration) -> Option<Instant> {
        let holding = self.map.values().filter(|attachment| attachment.holds);
        holding.filter_map(|attachment| attachment.owes_since).min().map(|since| since + patience)
    }
}

impl Server {
    /// Attaches a client.
    pub(super) fn attach_to_job(
        &mut self,
        id: ClientId,
        serial: Serial,
        attach: &Attach,
    ) -> Result<Attached, Refusal> {
        let mine = self.attachments.map.iter().filter(|((_, client), _)| *client == id);
        let (count, taken) = mine
            .fold((0, 0), |(count, taken), (_, attachment)| (count + 1, taken + attachment.window));
        // All windows together are a part of the outbox: other messages have room beside them.
        let room = (self.config.server.outbox as u64 / 3).saturating_sub(taken);
        if count >= MOST || (attach.output && room < MIN_WINDOW) {
            let why = format!("this connection is attached to {count} jobs already");
            return Err(Refusal::new(ErrorCode::TooMany, why));
        }
        let window = attach.window.unwrap_or(WINDOW).max(MIN_WINDOW).min(room);
        let window = if attach.output { window } else { 0 };
        let Some(output) = self.dispatcher.output(serial) else {
            return Err(Refusal::new(ErrorCode::NotFound, "the job is not known any more"));
        };
        // After a crash the log may have lost output that the client has, and continue with a
        // remark, which is sent whole.
        let begin = output.remarks.iter().find(|remark| remark.contains(&attach.offset));
        let start = begin.map_or(attach.offset, |remark| remark.start).min(output.total);
        let binary = attach.binary && self.clients.get(id).is_some_and(|client| client.is_direct());
        let cmd_list = output.commands.to_vec();
        let attachment = Attachment {
            job: output.id.to_owned(),
            sent: start,
            acknowledged: start,
            window,
            holds: attach.hold && attach.output && attach.follow,
            follows: attach.follow,
            binary,
            reading: false,
            owes_since: None,
        };
        self.attachments.map.insert((serial, id), attachment);
        self.attachments.touch(serial);
        Ok(Attached { stream: serial, offset: start, window, cmd_list, binary })
    }

    /// A client has acknowledged all output before `offset`.
    pub(super) fn acknowledge(&mut self, id: ClientId, serial: Serial, offset: u64, now: Moment) {
        let client = self.clients.get(id).and_then(|client| client.session.identity());
        let may_hold = client.is_some_and(|who| who.role == Role::Full);
        let Some(attachment) = self.attachments.map.get_mut(&(serial, id)) else { return };
        attachment.holds &= may_hold;
        let offset = offset.min(attachment.sent);
        if offset > attachment.acknowledged {
            attachment.acknowledged = offset;
            attachment.owes_since = (offset < attachment.sent).then_some(now.instant);
            self.attachments.touch(serial);
        }
    }

    /// Removes an attachment.
    pub(super) fn detach(&mut self, id: ClientId, serial: Serial) {
        if self.attachments.map.remove(&(serial, id)).is_some() {
            self.attachments.touch(serial);
        }
    }

    /// Removes all attachments of a client that is gone or has given up its identity.
    pub(super) fn detach_all(&mut self, id: ClientId) {
        let mine = self.attachments.map.keys().filter(|(_, client)| *client == id);
        let serials: Vec<Serial> = mine.map(|(serial, _)| *serial).collect();
        serials.into_iter().for_each(|serial| self.detach(id, serial));
    }

    /// Sends output of a job at offset `at` to the clients that have everything before it.
    fn forward_output(&mut self, serial: Serial, at: u64, bytes: &[u8], now: Moment) {
        for id in self.attachments.clients_of(serial) {
            let Some(attachment) = self.attachments.map.get_mut(&(serial, id)) else { continue };
            let fits = attachment.follows && attachment.room() >= bytes.len() as u64;
            if attachment.sent == at && !attachment.reading && fits {
                attachment.has_sent(at + bytes.len() as u64, now.instant);
                self.send_output(id, serial, at, bytes);
            }
        }
        self.attachments.touch(serial);
    }

    /// Sends output to a client, in frames with output of one command, or a remark.
    fn send_output(&mut self, id: ClientId, serial: Serial, at: u64, bytes: &[u8]) {
        let Some(output) = self.dispatcher.output(serial) else { return };
        let attachment = self.attachments.map.get(&(serial, id));
        let is_binary = attachment.is_some_and(|attachment| attachment.binary);
        let (mut offset, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let command = output.begins.partition_point(|begin| *begin <= offset);
            let remark = output.remarks.iter().find(|remark| remark.end > offset);
            let is_remark = remark.is_some_and(|remark| remark.start <= offset);
            let edges = [
                output.begins.get(command).copied(),
                remark.map(|remark| if is_remark { remark.end } else { remark.start }),
            ];
            let end = edges.into_iter().flatten().min().unwrap_or(u64::MAX);
            let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(length);
            let chunk = Chunk {
                job: output.id,
                stream: serial,
                command: command.saturating_sub(1),
                offset,
                bytes: now,
                is_remark,
            };
            let clients = &mut self.clients;
            if is_binary {
                clients.send_binary(id, binary_output(chunk));
            } else {
                output_frames(chunk, |frame| clients.send(id, frame));
            }
            (offset, rest) = (offset + now.len() as u64, later);
        }
    }

    /// Carries out changes of attachments: reads logs for clients that are behind, ends attachments
    /// of finished jobs, and resumes reading of pipes.
    pub(super) fn advance_attachments(&mut self, now: Moment) {
        while let Some(serial) = self.attachments.changed.pop_first() {
            for id in self.attachments.clients_of(serial) {
                self.advance_attachment(id, serial, now);
            }
            let output = self.dispatcher.output(serial);
            let was_held = self.attachments.held.remove(&serial);
            if was_held && self.attachments.output_limit(serial, output.as_ref()) > 0 {
                self.reactor.again(PollToken::Output(serial));
            }
        }
        let due = self.attachments.due(self.config.dispatcher.attach_timeout);
        self.reactor.set_deadline(PollToken::Attachments, due);
    }

    fn advance_attachment(&mut self, id: ClientId, serial: Serial, now: Moment) {
        let Some(attachment) = self.attachments.map.get_mut(&(serial, id)) else { return };
        let Some(output) = self.dispatcher.output(serial) else { return };
        if !attachment.wants_output() {
            attachment.sent = output.total;
        }
        if attachment.reading {
            return;
        }
        if attachment.sent < output.total {
            let room = attachment.room().min(OUTPUT_READ as u64);
            if room > 0 {
                attachment.reading = true;
                let store = &mut self.storage.store;
                let length = room.min(output.total - attachment.sent);
                let request = store.ask_for_output(serial, attachment.sent, length, now.instant);
                self.storage.questions.insert(request, Purpose::Output(id, serial));
            }
            return;
        }
        let end = match output.end {
            Some(end) => end,
            None if attachment.follows => return,
            // Only output so far was requested.
            None => Map::from_iter([("state".to_owned(), "running".into())]),
        };
        let text = end_of_output(output.id, serial, output.total, end);
        self.attachments.map.remove(&(serial, id));
        self.clients.send(id, text.into_bytes().into());
    }

    /// A part of a log for a client that is behind.
    pub(super) fn on_output_read(
        &mut self,
        id: ClientId,
        serial: Serial,
        answer: Result<Vec<u8>, String>,
        now: Moment,
    ) {
        let total = self.dispatcher.output(serial).map_or(0, |output| output.total);
        let Some(attachment) = self.attachments.map.get_mut(&(serial, id)) else { return };
        attachment.reading = false;
        // Unreadable output is skipped.
        let part = answer.as_deref().ok().and_then(output_of_answer);
        let (start, bytes) = part.unwrap_or((total, &[]));
        let start = if bytes.is_empty() { total } else { start };
        let from = attachment.sent;
        attachment.has_sent(start.max(from) + bytes.len() as u64, now.instant);
        if start > from {
            let text = left_out_of_output(&attachment.job, serial, from, start - from);
            self.clients.send(id, text.into_bytes().into());
        }
        self.send_output(id, serial, start, bytes);
        self.attachments.touch(serial);
    }

    /// A client that holds a job has not acknowledged in time: the job is no longer held.
    pub(super) fn on_attachments_due(&mut self, now: Moment) {
        let patience = self.config.dispatcher.attach_timeout;
        let mut late = Vec::new();
        for ((serial, id), attachment) in &mut self.attachments.map {
            let is_late =
                attachment.owes_since.is_some_and(|since| since + patience <= now.instant);
            if attachment.holds && is_late {
                attachment.holds = false;
                late.push((*serial, *id));
            }
        }
        for (serial, id) in late {
            let name = self.clients.get(id).map(|client| client.name()).unwrap_or_default();
            let job = self.dispatcher.id(serial).unwrap_or_default();
            warn!("job {job:?} is no longer held for {name}, which does not read its output");
            self.attachments.touch(serial);
        }
    }

    /// The job is about to be forgotten.
    fn end_forgotten(&mut self, serial: Serial) {
        for id in self.attachments.clients_of(serial) {
            if let Some(attachment) = self.attachments.map.remove(&(serial, id)) {
                let end = Map::from_iter([("state".to_owned(), "forgotten".into())]);
                let text = end_of_output(&attachment.job, serial, attachment.sent, end);
                self.clients.send(id, text.into_bytes().into());
            }
        }
    }

    /// Carries out an effect of the dispatcher for attached clients.
    pub(super) fn serve_attached(&mut self, effect: &Effect, now: Moment) {
        match effect {
            Effect::Log { serial, at, bytes, .. } => {
                self.forward_output(*serial, *at, bytes, now);
            }
            Effect::Forget { serial } => self.end_forgotten(*serial),
            Effect::Signal { serial, .. } => self.attachments.touch(*serial),
            Effect::Publish(_)
            | Effect::PublishOutcome { .. }
            | Effect::Persist { .. }
            | Effect::Note { .. }
            | Effect::Failed { .. }
            | Effect::Start { .. }
            | Effect::Release { .. } => {}
        }
    }
}

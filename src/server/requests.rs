//! Requests of clients: authorized, carried out, written to the audit log, and replied to.

use log::info;

use super::clients::{ClientId, Until};
use super::{PollToken, Server};
use crate::auth::{Identity, Proof};
use crate::moment::Moment;
use crate::net::Full;
use crate::session::{Audit, Denied, Handled, RequestContext};
use crate::wire::{
    Command, ErrorCode, Frame, Need, NotifyCommand, Refusal, Reply, ReplyTo, Request, error, reply,
};

impl Server {
    pub(super) fn on_message(&mut self, id: ClientId, text: &str, now: Moment) {
        match Request::parse(text) {
            Ok(Frame::Answer) => {}
            Ok(Frame::Request(request)) => self.on_request(id, request, now),
            Err(bad) => self.reply(id, &bad.reply_to, Err(bad.refusal)),
        }
    }

    /// Replies to a request, or begins to.
    fn on_request(&mut self, id: ClientId, request: Request, now: Moment) {
        let Request { reply_to, need, command } = request;
        let may = match &command {
            Ok(command) => self
                .check_caller(id, command)
                .and_then(|()| self.may_attempt(id, command, now))
                .and_then(|()| self.may_wait(id, command)),
            Err(_) => Ok(()),
        };
        let handled = may.map_err(Denied::from);
        match handled.and_then(|()| self.handle(id, need, command, now)) {
            Ok(handled) => self.finish(id, reply_to, handled, now),
            Err(Denied::Refused(refusal)) => self.reply(id, &reply_to, Err(refusal)),
            Err(Denied::Unnamed(uid)) => self.refuse_without_role(id, reply_to, uid, now),
        }
        self.look_at_standing(id, now);
    }

    fn handle(
        &mut self,
        id: ClientId,
        need: Option<Need>,
        command: Result<Command, Refusal>,
        now: Moment,
    ) -> Result<Handled, Denied> {
        if !matches!(command, Ok(Command::Status { .. })) {
            self.status_reply = None;
        }
        let Some(client) = self.clients.get(id) else { return Ok(Handled::Silence) };
        let mut context = RequestContext {
            now,
            hostname: &self.hostname,
            tokens: &mut self.tokens,
            dispatcher: &mut self.dispatcher,
            system_state: &mut self.system_state,
            hub: &mut self.hub,
            keys: &self.keys.store,
            roles: &self.roles,
            read_may_acknowledge: self.config.alerts.read_may_acknowledge,
        };
        client.session.handle(need, command, &mut context)
    }

    /// Replies to a request that was carried out, now or later.
    fn finish(&mut self, id: ClientId, reply_to: ReplyTo, handled: Handled, now: Moment) {
        let reply = match handled {
            Handled::Silence => return,
            Handled::Reply(reply) => {
                self.audit(id, Audit::of(&reply));
                Ok(reply)
            }
            Handled::Challenge { string, is_legacy } => Ok(self.challenge(id, string, is_legacy)),
            Handled::Status { after } => Ok(Reply::Encoded(self.status_text(after, now))),
            Handled::Attach(serial, attach) => {
                self.attach_to_job(id, serial, &attach).map(Reply::Attached)
            }
            Handled::Acknowledge { stream, offset } => {
                return self.acknowledge(id, stream, offset, now);
            }
            Handled::Detach { stream } => {
                self.detach(id, stream);
                Ok(Reply::Done {})
            }
            Handled::Submitted { mut reply, serials, last, attach, is_repeated } => {
                reply.attached =
                    attach.and_then(|attach| self.attach_to_job(id, last, &attach).ok());
                let reply = Reply::Started(reply);
                if !is_repeated {
                    self.audit(id, Audit::of(&reply));
                }
                if !serials.is_empty() {
                    let until = Until::Filed { reply, left: serials.len(), failed: None };
                    return self.wait_for_jobs(id, &serials, reply_to, until);
                }
                Ok(reply)
            }
            Handled::Password { user, secret } => {
                return self.take_password(id, reply_to, user, secret, now);
            }
            Handled::Key { user, id: key } => return self.take_key(id, reply_to, user, key, now),
            Handled::LegacyKey(search) => {
                return self.wait(id, reply_to, Until::LegacyKey(search));
            }
            Handled::Paused { queue, paused } => {
                let reply = Reply::Paused { queue, paused };
                self.audit(id, Audit::of(&reply));
                return self.store_queues(Some((id, reply_to, reply)), now);
            }
            Handled::Alert(command) => {
                return self.on_alert_command(id, reply_to, command, now);
            }
            Handled::Emit(emission) => return self.on_emit(id, reply_to, emission, now),
            Handled::Keys(command) => return self.take_key_command(id, reply_to, command, now),
            Handled::Notify(NotifyCommand::Queue) => {
                Ok(Reply::Table(self.waiting_notifications(now)))
            }
            Handled::Notify(NotifyCommand::Test { name }) => {
                return self.test_notification(id, reply_to, &name, now);
            }
            Handled::Wrong { what, why } => return self.on_wrong(id, reply_to, &what, why, now),
            Handled::History(question) => {
                return self.ask_for_history(id, reply_to, question, now);
            }
            Handled::Log(question) => return self.wait_for_log(id, &question, reply_to, now),
        };
        self.reply(id, &reply_to, reply);
    }

    /// Writes actions of a client to the audit log.
    pub(super) fn audit(&mut self, id: ClientId, actions: impl IntoIterator<Item = Audit>) {
        for action in actions {
            if let Some(line) = self.audit_line(id, &action) {
                info!("{line}");
            }
        }
    }

    /// The line for an action of a client: action, user and address, in one form.
    pub(super) fn audit_line(&mut self, id: ClientId, action: &Audit) -> Option<String> {
        let client = self.clients.get(id)?;
        let Identity { user, role, proof, .. } = client.session.identity()?;
        let (role, peer) = (role.name(), &client.peer);
        let key = match proof {
            Proof::Key(id) => format!(" with=\"{id}\""),
            Proof::Kernel | Proof::Password => String::new(),
        };
        let by = proof.name();
        Some(format!("audit: {action} user={user:?} role={role} by={by:?}{key} from=\"{peer}\""))
    }

    /// The client is not read, and gets no reply to this request, before `until`.
    pub(super) fn wait(&mut self, id: ClientId, reply_to: ReplyTo, until: Until) {
        if let Some(client) = self.clients.get(id) {
            client.wait(reply_to, until);
        }
    }

    /// Sends the reply for which a client waits, and resumes reading.
    pub(super) fn end_wait(&mut self, id: ClientId, result: Result<Reply, Refusal>) {
        let Some(client) = self.clients.get(id) else { return };
        if let Some(wait) = client.waiting.take() {
            self.reply(id, &wait.reply_to, result);
        }
        self.reactor.again(PollToken::Client(id));
    }

    /// Sends the reply to a request.
    pub(super) fn reply(
        &mut self,
        id: ClientId,
        reply_to: &ReplyTo,
        result: Result<Reply, Refusal>,
    ) {
        let text = reply(reply_to, &result);
        let length = text.len();
        if let Err(Full) = self.clients.answer(id, text) {
            let why =
                format!("the answer has {length} bytes, more than there is room for (outbox)");
            let refusal = Refusal::new(ErrorCode::Internal, why);
            if let Err(Full) = self.clients.answer(id, error(reply_to, &refusal)) {
                self.clients.overflowing.push(id);
            }
        }
    }
}

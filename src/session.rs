//! Protocol session: a request in, a reply out, over any transport.
//!
//! Holds the peer's identity, checks privileges, and carries requests out. It does no I/O.

mod audit;
mod authentication;
mod jobs;
mod keys;

use std::collections::BTreeSet;

use serde_json::Map;
use zeroize::Zeroizing;

pub use audit::Audit;
pub use keys::{KeyEffect, settle_key_command};

use crate::auth::key::{Challenge, KeyId, KeyStore, LegacySearch, NO_CERTIFICATE};
use crate::auth::{Identity, Proof, Role, Roles, Token, Tokens};
use crate::dispatcher::{Dispatcher, Serial};
use crate::helper::store::{HistoryQuestion, TextQuestion};
use crate::hub::{Filter, Hub, SessionId};
use crate::moment::Moment;
use crate::system_state::SystemState;
use crate::wire::{
    AlertCommand, Attach, Command, Emission, ErrorCode, EventName, HistoryQuery, KeyCommand, Need,
    NotifyCommand, PROTOCOL_LEVEL, Position, Refusal, Reply, Spelling, Started, Subscription,
    WhoAmI, rfc3339,
};

/// The subsystems that a request may use.
pub struct RequestContext<'a> {
    /// The current time.
    pub now: Moment,
    /// This host's name.
    pub hostname: &'a str,
    /// Tokens.
    pub tokens: &'a mut Tokens,
    /// Jobs.
    pub dispatcher: &'a mut Dispatcher,
    /// Host name and pools.
    pub system_state: &'a mut SystemState,
    /// Subscriptions.
    pub hub: &'a mut Hub,
    /// Registered keys.
    pub keys: &'a KeyStore,
    /// The groups of each role.
    pub roles: &'a Roles,
    /// Whether the role read suffices to acknowledge alerts.
    pub read_may_acknowledge: bool,
}

/// Outcome of a request that is carried out.
#[derive(Debug)]
pub enum Handled {
    /// This reply.
    Reply(Reply),
    /// A reply with this string to sign.
    Challenge {
        /// The string.
        string: String,
        /// The client has the form of the original server's, which encodes what follows.
        is_legacy: bool,
    },
    /// A reply with the state of the daemon, which the server assembles.
    Status {
        /// The last client of the page before; 0 for the first page.
        after: u64,
    },
    /// A reply as soon as these jobs are durable.
    Submitted {
        /// The reply.
        reply: Started,
        /// Jobs that are not durable yet.
        serials: Vec<Serial>,
        /// The last of the jobs.
        last: Serial,
        /// The client is attached to the last job.
        attach: Option<Attach>,
        /// The jobs were submitted by an earlier request.
        is_repeated: bool,
    },
    /// Depends on attaching the client to this job.
    Attach(Serial, Attach),
    /// No reply: the client has acknowledged output.
    Acknowledge {
        /// Number of the attachment.
        stream: Serial,
        /// The client has processed all bytes before this offset.
        offset: u64,
    },
    /// A reply; the client wants no more output.
    Detach {
        /// Number of the attachment.
        stream: Serial,
    },
    /// A reply with the store's answer to this query.
    Log(TextQuestion),
    /// A reply with a page of the history.
    History(HistoryQuestion),
    /// A reply when it is stored that a queue is paused, or not.
    Paused {
        /// The queue.
        queue: String,
        /// Whether it is.
        paused: bool,
    },
    /// Depends on the verification of this password.
    Password {
        /// Claimed user name.
        user: String,
        /// The password.
        secret: Zeroizing<String>,
    },
    /// Depends on the account of this user, whose key was proven.
    Key {
        /// Owner of the key.
        user: String,
        /// The key.
        id: KeyId,
    },
    /// Depends on the search for the legacy key that was presented.
    LegacyKey(LegacySearch),
    /// Depends on the alerts.
    Alert(AlertCommand),
    /// A reply when the message is durable.
    Emit(Emission),
    /// Depends on the key file.
    Keys(KeyCommand),
    /// A reply about notifications, which the server has.
    Notify(NotifyCommand),
    /// A 401 error: a secret was presented and is wrong.
    Wrong {
        /// Kind of secret, for the log.
        what: String,
        /// Why it is wrong.
        why: &'static str,
    },
    /// No reply.
    Silence,
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// This error is the reply.
    Refused(Refusal),
    /// The local user of this number has no role. The reply names the user, whose name must be
    /// looked up.
    Unnamed(u32),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Denied {
        Denied::Refused(refusal)
    }
}

/// Identity that the transport provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// None: the client must authenticate.
    Nothing,
    /// This identity, from the beginning.
    Somebody(Identity),
    /// A local user who has no role here.
    WithoutRole {
        /// The number.
        uid: u32,
        /// The name, once it was looked up.
        name: Option<String>,
    },
}

/// A protocol session.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    known: Known,
    identity: Option<Identity>,
    token: Option<Token>,
    challenge: Challenge,
    /// SHA-256 of the certificate that the peer sees.
    certificate: [u8; 32],
    /// Spelling with hyphens, for the Qt client.
    hyphens: bool,
    /// Upper bound of the role, for any identity.
    ceiling: Option<Role>,
}

/// The `Origin` that the Qt client sends.
const QT_CLIENT: &str = "sysadm-client";

impl Session {
    /// Creates a session for a peer with this identity.
    pub fn new(id: SessionId, known: Known) -> Session {
        let identity = match &known {
            Known::Somebody(identity) => Some(identity.clone()),
            Known::Nothing | Known::WithoutRole { .. } => None,
        };
        Session {
            id,
            known,
            identity,
            token: None,
            challenge: Challenge::default(),
            certificate: NO_CERTIFICATE,
            hyphens: false,
            ceiling: None,
        }
    }

    /// Sets the SHA-256 of the certificate that the peer sees, which key signatures cover; all
    /// zeros without one.
    pub fn set_certificate(&mut self, certificate: [u8; 32]) {
        self.certificate = certificate;
    }

    /// Sets the `Origin` of the upgrade request.
    pub fn set_origin(&mut self, origin: Option<&str>) {
        self.hyphens = origin == Some(QT_CLIENT);
    }

    /// Sets an upper bound of the role for any identity in this session; `None` for no bound.
    pub fn set_ceiling(&mut self, ceiling: Option<Role>) {
        self.ceiling = ceiling;
        self.identity = self.identity.take().map(|identity| self.below_ceiling(identity));
    }

    fn below_ceiling(&self, identity: Identity) -> Identity {
        match self.ceiling {
            Some(ceiling) => identity.with_at_most(ceiling),
            None => identity,
        }
    }

    /// The identity after authentication.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Carries out a request of this requirement, which is `None` where there is no such request.
    pub fn handle(
        &mut self,
        need: Option<Need>,
        command: Result<Command, Refusal>,
        context: &mut RequestContext<'_>,
    ) -> Result<Handled, Denied> {
        self.authorize(need, context.roles)?;
        if let Some(token) = self.token {
            context.tokens.touch(token, context.now.instant);
        }
        let reply = match command? {
            Command::Identify => Reply::Identity {
                kind: "server",
                hostname: context.hostname.to_owned(),
                version: Some(env!("CARGO_PKG_VERSION")),
                protocol: Some(PROTOCOL_LEVEL),
            },
            Command::Authenticate(credentials) => return self.authenticate(credentials, context),
            Command::ClearAuthentication => {
                self.clear(context);
                return Ok(Handled::Silence);
            }
            Command::Query => self.query(),
            Command::WhoAmI => Reply::WhoAmI(self.identity.as_ref().map(description_of)),
            Command::Status { after } => return Ok(Handled::Status { after }),
            Command::History(query) => {
                return Ok(Handled::History(history_question(query, context.now)));
            }
            Command::Key(command) => return Ok(Handled::Keys(command)),
            Command::Notify(command) => return Ok(Handled::Notify(command)),
            Command::Alert(command) => {
                let is_list = matches!(command, AlertCommand::List { .. });
                if let Some(who) = &self.identity
                    && !is_list
                    && !context.read_may_acknowledge
                    && who.role < Role::Full
                {
                    return Err(reads_only(who).into());
                }
                return Ok(Handled::Alert(command));
            }
            Command::Emit(emission) => return Ok(Handled::Emit(emission)),
            Command::CheckPools => {
                let is_begun = context.system_state.request(context.now);
                Reply::Check { check: if is_begun { "begun" } else { "pending" } }
            }
            Command::Job(command) => {
                context.hub.repeat_pending(self.id);
                return self.handle_job_command(command, context);
            }
            Command::Subscribe(subscription) => self.subscribe(subscription, context)?,
            Command::Unsubscribe(names) => {
                let changed = context.hub.unsubscribe(self.id, &names);
                Reply::Unsubscribed { unsubscribe: canonical(&changed) }
            }
        };
        Ok(Handled::Reply(reply))
    }

    /// Decides whether a request may be carried out. The only place that does.
    fn authorize(&self, need: Option<Need>, roles: &Roles) -> Result<(), Denied> {
        match (&self.identity, need) {
            (_, Some(Need::Nothing)) => Ok(()),
            (None, Some(Need::Role(_) | Need::Emit) | None) => Err(self.deny(
                "authenticate first (rpc/auth, rpc/auth_ssl, rpc/auth_token, or the local socket)",
                roles,
            )),
            (Some(who), Some(Need::Role(_)) | None) if who.role == Role::Emit => {
                let why = format!("this key of {} is for emit alone", who.user);
                Err(Refusal::new(ErrorCode::Forbidden, why).into())
            }
            (Some(who), Some(Need::Role(role))) if who.role < role => Err(reads_only(who).into()),
            (Some(who), Some(Need::Emit)) if who.role == Role::Read => Err(reads_only(who).into()),
            (Some(_), Some(Need::Role(_) | Need::Emit) | None) => Ok(()),
        }
    }

    /// The error for a peer without identity; `why` is added where it could authenticate.
    fn deny(&self, why: &str, roles: &Roles) -> Denied {
        match &self.known {
            Known::Nothing | Known::Somebody(_) => {
                Refusal::new(ErrorCode::Unauthorized, why).into()
            }
            Known::WithoutRole { name: Some(name), .. } => roles.refuse(name).into(),
            Known::WithoutRole { uid, name: None } => Denied::Unnamed(*uid),
        }
    }

    /// Replaces the identity after a re-check; `None`: the user has lost its role.
    pub fn revise(&mut self, identity: Option<Identity>) {
        if let Known::Somebody(known) = &mut self.known {
            match &identity {
                Some(identity) if identity.proof == Proof::Kernel => *known = identity.clone(),
                Some(_) => {}
                None => self.known = without_role(known),
            }
        }
        self.identity = identity.map(|identity| self.below_ceiling(identity));
    }

    /// The identity provided by the transport.
    pub fn known(&self) -> Option<&Identity> {
        match &self.known {
            Known::Somebody(known) => Some(known),
            Known::Nothing | Known::WithoutRole { .. } => None,
        }
    }

    /// The number of a local user without a role whose name was not looked up.
    pub fn unnamed(&self) -> Option<u32> {
        match self.known {
            Known::WithoutRole { uid, name: None } => Some(uid),
            Known::Nothing | Known::Somebody(_) | Known::WithoutRole { .. } => None,
        }
    }

    /// Sets the name of that user.
    pub fn set_name(&mut self, user: String) {
        if let Known::WithoutRole { name, .. } = &mut self.known {
            *name = Some(user);
        }
    }

    /// Replaces that identity after a re-check; the current identity stays.
    pub fn revise_known(&mut self, known: Option<Identity>) {
        self.known = match (known, &self.known) {
            (Some(known), _) => Known::Somebody(known),
            (None, Known::Somebody(before)) => without_role(before),
            (None, Known::Nothing | Known::WithoutRole { .. }) => return,
        };
    }

    fn clear(&mut self, context: &mut RequestContext<'_>) {
        if let Some(token) = self.token.take() {
            context.tokens.revoke(token);
        }
        self.identity = None;
        self.challenge.forget();
        context.hub.leave(self.id);
    }

    fn query(&self) -> Reply {
        let full = self.identity.as_ref().is_some_and(|who| who.role == Role::Full);
        let mut may = Map::new();
        may.insert("rpc/dispatcher".into(), if full { "read/write" } else { "read" }.into());
        // At least own keys.
        may.insert("rpc/settings".into(), "read/write".into());
        may.insert("rpc/status".into(), "read".into());
        may.insert("rpc/history".into(), "read".into());
        may.insert("rpc/system_state".into(), "read".into());
        may.insert("rpc/alerts".into(), if full { "read/write" } else { "read" }.into());
        for name in EventName::ALL {
            may.insert(format!("events/{}", name.canonical()), "read".into());
        }
        Reply::Table(may.into())
    }

    fn subscribe(
        &mut self,
        subscription: Subscription,
        context: &mut RequestContext<'_>,
    ) -> Result<Reply, Refusal> {
        let Subscription { names, is_extended, jobs, priority, since } = subscription;
        // The filter lives as long as the subscription.
        let (count, most) =
            (jobs.as_ref().map_or(0, BTreeSet::len), context.dispatcher.limits().max_known());
        if count > most {
            let why = format!("jobs names {count} jobs; this server knows at most {most}");
            return Err(Refusal::new(ErrorCode::TooLarge, why));
        }
        let filter = Filter { jobs, priority };
        let spelling = Spelling { hyphens: self.hyphens, extended: is_extended };
        let changed = context.hub.subscribe(self.id, &names, filter, spelling, since.as_ref());
        let (epoch, seq) = (context.hub.epoch().to_owned(), context.hub.seq());
        let position = is_extended.then_some(Position { epoch, seq });
        Ok(Reply::Subscribed { subscribe: canonical(&changed), position })
    }
}

/// The error for a user who needs the role full.
fn reads_only(who: &Identity) -> Refusal {
    let why = format!("{} may read only; this needs full access", who.user);
    Refusal::new(ErrorCode::Forbidden, why)
}

fn canonical(names: &[EventName]) -> Vec<&'static str> {
    names.iter().map(|name| name.canonical()).collect()
}

fn description_of(who: &Identity) -> WhoAmI {
    let key = match who.proof {
        Proof::Key(id) => Some(id.to_string()),
        Proof::Kernel | Proof::Password => None,
    };
    let (role, proof) = (who.role.name(), who.proof.name());
    WhoAmI { user: who.user.clone(), uid: who.uid, role, proof, key }
}

fn history_question(query: HistoryQuery, now: Moment) -> HistoryQuestion {
    let [since, until] = query.bounds(now.wall).map(|time| time.map(rfc3339));
    let mut kinds: Vec<String> =
        query.events.iter().map(|name| name.in_event().to_owned()).collect();
    if query.events.contains(&EventName::Dispatcher) {
        kinds.push("queue".to_owned());
    }
    let HistoryQuery { cursor, priority, .. } = query;
    HistoryQuestion { cursor, since, until, priority, kinds, room: 0 }
}

/// That user, who has lost the role.
fn without_role(before: &Identity) -> Known {
    let name = before.is_named().then(|| before.user.clone());
    Known::WithoutRole { uid: before.uid, name }
}

//! Protocol session: a request in, a reply out, over any transport.
//!
//! Holds the peer's identity, checks privileges, and carries requests out. It does no I/O.

mod attach;
mod history;
mod settings;

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

pub use attach::Attach;
pub use settings::{Settings, Settled};

use crate::auth::key::{Challenge, KeyId, KeyStore, LegacySearch, NO_CERTIFICATE, Purpose};
use crate::auth::{
    Identity, Need, Proof, Role, Roles, Token, Tokens, need, number_as_name, reachable,
};
use crate::dispatcher::{
    Dispatcher, Serial, Submission, check_name, read_nonce, read_run, read_submit,
};
use crate::helper::store::{HistoryQuestion, TextQuestion};
use crate::hub::{Filter, Hub, SessionId, Since};
use crate::moment::Moment;
use crate::system_state::SystemState;
use crate::wire::{
    ErrorCode, EventName, PROTOCOL_LEVEL, Priority, Refusal, Request, Spelling, rfc3339,
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
}

/// Outcome of a request.
#[derive(Debug)]
pub enum Answer {
    /// A response with these `args`.
    Response(Value),
    /// A response with the state of the daemon, which the server assembles.
    Status,
    /// A response with these `args` as soon as these jobs are durable. If requested, the client is
    /// attached to the last of them, whose serial follows.
    WhenDurable(Value, Vec<Serial>, Serial, Option<Attach>),
    /// Depends on attaching the client to this job.
    Attach(Serial, Attach),
    /// No reply: the client has acknowledged output.
    Acknowledge {
        /// Number of the attachment.
        stream: Serial,
        /// The client has processed all bytes before this offset.
        offset: u64,
    },
    /// A response; the client wants no more output.
    Detach {
        /// Number of the attachment.
        stream: Serial,
    },
    /// A response with the store's reply to this query.
    Log(TextQuestion),
    /// A response with a page of the history.
    History(HistoryQuestion),
    /// A response when it is stored that a queue is paused, or not.
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
    /// Depends on the key file.
    Settings(Settings),
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

    /// Carries out a request.
    pub fn answer(
        &mut self,
        request: &Request,
        context: &mut RequestContext<'_>,
    ) -> Result<Answer, Refusal> {
        let args = match &request.args {
            Value::Object(args) => Some(args),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => None,
        };
        let action = args.and_then(|args| args.get("action")).and_then(Value::as_str);
        self.check(request, action, context.roles)?;
        if let Some(token) = self.token {
            context.tokens.touch(token, context.now.instant);
        }
        let namespace = request.namespace.to_ascii_lowercase();
        let name = request.name.to_ascii_lowercase();
        let empty = Map::new();
        let fields = args.unwrap_or(&empty);
        if (namespace.as_str(), name.as_str()) == ("rpc", "dispatcher") {
            context.hub.repeat_pending(self.id);
        }
        let response = match (namespace.as_str(), name.as_str(), action) {
            ("rpc", "identify", _) => json!({
                "type": "server",
                "hostname": context.hostname,
                "version": env!("CARGO_PKG_VERSION"),
                "protocol": PROTOCOL_LEVEL,
            }),
            ("rpc", "auth", _) => return self.auth(fields, context),
            ("rpc", "auth_token", _) => return self.auth_token(fields, context),
            ("rpc", "auth_ssl", _) => return self.auth_ssl(&request.args, context),
            ("rpc", "auth_clear", _) => {
                self.clear(context);
                return Ok(Answer::Silence);
            }
            ("rpc", "query", _) => self.query(),
            ("rpc", "whoami", _) => self.whoami(),
            ("rpc", "status", _) => return Ok(Answer::Status),
            ("rpc", "history", _) => {
                return Ok(Answer::History(history::read(&request.args, context.now.wall)?));
            }
            ("rpc", "settings", Some(action)) => {
                let settings = Settings::read(action, fields, rfc3339(context.now.wall))?;
                return Ok(Answer::Settings(settings));
            }
            ("rpc", "dispatcher", Some("run")) => {
                let batch = read_run(fields, context.dispatcher.limits().bounds())?;
                return self.submit(batch, None, context);
            }
            ("rpc", "dispatcher", Some("submit")) => {
                let bounds = context.dispatcher.limits().bounds();
                let new_id = |program: &str| context.dispatcher.new_id(program);
                let job = read_submit(fields, new_id, bounds)?;
                let attach = Attach::of_submission(fields)?;
                return self.submit(vec![job], attach, context);
            }
            ("rpc", "dispatcher", Some("restart")) => return self.restart(fields, context),
            ("rpc", "dispatcher", Some(action @ ("pause" | "resume"))) => {
                let Some(queue) = fields.get("queue").and_then(Value::as_str) else {
                    return Err(Refusal::bad_request(format!("{action} needs a queue")));
                };
                check_name("queue", queue)?;
                let paused = action == "pause";
                let by = self.identity.as_ref().map(|who| who.user.as_str());
                context.dispatcher.set_paused(queue, paused, by)?;
                return Ok(Answer::Paused { queue: queue.to_owned(), paused });
            }
            ("rpc", "dispatcher", Some("queues")) => {
                context.dispatcher.list_queues(read_page(fields)?)
            }
            ("rpc", "dispatcher", Some("list")) => context.dispatcher.list(read_page(fields)?)?,
            ("rpc", "dispatcher", Some("log")) => return log(fields, context),
            ("rpc", "dispatcher", Some("attach")) => {
                let (id, attach) = Attach::read(fields)?;
                if attach.hold && self.identity.as_ref().is_none_or(|who| who.role < Role::Full) {
                    let why = "to hold a job back needs full access: attach with \"hold\": false";
                    return Err(Refusal::new(ErrorCode::Forbidden, why));
                }
                return Ok(Answer::Attach(context.dispatcher.find(id)?, attach));
            }
            ("rpc", "dispatcher", Some("acknowledge")) => {
                let stream = attach::required(fields, "stream")?;
                let offset = attach::required(fields, "offset")?;
                return Ok(Answer::Acknowledge { stream, offset });
            }
            ("rpc", "dispatcher", Some("detach")) => {
                return Ok(Answer::Detach { stream: attach::required(fields, "stream")? });
            }
            ("rpc", "dispatcher", Some("kill")) => {
                let ids = one_or_more(fields.get("job_id"), "job_id")?;
                let by = self.identity.as_ref().map(|who| who.user.as_str());
                json!({ "killed": { "jobs": context.dispatcher.kill(&ids, by, context.now)? } })
            }
            ("rpc", "system_state", Some("check")) => {
                let is_begun = context.system_state.request(context.now);
                json!({ "check": if is_begun { "begun" } else { "pending" } })
            }
            ("events", "subscribe", _) => self.subscribe(&request.args, context)?,
            ("events", "unsubscribe", _) => {
                let (names, _) = read_names(&request.args)?;
                names_reply("unsubscribe", &context.hub.unsubscribe(self.id, &names))
            }
            // `check` has replied to these.
            _ => return Err(Refusal::new(ErrorCode::NotFound, "")),
        };
        Ok(Answer::Response(response))
    }

    /// Decides whether a request may be carried out. The only place that does.
    fn check(&self, request: &Request, action: Option<&str>, roles: &Roles) -> Result<(), Refusal> {
        let needed = need(&request.namespace, &request.name, action);
        match (&self.identity, needed) {
            (_, Some(Need::Nothing)) => Ok(()),
            (None, Some(Need::Role(_)) | None) => Err(self.refuse_nobody(
                "authenticate first (rpc/auth, rpc/auth_ssl, rpc/auth_token, or the local socket)",
                roles,
            )),
            (Some(who), Some(Need::Role(role))) if who.role >= role => Ok(()),
            (Some(who), Some(Need::Role(_))) => {
                let why = format!("{} may read only; this needs full access", who.user);
                Err(Refusal::new(ErrorCode::Forbidden, why))
            }
            (Some(_), None) => Err(unknown(request, action)),
        }
    }

    /// The error for a peer without identity; `why` is added where it could authenticate.
    fn refuse_nobody(&self, why: &str, roles: &Roles) -> Refusal {
        match &self.known {
            Known::Nothing | Known::Somebody(_) => Refusal::new(ErrorCode::Unauthorized, why),
            Known::WithoutRole { uid, name } => {
                roles.refuse(name.as_deref().unwrap_or(&number_as_name(*uid)))
            }
        }
    }

    fn auth(
        &mut self,
        fields: &Map<String, Value>,
        context: &mut RequestContext<'_>,
    ) -> Result<Answer, Refusal> {
        if fields.contains_key("username") || fields.contains_key("password") {
            let text = |key| fields.get(key).and_then(Value::as_str);
            let (Some(user), Some(secret)) = (text("username"), text("password")) else {
                let why = "auth needs {\"username\": \"…\", \"password\": \"…\"}";
                return Err(Refusal::bad_request(why));
            };
            let (user, secret) = (user.to_owned(), Zeroizing::new(secret.to_owned()));
            return Ok(Answer::Password { user, secret });
        }
        let Known::Somebody(known) = self.known.clone() else {
            let why = "only the local socket knows its peer without a password or token";
            return Err(self.refuse_nobody(why, context.roles));
        };
        self.authenticated(known, context.tokens, context.now).map(Answer::Response)
    }

    /// Sets the identity after successful authentication. Returns the `args` of the reply, with a
    /// token.
    pub fn authenticated(
        &mut self,
        identity: Identity,
        tokens: &mut Tokens,
        now: Moment,
    ) -> Result<Value, Refusal> {
        let identity = self.below_ceiling(identity);
        let Some((text, token)) = tokens.issue(identity.clone(), now.instant) else {
            return Err(Refusal::new(ErrorCode::Internal, "the system gives no random bits"));
        };
        self.identity = Some(identity);
        if self.ceiling.is_some() {
            // Without the bound a token would grant the user's full role elsewhere.
            tokens.revoke(token);
        } else {
            self.token = Some(token);
        }
        Ok(json!([&*text, tokens.ttl().as_secs()]))
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

    fn auth_token(
        &mut self,
        fields: &Map<String, Value>,
        context: &mut RequestContext<'_>,
    ) -> Result<Answer, Refusal> {
        let Some(text) = fields.get("token").and_then(Value::as_str) else {
            return Err(Refusal::bad_request("auth_token needs {\"token\": \"…\"}"));
        };
        let Some((identity, token)) = context.tokens.redeem(text, context.now.instant) else {
            let (what, why) = ("token".to_owned(), "no such token, or its time is over");
            return Ok(Answer::Wrong { what, why });
        };
        self.identity = Some(self.below_ceiling(identity));
        self.token = Some(token);
        Ok(Answer::Response(json!([text, context.tokens.ttl().as_secs()])))
    }

    /// Two stages: a challenge to sign, and its signature.
    fn auth_ssl(&mut self, args: &Value, context: &RequestContext<'_>) -> Result<Answer, Refusal> {
        let text = |key| args.get(key).and_then(Value::as_str);
        if is_first_stage(args) {
            let random = SystemRandom::new();
            let Some(string) = self.challenge.issue(context.now.instant, &random) else {
                return Err(Refusal::new(ErrorCode::Internal, "the system gives no random bits"));
            };
            return Ok(Answer::Response(json!({ "test_string": string })));
        }
        let shown = match (text("key"), text("signature"), text("encrypted_string")) {
            (Some(key), Some(signature), None) => (Some(key), signature),
            (None, None, Some(encrypted)) => (None, encrypted),
            _ => {
                let why = "auth_ssl needs \"\", and then {\"key\": \"…\", \"signature\": \"…\"} or \
                           {\"encrypted_string\": \"…\"}";
                return Err(Refusal::bad_request(why));
            }
        };
        let Some(string) = self.challenge.take(context.now.instant) else {
            let why = "no test_string waits to be signed; it is good for one try and 30 s";
            return Err(Refusal::new(ErrorCode::Unauthorized, why));
        };
        // Invalid base64 is an invalid signature.
        let signature = STANDARD.decode(shown.1).unwrap_or_default();
        let (found, what) = match shown.0 {
            Some(id) => {
                let known = KeyId::parse(id).and_then(|id| context.keys.find(&id));
                let what = known.map_or_else(
                    || "key".to_owned(),
                    |entry| format!("key {} of {:?}", entry.key.id(), entry.user),
                );
                let certificate = &self.certificate;
                let is_signed = known.filter(|entry| {
                    entry.key.verify(Purpose::Server, certificate, &string, &signature)
                });
                (is_signed, what)
            }
            None => return Ok(Answer::LegacyKey(LegacySearch::new(string, signature))),
        };
        Ok(match found {
            Some(entry) => Answer::Key { user: entry.user.clone(), id: entry.key.id() },
            None => Answer::Wrong { what, why: "no registered key made this" },
        })
    }

    fn clear(&mut self, context: &mut RequestContext<'_>) {
        if let Some(token) = self.token.take() {
            context.tokens.revoke(token);
        }
        self.identity = None;
        self.challenge.forget();
        context.hub.leave(self.id);
    }

    /// The client's identity; `null` without one.
    fn whoami(&self) -> Value {
        let Some(who) = &self.identity else { return Value::Null };
        let mut reply = json!({
            "user": who.user,
            "uid": who.uid,
            "role": who.role.name(),
            "proof": who.proof.name(),
        });
        if let Proof::Key(id) = who.proof {
            reply["key"] = id.to_string().into();
        }
        reply
    }

    fn query(&self) -> Value {
        let full = self.identity.as_ref().is_some_and(|who| who.role == Role::Full);
        let mut may = Map::new();
        may.insert("rpc/dispatcher".into(), if full { "read/write" } else { "read" }.into());
        // At least own keys.
        may.insert("rpc/settings".into(), "read/write".into());
        may.insert("rpc/status".into(), "read".into());
        may.insert("rpc/history".into(), "read".into());
        may.insert("rpc/system_state".into(), "read".into());
        for name in EventName::ALL {
            may.insert(format!("events/{}", name.canonical()), "read".into());
        }
        Value::Object(may)
    }

    /// Runs the commands of a finished job again, as a new job of the requesting user.
    fn restart(
        &self,
        fields: &Map<String, Value>,
        context: &mut RequestContext<'_>,
    ) -> Result<Answer, Refusal> {
        const KNOWN: [&str; 4] = ["action", "job_id", "nonce", "attach"];
        if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            let known = KNOWN[1..].join(", ");
            let why = format!("restart does not know {unknown:?}; it knows {known}");
            return Err(Refusal::bad_request(why));
        }
        let Some(id) = fields.get("job_id").and_then(Value::as_str) else {
            return Err(Refusal::bad_request("restart needs a job_id"));
        };
        let (nonce, attach) = (read_nonce(fields)?, Attach::of_submission(fields)?);
        let again = context.dispatcher.restart(id)?;
        let answer = self.submit(vec![Submission { nonce, ..again }], attach, context)?;
        Ok(match answer {
            Answer::WhenDurable(mut reply, serials, last, attach) => {
                reply["restarted"] = id.into();
                Answer::WhenDurable(reply, serials, last, attach)
            }
            other => other,
        })
    }

    fn submit(
        &self,
        mut batch: Vec<Submission>,
        attach: Option<Attach>,
        context: &mut RequestContext<'_>,
    ) -> Result<Answer, Refusal> {
        for job in &mut batch {
            job.submitted_by = self.identity.as_ref().map(|who| who.user.clone());
        }
        if let [Submission { nonce: Some(nonce), submitted_by, .. }] = batch.as_slice()
            && let Some((serial, id)) =
                context.dispatcher.find_submitted(nonce, submitted_by.as_deref())
        {
            // The request is repeated because its reply was lost.
            let reply = json!({ "started": [id] });
            let filed = context.dispatcher.is_filed(serial).then_some(serial);
            return Ok(Answer::WhenDurable(reply, filed.into_iter().collect(), serial, attach));
        }
        let ids: Vec<String> = batch.iter().map(|asked| asked.id.clone()).collect();
        let serials = context.dispatcher.submit(batch)?;
        let last = serials.last().copied().unwrap_or_default();
        Ok(Answer::WhenDurable(json!({ "started": ids }), serials, last, attach))
    }

    fn subscribe(
        &mut self,
        args: &Value,
        context: &mut RequestContext<'_>,
    ) -> Result<Value, Refusal> {
        let (names, options) = read_names(args)?;
        let (filter, since) = match options {
            Some(options) => read_options(options, context.dispatcher.limits().max_known())?,
            None => (Filter::default(), None),
        };
        let spelling = Spelling { hyphens: self.hyphens, extended: options.is_some() };
        let changed = context.hub.subscribe(self.id, &names, filter, spelling, since.as_ref());
        let mut reply = names_reply("subscribe", &changed);
        if options.is_some() {
            reply["epoch"] = context.hub.epoch().into();
            reply["seq"] = context.hub.seq().into();
        }
        Ok(reply)
    }
}

/// That user, who has lost the role.
fn without_role(before: &Identity) -> Known {
    let name = before.is_named().then(|| before.user.clone());
    Known::WithoutRole { uid: before.uid, name }
}

/// Whether this is the first stage, without a signature; `md5_key` is sent by the original client
/// through a relay.
fn is_first_stage(args: &Value) -> bool {
    match args {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.keys().all(|key| key == "md5_key"),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn unknown(request: &Request, action: Option<&str>) -> Refusal {
    let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
    let actions = reachable(Some(namespace), Some(name));
    if !actions.is_empty() {
        let what = action.map_or("no action".to_owned(), |action| format!("no action {action:?}"));
        return Refusal::bad_request(format!(
            "{what} of {namespace}/{name}; there are {}",
            actions.join(", ")
        ));
    }
    let names = reachable(Some(namespace), None);
    let why = if names.is_empty() {
        format!("no namespace {namespace:?}; there are {}", reachable(None, None).join(", "))
    } else {
        format!("no {name:?} in {namespace}; there are {}", names.join(", "))
    };
    Refusal::new(ErrorCode::NotFound, why)
}

/// The object form of a subscription.
type Options = Map<String, Value>;

/// Names of events, and the object that contains them, if any.
fn read_names(args: &Value) -> Result<(Vec<EventName>, Option<&Options>), Refusal> {
    let (list, options) = match args {
        Value::Object(options) => (options.get("events").unwrap_or(&Value::Null), Some(options)),
        other => (other, None),
    };
    let known = || EventName::ALL.map(EventName::canonical).join(", ");
    let names = one_or_more(Some(list), "events")
        .map_err(|_| Refusal::bad_request(format!("args must name events: {}", known())))?;
    let names: Result<Vec<EventName>, Refusal> = names
        .iter()
        .map(|name| {
            EventName::parse(name).ok_or_else(|| {
                Refusal::bad_request(format!("no event {name:?}; there are {}", known()))
            })
        })
        .collect();
    Ok((names?, options))
}

/// `most_jobs` bounds the filter, which lives as long as the subscription.
fn read_options(options: &Options, most_jobs: usize) -> Result<(Filter, Option<Since>), Refusal> {
    const KNOWN: [&str; 4] = ["events", "since", "jobs", "priority"];
    if let Some(unknown) = options.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        let why = format!("subscribe does not know {unknown:?}; it knows {}", KNOWN.join(", "));
        return Err(Refusal::bad_request(why));
    }
    let jobs = match options.get("jobs") {
        None | Some(Value::Null) => None,
        jobs @ Some(_) => Some(read_jobs(jobs, most_jobs)?),
    };
    let priority = match options.get("priority") {
        None | Some(Value::Null) => None,
        Some(number) => Some(Priority::new(read_priority(number)?)),
    };
    let since = match options.get("since") {
        None | Some(Value::Null) => None,
        Some(since) => {
            let epoch = since.get("epoch").and_then(Value::as_str);
            let (Some(epoch), Some(seq)) = (epoch, since.get("seq").and_then(Value::as_u64)) else {
                let why = "since must be {\"epoch\": \"…\", \"seq\": number}";
                return Err(Refusal::bad_request(why));
            };
            Some(Since { epoch: epoch.to_owned(), seq })
        }
    };
    Ok((Filter { jobs, priority }, since))
}

fn read_priority(number: &Value) -> Result<u8, Refusal> {
    let number = number.as_u64().and_then(|number| u8::try_from(number).ok());
    let number = number.filter(|number| *number <= Priority::MAX.number());
    number.ok_or_else(|| Refusal::bad_request("priority must be a number from 0 to 10"))
}

fn read_jobs(jobs: Option<&Value>, most: usize) -> Result<BTreeSet<String>, Refusal> {
    let ids: BTreeSet<String> = one_or_more(jobs, "jobs")?.into_iter().collect();
    if ids.len() > most {
        let why = format!("jobs names {} jobs; this server knows at most {most}", ids.len());
        return Err(Refusal::new(ErrorCode::TooLarge, why));
    }
    ids.iter().try_for_each(|id| check_name("job", id))?;
    Ok(ids)
}

/// The requested page of a list, as named by the previous page; `None` for the first.
fn read_page(fields: &Map<String, Value>) -> Result<Option<&str>, Refusal> {
    match fields.get("page") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(page)) => Ok(Some(page)),
        Some(_) => Err(Refusal::bad_request("page must be a string: what \"next\" was")),
    }
}

/// A string, or a non-empty list of strings.
fn one_or_more(value: Option<&Value>, what: &str) -> Result<Vec<String>, Refusal> {
    let refuse = || Refusal::bad_request(format!("{what} must be a string or a list of strings"));
    let list = match value {
        Some(Value::String(one)) if !one.is_empty() => return Ok(vec![one.clone()]),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(_) | None => return Err(refuse()),
    };
    list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(refuse)).collect()
}

fn names_reply(what: &str, names: &[EventName]) -> Value {
    json!({ what: names.iter().map(|name| name.canonical()).collect::<Vec<_>>() })
}

fn log(fields: &Map<String, Value>, context: &RequestContext<'_>) -> Result<Answer, Refusal> {
    let Some(id) = fields.get("job_id").and_then(Value::as_str) else {
        return Err(Refusal::bad_request("log needs a job_id"));
    };
    let number = |key| attach::number(fields, key);
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    Ok(Answer::Log(context.dispatcher.log_question(id, offset, length)?))
}

//! Requests as values.
//!
//! To add a request: a variant of [`Command`], its line in [`TABLE`] with the required role and the
//! parser of its arguments, and its handler in `session`.

mod alert;
mod authentication;
mod events;
mod fields;
mod job;
mod key;
mod notify;

use serde_json::Value;

pub use alert::{AlertCommand, EMITTED, Emission};
pub use authentication::Credentials;
pub use events::{Cursor, HistoryQuery, Since, Subscription};
pub use job::{Attach, CommandText, JobCommand, JobRequest, JobUser};
pub use key::{KeyCommand, NewKey};
pub use notify::NotifyCommand;

use super::event::EventName;
use super::quoted::Quoted;
use super::reply::{ErrorCode, Refusal};
use super::role::{Need, Role};
use fields::Fields;

/// A request of the protocol with its arguments.
#[derive(Clone, Debug)]
pub enum Command {
    /// Name and version of the server.
    Identify,
    /// Authentication.
    Authenticate(Credentials),
    /// Give up the identity and its token.
    ClearAuthentication,
    /// The permissions of the client.
    Query,
    /// The identity of the client.
    WhoAmI,
    /// State of the daemon, with the clients behind the one of that number.
    Status {
        /// The last client of the page before; 0 for the first page.
        after: u64,
    },
    /// Events on disk.
    History(HistoryQuery),
    /// Registered keys.
    Key(KeyCommand),
    /// Check the pools now.
    CheckPools,
    /// Jobs and queues.
    Job(JobCommand),
    /// Notifications.
    Notify(NotifyCommand),
    /// Subscribe to events.
    Subscribe(Subscription),
    /// Unsubscribe from events.
    Unsubscribe(Vec<EventName>),
    /// Alerts.
    Alert(AlertCommand),
    /// A message of a script.
    Emit(Emission),
}

impl Command {
    /// Whether the reply may wait for the store or a worker.
    pub fn may_wait(&self) -> bool {
        match self {
            Command::History(_)
            | Command::Key(_)
            | Command::Alert(_)
            | Command::Emit(_)
            | Command::Notify(NotifyCommand::Test { .. }) => true,
            Command::Job(command) => command.may_wait(),
            Command::Identify
            | Command::Authenticate(_)
            | Command::ClearAuthentication
            | Command::Query
            | Command::WhoAmI
            | Command::Status { .. }
            | Command::CheckPools
            | Command::Notify(NotifyCommand::Queue)
            | Command::Subscribe(_)
            | Command::Unsubscribe(_) => false,
        }
    }
}

/// Reads the arguments of a request.
type Parser = fn(&mut Value) -> Result<Command, Refusal>;

const READ: Need = Need::Role(Role::Read);
const FULL: Need = Need::Role(Role::Full);

/// Namespace, name, action, requirement, arguments. An action of `None` is any.
#[rustfmt::skip]
const TABLE: [(&str, &str, Option<&str>, Need, Parser); 37] = [
    ("rpc", "identify", None, Need::Nothing, |_| Ok(Command::Identify)),
    ("rpc", "auth", None, Need::Nothing, authentication::password),
    ("rpc", "auth_token", None, Need::Nothing, authentication::token),
    ("rpc", "auth_ssl", None, Need::Nothing, authentication::key),
    ("rpc", "auth_clear", None, Need::Nothing, |_| Ok(Command::ClearAuthentication)),
    ("rpc", "query", None, READ, |_| Ok(Command::Query)),
    ("rpc", "whoami", None, READ, |_| Ok(Command::WhoAmI)),
    ("rpc", "status", None, READ, events::status),
    ("rpc", "history", None, READ, events::history),
    // Own keys; the handler checks the role for those of others.
    ("rpc", "settings", Some("list_ssl_certs"), READ, key::list),
    ("rpc", "settings", Some("list_ssl_certificates"), READ, key::list),
    ("rpc", "settings", Some("list_ssl_checksums"), READ, key::checksums),
    ("rpc", "settings", Some("register_ssl_cert"), READ, key::register),
    ("rpc", "settings", Some("register_ssl_certificate"), READ, key::register),
    ("rpc", "settings", Some("revoke_ssl_cert"), READ, key::revoke),
    ("rpc", "settings", Some("revoke_ssl_certificate"), READ, key::revoke),
    ("rpc", "system_state", Some("check"), READ, |_| Ok(Command::CheckPools)),
    ("rpc", "alerts", Some("list"), READ, alert::list),
    // The handler checks the role, which the configuration decides.
    ("rpc", "alerts", Some("acknowledge"), READ, alert::acknowledge),
    ("rpc", "alerts", Some("unacknowledge"), READ, alert::unacknowledge),
    ("rpc", "events", Some("emit"), Need::Emit, alert::emit),
    ("rpc", "dispatcher", Some("list"), READ, job::list),
    ("rpc", "dispatcher", Some("queues"), READ, job::queues),
    ("rpc", "dispatcher", Some("log"), READ, job::log),
    // The handler checks the role for an attachment that holds the job.
    ("rpc", "dispatcher", Some("attach"), READ, job::attach),
    ("rpc", "dispatcher", Some("acknowledge"), READ, job::acknowledge),
    ("rpc", "dispatcher", Some("detach"), READ, job::detach),
    ("rpc", "dispatcher", Some("run"), FULL, job::run),
    ("rpc", "dispatcher", Some("submit"), FULL, job::submit),
    ("rpc", "dispatcher", Some("restart"), FULL, job::restart),
    ("rpc", "dispatcher", Some("kill"), FULL, job::kill),
    ("rpc", "dispatcher", Some("pause"), FULL, |args| job::set_paused(args, true)),
    ("rpc", "dispatcher", Some("resume"), FULL, |args| job::set_paused(args, false)),
    ("rpc", "notify", Some("queue"), READ, notify::queue),
    ("rpc", "notify", Some("test"), FULL, notify::test),
    ("events", "subscribe", None, READ, events::subscribe),
    ("events", "unsubscribe", None, READ, events::unsubscribe),
];

/// Parses a request. Its requirement is `None` where there is no such request; it is known too
/// where the arguments are wrong, so that their fault is reported to authorized clients only.
/// Namespace and name are case-insensitive, an action is not.
pub(super) fn parse(
    namespace: &str,
    name: &str,
    args: &mut Value,
) -> (Option<Need>, Result<Command, Refusal>) {
    let action = args.get("action").and_then(Value::as_str);
    let found = TABLE.iter().find(|(in_namespace, called, with, ..)| {
        namespace.eq_ignore_ascii_case(in_namespace)
            && name.eq_ignore_ascii_case(called)
            && with.is_none_or(|with| action == Some(with))
    });
    match found {
        Some((.., need, read)) => (Some(*need), read(args)),
        None => (None, Err(unknown(namespace, name, action))),
    }
}

fn unknown(namespace: &str, name: &str, action: Option<&str>) -> Refusal {
    let actions = requests(Some(namespace), Some(name));
    if !actions.is_empty() {
        let what =
            action.map_or("no action".to_owned(), |action| format!("no action {}", Quoted(action)));
        return Refusal::bad_request(format!(
            "{what} of {namespace}/{name}; there are {}",
            actions.join(", ")
        ));
    }
    let names = requests(Some(namespace), None);
    let why = if names.is_empty() {
        format!("no namespace {}; there are {}", Quoted(namespace), requests(None, None).join(", "))
    } else {
        format!("no {} in {namespace}; there are {}", Quoted(name), names.join(", "))
    };
    Refusal::new(ErrorCode::NotFound, why)
}

/// The namespaces, the names of a namespace, or the actions of a name.
pub fn requests(namespace: Option<&str>, name: Option<&str>) -> Vec<&'static str> {
    let mut found = Vec::new();
    for (in_namespace, called, action, ..) in &TABLE {
        let same_namespace = namespace.is_none_or(|n| n.eq_ignore_ascii_case(in_namespace));
        let same_name = name.is_none_or(|n| n.eq_ignore_ascii_case(called));
        let word = match (namespace, name) {
            (None, _) => Some(*in_namespace),
            (Some(_), None) => Some(*called),
            (Some(_), Some(_)) => *action,
        };
        if let Some(word) = word.filter(|word| same_namespace && same_name && !found.contains(word))
        {
            found.push(word);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn need(namespace: &str, name: &str, action: Option<&str>) -> Option<Need> {
        parse(namespace, name, &mut json!({ "action": action })).0
    }

    #[test]
    fn required_role_is_found_for_each_request() {
        assert_eq!(need("RPC", "Identify", None), Some(Need::Nothing));
        assert_eq!(need("rpc", "dispatcher", Some("run")), Some(FULL));
        assert_eq!(need("rpc", "dispatcher", Some("list")), Some(READ));
        assert_eq!(need("rpc", "dispatcher", Some("bogus")), None);
        assert_eq!(need("rpc", "dispatcher", None), None);
        assert_eq!(need("rpc", "system_state", Some("check")), Some(READ));
        assert_eq!(need("rpc", "system_state", Some("bogus")), None);
        assert_eq!(need("sysadm", "zfs", None), None);
    }

    #[test]
    fn requirement_is_known_where_arguments_are_wrong() {
        let (need, command) = parse("rpc", "dispatcher", &mut json!({ "action": "kill" }));
        assert_eq!(need, Some(FULL));
        assert_eq!(command.unwrap_err().code, ErrorCode::BadRequest);
    }

    #[test]
    fn error_lists_existing_names() {
        assert_eq!(requests(None, None), ["rpc", "events"]);
        assert_eq!(requests(Some("events"), None), ["subscribe", "unsubscribe"]);
        let actions = requests(Some("rpc"), Some("dispatcher"));
        assert!(actions.contains(&"list") && actions.contains(&"resume"), "{actions:?}");
        assert_eq!(requests(Some("junk"), None), Vec::<&str>::new());
        let (_, unknown) = parse("rpc", "dispatcher", &mut json!({ "action": "bogus" }));
        assert_eq!(unknown.unwrap_err().code, ErrorCode::BadRequest);
        let (_, unknown) = parse("rpc", "bogus", &mut Value::Null);
        let unknown = unknown.unwrap_err();
        assert_eq!(unknown.code, ErrorCode::NotFound);
        assert!(unknown.why.starts_with("no \"bogus\" in rpc; there are identify, "), "{unknown}");
    }
}

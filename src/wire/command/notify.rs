//! Requests about notifications.

use serde_json::Value;

use super::super::reply::Refusal;
use super::Command;
use super::fields::Fields;

/// A request about notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotifyCommand {
    /// The targets, and the events that wait for them.
    Queue,
    /// Send a message to test a target.
    Test {
        /// Name of the target.
        name: String,
    },
}

pub(super) fn queue(_: &mut Value) -> Result<Command, Refusal> {
    Ok(Command::Notify(NotifyCommand::Queue))
}

pub(super) fn test(args: &mut Value) -> Result<Command, Refusal> {
    let name = Fields::of(args).text("name")?;
    let name = name.ok_or_else(|| Refusal::bad_request("test needs a name"))?.to_owned();
    Ok(Command::Notify(NotifyCommand::Test { name }))
}

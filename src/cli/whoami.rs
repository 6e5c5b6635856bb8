//! `whoami`: the identity that a daemon has established for the caller.

use std::io::{self, IsTerminal};

use serde_json::Value;

use super::exit::Exit;
use super::target::{TargetOptions, target_help};
use super::terminal::Terminal;
use super::words::{Word, Words, unexpected};
use super::{Command, escape, write, write_json};

pub(super) const COMMAND: Command = Command {
    name: "whoami",
    summary: "show your identity and role at the daemon",
    help: concat!(
        "\
Shows your identity at the daemon: user, role (full or read), method of
authentication, and the daemon's version and protocol level.

Usage: sysadm-events whoami [TARGET] [--json]

Options:
  --json      the replies to rpc/whoami and rpc/identify, in one object
  -h, --help  this text
",
        target_help!(),
        "
Exits 77 where the daemon gives you no role.

Example:
  sysadm-events whoami -H nas
"
    ),
    main,
};

fn main(mut words: Words) -> Result<u8, Exit> {
    let (mut target, mut json) = (TargetOptions::default(), false);
    while let Some(word) = words.next()? {
        match word {
            Word::Option(name) if target.take(&name, &mut words)? => {}
            Word::Option(name) if name == "--json" => json = true,
            other => return Err(unexpected(&other)),
        }
    }
    let mut client = target.connect()?;
    let mut all = client.call("rpc", "whoami", Value::Null)?;
    let server = client.call("rpc", "identify", Value::Null)?;
    if let (Some(all), Some(server)) = (all.as_object_mut(), server.as_object()) {
        all.insert("server".to_owned(), server.clone().into());
    }
    if json {
        write_json(&format!("{all}\n"))?;
        return Ok(0);
    }
    write(&shown(&all, Terminal::of_this_process(io::stdout().is_terminal())))?;
    Ok(0)
}

fn shown(all: &Value, terminal: Terminal) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => escape::line(text, terminal.unicode),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    let key = all["key"].as_str().map_or(String::new(), |_| format!(" {}", text(&all["key"])));
    let server = &all["server"];
    format!(
        "user    {} (uid {})\nrole    {}\nproof   {}{key}\nserver  {}, version {}, protocol {}\n",
        text(&all["user"]),
        text(&all["uid"]),
        text(&all["role"]),
        text(&all["proof"]),
        text(&server["hostname"]),
        text(&server["version"]),
        text(&server["protocol"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whoami_shows_identity_with_its_proof_and_the_server() {
        let terminal = Terminal { colour: false, unicode: true };
        let server = json!({ "hostname": "n\u{1b}as", "version": "1.2", "protocol": 3 });
        let mut all =
            json!({ "user": "ann", "uid": 7, "role": "read", "proof": "key", "key": "9Ke" });
        all["server"] = server;
        assert_eq!(
            shown(&all, terminal),
            "user    ann (uid 7)\nrole    read\nproof   key 9Ke\nserver  n^[as, version 1.2, protocol 3\n"
        );
        // A daemon of an earlier version.
        assert!(shown(&json!({}), terminal).ends_with("server  ?, version ?, protocol ?\n"));
    }
}

//! Connecting to a host behind a relay.
//!
//! The client authenticates to the relay, and gets the list of servers with a common key. One of
//! them is the requested host: its host name is a hint, its certificate is the proof. Messages go
//! through a tunnel that the relay cannot read.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use super::line::{Got, Line, text_of};
use super::target::{Bridge, Fingerprint, Via};
use super::{ClientError, MAX_MESSAGE, Refused, Timeouts, Wait, connect, registration};
use crate::auth::key::{PrivateKey, Purpose};
use crate::bridge::link::{Dialogue, News, Proof};
use crate::bridge::tunnel::{self, Tunnel};
use crate::net::pin::{self, Pin};
use crate::wire::{JsonFields, PeerKind, routed};

/// An event of the relay.
pub(super) enum Heard {
    /// All available servers.
    Available(Vec<String>),
    /// A payload of a server.
    Payload { from: String, text: String },
    /// A descriptor of [`Wait::wake`] is ready.
    Woken,
    /// [`Wait::deadline`] has passed.
    Nothing,
}

/// An authenticated connection to a relay.
pub(super) struct RelayConnection {
    line: Line,
    dialogue: Dialogue,
    key: Arc<PrivateKey>,
    /// Certificate of the relay.
    certificate: [u8; 32],
}

impl RelayConnection {
    /// Connects to the relay, and authenticates.
    pub(super) fn enter(
        bridge: &Bridge,
        timeouts: Timeouts,
    ) -> Result<RelayConnection, ClientError> {
        let opened = connect::open_url(&bridge.url, Some(bridge.fingerprint), &timeouts)
            .map_err(|error| error.known_at(bridge.known.as_deref()))?;
        let hostname = nix::unistd::gethostname();
        let hostname = hostname.map(|name| name.to_string_lossy().into_owned());
        let sums = vec![bridge.key.public().checksum()];
        let mut relay = RelayConnection {
            line: Line::over(opened, timeouts),
            dialogue: Dialogue::new(PeerKind::Client, &hostname.unwrap_or_default(), sums),
            key: bridge.key.clone(),
            certificate: bridge.fingerprint.digest(),
        };
        relay.say()?;
        let deadline = Instant::now() + timeouts.handshake;
        let wait = Wait { deadline: Some(deadline), wake: &[] };
        while !relay.dialogue.is_known() {
            if let Heard::Nothing = relay.next(&wait)? {
                return Err(relay.line.gave_up(super::Step::Handshake, timeouts.handshake));
            }
        }
        Ok(relay)
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// Host and port of the relay.
    pub(super) fn peer(&self) -> &str {
        self.line.peer()
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        self.line.timeouts()
    }

    /// Sends a payload to a server.
    pub(super) fn send(&mut self, to: &str, payload: &str) -> Result<(), ClientError> {
        self.line.send(routed(to, payload))
    }

    fn say(&mut self) -> Result<(), ClientError> {
        self.dialogue.take_texts().into_iter().try_for_each(|text| self.line.send(text))
    }

    /// The next event; messages of the relay itself are handled here. [`Heard::Nothing`] may also
    /// be returned after such a message, when authentication has succeeded.
    pub(super) fn next(&mut self, wait: &Wait<'_>) -> Result<Heard, ClientError> {
        loop {
            let text = match self.line.receive(wait)? {
                Got::Text(text) => text,
                Got::Binary(message) => text_of(&message)?,
                Got::Woken => return Ok(Heard::Woken),
                Got::Nothing => return Ok(Heard::Nothing),
            };
            let was_known = self.dialogue.is_known();
            let news = self.dialogue.take(&text);
            if let Some(News::Challenge(string)) = &news {
                let signature = self.key.sign(Purpose::Bridge, &self.certificate, string);
                let signature = signature
                    .map_err(|error| ClientError::Lost(io::Error::other(error.to_string())))?;
                let key = self.key.public().id().to_string();
                let signature = STANDARD.encode(signature);
                self.dialogue.prove(&Proof::Signature { key, signature });
            }
            self.say()?;
            match news {
                Some(News::Available(ids)) => return Ok(Heard::Available(ids)),
                Some(News::Payload { from, text }) => return Ok(Heard::Payload { from, text }),
                Some(News::Refused(message)) => {
                    let message = format!("the bridge does not know the key: {message}");
                    let refused = Refused { code: Some(403), message };
                    let remedy = registration(&self.key, "NAME", " --bridge");
                    return Err(ClientError::KeyRefused { refused, remedy });
                }
                Some(News::Challenge(_) | News::Complaint(_) | News::Known) | None => {}
            }
            if !was_known && self.dialogue.is_known() {
                return Ok(Heard::Available(Vec::new()));
            }
            // Messages of the relay itself must not postpone a deadline.
            if wait.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(Heard::Nothing);
            }
        }
    }
}

/// A server behind the relay.
pub(super) struct RemoteHost {
    /// Its id there, as long as it is connected.
    pub(super) id: String,
    tunnel: Tunnel,
    pin: Arc<Pin>,
}

impl RemoteHost {
    /// Opens a tunnel to it; it must present one of the `expected` certificates.
    pub(super) fn begin(
        id: &str,
        expected: &[Fingerprint],
        relay: &mut RelayConnection,
    ) -> Result<RemoteHost, ClientError> {
        let expected = expected.iter().map(|fingerprint| fingerprint.digest()).collect();
        let (tls, pin) = pin::connect("far", expected, pin::TUNNELS)
            .map_err(|error| ClientError::Tls(error.to_string()))?;
        let mut remote = RemoteHost { id: id.to_owned(), tunnel: Tunnel::client(tls), pin };
        remote.flush(relay)?;
        Ok(remote)
    }

    /// Whether messages can be exchanged.
    pub(super) fn is_open(&self) -> bool {
        self.tunnel.is_open()
    }

    /// The presented certificate.
    pub(super) fn shown(&self) -> Option<Fingerprint> {
        self.pin.shown().map(Fingerprint::new)
    }

    /// The presented certificate, if it was not an expected one.
    pub(super) fn wrong(&self) -> Option<Fingerprint> {
        self.pin.wrong().map(Fingerprint::new)
    }

    /// Processes a payload. A payload that is not authentic is ignored: the relay may have inserted
    /// it.
    pub(super) fn take(
        &mut self,
        payload: &str,
        relay: &mut RelayConnection,
    ) -> Result<(), ClientError> {
        if !tunnel::is_tunnelled(payload) {
            return Ok(());
        }
        let taken = tunnel::decode(payload)
            .and_then(|records| self.tunnel.receive(&records, MAX_MESSAGE))
            .map_err(|broken| ClientError::Tls(broken.to_string()));
        self.flush(relay)?;
        taken
    }

    /// The next received message.
    pub(super) fn next_message(&mut self) -> Result<Option<Zeroizing<String>>, ClientError> {
        let message = self.tunnel.next_message();
        if message.is_none() && self.tunnel.has_ended() {
            return Err(ClientError::ended());
        }
        Ok(message)
    }

    /// Sends a message.
    pub(super) fn send(
        &mut self,
        text: &str,
        relay: &mut RelayConnection,
    ) -> Result<(), ClientError> {
        let mut rest = text.as_bytes();
        loop {
            let sent = self.tunnel.send(rest);
            rest = rest.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                self.tunnel.end_message();
                return self.flush(relay);
            }
            if sent == 0 && !self.tunnel.has_records() {
                return Err(ClientError::ended());
            }
            self.flush(relay)?;
        }
    }

    fn flush(&mut self, relay: &mut RelayConnection) -> Result<(), ClientError> {
        while let Some(records) = self.tunnel.take_records() {
            relay.send(&self.id, &tunnel::encode(&records))?;
        }
        Ok(())
    }

    /// Closes the tunnel.
    pub(super) fn close(&mut self, relay: &mut RelayConnection) {
        self.tunnel.close();
        let _ = self.flush(relay);
    }
}

/// The host name in a server's reply in clear; `None` for any other payload.
pub(super) fn name_in(payload: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(payload).ok()?;
    let is_answer = answer.field("name") == "response" && answer.field("id") == HINT;
    answer.field("args").field("hostname").as_str().filter(|_| is_answer).map(str::to_owned)
}

/// Requests a server's host name.
pub(super) fn ask_for_name(id: &str, relay: &mut RelayConnection) -> Result<(), ClientError> {
    let question = format!(r#"{{"namespace":"rpc","name":"identify","id":"{HINT}","args":""}}"#);
    relay.send(id, &question)
}

const HINT: &str = "who";

/// The search for one host.
struct Search<'a> {
    via: &'a Via,
    /// Available ids, and their host names.
    there: Vec<(String, Option<String>)>,
    /// Candidates.
    next: Vec<String>,
    remote: Option<RemoteHost>,
    wrong: Option<Fingerprint>,
}

/// Waits for the host, and opens a tunnel to it.
pub(super) fn find(via: &Via, relay: &mut RelayConnection) -> Result<RemoteHost, ClientError> {
    let timeouts = *relay.timeouts();
    let deadline = Instant::now() + timeouts.connect;
    let wait = Wait { deadline: Some(deadline), wake: &[] };
    let mut search = Search { via, there: Vec::new(), next: Vec::new(), remote: None, wrong: None };
    loop {
        match relay.next(&wait)? {
            Heard::Available(ids) => search.look_at(&ids, relay)?,
            Heard::Payload { from, text } => search.take(&from, &text, relay)?,
            Heard::Woken => {}
            Heard::Nothing => return Err(search.in_vain(relay.peer())),
        }
        match search.remote.take_if(|remote| remote.is_open()) {
            Some(remote) => return Ok(remote),
            // Other payloads must not postpone the deadline.
            None if search.is_over() || deadline <= Instant::now() => {
                return Err(search.in_vain(relay.peer()));
            }
            None => {}
        }
    }
}

impl Search<'_> {
    fn look_at(&mut self, ids: &[String], relay: &mut RelayConnection) -> Result<(), ClientError> {
        self.there.retain(|(id, _)| ids.contains(id));
        self.next.retain(|id| ids.contains(id));
        self.remote.take_if(|remote| !ids.contains(&remote.id));
        for id in ids {
            if self.there.iter().all(|(known, _)| known != id) {
                let is_it = *id == self.via.host;
                self.there.push((id.clone(), is_it.then(|| id.clone())));
                if is_it {
                    self.next.push(id.clone());
                } else {
                    ask_for_name(id, relay)?;
                }
            }
        }
        self.try_next(relay)
    }

    fn take(
        &mut self,
        from: &str,
        payload: &str,
        relay: &mut RelayConnection,
    ) -> Result<(), ClientError> {
        if let Some(remote) = self.remote.as_mut().filter(|remote| remote.id == from) {
            let taken = remote.take(payload, relay);
            if let (Err(ClientError::Tls(_)), Some(wrong)) = (&taken, remote.wrong()) {
                self.wrong = Some(wrong);
                self.remote = None;
            } else {
                taken?;
            }
        }
        if let Some(name) = name_in(payload)
            && let Some((id, known)) = self.there.iter_mut().find(|(id, _)| id == from)
            && known.is_none()
        {
            if is_called(&name, &self.via.host) {
                self.next.push(id.clone());
            }
            *known = Some(name);
        }
        self.try_next(relay)
    }

    fn try_next(&mut self, relay: &mut RelayConnection) -> Result<(), ClientError> {
        if self.remote.is_none()
            && let Some(id) = self.next.pop()
        {
            self.remote = Some(RemoteHost::begin(&id, &[self.via.fingerprint], relay)?);
        }
        Ok(())
    }

    /// Whether all available hosts have sent their names, and none is the requested one: it has
    /// another name, or presented another certificate.
    fn is_over(&self) -> bool {
        let all_asked = self.there.iter().all(|(_, name)| name.is_some());
        self.remote.is_none() && self.next.is_empty() && all_asked && !self.there.is_empty()
    }

    fn in_vain(&self, bridge: &str) -> ClientError {
        if let Some(shown) = self.wrong {
            let expected = self.via.fingerprint;
            return ClientError::WrongCertificate { expected, shown, known: None }
                .known_at(self.via.known.as_deref());
        }
        let names: Vec<&str> = self.there.iter().filter_map(|(_, name)| name.as_deref()).collect();
        let why = match (self.remote.is_some(), names.as_slice()) {
            (true, _) => "it does not complete the handshake".to_owned(),
            (false, []) => "no host behind this relay accepts the key".to_owned(),
            (false, names) => format!("no such host is there; hosts there: {}", names.join(", ")),
        };
        let who = format!("{} behind {bridge}", self.via.host);
        ClientError::Unreachable(who, io::Error::new(io::ErrorKind::NotFound, why))
    }
}

/// Whether a host has that name, or that first label of its name.
fn is_called(name: &str, wanted: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    name.eq_ignore_ascii_case(wanted) || first.eq_ignore_ascii_case(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_matches_full_name_or_first_label() {
        assert!(is_called("nas.example.org", "NAS") && is_called("nas", "nas"));
        assert!(is_called("nas.example.org", "nas.example.org"));
        assert!(!is_called("nas.example.org", "nas.example") && !is_called("nas2", "nas"));
    }

    #[test]
    fn only_a_reply_to_the_request_names_a_host() {
        let answer = r#"{"namespace":"rpc","name":"response","id":"who","args":{"type":"server","hostname":"nas"}}"#;
        assert_eq!(name_in(answer).as_deref(), Some("nas"));
        for other in [
            answer.replace("who", "7"),
            answer.replace("response", "error"),
            answer.replace("hostname", "host"),
            "tls AAAA".to_owned(),
        ] {
            assert_eq!(name_in(&other), None, "{other}");
        }
    }
}

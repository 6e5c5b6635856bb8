//! A client behind a relay: through a tunnel, or in clear for legacy clients.
//!
//! Converts payloads to messages and back. It has its own outbox, from which the link takes in
//! turn: a slow client, or one with a long queue, delays no other.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use serde_json::json;
use zeroize::Zeroizing;

use super::super::tunnel::{Broken, MESSAGE, Tunnel, decode, encode, head, is_tunnelled};
use crate::net::{CloseReason, Outbox, OutgoingMessage};

/// Progress of closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Not closing.
    Stays,
    /// After the queued output.
    Leaving,
    /// Nothing more is sent.
    Gone,
}

enum Way {
    Tunnel(Tunnel),
    Clear {
        messages: VecDeque<Zeroizing<String>>,
        /// Their accounted size.
        held: usize,
        /// From this position of the outbox on both sides use base64.
        encoded: Option<u64>,
        /// Maximum size of a payload that the relay accepts, in bytes.
        longest: usize,
    },
}

/// A client behind a relay. `P` is the type of outgoing messages.
pub struct Caller<P: OutgoingMessage> {
    way: Way,
    /// Outgoing messages.
    pub outbox: Outbox<P>,
    /// Maximum size of an incoming message, in bytes.
    pub max_message: usize,
    /// The message being sent, and the number of bytes sent.
    current: Option<(Rc<[u8]>, usize)>,
    leave: Leave,
    /// The last message.
    last_words: Option<String>,
    /// Deadline for closing.
    due: Option<Instant>,
    /// Maximum duration of closing.
    patience: Duration,
}

impl<P: OutgoingMessage> Caller<P> {
    /// A client through a tunnel.
    ///
    /// # Errors TLS cannot be initialised.
    pub fn tunnel(
        config: Arc<ServerConfig>,
        outbox: Outbox<P>,
        max_message: usize,
        patience: Duration,
    ) -> Result<Caller<P>, rustls::Error> {
        Ok(Caller::new(Way::Tunnel(Tunnel::server(config)?), outbox, max_message, patience))
    }

    /// A client in clear, one message per payload; it is closed where a payload of more than
    /// `longest` bytes would have to be sent.
    pub fn clear(
        outbox: Outbox<P>,
        max_message: usize,
        patience: Duration,
        longest: usize,
    ) -> Caller<P> {
        let way = Way::Clear { messages: VecDeque::new(), held: 0, encoded: None, longest };
        Caller::new(way, outbox, max_message, patience)
    }

    fn new(way: Way, outbox: Outbox<P>, max_message: usize, patience: Duration) -> Caller<P> {
        Caller {
            way,
            outbox,
            max_message,
            current: None,
            leave: Leave::Stays,
            last_words: None,
            due: None,
            patience,
        }
    }

    /// Whether the relay can read its messages.
    pub fn is_clear(&self) -> bool {
        matches!(self.way, Way::Clear { .. })
    }

    /// Whether messages can be exchanged.
    pub fn is_open(&self) -> bool {
        self.leave == Leave::Stays
    }

    /// Whether nothing more is sent.
    pub fn is_gone(&self) -> bool {
        self.leave == Leave::Gone
    }

    /// Whether `payload` starts a new session of the same client.
    pub fn begins_anew(&self, payload: &str) -> bool {
        match &self.way {
            Way::Tunnel(tunnel) => !is_tunnelled(payload) || tunnel.is_another(&head(payload)),
            Way::Clear { encoded, .. } => {
                is_tunnelled(payload) || (encoded.is_some() && payload.starts_with('{'))
            }
        }
    }

    /// Processes a payload.
    ///
    /// # Errors The payload is invalid in this session; the session has ended, and an alert may be
    /// pending.
    pub fn receive(&mut self, payload: &str) -> Result<(), Broken> {
        if !self.is_open() {
            return Ok(());
        }
        let room = 2 * self.max_message;
        let taken = match &mut self.way {
            Way::Tunnel(tunnel) => {
                decode(payload).and_then(|records| tunnel.receive(&records, room))
            }
            Way::Clear { messages, held, encoded, .. } => {
                let text = if *held + payload.len() > room {
                    Err(Broken::TooMuch(room))
                } else if encoded.is_none() {
                    Ok(payload.to_owned())
                } else {
                    let text = STANDARD.decode(payload).ok();
                    text.and_then(|text| String::from_utf8(text).ok())
                        .ok_or(Broken::Garbage("a payload that is no base64 of a text"))
                };
                text.map(|text| {
                    *held += text.len() + MESSAGE;
                    messages.push_back(Zeroizing::new(text));
                })
            }
        };
        if let Err(broken) = &taken {
            self.last_words = self.is_clear().then(|| session_is_over(&broken.to_string()));
            self.outbox.clear();
            self.current = None;
            self.leave = Leave::Leaving;
        }
        taken
    }

    /// Bytes of messages that have come and were not taken.
    pub fn received(&self) -> usize {
        match &self.way {
            Way::Tunnel(tunnel) => tunnel.received(),
            Way::Clear { held, .. } => *held,
        }
    }

    /// Forgets them; only for a session that is being closed.
    pub fn forget_received(&mut self) {
        match &mut self.way {
            Way::Tunnel(tunnel) => tunnel.forget_received(),
            Way::Clear { messages, held, .. } => (*messages, *held) = (VecDeque::new(), 0),
        }
    }

    /// The next message; `Err` with its length where it exceeds the maximum.
    pub fn next_message(&mut self) -> Option<Result<Zeroizing<String>, usize>> {
        if !self.is_open() {
            return None;
        }
        let message = match &mut self.way {
            Way::Tunnel(tunnel) => {
                let message = tunnel.next_message();
                if message.is_none() && tunnel.has_ended() {
                    self.outbox.clear();
                    self.leave = Leave::Leaving;
                }
                message?
            }
            Way::Clear { messages, held, .. } => {
                let message = messages.pop_front()?;
                *held -= message.len() + MESSAGE;
                message
            }
        };
        if message.len() > self.max_message { Some(Err(message.len())) } else { Some(Ok(message)) }
    }

    /// The next message is the last one in clear; later ones are encoded.
    pub fn encode_after_next(&mut self) {
        let place = self.outbox.next_place() + 1;
        if let Way::Clear { encoded, .. } = &mut self.way {
            encoded.get_or_insert(place);
        }
    }

    /// Whether [`Caller::next_payload`] may return a payload.
    pub fn has_something(&self) -> bool {
        let (is_open, has_records) = match &self.way {
            Way::Tunnel(tunnel) => (tunnel.is_open(), tunnel.has_records()),
            Way::Clear { .. } => (true, false),
        };
        let is_sending = is_open && (self.current.is_some() || !self.outbox.is_empty());
        is_sending || has_records || self.leave == Leave::Leaving
    }

    /// Whether the link has taken all messages queued before `place`.
    pub fn has_sent(&self, place: u64) -> bool {
        self.outbox.has_sent(place) && self.current.is_none()
    }

    /// Whether it is in the middle of a message, whose rest should be taken next.
    pub fn is_midway(&self) -> bool {
        self.current.is_some()
    }

    /// The next payload for the client.
    pub fn next_payload(&mut self) -> Option<String> {
        let payload = match &mut self.way {
            Way::Tunnel(_) => self.next_of_tunnel(),
            Way::Clear { .. } => self.next_of_clear(),
        };
        if payload.is_none() && self.leave == Leave::Leaving {
            self.leave = Leave::Gone;
        }
        payload
    }

    fn next_of_tunnel(&mut self) -> Option<String> {
        let Way::Tunnel(tunnel) = &mut self.way else { return None };
        if let Some(records) = tunnel.take_records() {
            return Some(encode(&records));
        }
        if !tunnel.is_open() {
            return None;
        }
        if self.current.is_none() {
            self.current = self.outbox.take().map(|(_, bytes)| (bytes, 0));
        }
        match &mut self.current {
            Some((bytes, sent)) => {
                *sent += tunnel.send(bytes.get(*sent..).unwrap_or_default());
                if *sent >= bytes.len() {
                    tunnel.end_message();
                    self.current = None;
                }
            }
            None if self.leave == Leave::Leaving => {
                if let Some(words) = self.last_words.take() {
                    tunnel.send_short(&words);
                }
                tunnel.close();
            }
            None => return None,
        }
        tunnel.take_records().map(|records| encode(&records))
    }

    fn next_of_clear(&mut self) -> Option<String> {
        let Way::Clear { encoded, longest, .. } = &self.way else { return None };
        let Some((place, bytes)) = self.outbox.take() else {
            // A client that has not authenticated reconnects by itself.
            let words = self.last_words.take().filter(|_| self.leave == Leave::Leaving)?;
            return encoded.map(|_| words);
        };
        let payload = match encoded {
            Some(from) if *from <= place => STANDARD.encode(&bytes),
            Some(_) | None => String::from_utf8_lossy(&bytes).into_owned(),
        };
        if payload.len() > *longest {
            self.outbox.clear();
            self.leave = Leave::Leaving;
            return encoded.map(|_| session_is_over("a reply is longer than the bridge takes"));
        }
        Some(payload)
    }

    /// Closes at once: queued output is dropped, except the rest of a message in flight.
    pub fn close(&mut self, reason: &CloseReason, now: Instant) {
        self.outbox.clear();
        self.close_when_sent(reason, now);
    }

    /// Closes after the queued output. The client gets the reason like in a WebSocket's close
    /// frame: in a tunnel by a message `rpc/close`, in clear by [`session_is_over`].
    pub fn close_when_sent(&mut self, reason: &CloseReason, now: Instant) {
        if self.leave == Leave::Stays {
            self.last_words = Some(if self.is_clear() {
                session_is_over(&reason.why)
            } else {
                let args = json!({ "code": reason.code, "reason": reason.why });
                json!({ "namespace": "rpc", "name": "close", "id": "", "args": args }).to_string()
            });
            self.leave = Leave::Leaving;
            self.due = Some(now + self.patience);
        }
    }

    /// Changes the maximum duration of closing.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Deadline for closing.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// The payload that ends the session of an original client in clear: the error of its automatic
/// authentication, after which it authenticates again.
pub fn session_is_over(why: &str) -> String {
    let args = json!({ "code": 401, "message": format!("Unauthorized: {why}") });
    let id = "sysadm-client-auth-auto";
    let frame = json!({ "namespace": "rpc", "name": "error", "id": id, "args": args });
    STANDARD.encode(frame.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tunnel;
    use crate::charge::Account;

    #[derive(Debug)]
    struct Text(&'static str);

    impl OutgoingMessage for Text {
        type Key = u8;
        fn weight(&self) -> usize {
            self.0.len()
        }
        fn key(&self) -> Option<u8> {
            None
        }
        fn join(self, newer: Text) -> Text {
            newer
        }
        fn bytes(&self) -> Rc<[u8]> {
            self.0.as_bytes().into()
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    fn clear() -> Caller<Text> {
        Caller::clear(Outbox::new(1000, &Account::default()), 100, PATIENCE, 100)
    }

    fn heard(caller: &mut Caller<Text>) -> Vec<String> {
        std::iter::from_fn(|| caller.next_message()).map(|text| text.unwrap().to_string()).collect()
    }

    fn sent_list(caller: &mut Caller<Text>) -> Vec<String> {
        std::iter::from_fn(|| caller.next_payload()).collect()
    }

    #[test]
    fn an_old_client_speaks_in_clear_and_then_in_base64() {
        let mut caller = clear();
        caller.receive("{\"a\":1}").unwrap();
        assert_eq!(heard(&mut caller), ["{\"a\":1}"]);
        caller.encode_after_next();
        caller.outbox.push(Text("{\"b\":2}")).unwrap();
        caller.outbox.push(Text("{\"c\":3}")).unwrap();
        assert_eq!(sent_list(&mut caller), ["{\"b\":2}", "eyJjIjozfQ=="]);
        assert!(!caller.begins_anew("eyJjIjozfQ=="));
        caller.receive("eyJjIjozfQ==").unwrap();
        assert_eq!(heard(&mut caller), ["{\"c\":3}"]);
        assert!(caller.begins_anew("{\"a\":1}") && caller.begins_anew("tls AAAA"));
    }

    #[test]
    fn many_small_messages_are_bounded() {
        for payload in ["", "{"] {
            let mut caller = clear();
            caller.receive("{}").unwrap();
            let taken = (0..10_000).take_while(|_| caller.receive(payload).is_ok()).count();
            assert!(taken < 10, "{taken}");
        }
        // A client may send any amount while it is read.
        let mut caller = clear();
        for _ in 0..10_000 {
            caller.receive("{}").unwrap();
            assert_eq!(heard(&mut caller), ["{}"]);
        }
    }

    /// Pseudo-random numbers with a fixed seed.
    fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        }
    }

    #[test]
    fn arbitrary_payload_ends_at_most_its_session() {
        let (client, config) = tunnel::tests::client_and_config();
        let hello = encode(&Tunnel::client(client).take_records().unwrap());
        let good = ["{\"a\":1}", "eyJhIjoxfQ==", "tls FgMB", "", "\n", "tls ", &hello];
        for seed in 0..300 {
            let mut next = numbers(seed);
            let outbox = Outbox::new(1000, &Account::default());
            let mut caller = if seed % 2 == 0 {
                clear()
            } else {
                Caller::tunnel(config.clone(), outbox, 100, PATIENCE).unwrap()
            };
            for _ in 0..20 {
                let mut payload = good[next(good.len())].to_owned().into_bytes();
                for _ in 0..next(4) {
                    let at = next(payload.len() + 1);
                    match next(3) {
                        0 => payload.insert(at, next(128) as u8),
                        1 => payload.truncate(at),
                        _ => payload.extend_from_within(..at),
                    }
                }
                let payload = String::from_utf8(payload).unwrap();
                let anew = caller.begins_anew(&payload);
                let was_open = caller.is_open();
                let taken = caller.receive(&payload);
                assert!(taken.is_ok() || !caller.is_open(), "{payload:?}");
                assert!(!anew || was_open || taken.is_ok());
                while let Some(message) = caller.next_message() {
                    assert!(message.is_err() || seed % 2 == 0, "nothing comes out of no handshake");
                }
                sent_list(&mut caller);
            }
            let held = match &caller.way {
                Way::Tunnel(_) => 0,
                Way::Clear { messages, .. } => messages.len(),
            };
            assert_eq!(held, 0);
        }
    }

    #[test]
    fn payload_too_long_for_the_relay_ends_the_session_only() {
        let mut caller = clear();
        let long: &'static str = Box::leak("x".repeat(76).into_boxed_str());
        caller.outbox.push(Text(long)).unwrap();
        assert_eq!(sent_list(&mut caller), [long]);
        caller.encode_after_next();
        caller.outbox.push(Text("{}")).unwrap();
        caller.outbox.push(Text(long)).unwrap();
        caller.outbox.push(Text("{}")).unwrap();
        let sent_list = sent_list(&mut caller);
        assert_eq!(
            (sent_list.len(), sent_list[0].as_str()),
            (2, "{}"),
            "in base64 it has 104 bytes"
        );
        assert_eq!(sent_list[1], session_is_over("a reply is longer than the bridge takes"));
        assert!(caller.is_gone());
    }

    #[test]
    fn closed_session_in_clear_gets_one_error_if_authenticated() {
        for is_encoded in [true, false] {
            let mut caller = clear();
            if is_encoded {
                caller.encode_after_next();
            }
            caller.outbox.push(Text("{}")).unwrap();
            caller.close(&CloseReason::new(1008, "late"), Instant::now());
            let error = [session_is_over("late")];
            assert_eq!(sent_list(&mut caller), if is_encoded { &error[..] } else { &[] });
            assert!(caller.is_gone());
        }
    }

    #[test]
    fn received_bytes_are_counted_until_they_are_taken_or_forgotten() {
        let mut caller = clear();
        assert_eq!(caller.received(), 0);
        caller.receive("{\"a\":1}").unwrap();
        caller.receive("{\"b\":2}").unwrap();
        assert_eq!(caller.received(), 2 * (7 + MESSAGE));
        assert!(caller.next_message().is_some());
        assert_eq!(caller.received(), 7 + MESSAGE);
        caller.forget_received();
        assert_eq!(caller.received(), 0);
    }

    #[test]
    fn only_callers_with_output_are_asked_for_it() {
        let mut caller = clear();
        assert!(!caller.has_something());
        caller.outbox.push(Text("{}")).unwrap();
        assert!(caller.has_something());
        sent_list(&mut caller);
        assert!(!caller.has_something());
        let (client, config) = tunnel::tests::client_and_config();
        let outbox = Outbox::new(1000, &Account::default());
        let mut caller: Caller<Text> = Caller::tunnel(config, outbox, 100, PATIENCE).unwrap();
        caller.outbox.push(Text("{}")).unwrap();
        assert!(!caller.has_something(), "it cannot before the handshake");
        let hello = Tunnel::client(client).take_records().unwrap();
        caller.receive(&encode(&hello)).unwrap();
        assert!(caller.has_something());
        caller.close(&CloseReason::new(1008, "late"), Instant::now());
        sent_list(&mut caller);
        assert!(caller.is_gone());
    }

    #[test]
    fn garbage_ends_a_session() {
        let mut caller = clear();
        caller.encode_after_next();
        assert!(caller.receive("%%%").is_err());
        assert!(!caller.is_open() && heard(&mut caller).is_empty());
        let error = STANDARD.decode(&sent_list(&mut caller)[0]).unwrap();
        let error: serde_json::Value = serde_json::from_slice(&error).unwrap();
        assert_eq!(
            (&error["id"], &error["args"]["code"]),
            (&"sysadm-client-auth-auto".into(), &401.into())
        );
        assert!(caller.is_gone());
    }

    #[test]
    fn pending_replies_are_bounded() {
        let mut caller = clear();
        let message = format!("{{{}}}", " ".repeat(60));
        caller.receive(&message).unwrap();
        caller.receive(&message).unwrap();
        assert_eq!(caller.receive(&message), Err(Broken::TooMuch(200)));
        let mut caller = clear();
        caller.receive(&format!("{{{}}}", " ".repeat(120))).unwrap();
        assert_eq!(caller.next_message(), Some(Err(122)));
    }

    #[test]
    fn queued_output_is_sent_before_the_bounded_close() {
        let mut caller = clear();
        let now = Instant::now();
        caller.outbox.push(Text("{}")).unwrap();
        caller.close_when_sent(&CloseReason::new(1001, "stop"), now);
        assert_eq!(caller.due(), Some(now + PATIENCE));
        assert!(caller.receive("{}").is_ok() && heard(&mut caller).is_empty());
        assert_eq!(sent_list(&mut caller), ["{}"]);
        assert!(caller.is_gone());
    }

    #[test]
    fn tunnel_close_sends_the_reason() {
        let (client, config) = tunnel::tests::client_and_config();
        let outbox = Outbox::new(1 << 20, &Account::default());
        let mut caller: Caller<Text> = Caller::tunnel(config, outbox, 100, PATIENCE).unwrap();
        let mut client = Tunnel::client(client);
        let to_client = |caller: &mut Caller<Text>, client: &mut Tunnel| {
            for payload in sent_list(caller) {
                client.receive(&decode(&payload).unwrap(), 1 << 20).unwrap();
            }
        };
        let long: &'static str = Box::leak("x".repeat(40_000).into_boxed_str());
        caller.outbox.push(Text(long)).unwrap();
        for _ in 0..3 {
            while let Some(records) = client.take_records() {
                caller.receive(&encode(&records)).unwrap();
            }
            to_client(&mut caller, &mut client);
        }
        assert_eq!(client.next_message().unwrap().as_str(), long);
        caller.close_when_sent(&CloseReason::new(1008, "no"), Instant::now());
        to_client(&mut caller, &mut client);
        let words = client.next_message().unwrap();
        assert!(words.contains("\"code\":1008") && client.has_ended() && caller.is_gone());
    }

    #[test]
    fn the_end_of_a_tunnel_is_the_end_of_its_session() {
        let (client, config) = tunnel::tests::client_and_config();
        let outbox = Outbox::new(1000, &Account::default());
        let mut caller: Caller<Text> = Caller::tunnel(config, outbox, 100, PATIENCE).unwrap();
        let mut client = Tunnel::client(client);
        for _ in 0..2 {
            while let Some(records) = client.take_records() {
                caller.receive(&encode(&records)).unwrap();
            }
            for payload in sent_list(&mut caller) {
                client.receive(&decode(&payload).unwrap(), 1000).unwrap();
            }
        }
        client.send_short("{}");
        client.close();
        while let Some(records) = client.take_records() {
            caller.receive(&encode(&records)).unwrap();
        }
        assert_eq!(heard(&mut caller), ["{}"]);
        sent_list(&mut caller);
        assert!(caller.is_gone());
    }
}

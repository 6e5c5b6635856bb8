//! All hosts behind a relay at once: one connection, a tunnel to each, and their events.
//!
//! New hosts are joined, disconnections are reported, and a host that reconnects is resumed. Only
//! hosts with a known certificate are joined: any other is reported by name, and nothing is sent to
//! it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::feed::StreamPosition;
use super::frame::Message;
use super::pace::Pace;
use super::stream::pause;
use super::target::{Bridge, Fingerprint};
use super::via::{Heard, RelayConnection, RemoteHost, ask_for_name, name_in};
use super::{ClientError, Frame, Incoming, Reply, Timeouts, Wait, signed};

/// An item of the fleet.
#[derive(Debug)]
pub enum FleetNews {
    /// An event of a host.
    Event(String, Frame),
    /// A host was joined.
    Joined(String),
    /// A host has disconnected.
    Left(String),
    /// A problem with a host, or with the relay.
    Remark(String),
    /// A descriptor of [`Wait::wake`] is ready.
    Woken,
    /// [`Wait::deadline`] has passed.
    Nothing,
}

/// State of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handshake,
    /// A challenge was requested.
    Asking,
    /// It was signed.
    Proving,
    Subscribing,
    Following,
    /// Refused until it reconnects.
    Refused,
    /// Retried at that time.
    Paused(Instant),
}

struct Member {
    id: String,
    remote: Option<RemoteHost>,
    stage: Stage,
    /// When its tunnel was opened.
    begun: Instant,
    /// The host name that it claims.
    hint: Option<String>,
    /// Its known name, after it has presented its certificate.
    name: Option<(String, Fingerprint)>,
    /// Its certificate is unknown, which is to be reported with its host name.
    unknown: Option<Fingerprint>,
}

/// Interval before another attempt at a host that has closed the tunnel.
const PAUSE: Duration = Duration::from_secs(5);

/// All known hosts behind one relay.
pub struct Fleet {
    bridge: Bridge,
    timeouts: Timeouts,
    /// Arguments of `events/subscribe`, without `since`.
    subscription: Map<String, Value>,
    known: Vec<(String, Fingerprint)>,
    relay: Option<RelayConnection>,
    members: Vec<Member>,
    /// Positions in the hosts' streams.
    places: Vec<(Fingerprint, StreamPosition)>,
    news: VecDeque<FleetNews>,
    pace: Pace,
}

impl Fleet {
    /// Connects to the relay; failures are not retried. `known` are names of hosts and their
    /// fingerprints, `subscription` the object form of one.
    pub fn begin(
        bridge: Bridge,
        known: Vec<(String, Fingerprint)>,
        subscription: Map<String, Value>,
    ) -> Result<Fleet, ClientError> {
        let timeouts = Timeouts::default();
        let relay = RelayConnection::enter(&bridge, timeouts)?;
        Ok(Fleet {
            bridge,
            timeouts,
            subscription,
            known,
            relay: Some(relay),
            members: Vec::new(),
            places: Vec::new(),
            news: VecDeque::new(),
            pace: Pace::new(),
        })
    }

    /// The next item. Only permanent failures are errors.
    pub fn next(&mut self, wait: &Wait<'_>) -> Result<FleetNews, ClientError> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            if self.relay.is_none() {
                if let Some(news) = self.connect_again(wait)? {
                    return Ok(news);
                }
                continue;
            }
            match self.go_on(wait) {
                Ok(Some(news)) => return Ok(news),
                Ok(None) => {}
                Err(error) if error.may_pass() => {
                    self.relay = None;
                    let there = std::mem::take(&mut self.members);
                    there.into_iter().for_each(|member| self.report_leaving(&member));
                    self.pace.is_lost();
                    self.news.push_back(FleetNews::Remark(format!("{error}; reconnecting")));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn connect_again(&mut self, wait: &Wait<'_>) -> Result<Option<FleetNews>, ClientError> {
        match pause(wait.wake, [Some(self.pace.retry()), wait.deadline])? {
            Some(Incoming::Woken) => return Ok(Some(FleetNews::Woken)),
            Some(_) | None if self.pace.retry() > Instant::now() => {
                return Ok(Some(FleetNews::Nothing));
            }
            Some(_) | None => {}
        }
        match RelayConnection::enter(&self.bridge, self.timeouts) {
            Ok(relay) => {
                self.relay = Some(relay);
                self.pace.is_back();
                Ok(Some(FleetNews::Remark("connected to the bridge again".to_owned())))
            }
            Err(error) if error.may_pass() => {
                self.pace.wait_longer();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// One step with the relay; an error is the relay's.
    fn go_on(&mut self, wait: &Wait<'_>) -> Result<Option<FleetNews>, ClientError> {
        self.give_up_the_silent();
        self.begin_again()?;
        if !self.news.is_empty() {
            return Ok(None);
        }
        let Some(relay) = &mut self.relay else { return Ok(None) };
        let due = self.members.iter().filter_map(|member| member.due(&self.timeouts));
        let deadline = due.chain(wait.deadline).min();
        match relay.next(&Wait { deadline, wake: wait.wake })? {
            Heard::Woken => return Ok(Some(FleetNews::Woken)),
            Heard::Nothing if wait.deadline.is_some_and(|at| at <= Instant::now()) => {
                return Ok(Some(FleetNews::Nothing));
            }
            Heard::Nothing => {}
            Heard::Available(ids) => self.look_at(&ids)?,
            Heard::Payload { from, text } => self.take(&from, &text)?,
        }
        Ok(None)
    }

    /// Updates the list of hosts.
    fn look_at(&mut self, ids: &[String]) -> Result<(), ClientError> {
        let members = std::mem::take(&mut self.members);
        let (stay, gone): (Vec<Member>, Vec<Member>) =
            members.into_iter().partition(|member| ids.contains(&member.id));
        self.members = stay;
        gone.iter().for_each(|member| self.report_leaving(member));
        for id in ids {
            if self.members.iter().all(|member| member.id != *id) {
                let Some(relay) = &mut self.relay else { return Ok(()) };
                ask_for_name(id, relay)?;
                self.members.push(Member {
                    id: id.clone(),
                    remote: None,
                    stage: Stage::Paused(Instant::now()),
                    begun: Instant::now(),
                    hint: None,
                    name: None,
                    unknown: None,
                });
            }
        }
        self.begin_again()
    }

    fn report_leaving(&mut self, member: &Member) {
        if let (Some((name, _)), Stage::Following) = (&member.name, member.stage) {
            self.news.push_back(FleetNews::Left(name.clone()));
        }
    }

    /// Schedules retries of hosts that did not reply while joining: they may have had no room, or
    /// the relay has lost a frame.
    fn give_up_the_silent(&mut self) {
        let now = Instant::now();
        for at in 0..self.members.len() {
            if let Some(member) = self.members.get(at)
                && !matches!(member.stage, Stage::Paused(_))
                && member.due(&self.timeouts).is_some_and(|due| due <= now)
            {
                self.pause(at, Some("it does not answer; it is tried again".to_owned()));
            }
        }
    }

    /// Opens tunnels to hosts whose retry is due.
    fn begin_again(&mut self) -> Result<(), ClientError> {
        let Some(relay) = &mut self.relay else { return Ok(()) };
        let pins: Vec<Fingerprint> = self.known.iter().map(|(_, pin)| *pin).collect();
        let now = Instant::now();
        for member in &mut self.members {
            if matches!(member.stage, Stage::Paused(until) if until <= now) {
                member.remote = Some(RemoteHost::begin(&member.id, &pins, relay)?);
                member.stage = Stage::Handshake;
                member.begun = now;
            }
        }
        Ok(())
    }

    fn take(&mut self, from: &str, payload: &str) -> Result<(), ClientError> {
        let Some(at) = self.members.iter().position(|member| member.id == from) else {
            return Ok(());
        };
        let (Some(relay), Some(member)) = (&mut self.relay, self.members.get_mut(at)) else {
            return Ok(());
        };
        if let Some(hint) = name_in(payload).filter(|_| member.hint.is_none()) {
            member.hint = Some(hint);
        }
        if let Some(remote) = &mut member.remote {
            match remote.take(payload, relay) {
                Ok(()) => {}
                Err(ClientError::Tls(why)) => {
                    member.stage = Stage::Refused;
                    match remote.wrong() {
                        Some(shown) => member.unknown = Some(shown),
                        None => {
                            let who = member.called();
                            self.news.push_back(FleetNews::Remark(format!("{who}: TLS: {why}")));
                        }
                    }
                    member.remote = None;
                }
                Err(error) => return Err(error),
            }
        }
        if let (Some(hint), Some(shown)) =
            (&member.hint, member.unknown.take_if(|_| member.hint.is_some()))
        {
            let remark = format!(
                "{hint} is there, and its certificate is not known: where \
                 \"sysadm-events fingerprint\" on it prints the same, add a line \
                 \"{hint} {shown}\" to known_hosts"
            );
            self.news.push_back(FleetNews::Remark(remark));
        }
        self.converse(at)
    }

    /// Exchanges messages with a host.
    fn converse(&mut self, at: usize) -> Result<(), ClientError> {
        loop {
            let (Some(relay), Some(member)) = (&mut self.relay, self.members.get_mut(at)) else {
                return Ok(());
            };
            let Some(remote) = &mut member.remote else { return Ok(()) };
            if member.stage == Stage::Handshake && remote.is_open() {
                let Some(shown) = remote.shown() else { return Ok(()) };
                let name = self.known.iter().find(|(_, pin)| *pin == shown);
                member.name = name.map(|(name, _)| (name.clone(), shown));
                remote.send(&request("auth_ssl", json!({})), relay)?;
                member.stage = Stage::Asking;
            }
            let message = match remote.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(_) => {
                    self.pause(at, None);
                    return Ok(());
                }
            };
            match Message::parse(message.as_str().to_owned()) {
                Ok(Message::Reply(reply)) => self.on_reply(at, reply)?,
                Ok(Message::Event(frame)) => self.on_event(at, frame),
                Ok(Message::Close { reason, .. }) => {
                    self.pause(at, Some(reason));
                    return Ok(());
                }
                Ok(Message::Other) => {}
                Err(error) => {
                    self.pause(at, Some(error.to_string()));
                    return Ok(());
                }
            }
        }
    }

    /// Pauses attempts at a host.
    fn pause(&mut self, at: usize, why: Option<String>) {
        let Some(member) = self.members.get_mut(at) else { return };
        let who = member.called();
        let was_following = member.stage == Stage::Following;
        member.remote = None;
        member.stage = Stage::Paused(Instant::now() + PAUSE);
        if let Some(why) = why {
            self.news.push_back(FleetNews::Remark(format!("{who}: {why}")));
        }
        if was_following {
            self.news.push_back(FleetNews::Left(who));
        }
    }

    fn on_reply(&mut self, at: usize, Reply { outcome, .. }: Reply) -> Result<(), ClientError> {
        let (Some(relay), Some(member)) = (&mut self.relay, self.members.get_mut(at)) else {
            return Ok(());
        };
        let (Some(remote), Some((name, shown))) = (&mut member.remote, &member.name) else {
            return Ok(());
        };
        let args = match outcome {
            Ok(args) => args,
            Err(refused) => {
                self.news.push_back(FleetNews::Remark(format!("{name}: {refused}")));
                member.stage = Stage::Refused;
                return Ok(());
            }
        };
        match member.stage {
            Stage::Asking => {
                let proof = signed(&self.bridge.key, &shown.digest(), &args)?;
                remote.send(&request("auth_ssl", proof), relay)?;
                member.stage = Stage::Proving;
            }
            Stage::Proving => {
                let mut subscription = self.subscription.clone();
                if let Some((_, place)) = self.places.iter().find(|(of, _)| of == shown) {
                    let since = json!({ "epoch": place.epoch, "seq": place.seq });
                    subscription.insert("since".to_owned(), since);
                }
                let args = Value::Object(subscription);
                let frame =
                    json!({ "namespace": "events", "name": "subscribe", "id": "1", "args": args });
                remote.send(&frame.to_string(), relay)?;
                member.stage = Stage::Subscribing;
            }
            Stage::Subscribing => {
                member.stage = Stage::Following;
                let (id, name, shown) = (member.id.clone(), name.clone(), *shown);
                if let Ok(place) = StreamPosition::deserialize(&args)
                    && self.places.iter().all(|(of, _)| *of != shown)
                {
                    self.places.push((shown, place));
                }
                // It may have reconnected before the relay noticed the disconnection.
                let is_known = self.leave_older(&id, shown);
                if !is_known {
                    self.news.push_back(FleetNews::Joined(name));
                }
            }
            Stage::Handshake | Stage::Following | Stage::Refused | Stage::Paused(_) => {}
        }
        Ok(())
    }

    /// Drops the older connection of a host that has reconnected as `id`; true where there was one.
    fn leave_older(&mut self, id: &str, shown: Fingerprint) -> bool {
        let is_older = |member: &&mut Member| {
            let is_it = member.name.as_ref().is_some_and(|(_, of)| *of == shown);
            member.id != id && is_it && member.stage == Stage::Following
        };
        let Some(older) = self.members.iter_mut().find(is_older) else { return false };
        older.stage = Stage::Refused;
        if let (Some(mut remote), Some(relay)) = (older.remote.take(), &mut self.relay) {
            remote.close(relay);
        }
        true
    }

    fn on_event(&mut self, at: usize, frame: Frame) {
        let Some(Member { name: Some((name, shown)), .. }) = self.members.get(at) else { return };
        if let Ok(place) = serde_json::from_str::<StreamPosition>(frame.text()) {
            match self.places.iter_mut().find(|(of, _)| of == shown) {
                Some((_, known)) => *known = place,
                None => self.places.push((*shown, place)),
            }
        }
        self.news.push_back(FleetNews::Event(name.clone(), frame));
    }
}

impl Member {
    /// When the next action is due.
    fn due(&self, timeouts: &Timeouts) -> Option<Instant> {
        match self.stage {
            Stage::Paused(until) => Some(until),
            Stage::Handshake => Some(self.begun + timeouts.handshake),
            Stage::Asking | Stage::Proving | Stage::Subscribing => {
                Some(self.begun + timeouts.handshake + timeouts.reply)
            }
            Stage::Following | Stage::Refused => None,
        }
    }

    fn called(&self) -> String {
        let name = self.name.as_ref().map(|(name, _)| name);
        name.or(self.hint.as_ref()).unwrap_or(&self.id).clone()
    }
}

fn request(name: &str, args: Value) -> String {
    json!({ "namespace": "rpc", "name": name, "id": "1", "args": args }).to_string()
}

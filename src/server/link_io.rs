//! I/O of links: connecting, reading, and writing.
//!
//! Nothing here blocks: connection attempts, look-ups and slow relays each have a deadline, and
//! reads per turn are bounded.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use log::{debug, info, warn};
use mio::Interest;
use mio::net::TcpStream;
use ring::rand::{SecureRandom, SystemRandom};

use super::links::{Behind, State, max_text};
use super::{Phase, PollToken, Server};
use crate::auth::key::{NO_CERTIFICATE, Purpose};
use crate::bridge::link::{Channel, Dialogue, LinkError, News, Proof};
use crate::moment::Moment;
use crate::net::pin;
use crate::wire::{PeerKind, from_hex, routed};

/// Maximum number of reads of a link in a turn: each may contain some forty handshakes.
const READS: usize = 2;
/// Maximum length of a relay's challenge, in bytes: this implementation's has 160.
const CHALLENGE: usize = 1024;

impl Server {
    pub(super) fn dial(&mut self, number: u64, now: Moment) {
        if self.phase != Phase::Serving {
            return;
        }
        let Some(line) = self.links.line(number) else { return };
        line.since = now;
        let host = line.config.url.host.clone();
        match host.parse::<IpAddr>() {
            Ok(address) => self.connect_link(number, [address].into(), None, now),
            Err(_) => {
                line.state = State::LookingUp;
                self.accounts.ask_for_addresses(&host, number, now.instant);
            }
        }
    }

    /// Result of looking up a relay's name.
    pub(super) fn on_addresses(
        &mut self,
        number: u64,
        found: Result<Vec<IpAddr>, String>,
        now: Moment,
    ) {
        let Some(line) = self.links.line(number) else { return };
        if !matches!(line.state, State::LookingUp) {
            return;
        }
        match found {
            Ok(addresses) => self.connect_link(number, addresses.into(), None, now),
            Err(why) => self.lose_link(number, &format!("cannot look up its name: {why}"), now),
        }
    }

    /// Tries the addresses one after the other; `why` is the last error.
    fn connect_link(
        &mut self,
        number: u64,
        mut addresses: VecDeque<IpAddr>,
        mut why: Option<io::Error>,
        now: Moment,
    ) {
        let due = now.instant + self.config.server.handshake_timeout;
        let Some(line) = self.links.line(number) else { return };
        line.hang_up(&mut self.reactor);
        while let Some(address) = addresses.pop_front() {
            let address = SocketAddr::new(address, line.config.url.port);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let connecting = TcpStream::connect(address).and_then(|mut stream| {
                let registered =
                    self.reactor.register(&mut stream, interest, PollToken::Link(number))?;
                Ok((stream, registered))
            });
            match connecting {
                Ok((stream, registered)) => {
                    line.state = State::Connecting { stream, registered, rest: addresses, due };
                    self.reactor.set_deadline(PollToken::Link(number), Some(due));
                    return;
                }
                Err(error) => why = Some(error),
            }
        }
        let why = why.map_or("its name has no address".to_owned(), |error| error.to_string());
        self.lose_link(number, &format!("cannot connect: {why}"), now);
    }

    /// The connection is established or failed.
    fn on_link_connected(&mut self, number: u64, now: Moment) {
        let Some(line) = self.links.lines.iter_mut().find(|line| line.number == number) else {
            return;
        };
        let State::Connecting { stream, rest, .. } = &mut line.state else { return };
        let failed = stream.take_error().and_then(|error| match error {
            Some(error) => Err(error),
            None => stream.peer_addr().map(drop),
        });
        match failed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
            Err(error) => {
                let rest = std::mem::take(rest);
                return self.connect_link(number, rest, Some(error), now);
            }
        }
        let _ = stream.set_nodelay(true);
        let url = &line.config.url;
        let ping = self.config.server.ping_interval;
        let channel = pin::connect(&url.host, vec![digest(&line.config.fingerprint)], pin::SOCKETS)
            .map_err(|error| LinkError::Tls(error.to_string()))
            .and_then(|tls| {
                let authority = url.to_string();
                let authority = authority.strip_prefix("wss://").unwrap_or(&authority);
                Channel::new(tls, authority, max_text(&self.config), ping, now.instant)
            });
        let channel = match channel {
            Ok(channel) => Box::new(channel),
            Err(trouble) => return self.lose_link(number, &trouble.to_string(), now),
        };
        let State::Connecting { stream, registered, .. } =
            std::mem::replace(&mut line.state, State::Waiting)
        else {
            return;
        };
        let checksums = self.links.checksums.clone();
        let dialogue = Box::new(Dialogue::new(PeerKind::Server, &self.hostname, checksums));
        let due = Some(now.instant + self.config.server.auth_timeout);
        line.state = State::Talking { stream, registered, channel, dialogue, due };
        self.reactor.again(PollToken::Link(number));
    }

    pub(super) fn on_link_io(&mut self, number: u64, readable: bool, now: Moment) {
        let Some(line) = self.links.line(number) else { return };
        match &line.state {
            State::Waiting | State::LookingUp => {}
            State::Connecting { .. } => self.on_link_connected(number, now),
            State::Talking { .. } if readable => self.read_link(number, now),
            State::Talking { .. } => {}
        }
    }

    fn read_link(&mut self, number: u64, now: Moment) {
        for _ in 0..READS {
            let Some(line) = self.links.line(number) else { return };
            let State::Talking { stream, channel, dialogue, .. } = &mut line.state else { return };
            let mut news = Vec::new();
            let more = channel.read(stream, now.instant).and_then(|more| {
                while let Some(text) = channel.next_text()? {
                    news.extend(dialogue.take(&text));
                }
                Ok(more)
            });
            for news in news {
                self.on_link_news(number, news, now);
            }
            match more {
                Ok(more) => {
                    self.push_dialogue(number, now);
                    if !more {
                        return;
                    }
                }
                Err(trouble) => {
                    let line = self.links.line(number);
                    // The last text may have been a reason to disconnect.
                    if line.is_some_and(|line| matches!(line.state, State::Talking { .. })) {
                        self.lose_link(number, &trouble.to_string(), now);
                    }
                    return;
                }
            }
        }
        self.reactor.again(PollToken::Link(number));
    }

    /// Passes the dialogue's texts to the channel.
    pub(super) fn push_dialogue(&mut self, number: u64, now: Moment) {
        let Some(line) = self.links.line(number) else { return };
        if let State::Talking { channel, dialogue, .. } = &mut line.state
            && channel.is_open()
        {
            dialogue.take_texts().iter().for_each(|text| channel.push(text));
            if channel.is_overfull() {
                self.lose_link(number, "it asks and does not read the answers", now);
            }
        }
    }

    fn on_link_news(&mut self, number: u64, news: News, now: Moment) {
        match news {
            News::Challenge(string) => self.prove_to_bridge(number, &string, now),
            News::Known => {
                let Some(line) = self.links.line(number) else { return };
                line.schedule.known(now.instant);
                (line.since, line.error) = (now, None);
                if let State::Talking { due, .. } = &mut line.state {
                    *due = None;
                }
                info!("link {}: connected to {}", line.config.name, line.config.url);
            }
            News::Available(ids) => self.on_available(number, &ids),
            News::Payload { from, text } => self.on_payload(number, &from, &text, now),
            News::Refused(why) => {
                let why = format!(
                    "the bridge does not let us in: {why} (does it know our key? \
                     \"sysadm-events key export\" prints it)"
                );
                self.leave_link(number, &why, self.config.bridge.refused_pause, now);
            }
            News::Complaint(why) => {
                let Some(line) = self.links.line(number) else { return };
                debug!("link {}: the bridge says: {why}", line.config.name);
            }
        }
    }

    fn prove_to_bridge(&mut self, number: u64, string: &str, now: Moment) {
        let Some(line) = self.links.line(number) else { return };
        let legacy = line.config.legacy;
        let State::Talking { channel, .. } = &line.state else { return };
        let certificate = channel.certificate().unwrap_or(NO_CERTIFICATE);
        if string.len() > CHALLENGE {
            return self.lose_link(number, "it wants an endless string signed", now);
        }
        self.ask_for_own_key(legacy, now);
        let proof = self.links.key(legacy).and_then(|key| {
            let proof = if legacy {
                key.sign_raw(string).map(|bytes| Proof::Encrypted(STANDARD.encode(bytes)))
            } else {
                key.sign(Purpose::Bridge, &certificate, string).map(|signature| Proof::Signature {
                    key: key.public().id().to_string(),
                    signature: STANDARD.encode(signature),
                })
            };
            proof.map_err(|error| error.to_string())
        });
        match proof {
            Err(why) => self.lose_link(number, &why, now),
            Ok(proof) => {
                let Some(line) = self.links.line(number) else { return };
                if let State::Talking { dialogue, .. } = &mut line.state {
                    dialogue.prove(&proof);
                }
            }
        }
    }

    /// The complete list of available clients.
    fn on_available(&mut self, number: u64, ids: &[String]) {
        let Some(line) = self.links.line(number) else { return };
        let mut gone = Vec::new();
        line.behind.retain(|behind| {
            let stays = ids.binary_search_by(|id| (**id).cmp(&behind.id)).is_ok();
            if !stays {
                gone.extend(behind.client);
            }
            stays
        });
        let mut known: Vec<Rc<str>> = line.behind.iter().map(|behind| behind.id.clone()).collect();
        known.sort_unstable();
        for id in ids {
            if known.binary_search_by(|known| (**known).cmp(id)).is_err() {
                line.last_behind += 1;
                let number = line.last_behind;
                line.behind.push(Behind { id: id.as_str().into(), number, client: None });
            }
        }
        for client in gone {
            self.end(client, "the relay reports its disconnection");
        }
    }

    pub(super) fn drop_callers(&mut self, number: u64, why: &str) {
        let Some(line) = self.links.line(number) else { return };
        let behind = std::mem::take(&mut line.behind);
        for client in behind.iter().filter_map(|behind| behind.client) {
            self.end(client, why);
        }
    }

    /// The link is lost; schedules a reconnection.
    fn lose_link(&mut self, number: u64, why: &str, now: Moment) {
        self.leave_link(number, why, Duration::ZERO, now);
    }

    /// The same, not before `least` has passed.
    fn leave_link(&mut self, number: u64, why: &str, least: Duration, now: Moment) {
        self.drop_callers(number, "its link to the bridge is lost");
        let Some(line) = self.links.lines.iter_mut().find(|line| line.number == number) else {
            return;
        };
        line.hang_up(&mut self.reactor);
        line.since = now;
        let again = line.schedule.failed(chance(), now.instant).max(now.instant + least);
        self.reactor.set_deadline(PollToken::Link(number), Some(again));
        // A repeated error is logged once.
        if line.error.as_deref() == Some(why) {
            debug!("link {}: {why}", line.config.name);
        } else {
            let seconds = (again - now.instant).as_secs_f32();
            let (name, url) = (&line.config.name, &line.config.url);
            warn!("link {name} to {url} is lost, tried again in {seconds:.1} s: {why}");
            line.error = Some(why.to_owned());
        }
    }

    pub(super) fn on_link_deadline(&mut self, number: u64, now: Moment) {
        let Some(line) = self.links.line(number) else { return };
        match &mut line.state {
            State::Waiting => self.dial(number, now),
            State::LookingUp => {}
            State::Connecting { rest, .. } => {
                let rest = std::mem::take(rest);
                let late = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                self.connect_link(number, rest, Some(late), now);
            }
            State::Talking { due: Some(due), .. } if *due <= now.instant => {
                self.lose_link(number, "no authentication by the bridge in time", now);
            }
            State::Talking { channel, .. } => {
                if let Err(trouble) = channel.on_deadline(now.instant) {
                    self.lose_link(number, &trouble.to_string(), now);
                }
            }
        }
    }

    /// Takes output of callers in turn, as much as their links accept, and writes it.
    pub(super) fn flush_links(&mut self, now: Moment) {
        for id in std::mem::take(&mut self.clients.speaking) {
            if let Some((number, _)) = self.clients.behind(id)
                && let Some(line) = self.links.line(number)
            {
                line.speaks(id);
            }
        }
        let numbers: Vec<u64> = self.links.lines.iter().map(|line| line.number).collect();
        for number in numbers {
            if let Err(trouble) = self.flush_link(number) {
                self.lose_link(number, &trouble.to_string(), now);
            }
            let Some(line) = self.links.line(number) else { continue };
            if let Some(due) = line.state.due() {
                self.reactor.set_deadline(PollToken::Link(number), Some(due));
            }
        }
    }

    fn flush_link(&mut self, number: u64) -> Result<(), LinkError> {
        let Some(line) = self.links.lines.iter_mut().find(|line| line.number == number) else {
            return Ok(());
        };
        let State::Talking { stream, channel, .. } = &mut line.state else { return Ok(()) };
        while channel.write(stream)? {
            let mut any = false;
            while channel.has_room()
                && let Some(aside) = line.asides.pop_front()
            {
                channel.push(&aside);
                any = true;
            }
            while channel.has_room()
                && let Some(id) = line.speaking.pop_front()
            {
                let Some(caller) = self.clients.caller(id) else { continue };
                let Some(behind) = line.behind.iter().find(|it| it.client == Some(id)) else {
                    continue;
                };
                let payload = caller.next_payload();
                let (is_midway, has_more) = (caller.is_midway(), caller.has_something());
                if let Some(payload) = payload {
                    channel.push(&routed(&behind.id, &payload));
                    any = true;
                    // The rest of a message precedes other messages.
                    if is_midway {
                        line.speaking.push_front(id);
                    } else if has_more {
                        line.speaking.push_back(id);
                    }
                }
                self.clients.touch(id);
            }
            if !any {
                break;
            }
        }
        Ok(())
    }
}

fn chance() -> u8 {
    let mut random = [0];
    // Without random bits there is no jitter.
    let _ = SystemRandom::new().fill(&mut random);
    random[0]
}

/// The fingerprint of the configuration, whose hex digits were validated there.
fn digest(hex: &str) -> pin::Digest {
    from_hex(hex).unwrap_or_default()
}

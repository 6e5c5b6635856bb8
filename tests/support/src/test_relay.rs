//! A relay for tests: it introduces all peers, records all that it forwards, and manipulates it as
//! a test requires. It shares no code with the real one, so that servers and clients are tested
//! from outside; and it can be hostile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use crate::peer::client_config;
use crate::{Outcome, PATIENCE, Refused};

/// A payload of one peer for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Sender.
    pub from: String,
    /// Recipient.
    pub to: String,
    /// The payload.
    pub payload: String,
}

/// Manipulation of forwarded frames: returns the frames to forward instead.
pub type Meddler = Box<dyn FnMut(Routed) -> Vec<Routed> + Send>;

struct BridgePeer {
    id: String,
    /// `server` or `client`, once identified.
    kind: String,
    hostname: String,
    known: bool,
    sums: Option<Vec<String>>,
    to: Sender<String>,
    /// The list that was last sent to it.
    received: Option<Vec<String>>,
}

struct State {
    peers: Vec<BridgePeer>,
    /// Clients of the tests, which need no connection.
    relayed: Vec<(String, Sender<Routed>)>,
    routed: Vec<Routed>,
    /// JSON of peers for the relay, with their ids.
    said: Vec<(String, Value)>,
    meddler: Option<Meddler>,
    peers_ever: usize,
}

struct Shared {
    state: Mutex<State>,
    config: Arc<ServerConfig>,
    /// Errors are strings, and only requests of the original are sent.
    legacy: bool,
    over: AtomicBool,
}

/// The relay.
pub struct Bridge {
    port: u16,
    fingerprint: String,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// A certificate for any number of relays, one after the other.
#[derive(Clone)]
pub struct BridgeIdentity(Arc<ServerConfig>, String);

impl BridgeIdentity {
    /// Creates one.
    pub fn new() -> Outcome<BridgeIdentity> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let hash = digest::digest(&digest::SHA256, &certificate);
        let fingerprint = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(BridgeIdentity(Arc::new(config), fingerprint))
    }
}

impl BridgeIdentity {
    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> &str {
        &self.1
    }
}

impl Bridge {
    /// Starts one on a free port.
    pub fn start() -> Outcome<Bridge> {
        Bridge::start_as(&BridgeIdentity::new()?, 0, false)
    }

    /// Starts one like the original.
    pub fn start_legacy() -> Outcome<Bridge> {
        Bridge::start_as(&BridgeIdentity::new()?, 0, true)
    }

    /// Starts one with this certificate on this port.
    pub fn start_as(identity: &BridgeIdentity, port: u16, legacy: bool) -> Outcome<Bridge> {
        let listener = listen(port)?;
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        let state = State {
            peers: Vec::new(),
            relayed: Vec::new(),
            routed: Vec::new(),
            said: Vec::new(),
            meddler: None,
            peers_ever: 0,
        };
        let BridgeIdentity(config, fingerprint) = identity.clone();
        let over = AtomicBool::new(false);
        let shared = Arc::new(Shared { state: Mutex::new(state), config, legacy, over });
        let ours = shared.clone();
        let accepting = std::thread::spawn(move || {
            let mut serving = Vec::new();
            while !ours.over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((socket, _)) => {
                        let ours = ours.clone();
                        serving.push(std::thread::spawn(move || {
                            // A peer that disconnects is no failure of a test.
                            let _ = ours.serve(socket);
                        }));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            serving.into_iter().for_each(|one| drop(one.join()));
        });
        Ok(Bridge { port, fingerprint, shared, accepting: Some(accepting) })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("wss://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SHA-256 of its certificate.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The lines of a configuration for a link to it.
    pub fn link(&self, name: &str) -> String {
        format!(
            "[[bridge.link]]\nname = {name:?}\nurl = {:?}\nfingerprint = {:?}\nlegacy = {}\n",
            self.url(),
            self.fingerprint,
            self.shared.legacy
        )
    }

    /// Sets the manipulation of later frames.
    pub fn meddle(&self, meddler: impl FnMut(Routed) -> Vec<Routed> + Send + 'static) {
        self.shared.lock().meddler = Some(Box::new(meddler));
    }

    /// Everything forwarded so far.
    pub fn routed(&self) -> Vec<Routed> {
        self.shared.lock().routed.clone()
    }

    /// Everything sent by peers to the relay, with their ids.
    pub fn said(&self) -> Vec<(String, Value)> {
        self.shared.lock().said.clone()
    }

    /// Ids of the connected servers.
    pub fn servers(&self) -> Vec<String> {
        let state = self.shared.lock();
        let is_there = |peer: &&BridgePeer| peer.kind == "server" && peer.sums.is_some();
        state.peers.iter().filter(is_there).map(|peer| peer.id.clone()).collect()
    }

    /// Waits for `count` servers; returns their ids.
    pub fn wait_for_servers(&self, count: usize) -> Vec<String> {
        crate::until("servers come to the bridge", || self.servers().len() == count);
        self.servers()
    }

    /// Number of connections so far.
    pub fn peers_ever(&self) -> usize {
        self.shared.lock().peers_ever
    }

    /// Sends a text to a peer, as the relay.
    pub fn send_to(&self, id: &str, text: &str) {
        let state = self.shared.lock();
        for peer in state.peers.iter().filter(|peer| peer.id == id) {
            let _ = peer.to.send(text.to_owned());
        }
    }

    /// A connected client without a real connection.
    pub fn client(&self, id: &str) -> RelayedClient {
        let (to, from) = channel();
        let mut state = self.shared.lock();
        state.relayed.push((id.to_owned(), to));
        state.introduce();
        drop(state);
        RelayedClient { id: id.to_owned(), shared: self.shared.clone(), from }
    }

    /// Stops it and closes all its connections.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port that was just used may be taken again.
fn listen(port: u16) -> Outcome<TcpListener> {
    let patience = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if Instant::now() > patience => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

impl State {
    /// Sends changed lists to all peers.
    fn introduce(&mut self) {
        let of_kind = |peers: &[BridgePeer], kind: &str| -> Vec<(String, Vec<String>)> {
            let there = peers.iter().filter(|peer| peer.kind == kind && peer.known);
            there.filter_map(|peer| Some((peer.id.clone(), peer.sums.clone()?))).collect()
        };
        let (servers, clients) = (of_kind(&self.peers, "server"), of_kind(&self.peers, "client"));
        let relayed: Vec<String> = self.relayed.iter().map(|(id, _)| id.clone()).collect();
        for peer in &mut self.peers {
            let Some(sums) = &peer.sums else { continue };
            let others = if peer.kind == "server" { &clients } else { &servers };
            let shares = |theirs: &Vec<String>| theirs.iter().any(|sum| sums.contains(sum));
            let mut ids: Vec<String> = others
                .iter()
                .filter(|(_, theirs)| shares(theirs))
                .map(|(id, _)| id.clone())
                .collect();
            if peer.kind == "server" {
                ids.extend(relayed.iter().cloned());
            }
            if peer.received.as_ref().unwrap_or(&Vec::new()) != &ids {
                let args = json!({ "available_connections": ids });
                let event =
                    json!({ "id": "", "namespace": "events", "name": "bridge", "args": args });
                let _ = peer.to.send(event.to_string());
                peer.received = Some(ids);
            }
        }
    }

    fn route(&mut self, routed: Routed) {
        let all = match &mut self.meddler {
            Some(meddler) => meddler(routed),
            None => vec![routed],
        };
        for routed in all {
            self.routed.push(routed.clone());
            let text = format!("{}\n{}", routed.from, routed.payload);
            for peer in self.peers.iter().filter(|peer| peer.id == routed.to) {
                let _ = peer.to.send(text.clone());
            }
            for (_, relayed) in self.relayed.iter().filter(|(id, _)| *id == routed.to) {
                let _ = relayed.send(routed.clone());
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn serve(&self, socket: TcpStream) -> Outcome<()> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let tls = ServerConnection::new(self.config.clone())?;
        let mut stream = StreamOwned::new(tls, socket);
        upgrade(&mut stream)?;
        stream.sock.set_read_timeout(Some(Duration::from_millis(2)))?;
        let config = WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(0);
        let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(config));
        let (to, from) = channel();
        let id = {
            let mut state = self.lock();
            state.peers_ever += 1;
            // In the form of the original, and in that of this relay.
            let id = if self.legacy {
                format!("::{{peer-{}}}", state.peers_ever)
            } else {
                format!("peer-{}", state.peers_ever)
            };
            let (kind, hostname) = (String::new(), String::new());
            let (known, sums, received) = (false, None, None);
            state.peers.push(BridgePeer {
                id: id.clone(),
                kind,
                hostname,
                known,
                sums,
                to,
                received,
            });
            id
        };
        let served = self.talk(&mut socket, &id, &from);
        let mut state = self.lock();
        state.peers.retain(|peer| peer.id != id);
        state.introduce();
        served
    }

    fn talk(
        &self,
        socket: &mut WebSocket<StreamOwned<ServerConnection, TcpStream>>,
        id: &str,
        from: &Receiver<String>,
    ) -> Outcome<()> {
        let ident = json!({
            "id": "sysadm_bridge_request_ident", "namespace": "rpc", "name": "identify", "args": ""
        });
        socket.send(Message::text(ident.to_string()))?;
        while !self.over.load(Ordering::Relaxed) {
            while let Ok(text) = from.try_recv() {
                socket.send(Message::text(text))?;
            }
            match socket.read() {
                Ok(Message::Text(text)) => {
                    if let Some(answer) = self.take(id, text.as_str()) {
                        socket.send(Message::text(answer))?;
                    }
                }
                Ok(Message::Close(_)) => return Ok(()),
                Ok(_) => {}
                Err(Error::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Processes a text of a peer; returns the reply.
    fn take(&self, id: &str, text: &str) -> Option<String> {
        let mut state = self.lock();
        if !text.starts_with('{') {
            let (to, payload) = text.split_once('\n')?;
            let (from, to, payload) = (id.to_owned(), to.to_owned(), payload.to_owned());
            state.route(Routed { from, to, payload });
            return None;
        }
        let frame: Value = serde_json::from_str(text).ok()?;
        state.said.push((id.to_owned(), frame.clone()));
        let peer = state.peers.iter_mut().find(|peer| peer.id == id)?;
        let answer = |args: Value| {
            let id = &frame["id"];
            json!({ "id": id, "namespace": "rpc", "name": "response", "args": args }).to_string()
        };
        let args = &frame["args"];
        match (frame["name"].as_str()?, frame["id"].as_str().unwrap_or_default()) {
            ("identify", _) => Some(answer(json!({ "type": "bridge", "hostname": "recorder" }))),
            ("auth_ssl", _) if args.as_object().is_none_or(|args| args.is_empty()) => {
                // The original's has 40 letters, this one's 160.
                let length = if self.legacy { 40 } else { 160 };
                Some(answer(json!({ "test_string": "x".repeat(length) })))
            }
            ("auth_ssl", _) => {
                peer.known = true;
                let list = json!({
                    "id": "bridge_request_list_keys", "namespace": "rpc", "name": "settings",
                    "args": { "action": "list_ssl_checksums" }
                });
                let _ = peer.to.send(list.to_string());
                Some(answer(json!(["token", 0])))
            }
            ("response", "sysadm_bridge_request_ident") => {
                peer.kind = args["type"].as_str()?.to_owned();
                peer.hostname = args["hostname"].as_str()?.to_owned();
                state.introduce();
                None
            }
            ("response", "bridge_request_list_keys") => {
                let sums = args["md5_keys"].as_array()?;
                let sums = sums.iter().filter_map(|sum| sum.as_str().map(str::to_owned)).collect();
                peer.sums = Some(sums);
                state.introduce();
                None
            }
            _ => None,
        }
    }
}

fn upgrade(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> Outcome<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head)?;
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.ok_or("no key")?.trim().as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(hash.finish());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes())?;
    stream.flush()?;
    Ok(())
}

/// A client behind the relay that sends payload by payload.
pub struct RelayedClient {
    id: String,
    shared: Arc<Shared>,
    from: Receiver<Routed>,
}

impl RelayedClient {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sends a payload.
    pub fn send(&self, to: &str, payload: &str) {
        let (from, to, payload) = (self.id.clone(), to.to_owned(), payload.to_owned());
        self.shared.lock().route(Routed { from, to, payload });
    }

    /// The next payload.
    pub fn receive(&self) -> Outcome<Routed> {
        self.receive_within(PATIENCE)
    }

    /// The same, with this time limit.
    pub fn receive_within(&self, patience: Duration) -> Outcome<Routed> {
        Ok(self.from.recv_timeout(patience)?)
    }

    /// A request in clear of a legacy client, and the reply.
    pub fn ask_in_clear(&self, server: &str, request: &Value) -> Outcome<Value> {
        self.send(server, &request.to_string());
        Ok(serde_json::from_str(&self.receive()?.payload)?)
    }

    /// The same, encoded.
    pub fn ask_encoded(&self, server: &str, request: &Value) -> Outcome<Value> {
        self.send(server, &STANDARD.encode(request.to_string()));
        Ok(serde_json::from_slice(&STANDARD.decode(self.receive()?.payload)?)?)
    }

    /// Disconnects: the relay reports it to all peers.
    pub fn leave(self) {}
}

impl Drop for RelayedClient {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.relayed.retain(|(id, _)| *id != self.id);
        state.introduce();
    }
}

/// A tunnel to a server behind the bridge.
pub struct RelayedTunnel {
    client: RelayedClient,
    server: String,
    tls: ClientConnection,
    line: Vec<u8>,
    ended: bool,
    requests: u64,
}

impl RelayedTunnel {
    /// The handshake; the server must present the certificate with this fingerprint.
    pub fn open(client: RelayedClient, server: &str, fingerprint: &str) -> Outcome<RelayedTunnel> {
        let config = client_config(fingerprint, &rustls::version::TLS13)?;
        let tls = ClientConnection::new(config, ServerName::try_from("far")?)?;
        let (server, line) = (server.to_owned(), Vec::new());
        let mut tunnel = RelayedTunnel { client, server, tls, line, ended: false, requests: 0 };
        tunnel.push()?;
        while tunnel.tls.is_handshaking() {
            tunnel.pull()?;
            tunnel.push()?;
        }
        Ok(tunnel)
    }

    /// Its client, without it.
    pub fn into_client(self) -> RelayedClient {
        self.client
    }

    /// Its client.
    pub fn client(&self) -> &RelayedClient {
        &self.client
    }

    /// Sends pending TLS output.
    pub fn push(&mut self) -> Outcome<()> {
        while self.tls.wants_write() {
            let mut records = Vec::new();
            self.tls.write_tls(&mut records)?;
            for part in records.chunks(16 * 1024) {
                self.client.send(&self.server, &format!("tls {}", STANDARD.encode(part)));
            }
        }
        Ok(())
    }

    fn pull(&mut self) -> Outcome<bool> {
        let routed = self.client.receive()?;
        let records = routed.payload.strip_prefix("tls ").ok_or("no payload of a tunnel")?;
        let records = STANDARD.decode(records)?;
        if records.len() > 16 * 1024 {
            return Err("more than 16 KiB of records in a payload".into());
        }
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
            let state = self.tls.process_new_packets()?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain)?;
            self.line.extend(plain);
            if state.peer_has_closed() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Closes the tunnel.
    pub fn close(&mut self) -> Outcome<()> {
        self.tls.send_close_notify();
        self.push()
    }

    /// The next message; `None` at the end of the tunnel.
    pub fn message(&mut self) -> Outcome<Option<Value>> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.ended {
                return Ok(None);
            }
            self.ended = !self.pull()?;
        }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &str) -> Outcome<()> {
        self.tls.writer().write_all(message.as_bytes())?;
        self.tls.writer().write_all(b"\n")?;
        self.push()
    }

    /// Sends a request and waits for the reply; earlier events are dropped.
    pub fn ask(
        &mut self,
        namespace: &str,
        name: &str,
        args: &Value,
    ) -> Outcome<Result<Value, Refused>> {
        self.requests += 1;
        let id = self.requests;
        let request = json!({ "namespace": namespace, "name": name, "id": id, "args": args });
        self.send(&request.to_string())?;
        loop {
            let mut frame = self.message()?.ok_or("the tunnel ended")?;
            if frame["id"] != id {
                continue;
            }
            let args = frame["args"].take();
            if frame["name"] != "error" {
                return Ok(Ok(args));
            }
            return Ok(Err(Refused::of(args)?));
        }
    }

    /// Sends a request; an error if it is refused.
    pub fn request(&mut self, namespace: &str, name: &str, args: &Value) -> Outcome<Value> {
        let asked = self.ask(namespace, name, args)?;
        asked.map_err(|refused| format!("{namespace}/{name} was answered {refused:?}").into())
    }

    /// The next event with a name.
    pub fn event(&mut self, name: &str) -> Outcome<Value> {
        loop {
            let message = self.message()?.ok_or("the tunnel ended")?;
            if message["namespace"] == "events" && message["name"] == name {
                return Ok(message);
            }
        }
    }
}

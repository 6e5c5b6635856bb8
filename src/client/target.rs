//! Addresses and identities of daemons.
//!
//! No authority can vouch for a host's name, so a remote daemon is identified by the fingerprint of
//! its certificate and by nothing else; a local one by the path of its socket, which only its owner
//! can have created.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::auth::key::PrivateKey;
use crate::wire::{decimal, from_hex, to_hex};

/// Default port of a daemon.
pub const DEFAULT_PORT: u16 = 12150;
/// Default port of a relay.
pub const BRIDGE_PORT: u16 = 12149;

/// The daemon to connect to.
pub enum Target {
    /// The first of these Unix sockets with a listening daemon.
    Sockets(Vec<PathBuf>),
    /// A daemon with TLS, identified by its certificate.
    Tls {
        /// Its address.
        url: Url,
        /// Fingerprint of its certificate.
        fingerprint: Fingerprint,
        /// Source of the fingerprint, if it was not given: `FILE:LINE`.
        known: Option<String>,
        /// Credential; without it only `identify` is permitted.
        credential: Option<Credential>,
    },
    /// A daemon behind a relay, through a tunnel.
    Via(Box<Via>),
    /// A daemon on this host, without TLS.
    Loopback {
        /// Its address.
        url: Url,
        /// Credential; without it only `identify` is permitted.
        credential: Option<Credential>,
    },
}

/// A relay, and the key for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its address.
    pub url: Url,
    /// Fingerprint of its certificate.
    pub fingerprint: Fingerprint,
    /// Source of the fingerprint, if it was not given: `FILE:LINE`.
    pub known: Option<String>,
    /// The key that is registered there.
    pub key: Arc<PrivateKey>,
}

/// A daemon behind a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// The relay.
    pub bridge: Bridge,
    /// Name of the daemon's host, or its id on the relay.
    pub host: String,
    /// Fingerprint of the daemon's certificate.
    pub fingerprint: Fingerprint,
    /// Source of the fingerprint, if it was not given: `FILE:LINE`.
    pub known: Option<String>,
    /// Credential for the daemon.
    pub credential: Credential,
}

/// A credential for a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A session token.
    Token(Secret),
    /// A password of that host.
    Password {
        /// The user there.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A key that is registered there.
    Key(Arc<PrivateKey>),
}

/// A secret: zeroized on drop, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret in clear.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The SHA-256 of a certificate's DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// From the digest.
    pub const fn new(digest: [u8; 32]) -> Fingerprint {
        Fingerprint(digest)
    }

    /// The digest.
    pub const fn digest(&self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// Why a URL or fingerprint is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError(String);

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TargetError {}

impl FromStr for Fingerprint {
    type Err = TargetError;

    /// 64 hex digits of any case; colons between them and a leading `sha256:` are accepted.
    fn from_str(text: &str) -> Result<Fingerprint, TargetError> {
        let wrong = || {
            TargetError(format!(
                "{text:?} is not a fingerprint: it must be the 64 hex digits of a SHA-256"
            ))
        };
        let bare = match text.get(..7) {
            Some(prefix) if prefix.eq_ignore_ascii_case("sha256:") => &text[7..],
            Some(_) | None => text,
        };
        let digits: String = bare.chars().filter(|digit| *digit != ':').collect();
        from_hex(&digits).map(Fingerprint).ok_or_else(wrong)
    }
}

/// `wss://HOST[:PORT][/PATH]`, or `ws://` for a loopback host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `wss`.
    pub tls: bool,
    /// A name, or a literal address without brackets.
    pub host: String,
    /// [`DEFAULT_PORT`] if omitted.
    pub port: u16,
    /// Begins with a slash.
    pub path: String,
}

impl Url {
    /// URL of a relay: `wss://HOST[:PORT]`, with [`BRIDGE_PORT`] if the port is omitted.
    ///
    /// # Errors The URL is invalid.
    pub fn of_bridge(text: &str) -> Result<Url, TargetError> {
        let mut url: Url = text.parse()?;
        if !url.tls {
            return Err(TargetError(format!("{text:?}: a bridge is at a wss:// URL")));
        }
        let authority = text.split("//").nth(1).and_then(|rest| rest.split('/').next());
        let is_named = authority
            .and_then(|authority| split_authority(authority).ok())
            .is_some_and(|(_, port)| port.is_some_and(|port| !port.is_empty()));
        if !is_named {
            url.port = BRIDGE_PORT;
        }
        Ok(url)
    }

    /// Host and port as in a `Host` field: a literal IPv6 address stands in brackets.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether the host is certainly this one.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        let path = if self.path == "/" { "" } else { &self.path };
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

impl FromStr for Url {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Url, TargetError> {
        let wrong = |why: &str| TargetError(format!("{text:?} is no URL of a daemon: {why}"));
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| wrong("it must begin with wss://"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "wss" => true,
            "ws" => false,
            other => return Err(wrong(&format!("{other:?} is neither wss nor ws"))),
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
            return Err(wrong("it holds a character that a URL cannot hold"));
        }
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if path.contains('#') {
            return Err(wrong("a fragment (#) means nothing to a daemon"));
        }
        if authority.contains('@') {
            return Err(wrong("a user name does not belong into it"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let (host, port) = split_authority(authority).map_err(wrong)?;
        let port = match port {
            None | Some("") => DEFAULT_PORT,
            Some(port) => match decimal(port) {
                Some(port @ 1..) => port,
                Some(0) | None => return Err(wrong("the port must be a number from 1 to 65535")),
            },
        };
        let url = Url { tls, host: host.to_owned(), port, path };
        if !tls && !url.is_loopback() {
            return Err(wrong(&format!(
                "ws:// has no encryption and is for this host alone; say wss://{}",
                url.authority()
            )));
        }
        Ok(url)
    }
}

/// Host without brackets, and the text after the colon.
fn split_authority(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, behind) = rest.split_once(']').ok_or("a bracket is not closed")?;
        host.parse::<Ipv6Addr>().map_err(|_| "the text in brackets must be an IPv6 address")?;
        return match behind.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if behind.is_empty() => Ok((host, None)),
            None => Err("only a port may stand behind the address"),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            return Err("an IPv6 address must stand in brackets");
        }
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err("it names no host");
    }
    let digits_and_dots = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if digits_and_dots && host.parse::<Ipv4Addr>().is_err() {
        return Err("the host is no IPv4 address");
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !host.bytes().all(plain) {
        return Err("the host holds a character that a name cannot hold");
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_fingerprint_is_read_in_all_its_spellings() {
        let plain: Fingerprint = HEX.parse().unwrap();
        assert_eq!(plain.to_string(), HEX);
        let bytes: Vec<String> =
            HEX.as_bytes().chunks(2).map(|b| String::from_utf8_lossy(b).to_uppercase()).collect();
        for text in [HEX.to_uppercase(), bytes.join(":"), format!("SHA256:{}", bytes.join(":"))] {
            assert_eq!(text.parse::<Fingerprint>(), Ok(plain), "{text}");
        }
    }

    #[test]
    fn invalid_fingerprint_is_rejected() {
        let nearly = format!("{}g", &HEX[..63]);
        for text in ["", "sha256:", &HEX[..62], &nearly, &format!("{HEX}00"), "ä"] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }

    #[test]
    fn urls() {
        let parsed =
            |text: &str| text.parse::<Url>().map(|url| (url.tls, url.host, url.port, url.path));
        let ok =
            |tls, host: &str, port, path: &str| Ok((tls, host.to_owned(), port, path.to_owned()));
        assert_eq!(parsed("wss://example.org"), ok(true, "example.org", 12150, "/"));
        assert_eq!(parsed("WSS://example.org:99/a?b"), ok(true, "example.org", 99, "/a?b"));
        assert_eq!(parsed("wss://example.org?b"), ok(true, "example.org", 12150, "/?b"));
        assert_eq!(parsed("wss://[2001:db8::1]"), ok(true, "2001:db8::1", 12150, "/"));
        assert_eq!(parsed("wss://[2001:db8::1]:1/"), ok(true, "2001:db8::1", 1, "/"));
        assert_eq!(parsed("ws://127.0.0.1:80"), ok(false, "127.0.0.1", 80, "/"));
        assert_eq!(parsed("ws://[::1]"), ok(false, "::1", 12150, "/"));
        assert_eq!(parsed("ws://localhost/"), ok(false, "localhost", 12150, "/"));
        assert_eq!("wss://[::1]:5".parse::<Url>().unwrap().to_string(), "wss://[::1]:5");
    }

    #[test]
    fn invalid_url_is_rejected_with_the_reason() {
        for (text, reason) in [
            ("example.org", "wss://"),
            ("https://example.org", "neither"),
            ("wss://", "no host"),
            ("wss://:5", "no host"),
            ("wss://a:0", "port"),
            ("wss://a:65536", "port"),
            ("wss://a:b", "port"),
            ("wss://::1", "brackets"),
            ("wss://[::1", "bracket"),
            ("wss://[::1]x", "port"),
            ("wss://[host]", "IPv6"),
            ("wss://user@host", "user"),
            ("wss://host#f", "fragment"),
            ("wss://ho st", "character"),
            ("wss://ho\r\nst", "character"),
            ("wss://ho<st", "character"),
            ("wss://1.2.3", "IPv4"),
            ("ws://example.org", "wss://example.org:12150"),
            ("ws://192.0.2.1", "this host"),
        ] {
            let error = text.parse::<Url>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("secret")), "Secret(…)");
    }

    #[test]
    fn a_bridge_has_a_port_of_its_own() {
        let port = |text: &str| Url::of_bridge(text).map(|url| url.port).ok();
        assert_eq!(port("wss://bridge.example.org"), Some(BRIDGE_PORT));
        assert_eq!(port("wss://[::1]/"), Some(BRIDGE_PORT));
        assert_eq!(port("wss://bridge:12150"), Some(12150));
        assert_eq!(port("ws://localhost"), None);
    }
}

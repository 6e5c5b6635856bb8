//! The client's side of the HTTP upgrade to a WebSocket (RFC 6455 section 4.1).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

/// Maximum length of a reply, in bytes, including the empty line.
const ANSWER_LIMIT: usize = 16 * 1024;
/// Maximum number of header fields in a reply.
const FIELDS: usize = 64;
/// RFC 6455 section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Maximum number of characters of an error body shown.
const SHOWN_BODY: usize = 200;

/// Why the upgrade failed.
#[derive(Debug, PartialEq, Eq)]
pub enum NoUpgrade {
    /// An HTTP reply with another status.
    Status {
        /// The HTTP status.
        status: u16,
        /// Reason phrase and body.
        why: String,
    },
    /// A protocol violation.
    Protocol(String),
    /// The system has no random numbers.
    NoRandom,
}

impl fmt::Display for NoUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoUpgrade::Status { status, why } => {
                write!(f, "it answers HTTP {status} instead of opening a WebSocket: {why}")
            }
            NoUpgrade::Protocol(why) => f.write_str(why),
            NoUpgrade::NoRandom => f.write_str("the system gives no random numbers"),
        }
    }
}

/// A pending upgrade.
#[derive(Debug)]
pub struct UpgradeRequest {
    key: String,
}

impl UpgradeRequest {
    /// Creates one with a random key.
    pub fn new() -> Result<UpgradeRequest, NoUpgrade> {
        let mut key = [0; 16];
        SystemRandom::new().fill(&mut key).map_err(|_| NoUpgrade::NoRandom)?;
        Ok(UpgradeRequest { key: STANDARD.encode(key) })
    }

    /// The request. `Host` and path must not contain spaces or control characters. `origin`
    /// identifies the client where the server requires it.
    pub fn request(&self, host: &str, path: &str, origin: Option<&str>) -> Vec<u8> {
        let (before, origin) = origin.map_or(("", ""), |origin| ("\r\nOrigin: ", origin));
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}{before}{origin}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
            self.key
        )
        .into_bytes()
    }

    /// Parses the reply received so far: `None` while it is incomplete, else its length in bytes.
    pub fn judge(&self, bytes: &[u8]) -> Result<Option<usize>, NoUpgrade> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        let length = match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < ANSWER_LIMIT => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(protocol("its HTTP answer does not end")),
            Err(error) => return Err(protocol(&format!("its answer is no HTTP ({error})"))),
        };
        let status = answer.code.unwrap_or(0);
        if status != 101 {
            let why =
                explanation(answer.reason.unwrap_or(""), bytes.get(length..).unwrap_or_default());
            return Err(NoUpgrade::Status { status, why });
        }
        if !has_token(&answer, "upgrade", "websocket")
            || !has_token(&answer, "connection", "upgrade")
        {
            return Err(protocol("it answers 101, but not with a WebSocket"));
        }
        if value(&answer, "sec-websocket-accept") != Some(self.expected().as_bytes()) {
            return Err(protocol("its Sec-WebSocket-Accept does not belong to our key"));
        }
        // No extension was offered, so none can have been negotiated.
        if value(&answer, "sec-websocket-extensions").is_some()
            || value(&answer, "sec-websocket-protocol").is_some()
        {
            return Err(protocol("it chose an extension or subprotocol that was not offered"));
        }
        Ok(Some(length))
    }

    fn expected(&self) -> String {
        let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        hash.update(self.key.as_bytes());
        hash.update(ACCEPT_GUID);
        STANDARD.encode(hash.finish())
    }
}

fn protocol(why: &str) -> NoUpgrade {
    NoUpgrade::Protocol(why.to_owned())
}

/// The peer's explanation: the reason phrase, and the first line of the body.
fn explanation(reason: &str, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    let line: String = body.lines().next().unwrap_or("").chars().take(SHOWN_BODY).collect();
    if line.is_empty() { reason.to_owned() } else { format!("{reason}: {line}") }
}

fn value<'a>(answer: &'a httparse::Response<'_, '_>, name: &str) -> Option<&'a [u8]> {
    let field = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    Some(field.value.trim_ascii())
}

fn has_token(answer: &httparse::Response<'_, '_>, name: &str, token: &str) -> bool {
    answer
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(name))
        .flat_map(|field| field.value.split(|byte| *byte == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 6455 section 1.3.
    fn upgrade() -> UpgradeRequest {
        UpgradeRequest { key: "dGhlIHNhbXBsZSBub25jZQ==".into() }
    }

    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\n\
        Connection: keep-alive, upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn upgrade_reply_of_the_rfc_is_accepted_with_later_bytes() {
        let bytes = [GOOD.as_bytes(), b"\x81\x02hi"].concat();
        assert_eq!(upgrade().judge(&bytes).unwrap(), Some(GOOD.len()));
        for end in 0..GOOD.len() {
            assert_eq!(upgrade().judge(&bytes[..end]).unwrap(), None, "{end}");
        }
    }

    #[test]
    fn upgrade_reply_without_proof_is_rejected() {
        for (from, to) in [
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "s3pPLMBiTxaQ9kYGzzhZRbK+xOp="),
            ("Sec-WebSocket-Accept", "X"),
            ("upgrade: WebSocket", "upgrade: h2c"),
            ("keep-alive, upgrade", "keep-alive"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        ] {
            let answer = GOOD.replace(from, to);
            let error = upgrade().judge(answer.as_bytes()).unwrap_err();
            assert!(matches!(error, NoUpgrade::Protocol(_)), "{to}: {error}");
        }
    }

    #[test]
    fn upgrade_with_other_status_is_reported_with_its_reason() {
        let answer =
            b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nthis origin may not connect\n";
        let error = upgrade().judge(answer).unwrap_err();
        let NoUpgrade::Status { status: 403, why } = error else { panic!("{error}") };
        assert_eq!(why, "Forbidden: this origin may not connect");
    }

    #[test]
    fn upgrade_reply_invalid_or_endless_is_rejected() {
        assert!(upgrade().judge(b"\x16\x03\x01hello").is_err());
        let mut endless = b"HTTP/1.1 101 S\r\nX: ".to_vec();
        endless.resize(ANSWER_LIMIT, b'x');
        assert!(upgrade().judge(&endless).is_err());
    }

    #[test]
    fn each_key_is_fresh() {
        let keys = [UpgradeRequest::new().unwrap().key, UpgradeRequest::new().unwrap().key];
        assert_ne!(keys[0], keys[1]);
        assert_eq!(STANDARD.decode(&keys[0]).unwrap().len(), 16);
    }
}

//! The HTTP request that precedes a WebSocket, parsed defensively.
//!
//! Other requests get an HTTP reply with the reason, because the client may be a browser, a health
//! check or curl.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest;

/// Maximum length of a request, in bytes, including the empty line.
const REQUEST_LIMIT: usize = 8 * 1024;
/// Maximum number of header fields; browsers send about twenty.
const FIELDS: usize = 64;
/// RFC 6455 section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// An upgrade request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `Sec-WebSocket-Key`.
    key: String,
    /// `Origin`, as it was sent.
    pub origin: Option<String>,
    /// The first offered subprotocol.
    subprotocol: Option<String>,
}

impl Upgrade {
    /// The reply that accepts the upgrade. Messages are the same in any subprotocol; the first
    /// offered one is selected, because browsers fail a connection for which none is.
    pub fn accept(&self) -> Vec<u8> {
        let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        hash.update(self.key.as_bytes());
        hash.update(ACCEPT_GUID);
        let accept = STANDARD.encode(hash.finish());
        let chosen = self.subprotocol.as_ref();
        let chosen = chosen.map(|chosen| format!("Sec-WebSocket-Protocol: {chosen}\r\n"));
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{}\r\n",
            chosen.unwrap_or_default()
        )
        .into_bytes()
    }
}

/// An HTTP reply instead of a WebSocket, after which the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200: the daemon is alive.
    Healthy {
        /// False for `HEAD`.
        with_body: bool,
    },
    /// 204: the methods of the health check.
    HealthMethods,
    /// 400
    BadRequest(&'static str),
    /// 403: the origin is not allowed.
    OriginRefused,
    /// 405
    MethodNotAllowed {
        /// The path is that of the health check.
        is_health: bool,
        /// False for `HEAD`.
        with_body: bool,
    },
    /// 426: WebSocket required.
    UpgradeRequired,
    /// 431
    TooLarge,
    /// 503: the pool of unauthenticated connections is full.
    Busy,
}

impl Answer {
    /// The reply as bytes.
    pub fn bytes(self) -> Vec<u8> {
        let (status, field, body) = match self {
            Answer::Healthy { .. } => ("200 OK", "", "ok\n"),
            Answer::HealthMethods => {
                // A 204 has no length (RFC 9110 section 8.6).
                let head = "HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, OPTIONS\r\n\
                            Connection: close\r\n\r\n";
                return head.as_bytes().to_vec();
            }
            Answer::BadRequest(why) => ("400 Bad Request", "", why),
            Answer::OriginRefused => ("403 Forbidden", "", "this origin may not connect\n"),
            Answer::MethodNotAllowed { is_health: true, .. } => (
                "405 Method Not Allowed",
                "Allow: GET, HEAD, OPTIONS\r\n",
                "only GET, HEAD and OPTIONS\n",
            ),
            Answer::MethodNotAllowed { is_health: false, .. } => {
                ("405 Method Not Allowed", "Allow: GET\r\n", "only GET\n")
            }
            Answer::UpgradeRequired => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                "this is a WebSocket server, version 13; GET /healthz says whether it is alive\n",
            ),
            Answer::TooLarge => {
                ("431 Request Header Fields Too Large", "", "too many header fields\n")
            }
            Answer::Busy => (
                "503 Service Unavailable",
                "Retry-After: 1\r\n",
                "too many connections authenticate at present; try again\n",
            ),
        };
        let shown = match self {
            Answer::Healthy { with_body: false }
            | Answer::MethodNotAllowed { with_body: false, .. } => "",
            Answer::Healthy { .. }
            | Answer::MethodNotAllowed { .. }
            | Answer::HealthMethods
            | Answer::BadRequest(_)
            | Answer::OriginRefused
            | Answer::UpgradeRequired
            | Answer::TooLarge
            | Answer::Busy => body,
        };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             {field}Connection: close\r\n\r\n{shown}",
            body.len()
        )
        .into_bytes()
    }
}

/// Result of parsing.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// The request is incomplete.
    Incomplete,
    /// An upgrade request of this length.
    Upgrade(Upgrade, usize),
    /// Any other request.
    Answer(Answer),
}

/// Parses the bytes received so far.
pub(super) fn read(bytes: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= REQUEST_LIMIT => length,
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_LIMIT => return Head::Incomplete,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Head::Answer(Answer::TooLarge),
        Err(_) => return Head::Answer(Answer::BadRequest("this is not HTTP/1.1\n")),
    };
    match judge(&request) {
        Ok(upgrade) => Head::Upgrade(upgrade, length),
        Err(answer) => Head::Answer(answer),
    }
}

fn judge(request: &httparse::Request<'_, '_>) -> Result<Upgrade, Answer> {
    let path = request.path.map(|path| path.split_once('?').map_or(path, |(path, _)| path));
    let is_health = path == Some("/healthz");
    match request.method {
        Some("GET") => {}
        Some("HEAD") if is_health => return Err(Answer::Healthy { with_body: false }),
        Some("OPTIONS") if is_health => return Err(Answer::HealthMethods),
        method => {
            let with_body = method != Some("HEAD");
            return Err(Answer::MethodNotAllowed { is_health, with_body });
        }
    }
    let wants_upgrade =
        has_token(request, "upgrade", "websocket") && has_token(request, "connection", "upgrade");
    if !wants_upgrade {
        return Err(if is_health {
            Answer::Healthy { with_body: true }
        } else {
            Answer::UpgradeRequired
        });
    }
    if request.version != Some(1) {
        return Err(Answer::BadRequest("a WebSocket needs HTTP/1.1\n"));
    }
    if only(request, "sec-websocket-version")? != Some("13") {
        return Err(Answer::UpgradeRequired);
    }
    let key = only(request, "sec-websocket-key")?.unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(Answer::BadRequest("Sec-WebSocket-Key must be 16 bytes in base64\n"));
    }
    let origin = only(request, "origin")?.map(str::to_owned);
    let subprotocol = words(request, "sec-websocket-protocol").find(|word| is_token(word));
    Ok(Upgrade { key: key.to_owned(), origin, subprotocol: subprotocol.map(str::to_owned) })
}

/// RFC 9110 section 5.6.2.
fn is_token(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn values<'a>(
    request: &'a httparse::Request<'_, '_>,
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    request.headers.iter().filter(move |f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value)
}

/// The value of a field that may occur once.
fn only<'a>(
    request: &'a httparse::Request<'_, '_>,
    name: &'a str,
) -> Result<Option<&'a str>, Answer> {
    let mut values = values(request, name);
    let value = match values.next() {
        None => return Ok(None),
        Some(value) => std::str::from_utf8(value)
            .map_err(|_| Answer::BadRequest("a header field is not UTF-8\n"))?,
    };
    match values.next() {
        None => Ok(Some(value.trim())),
        Some(_) => Err(Answer::BadRequest("a header field stands twice that may stand once\n")),
    }
}

/// The words of a comma-separated field, which may occur several times.
fn words<'a>(
    request: &'a httparse::Request<'_, '_>,
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    values(request, name)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Whether a comma-separated field contains the word, ignoring case.
fn has_token(request: &httparse::Request<'_, '_>, name: &str, token: &str) -> bool {
    words(request, name).any(|word| word.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(first: &str, fields: &str) -> Vec<u8> {
        format!("{first}\r\nHost: h\r\n{fields}\r\n").into_bytes()
    }

    const UPGRADE: &str = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    #[test]
    fn an_upgrade_is_accepted_with_the_key_of_the_rfc() {
        let bytes = [request("GET /any/path HTTP/1.1", UPGRADE), b"more".to_vec()].concat();
        let Head::Upgrade(upgrade, length) = read(&bytes) else { panic!() };
        assert_eq!(&bytes[length..], b"more");
        let answer = String::from_utf8(upgrade.accept()).unwrap();
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    }

    #[test]
    fn request_may_arrive_in_any_chunks() {
        let bytes = request("GET / HTTP/1.1", UPGRADE);
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Head::Incomplete, "{end}");
        }
    }

    #[test]
    fn health_check_gets_a_reply() {
        let healthy = Answer::Healthy { with_body: true };
        assert_eq!(read(&request("GET /healthz HTTP/1.0", "")), Head::Answer(healthy));
        assert!(healthy.bytes().starts_with(b"HTTP/1.1 200 OK\r\n"));
    }

    #[test]
    fn invalid_request_gets_an_http_error() {
        let answer = |first: &str, fields: &str| match read(&request(first, fields)) {
            Head::Answer(answer) => answer,
            other => panic!("{other:?}"),
        };
        assert_eq!(answer("GET / HTTP/1.1", ""), Answer::UpgradeRequired);
        let refused = Answer::MethodNotAllowed { is_health: false, with_body: true };
        assert_eq!(answer("POST / HTTP/1.1", UPGRADE), refused);
        assert!(matches!(answer("hello", ""), Answer::BadRequest(_)));
        let old = UPGRADE.replace("13", "8");
        assert_eq!(answer("GET / HTTP/1.1", &old), Answer::UpgradeRequired);
        let short = UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl");
        assert!(matches!(answer("GET / HTTP/1.1", &short), Answer::BadRequest(_)));
        let twice = format!("{UPGRADE}Origin: a\r\nOrigin: b\r\n");
        assert!(matches!(answer("GET / HTTP/1.1", &twice), Answer::BadRequest(_)));
        assert!(matches!(answer("GET / HTTP/1.0", UPGRADE), Answer::BadRequest(_)));
    }

    #[test]
    fn a_request_without_end_is_refused_at_the_limit() {
        let mut bytes = b"GET / HTTP/1.1\r\nX: ".to_vec();
        bytes.resize(REQUEST_LIMIT, b'x');
        assert_eq!(read(&bytes), Head::Answer(Answer::TooLarge));
        let many = request("GET / HTTP/1.1", &"X: y\r\n".repeat(100));
        assert_eq!(read(&many), Head::Answer(Answer::TooLarge));
    }
}

//! Messages in the forms that targets accept. Pure functions: the same message gives the same bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::item::one_line;
use super::target::{Format, URGENT};
use super::text::Message;
use crate::wire::Priority;

/// A request to a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// `POST` or `PUT`.
    pub method: &'static str,
    /// Suffix of the path of the URL.
    pub suffix: String,
    /// Headers beside those of `headers_file`.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// State of the selected alerts, for `healthchecks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// A selected alert is active.
    pub fails: bool,
    /// Lines for people.
    pub text: String,
}

/// Longest `content` of a message on Discord, in characters (its API reference).
const DISCORD: usize = 2000;
/// Longest body of a message on ntfy, in bytes; a longer one becomes an attachment (its
/// documentation).
const NTFY: usize = 4096;
/// Longest text for the others, in bytes: their limits are beyond it.
const LONGEST: usize = 32 * 1024;
/// Longest body of a ping that healthchecks.io stores, in bytes.
const PING: usize = 10_000;

const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
const JSON: (&str, &str) = ("content-type", "application/json");

/// The request that carries a message. `healthchecks` has no messages: a test of it is a ping.
pub fn request(format: Format, message: &Message) -> HttpRequest {
    let Message { id, subject, text, priority, .. } = message;
    let (mut method, mut suffix) = ("POST", String::new());
    let mut headers = vec![own(JSON)];
    let body = match format {
        Format::Json => {
            headers.push(("x-sysadm-events-id", id.clone()));
            serde_json::to_value(message).unwrap_or_default()
        }
        Format::Ntfy => {
            headers = vec![
                own(TEXT),
                ("title", ascii_header(subject)),
                ("priority", ntfy_priority(*priority).to_string()),
                ("tags", if *priority >= URGENT { "rotating_light" } else { "bell" }.to_owned()),
            ];
            let body = cut(text, NTFY).into_bytes();
            return HttpRequest { method, suffix, headers, body };
        }
        Format::Slack => {
            let text = format!("*{}*\n```{}```", slack(subject), slack(&cut(text, LONGEST)));
            json!({ "text": text })
        }
        Format::Discord => {
            // A text cannot end the block that it stands in.
            let text = text.replace("```", "'''");
            let content =
                format!("**{subject}**\n```\n{}```", cut_characters(&text, DISCORD - 120));
            json!({ "content": content, "allowed_mentions": { "parse": [] } })
        }
        Format::Matrix => {
            method = "PUT";
            // The server drops a transaction that it has seen.
            suffix = format!("/{id}");
            json!({ "msgtype": "m.text", "body": format!("{subject}\n\n{}", cut(text, LONGEST)) })
        }
        Format::Gotify => json!({
            "title": subject,
            "message": cut(text, LONGEST),
            "priority": priority.number(),
        }),
        Format::Healthchecks => {
            return ping(&Ping { fails: false, text: text.clone() });
        }
    };
    HttpRequest { method, suffix, headers, body: body.to_string().into_bytes() }
}

/// The request of a ping.
pub fn ping(ping: &Ping) -> HttpRequest {
    let suffix = if ping.fails { "/fail" } else { "" };
    HttpRequest {
        method: "POST",
        suffix: suffix.to_owned(),
        headers: vec![own(TEXT)],
        body: cut(&ping.text, PING).into_bytes(),
    }
}

/// Appends to the path of a URL, before a query.
pub fn with_suffix(url: &str, suffix: &str) -> String {
    if suffix.is_empty() {
        return url.to_owned();
    }
    match url.split_once('?') {
        Some((path, query)) => format!("{}{suffix}?{query}", path.trim_end_matches('/')),
        None => format!("{}{suffix}", url.trim_end_matches('/')),
    }
}

/// A mail, for the standard input of `sendmail -t -oi`. `date` is of RFC 5322.
pub fn mail(message: &Message, to: &[String], date: &str) -> String {
    let urgent = if message.priority >= URGENT { "X-Priority: 1 (Highest)\n" } else { "" };
    let lines: Vec<String> = message.text.lines().map(|line| cut(line, MAIL_LINE)).collect();
    format!(
        "To: {}\nSubject: {}\nDate: {date}\nMessage-ID: <sysadm-events.{}@{}>\n{urgent}\
         Auto-Submitted: auto-generated\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{}\n",
        to.join(", "),
        encoded_words(&message.subject),
        message.id,
        host_of_id(&message.host),
        lines.join("\n")
    )
}

/// Longest line of a mail, in bytes: 998 are allowed (RFC 5322, 2.1.1).
const MAIL_LINE: usize = 990;

/// A host name, as far as it may stand in a Message-ID.
fn host_of_id(host: &str) -> String {
    let host: String =
        host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect();
    if host.is_empty() { "localhost".to_owned() } else { host }
}

/// Words of RFC 2047 for a text that is not ASCII; other text as it is.
fn encoded_words(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    // 75 bytes a word at most: 12 around 45 bytes in base64.
    let mut words: Vec<String> = Vec::new();
    let mut part = String::new();
    for character in text.chars() {
        if part.len() + character.len_utf8() > 45 {
            words.push(encoded_word(&part));
            part.clear();
        }
        part.push(character);
    }
    words.push(encoded_word(&part));
    words.join("\n ")
}

fn encoded_word(text: &str) -> String {
    format!("=?utf-8?B?{}?=", STANDARD.encode(text))
}

/// The signature of a body: `sha256=` and its HMAC-SHA256 with the secret, in hexadecimal.
pub fn signature(secret: &[u8], body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let mut text = "sha256=".to_owned();
    for byte in ring::hmac::sign(&key, body).as_ref() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The message as JSON, for a command.
pub fn json_line(message: &Message) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

fn own((name, value): (&'static str, &str)) -> (&'static str, String) {
    (name, value.to_owned())
}

/// 1 to 5.
fn ntfy_priority(priority: Priority) -> u8 {
    match priority.number() {
        0..=2 => 2,
        3..=5 => 3,
        6..=8 => 4,
        _ => 5,
    }
}

/// ntfy decodes RFC 2047; the words stand on one line here.
fn ascii_header(text: &str) -> String {
    encoded_words(text).replace("\n ", " ")
}

/// `&`, `<` and `>` have a meaning, and a block ends with three back-quotes (Slack's reference).
fn slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace("```", "'''")
}

/// At most `longest` bytes, cut with `…`; lines stay.
fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

fn cut_characters(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

/// One line of at most 300 bytes, for a log: a reply of a target may be anything.
pub fn shown(text: &str) -> String {
    one_line(text, 300)
}

#[cfg(test)]
mod tests {
    use super::super::item::ItemState;
    use super::super::text::tests::alert;
    use super::super::text::{compose, test_message};
    use super::*;

    fn message() -> Message {
        let item = alert("pool/tank/health", "pool/health", ItemState::Raised, 9, "tank DEGRADED");
        compose("6a-1".into(), "nas", vec![item], 0)
    }

    fn body(request: &HttpRequest) -> &str {
        std::str::from_utf8(&request.body).unwrap()
    }

    #[test]
    fn json_has_the_documented_schema() {
        let request = request(Format::Json, &message());
        assert_eq!(
            body(&request),
            r#"{"id":"6a-1","host":"nas","time":"2026-11-29T01:05:00Z","priority":9,"subject":"nas: tank DEGRADED (9 Urgent)","text":"tank DEGRADED\n  priority: 9 Urgent\n  since:    2026-11-29 01:00 UTC\n  alert:    pool/tank/health\n  source:   system-state\n  show:     zpool status -v tank\n  ack:      sysadm-events ack pool/tank/health\n","dropped":0,"entries":[{"event":"alert","id":"e-pool/tank/health","key":"pool/tank/health","kind":"pool/health","state":"raised","priority":9,"message":"tank DEGRADED","source":"system-state","since":"2026-11-29T01:00:00Z","at":"2026-11-29T01:05:00Z","count":1}]}"#
        );
        assert_eq!(
            request.headers,
            [
                ("content-type", "application/json".to_owned()),
                ("x-sysadm-events-id", "6a-1".to_owned()),
            ]
        );
        let test = test_message("t".into(), "nas", "x", "2026-11-29T01:05:00Z");
        assert!(body(&super::request(Format::Json, &test)).contains(r#""test":true"#));
    }

    #[test]
    fn each_format_has_its_exact_bytes() {
        let message = Message { text: "a <b> & ```c```\n".into(), ..message() };
        let rows = [
            (Format::Ntfy, "a <b> & ```c```\n"),
            (
                Format::Slack,
                r#"{"text":"*nas: tank DEGRADED (9 Urgent)*\n```a &lt;b&gt; &amp; '''c'''\n```"}"#,
            ),
            (
                Format::Discord,
                r#"{"content":"**nas: tank DEGRADED (9 Urgent)**\n```\na <b> & '''c'''\n```","allowed_mentions":{"parse":[]}}"#,
            ),
            (
                Format::Matrix,
                r#"{"msgtype":"m.text","body":"nas: tank DEGRADED (9 Urgent)\n\na <b> & ```c```\n"}"#,
            ),
            (
                Format::Gotify,
                r#"{"title":"nas: tank DEGRADED (9 Urgent)","message":"a <b> & ```c```\n","priority":9}"#,
            ),
        ];
        for (format, expected) in rows {
            let request = request(format, &message);
            assert_eq!(body(&request), expected, "{format:?}");
            let (method, suffix) =
                if format == Format::Matrix { ("PUT", "/6a-1") } else { ("POST", "") };
            assert_eq!((request.method, request.suffix.as_str()), (method, suffix));
        }
        let ntfy = request(Format::Ntfy, &message);
        assert_eq!(
            ntfy.headers,
            [
                own(TEXT),
                ("title", "nas: tank DEGRADED (9 Urgent)".to_owned()),
                ("priority", "5".to_owned()),
                ("tags", "rotating_light".to_owned()),
            ]
        );
    }

    #[test]
    fn texts_respect_the_limits_of_services() {
        let message = Message { text: "ü".repeat(40_000), ..message() };
        assert!(request(Format::Ntfy, &message).body.len() <= NTFY);
        let discord: serde_json::Value =
            serde_json::from_slice(&request(Format::Discord, &message).body).unwrap();
        assert!(discord["content"].as_str().unwrap().chars().count() <= DISCORD);
        let failing = Ping { fails: true, text: message.text.clone() };
        assert!(ping(&failing).body.len() <= PING);
        assert!(mail(&message, &["root".into()], "").lines().all(|line| line.len() < 998));
    }

    #[test]
    fn ping_goes_to_the_check_or_its_fail() {
        let of = |fails| ping(&Ping { fails, text: "x".into() });
        assert_eq!((of(false).suffix.as_str(), of(true).suffix.as_str()), ("", "/fail"));
        assert_eq!(with_suffix("https://hc-ping.com/u", "/fail"), "https://hc-ping.com/u/fail");
        assert_eq!(with_suffix("https://h/u/?create=1", "/fail"), "https://h/u/fail?create=1");
        assert_eq!(with_suffix("https://h/u/", ""), "https://h/u/");
    }

    #[test]
    fn mail_has_a_stable_id_and_an_encoded_subject() {
        let to = ["root".to_owned(), "a@example.org".to_owned()];
        let date = "Sun, 29 Nov 2026 01:05:00 +0000";
        let message = Message { text: "line\n".into(), ..message() };
        assert_eq!(
            mail(&message, &to, date),
            "To: root, a@example.org\nSubject: nas: tank DEGRADED (9 Urgent)\n\
             Date: Sun, 29 Nov 2026 01:05:00 +0000\nMessage-ID: <sysadm-events.6a-1@nas>\n\
             X-Priority: 1 (Highest)\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\n\
             Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nline\n"
        );
        let message = Message { subject: "n: ü".into(), priority: Priority::new(6), ..message };
        let mail = mail(&message, &to, date);
        assert!(mail.contains("\nSubject: =?utf-8?B?bjogw7w=?=\n"), "{mail}");
        assert!(!mail.contains("X-Priority"));
        let long = encoded_words(&"ü".repeat(60));
        assert!(long.lines().count() > 1 && long.lines().all(|line| line.len() <= 76), "{long}");
    }

    /// Test case 2 of RFC 4231.
    #[test]
    fn signature_is_hmac_sha256() {
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}

//! Targets of notifications: their settings, as the configuration has them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire::Priority;

/// Events that a target selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Alerts that are raised, get a higher priority, or are cleared.
    Alert,
    /// Events from logs of snapshots and replications.
    LifePreserver,
    /// Jobs that failed.
    Dispatcher,
    /// Notices without a key.
    Notice,
}

/// Form of the body of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The schema of this program.
    Json,
    /// A topic of ntfy.
    Ntfy,
    /// An incoming webhook of Slack, or of a program that accepts the same.
    Slack,
    /// A webhook of a Discord channel.
    Discord,
    /// The `send` resource of a Matrix room.
    Matrix,
    /// The `message` resource of Gotify.
    Gotify,
    /// A check of healthchecks.io: pinged while no selected alert is active.
    Healthchecks,
}

/// Address of a webhook. Its path may be a secret: `Display` shows scheme, host and port only.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    url: String,
    /// Length of scheme, host and port in it.
    origin: usize,
    /// Host without brackets.
    host: String,
    port: u16,
}

/// The maximum length of a URL, in bytes.
const LONGEST_URL: usize = 2048;

impl Webhook {
    /// Parses an `http` or `https` URL without user, password and fragment.
    ///
    /// # Errors
    /// The fault, as a text that follows the URL.
    pub fn parse(text: &str) -> Result<Webhook, String> {
        if text.len() > LONGEST_URL {
            return Err(format!("has {} bytes: at most {LONGEST_URL}", text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a blank or a character that is not ASCII: encode it with %".to_owned());
        }
        let (rest, port) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (rest, 443),
            (None, Some(rest)) => (rest, 80),
            (None, None) => return Err("is not a URL: begin it with https://".to_owned()),
        };
        if text.contains('#') {
            return Err("has a fragment (#), which is never sent".to_owned());
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            let advice = "write it into headers_file, as Authorization: Basic …";
            return Err(format!("has a user or password in it: {advice}"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or("has no ] after its address")?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| "has no IPv6 address in [ ]")?;
                (host, rest.strip_prefix(':').map_or(Ok(port), parse_port)?)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, parse_port(port)?),
                None => (authority, port),
            },
        };
        let is_of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_of_host) {
            return Err("has no host: write https://HOST/PATH".to_owned());
        }
        let origin = text.len() - rest.len() + authority.len();
        Ok(Webhook { url: text.to_owned(), origin, host: host.to_ascii_lowercase(), port })
    }

    /// The whole URL, with a path that may be a secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Scheme, host and port, as configured.
    pub fn origin(&self) -> &str {
        self.url.get(..self.origin).unwrap_or_default()
    }

    /// Host in lower case, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port, the one of the scheme where none is given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether TLS protects what is sent.
    pub fn is_encrypted(&self) -> bool {
        self.url.starts_with("https:")
    }

    /// Whether the host is this one, by name or by a loopback address.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "has no port from 1 to 65535 after the colon".to_owned())
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.origin())
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.origin())
    }
}

/// Where the messages of a target go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Recipients of mail, and the program that accepts it on standard input.
    Mail {
        /// Addresses, or names of local users.
        to: Vec<String>,
        /// `sendmail` or a program that is called the same.
        sendmail: PathBuf,
    },
    /// A webhook.
    Webhook {
        /// Its address.
        url: Webhook,
        /// The form of the body.
        format: Format,
    },
    /// A program, an absolute path, with its arguments.
    Command(Vec<String>),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Mail { to, .. } => write!(f, "mail to {}", to.join(", ")),
            Destination::Webhook { url, .. } => url.fmt(f),
            Destination::Command(argv) => f.write_str(argv.first().map_or("", String::as_str)),
        }
    }
}

/// Hours of the local day in which messages below [`URGENT`] wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuietHours {
    /// Minute of the day, 0 to 1439, at which they begin.
    pub from: u16,
    /// Minute at which they end; may be before `from`: then they span midnight.
    pub to: u16,
}

const MINUTES_OF_DAY: u16 = 24 * 60;

impl QuietHours {
    /// Parses `HH:MM-HH:MM`.
    ///
    /// # Errors
    /// The fault, as a text that follows the value.
    pub fn parse(text: &str) -> Result<QuietHours, String> {
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let number = |text: &str, most: u16| {
                let is_two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<u16>().ok().filter(|number| is_two && *number <= most)
            };
            Some(number(hours, 23)? * 60 + number(minutes, 59)?)
        };
        let hours = text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
        match hours {
            Some((from, to)) if from == to => Err("begins and ends at the same time".to_owned()),
            Some((from, to)) => Ok(QuietHours { from, to }),
            None => Err("is no time span: write one like \"22:00-07:00\"".to_owned()),
        }
    }

    /// Minutes until they end, if `minute` of the day is in them.
    pub fn left(self, minute: u16) -> Option<u16> {
        let day = MINUTES_OF_DAY;
        let since = (minute + day - self.from) % day;
        let length = (self.to + day - self.from) % day;
        (since < length).then(|| length - since)
    }
}

/// Messages of this priority and above do not wait for quiet hours or a digest.
pub const URGENT: Priority = Priority::new(9);

/// `[[notify]]`: a target of notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name in messages and in the alert `notify/NAME/failing`, 1 to 64 bytes without a slash,
    /// unique.
    pub name: String,
    /// `mail`, `webhook` or `command`.
    pub destination: Destination,
    /// Minimum priority of selected events, 0 to 10; failed jobs count as 6. Default 6.
    pub priority: Priority,
    /// Selected events. Default: alerts.
    pub events: Vec<EventKind>,
    /// Interval between two messages about an alert that is active and not acknowledged, 1 min to
    /// 365 d; `None` (`""`) for none. Of `healthchecks` the interval between two pings, 10 s to 7
    /// d. Default 24 h, of `healthchecks` 5 min.
    pub repeat: Option<Duration>,
    /// Time in which events are collected for one message, 0 s to 1 h. An event of priority 9 or 10
    /// ends it. Default 30 s.
    pub digest: Duration,
    /// Hours in which messages below priority 9 wait. Default: none.
    pub quiet: Option<QuietHours>,
    /// File with the secret for the signature of `json`. Default: none.
    pub secret_file: Option<PathBuf>,
    /// File with headers for the webhook, one a line. Default: none.
    pub headers_file: Option<PathBuf>,
    /// File with trusted certificates instead of the system's. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Proxy of the webhook, `http://HOST:PORT`. Default: none.
    pub proxy: Option<Webhook>,
    /// Time limit of one delivery, 100 ms to 5 min. Default 30 s.
    pub deadline: Duration,
}

impl Target {
    /// Whether it gets pings instead of messages.
    pub fn is_pinged(&self) -> bool {
        matches!(self.destination, Destination::Webhook { format: Format::Healthchecks, .. })
    }

    /// Key of the alert that it fails.
    pub fn failing_key(&self) -> String {
        format!("notify/{}/failing", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_shows_its_origin_only() {
        let rows = [
            ("https://Ntfy.example.org/top-secret?x=1", "https://Ntfy.example.org", 443),
            ("http://127.0.0.1:8080/s", "http://127.0.0.1:8080", 8080),
            ("http://[::1]:81", "http://[::1]:81", 81),
            ("http://localhost?s", "http://localhost", 80),
        ];
        for (url, shown, port) in rows {
            let webhook = Webhook::parse(url).unwrap();
            assert_eq!((webhook.to_string(), webhook.port()), (shown.to_owned(), port));
            assert_eq!(format!("{webhook:?}"), shown);
            assert_eq!(webhook.is_loopback(), !webhook.is_encrypted(), "{url}");
        }
        assert_eq!(Webhook::parse("https://A.b/c").unwrap().host(), "a.b");
    }

    #[test]
    fn malformed_url_is_refused() {
        let wrong = [
            "",
            "ntfy.sh/x",
            "ftp://a/b",
            "https://",
            "https:///x",
            "https://u:p@a/b",
            "https://a b/",
            "https://a/#b",
            "https://a:0/",
            "https://a:x/",
            "https://[::1/",
            "https://[a]/",
            "https://a\r\nb/",
            "https://ä/",
        ];
        for url in wrong {
            assert!(Webhook::parse(url).is_err(), "{url}");
        }
        assert!(Webhook::parse(&format!("https://a/{}", "b".repeat(LONGEST_URL))).is_err());
    }

    #[test]
    fn quiet_hours_span_midnight() {
        let night = QuietHours::parse("22:00-07:00").unwrap();
        assert_eq!(night.left(22 * 60), Some(9 * 60));
        assert_eq!(night.left(0), Some(7 * 60));
        assert_eq!(night.left(7 * 60 - 1), Some(1));
        assert_eq!((night.left(7 * 60), night.left(22 * 60 - 1)), (None, None));
        let noon = QuietHours::parse("12:00-13:30").unwrap();
        assert_eq!((noon.left(720), noon.left(809), noon.left(810)), (Some(90), Some(1), None));
        for wrong in ["", "22-7", "22:00", "24:00-07:00", "22:60-07:00", "7:00-8:00", "07:00-07:00"]
        {
            assert!(QuietHours::parse(wrong).is_err(), "{wrong}");
        }
    }
}

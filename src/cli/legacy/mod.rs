//! Files of the Qt sysadm, in terms of this program's configuration.
//!
//! There are three: `sysadm.conf`, written by people (`KEY=VALUE` lines); `sysadm.ini`, in which
//! the server stored keys and bridges; and the bridge's own, of the same form. The kind follows
//! from the lines. Nothing is dropped silently: lines without a counterpart are reported.

mod ini;

use std::borrow::Cow;
use std::net::Ipv6Addr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::auth::key::PublicKey;
use crate::config::BridgeUrl;
use crate::sys::local_time::LocalTime;
use crate::wire::decimal;

/// Content of a file.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    /// Keys of this program's configuration, in the order of the file.
    pub(super) settings: Vec<Setting>,
    /// Registered keys.
    pub(super) keys: Vec<Registered>,
    /// Bridges that the server connected to.
    pub(super) bridges: Vec<Dialled>,
    /// Lines that were not imported.
    pub(super) remarks: Vec<Remark>,
    /// The line which says that the server has no listeners.
    only_bridges: Option<usize>,
}

/// One key of this program's configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Its line, starting at 1.
    pub(super) line: usize,
    /// Its original name.
    pub(super) was: String,
    /// `auth`.
    pub(super) section: &'static str,
    /// `fail_limit`.
    pub(super) key: &'static str,
    /// In TOML.
    pub(super) value: String,
}

/// A registered key.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) line: usize,
    pub(super) user: String,
    pub(super) key: PublicKey,
    pub(super) nickname: String,
    pub(super) email: String,
    /// By the old host's clock, without an offset.
    pub(super) added: Option<LocalTime>,
}

/// A bridge that the server connected to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dialled {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) url: BridgeUrl,
}

/// A line that was not imported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) line: usize,
    pub(super) why: String,
    /// It requires action; otherwise it has no counterpart.
    pub(super) is_fault: bool,
}

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Server,
    Bridge,
}

const ONLY_BRIDGES: &str = "BRIDGE_CONNECTIONS_ONLY";

/// Parses a file of either form. Its bytes are those of QSettings (Latin-1, without a codec) or
/// plain ASCII.
pub(super) fn read(bytes: &[u8], of: Of) -> Legacy {
    let lines = || bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut legacy = Legacy::default();
    if lines().any(|line| line.starts_with(b"[") && line.ends_with(b"]")) {
        for entry in ini::entries(bytes) {
            legacy.take_entry(&entry, of);
        }
    } else {
        let mut after_comment = false;
        for (at, line) in lines().enumerate() {
            // The file that the Qt sysadm installs has a comment that continues on the next line.
            if after_comment && !line.is_empty() && !line.contains(&b'=') {
                legacy.note(at + 1, "read as the rest of the comment above it");
                continue;
            }
            after_comment = line.starts_with(b"#");
            legacy.take_line(at + 1, &String::from_utf8_lossy(line));
        }
    }
    if let Some(line) = legacy.only_bridges {
        legacy.settings.retain(|setting| setting.key != "listen");
        legacy.set((line, ONLY_BRIDGES), "server", "listen", "[]".to_owned());
    }
    legacy
}

impl Legacy {
    fn remark(&mut self, line: usize, why: impl Into<String>) {
        self.remarks.push(Remark { line, why: why.into(), is_fault: true });
    }

    fn note(&mut self, line: usize, why: &str) {
        self.remarks.push(Remark { line, why: why.to_owned(), is_fault: false });
    }

    fn set(
        &mut self,
        (line, was): (usize, &str),
        section: &'static str,
        key: &'static str,
        value: String,
    ) {
        if let Some(first) = self.settings.iter().find(|known| known.key == key) {
            // The old server used the first one, too.
            let why = format!("{was}: stands in line {} already, and that one counts", first.line);
            self.remark(line, why);
        } else {
            self.settings.push(Setting { line, was: was.to_owned(), section, key, value });
        }
    }

    /// Parses a line of `sysadm.conf`.
    fn take_line(&mut self, line: usize, text: &str) {
        if text.is_empty() || text.starts_with('#') {
            return;
        }
        let Some((name, value)) = text.split_once('=') else {
            return self.remark(line, format!("{text:?} is not KEY=VALUE"));
        };
        let name = name.trim();
        let (value, comment) = value.split_once('#').unwrap_or((value, ""));
        let value = value.trim();
        let at = (line, name);
        match name {
            "PORT" => match decimal::<u16>(value) {
                // The old server listened on all addresses.
                Some(port @ 1..) => {
                    let listen = format!("[\"0.0.0.0:{port}\", \"[::]:{port}\"]");
                    self.set(at, "server", "listen", listen);
                }
                Some(0) | None => self.remark(line, format!("PORT: {value:?} is no port")),
            },
            ONLY_BRIDGES => match value.to_ascii_lowercase().as_str() {
                "true" => {
                    self.only_bridges = Some(line);
                    if !comment.is_empty() {
                        let why = "the Qt sysadm took the comment for a part of the value and \
                                   listened; this daemon does not listen";
                        self.note(line, &format!("{name}: {why}"));
                    }
                }
                "false" => {}
                _ => self.remark(line, format!("{name}: {value:?} is neither true nor false")),
            },
            "BLACKLIST_BLOCK_MINUTES" => self.minutes(at, "block_time", value),
            "BLACKLIST_AUTH_FAIL_RESET_MINUTES" => self.minutes(at, "fail_window", value),
            "BLACKLIST_AUTH_FAIL_LIMIT" => self.number(at, "fail_limit", value),
            "PORT_REST" => {
                self.note(line, "PORT_REST: there is no REST server here, only WebSocket");
            }
            _ => self.remark(line, format!("{name}: not known")),
        }
    }

    fn minutes(&mut self, at: (usize, &str), key: &'static str, value: &str) {
        match decimal::<u32>(value) {
            Some(minutes) => self.set(at, "auth", key, format!("\"{minutes}m\"")),
            None => self.remark(at.0, format!("{}: {value:?} is no number of minutes", at.1)),
        }
    }

    fn number(&mut self, at: (usize, &str), key: &'static str, value: &str) {
        match decimal::<u32>(value) {
            Some(number) => self.set(at, "auth", key, number.to_string()),
            None => self.remark(at.0, format!("{}: {value:?} is no number", at.1)),
        }
    }

    /// Processes an entry of an INI file.
    fn take_entry(&mut self, entry: &ini::Entry, of: Of) {
        let ini::Entry { line, value, .. } = entry;
        let line = *line;
        let (section, name) = entry.key.split_once('/').unwrap_or(("", &entry.key));
        let at = (line, entry.key.as_str());
        match (section, name) {
            ("RegisteredCerts", name) => self.take_key(line, name, value, of),
            ("bridge_connections", name) => self.take_bridge(line, name, value),
            ("blacklist_settings", "block_minutes") => self.minutes(at, "block_time", value),
            ("blacklist_settings", "fails_to_block") => self.number(at, "fail_limit", value),
            ("auth", "allowUserPassAuth") => match value.as_str() {
                "true" => {}
                "false" => self.set(at, "auth", "pam", "false".to_owned()),
                _ => self.remark(line, format!("{}: {value:?} is neither true nor false", at.1)),
            },
            // Blocked addresses, and the version of the file.
            ("blacklist" | "internal", _) => {}
            ("auth", "allowServiceAuth") => {
                self.note(line, "auth/allowServiceAuth: there are no logins without a secret here");
            }
            _ => self.remark(line, format!("{}: not known", at.1)),
        }
    }

    /// Processes `USER/KEY`: base64 of a PEM text, or in the oldest files the text itself.
    fn take_key(&mut self, line: usize, name: &str, details: &str, of: Of) {
        let Some((user, text)) = name.split_once('/').filter(|(user, _)| !user.is_empty()) else {
            return self.remark(line, "RegisteredCerts: neither user nor key");
        };
        if user == "cli-import" && of == Of::Server {
            let why = "RegisteredCerts/cli-import: a key without a user; register it with \
                       \"sysadm-events key add USER FILE --legacy\"";
            return self.remark(line, why);
        }
        let pem = if text.starts_with("-----BEGIN") {
            Some(text.as_bytes().to_vec())
        } else {
            STANDARD.decode(text).ok()
        };
        let key = match pem {
            Some(pem) => PublicKey::from_pem(&pem).map_err(|error| error.to_string()),
            None => Err("neither PEM nor base64 of it".to_owned()),
        };
        let key = match key {
            Ok(key) => key,
            Err(why) => return self.remark(line, format!("a key of {user:?}: {why}")),
        };
        let detail = |name: &str| {
            let found = details.lines().find_map(|line| line.strip_prefix(name));
            found.and_then(|rest| rest.strip_prefix(':')).map_or("", str::trim)
        };
        self.keys.push(Registered {
            line,
            user: user.to_owned(),
            key,
            nickname: detail("Nickname").to_owned(),
            email: detail("Email").to_owned(),
            added: date(detail("Date Registered")),
        });
    }

    fn take_bridge(&mut self, line: usize, name: &str, url: &str) {
        // The old server used TLS whatever the URL's scheme, or without one.
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let rest = in_brackets(rest.trim_end_matches('/'));
        match BridgeUrl::parse(&format!("wss://{rest}")) {
            Ok(url) => self.bridges.push(Dialled { line, name: name.to_owned(), url }),
            Err(why) => self.remark(line, format!("the bridge {name:?}: {url:?} {why}")),
        }
    }
}

/// An IPv6 address in brackets, which the old server omitted; anything else unchanged.
fn in_brackets(authority: &str) -> Cow<'_, str> {
    let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    match authority.rsplit_once(':') {
        _ if is_address(authority) => format!("[{authority}]").into(),
        Some((host, port)) if is_address(host) => format!("[{host}]:{port}").into(),
        Some(_) | None => authority.into(),
    }
}

/// Parses `2016-05-20T11:12:13`, Qt::ISODate.
fn date(text: &str) -> Option<LocalTime> {
    let (day, time) = text.split_once('T')?;
    let mut day = day.split('-');
    let mut time = time.split(':');
    let small = |text: Option<&str>| decimal::<u8>(text?);
    let date = LocalTime {
        year: decimal(day.next()?)?,
        month: small(day.next())?,
        day: small(day.next())?,
        hour: small(time.next())?,
        minute: small(time.next())?,
        second: small(time.next())?,
    };
    (day.next().is_none() && time.next().is_none()).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by QSettings of Qt 5.15.
    const INI: &[u8] = include_bytes!("../../../tests/legacy/sysadm.ini");
    /// As shipped, with values of a user.
    const CONF: &[u8] = include_bytes!("../../../tests/legacy/sysadm.conf");

    fn remarks(legacy: &Legacy) -> Vec<String> {
        legacy.remarks.iter().map(|remark| format!("{}: {}", remark.line, remark.why)).collect()
    }

    fn settings(legacy: &Legacy) -> Vec<(&str, &str, &str)> {
        let all = legacy.settings.iter();
        all.map(|it| (it.section, it.key, it.value.as_str())).collect()
    }

    #[test]
    fn a_conf_of_the_server_becomes_settings() {
        let legacy = read(CONF, Of::Server);
        assert_eq!(
            settings(&legacy),
            [
                ("server", "listen", r#"["0.0.0.0:12155", "[::]:12155"]"#),
                ("auth", "block_time", "\"90m\""),
                ("auth", "fail_limit", "7"),
                ("auth", "fail_window", "\"15m\""),
            ]
        );
        assert_eq!(
            remarks(&legacy),
            ["7: PORT_REST: there is no REST server here, only WebSocket"]
        );
    }

    /// The form of the file that the Qt sysadm installs: a comment that continues on the next line,
    /// and one after a value.
    const DEFAULT: &str = "# Connections of bridges (WebSocket\nonly)\n\
                           BRIDGE_CONNECTIONS_ONLY=false #[true/false]\n\n# Port\nPORT=12150 # two\n";

    #[test]
    fn comments_of_the_default_conf_are_no_faults() {
        let legacy = read(DEFAULT.as_bytes(), Of::Server);
        let listen = ("server", "listen", r#"["0.0.0.0:12150", "[::]:12150"]"#);
        assert_eq!(settings(&legacy), [listen]);
        assert_eq!(remarks(&legacy), ["2: read as the rest of the comment above it"]);
        assert!(legacy.remarks.iter().all(|remark| !remark.is_fault));
        let only = DEFAULT.replace("=false", "=true");
        let legacy = read(only.as_bytes(), Of::Server);
        assert_eq!(settings(&legacy), [("server", "listen", "[]")]);
        assert!(remarks(&legacy)[1].starts_with("3: BRIDGE_CONNECTIONS_ONLY: the Qt sysadm took"));
        // A line after an empty line or a value does not continue a comment.
        for text in ["# a\n\nhello\n", "PORT=1\nhello\n"] {
            assert!(read(text.as_bytes(), Of::Server).remarks[0].is_fault, "{text}");
        }
    }

    #[test]
    fn a_server_for_bridges_only_listens_nowhere() {
        for conf in [
            "PORT=12150\nBRIDGE_CONNECTIONS_ONLY=TRUE",
            "BRIDGE_CONNECTIONS_ONLY=true\r\nPORT=12150\r\n",
        ] {
            let legacy = read(conf.as_bytes(), Of::Server);
            assert_eq!(settings(&legacy), [("server", "listen", "[]")]);
        }
        let legacy = read(b"BRIDGE_CONNECTIONS_ONLY=false", Of::Server);
        assert_eq!(settings(&legacy), []);
    }

    #[test]
    fn conf_faults_are_reported_with_their_lines() {
        let conf = "PORT=70000\nPORT=12150\nPORT=12151\nBLACKLIST_AUTH_FAIL_LIMIT=many\n\
                    BLACKLIST_BLOCK_MINUTES=\nBRIDGE_CONNECTIONS_ONLY=maybe\nCOLOUR=red\nhello\n";
        let legacy = read(conf.as_bytes(), Of::Server);
        assert_eq!(
            remarks(&legacy),
            [
                "1: PORT: \"70000\" is no port",
                "3: PORT: stands in line 2 already, and that one counts",
                "4: BLACKLIST_AUTH_FAIL_LIMIT: \"many\" is no number",
                "5: BLACKLIST_BLOCK_MINUTES: \"\" is no number of minutes",
                "6: BRIDGE_CONNECTIONS_ONLY: \"maybe\" is neither true nor false",
                "7: COLOUR: not known",
                "8: \"hello\" is not KEY=VALUE",
            ]
        );
    }

    #[test]
    fn an_ini_of_the_server_has_keys_bridges_and_settings() {
        let legacy = read(INI, Of::Server);
        let keys: Vec<_> = legacy
            .keys
            .iter()
            .map(|it| (it.user.as_str(), it.nickname.as_str(), it.email.as_str()))
            .collect();
        assert_eq!(
            keys,
            [
                ("jürgen", "Jürgen=1", ""),
                ("old", "", ""),
                ("root", "Ann's \"big\" laptop; blue, 50%", "ann@example.org"),
            ]
        );
        // One of them is stored both as base64 and as text.
        assert_eq!(legacy.keys[1].key, legacy.keys[2].key);
        let added = legacy.keys[2].added.unwrap();
        let expected =
            LocalTime { year: 2016, month: 5, day: 20, hour: 11, minute: 12, second: 13 };
        assert_eq!(added, expected);
        assert_eq!(legacy.keys[1].added, None);
        let bridges: Vec<_> =
            legacy.bridges.iter().map(|it| (it.name.as_str(), it.url.to_string())).collect();
        assert_eq!(
            bridges,
            [
                ("home", "wss://bridge.example.net:12149".to_owned()),
                ("office one", "wss://bridge.example.org:12149".to_owned()),
            ]
        );
        assert_eq!(settings(&legacy), [("auth", "pam", "false")]);
        let remarks = remarks(&legacy);
        assert_eq!(remarks.len(), 2, "{remarks:#?}");
        assert!(remarks[0].starts_with("2: a key of \"ann\": "), "{remarks:#?}");
        assert!(remarks[1].contains("a key without a user"), "{remarks:#?}");
    }

    #[test]
    fn ipv6_address_of_a_bridge_gets_brackets() {
        for (written, url) in [
            ("::1", "wss://[::1]:12149"),
            ("wss://::1/", "wss://[::1]:12149"),
            ("::1:12150", "wss://[::1]:12150"),
            ("ws://fe80::1:2:12150", "wss://[fe80::1:2]:12150"),
            ("[::1]:12150", "wss://[::1]:12150"),
            ("bridge.example.org:1", "wss://bridge.example.org:1"),
        ] {
            let legacy =
                read(format!("[bridge_connections]\nhome={written}\n").as_bytes(), Of::Server);
            let found: Vec<String> = legacy.bridges.iter().map(|it| it.url.to_string()).collect();
            assert_eq!(found, [url], "{written}: {:?}", remarks(&legacy));
        }
    }

    #[test]
    fn an_ini_of_the_bridge_has_peers_by_their_names() {
        let ini = String::from_utf8(INI.to_vec().into_iter().filter(u8::is_ascii).collect());
        let ini = ini.unwrap() + "[blacklist_settings]\nblock_minutes=5\nfails_to_block=3\n";
        let legacy = read(ini.as_bytes(), Of::Bridge);
        assert!(legacy.keys.iter().any(|it| it.user == "cli-import"));
        let settings = settings(&legacy);
        assert!(settings.contains(&("auth", "block_time", "\"5m\"")), "{settings:?}");
        assert!(settings.contains(&("auth", "fail_limit", "3")), "{settings:?}");
    }

    #[test]
    fn garbage_is_named_and_nothing_else() {
        let mut all: Vec<u8> =
            b"[RegisteredCerts]\n=\nx=\nroot\\=\n%ZZ\\%=1\nroot\\LS0=\"".to_vec();
        all.extend(0..=255_u8);
        let legacy = read(&all, Of::Server);
        assert!(legacy.keys.is_empty() && legacy.settings.is_empty());
        assert!(legacy.remarks.len() >= 4, "{:?}", legacy.remarks);
        assert!(read(b"", Of::Server).remarks.is_empty());
    }
}

//! Address and fingerprint of a link to a relay.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::wire::decimal;

/// Default port of a relay.
const BRIDGE_PORT: u16 = 12149;

/// `wss://HOST[:PORT]`, the address of a relay.
///
/// Displayed with its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeUrl {
    /// A name in lower case, or an IP address without brackets.
    pub host: String,
    /// 12149 unless the URL says otherwise.
    pub port: u16,
}

impl BridgeUrl {
    /// Parses `wss://HOST[:PORT]`; a single slash may follow. An IPv6 address stands in brackets.
    ///
    /// # Errors The fault, to be shown after the text.
    pub fn parse(text: &str) -> Result<BridgeUrl, String> {
        let form = "write wss://HOST or wss://HOST:PORT";
        let Some(rest) = text.strip_prefix("wss://") else {
            return Err(format!("does not begin with wss://: {form}"));
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(format!("has more than a host and a port: {form}"));
        }
        let (host, port) = split_port(authority);
        if host.contains(':') && !host.starts_with('[') {
            return Err("has an IPv6 address that does not stand in brackets".to_owned());
        }
        let port = match port {
            None => BRIDGE_PORT,
            Some(digits) => port_number(digits).ok_or("has no port from 1 to 65535")?,
        };
        Ok(BridgeUrl { host: host_name(host)?, port })
    }
}

impl fmt::Display for BridgeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "wss://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "wss://{}:{}", self.host, self.port)
        }
    }
}

/// Parses the SHA-256 fingerprint of a certificate; returns 64 lower-case hexadecimal digits.
/// Colons between them, upper case and a leading `sha256:` are accepted.
///
/// # Errors The fault, to be shown after the text.
pub fn fingerprint(text: &str) -> Result<String, String> {
    let digits = match text.get(..7) {
        Some(prefix) if prefix.eq_ignore_ascii_case("sha256:") => &text[7..],
        Some(_) | None => text,
    };
    let plain: String = digits.chars().filter(|c| *c != ':').collect();
    if plain.len() == 64 && plain.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(plain.to_ascii_lowercase())
    } else {
        Err("is not a SHA-256 fingerprint: 64 hexadecimal digits, as `sysadm-events fingerprint` \
             prints them"
            .to_owned())
    }
}

/// Parses a DNS name, returned in lower case, or an IP address, which may stand in brackets.
///
/// # Errors The fault, to be shown after the text.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let labels: Vec<&str> = text.split('.').collect();
    // A numeric last label would be an IPv4 address, which was not parseable.
    let numeric = labels.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if text.len() <= 253 && labels.iter().all(|label| is_label(label)) && !numeric {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("is not a host name or IP address".to_owned())
    }
}

/// RFC 1123, section 2.1; also the underscore, which is used in practice.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The host, and the text after the colon that follows it.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[host_end..].rfind(':') {
        Some(colon) => (&authority[..host_end + colon], Some(&authority[host_end + colon + 1..])),
        None => (authority, None),
    }
}

fn port_number(digits: &str) -> Option<u16> {
    decimal(digits).filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<String, String> {
        BridgeUrl::parse(text).map(|url| url.to_string())
    }

    #[test]
    fn a_url_is_a_host_and_perhaps_a_port() {
        assert_eq!(url("wss://Bridge.Example.org").unwrap(), "wss://bridge.example.org:12149");
        assert_eq!(url("wss://bridge:1/").unwrap(), "wss://bridge:1");
        assert_eq!(url("wss://192.0.2.7:443").unwrap(), "wss://192.0.2.7:443");
        assert_eq!(url("wss://[2001:DB8::1]").unwrap(), "wss://[2001:db8::1]:12149");
        assert_eq!(url("wss://[::1]:8080").unwrap(), "wss://[::1]:8080");
        assert_eq!(BridgeUrl::parse("wss://[::1]:8080").unwrap().host, "::1");
    }

    #[test]
    fn any_other_url_is_refused() {
        for text in [
            "",
            "bridge",
            "ws://bridge",
            "https://bridge",
            "wss://",
            "wss:///",
            "wss://:12149",
            "wss://b:",
            "wss://b:0",
            "wss://b:65536",
            "wss://b:+1",
            "wss://b:x",
            "wss://b/path",
            "wss://b//",
            "wss://me@b",
            "wss://b?x",
            "wss://b#x",
            "wss://a b",
            "wss://-b",
            "wss://2001:db8::1",
            "wss://2001:db8::1:443",
            "wss://[::1",
            "wss://[b]",
            "wss://300.1.1.1",
            "wss://b..c",
        ] {
            assert!(BridgeUrl::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn fingerprints_become_plain_lower_case() {
        let plain = "0123456789abcdef".repeat(4);
        let colons: Vec<String> =
            plain.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into()).collect();
        assert_eq!(fingerprint(&plain).as_ref(), Ok(&plain));
        assert_eq!(fingerprint(&plain.to_uppercase()).as_ref(), Ok(&plain));
        assert_eq!(fingerprint(&format!("sha256:{plain}")).as_ref(), Ok(&plain));
        assert_eq!(fingerprint(&format!("SHA256:{}", colons.join(":"))).as_ref(), Ok(&plain));
    }

    #[test]
    fn any_other_fingerprint_is_refused() {
        let plain = "0123456789abcdef".repeat(4);
        for text in ["", "sha256:", &plain[1..], &format!("{plain}0"), &plain.replace('0', "g")] {
            assert!(fingerprint(text).is_err(), "{text:?} was taken");
        }
        assert!(fingerprint(&"é".repeat(32)).is_err());
    }
}

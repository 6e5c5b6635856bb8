//! Origin check: only web pages of this host may connect.
//!
//! A browser lets any page open a WebSocket to any address, including loopback, and sends the
//! page's `Origin`. Other programs send none, or a bare word. It is never compared with `Host`: DNS
//! rebinding gives a page control over both.

use std::net::{IpAddr, SocketAddr};

use crate::wire::decimal;

/// Host names and addresses of allowed origins.
#[derive(Clone, Debug, Default)]
pub struct AllowedOrigins {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl AllowedOrigins {
    /// Names from the configuration and of the host, and listening addresses.
    pub fn new<'a>(
        names: impl IntoIterator<Item = &'a str>,
        listeners: impl IntoIterator<Item = SocketAddr>,
    ) -> AllowedOrigins {
        AllowedOrigins {
            names: names.into_iter().map(str::to_ascii_lowercase).collect(),
            addresses: listeners
                .into_iter()
                .map(|listener| listener.ip())
                .filter(|address| !address.is_unspecified())
                .collect(),
        }
    }

    /// Whether a client with this `Origin` may connect. `localhost` is allowed where only this host
    /// can have connected: `on_loopback`.
    pub fn allows(&self, origin: Option<&str>, on_loopback: bool) -> bool {
        let Some(origin) = origin else { return true };
        let Some((scheme, rest)) = origin.split_once("://") else {
            return origin != "null" && is_bare_word(origin);
        };
        // Browsers send no slash; some WebSocket libraries do.
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let host = match rest.split_once(']') {
            Some((address, port)) if is_port(port) => address.strip_prefix('[').unwrap_or(""),
            Some(_) => return false,
            None => match rest.split_once(':') {
                Some((host, port)) if is_port(&rest[host.len()..]) && !port.is_empty() => host,
                Some(_) => return false,
                None => rest,
            },
        };
        match host.parse::<IpAddr>() {
            Ok(address) => self.addresses.contains(&address) || self.names(host),
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                let is_web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
                on_loopback && is_web || self.names(host)
            }
            Err(_) => self.names(host),
        }
    }

    fn names(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

fn is_bare_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether the text is empty, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| decimal::<u16>(port).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_pages_and_programs_are_allowed() {
        let listeners = ["127.0.0.1:12150", "[::1]:12150", "0.0.0.0:1"].map(|a| a.parse().unwrap());
        let origins = AllowedOrigins::new(["nas.example.org", "nas"], listeners);
        for good in [
            "sysadm-client",
            "sysadm-server",
            "https://nas.example.org",
            "https://NAS:8443",
            "http://127.0.0.1:8080",
            "http://[::1]",
            "http://[::1]:99",
            "http://127.0.0.1:8080/",
            "https://nas.example.org/",
            "http://[::1]/",
        ] {
            assert!(origins.allows(Some(good), false), "{good}");
        }
        assert!(origins.allows(None, false));
        for bad in [
            "null",
            "",
            "https://evil.example",
            "https://nas.example.org.evil.example",
            "https://evil.example/nas",
            "https://nas@evil.example",
            "https://evil.example:nas",
            "https://nas:+443",
            "http://[::1]:+99",
            "https://nas:99999",
            "http://0.0.0.0",
            "http://[::1].evil.example",
            "http://localhost.",
            "http://localhost.evil.example",
            "http://localhost:x",
            "http://localhost//",
            "file://localhost",
            "https://nas/x/",
            "https://nas//",
            "https://",
            "https:///",
            "nas/",
            "two words",
            "file:///etc",
        ] {
            assert!(!origins.allows(Some(bad), true), "{bad}");
        }
    }

    #[test]
    fn localhost_is_allowed_on_loopback_only_or_by_name() {
        let origins = AllowedOrigins::new(["nas"], ["127.0.0.1:12150".parse().unwrap()]);
        for origin in
            ["http://localhost", "https://LOCALHOST:8443", "http://localhost:12150/"].map(Some)
        {
            assert!(origins.allows(origin, true), "{origin:?}");
            assert!(!origins.allows(origin, false), "{origin:?}");
        }
        assert!(AllowedOrigins::new(["localhost"], []).allows(Some("http://localhost"), false));
    }
}

//! Delivery to a webhook.

use std::io::Read;
use std::sync::Arc;

use ureq::http::{self, Request, Response, Uri};
use ureq::tls::{TlsConfig, TlsProvider};
use ureq::{Agent, Body, Proxy};
use zeroize::Zeroizing;

use super::{failed, secret, trust};
use crate::notify::{
    Delivered, Format, HttpRequest, Payload, Target, Webhook, ping, request, shown, signature,
    with_suffix,
};
use crate::sys::may_block::MayBlock;
use crate::wording::without_errno;

/// Bytes of a reply that are read; the rest is not.
const REPLY: u64 = 4096;
/// Bytes of the header of a reply at most.
const HEADER: usize = 32 * 1024;
/// Redirects to the same host that are followed.
const REDIRECTS: usize = 3;
/// A shorter text is not replaced in messages: it would be found everywhere.
const SHORTEST_SECRET: usize = 6;

/// Sends a message or a ping, and returns what came back.
pub(super) fn deliver(
    target: &Target,
    url: &Webhook,
    format: Format,
    payload: &Payload,
    may_block: MayBlock,
) -> Delivered {
    let request = match payload {
        Payload::Message(message) => request(format, message),
        Payload::Ping(state) => ping(state),
    };
    let mut secrets = Secrets::of_url(url);
    match try_deliver(target, url, &request, &mut secrets, may_block) {
        Ok(Delivered::Accepted(reply)) => Delivered::Accepted(shown(&secrets.hide(&reply))),
        Ok(Delivered::Failed { why, retry_after, refused }) => {
            Delivered::Failed { why: shown(&secrets.hide(&why)), retry_after, refused }
        }
        Err(why) => failed(&secrets.hide(&why)),
    }
}

/// Texts that no message may contain: a target may send them back.
struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    fn of_url(url: &Webhook) -> Secrets {
        let path = url.url().get(url.origin().len()..).unwrap_or_default();
        let mut secrets = Secrets(Vec::new());
        secrets.add(path.trim_matches('/'));
        path.split(['/', '?', '&', '=']).for_each(|part| secrets.add(part));
        secrets
    }

    fn add(&mut self, text: &str) {
        for part in std::iter::once(text).chain(text.split(' ')) {
            if part.len() >= SHORTEST_SECRET && part != "Bearer" {
                self.0.push(Zeroizing::new(part.to_owned()));
            }
        }
    }

    fn hide(&self, text: &str) -> String {
        let hide = |text: String, secret: &Zeroizing<String>| text.replace(secret.as_str(), "***");
        self.0.iter().fold(text.to_owned(), hide)
    }
}

fn try_deliver(
    target: &Target,
    url: &Webhook,
    request: &HttpRequest,
    secrets: &mut Secrets,
    may_block: MayBlock,
) -> Result<Delivered, String> {
    let mut headers: Vec<(String, Zeroizing<String>)> = Vec::new();
    for (name, value) in &request.headers {
        headers.push(((*name).to_owned(), Zeroizing::new(value.clone())));
    }
    if let Some(path) = &target.headers_file {
        let text = secret::read(path, may_block)?;
        let own = secret::headers(&text, path)?;
        own.iter().for_each(|(_, value)| secrets.add(value));
        // A header of the file replaces one of the format.
        headers.retain(|(name, _)| !own.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
        headers.extend(own);
    }
    if let Some(path) = &target.secret_file {
        let secret = secret::read(path, may_block)?;
        let signature = signature(&secret, &request.body);
        headers.push(("x-sysadm-events-signature".to_owned(), Zeroizing::new(signature)));
    }
    let agent = agent(target, url, may_block)?;
    let mut address = with_suffix(url.url(), &request.suffix);
    for _ in 0..=REDIRECTS {
        let mut builder = Request::builder().method(request.method).uri(&address);
        for (name, value) in &headers {
            builder = builder.header(name.as_str(), value.as_bytes());
        }
        let sent = builder.body(request.body.clone());
        let sent = sent.map_err(|error| format!("cannot make the request: {error}"))?;
        let reply = agent.run(sent).map_err(|error| describe(url, &error))?;
        match redirect(&reply, &address) {
            None => return Ok(outcome(url, reply)),
            Some(Ok(next)) => address = next,
            Some(Err(why)) => return Err(format!("{url}: {why}")),
        }
    }
    Err(format!("{url}: more than {REDIRECTS} redirects"))
}

fn agent(target: &Target, url: &Webhook, may_block: MayBlock) -> Result<Agent, String> {
    let proxy = match &target.proxy {
        Some(proxy) => Some(
            Proxy::new(proxy.url())
                .map_err(|error| format!("cannot use proxy {proxy}: {error}"))?,
        ),
        None => None,
    };
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_response_header_size(HEADER)
        .user_agent(concat!("sysadm-events/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy);
    if url.is_encrypted() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(trust::roots(target.ca_file.as_deref(), may_block)?)
            .build();
        config = config.tls_config(tls);
    }
    Ok(config.build().into())
}

/// Where a redirect leads that keeps method and body: on the same host only, since a header may
/// have a secret in it.
fn redirect(reply: &Response<Body>, from: &str) -> Option<Result<String, String>> {
    let status = reply.status().as_u16();
    if !(300..400).contains(&status) {
        return None;
    }
    let location = reply.headers().get(http::header::LOCATION)?.to_str().ok()?;
    let from: Uri = from.parse().ok()?;
    let origin = |uri: &Uri| {
        Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?.as_str().to_ascii_lowercase()))
    };
    let own = origin(&from)?;
    let next = if location.starts_with('/') && !location.starts_with("//") {
        format!("{own}{location}")
    } else {
        location.to_owned()
    };
    let next_uri: Option<Uri> = next.parse().ok();
    let next_origin = next_uri.as_ref().and_then(origin);
    Some(match next_origin {
        Some(other) if other == own && matches!(status, 307 | 308) => Ok(next),
        Some(other) if other == own => Err(format!(
            "status {status}: a redirect that would lose the message; set webhook to the new address"
        )),
        Some(other) => Err(format!(
            "status {status}: a redirect to {other} is not followed; set webhook to it if that is right"
        )),
        None => Err(format!("status {status}: a redirect to no address")),
    })
}

fn outcome(url: &Webhook, mut reply: Response<Body>) -> Delivered {
    let status = reply.status();
    let retry_after = reply
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let mut body = Vec::new();
    // The status has been received: a body that breaks off changes nothing.
    let _ = reply.body_mut().as_reader().take(REPLY).read_to_end(&mut body);
    let body = String::from_utf8_lossy(&body);
    let first = body.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let number = status.as_u16();
    let text = match first {
        "" => format!("{url}: status {number}"),
        first => format!("{url}: status {number}: {first}"),
    };
    if status.is_success() {
        return Delivered::Accepted(text);
    }
    let refused = matches!(status.as_u16(), 400 | 413 | 414 | 422);
    Delivered::Failed { why: text, retry_after, refused }
}

fn describe(url: &Webhook, error: &ureq::Error) -> String {
    let why = match error {
        ureq::Error::Io(error) => without_errno(&error.to_string()).into_owned(),
        ureq::Error::HostNotFound => format!("the name {} has no address", url.host()),
        other => other.to_string(),
    };
    format!("{url}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, location: &str) -> Response<Body> {
        let builder = Response::builder().status(status).header("location", location);
        builder.body(Body::builder().data("")).unwrap()
    }

    #[test]
    fn redirect_is_followed_on_the_same_host_only() {
        let from = "https://a.example:8443/x/secret";
        let rows = [
            (200, "/y", None),
            (307, "/y", Some(Ok("https://a.example:8443/y"))),
            (308, "https://A.example:8443/z", Some(Ok("https://A.example:8443/z"))),
            (307, "https://a.example/z", Some(Err("redirect to https://a.example is not"))),
            (307, "http://a.example:8443/z", Some(Err("redirect to http://a.example:8443 is"))),
            (308, "//evil.example/z", Some(Err("redirect to no address"))),
            (301, "/y", Some(Err("would lose the message"))),
        ];
        for (status, location, expected) in rows {
            match (redirect(&reply(status, location), from), expected) {
                (None, None) => {}
                (Some(Ok(next)), Some(Ok(wanted))) => assert_eq!(next, wanted),
                (Some(Err(why)), Some(Err(part))) => assert!(why.contains(part), "{why}"),
                (got, _) => panic!("{status} {location}: {got:?}"),
            }
        }
    }

    #[test]
    fn secrets_are_hidden_in_replies() {
        let url = Webhook::parse("https://hooks.example/services/T0001/B0002/XXXXXX?token=abcdef")
            .unwrap();
        let mut secrets = Secrets::of_url(&url);
        secrets.add("Bearer tk_12345678");
        let hidden = secrets.hide("no /services/T0001/B0002/XXXXXX with abcdef for tk_12345678");
        for part in ["XXXXXX", "abcdef", "tk_1234"] {
            assert!(!hidden.contains(part), "{hidden}");
        }
    }
}

//! Conversions of one TOML value, one function per type of key.
//!
//! Those that take a [`DeValue`] check types; those that take a text parse one form, and return the
//! fault to be shown after that text.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use super::spelling;
use super::units::{Unreadable, parse_duration, parse_size, show_duration, show_size};

/// Maximum length of the path of a Unix socket: FreeBSD's `sun_path` has 104 bytes with its NUL,
/// unix(4); Linux has 108.
const SOCKET_PATH: usize = 103;

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    match value {
        DeValue::Boolean(it) => Ok(*it),
        other => Err(format!("true or false is wanted, not {}", kind(other))),
    }
}

/// A whole number.
pub(super) fn count(
    bounds: RangeInclusive<usize>,
) -> impl Fn(&DeValue<'_>) -> Result<usize, String> {
    move |value| match value {
        DeValue::Integer(integer) => within(number(integer), &bounds, usize::to_string)
            .map_err(|wanted| format!("{integer} {wanted}")),
        other => Err(format!("a whole number is wanted, not {}", kind(other))),
    }
}

/// Bytes, as a text with a unit or as a plain number.
pub(super) fn size(
    bounds: RangeInclusive<usize>,
) -> impl Fn(&DeValue<'_>) -> Result<usize, String> {
    let show = |size: &usize| show_size(*size);
    move |value| match value {
        DeValue::Integer(integer) => {
            within(number(integer), &bounds, show).map_err(|wanted| format!("{integer} {wanted}"))
        }
        DeValue::String(text) => {
            let size = match parse_size(text) {
                Ok(size) => Some(size),
                Err(Unreadable::TooLarge) => None,
                Err(Unreadable::Form) => {
                    let form = "a whole number and B, KiB, MiB or GiB, like \"64KiB\"";
                    return Err(format!("{} is not a size: write {form}", quoted(text)));
                }
            };
            within(size, &bounds, show).map_err(|wanted| format!("{} {wanted}", quoted(text)))
        }
        other => Err(format!("a size like \"64KiB\" is wanted, not {}", kind(other))),
    }
}

/// A time span, as a text with a unit.
pub(super) fn duration(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, String> {
    move |value| match value {
        DeValue::String(text) => {
            let duration = match parse_duration(text) {
                Ok(duration) => Some(duration),
                Err(Unreadable::TooLarge) => None,
                Err(Unreadable::Form) => {
                    let form = "a whole number and ms, s, m, h or d, like \"30s\"";
                    return Err(format!("{} is not a duration: write {form}", quoted(text)));
                }
            };
            within(duration, &bounds, |it| show_duration(*it))
                .map_err(|wanted| format!("{} {wanted}", quoted(text)))
        }
        other => Err(format!("a duration like \"30s\" is wanted, not {}", kind(other))),
    }
}

/// A text parsed by `parse`.
pub(super) fn text<T>(
    form: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| match value {
        DeValue::String(text) => form(text).map_err(|fault| format!("{} {fault}", quoted(text))),
        other => Err(format!("a text in quotes is wanted, not {}", kind(other))),
    }
}

/// A text parsed by `parse`, or the empty one for none.
pub(super) fn optional<T>(
    form: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&DeValue<'_>) -> Result<Option<T>, String> {
    text(move |text| if text.is_empty() { Ok(None) } else { form(text).map(Some) })
}

/// One of a few words.
pub(super) fn one_of<T: Copy, const N: usize>(
    words: [(&'static str, T); N],
) -> impl Fn(&str) -> Result<T, String> {
    move |text| match words.iter().find(|(word, _)| *word == text) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let near = spelling::nearest(text, words.iter().map(|(word, _)| *word));
            let advice = match near.filter(|near| near.close) {
                Some(near) => format!("; did you mean \"{}\"?", near.name),
                None => String::new(),
            };
            Err(format!("is none of {}{advice}", known.join(", ")))
        }
    }
}

/// An absolute path: a daemon has no meaningful working directory.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    if text.chars().any(char::is_control) {
        return Err("has a control character".to_owned());
    }
    if !Path::new(text).is_absolute() {
        return Err("is not an absolute path: begin it with /".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// A path that fits into the address of a Unix socket.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > SOCKET_PATH {
        let length = text.len();
        return Err(format!("has {length} bytes: a socket's path has at most {SOCKET_PATH}"));
    }
    absolute_path(text)
}

/// Permissions in octal digits.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let octal = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        Ok(_) | Err(_) => Err("is not a mode: write octal digits, \"0000\" to \"0777\"".to_owned()),
    }
}

/// A numeric address with its port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let Ok(address) = text.parse::<SocketAddr>() else {
        let form = "write a numeric one with its port, like \"127.0.0.1:12150\" or \"[::1]:12150\"";
        return Err(format!("is not an address: {form}"));
    };
    match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Err("is an IPv4 address in IPv6 clothes: write it as IPv4".to_owned())
        }
        ip if ip.is_multicast() => Err("is a multicast address".to_owned()),
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(address),
    }
}

/// The address of a listener without TLS.
pub(super) fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("is not a loopback address: without TLS there is nothing else; use listen".to_owned())
    }
}

/// A group of the host.
pub(super) fn group(text: &str) -> Result<String, String> {
    name(text, 256, &[':', ',']).map_err(|fault| format!("is not the name of a group: {fault}"))
}

/// An account of the host.
pub(super) fn account(text: &str) -> Result<String, String> {
    name(text, 256, &[':', '/']).map_err(|fault| format!("is not the name of a user: {fault}"))
}

/// The name of a link.
pub(super) fn link_name(text: &str) -> Result<String, String> {
    name(text, 64, &[]).map_err(|fault| format!("is not the name of a link: {fault}"))
}

/// The name of a target of notifications, which is a part of the key of an alert.
pub(super) fn target_name(text: &str) -> Result<String, String> {
    name(text, 64, &['/', '*'])
        .map_err(|fault| format!("is not the name of a notification: {fault}"))
}

/// The name of a queue of jobs.
pub(super) fn queue_name(text: &str) -> Result<String, String> {
    match text {
        "no_queue" => Err("stands for jobs without a queue, which run at once".to_owned()),
        text => name(text, 128, &[]).map_err(|why| format!("is not the name of a queue: {why}")),
    }
}

/// A PAM service. `login` and `system` have rules (`pam_self`, empty passwords) that admit users
/// without authentication.
pub(super) fn pam_service(text: &str) -> Result<String, String> {
    if text == "login" || text == "system" {
        return Err("admits users without a password: use a separate service".to_owned());
    }
    name(text, 64, &['/', ' ']).map_err(|fault| format!("is not the name of a service: {fault}"))
}

/// A program: an absolute path, or a name to be looked up.
pub(super) fn program(text: &str) -> Result<PathBuf, String> {
    if text.contains('/') {
        return absolute_path(text);
    }
    name(text, 255, &[]).map(PathBuf::from).map_err(|fault| format!("is not a program: {fault}"))
}

/// A text for a message: in quotes, without control characters, of bounded length.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The type of a value, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn name(text: &str, longest: usize, without: &[char]) -> Result<String, String> {
    if text.trim() != text || text.is_empty() {
        return Err("it is empty or has blanks around it".to_owned());
    }
    if text.len() > longest {
        return Err(format!("it has {} bytes, at most {longest} are possible", text.len()));
    }
    match text.chars().find(|c| c.is_control() || without.contains(c)) {
        Some(c) => Err(format!("it has {c:?} in it")),
        None => Ok(text.to_owned()),
    }
}

/// `None` where `usize` cannot hold it.
fn number(integer: &DeInteger<'_>) -> Option<usize> {
    usize::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The quantity if it lies within the bounds; `None` is one that is negative or too large.
fn within<T: PartialOrd>(
    quantity: Option<T>,
    bounds: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    quantity.filter(|it| bounds.contains(it)).ok_or_else(|| {
        format!("is out of bounds: {} to {}", show(bounds.start()), show(bounds.end()))
    })
}

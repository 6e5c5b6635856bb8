//! Delivery of one notification, in a child of the daemon: a mail program, a webhook or a command
//! may take long, or hang.
//!
//! There is one child for each delivery. It has the message in its memory from the fork on, blocks as
//! it likes, writes its outcome and ends: nothing runs while nothing is delivered. It has no clock:
//! the daemon kills its session at the deadline. Secrets are read here, for each delivery anew, and
//! are never in the memory of the daemon.

mod command;
mod http;
mod secret;
mod trust;

use std::path::Path;
use std::time::SystemTime;

use crate::notify::{Delivered, Delivery, Destination, Payload, json_line, mail, shown};
use crate::sys::may_block::MayBlock;

/// Delivers; blocks for as long as the other side likes.
pub fn deliver(delivery: &Delivery, may_block: MayBlock) -> Delivered {
    // A library might log addresses and headers, which are secrets.
    log::set_max_level(log::LevelFilter::Off);
    let target = &delivery.target;
    let accepted = match (&target.destination, &delivery.payload) {
        (Destination::Webhook { url, format }, payload) => {
            return http::deliver(target, url, *format, payload, may_block);
        }
        (Destination::Mail { to, sendmail }, Payload::Message(message)) => {
            let text = mail(message, to, &mail_date(SystemTime::now()));
            command::run(sendmail, &["-t", "-oi"], text.as_bytes())
        }
        (Destination::Command(argv), Payload::Message(message)) => match argv.split_first() {
            Some((program, arguments)) => {
                command::run(Path::new(program), arguments, &json_line(message))
            }
            None => Err("no command is configured".to_owned()),
        },
        // Only webhooks are pinged.
        (Destination::Mail { .. } | Destination::Command(_), Payload::Ping(_)) => Ok(String::new()),
    };
    match accepted {
        Ok(reply) => Delivered::Accepted(reply),
        Err(why) => failed(&why),
    }
}

fn failed(why: &str) -> Delivered {
    Delivered::Failed { why: shown(why), retry_after: None, refused: false }
}

/// A date of RFC 5322, in UTC.
fn mail_date(moment: SystemTime) -> String {
    let moment = time::OffsetDateTime::from(moment);
    moment.format(&time::format_description::well_known::Rfc2822).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn date_of_a_mail_is_of_rfc_5322() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_914_300);
        assert_eq!(mail_date(moment), "Sun, 29 Nov 2026 01:05:00 +0000");
    }
}

//! Events of a daemon, across reconnections.
//!
//! A daemon restarts, a host sleeps, a network is down. So the position in the stream is tracked,
//! the connection is re-established with back-off, and the daemon is asked for missed events. If it
//! no longer has them it sends a `gap`, which is passed on like any other event.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::pace::Pace;
use super::stream::pause;
use super::{Client, ClientError, Frame, Incoming, Target, Timeouts, Wait};

/// An item of the feed.
#[derive(Debug)]
pub enum News {
    /// A message, or another reason for the end of the wait.
    Incoming(Incoming),
    /// The connection is lost; reconnection is in progress.
    Lost(ClientError),
    /// Reconnected and subscribed.
    Back,
}

/// Position in a stream of events.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct StreamPosition {
    /// The run of the daemon.
    pub epoch: String,
    /// The number of the last event.
    pub seq: u64,
}

/// A subscription that survives its connections.
pub struct Feed {
    target: Target,
    timeouts: Timeouts,
    /// Arguments of `events/subscribe`, without `since`; `None` without a subscription.
    subscription: Option<Map<String, Value>>,
    place: Option<StreamPosition>,
    client: Option<Client>,
    pace: Pace,
}

impl Feed {
    /// Connects and subscribes; failures are not retried. `subscription` is the object form of a
    /// subscription; with `since` it starts after that position.
    pub fn begin(
        target: Target,
        subscription: Map<String, Value>,
        since: Option<StreamPosition>,
    ) -> Result<Feed, ClientError> {
        let mut feed = Feed::connect(target)?;
        (feed.subscription, feed.place) = (Some(subscription), since);
        feed.subscribe()?;
        Ok(feed)
    }

    /// Connects without a subscription; failures are not retried.
    pub fn connect(target: Target) -> Result<Feed, ClientError> {
        let timeouts = Timeouts::default();
        let client = Some(Client::connect_within(&target, timeouts)?);
        let (subscription, place) = (None, None);
        Ok(Feed { target, timeouts, subscription, place, client, pace: Pace::new() })
    }

    /// The connection, while there is one.
    pub fn client(&mut self) -> Option<&mut Client> {
        self.client.as_mut()
    }

    /// The next item. Only permanent failures are errors.
    pub fn next(&mut self, wait: &Wait<'_>) -> Result<News, ClientError> {
        let Some(client) = &mut self.client else { return self.connect_again(wait) };
        match client.next(wait) {
            Ok(Incoming::Event(frame)) => {
                self.follow(&frame);
                Ok(News::Incoming(Incoming::Event(frame)))
            }
            Ok(incoming) => Ok(News::Incoming(incoming)),
            Err(error) => self.lose(error).map(News::Lost),
        }
    }

    /// Drops the connection for the reason `error`; returns an error if reconnecting is useless.
    pub fn lose(&mut self, error: ClientError) -> Result<ClientError, ClientError> {
        self.client = None;
        self.pace.is_lost();
        if error.may_pass() { Ok(error) } else { Err(error) }
    }

    fn follow(&mut self, frame: &Frame) {
        // An event of the original server has no position, so nothing can be resumed.
        if self.subscription.is_some()
            && let Ok(place) = serde_json::from_str(frame.text())
        {
            self.place = Some(place);
        }
    }

    fn subscribe(&mut self) -> Result<(), ClientError> {
        let Some(mut subscription) = self.subscription.clone() else { return Ok(()) };
        if let Some(place) = &self.place {
            let since = json!({ "epoch": place.epoch, "seq": place.seq });
            subscription.insert("since".to_owned(), since);
        }
        let Some(client) = &mut self.client else { return Ok(()) };
        let reply = client.call("events", "subscribe", Value::Object(subscription))?;
        if self.place.is_none() {
            self.place = StreamPosition::deserialize(&reply).ok();
        }
        Ok(())
    }

    fn connect_again(&mut self, wait: &Wait<'_>) -> Result<News, ClientError> {
        if let Some(ended) = pause(wait.wake, [Some(self.pace.retry()), wait.deadline])? {
            return Ok(News::Incoming(ended));
        }
        if self.pace.retry() > Instant::now() {
            return Ok(News::Incoming(Incoming::Nothing));
        }
        let connected = Client::connect_within(&self.target, self.timeouts).and_then(|client| {
            self.client = Some(client);
            self.subscribe()
        });
        match connected {
            Ok(()) => {
                self.pace.is_back();
                Ok(News::Back)
            }
            Err(error) if error.may_pass() => {
                self.client = None;
                self.pace.wait_longer();
                Ok(News::Incoming(Incoming::Nothing))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_and_reply_have_a_position() {
        let place = |text: &str| serde_json::from_str::<StreamPosition>(text).ok();
        let at = Some(StreamPosition { epoch: "e".into(), seq: 7 });
        assert_eq!(place(r#"{"name":"x","seq":7,"epoch":"e","args":{"seq":"1"}}"#), at);
        assert_eq!(place(r#"{"name":"x","args":{}}"#), None);
    }
}

//! Events of a daemon, over as many connections as it takes.
//!
//! A daemon is restarted, a host sleeps, a network goes away. Whoever follows events wants to go on
//! where it was: so the place in the stream is kept, the connection is made again at growing
//! intervals, and the daemon is asked for what was missed. If it cannot tell that, it says so by a
//! `gap`, which is an event here like any other.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::pace::Pace;
use super::stream::pause;
use super::{Client, ClientError, Frame, Incoming, Target, Timeouts, Wait};

/// Something from the feed.
#[derive(Debug)]
pub enum News {
    /// A message, or what else ended the wait.
    Incoming(Incoming),
    /// The connection is lost; it is made again as soon as that is possible.
    Lost(ClientError),
    /// There is a connection again, and the subscription is made.
    Back,
}

/// Where a stream of events is.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Place {
    /// The run of the daemon.
    pub epoch: String,
    /// The number of the last event.
    pub seq: u64,
}

/// A subscription that outlives its connections.
pub struct Feed {
    target: Target,
    timeouts: Timeouts,
    /// Of `events/subscribe`, without `since`; `None` for a conversation without subscription.
    subscription: Option<Map<String, Value>>,
    place: Option<Place>,
    client: Option<Client>,
    pace: Pace,
}

impl Feed {
    /// Connects and subscribes; what fails now is not tried again. `subscription` is the object form
    /// of a subscription; with `since` it begins behind that place.
    pub fn begin(
        target: Target,
        subscription: Map<String, Value>,
        since: Option<Place>,
    ) -> Result<Feed, ClientError> {
        let mut feed = Feed::connect(target)?;
        (feed.subscription, feed.place) = (Some(subscription), since);
        feed.subscribe()?;
        Ok(feed)
    }

    /// Connects without a subscription; what fails now is not tried again.
    pub fn connect(target: Target) -> Result<Feed, ClientError> {
        let timeouts = Timeouts::default();
        let client = Some(Client::connect_within(&target, timeouts)?);
        let (subscription, place) = (None, None);
        Ok(Feed { target, timeouts, subscription, place, client, pace: Pace::new() })
    }

    /// The conversation, while there is one.
    pub fn client(&mut self) -> Option<&mut Client> {
        self.client.as_mut()
    }

    /// What comes next. Only what no other try can mend is an error.
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

    /// The connection is of no use any more, for the reason `error`; an error where another one
    /// would not be either.
    pub fn lose(&mut self, error: ClientError) -> Result<ClientError, ClientError> {
        self.client = None;
        self.pace.is_lost();
        if error.may_pass() { Ok(error) } else { Err(error) }
    }

    fn follow(&mut self, frame: &Frame) {
        // An event of an old server has no place, and then there is nothing to go on from.
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
            self.place = Place::deserialize(&reply).ok();
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
    fn an_event_and_a_reply_tell_the_place() {
        let place = |text: &str| serde_json::from_str::<Place>(text).ok();
        let at = Some(Place { epoch: "e".into(), seq: 7 });
        assert_eq!(place(r#"{"name":"x","seq":7,"epoch":"e","args":{"seq":"1"}}"#), at);
        assert_eq!(place(r#"{"name":"x","args":{}}"#), None);
    }
}

//! Events, and the frames that carry them.
//!
//! An event is published once for all subscribers. It is encoded at most once per spelling:
//! subscribers share the bytes.

use std::cell::{OnceCell, RefCell};
use std::rc::{Rc, Weak};

use serde_json::{Map, Value, json};

use super::job_event::JobEvent;
use super::priority::Priority;

/// Names of subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventName {
    /// Jobs.
    Dispatcher,
    /// Snapshots and replications.
    LifePreserver,
    /// Host name and pools.
    SystemState,
    /// Alerts: each transition, and for a new subscriber all active ones.
    Alert,
    /// Notices of scripts.
    Notice,
}

impl EventName {
    /// All of them, in documented order.
    pub const ALL: [EventName; 5] = [
        EventName::Dispatcher,
        EventName::LifePreserver,
        EventName::SystemState,
        EventName::Alert,
        EventName::Notice,
    ];
    /// Those of the original server.
    pub const ORIGINAL: [EventName; 3] =
        [EventName::Dispatcher, EventName::LifePreserver, EventName::SystemState];

    /// The name in a subscription.
    pub const fn canonical(self) -> &'static str {
        match self {
            EventName::Dispatcher => "dispatcher",
            EventName::LifePreserver => "life-preserver",
            EventName::SystemState => "system-state",
            EventName::Alert => "alert",
            EventName::Notice => "notice",
        }
    }

    /// The name in an event, as specified.
    pub const fn in_event(self) -> &'static str {
        match self {
            EventName::Dispatcher => "dispatcher",
            EventName::LifePreserver => "life_preserver",
            EventName::SystemState => "system_state",
            EventName::Alert => "alert",
            EventName::Notice => "notice",
        }
    }

    /// Parses the name in a subscription; underscores are equivalent to hyphens.
    pub fn parse(text: &str) -> Option<EventName> {
        let text = text.replace('_', "-");
        EventName::ALL.into_iter().find(|name| name.canonical().eq_ignore_ascii_case(&text))
    }
}

/// An event.
#[derive(Clone, Debug)]
pub enum Event {
    /// About a job.
    Job(JobEvent),
    /// About a snapshot or replication.
    LifePreserver(LifePreserverEvent),
    /// About the host or a pool.
    SystemState(SystemStateEvent),
    /// To a queue of jobs. Only subscribers of the extended form get it.
    Queue(QueueEvent),
    /// A transition of an alert.
    Alert(AlertEvent),
    /// From a script, without an alert.
    Notice(NoticeEvent),
}

/// A transition of an alert, as it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertEvent {
    /// Key of the alert.
    pub key: String,
    /// Its priority.
    pub priority: Priority,
    /// The `args`, as JSON text.
    pub args: String,
}

/// A message of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoticeEvent {
    /// The text.
    pub message: String,
    /// Its priority.
    pub priority: Priority,
    /// User who sent it.
    pub source: String,
    /// Class that the script gave.
    pub class: Option<String>,
}

/// A queue was paused or resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEvent {
    /// Its name.
    pub queue: String,
    /// No job of it starts; else jobs start again.
    pub paused: bool,
    /// User who did it.
    pub by: Option<String>,
}

/// An event from a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifePreserverEvent {
    /// The text, preceded by its time stamp.
    pub message: String,
    /// Its priority.
    pub priority: Priority,
    /// `snapshot` or `replication`.
    pub class: &'static str,
}

/// The complete state of the system.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemStateEvent {
    /// As in section 2.3 of the protocol, without the overall priority and the news.
    pub args: Map<String, Value>,
    /// The highest priority in it.
    pub priority: Priority,
    /// News, published once: later clients get the state without them.
    pub news: StateNews,
}

/// News in a state: additional `args`, and their priority.
#[derive(Clone, Debug, PartialEq)]
pub struct StateNews {
    args: Map<String, Value>,
    priority: Priority,
}

impl Default for StateNews {
    fn default() -> StateNews {
        StateNews { args: Map::new(), priority: Priority::new(0) }
    }
}

impl StateNews {
    /// Adds a key; two objects of one key are merged.
    pub fn add(&mut self, key: &str, value: Value, priority: Priority) {
        merge(&mut self.args, key, value);
        self.priority = self.priority.max(priority);
    }

    fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    /// These news merged with newer ones.
    fn joined(&self, newer: &StateNews) -> StateNews {
        let mut joined = self.clone();
        for (key, value) in &newer.args {
            // After two changes of the host name the oldest name remains.
            if key != "hostname_was" || !joined.args.contains_key(key) {
                joined.add(key, value.clone(), newer.priority);
            }
        }
        joined
    }
}

fn merge(args: &mut Map<String, Value>, key: &str, value: Value) {
    match (args.get_mut(key), value) {
        (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
        (_, value) => {
            args.insert(key.to_owned(), value);
        }
    }
}

impl SystemStateEvent {
    fn priority(&self) -> Priority {
        self.priority.max(self.news.priority)
    }

    fn args(&self) -> Value {
        let mut args = self.args.clone();
        for (key, value) in &self.news.args {
            merge(&mut args, key, value.clone());
        }
        args.insert("priority".into(), self.priority().to_string().into());
        Value::Object(args)
    }
}

impl Event {
    /// The subscription that it belongs to.
    pub fn name(&self) -> EventName {
        match self {
            Event::Job(_) | Event::Queue(_) => EventName::Dispatcher,
            Event::LifePreserver(_) => EventName::LifePreserver,
            Event::SystemState(_) => EventName::SystemState,
            Event::Alert(_) => EventName::Alert,
            Event::Notice(_) => EventName::Notice,
        }
    }

    /// Its priority; a job's events have none.
    pub fn priority(&self) -> Option<Priority> {
        match self {
            Event::Job(_) | Event::Queue(_) => None,
            Event::LifePreserver(event) => Some(event.priority),
            Event::SystemState(event) => Some(event.priority()),
            Event::Alert(event) => Some(event.priority),
            Event::Notice(event) => Some(event.priority),
        }
    }

    /// The event for later subscribers: the state without its news.
    pub fn present(&self) -> Event {
        match self {
            Event::SystemState(event) => {
                Event::SystemState(SystemStateEvent { news: StateNews::default(), ..event.clone() })
            }
            Event::Job(_)
            | Event::LifePreserver(_)
            | Event::Queue(_)
            | Event::Alert(_)
            | Event::Notice(_) => self.clone(),
        }
    }

    /// Its `args` as JSON, and for a job the ranges of output in them. Only a job's can be cut to
    /// `budget` bytes; the others are small by construction.
    fn args(&self, budget: usize) -> (String, Option<String>) {
        let args = match self {
            Event::Job(event) => {
                let (args, ranges) = event.args_and_ranges(budget);
                return (args, Some(ranges));
            }
            Event::LifePreserver(event) => json!({
                "message": event.message,
                "priority": event.priority.to_string(),
                "class": event.class,
            })
            .to_string(),
            Event::SystemState(event) => event.args().to_string(),
            Event::Queue(event) => {
                let state = if event.paused { "paused" } else { "resumed" };
                json!({ "queue": event.queue, "state": state, "by": event.by }).to_string()
            }
            Event::Alert(event) => event.args.clone(),
            Event::Notice(event) => json!({
                "message": event.message,
                "priority": event.priority.to_string(),
                "class": event.class,
                "source": event.source,
            })
            .to_string(),
        };
        (args, None)
    }
}

/// Form of events that a client requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    /// `life-preserver` instead of `life_preserver`: the form of the Qt client.
    pub hyphens: bool,
    /// With `seq`, `epoch` and `time`.
    pub extended: bool,
}

/// Maximum size of the frame around the `args` of an event, in bytes.
const FRAME_ROOM: usize = 512;

/// A numbered event.
#[derive(Debug)]
pub struct Published {
    /// The event.
    pub event: Event,
    /// Its number, consecutive within a run.
    pub seq: u64,
    /// The run of the daemon.
    pub epoch: Rc<str>,
    /// Time of publication, RFC 3339.
    pub time: Rc<str>,
    /// It is part of the current state for a new subscriber, and complete.
    present: bool,
    max_event: usize,
    /// By spelling, see [`Published::encoded`].
    frames: [OnceCell<Rc<[u8]>>; 4],
    /// The last newer event that was joined with this one, and the result: clients that are equally
    /// slow share it.
    joined: RefCell<(Weak<Published>, Weak<Published>)>,
}

impl Published {
    /// `max_event` bounds the encoded frame, in bytes.
    pub fn new(
        event: Event,
        seq: u64,
        epoch: Rc<str>,
        time: Rc<str>,
        max_event: usize,
    ) -> Published {
        let frames = std::array::from_fn(|_| OnceCell::new());
        let joined = RefCell::default();
        Published { event, seq, epoch, time, present: false, max_event, frames, joined }
    }

    /// The same as a part of the current state, marked so in the extended form.
    pub fn as_present_state(self) -> Published {
        Published { present: true, ..self }
    }

    /// Coalesces this event with a newer one: a job's running events become one, and a state
    /// retains the news of an older one. `None` where the newer one supersedes this. Position and
    /// number are the newer one's.
    pub fn joined(&self, newer: &Rc<Published>) -> Option<Rc<Published>> {
        if let Some(joined) = self.joined_before(newer) {
            return Some(joined);
        }
        let joined = Rc::new(self.join(newer)?);
        self.joined.replace((Rc::downgrade(newer), Rc::downgrade(&joined)));
        Some(joined)
    }

    fn joined_before(&self, newer: &Rc<Published>) -> Option<Rc<Published>> {
        let last = self.joined.borrow();
        let is_same = std::ptr::eq(last.0.as_ptr(), Rc::as_ptr(newer));
        last.1.upgrade().filter(|_| is_same)
    }

    fn join(&self, newer: &Published) -> Option<Published> {
        let joined = match (&self.event, &newer.event) {
            (Event::Job(mine), Event::Job(theirs)) if mine.is_running() && !newer.present => {
                let mut joined = mine.clone();
                joined.join(theirs.clone()).ok()?;
                Event::Job(joined)
            }
            (Event::SystemState(mine), Event::SystemState(theirs)) if !mine.news.is_empty() => {
                let news = mine.news.joined(&theirs.news);
                Event::SystemState(SystemStateEvent { news, ..theirs.clone() })
            }
            (
                Event::Job(_)
                | Event::SystemState(_)
                | Event::LifePreserver(_)
                | Event::Queue(_)
                | Event::Alert(_)
                | Event::Notice(_),
                _,
            ) => return None,
        };
        let (epoch, time) = (newer.epoch.clone(), newer.time.clone());
        let joined = Published::new(joined, newer.seq, epoch, time, self.max_event);
        Some(Published { present: self.present, ..joined })
    }

    fn encoded(&self, spelling: Spelling) -> &OnceCell<Rc<[u8]>> {
        let [plain, hyphens, extended, both] = &self.frames;
        match (spelling.hyphens, spelling.extended) {
            (false, false) => plain,
            (true, false) => hyphens,
            (false, true) => extended,
            (true, true) => both,
        }
    }

    /// The whole frame as JSON text, encoded at most once per spelling.
    pub fn frame(&self, spelling: Spelling) -> Rc<[u8]> {
        let frame = self.encoded(spelling).get_or_init(|| self.encode(spelling));
        frame.clone()
    }

    /// The frame as the history has it: in the extended form, of a job without its output. `None` for
    /// running events that only go on, and would push out everything else.
    pub fn recorded(&self) -> Option<Rc<[u8]>> {
        let extended = Spelling { hyphens: false, extended: true };
        let Event::Job(event) = &self.event else { return Some(self.frame(extended)) };
        let event = Event::Job(event.without_output()?);
        let (epoch, time) = (self.epoch.clone(), self.time.clone());
        Some(Published::new(event, self.seq, epoch, time, self.max_event).frame(extended))
    }

    /// Bytes of the frame if it is encoded already, else an estimate.
    pub fn weight(&self, spelling: Spelling) -> usize {
        match (self.encoded(spelling).get(), &self.event) {
            (Some(frame), _) => frame.len(),
            (None, Event::Job(event)) => event.weight().min(self.max_event),
            (None, Event::LifePreserver(event)) => FRAME_ROOM + event.message.len(),
            (None, Event::Alert(event)) => FRAME_ROOM + event.args.len(),
            (None, Event::SystemState(_) | Event::Queue(_) | Event::Notice(_)) => {
                self.frame(spelling).len()
            }
        }
    }

    fn encode(&self, spelling: Spelling) -> Rc<[u8]> {
        let budget = self.max_event.saturating_sub(FRAME_ROOM);
        let (args, ranges) = self.event.args(budget);
        let name = self.event.name();
        let name = match self.event {
            Event::Queue(_) => "queue",
            _ if spelling.hyphens => name.canonical(),
            _ => name.in_event(),
        };
        let mut frame = String::with_capacity(args.len() + FRAME_ROOM);
        frame.push_str(r#"{"namespace":"events","name":""#);
        frame.push_str(name);
        frame.push_str(r#"","id":"none","#);
        if spelling.extended {
            let (seq, epoch, time) = (self.seq, &self.epoch, &self.time);
            frame.push_str(&format!(r#""seq":{seq},"epoch":"{epoch}","time":"{time}","#));
            if self.present {
                frame.push_str(r#""present":true,"#);
            }
            if let Event::Job(JobEvent { job, .. }) = &self.event
                && let Some(queue) = &job.queue
            {
                let queue = Value::from(queue.as_str());
                frame.push_str(&format!(r#""queue":{queue},"#));
            }
            if let Some(ranges) = ranges {
                frame.push_str(r#""output":"#);
                frame.push_str(&ranges);
                frame.push(',');
            }
        }
        frame.push_str(r#""args":"#);
        frame.push_str(&args);
        frame.push('}');
        frame.into_bytes().into()
    }
}

/// The frame that reports missed events: `missed` is their number before filters, if known; a
/// client that resumes with `seq` gets the report again.
pub fn gap(epoch: &str, seq: u64, missed: Option<u64>) -> String {
    let args = json!({ "missed": missed });
    format!(
        r#"{{"namespace":"events","name":"gap","id":"none","seq":{seq},"epoch":"{epoch}","args":{args}}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Published {
        let event = Event::LifePreserver(LifePreserverEvent {
            message: "now: New snapshot of tank".into(),
            priority: Priority::new(1),
            class: "snapshot",
        });
        Published::new(event, 7, "e1".into(), "2026-11-23T17:50:47Z".into(), 1024)
    }

    fn parsed(event: &Published, spelling: Spelling) -> Value {
        serde_json::from_slice(&event.frame(spelling)).unwrap()
    }

    #[test]
    fn the_documented_form() {
        let args = json!({"message": "now: New snapshot of tank",
                          "priority": "1 - Information", "class": "snapshot"});
        assert_eq!(
            parsed(&snapshot(), Spelling::default()),
            json!({"namespace": "events", "name": "life_preserver", "id": "none", "args": args})
        );
    }

    #[test]
    fn the_other_spellings() {
        let hyphens = parsed(&snapshot(), Spelling { hyphens: true, extended: false });
        assert_eq!(hyphens["name"], "life-preserver");
        assert_eq!(hyphens.get("seq"), None);
        let extended = parsed(&snapshot(), Spelling { hyphens: false, extended: true });
        assert_eq!(extended["seq"], 7);
        assert_eq!(extended["epoch"], "e1");
        assert_eq!(extended["time"], "2026-11-23T17:50:47Z");
    }

    #[test]
    fn a_spelling_is_encoded_once_and_shared() {
        let event = snapshot();
        assert!(Rc::ptr_eq(&event.frame(Spelling::default()), &event.frame(Spelling::default())));
    }

    fn state(host: &str, hostname_changed: bool) -> Published {
        let args = Map::from_iter([("hostname".to_owned(), host.into())]);
        let priority = Priority::new(0);
        let mut news = StateNews::default();
        if hostname_changed {
            news.add("hostnamechanged", "true".into(), Priority::new(3));
        }
        let event = Event::SystemState(SystemStateEvent { args, priority, news });
        Published::new(event, 8, "e1".into(), "2026-11-23T17:50:47Z".into(), 1024)
    }

    #[test]
    fn changed_host_name_is_news_for_present_subscribers() {
        let args = |event: &Published| parsed(event, Spelling::default())["args"].take();
        let renamed = state("b", true);
        assert_eq!(
            args(&renamed),
            json!({"hostname": "b", "hostnamechanged": "true", "priority": "3 - Warning"})
        );
        assert_eq!(renamed.event.priority(), Some(Priority::new(3)));
        let later = Published::new(renamed.event.present(), 9, "e1".into(), "".into(), 1024);
        assert_eq!(args(&later), json!({"hostname": "b", "priority": "0 - Information"}));
        // A slow reader gets only the newest state, including the news.
        let newer = Rc::new(state("b", false));
        let joined = renamed.joined(&newer).unwrap();
        assert!(Rc::ptr_eq(&joined, &renamed.joined(&newer).unwrap()), "computed once");
        assert_eq!((args(&joined), joined.seq), (args(&renamed), 8));
        assert!(state("b", false).joined(&Rc::new(renamed)).is_none());
    }

    #[test]
    fn names_are_read_with_hyphens_or_underscores_and_in_any_case() {
        assert_eq!(EventName::parse("life_preserver"), Some(EventName::LifePreserver));
        assert_eq!(EventName::parse("System-State"), Some(EventName::SystemState));
        assert_eq!(EventName::parse("bridge"), None);
    }
}

//! State that survives a restart: positions of the logs, running replications, and last events.
//!
//! JSON in one small file that is replaced atomically. An unreadable file does not prevent the
//! start: the logs are then followed from their ends, as at a first start, which is logged.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::tail::PersistedGeneration;
use crate::wire::{parse_rfc3339, rfc3339};

/// The form of the file; another one is another program's.
const VERSION: u64 = 1;

/// All that is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// The strands of each log; a log without one was not there.
    pub(super) logs: Vec<(PathBuf, Vec<PersistedGeneration>)>,
    pub(super) running: Vec<Running>,
    pub(super) last: Vec<Last>,
}

/// A replication that was under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) dataset: String,
    pub(super) file: Option<PathBuf>,
    pub(super) log: PathBuf,
}

/// The last event of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) class: String,
    pub(super) message: String,
    pub(super) priority: String,
    /// When it was read.
    pub(super) time: SystemTime,
}

impl Memory {
    /// Reads what [`Memory::write`] wrote.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) fn read(bytes: &[u8]) -> Result<Memory, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match value.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(version) => return Err(format!("it is of version {version}, not {VERSION}")),
            None => return Err("it has no version".to_owned()),
        }
        let list = |key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten();
        let logs = list("logs").map(read_log).collect::<Option<Vec<_>>>();
        Ok(Memory {
            logs: logs.ok_or("it has no log positions")?,
            // Of less weight: what cannot be read of them is left out.
            running: list("running").filter_map(read_running).collect(),
            last: list("last").filter_map(Last::read).collect(),
        })
    }

    /// As bytes, with the logs' strands as their owner gives them.
    pub(super) fn write(
        logs: impl Iterator<Item = (PathBuf, Vec<Value>)>,
        running: impl Iterator<Item = Running>,
        last: impl Iterator<Item = Last>,
    ) -> Vec<u8> {
        let logs: Vec<Value> = logs
            .map(|(log, generations)| json!({ "log": text(&log), "strands": generations }))
            .collect();
        let running: Vec<Value> = running
            .map(|it| {
                let file = it.file.as_deref().map(text);
                json!({ "dataset": it.dataset, "file": file, "log": text(&it.log) })
            })
            .collect();
        let last: Vec<Value> = last.map(|it| it.write()).collect();
        let value = json!({ "version": VERSION, "logs": logs, "running": running, "last": last });
        (value.to_string() + "\n").into_bytes()
    }
}

fn read_log(value: &Value) -> Option<(PathBuf, Vec<PersistedGeneration>)> {
    let generations = value.get("strands")?.as_array()?;
    let generations =
        generations.iter().map(PersistedGeneration::read).collect::<Option<Vec<_>>>()?;
    Some((path(value, "log")?, generations))
}

fn read_running(value: &Value) -> Option<Running> {
    let dataset = value.get("dataset")?.as_str()?.to_owned();
    Some(Running { dataset, file: path(value, "file"), log: path(value, "log")? })
}

impl Last {
    fn read(value: &Value) -> Option<Last> {
        let text = |key: &str| value.get(key)?.as_str().map(str::to_owned);
        let (class, message, priority) = (text("class")?, text("message")?, text("priority")?);
        Some(Last { class, message, priority, time: parse_rfc3339(&text("time")?)? })
    }

    fn write(&self) -> Value {
        json!({
            "class": self.class,
            "message": self.message,
            "priority": self.priority,
            "time": rfc3339(self.time),
        })
    }

    /// For a request: with its age in seconds.
    pub(super) fn with_age(&self, now: SystemTime) -> Value {
        let mut value = self.write();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("class");
            // A clock that was set back makes no negative age.
            let age = now.duration_since(self.time).unwrap_or_default();
            fields.insert("age".to_owned(), age.as_secs().into());
        }
        value
    }
}

/// The last of each class, by class.
pub(super) fn by_class<'l>(
    last: impl Iterator<Item = &'l Last>,
    now: SystemTime,
) -> Map<String, Value> {
    last.map(|last| (last.class.clone(), last.with_age(now))).collect()
}

/// Paths of the configuration are text; one of a log line may have lost a byte that is none.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn path(value: &Value, key: &str) -> Option<PathBuf> {
    value.get(key)?.as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life_preserver::tail::{FileGeneration, Identity};
    use std::time::{Duration, Instant, UNIX_EPOCH};

    fn generation() -> Value {
        let identity = Identity { device: 1, inode: u64::MAX };
        let mut generation = FileGeneration::from_beginning((), identity, Instant::now());
        generation.advance(b"a line\n", false);
        generation.persisted_form().write()
    }

    #[test]
    fn persisted_state_written_and_read_is_unchanged() {
        let running =
            Running { dataset: "tank/Home".into(), file: Some("/f".into()), log: "/log".into() };
        let last = Last {
            class: "snapshot".into(),
            message: "now: \"x\"\nLogfile".into(),
            priority: "1 - Information".into(),
            time: UNIX_EPOCH + Duration::from_secs(1_795_000_000),
        };
        let logs = [("/log".into(), vec![generation()]), ("/absent".into(), vec![])];
        let bytes = Memory::write(
            logs.into_iter(),
            [running.clone()].into_iter(),
            [last.clone()].into_iter(),
        );
        let memory = Memory::read(&bytes).unwrap();
        assert_eq!(memory.running, [running]);
        assert_eq!(memory.last, [last]);
        assert_eq!(
            memory.logs[0],
            ("/log".into(), vec![PersistedGeneration::read(&generation()).unwrap()])
        );
        assert_eq!(memory.logs[1], ("/absent".into(), vec![]));
    }

    #[test]
    fn persisted_state_damaged_or_newer_is_rejected_with_the_reason() {
        let refused = |text: &str| Memory::read(text.as_bytes()).unwrap_err();
        assert!(refused("").contains("EOF"));
        assert!(refused("{\"version\": 1, \"lo").contains("EOF"));
        assert_eq!(refused("[]"), "it has no version");
        assert_eq!(refused("{\"version\": 2}"), "it is of version 2, not 1");
        assert!(refused("{\"version\": 1, \"logs\": [{}]}").contains("log positions"));
        assert_eq!(Memory::read(b"{\"version\": 1, \"running\": [3]}"), Ok(Memory::default()));
        assert!(Memory::read(&[0xff]).is_err());
    }

    #[test]
    fn an_age_is_never_negative() {
        let time = UNIX_EPOCH + Duration::from_secs(1000);
        let last =
            Last { class: "snapshot".into(), message: "m".into(), priority: "p".into(), time };
        assert_eq!(last.with_age(time + Duration::from_secs(7))["age"], 7);
        assert_eq!(last.with_age(UNIX_EPOCH)["age"], 0);
        assert_eq!(by_class([&last].into_iter(), time)["snapshot"]["message"], "m");
    }
}

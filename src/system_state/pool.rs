//! One pool: its values from `zpool`, and its priority.

use serde_json::{Map, Value};

use super::columns::{CAPACITY, HEALTH};
use super::device::Device;
use super::scan::Scan;
use super::status::Page;
use crate::wire::{Priority, decimal};

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) name: String,
    /// By the keys of an event, as printed by `zpool list`.
    pub(super) cells: Vec<(&'static str, String)>,
    /// Its page of the last `zpool status`.
    pub(super) page: Option<Page>,
}

/// The part of a pool whose change makes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Essence {
    pub(super) name: String,
    health: String,
    capacity: String,
    status: Option<String>,
    has_errors: bool,
    devices: Vec<(String, String, bool)>,
    scan: Option<Scan>,
    pub(super) priority: Priority,
}

impl Essence {
    /// Whether its health, or the explanation of it, differs from before.
    pub(super) fn is_news(&self, before: Option<&Essence>) -> bool {
        before.is_none_or(|before| {
            (&before.health, before.priority, &before.status, before.has_errors, &before.devices)
                != (&self.health, self.priority, &self.status, self.has_errors, &self.devices)
        })
    }

    /// The log line about its scan where that has begun or ended.
    pub(super) fn scan_news(&self, before: Option<&Essence>) -> Option<String> {
        let scan = self.scan.as_ref()?;
        let is_news = before.is_some_and(|before| before.scan.as_ref() != Some(scan));
        is_news.then(|| format!("pool {:?}: {}", self.name, scan.line()))
    }
}

const FINE: &str = "ONLINE";
const SUSPENDED: &str = "SUSPENDED";

impl Pool {
    pub(super) fn cell(&self, key: &str) -> &str {
        self.cells.iter().find(|(of, _)| *of == key).map_or("", |(_, cell)| cell)
    }

    pub(super) fn health(&self) -> &str {
        self.cell(HEALTH)
    }

    pub(super) fn is_online(&self) -> bool {
        self.health() == FINE && !self.is_suspended()
    }

    /// Whether its devices do not answer, so that processes that use its files block.
    pub(super) fn is_suspended(&self) -> bool {
        self.health() == SUSPENDED || self.page.as_ref().is_some_and(Page::is_suspended)
    }

    fn scan(&self) -> Option<&Scan> {
        self.page.as_ref()?.scan()
    }

    /// Progress of its scan while that runs.
    pub(super) fn progress(&self) -> Option<&str> {
        self.scan()?.done.as_deref()
    }

    /// The priority by the table of sysadm-events-protocol(7); `warning` in per cent.
    pub(super) fn priority(&self, warning: usize) -> Priority {
        // A pool that cannot be opened has no capacity.
        let capacity = per_cent(self.cell(CAPACITY)).unwrap_or(0);
        let health = if self.health() == FINE { 0 } else { 9 };
        let full = if capacity > warning { 6 } else { 0 };
        let page = self.page.as_ref().map_or(0, Page::priority);
        Priority::new(health.max(full).max(page))
    }

    pub(super) fn essence(&self, warning: usize) -> Essence {
        let page = self.page.as_ref();
        Essence {
            name: self.name.clone(),
            health: self.health().to_owned(),
            capacity: self.cell(CAPACITY).to_owned(),
            status: page.and_then(Page::status),
            has_errors: page.is_some_and(|page| page.errors.is_some()),
            devices: page
                .map_or_else(Vec::new, |page| page.devices.iter().map(Device::essence).collect()),
            scan: self.scan().map(Scan::essence),
            priority: self.priority(warning),
        }
    }

    /// The text for the log.
    pub(super) fn line(&self, warning: usize) -> String {
        let page = self.page.as_ref();
        let mut line = format!(
            "pool {:?} is {}, {} full, {}",
            self.name,
            self.health(),
            self.cell(CAPACITY),
            self.priority(warning)
        );
        let devices = page.into_iter().flat_map(|page| &page.devices).take(3).map(Device::line);
        let devices = devices.collect::<Vec<_>>().join(", ");
        let errors = page.and_then(|page| page.errors.clone()).unwrap_or_default();
        let status = page.and_then(Page::status).unwrap_or_default();
        for part in [status, errors, devices].iter().filter(|part| !part.is_empty()) {
            line.push_str(": ");
            line.push_str(part);
        }
        line
    }

    /// The JSON for an event; without its devices where the event has no room for them.
    pub(super) fn entry(&self, warning: usize, with_devices: bool) -> Value {
        let cells = self.cells.iter().map(|(key, cell)| ((*key).to_owned(), cell.clone().into()));
        let mut entry: Map<String, Value> = cells.collect();
        if let Some(page) = &self.page {
            let texts = [
                ("status", page.status()),
                ("action", page.action.clone()),
                ("errors", page.errors.clone()),
            ];
            for (key, text) in texts {
                if let Some(text) = text {
                    entry.insert(key.into(), text.into());
                }
            }
            if !page.devices.is_empty() && with_devices {
                let devices = page.devices.iter().map(Device::entry).collect();
                entry.insert("devices".into(), Value::Array(devices));
            }
            if let Some(scan) = page.scan() {
                entry.insert("scan".into(), scan.entry());
            }
        }
        entry.insert("priority".into(), self.priority(warning).to_string().into());
        Value::Object(entry)
    }
}

/// Parses `12%`.
pub(super) fn per_cent(text: &str) -> Option<usize> {
    decimal(text.strip_suffix('%')?)
}

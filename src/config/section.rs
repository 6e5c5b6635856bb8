//! One section of the file, read key by key into its fields.
//!
//! A missing key leaves its field unchanged, at its default.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Fault;
use super::reader::{Key, Reader, heading};
use super::values::kind;

/// Maximum number of entries of a list.
const MAX_ENTRIES: usize = 64;

/// One section of the file, or one table of a list of tables.
pub(super) struct Section<'r, 't> {
    pub(super) reader: &'r mut Reader<'t>,
    pub(super) name: &'static str,
    pub(super) table: Option<&'t DeTable<'t>>,
    /// Its offset.
    pub(super) at: usize,
}

impl<'t> Section<'_, 't> {
    /// Reads a key, if present.
    pub(super) fn key<T>(
        &mut self,
        name: &'static str,
        field: &mut T,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) {
        if let Some(value) = self.optional(name, read) {
            *field = value;
        }
    }

    /// The value of a key, if present.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        self.find(name).and_then(|value| self.value(name, value, &read))
    }

    /// The value of a required key.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let found = self.find(name);
        if found.is_none() && self.table.is_some() {
            let message = format!("{} has no {name}: it needs one", heading(self.name));
            self.reader.faults.push(Fault { at: self.at, message });
            self.mark_faulty(name);
        }
        found.and_then(|value| self.value(name, value, &read))
    }

    /// Reports a fault of the section as a whole, or of one of its keys if present.
    pub(super) fn complain(&mut self, name: Option<&'static str>, message: String) {
        let value = name.and_then(|name| self.table.and_then(|table| table.get(name)));
        let at = value.map_or(self.at, |value| value.span().start);
        self.reader.faults.push(Fault { at, message });
        name.into_iter().for_each(|name| self.mark_faulty(name));
    }

    /// Reads a list, entry by entry.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        field: &mut Vec<T>,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) {
        let Some(value) = self.find(name) else { return };
        let DeValue::Array(entries) = value.get_ref() else {
            let message = format!("a list like [\"…\"] is wanted, not {}", kind(value.get_ref()));
            return self.fault(name, value, message);
        };
        if entries.len() > MAX_ENTRIES {
            let message = format!("has {} entries: at most {MAX_ENTRIES}", entries.len());
            return self.fault(name, value, message);
        }
        let read: Vec<Option<T>> =
            entries.iter().map(|entry| self.value(name, entry, &read)).collect();
        if let Some(all) = read.into_iter().collect() {
            *field = all;
        }
        self.set_entries(name, entries.iter().map(|entry| entry.span().start).collect());
    }

    /// Reads a list of tables, `[[section.name]]`, whose keys become known as those of `path`.
    pub(super) fn tables<T>(
        &mut self,
        name: &'static str,
        path: &'static str,
        field: &mut Vec<T>,
        read: impl Fn(&mut Section<'_, 't>) -> Option<T>,
    ) {
        // The keys of an entry are known even without an entry.
        read(&mut self.reader.open(path, None));
        let Some(value) = self.find(name) else { return };
        let tables: Option<Vec<(usize, &'t DeTable<'t>)>> = match value.get_ref() {
            DeValue::Array(entries) => {
                let table = |entry: &'t Spanned<DeValue<'t>>| {
                    entry.get_ref().as_table().map(|table| (entry.span().start, table))
                };
                entries.iter().map(table).collect()
            }
            _ => None,
        };
        let Some(tables) = tables else {
            let message = format!("is a list of sections: write [[{path}]] before each");
            return self.fault(name, value, message);
        };
        if tables.len() > MAX_ENTRIES {
            let message = format!("has {} entries: at most {MAX_ENTRIES}", tables.len());
            return self.fault(name, value, message);
        }
        field.clear();
        for (at, table) in &tables {
            let mut section = self.reader.open(path, Some(table));
            section.at = *at;
            match read(&mut section) {
                Some(entry) => field.push(entry),
                None => self.mark_faulty(name),
            }
        }
        self.set_entries(name, tables.iter().map(|(at, _)| *at).collect());
    }

    /// Makes the key known, and looks it up.
    fn find(&mut self, name: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        let value = self.table.and_then(|table| table.get(name));
        let at = value.map(|value| value.span().start);
        match self.known(name) {
            Some(key) => {
                key.entries.extend(at);
                key.at = key.at.or(at);
            }
            None => {
                let entries = at.into_iter().collect();
                let key = Key { section: self.name, name, at, entries, faulty: false };
                self.reader.keys.push(key);
            }
        }
        value
    }

    fn value<T>(
        &mut self,
        name: &'static str,
        value: &Spanned<DeValue<'_>>,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        match read(value.get_ref()) {
            Ok(read) => Some(read),
            Err(message) => {
                self.fault(name, value, message);
                None
            }
        }
    }

    fn fault(&mut self, name: &'static str, value: &Spanned<DeValue<'_>>, message: String) {
        let message = match self.name {
            "" => format!("{name}: {message}"),
            section => format!("{section}.{name}: {message}"),
        };
        self.reader.faults.push(Fault { at: value.span().start, message });
        self.mark_faulty(name);
    }

    fn mark_faulty(&mut self, name: &'static str) {
        if let Some(key) = self.known(name) {
            key.faulty = true;
        }
    }

    fn set_entries(&mut self, name: &'static str, entries: Vec<usize>) {
        if let Some(key) = self.known(name) {
            key.entries = entries;
        }
    }

    fn known(&mut self, name: &'static str) -> Option<&mut Key> {
        let section = self.name;
        self.reader.keys.iter_mut().find(|key| key.section == section && key.name == name)
    }
}

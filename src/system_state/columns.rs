//! Columns requested from `zpool list`, by name, so that their order does not depend on the
//! version.
//!
//! Not every ZFS has every property. One that does not rejects the command and names the property,
//! which is then left out of later commands.

use super::probe::{ProbeError, USAGE};
use crate::sys::children::Exit;

/// A column: the property of `zpool list -o`, and its key in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    property: &'static str,
    pub(super) key: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Required: without it the list cannot be used.
    Needed,
    /// `-` in an event where this ZFS lacks it.
    Usual,
    /// Omitted from an event where this ZFS lacks it.
    Extra,
}

const fn column(property: &'static str, key: &'static str, kind: Kind) -> Column {
    Column { property, key, kind }
}

/// In the order of OpenZFS's own list. The last may contain blanks, none may contain a tab.
const ALL: [Column; 11] = [
    column("name", NAME, Kind::Needed),
    column("size", "size", Kind::Usual),
    column("allocated", "alloc", Kind::Usual),
    column("free", "free", Kind::Usual),
    column("checkpoint", "ckpoint", Kind::Extra),
    column("expandsize", "expandsz", Kind::Usual),
    column("fragmentation", "frag", Kind::Usual),
    column("capacity", CAPACITY, Kind::Usual),
    column("dedupratio", "dedup", Kind::Usual),
    column("health", HEALTH, Kind::Needed),
    column("altroot", "altroot", Kind::Usual),
];

pub(super) const NAME: &str = "name";
pub(super) const CAPACITY: &str = "capacity";
pub(super) const HEALTH: &str = "health";
/// Stands for a missing value.
pub(super) const ABSENT: &str = "-";

/// The columns that this host's `zpool` supports, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns(Vec<Column>);

impl Columns {
    /// All columns.
    pub(super) fn all() -> Columns {
        Columns(ALL.to_vec())
    }

    /// The arguments of `zpool` that request them: `-H` separates columns by tabs and omits the
    /// headings. Without `-p`, which old versions lack and which changes the units.
    pub(super) fn question(&self) -> Vec<String> {
        let properties: Vec<&str> = self.0.iter().map(|column| column.property).collect();
        ["list", "-H", "-o", &properties.join(",")].map(str::to_owned).to_vec()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = Column> {
        self.0.iter().copied()
    }

    /// Keys that an event must have and for which there is no column.
    pub(super) fn absent(&self) -> impl Iterator<Item = &'static str> {
        let usual = ALL.iter().filter(|column| column.kind == Kind::Usual);
        usual.filter(|column| !self.0.contains(column)).map(|column| column.key)
    }

    /// Drops the column that `zpool` reported as unknown. False where it reported no such thing.
    pub(super) fn give_up(&mut self, last_failure: &ProbeError) -> bool {
        let ProbeError::Exit(Exit::Code(USAGE), why) = last_failure else { return false };
        let refused = |column: &Column| why.ends_with(&format!("'{}'", column.property));
        let before = self.0.len();
        self.0.retain(|column| !refused(column) || column.kind == Kind::Needed);
        self.0.len() < before
    }
}

//! What is asked of `zpool list`, by name: the order is then ours, whatever the version.
//!
//! Not every ZFS knows every property. One that does not refuses the whole question and names the
//! property; it is then left out of the question, for good.

use super::probe::{Trouble, USAGE};
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
    /// Nothing can be said without it.
    Needed,
    /// `-` in an event where this ZFS does not have it.
    Usual,
    /// Left out of an event where this ZFS does not have it.
    Extra,
}

const fn column(property: &'static str, key: &'static str, kind: Kind) -> Column {
    Column { property, key, kind }
}

/// In the order of OpenZFS's own list. The last may hold blanks, none may hold a tab.
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
/// What stands for a value that there is not.
pub(super) const ABSENT: &str = "-";

/// The columns that this host's `zpool` knows, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns(Vec<Column>);

impl Columns {
    /// Every one.
    pub(super) fn all() -> Columns {
        Columns(ALL.to_vec())
    }

    /// The arguments of `zpool` that ask for them: `-H` puts a tab between columns and leaves the
    /// headings out. Without `-p`, which old ones do not know and which changes the units.
    pub(super) fn question(&self) -> Vec<String> {
        let properties: Vec<&str> = self.0.iter().map(|column| column.property).collect();
        ["list", "-H", "-o", &properties.join(",")].map(str::to_owned).to_vec()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = Column> {
        self.0.iter().copied()
    }

    /// Keys of events that have to be there, and for which there is no column.
    pub(super) fn absent(&self) -> impl Iterator<Item = &'static str> {
        let usual = ALL.iter().filter(|column| column.kind == Kind::Usual);
        usual.filter(|column| !self.0.contains(column)).map(|column| column.key)
    }

    /// Leaves out the column that `zpool` said it does not know. False where it said no such thing.
    pub(super) fn give_up(&mut self, trouble: &Trouble) -> bool {
        let Trouble::Exit(Exit::Code(USAGE), why) = trouble else { return false };
        let refused = |column: &Column| why.ends_with(&format!("'{}'", column.property));
        let Some(at) = self.0.iter().position(refused) else { return false };
        let may_go = self.0[at].kind != Kind::Needed;
        if may_go {
            self.0.remove(at);
        }
        may_go
    }
}

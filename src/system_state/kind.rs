//! The meaning of a `status:` of `zpool status`: each message of OpenZFS 0.6 to 2.4, of FreeBSD's and
//! illumos' older ZFS and of zfs-fuse, with its priority.
//!
//! Sources: `zfs_msgid_table` in `lib/libzfs/libzfs_status.c` and `print_status_reason` (before 2.4
//! `status_callback`) in `cmd/zpool/zpool_main.c`. `zpool` names the most serious condition by
//! its own order, in which a resilver hides damaged data: so this is one part of a pool's priority,
//! beside its devices, its errors and its scans.

/// A status message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Endings of the message identifiers (`ZFS-8000-EY`).
    ids: &'static [&'static str],
    /// Parts of its text, any of which identifies it.
    texts: &'static [&'static str],
    pub(super) priority: u8,
    pub(super) is_suspended: bool,
}

/// The priority of a status that no kind matches.
pub(super) const UNKNOWN: u8 = 6;

const fn kind(ids: &'static [&'static str], texts: &'static [&'static str], priority: u8) -> Kind {
    Kind { ids, texts, priority, is_suspended: false }
}

const SUSPENDED: Kind = Kind {
    // IO_FAILURE_WAIT, IO_FAILURE_CONTINUE, IO_FAILURE_MMP.
    ids: &["HC", "JQ", "MM"],
    texts: &["faulted in response to IO failures", "suspended"],
    priority: 9,
    is_suspended: true,
};

/// The first match counts.
static KINDS: [Kind; 24] = [
    SUSPENDED,
    // MISSING_DEV_NR, CORRUPT_LABEL_NR, FAULTED_DEV_NR.
    kind(&["3C", "5E"], &["insufficient replicas"], 9),
    // CORRUPT_POOL, CORRUPT_CACHE, BAD_GUID_SUM; ZFS-8000-CS is Solaris' "pool cannot be opened".
    kind(&["72", "14", "6X", "CS"], &["pool metadata is", "the pool cannot be opened"], 9),
    // BAD_LOG.
    kind(&["K4"], &["intent log record"], 9),
    // VERSION_NEWER.
    kind(&["A5"], &["newer, incompatible on-disk version"], 9),
    // UNSUP_FEAT_READ.
    kind(&[], &["cannot be accessed on this system"], 9),
    // UNSUP_FEAT_WRITE.
    kind(&[], &["can only be accessed in read-only mode"], 7),
    // HOSTID_ACTIVE, HOSTID_REQUIRED: only for a pool that is not imported. Their identifier is
    // also that of HOSTID_MISMATCH, so the text is compared first.
    kind(&[], &["currently imported by another system", "requires the system hostid"], 9),
    // CORRUPT_DATA.
    kind(&["8A"], &["resulting in data corruption"], 8),
    // FAULTED_DEV_R, FAULTED_FDOM_R; Solaris: ZFS-8000-FD, -D3.
    kind(&["FD", "D3"], &["faulted in response to persistent errors"], 7),
    kind(&[], &["failure domains are faulted"], 7),
    // MISSING_DEV_R.
    kind(&["2Q"], &["could not be opened"], 7),
    // CORRUPT_LABEL_R.
    kind(&["4J"], &["label is missing or invalid"], 7),
    // FAILING_DEV; Solaris: ZFS-8000-GH.
    kind(&["9P", "GH"], &["experienced an unrecoverable error"], 7),
    // OFFLINE_DEV.
    kind(&[], &["taken offline by the administrator"], 7),
    // REMOVED_DEV: "have been removed.", before 2.2 "has been removed by the administrator".
    kind(&[], &["devices has been removed", "devices have been removed"], 7),
    // RESILVERING, REBUILDING.
    kind(&[], &["currently being resilvered"], 3),
    // REBUILD_SCRUB.
    kind(&[], &["have been sequentially resilvered"], 3),
    // NON_NATIVE_ASHIFT.
    kind(&[], &["non-native block size"], 3),
    // HOSTID_MISMATCH.
    kind(&["EY"], &["Mismatch between pool hostid", "last accessed by another system"], 3),
    // ERRATA.
    kind(&["ER"], &["Errata #"], 3),
    // COMPATIBILITY_ERR.
    kind(&[], &["has a compatibility list specified"], 3),
    // VERSION_OLDER: "a legacy", before feature flags "an older on-disk format".
    kind(&[], &["legacy on-disk format", "older on-disk format", "older on-disk version"], 1),
    // FEAT_DISABLED, INCOMPATIBLE_FEAT.
    kind(
        &[],
        &["features are not enabled on the pool", "features are enabled on the pool despite"],
        1,
    ),
];

/// Finds the kind of a status: by the identifier of its `see:` page, else by its text with single
/// blanks.
pub(super) fn find(id: Option<&str>, text: &str) -> Option<&'static Kind> {
    let by_id = || {
        let end = id?.rsplit('-').next()?;
        KINDS.iter().find(|kind| kind.ids.contains(&end))
    };
    let by_text = || KINDS.iter().find(|kind| kind.texts.iter().any(|known| text.contains(known)));
    match by_id() {
        // Shared by messages about imported and not imported pools.
        Some(kind) if kind.ids.contains(&"EY") => by_text().or(Some(kind)),
        found => found.or_else(by_text),
    }
}

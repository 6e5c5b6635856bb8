//! Output of real `zpool` commands, for tests. `tests/zfs/` has the files and their origin.

use crate::sys::children::Exit;

/// One run of a command.
#[derive(Debug)]
pub(super) struct Capture {
    /// Preceding operations on the pools.
    pub(super) state: &'static str,
    pub(super) command: &'static str,
    /// `None`: the command hung.
    pub(super) exit: Option<Exit>,
    pub(super) out: &'static str,
    pub(super) errors: &'static str,
}

pub(super) const OPENZFS_2_3: &str = include_str!("../../tests/zfs/openzfs-2.3.9.txt");
pub(super) const OPENZFS_2_1: &str = include_str!("../../tests/zfs/openzfs-2.1.11.txt");
pub(super) const ZFS_FUSE: &str = include_str!("../../tests/zfs/zfs-fuse-0.7.0.txt");

pub(super) fn read(file: &'static str) -> Vec<Capture> {
    const HEAD: &str = "\n=== ";
    let ends = |from: usize| file[from..].find(HEAD).map_or(file.len(), |at| from + at + 1);
    let begins = file.match_indices(HEAD).map(|(at, _)| at + HEAD.len());
    begins.map(|from| read_one(&file[from..ends(from)])).collect()
}

fn read_one(section: &'static str) -> Capture {
    let (state, rest) = section.split_once('\n').unwrap();
    let after = |key: &str| {
        let line = rest.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("{key} of {state}"))
    };
    let exit = match after("### exit: ") {
        hung if hung.starts_with("TIMEOUT") => None,
        code => Some(match code.parse().unwrap() {
            signal @ ..0 => Exit::Signal(-signal),
            code => Exit::Code(code),
        }),
    };
    let output = |name: &str| {
        let begins = rest.find(&format!("### {name} (")).unwrap();
        let (head, text) = rest[begins..].split_once('\n').unwrap();
        let digits = head.chars().filter(char::is_ascii_digit).collect::<String>();
        &text[..digits.parse().unwrap()]
    };
    Capture {
        state,
        command: after("### command: "),
        exit,
        out: output("stdout"),
        errors: output("stderr"),
    }
}

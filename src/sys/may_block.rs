//! The permission to block, checked by the compiler.

/// Proof that the caller may block for as long as it takes.
///
/// Functions that touch a path, a name service, `fsync` or the memory of another process take one:
/// such a call never returns where a file system hangs. It exists before the poll loop starts and
/// in worker processes, and nowhere else: code of the loop cannot call these functions.
#[derive(Clone, Copy, Debug)]
pub struct MayBlock(());

impl MayBlock {
    /// For code that runs before a poll loop, or in a program that has none.
    pub const fn before_loop() -> MayBlock {
        MayBlock(())
    }

    /// For a process that was forked for work that may block.
    pub(super) const fn in_worker() -> MayBlock {
        MayBlock(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Files that run before a loop or without one.
    const ALLOWED: [&str; 5] = [
        "src/cli/",
        "src/client/",
        "src/main.rs",
        "src/server/start.rs",
        "src/bridge/daemon/start.rs",
    ];

    fn source_files(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                source_files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn permission_to_block_is_made_only_where_no_loop_runs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        source_files(&root.join("src"), &mut files);
        let makes = |path: &&PathBuf| {
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
            code.contains("MayBlock::before_loop()")
        };
        let names = files
            .iter()
            .filter(makes)
            .map(|path| path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
        let is_wrong = |name: &String| {
            let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
            !is_test && !ALLOWED.iter().any(|allowed| name.starts_with(allowed))
        };
        let wrong: Vec<String> = names.filter(is_wrong).collect();
        assert!(wrong.is_empty(), "{wrong:?} may run in a loop");
    }
}

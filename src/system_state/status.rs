//! What `zpool status -x` prints: a page for each pool with which something is wrong.
//!
//! ONLINE does not mean healthy: damaged data and, with OpenZFS 2.1, even a suspended pool are told
//! here alone. Of a page the name and the status text are read; its counters are not, since they
//! change with every error.

use super::list::quoted;

/// A pool that was named, and what is wrong with it on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) status: String,
}

/// What a page begins with; the rest of the line, blanks included, is the name.
const POOL: &str = "  pool: ";
const STATE: &str = " state: ";
const STATUS: &str = "status: ";
/// The longest status that is kept, in bytes. Those of OpenZFS have some 200.
const STATUS_LENGTH: usize = 500;

/// Reads the answer. An error says what is wrong with it.
pub(super) fn parse(answer: &[u8]) -> Result<Vec<Named>, String> {
    let text = String::from_utf8_lossy(answer);
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line breaks off".to_owned());
    }
    let mut pages: Vec<Named> = Vec::new();
    let mut in_status = false;
    for line in text.lines() {
        let continues = in_status && line.starts_with('\t');
        in_status = false;
        if let Some(name) = line.strip_prefix(POOL) {
            pages.push(Named { name: name.to_owned(), status: String::new() });
            continue;
        }
        let Some(page) = pages.last_mut() else {
            // Without a pool that is wounded it is one sentence, or nothing.
            let is_sentence = line.ends_with(" healthy") || line == "no pools available";
            if is_sentence {
                continue;
            } else {
                return Err(format!("no pool in {}", quoted(line)));
            };
        };
        if let Some(status) = line.strip_prefix(STATUS) {
            page.status = String::new();
            append(&mut page.status, status);
            in_status = true;
        } else if continues {
            append(&mut page.status, line);
            in_status = true;
        } else if let Some(state) = line.strip_prefix(STATE)
            && page.status.is_empty()
        {
            // Stands in for a status that is missing.
            page.status = format!("state {}", state.trim());
        }
    }
    for page in &mut pages {
        let end = (0..=STATUS_LENGTH.min(page.status.len())).rev();
        let end = end.into_iter().find(|at| page.status.is_char_boundary(*at)).unwrap_or(0);
        page.status.truncate(end);
    }
    Ok(pages)
}

fn append(status: &mut String, line: &str) {
    for word in line.split_whitespace() {
        if !status.is_empty() {
            status.push(' ');
        }
        status.push_str(word);
    }
}

//! Parser of `zpool list -H -o …`: one line per pool, a tab between columns.
//!
//! Names may contain blanks, even at the end, and may be `ONLINE` or `NAME`; nothing is trimmed or
//! guessed. Output with any unexpected line is rejected: half a list would report pools as gone.

use super::columns::{ABSENT, CAPACITY, Columns, NAME};
use super::pool::{Pool, per_cent};

/// Output of versions that print a text for no pools despite `-H`.
const NO_POOLS: &str = "no pools available\n";

/// Parses the output for [`Columns::question`]. An error describes the fault.
pub(super) fn parse(answer: &[u8], columns: &Columns) -> Result<Vec<Pool>, String> {
    // Only the path of an altroot may be invalid UTF-8.
    let text = String::from_utf8_lossy(answer);
    if text == NO_POOLS {
        return Ok(Vec::new());
    }
    let mut pools: Vec<Pool> = Vec::new();
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let line = line.strip_suffix('\n').ok_or("the last line breaks off")?;
        let pool = parse_line(line, columns).map_err(|why| format!("line {}: {why}", at + 1))?;
        if pools.iter().any(|other| other.name == pool.name) {
            return Err(format!("line {}: {} is there twice", at + 1, quoted(&pool.name)));
        }
        pools.push(pool);
    }
    Ok(pools)
}

fn parse_line(line: &str, columns: &Columns) -> Result<Pool, String> {
    let values: Vec<&str> = line.split('\t').collect();
    let wanted = columns.iter().len();
    if values.len() != wanted {
        return Err(format!("{} columns, not {wanted}, in {}", values.len(), quoted(line)));
    }
    let mut pool = Pool { name: String::new(), cells: Vec::new(), page: None };
    for (column, value) in columns.iter().zip(values) {
        let key = column.key;
        if value.is_empty() {
            return Err(format!("no {key} in {}", quoted(line)));
        }
        if key == CAPACITY && value != ABSENT && per_cent(value).is_none() {
            return Err(format!("{} is no {key}", quoted(value)));
        }
        if key == NAME {
            pool.name = value.to_owned();
        } else {
            pool.cells.push((key, value.to_owned()));
        }
    }
    pool.cells.extend(columns.absent().map(|key| (key, ABSENT.to_owned())));
    Ok(pool)
}

/// Foreign text for a message: short, and without control characters.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

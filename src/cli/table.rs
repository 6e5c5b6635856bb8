//! Tables with headings.

/// Rows under `headings`; the last column is not padded. Cells must be one line each.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    let heading = headings.map(str::to_owned);
    for row in std::iter::once(&heading).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let rows = [["ü".to_owned(), "x".to_owned()], ["long name".to_owned(), String::new()]];
        assert_eq!(table(["ID", "STATE"], &rows), "ID         STATE\nü          x\nlong name\n");
        assert_eq!(table(["ID", "STATE"], &[]), "ID  STATE\n");
    }
}

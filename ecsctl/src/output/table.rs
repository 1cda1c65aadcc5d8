//! Tables: columns with two spaces between them, no frames, so that they read well and can be cut by `awk`.

use comfy_table::{Table, TableComponent, presets};

use crate::output::visible;

/// What stands where there is nothing.
const NONE: &str = "-";

/// A list with headings.
pub(super) fn list(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = bare();
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|text| or_none(text)));
    }
    finish(&table)
}

/// The fields of one thing, one a line.
pub(super) fn fields(fields: &[(&'static str, String)]) -> String {
    let mut table = bare();
    for (name, value) in fields {
        table.add_row([(*name).to_owned(), or_none(value)]);
    }
    finish(&table)
}

fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { visible::line(text).into_owned() }
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.remove_style(TableComponent::VerticalLines);
    table
}

fn finish(table: &Table) -> String {
    let mut table = table.clone();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_is_a_dash() {
        let rows = [vec!["data1".to_owned(), String::new()], vec!["d".to_owned(), "web1".to_owned()]];
        assert_eq!(list(&["name", "server"], rows.into_iter()), "NAME   SERVER\ndata1  -\nd      web1\n");
        assert_eq!(
            fields(&[("Name", "data1".to_owned()), ("Path", String::new())]),
            "Name  data1\nPath  -\n"
        );
    }

    #[test]
    fn a_cell_stays_in_its_line_whatever_is_in_it() {
        let note = "x\n999  2026  root  delete-key\x1b[31m";
        let shown = list(&["note"], std::iter::once(vec![note.to_owned()]));
        assert_eq!(shown, "NOTE\nx\\n999  2026  root  delete-key\\u{1b}[31m\n");
        assert_eq!(fields(&[("Note", note.to_owned())]).lines().count(), 1);
    }
}

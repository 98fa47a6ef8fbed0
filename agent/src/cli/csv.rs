//! Rows of an answer as CSV (RFC 4180): lists and maps stand in their cells as JSON.
//!
//! A text that a spreadsheet would take for a formula has a `'` in front of it: statements are written by
//! strangers.

use std::io::{self, Write};

use serde_json::{Map, Value};

/// What spreadsheets begin a formula with, or pass over in front of one.
const FORMULA: [char; 8] = ['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}'];

pub(super) fn header(out: &mut impl Write, columns: &[String]) -> io::Result<()> {
    line(out, columns.iter().cloned())
}

pub(super) fn row(
    out: &mut impl Write,
    columns: &[String],
    row: &Map<String, Value>,
) -> io::Result<()> {
    line(
        out,
        columns.iter().map(|column| match row.get(column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) if text.starts_with(FORMULA) => format!("'{text}"),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }),
    )
}

fn line(out: &mut impl Write, cells: impl Iterator<Item = String>) -> io::Result<()> {
    let cells: Vec<String> = cells
        .map(|cell| match cell.contains(['"', ',', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell,
        })
        .collect();
    write!(out, "{}\r\n", cells.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let columns = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let row = json!({"a": "x,\"y\"", "b": null, "c": 7, "d": ["read", "update"]});
        let mut out = Vec::new();
        super::header(&mut out, &columns).unwrap();
        super::row(&mut out, &columns, row.as_object().unwrap()).unwrap();
        let expected = "a,b,c,d,e\r\n\"x,\"\"y\"\"\",,7,\"[\"\"read\"\",\"\"update\"\"]\",\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn no_cell_is_a_formula() {
        let columns = ["a".to_owned()];
        for (value, expected) in [
            (json!("=1+1"), "'=1+1"),
            (json!("+1"), "'+1"),
            (json!("-- comment"), "'-- comment"),
            (json!("@SUM(A1)"), "'@SUM(A1)"),
            (json!("\t=1"), "'\t=1"),
            (json!("\r\n=1"), "\"'\r\n=1\""),
            (json!("=a,\"b\""), "\"'=a,\"\"b\"\"\""),
            (json!("SELECT 1"), "SELECT 1"),
            (json!(" =1"), " =1"),
            // Numbers are what they are.
            (json!(-1), "-1"),
        ] {
            let mut out = Vec::new();
            super::row(&mut out, &columns, json!({ "a": value }).as_object().unwrap()).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\r\n"), "{value}");
        }
    }
}

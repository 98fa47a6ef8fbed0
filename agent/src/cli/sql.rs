//! `dbwarden sql`: questions to the ledger in SQL.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use super::{
    Answer, Common, Format, Usage,
    ask::Ledger,
    block_on,
    output::{Layout, Out, Output},
    table::{Align, Table},
    terminal::{Paint, Style, clean, counted, fit},
};
use crate::search::{self, Request, TABLES, Trailer};

#[derive(Debug, Args)]
pub struct Sql {
    /// One SELECT over the tables statements, connections, coverage, findings and rows (all of them)
    #[arg(required_unless_present = "schema")]
    query: Option<String>,
    /// Show the tables and their columns, and end
    #[arg(long, conflicts_with = "query")]
    schema: bool,
    #[command(flatten)]
    ledger: Ledger,
}

/// Rows that a table is as wide as; those that follow are cut to it.
const PAGE: usize = 1_000;
/// Of a cell: one long text must not push everything else off the screen.
const CELL: usize = 60;

pub fn sql(common: &Common, arguments: &Sql) -> Result<Answer> {
    match &arguments.query {
        Some(query) => block_on(show(common, arguments, query)),
        None => show_schema(common),
    }
}

async fn show(common: &Common, arguments: &Sql, query: &str) -> Result<Answer> {
    let request = Request::Sql(search::Sql { query: query.to_owned() });
    Output::new(common, &arguments.ledger).show(&request, &mut Pages::default()).await?;
    Ok(Answer::Done)
}

/// Rows of which a page at a time becomes a table.
#[derive(Default)]
struct Pages {
    page: Vec<Map<String, Value>>,
}

impl Pages {
    fn turn(&mut self, columns: &[String], out: &mut Out) -> Result<()> {
        out.write_all(render(columns, &self.page, Paint::of_stdout()).as_bytes())?;
        self.page.clear();
        Ok(())
    }
}

impl Layout for Pages {
    fn row(&mut self, columns: &[String], row: &[u8], out: &mut Out) -> Result<()> {
        self.page.push(serde_json::from_slice(row)?);
        if self.page.len() == PAGE { self.turn(columns, out) } else { Ok(()) }
    }

    fn end(&mut self, columns: &[String], end: &Trailer, out: &mut Out) -> Result<()> {
        if !self.page.is_empty() || end.rows == 0 {
            self.turn(columns, out)?;
        }
        out.flush()?;
        eprintln!("{}", counted(end.rows, "row"));
        Ok(())
    }
}

fn render(columns: &[String], rows: &[Map<String, Value>], paint: Paint) -> String {
    let is_number = |column: &String| {
        let mut values = rows.iter().filter_map(|row| row.get(column)).filter(|v| !v.is_null());
        values.all(Value::is_number)
    };
    let titles: Vec<(String, Align)> = columns
        .iter()
        .map(|column| {
            let align = if is_number(column) { Align::Right } else { Align::Left };
            (fit(&clean(column), CELL), align)
        })
        .collect();
    let titles: Vec<(&str, Align)> =
        titles.iter().map(|(title, align)| (title.as_str(), *align)).collect();
    let mut table = Table::new(&titles);
    for row in rows {
        table.row(columns.iter().map(|column| cell(row.get(column))).collect());
    }
    table.render(paint)
}

fn cell(value: Option<&Value>) -> (Style, String) {
    match value {
        None | Some(Value::Null) => (Style::Dim, "null".into()),
        Some(Value::String(text)) => (Style::Plain, fit(&clean(text), CELL)),
        Some(value) => (Style::Plain, fit(&clean(&value.to_string()), CELL)),
    }
}

fn show_schema(common: &Common) -> Result<Answer> {
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Json => {
            for (name, sort) in search::columns() {
                writeln!(out, "{}", serde_json::json!({ "column": name, "type": sort }))?;
            }
        }
        Format::Csv => return Err(Usage("--schema has no CSV: take json or table".into()).into()),
        Format::Table => {
            let mut table = Table::new(&[("column", Align::Left), ("type", Align::Left)]);
            for (name, sort) in search::columns() {
                table.row(vec![(Style::Bold, name.into()), (Style::Plain, sort.into())]);
            }
            for (name, record) in TABLES {
                let of = record.map_or("every row".into(), |record| format!("record = '{record}'"));
                writeln!(out, "{name:<12} {of}")?;
            }
            writeln!(out)?;
            out.write_all(table.render(Paint::of_stdout()).as_bytes())?;
        }
    }
    Ok(Answer::Done)
}

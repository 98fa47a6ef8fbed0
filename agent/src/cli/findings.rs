//! `dbwarden findings`: what the rules have found, an episode a line.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use time::{UtcDateTime, format_description::well_known::Rfc3339};

use super::{
    Answer, Common, Format,
    ask::{Ledger, ask},
    block_on, csv,
    filters::{Filters, zone_name},
    table::{Align, Table},
    terminal::{Paint, Style, clean, fit, width},
};
use crate::search::{self, Line, Page, Request, Trailer, Zone};

#[derive(Debug, Args)]
pub struct Findings {
    #[command(flatten)]
    filters: Filters,
    /// At most so many rows, the newest ones; an episode has one for its beginning and one for its end
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    ledger: Ledger,
}

/// What the table shows of a row.
const SHOWN: [&str; 16] = [
    "action",
    "severity",
    "verdict",
    "rule",
    "message",
    "counts",
    "principal",
    "login_user",
    "os_user",
    "unit",
    "container",
    "client_address",
    "db_user",
    "database",
    "summary",
    "text",
];

/// Of a cell: one long name must not push everything else off the screen.
const CELL: usize = 36;

/// A row of the ledger.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    time: String,
    connection: Option<String>,
    sequence: Option<u64>,
    action: String,
    severity: Option<String>,
    rule: Option<String>,
    message: Option<String>,
    counts: Option<HashMap<String, u64>>,
    principal: Option<String>,
    login_user: Option<String>,
    os_user: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    client_address: Option<String>,
    db_user: Option<String>,
    database: Option<String>,
    text: Option<String>,
}

pub fn findings(common: &Common, arguments: &Findings) -> Result<Answer> {
    let filter = arguments.filters.filter(UtcDateTime::now())?;
    let columns = match common.format() {
        Format::Table => SHOWN.map(str::to_owned).to_vec(),
        Format::Json | Format::Csv => Vec::new(),
    };
    let page = Page::Newest(arguments.limit);
    let search = search::Search { filter, page, findings: true, columns };
    block_on(show(common, arguments, &Request::Search(search)))
}

async fn show(common: &Common, arguments: &Findings, request: &Request) -> Result<Answer> {
    let mut answer = ask(common, &arguments.ledger, request).await?;
    let mut out = io::BufWriter::new(io::stdout());
    let mut columns = Vec::new();
    let mut episodes = Episodes::default();
    loop {
        match (answer.next().await?, common.format()) {
            (Line::Columns(names), format) => {
                columns = names;
                if format == Format::Csv {
                    csv::header(&mut out, &columns)?;
                }
            }
            (Line::Row(row), Format::Json) => {
                out.write_all(row)?;
                out.write_all(b"\n")?;
            }
            (Line::Row(row), Format::Csv) => {
                csv::row(&mut out, &columns, &serde_json::from_slice(row)?)?;
            }
            (Line::Row(row), Format::Table) => episodes.take(serde_json::from_slice(row)?),
            (Line::End(end), format) => {
                if format == Format::Table {
                    let table = episodes.render(arguments.filters.zone());
                    out.write_all(table.as_bytes())?;
                    note(&end);
                }
                out.flush()?;
                return Ok(Answer::Done);
            }
            (Line::Error(words), _) => return Err(anyhow::anyhow!(words)),
        }
    }
}

fn note(end: &Trailer) {
    match (end.rows, end.more) {
        (0, _) => eprintln!("nothing was found"),
        (_, Some(true)) => eprintln!("there are older ones: --since, --until or a larger --limit"),
        _ => {}
    }
}

/// Beginnings with their ends, in the order in which they came.
#[derive(Default)]
struct Episodes {
    rows: Vec<Row>,
    /// Where the episode of a rule that began with a statement stands among `rows`.
    begun: HashMap<(String, String, u64), usize>,
}

impl Episodes {
    fn take(&mut self, row: Row) {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let key = (part(&row.rule), part(&row.connection), row.sequence.unwrap_or(0));
        let began = self.begun.get(&key).and_then(|at| self.rows.get_mut(*at));
        match began.filter(|_| row.action == "ended") {
            Some(began) => began.counts = row.counts.or(Some(HashMap::new())),
            None => {
                self.begun.insert(key, self.rows.len());
                self.rows.push(row);
            }
        }
    }

    fn render(&self, zone: Zone) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let titles = [
            ("time", Align::Left),
            ("severity", Align::Left),
            ("rule", Align::Left),
            ("who", Align::Left),
            ("session", Align::Left),
            ("statements", Align::Right),
            ("what", Align::Left),
        ];
        let mut table = Table::new(&titles);
        for row in &self.rows {
            let style = match row.severity.as_deref() {
                Some("critical" | "high") => Style::Bad,
                Some("medium") => Style::Warning,
                _ => Style::Dim,
            };
            let n = row.counts.as_ref().and_then(|counts| counts.get("statements"));
            // An end whose beginning isn't shown counts too; what goes on is not counted yet.
            let statements = match (n, row.connection.is_some()) {
                (Some(n), _) => n.to_string(),
                (None, true) => "…".to_owned(),
                (None, false) => String::new(),
            };
            let session = match (&row.db_user, &row.database) {
                (None, None) => String::new(),
                (user, database) => {
                    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".into());
                    format!("{}@{}", part(user), part(database))
                }
            };
            let what = row.text.as_ref().or(row.message.as_ref());
            table.row(vec![
                (Style::Dim, clock(&row.time, zone)),
                (style, clean(row.severity.as_deref().unwrap_or_default())),
                (Style::Bold, fit(&clean(row.rule.as_deref().unwrap_or_default()), CELL)),
                (Style::Plain, fit(&clean(&row.who()), CELL)),
                (Style::Plain, fit(&clean(&session), CELL)),
                (Style::Plain, statements),
                (Style::Plain, fit(&clean(what.map_or("", String::as_str)), width() / 2)),
            ]);
        }
        table.render(Paint::of_stdout())
    }
}

impl Row {
    /// The best name for the sender that is verified.
    fn who(&self) -> String {
        let names = [
            &self.principal,
            &self.login_user,
            &self.os_user,
            &self.unit,
            &self.container,
            &self.client_address,
        ];
        names.into_iter().flatten().next().cloned().unwrap_or_default()
    }
}

/// `2026-11-25 03:04:05`, with the offset where it is not UTC.
fn clock(time: &str, zone: Zone) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    UtcDateTime::parse(time, &Rfc3339)
        .ok()
        .and_then(|time| {
            let offset = zone(time);
            let shown = time.to_offset(offset).format(format).ok()?;
            Some(if offset.is_utc() { shown } else { format!("{shown} {}", zone_name(offset)) })
        })
        .unwrap_or_else(|| "?".into())
}

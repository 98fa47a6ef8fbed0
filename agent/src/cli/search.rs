//! `dbwarden search`: statements of the ledger, oldest first, and those to come with `--follow`.

use std::{
    collections::{HashSet, VecDeque},
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};
use time::{UtcDateTime, format_description::well_known::Rfc3339};

use super::{
    Answer, Common, Format,
    ask::{Ledger, ask},
    block_on, csv,
    filters::{Filters, zone_name},
    terminal,
    watch::{Line as Shown, View},
};
use crate::{
    event::WallTime,
    search::{self, Filter, Line, Page, Request, RowKey, Trailer, Zone},
};

#[derive(Debug, Args)]
pub struct Search {
    /// Parts of the statement's text, in any case; all must stand in it
    text: Vec<String>,
    #[command(flatten)]
    filters: Filters,
    /// At most so many statements, the newest ones unless --after is given
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// All that there are, as a stream
    #[arg(long, conflicts_with_all = ["limit", "after", "before"])]
    all: bool,
    /// Those that come next after this row, as a search before has named it
    #[arg(long, value_name = "ROW")]
    after: Option<RowKey>,
    /// Those that come just before this row
    #[arg(long, value_name = "ROW", conflicts_with = "after")]
    before: Option<RowKey>,
    /// Go on with statements as they are recorded
    #[arg(long, conflicts_with_all = ["all", "after", "before", "until"])]
    follow: bool,
    #[command(flatten)]
    ledger: Ledger,
}

/// Between two looks at the ledger.
const FOLLOW_PAUSE: Duration = Duration::from_millis(700);
/// A statement can be found two seconds after its end at most: each look goes back further than that.
const FOLLOW_BACK_US: i64 = 3_000_000;
/// Rows that are remembered as shown already; more don't come within the time that looks go back.
const FOLLOW_REMEMBERED: usize = 200_000;

/// What the table shows of a row.
const SHOWN: [&str; 32] = [
    "duration_us",
    "server",
    "database",
    "db_user",
    "client_address",
    "client_port",
    "principal",
    "principal_kind",
    "principal_rule",
    "initiator",
    "pid",
    "exe",
    "command",
    "uid",
    "os_user",
    "login_user",
    "login_strength",
    "unit",
    "container",
    "text",
    "text_known",
    "parameters",
    "rows",
    "error_code",
    "error_message",
    "transaction",
    "truncated_bytes",
    "lost_bytes",
    "effects",
    "tables",
    "verdict",
    "rule",
];

pub fn search(common: &Common, arguments: &Search) -> Result<Answer> {
    let mut filter = arguments.filters.filter(UtcDateTime::now())?;
    filter.text.clone_from(&arguments.text);
    block_on(show(common, arguments, filter))
}

async fn show(common: &Common, arguments: &Search, filter: Filter) -> Result<Answer> {
    let mut printer = Printer::new(common.format(), arguments.filters.zone());
    let page = match (&arguments.after, &arguments.before) {
        _ if arguments.all => Page::All,
        (Some(row), _) => Page::After(row.clone(), arguments.limit),
        (None, Some(row)) => Page::Before(row.clone(), arguments.limit),
        (None, None) => Page::Newest(arguments.limit),
    };
    let begun = now();
    let request = |filter: &Filter, page| {
        let columns = match common.format() {
            Format::Table => SHOWN.map(str::to_owned).to_vec(),
            Format::Json | Format::Csv => Vec::new(),
        };
        Request::Search(search::Search { filter: filter.clone(), page, findings: false, columns })
    };
    let mut seen = Seen::default();
    let first = request(&filter, page);
    let end = one(common, &arguments.ledger, &first, &mut printer, |row| {
        !arguments.follow || seen.is_new(row)
    })
    .await?;
    if common.format() == Format::Table {
        note(&end, arguments);
    }
    if !arguments.follow {
        return Ok(Answer::Done);
    }
    let mut from = begun;
    loop {
        tokio::time::sleep(FOLLOW_PAUSE).await;
        let next = now();
        let filter = Filter {
            recorded_since: Some(WallTime(from.0.saturating_sub(FOLLOW_BACK_US))),
            since: None,
            ..filter.clone()
        };
        let request = request(&filter, Page::All);
        one(common, &arguments.ledger, &request, &mut printer, |row| seen.is_new(row)).await?;
        from = next;
    }
}

/// Asks once, and prints the rows that are wanted.
async fn one(
    common: &Common,
    ledger: &Ledger,
    request: &Request,
    printer: &mut Printer,
    mut is_wanted: impl FnMut(&Map<String, Value>) -> bool,
) -> Result<Trailer> {
    let mut answer = ask(common, ledger, request).await?;
    loop {
        match answer.next().await? {
            Line::Columns(columns) => printer.columns(columns)?,
            Line::Row(bytes) => {
                let row: Map<String, Value> = serde_json::from_slice(bytes)?;
                if is_wanted(&row) {
                    printer.row(bytes, row)?;
                }
            }
            Line::End(end) => {
                printer.out.flush()?;
                return Ok(end);
            }
            Line::Error(words) => return Err(anyhow::anyhow!(words)),
        }
    }
}

/// Says on standard error how to get at what is not shown.
fn note(end: &Trailer, arguments: &Search) {
    match (end.rows, end.more, &end.first, &end.last) {
        (0, ..) if !arguments.follow => eprintln!("no statement found"),
        (n, Some(true), _, Some(last)) if arguments.after.is_some() => {
            eprintln!(
                "{n} shown, there are newer ones: --after {last}, a larger --limit, or --all"
            );
        }
        (n, Some(true), Some(first), _) => {
            eprintln!(
                "{n} shown, there are older ones: --before {first}, a larger --limit, or --all"
            );
        }
        _ => {}
    }
}

/// Rows on standard output, in the form that was asked for.
struct Printer {
    format: Format,
    out: io::BufWriter<io::Stdout>,
    view: View,
    zone: Zone,
    columns: Vec<String>,
    /// The day that the last row was of, as its headline said.
    day: String,
}

impl Printer {
    fn new(format: Format, zone: Zone) -> Self {
        let out = io::BufWriter::new(io::stdout());
        let view = View::of_stdout(zone);
        Self { format, out, view, zone, columns: Vec::new(), day: String::new() }
    }

    fn columns(&mut self, columns: Vec<String>) -> io::Result<()> {
        if self.format == Format::Csv && self.columns.is_empty() {
            csv::header(&mut self.out, &columns)?;
        }
        self.columns = columns;
        Ok(())
    }

    fn row(&mut self, bytes: &[u8], row: Map<String, Value>) -> Result<()> {
        match self.format {
            Format::Json => {
                self.out.write_all(bytes)?;
                self.out.write_all(b"\n")?;
            }
            Format::Csv => csv::row(&mut self.out, &self.columns, &row)?,
            Format::Table => {
                let width = terminal::width();
                let time = row.get("time").and_then(Value::as_str).unwrap_or_default();
                let day = day(time, self.zone);
                if day != self.day {
                    writeln!(self.out, "{}", self.view.headline(&day, width))?;
                    self.day = day;
                }
                let shown: Shown = serde_json::from_value(Value::Object(row))?;
                writeln!(self.out, "{}", self.view.show(&shown, width))?;
            }
        }
        Ok(())
    }
}

/// `Mon 2026-11-23 (UTC+01:00)`
fn day(time: &str, zone: Zone) -> String {
    let format = time::macros::format_description!("[weekday repr:short] [year]-[month]-[day]");
    UtcDateTime::parse(time, &Rfc3339)
        .ok()
        .and_then(|time| {
            let offset = zone(time);
            let day = time.to_offset(offset).format(format).ok()?;
            Some(format!("{day} ({})", zone_name(offset)))
        })
        .unwrap_or_default()
}

/// The newest rows that were shown, by their keys.
#[derive(Default)]
struct Seen {
    keys: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    fn is_new(&mut self, row: &Map<String, Value>) -> bool {
        let part = |name| row.get(name).map(Value::to_string).unwrap_or_default();
        let key = ["time", "connection", "sequence"].map(part).join("/");
        if !self.keys.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > FOLLOW_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        true
    }
}

fn now() -> WallTime {
    let micros = UtcDateTime::now().unix_timestamp_nanos() / 1_000;
    WallTime(i64::try_from(micros).unwrap_or(i64::MAX))
}

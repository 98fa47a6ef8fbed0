//! `dbwarden findings`: what the rules have found, an episode a line.

use std::{collections::HashMap, io::Write};

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use time::UtcDateTime;

use super::{
    Answer, Common, Format,
    ask::Ledger,
    block_on, clock,
    filters::Filters,
    output::{Layout, Out, Output},
    table::{Align, Table},
    terminal::{Paint, Style, clean, fit, width},
    who::who,
};
use crate::search::{self, Page, Request, Trailer, Zone};

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
const SHOWN: [&str; 19] = [
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
    "destination_address",
    "destination_port",
    "destination_program",
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
    destination_address: Option<String>,
    destination_port: Option<u16>,
    destination_program: Option<String>,
}

/// What tells two episodes apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    rule: Option<String>,
    connection: Option<String>,
    sequence: Option<u64>,
    destination: Option<String>,
}

pub fn findings(common: &Common, arguments: &Findings) -> Result<Answer> {
    let filter = arguments.filters.filter(UtcDateTime::now())?;
    let columns = match common.format() {
        Format::Table => SHOWN.map(str::to_owned).to_vec(),
        Format::Json | Format::Csv => Vec::new(),
    };
    let page = Page::Newest(arguments.limit);
    let request = Request::Search(search::Search { filter, page, findings: true, columns });
    let mut episodes = Episodes::new(arguments.filters.zone());
    let show = async {
        Output::new(common, &arguments.ledger).show(&request, &mut episodes).await?;
        Ok(Answer::Done)
    };
    block_on(show)
}

fn note(end: &Trailer) {
    match (end.rows, end.more) {
        (0, _) => eprintln!("nothing was found"),
        (_, Some(true)) => eprintln!("there are older ones: --since, --until or a larger --limit"),
        _ => {}
    }
}

/// Beginnings with their ends, in the order in which they came.
struct Episodes {
    zone: Zone,
    rows: Vec<Row>,
    /// Where the episode of a rule that began with a statement stands among `rows`.
    begun: HashMap<Key, usize>,
}

impl Layout for Episodes {
    fn row(&mut self, _: &[String], row: &[u8], _: &mut Out) -> Result<()> {
        self.take(serde_json::from_slice(row)?);
        Ok(())
    }

    fn end(&mut self, _: &[String], end: &Trailer, out: &mut Out) -> Result<()> {
        out.write_all(self.render().as_bytes())?;
        note(end);
        Ok(())
    }
}

impl Episodes {
    fn new(zone: Zone) -> Self {
        Self { zone, rows: Vec::new(), begun: HashMap::new() }
    }

    fn take(&mut self, row: Row) {
        let key = Key {
            rule: row.rule.clone(),
            connection: row.connection.clone(),
            sequence: row.sequence,
            destination: row.destination(),
        };
        let began = self.begun.get(&key).and_then(|at| self.rows.get_mut(*at));
        match began.filter(|_| row.action == "ended") {
            Some(began) => began.counts = row.counts.or(Some(HashMap::new())),
            None => {
                self.begun.insert(key, self.rows.len());
                self.rows.push(row);
            }
        }
    }

    fn render(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let titles = [
            ("time", Align::Left),
            ("severity", Align::Left),
            ("rule", Align::Left),
            ("who", Align::Left),
            ("session", Align::Left),
            ("times", Align::Right),
            ("what", Align::Left),
        ];
        let mut table = Table::new(&titles);
        for row in &self.rows {
            let style = match row.severity.as_deref() {
                Some("critical" | "high") => Style::Bad,
                Some("medium") => Style::Warning,
                _ => Style::Dim,
            };
            let (destination, counts) = (row.destination(), row.counts.as_ref());
            let name = if destination.is_some() { "connections" } else { "statements" };
            let n = counts.and_then(|counts| counts.get(name));
            // An end whose beginning isn't shown counts too; what goes on is not counted yet.
            let times = match (n, row.connection.is_some() || destination.is_some()) {
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
            let what = row.text.as_ref().or(destination.as_ref()).or(row.message.as_ref());
            table.row(vec![
                (Style::Dim, time(&row.time, self.zone)),
                (style, clean(row.severity.as_deref().unwrap_or_default())),
                (Style::Bold, fit(&clean(row.rule.as_deref().unwrap_or_default()), CELL)),
                (Style::Plain, fit(&clean(who!(row).unwrap_or_default()), CELL)),
                (Style::Plain, fit(&clean(&session), CELL)),
                (Style::Plain, times),
                (Style::Plain, fit(&clean(what.map_or("", String::as_str)), width() / 2)),
            ]);
        }
        table.render(Paint::of_stdout())
    }
}

impl Row {
    /// `10.0.0.1 port 443 by /usr/bin/curl`
    fn destination(&self) -> Option<String> {
        let address = self.destination_address.as_ref()?;
        let port = self.destination_port.map(|port| format!(" port {port}")).unwrap_or_default();
        let by = self.destination_program.as_ref().map(|exe| format!(" by {exe}"));
        Some(format!("{address}{port}{}", by.unwrap_or_default()))
    }
}

/// `11-25 03:04:05`
fn time(time: &str, zone: Zone) -> String {
    clock::parse(time).map_or_else(|| "?".into(), |time| clock::day_and_second(time, zone))
}

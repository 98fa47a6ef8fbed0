//! `dbwarden timeline`: who connected, what they did, what data was touched, on one screen.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use time::{Duration, UtcDateTime, format_description::well_known::Rfc3339};
use unicode_width::UnicodeWidthStr;

use super::{
    Answer, Common, Format,
    ask::{Ledger, ask},
    block_on, csv,
    filters::{Filters, zone_name},
    terminal::{self, Paint, Style, clean, count, counted, duration, fit, left, right},
};
use crate::{
    event::WallTime,
    search::{self, Filter, Line, Request, Trailer, Zone},
};

#[derive(Debug, Args)]
pub struct Timeline {
    #[command(flatten)]
    filters: Filters,
    /// At most so many lines, those that stand out most; by default what fits on the screen
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: Option<u32>,
    #[command(flatten)]
    ledger: Ledger,
}

/// Where nobody says since when.
const SPAN: Duration = Duration::HOUR;
/// Lines where there is no screen.
const LINES: u32 = 1_000;
/// Of a screen, for headline, footer and the next prompt.
const FRAME: u32 = 4;

pub fn timeline(common: &Common, arguments: &Timeline) -> Result<Answer> {
    let now = UtcDateTime::now();
    let mut filter = arguments.filters.filter(now)?;
    if filter.since.is_none() && filter.until.is_none() {
        let micros = now.saturating_sub(SPAN).unix_timestamp_nanos() / 1_000;
        filter.since = Some(WallTime(i64::try_from(micros).unwrap_or(0)));
    }
    block_on(show(common, arguments, filter))
}

async fn show(common: &Common, arguments: &Timeline, filter: Filter) -> Result<Answer> {
    let lines = arguments.limit.unwrap_or_else(|| match common.format() {
        Format::Table => terminal::height().map_or(40, |rows| rows.saturating_sub(FRAME).max(10)),
        Format::Json | Format::Csv => LINES,
    });
    let turned = Turned::of(&filter);
    let request = Request::Timeline(search::Timeline { filter, lines });
    let mut answer = ask(common, &arguments.ledger, &request).await?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut columns = Vec::new();
    let mut shown: Vec<Entry> = Vec::new();
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
            (Line::Row(row), Format::Table) => shown.push(serde_json::from_slice(row)?),
            (Line::End(end), format) => {
                if format == Format::Table {
                    let screen = Screen {
                        paint: Paint::of_stdout(),
                        zone: arguments.filters.zone(),
                        width: terminal::width(),
                        turned,
                    };
                    out.write_all(screen.render(&shown, &end).as_bytes())?;
                }
                out.flush()?;
                return Ok(Answer::Done);
            }
            (Line::Error(words), _) => return Err(anyhow::anyhow!(words)),
        }
    }
}

/// What the timeline is turned around: it stands first in each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turned {
    Person,
    Database,
    /// What is done to it stands first.
    Table,
}

impl Turned {
    fn of(filter: &Filter) -> Self {
        match (&filter.who, &filter.table, &filter.database) {
            (Some(_), ..) | (None, None, None) => Self::Person,
            (None, Some(_), _) => Self::Table,
            (None, None, Some(_)) => Self::Database,
        }
    }
}

/// One line of a timeline, by the names of the answer's columns.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    record: String,
    action: Option<String>,
    who: String,
    kind: Option<String>,
    initiator: Option<String>,
    server: Option<String>,
    database: Option<String>,
    db_user: Option<String>,
    client_address: Option<String>,
    first: String,
    last: String,
    count: u64,
    rows: Option<u64>,
    errors: u64,
    error_code: Option<String>,
    max_duration_us: Option<u64>,
    effects: Option<Vec<String>>,
    summary: Option<String>,
    text: Option<String>,
    message: Option<String>,
    weight: String,
}

struct Screen {
    paint: Paint,
    zone: Zone,
    width: usize,
    turned: Turned,
}

const CLOCK: usize = 8;
const COUNT: usize = 7;
const ROWS: usize = 11;
const LONGEST: usize = 8;

impl Screen {
    fn render(&self, entries: &[Entry], end: &Trailer) -> String {
        let mut text = self.headline(end);
        for entry in entries {
            text += &self.entry(entry);
            text.push('\n');
        }
        let about = end.timeline.clone().unwrap_or_default();
        if about.lines_left_out > 0 {
            let words = format!(
                "… and {} more of {}: --limit, --who, --table or a shorter time show them",
                counted(about.lines_left_out, "line"),
                counted(about.statements_left_out, "statement"),
            );
            text += &self.paint.paint(Style::Dim, &fit(&words, self.width));
            text.push('\n');
        }
        text
    }

    fn headline(&self, end: &Trailer) -> String {
        let Some(about) = &end.timeline else { return String::new() };
        let (Some(first), Some(last)) = (about.first, about.last) else {
            return "nothing was recorded in that time\n".into();
        };
        let (from, to) = (first.to_utc(), last.to_utc());
        let (from_day, to_day) = (self.day(from), self.day(to));
        let span = match from_day == to_day {
            true => format!("{from_day} {} to {}", self.clock(from), self.clock(to)),
            false => format!("{from_day} {} to {to_day} {}", self.clock(from), self.clock(to)),
        };
        let errors = match about.errors {
            0 => String::new(),
            n => format!(", {}", counted(n, "error")),
        };
        let words = format!(
            "{span} ({}), {}{errors}",
            zone_name((self.zone)(to)),
            counted(about.statements, "statement"),
        );
        self.paint.paint(Style::Bold, &fit(&words, self.width)) + "\n"
    }

    fn entry(&self, entry: &Entry) -> String {
        let clock = |text: &str| {
            UtcDateTime::parse(text, &Rfc3339).map(|time| self.clock(time)).unwrap_or_default()
        };
        let (first, last) = (clock(&entry.first), clock(&entry.last));
        let until = if first == last { String::new() } else { format!("–{last}") };
        let (mark, style) = match entry.weight.as_str() {
            "record" => ("!", Style::Warning),
            "unusual" => ("!", Style::Bad),
            "notable" => ("·", Style::Plain),
            _ => (" ", Style::Dim),
        };
        let who = match (entry.kind.as_deref(), &entry.initiator) {
            (Some("ai"), Some(initiator)) => format!("ai {initiator}→{}", entry.who),
            (Some(kind @ ("ai" | "service")), _) => format!("{} ({kind})", entry.who),
            _ => entry.who.clone(),
        };
        let place = match (&entry.db_user, &entry.database) {
            (None, None) => entry.server.clone().unwrap_or_default(),
            (user, database) => {
                let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".into());
                format!("{}@{}", part(user), part(database))
            }
        };
        let done = entry.effects.as_deref().unwrap_or_default().join("+");
        let who = (Style::Bold, clean(&who), (self.width / 6).clamp(10, 24));
        let place = (Style::Plain, clean(&place), (self.width / 7).clamp(10, 24));
        let done = (style, clean(&done), 12);
        let keys = match self.turned {
            Turned::Person => vec![who, place],
            Turned::Database => vec![place, who],
            Turned::Table => vec![done, who, place],
        };
        let mut cells =
            vec![(Style::Dim, left(&first, CLOCK)), (Style::Dim, left(&until, CLOCK + 1))];
        cells.extend(keys.into_iter().map(|(style, text, width)| (style, left(&text, width))));
        let times =
            if entry.count > 1 { format!("×{}", count(entry.count)) } else { String::new() };
        cells.push((Style::Plain, right(&times, COUNT)));
        let rows = entry.rows.map(|rows| counted(rows, "row")).unwrap_or_default();
        cells.push((Style::Dim, right(&rows, ROWS)));
        let longest = entry.max_duration_us.map(duration).unwrap_or_default();
        cells.push((Style::Dim, right(&longest, LONGEST)));
        cells.push((style, mark.to_owned()));
        let used: usize = cells.iter().map(|(_, text)| text.width() + 2).sum();
        let what = fit(&what(entry), self.width.saturating_sub(used));
        cells.push((style, what));
        let shown: Vec<String> =
            cells.iter().map(|(style, text)| self.paint.paint(*style, text)).collect();
        shown.join("  ").trim_end().to_owned()
    }

    fn clock(&self, time: UtcDateTime) -> String {
        let format = time::macros::format_description!("[hour]:[minute]:[second]");
        time.to_offset((self.zone)(time)).format(format).unwrap_or_default()
    }

    fn day(&self, time: UtcDateTime) -> String {
        let format = time::macros::format_description!("[weekday repr:short] [year]-[month]-[day]");
        time.to_offset((self.zone)(time)).format(format).unwrap_or_default()
    }
}

/// What was done, in a line that is clean.
fn what(entry: &Entry) -> String {
    let action = entry.action.as_deref().unwrap_or_default();
    let words = match entry.record.as_str() {
        "statement" => {
            let text = entry.text.as_deref().or(entry.summary.as_deref());
            let text = text.unwrap_or("(text unknown)");
            match (entry.errors, &entry.error_code) {
                (0, _) => text.to_owned(),
                (n, code) => {
                    let code = code.as_deref().unwrap_or_default();
                    format!("{} ({code}) ← {text}", counted(n, "error"))
                }
            }
        }
        record => {
            let message = entry.message.as_deref().unwrap_or_default();
            let from = entry.client_address.as_deref().filter(|_| record == "connection");
            let from = from.map(|address| format!(" from {address}")).unwrap_or_default();
            let colon = if message.is_empty() { "" } else { ": " };
            format!("{record} {action}{from}{colon}{message}")
        }
    };
    clean(&words)
}

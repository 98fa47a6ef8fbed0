//! `dbwarden timeline`: who connected, what they did, what data was touched, on one screen.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use time::{Duration, UtcDateTime};
use unicode_width::UnicodeWidthStr;

use super::{
    Answer, Common, Format,
    ask::Ledger,
    block_on, clock,
    filters::Filters,
    output::{Layout, Out, Output},
    table::Align,
    terminal::{self, Paint, Style, clean, count, counted, duration, fit, left, right},
};
use crate::{
    event::WallTime,
    search::{self, Filter, Request, TimelineTrailer, Trailer, Zone},
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
        filter.since = Some(WallTime::from_utc(now.saturating_sub(SPAN)));
    }
    block_on(show(common, arguments, filter))
}

async fn show(common: &Common, arguments: &Timeline, filter: Filter) -> Result<Answer> {
    let lines = arguments.limit.unwrap_or_else(|| match common.format() {
        Format::Table => terminal::height().map_or(40, |rows| rows.saturating_sub(FRAME).max(10)),
        Format::Json | Format::Csv => LINES,
    });
    let mut screen = Screen {
        paint: Paint::of_stdout(),
        zone: arguments.filters.zone(),
        width: terminal::width(),
        turned: Turned::of(&filter),
        entries: Vec::new(),
    };
    let request = Request::Timeline(search::Timeline { filter, lines });
    Output::new(common, &arguments.ledger).show(&request, &mut screen).await?;
    Ok(Answer::Done)
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

/// A screen that is written when its last line is known.
struct Screen {
    paint: Paint,
    zone: Zone,
    width: usize,
    turned: Turned,
    entries: Vec<Entry>,
}

/// What stands before the words of a line, over all lines.
struct Column {
    align: Align,
    /// Never wider.
    cap: usize,
    /// Where the words would have too little room without it, the column with the lowest goes first.
    goes: Option<u8>,
}

/// Cells without their blanks, and the words.
struct Line {
    cells: Vec<(Style, String)>,
    style: Style,
    what: String,
}

impl Layout for Screen {
    fn row(&mut self, _: &[String], row: &[u8], _: &mut Out) -> Result<()> {
        self.entries.push(serde_json::from_slice(row)?);
        Ok(())
    }

    fn end(&mut self, _: &[String], end: &Trailer, out: &mut Out) -> Result<()> {
        Ok(out.write_all(self.render(end).as_bytes())?)
    }
}

impl Screen {
    fn render(&self, end: &Trailer) -> String {
        let about = end.timeline.clone().unwrap_or_default();
        let mut text = self.headline(&about);
        let lines: Vec<Line> =
            self.entries.iter().map(|entry| self.line(entry, self.crosses_days(&about))).collect();
        let (widths, room) = self.widths(&lines);
        for line in &lines {
            text += &self.laid_out(line, &widths, room);
            text.push('\n');
        }
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

    fn columns(&self) -> Vec<Column> {
        let column = |align, cap, goes| Column { align, cap, goes };
        let who = column(Align::Left, (self.width / 6).clamp(10, 24), None);
        let place = column(Align::Left, (self.width / 7).clamp(10, 24), None);
        let time = |goes| column(Align::Left, 15, goes);
        let mut columns = vec![time(None), time(Some(1))];
        columns.extend(match self.turned {
            Turned::Person => vec![who, place],
            Turned::Database => vec![place, who],
            Turned::Table => vec![column(Align::Left, 12, None), who, place],
        });
        columns.push(column(Align::Right, 7, None));
        columns.push(column(Align::Right, 11, Some(2)));
        columns.push(column(Align::Right, 8, Some(0)));
        columns.push(column(Align::Left, 1, None));
        columns
    }

    /// As wide as what stands in them, none for those that are left out; and the room for the words.
    fn widths(&self, lines: &[Line]) -> (Vec<(Align, usize)>, usize) {
        let columns = self.columns();
        let widest = |at: usize, cap: usize| {
            let cells = lines.iter().filter_map(|line| line.cells.get(at));
            cells.map(|(_, text)| text.width()).max().unwrap_or(0).min(cap)
        };
        let mut widths: Vec<(Align, usize)> = columns
            .iter()
            .enumerate()
            .map(|(at, column)| (column.align, widest(at, column.cap)))
            .collect();
        let room = |widths: &[(Align, usize)]| {
            let used = widths.iter().filter(|(_, width)| *width > 0).map(|(_, width)| width + 2);
            self.width.saturating_sub(used.sum())
        };
        for next in 0..=2 {
            if room(&widths) >= self.width / 3 {
                break;
            }
            let going = widths.iter_mut().zip(&columns).filter(|(_, c)| c.goes == Some(next));
            going.for_each(|((_, width), _)| *width = 0);
        }
        let room = room(&widths);
        (widths, room)
    }

    fn laid_out(&self, line: &Line, widths: &[(Align, usize)], room: usize) -> String {
        let mut shown = String::new();
        for ((style, text), (align, width)) in line.cells.iter().zip(widths) {
            if *width > 0 {
                let cell = match align {
                    Align::Left => left(text, *width),
                    Align::Right => right(text, *width),
                };
                shown += &self.paint.paint(*style, &cell);
                shown += "  ";
            }
        }
        shown += &self.paint.paint(line.style, &fit(&line.what, room));
        shown.trim_end().to_owned()
    }

    fn crosses_days(&self, about: &TimelineTrailer) -> bool {
        let day = |time: Option<WallTime>| time.map(|time| clock::day(time.to_utc(), self.zone));
        day(about.first) != day(about.last)
    }

    fn headline(&self, about: &TimelineTrailer) -> String {
        let (Some(first), Some(last)) = (about.first, about.last) else {
            return "nothing was recorded in that time\n".into();
        };
        let (from, to) = (first.to_utc(), last.to_utc());
        let [from_day, to_day] = [from, to].map(|time| clock::day(time, self.zone));
        let [from, until] = [from, to].map(|time| clock::second(time, self.zone));
        let span = match from_day == to_day {
            true => format!("{from_day} {from} to {until}"),
            false => format!("{from_day} {from} to {to_day} {until}"),
        };
        let errors = match about.errors {
            0 => String::new(),
            n => format!(", {}", counted(n, "error")),
        };
        let words = format!(
            "{span} ({}), {}{errors}",
            clock::zone_name(to, self.zone),
            counted(about.statements, "statement"),
        );
        self.paint.paint(Style::Bold, &fit(&words, self.width)) + "\n"
    }

    fn line(&self, entry: &Entry, with_day: bool) -> Line {
        let shown = if with_day { clock::day_and_second } else { clock::second };
        let [first, last] = [&entry.first, &entry.last]
            .map(|text| clock::parse(text).map(|time| shown(time, self.zone)).unwrap_or_default());
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
        let who = (Style::Bold, clean(&who));
        let place = (Style::Plain, clean(&place));
        let mut cells = vec![(Style::Dim, first), (Style::Dim, until)];
        cells.extend(match self.turned {
            Turned::Person => vec![who, place],
            Turned::Database => vec![place, who],
            Turned::Table => vec![(style, clean(&done)), who, place],
        });
        let times =
            if entry.count > 1 { format!("×{}", count(entry.count)) } else { String::new() };
        cells.push((Style::Plain, times));
        cells.push((Style::Dim, entry.rows.map(|n| counted(n, "row")).unwrap_or_default()));
        cells.push((Style::Dim, entry.max_duration_us.map(duration).unwrap_or_default()));
        cells.push((style, mark.to_owned()));
        Line { cells, style, what: what(entry) }
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

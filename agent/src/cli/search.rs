//! `dbwarden search`: statements of the ledger, oldest first, and those to come with `--follow`.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    io::Write,
    sync::Arc,
    time::Duration,
};

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
    terminal,
    watch::{Line as Shown, View},
};
use crate::{
    event::WallTime,
    search::{self, Filter, Page, Request, RowKey, Trailer, Zone},
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
    /// Show in front of each row its SEGMENT:ROW, which `dbwarden verify --prove` takes
    ///
    /// JSON and CSV always have them, as `segment` and `segment_row`. A row whose segment is still open
    /// has no number yet, and can't be proven yet: search for it again when that is sealed, as it is
    /// when it is full or old enough (`seal_bytes` and `seal_after` in [ledger]).
    #[arg(long)]
    places: bool,
    #[command(flatten)]
    ledger: Ledger,
}

/// Between two looks at the ledger.
const FOLLOW_PAUSE: Duration = Duration::from_millis(700);
/// A statement can be found two seconds after its end at most: each look goes back further than that.
const FOLLOW_BACK_US: i64 = 3_000_000;
/// Rows that are remembered as shown already; more don't come within the time that looks go back.
const FOLLOW_REMEMBERED: usize = 200_000;

/// Where a row is, and the cells that it takes to say so.
const PLACE: [&str; 2] = ["segment", "segment_row"];
const PLACE_WIDTH: usize = 11;
/// What the table shows of a row.
const SHOWN: [&str; 33] = [
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
    "masked",
];

pub fn search(common: &Common, arguments: &Search) -> Result<Answer> {
    let mut filter = arguments.filters.filter(UtcDateTime::now())?;
    filter.text.clone_from(&arguments.text);
    block_on(show(common, arguments, filter))
}

async fn show(common: &Common, arguments: &Search, filter: Filter) -> Result<Answer> {
    let page = match (&arguments.after, &arguments.before) {
        _ if arguments.all => Page::All,
        (Some(row), _) => Page::After(row.clone(), arguments.limit),
        (None, Some(row)) => Page::Before(row.clone(), arguments.limit),
        (None, None) => Page::Newest(arguments.limit),
    };
    let columns = match common.format() {
        Format::Table => columns(arguments.places),
        Format::Json | Format::Csv => Vec::new(),
    };
    let request = |filter: Filter, page| {
        Request::Search(search::Search { filter, page, findings: false, columns: columns.clone() })
    };
    let mut output = Output::new(common, &arguments.ledger);
    let mut lines = Statements::new(arguments);
    let mut from = now();
    let end = output.show(&request(filter.clone(), page), &mut lines).await?;
    if common.format() == Format::Table {
        note(&end, arguments);
    }
    if !arguments.follow {
        return Ok(Answer::Done);
    }
    loop {
        tokio::time::sleep(FOLLOW_PAUSE).await;
        let next = now();
        let filter = Filter {
            recorded_since: Some(WallTime(from.0.saturating_sub(FOLLOW_BACK_US))),
            since: None,
            ..filter.clone()
        };
        output.show(&request(filter, Page::All), &mut lines).await?;
        from = next;
    }
}

/// What the table shows of a row.
fn columns(places: bool) -> Vec<String> {
    let place = if places { &PLACE[..] } else { &[] };
    SHOWN.iter().chain(place).map(|&name| name.to_owned()).collect()
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

/// One line a statement, under its day.
struct Statements {
    view: View,
    zone: Zone,
    places: bool,
    /// The day that the last row was of, as its headline said.
    day: String,
    /// While following.
    seen: Option<Seen>,
}

/// Of a row, what stands beside what [`View`] shows.
#[derive(Deserialize)]
struct Placed<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    segment: Option<u64>,
    segment_row: Option<u64>,
}

impl Statements {
    fn new(arguments: &Search) -> Self {
        let zone = arguments.filters.zone();
        Self {
            view: View::of_stdout(zone),
            zone,
            places: arguments.places,
            day: String::new(),
            seen: arguments.follow.then(Seen::default),
        }
    }
}

impl Layout for Statements {
    fn wants(&mut self, row: &[u8]) -> Result<bool> {
        match &mut self.seen {
            None => Ok(true),
            Some(seen) => Ok(seen.is_new(serde_json::from_slice(row)?)),
        }
    }

    fn row(&mut self, _: &[String], row: &[u8], out: &mut Out) -> Result<()> {
        let width = terminal::width();
        let placed: Placed<'_> = serde_json::from_slice(row)?;
        let day = day(&placed.time, self.zone);
        if day != self.day {
            writeln!(out, "{}", self.view.headline(&day, width))?;
            self.day = day;
        }
        let shown: Shown = serde_json::from_slice(row)?;
        if !self.places {
            writeln!(out, "{}", self.view.show(&shown, width))?;
            return Ok(());
        }
        let place = match (placed.segment, placed.segment_row) {
            (Some(segment), Some(row)) => format!("{segment}:{row}"),
            (Some(segment), None) => format!("{segment}:open"),
            (None, _) => String::new(),
        };
        let width = width.saturating_sub(PLACE_WIDTH + 2);
        let place = terminal::left(&place, PLACE_WIDTH);
        writeln!(out, "{place}  {}", self.view.show(&shown, width))?;
        Ok(())
    }
}

/// `Mon 2026-11-23 (UTC+01:00)`
fn day(time: &str, zone: Zone) -> String {
    clock::parse(time)
        .map(|time| format!("{} ({})", clock::day(time, zone), clock::zone_name(time, zone)))
        .unwrap_or_default()
}

/// The newest rows that were shown, by their keys.
#[derive(Default)]
struct Seen {
    keys: HashSet<Key>,
    order: VecDeque<Key>,
}

/// What names a row, sealed or not.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
struct Key {
    time: WallTime,
    connection: Option<Arc<str>>,
    sequence: Option<u64>,
}

impl Seen {
    fn is_new(&mut self, key: Key) -> bool {
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
    WallTime::from_utc(UtcDateTime::now())
}

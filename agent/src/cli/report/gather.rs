//! Takes in what the query worker tells, part by part, and keeps what the first page needs.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::{
    Kind,
    approvals::Approvals,
    coverage::{Coverage, Gap, LastSeen, Occurrence},
    document::Rows,
    head::Period,
    labels::Applied,
    proof,
    reconciliation::{Count, Counts},
    row::Row,
    totals::Totals,
};
use crate::{
    cli::{ask::worker, verify::shown},
    event::WallTime,
    ledger::entry::History,
    search::{Line, Part, Place, ReportTrailer, Request},
};

/// Configurations that are remembered: one a start.
const MAX_APPLIED: usize = 10_000;

/// Everything but the rows.
#[derive(Default)]
pub(super) struct Gathered {
    pub counts: Counts,
    pub coverage: Coverage,
    pub approvals: Approvals,
    /// Which configuration applied from when on.
    pub applied: Vec<Applied>,
    pub totals: Totals,
    /// The root log's entries, as of just after the segments were looked at.
    pub history: Option<History>,
    /// What became of the statements; `None` where the answer broke off.
    pub told: Option<ReportTrailer>,
    /// Why it did.
    broken: Option<String>,
}

impl Gathered {
    /// Asks, and puts the statements aside. A ledger that can't be read to its end makes a report that says
    /// so; one of which nothing can be read makes none.
    pub(super) async fn of(place: &Place, request: &Request, rows: &mut Rows) -> Result<Self> {
        let mut answer = worker(place, &serde_json::to_vec(request)?).await?;
        let mut gathered = Self::default();
        let mut part = None;
        loop {
            let line = match (answer.next().await, part) {
                (Ok(line), _) => line,
                (Err(error), None) => return Err(error),
                (Err(error), Some(_)) => {
                    gathered.broken = Some(format!("{error:#}"));
                    return Ok(gathered);
                }
            };
            match line {
                Line::Part(next) => {
                    // After the segments were looked at: each that was sealed then has its entry.
                    if part.is_none() {
                        gathered.history = match place {
                            Place::Folder(folder) => proof::history(folder)?,
                            Place::Bucket(_) => None,
                        };
                    }
                    part = Some(next);
                }
                Line::Row(row) => {
                    let part = part.context("a row that belongs to no part")?;
                    gathered.take(part, row, rows)?;
                }
                Line::End(end) => {
                    gathered.told = end.report;
                    return Ok(gathered);
                }
                Line::Columns(_) => {}
                Line::Error(words) => bail!(words),
            }
        }
    }

    fn take(&mut self, part: Part, row: &[u8], rows: &mut Rows) -> Result<()> {
        match part {
            Part::Counts => self.counts.add(&parsed::<Count>(row)?),
            Part::Before | Part::Occurrences => {
                let row: Occurrence = parsed(row)?;
                if self.applied.len() < MAX_APPLIED {
                    self.applied.extend(Applied::of_row(&row));
                }
                if matches!(part, Part::Occurrences) {
                    self.approvals.occurrence(&row);
                }
                self.coverage.occurrence(&row);
            }
            Part::LastSeen => self.coverage.last_seen(parsed::<LastSeen>(row)?),
            Part::Coverage => self.coverage.minute(&parsed(row)?),
            Part::Statements => {
                let mut row: Row = parsed(row)?;
                let history = self.history.as_ref();
                row.judge(|segment| Some(history?.segment(segment)?.0 + 1));
                self.totals.add(&row);
                rows.push(&row)?;
            }
        }
        Ok(())
    }

    /// Segments of the period that aren't there any more.
    pub(super) fn removed(&self, period: Period) -> Vec<Gap> {
        let hosts = self.counts.hosts();
        let host = hosts.first().cloned().unwrap_or_default();
        let Some(history) = &self.history else { return Vec::new() };
        let mut gaps = Vec::new();
        for segment in history.segments() {
            let (first, last) = (WallTime(segment.first_us), WallTime(segment.last_us));
            let is_of_period =
                first < period.until && period.since.is_none_or(|since| last >= since);
            if let Some(removal) = history.removal(segment.number).filter(|_| is_of_period) {
                gaps.push(Gap {
                    host: host.clone(),
                    from: Some(first),
                    to: Some(last),
                    reason: "removed".into(),
                    words: format!(
                        "segment {} with {} rows was removed on {} by {}, as a signed entry says",
                        segment.number,
                        segment.rows,
                        shown(WallTime(removal.time_us)),
                        removal.reason
                    ),
                });
            }
        }
        gaps
    }

    /// What else a reader must know of how much was seen.
    pub(super) fn notes(&self, kind: Kind, period: Period) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(words) = &self.broken {
            notes.push(format!(
                "THE LEDGER COULD NOT BE READ TO ITS END, rows are missing: {words}"
            ));
        }
        for server in self.coverage.servers() {
            if server.blind_connections > 0 {
                notes.push(format!(
                    "{} on {}: encrypted connections that could not be looked into: {}. What was done in them is in no \
                     row",
                    server.server, server.host, server.blind_connections
                ));
            }
            if server.joined_connections > 0 {
                notes.push(format!(
                    "{} on {}: connections that had begun before they were watched: {}. What was done in them before is \
                     in no row",
                    server.server, server.host, server.joined_connections
                ));
            }
        }
        if self.coverage.ended_unclean() {
            notes.push(
                "where dbwarden ended without saying so, the sums of each server lack up to a minute before it, or \
                 its last moments; statements that it had recorded are all here"
                    .to_owned(),
            );
        }
        match self.counts.span() {
            None => notes.push("the ledger has no row of this period".to_owned()),
            Some((first, last)) => {
                if let Some(since) = period.since
                    && !self.coverage.ran_before(since)
                    && first > since
                {
                    notes.push(format!(
                        "no row says that dbwarden ran before {}, when the first row of the period was recorded",
                        shown(first)
                    ));
                }
                notes.push(format!(
                    "the last row of the period is of {}: whether dbwarden was watching after it, only a later \
                     row or checkpoint can say",
                    shown(last)
                ));
            }
        }
        if kind != Kind::Changes {
            notes.push(
                "labels are found by the names that stand in a statement: what it reads by way of a view, a function \
                 or another name is only marked as possible where it calls code"
                    .to_owned(),
            );
        }
        notes.push(
            "what never reached a database server of this host (files read directly, backups of the disk) is no \
             statement, and in no row"
                .to_owned(),
        );
        notes
    }
}

fn parsed<T: DeserializeOwned>(row: &[u8]) -> Result<T> {
    serde_json::from_slice(row).context("a row that this version can't read")
}

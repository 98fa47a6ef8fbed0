//! How an answer is written: lines of JSON, rows as they are and everything else under a name with `@`.
//!
//! The first line is `{"@columns": […]}`, then come rows, each an object with just these keys, and
//! the last line is `{"@end": …}` or `{"@error": "…"}`; where it is missing, something broke off. A report
//! has several parts with rows of their own, each begun by `{"@part": "…"}`.

use std::{collections::BTreeMap, io};

use datafusion::arrow::{
    json::{WriterBuilder, writer::LineDelimited},
    record_batch::RecordBatch,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{RowKey, SearchError};
use crate::event::WallTime;

/// RFC 3339 with six decimals, as times are written everywhere.
const TIME_FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";

/// What stands in one line of an answer.
#[derive(Debug)]
pub enum Line<'a> {
    Columns(Vec<String>),
    Row(&'a [u8]),
    Part(Part),
    End(Trailer),
    Error(String),
}

/// What the rows that follow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// How many rows the segments have, by host, segment, sort and whether they are of the period.
    Counts,
    /// The newest rows of the service and its configuration that are older than the period.
    Before,
    /// Rows of the period about the service, its configuration, losses, and what couldn't be seen.
    Occurrences,
    /// What was seen last before a start that no stop had come before.
    LastSeen,
    /// Of each server and minute.
    Coverage,
    /// The population.
    Statements,
}

/// What is said after the last row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trailer {
    pub rows: u64,
    /// There is more that the filter lets through: older, or newer where somebody asked for what comes
    /// after a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<bool>,
    /// The first and the last row of a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<RowKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<RowKey>,
    /// What a timeline is about, and what of it had no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineTrailer>,
    /// What became of each statement of a report's period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportTrailer>,
}

/// Statements by whether and why they are left out of a report; each is counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportTrailer {
    pub reported: u64,
    /// They are of the population, and the filter doesn't want them.
    pub outside_filter: u64,
    /// They are known not to be of the population.
    pub unconcerned: u64,
    /// They read data from where it may be read.
    pub in_region: u64,
    /// The last by their labels: statements, and the rows that they read.
    pub in_region_by_label: BTreeMap<String, (u64, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimelineTrailer {
    /// Of what was counted, lines and left out ones.
    pub first: Option<WallTime>,
    pub last: Option<WallTime>,
    pub statements: u64,
    pub errors: u64,
    /// Lines that had no room, and the statements in them.
    pub lines_left_out: u64,
    pub statements_left_out: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum About {
    #[serde(rename = "@columns")]
    Columns(Vec<String>),
    #[serde(rename = "@part")]
    Part(Part),
    #[serde(rename = "@end")]
    End(Trailer),
    #[serde(rename = "@error")]
    Error(String),
}

impl<'a> Line<'a> {
    /// An error says why a line about the rows can't be read; rows are not looked at.
    pub fn parse(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        if !line.starts_with(b"{\"@") {
            return Ok(Self::Row(line));
        }
        Ok(match serde_json::from_slice(line)? {
            About::Columns(columns) => Self::Columns(columns),
            About::Part(part) => Self::Part(part),
            About::End(trailer) => Self::End(trailer),
            About::Error(words) => Self::Error(words),
        })
    }
}

/// Writes an answer, a batch at a time.
pub(super) struct Answer<'a> {
    out: &'a mut (dyn io::Write + Send),
    pub(super) rows: u64,
    begun: bool,
}

impl<'a> Answer<'a> {
    pub(super) fn new(out: &'a mut (dyn io::Write + Send)) -> Self {
        Self { out, rows: 0, begun: false }
    }

    /// Whether a reader has seen something of it already.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn columns(&mut self, names: &[&str]) -> Result<(), SearchError> {
        match self.begun {
            true => Ok(()),
            false => self.line(&json!({ "@columns": names })),
        }
    }

    /// Rows that follow are of this part, and have columns of their own.
    pub(super) fn part(&mut self, part: Part) -> Result<(), SearchError> {
        self.line(&json!({ "@part": part }))
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<(), SearchError> {
        let names: Vec<&str> =
            batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
        self.columns(&names)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut lines = Vec::new();
        WriterBuilder::new()
            .with_explicit_nulls(true)
            .with_timestamp_tz_format(TIME_FORMAT.into())
            .build::<_, LineDelimited>(&mut lines)
            .write(batch)
            .map_err(|error| SearchError::of_engine(error.into()))?;
        self.out.write_all(&lines).map_err(SearchError::Unread)?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    pub(super) fn end(&mut self, trailer: Trailer) -> Result<(), SearchError> {
        let trailer = Trailer { rows: self.rows, ..trailer };
        self.line(&json!({ "@end": trailer }))?;
        self.out.flush().map_err(SearchError::Unread)
    }

    pub(super) fn error(&mut self, words: &str) -> Result<(), SearchError> {
        self.line(&json!({ "@error": words }))?;
        self.out.flush().map_err(SearchError::Unread)
    }

    fn line(&mut self, value: &serde_json::Value) -> Result<(), SearchError> {
        self.begun = true;
        writeln!(self.out, "{value}").map_err(SearchError::Unread)
    }
}

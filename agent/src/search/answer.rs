//! How an answer is written: lines of JSON, rows as they are and everything else under a name with `@`.
//!
//! The first line is `{"@columns": […]}`, then come rows, each an object with just these keys, and
//! the last line is `{"@end": …}` or `{"@error": "…"}`; where it is missing, something broke off.

use std::io;

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
    End(Trailer),
    Error(String),
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

//! The name of a row that stays the same when its segment is sealed: time, connection, sequence.

use std::{fmt, str::FromStr};

use datafusion::{
    logical_expr::{Expr, ident, lit},
    scalar::ScalarValue,
};
use serde::{Deserialize, Serialize};
use time::{UtcDateTime, format_description::well_known::Rfc3339};

use super::expression::time_literal;
use crate::event::WallTime;

/// Statements are listed in the order of their keys. Written as
/// `2026-11-23T14:00:00.000123Z/00c0ffee00c0ffee/12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowKey {
    pub time: WallTime,
    pub connection: String,
    pub sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no row: take it from a search, it looks like \
     2026-11-23T14:00:00.000123Z/00c0ffee00c0ffee/12"
)]
pub struct RowKeyError(String);

impl RowKey {
    /// The columns that make a key, in the order of its parts.
    pub(super) const COLUMNS: [&str; 3] = ["time", "connection", "sequence"];

    /// Rows that come after this one; the first comparison is one that whole files are skipped by.
    pub(super) fn before_others(&self) -> Expr {
        let time = || ident("time");
        time().gt_eq(time_literal(self.time)).and(
            time()
                .gt(time_literal(self.time))
                .or(self.connection_column().gt(lit(self.connection.clone())))
                .or(self.same_connection().and(ident("sequence").gt(lit(self.sequence)))),
        )
    }

    /// Rows that come before this one.
    pub(super) fn after_others(&self) -> Expr {
        let time = || ident("time");
        time().lt_eq(time_literal(self.time)).and(
            time()
                .lt(time_literal(self.time))
                .or(self.connection_column().lt(lit(self.connection.clone())))
                .or(self.same_connection().and(ident("sequence").lt(lit(self.sequence)))),
        )
    }

    fn connection_column(&self) -> Expr {
        ident("connection")
    }

    fn same_connection(&self) -> Expr {
        self.connection_column().eq(lit(ScalarValue::from(self.connection.as_str())))
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.time, self.connection, self.sequence)
    }
}

impl FromStr for RowKey {
    type Err = RowKeyError;

    fn from_str(text: &str) -> Result<Self, RowKeyError> {
        let parse = || {
            let mut parts = text.splitn(3, '/');
            let time = UtcDateTime::parse(parts.next()?, &Rfc3339).ok()?;
            let connection = parts.next()?;
            let hexadecimal = connection.bytes().all(|byte| byte.is_ascii_hexdigit());
            let sequence = parts.next()?.parse().ok()?;
            let micros = i64::try_from(time.unix_timestamp_nanos() / 1_000).ok()?;
            hexadecimal.then(|| Self {
                time: WallTime(micros),
                connection: connection.to_ascii_lowercase(),
                sequence,
            })
        };
        parse().ok_or_else(|| RowKeyError(text.to_owned()))
    }
}

impl TryFrom<String> for RowKey {
    type Error = RowKeyError;

    fn try_from(text: String) -> Result<Self, RowKeyError> {
        text.parse()
    }
}

impl From<RowKey> for String {
    fn from(key: RowKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::RowKey;
    use crate::event::WallTime;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let key = RowKey {
            time: WallTime(1_764_000_000_000_123),
            connection: "00c0ffee00c0ffee".into(),
            sequence: 12,
        };
        assert_eq!(key.to_string(), "2025-11-24T16:00:00.000123Z/00c0ffee00c0ffee/12");
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in
            ["", "12", "yesterday/00/1", "2026-11-23T14:00:00Z/x/1", "2026-11-23T14:00:00Z/0"]
        {
            let error = text.parse::<RowKey>().unwrap_err();
            assert!(error.to_string().contains("names no row"), "{text}");
        }
    }
}

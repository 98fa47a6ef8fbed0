//! Finds statements in the ledger: sealed and open segments together, bounded in memory, read-only.
//!
//! A [`Request`] runs in a process of its own, the query worker, which writes lines of JSON: rows as
//! objects, and about the rows objects with one key that begins with `@` ([`answer`]).

mod answer;
mod expression;
mod filter;
mod open;
mod population;
mod report;
mod request;
mod row_key;
mod session;
mod snapshot;
mod source;
mod sql;
mod statements;
mod table;
mod timeline;
mod when;
mod worker;

use std::{io, path::PathBuf};

use datafusion::common::DataFusionError;

use crate::ledger::copies::CopyError;

use answer::Answer;
pub use answer::{Line, Part, ReportTrailer, TimelineTrailer, Trailer};
pub use filter::{EffectWord, Filter, HashKey, Touched, WRITES};
pub use request::{Page, Population, Report, Request, Search, Sql, Timeline};
pub use row_key::{RowKey, RowKeyError};
pub use session::Limits;
pub use source::Place;
use source::Source;
pub use sql::{TABLES, columns};
pub use when::{Edge, WhenError, Zone, moment};
pub use worker::{WorkerError, become_modest, work};

#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error("can't read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("this ledger's keys can't be read, so a row can't be searched by its key")]
    NoKey,
    #[error(
        "only questions can be asked: {0} would change something; write SELECT, WITH, EXPLAIN, \
         SHOW or DESCRIBE"
    )]
    NotAQuestion(String),
    #[error(
        "the query remembers more than it may: ask about less time, group by fewer values, or \
         sort fewer rows (LIMIT)"
    )]
    TooMuch,
    #[error("a segment was removed by retention while it was read: ask again")]
    Removed,
    #[error("can't use the copies of ledgers")]
    Copies(#[from] CopyError),
    #[error("can't read the copies of ledgers")]
    Store(#[source] datafusion::object_store::Error),
    #[error("{0}")]
    Query(String),
    #[error("nobody reads the answer")]
    Unread(#[source] io::Error),
}

impl SearchError {
    /// In words that say what to do, as far as that can be told.
    fn of_engine(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::TooMuch,
            DataFusionError::ObjectStore(source)
                if matches!(**source, datafusion::object_store::Error::NotFound { .. }) =>
            {
                Self::Removed
            }
            _ => Self::Query(sql::in_plain_words(&error)),
        }
    }
}

/// What answering needs to know.
#[derive(Default)]
pub struct Options<'a> {
    pub limits: Limits,
    /// For [`Filter::touched`]; `None` where the ledger's keys can't be read.
    pub hash_key: Option<&'a HashKey>,
}

/// Times that a request is begun again because retention removed a segment under it.
const ATTEMPTS: usize = 3;

/// Answers `request` from this ledger.
async fn run(
    request: &Request,
    ledger: &Source,
    options: &Options<'_>,
    answer: &mut Answer<'_>,
) -> Result<(), SearchError> {
    for _ in 1..ATTEMPTS {
        match attempt(request, ledger, options, answer).await {
            Err(SearchError::Removed) if !answer.has_begun() => {}
            result => return result,
        }
    }
    attempt(request, ledger, options, answer).await
}

async fn attempt(
    request: &Request,
    ledger: &Source,
    options: &Options<'_>,
    answer: &mut Answer<'_>,
) -> Result<(), SearchError> {
    match request {
        Request::Search(search) => statements::run(search, ledger, options, answer).await,
        Request::Timeline(timeline) => timeline::run(timeline, ledger, options, answer).await,
        Request::Sql(query) => sql::run(&query.query, ledger, options, answer).await,
        Request::Report(report) => report::run(report, ledger, options, answer).await,
    }
}

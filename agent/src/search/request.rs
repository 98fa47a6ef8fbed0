//! What can be asked of the ledger: the body of `POST /v1/query`, and what a query worker reads.

use serde::{Deserialize, Serialize};

use super::{Filter, RowKey};
use crate::config::{LabelOn, RegionOf};

/// One question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Search(Search),
    Timeline(Timeline),
    Sql(Sql),
    Report(Report),
}

/// Statements one by one, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Search {
    pub filter: Filter,
    pub page: Page,
    /// Findings instead of statements.
    pub findings: bool,
    /// Of the columns only these; all where it is empty.
    pub columns: Vec<String>,
}

/// Which of the statements that a filter lets through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Page {
    #[default]
    All,
    /// The newest so many.
    Newest(u32),
    /// The newest so many that come before this one.
    Before(RowKey, u32),
    /// So many that come next after this one.
    After(RowKey, u32),
}

/// Who did what, collapsed to so many lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeline {
    pub filter: Filter,
    pub lines: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    pub query: String,
}

/// All statements of a period that belong to a population, and what they are held against: how many rows
/// there are in all, and what is known not to have been seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Its times are the period; whatever else it wants leaves out, and is counted.
    pub filter: Filter,
    pub population: Population,
}

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Population {
    /// Statements that aren't known to have changed nothing.
    Changes,
    /// Statements that read data with one of these labels, or may have.
    Access { labels: Vec<LabelOn> },
    /// Those of them that read data whose label names a region from elsewhere.
    Residency { labels: Vec<LabelOn>, regions: Vec<RegionOf> },
}

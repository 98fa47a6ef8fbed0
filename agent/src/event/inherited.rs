//! What a column has of a labelled one because somebody has put it there.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A labelled column, by the name that it had then: labels speak of names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ancestor {
    pub schema: Arc<str>,
    pub table: Arc<str>,
    pub column: Arc<str>,
}

impl fmt::Display for Ancestor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.schema, self.table, self.column)
    }
}

/// A column of a relation, and one that it inherits from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heir {
    /// The relation's number in its database.
    pub relation: u32,
    /// `attnum`
    pub place: i16,
    /// `schema.table.column`, as it was when that was seen.
    pub column: Arc<str>,
    pub from: Ancestor,
    /// It is made of that, and not the same.
    pub is_derived: bool,
}

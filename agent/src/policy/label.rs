//! Which data has which labels: patterns over database, schema, table and column.

use std::{collections::BTreeSet, str::FromStr, sync::Arc};

use crate::event::{Access, Analysis, Effect, Facts};

/// A name for data, and where such data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub name: Arc<str>,
    pub on: Vec<Pattern>,
}

/// What stands before the regions in the name of a label that says where data may be read.
pub const RESIDENCY: &str = "residency:";

/// `database.schema.table.column`, each a name or `*`; names are compared in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern([Option<Box<str>>; 4]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no columns: write DATABASE.SCHEMA.TABLE.COLUMN, each a name or *, as in \
     app.public.customers.ssn or *.*.*.email"
)]
pub struct NoPattern(String);

impl FromStr for Pattern {
    type Err = NoPattern;

    fn from_str(text: &str) -> Result<Self, NoPattern> {
        let parts: Vec<&str> = text.split('.').collect();
        let whole = |part: &&str| !part.is_empty() && (**part == *"*" || !part.contains('*'));
        let [database, schema, table, column] = parts.as_slice() else {
            return Err(NoPattern(text.to_owned()));
        };
        let parts = [database, schema, table, column];
        if !parts.iter().all(|part| whole(part)) {
            return Err(NoPattern(text.to_owned()));
        }
        Ok(Self(parts.map(|part| (*part != "*").then(|| part.to_lowercase().into()))))
    }
}

/// A table as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName<'a> {
    pub database: Option<&'a str>,
    pub schema: Option<&'a str>,
    pub table: &'a str,
}

impl<'a> TableName<'a> {
    /// `database` is the connection's; a name of three parts brings its own.
    pub fn new(written: &'a str, database: Option<&'a str>) -> Self {
        let mut parts = written.rsplitn(3, '.');
        let table = parts.next().unwrap_or(written);
        let schema = parts.next();
        Self { database: parts.next().or(database), schema, table }
    }
}

/// Columns of a table that a statement touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// All of them, or nobody can tell which.
    All,
    Named(BTreeSet<Box<str>>),
}

impl Touched {
    /// Which columns of the table a statement touches, as far as its text tells.
    pub fn by(facts: Option<&Facts>, written: &str, name: &TableName<'_>) -> Self {
        let Some(facts) = facts else { return Self::All };
        if !facts.analysis.is_complete() && facts.analysis != Analysis::CallsCode {
            return Self::All;
        }
        // What ends whole rows, or the table, ends all of its columns.
        let by_columns = |access| {
            matches!(access, Access::Read | Access::Insert | Access::Update | Access::Lock)
        };
        let mut accesses = facts.tables.iter().filter(|table| *table.name == *written);
        if !accesses.all(|table| by_columns(table.access)) {
            return Self::All;
        }
        let mut columns = BTreeSet::new();
        let mut names_some = false;
        for column in &facts.columns {
            let (table, column) = match column.rsplit_once('.') {
                Some((table, column)) => (Some(table), column),
                None => (None, &**column),
            };
            let is_ours = table.is_none_or(|table| {
                table == written || table.rsplit('.').next() == Some(name.table)
            });
            if is_ours {
                if column == "*" {
                    return Self::All;
                }
                names_some |= table.is_some();
                columns.insert(column.to_lowercase().into());
            }
        }
        // COPY and INSERT without a list of columns mean all of them.
        let may_mean_all = [Effect::CopyOut, Effect::CopyIn, Effect::Insert];
        if !names_some && may_mean_all.iter().any(|effect| facts.effects.contains(*effect)) {
            return Self::All;
        }
        Self::Named(columns)
    }
}

impl Pattern {
    /// What the statement doesn't say, as a table's schema, may be what the pattern means.
    pub fn fits(&self, name: &TableName<'_>, touched: &Touched) -> bool {
        let [database, schema, table, column] = &self.0;
        let same = |wanted: &Option<Box<str>>, given: Option<&str>| match (wanted, given) {
            (Some(wanted), Some(given)) => **wanted == *given.to_lowercase(),
            _ => true,
        };
        same(database, name.database)
            && same(schema, name.schema)
            && same(table, Some(name.table))
            && match (column, touched) {
                (None, _) | (_, Touched::All) => true,
                (Some(column), Touched::Named(columns)) => columns.contains(column),
            }
    }

    /// Database, schema, table and column; `None` where it means any.
    pub(super) fn parts(&self) -> [Option<&str>; 4] {
        self.0.each_ref().map(|part| part.as_deref())
    }

    /// Whether something of this database may be meant.
    pub fn fits_database(&self, name: Option<&str>) -> bool {
        match (&self.0[0], name) {
            (Some(wanted), Some(given)) => **wanted == *given.to_lowercase(),
            _ => true,
        }
    }
}

impl Label {
    /// The region of a residency label.
    pub fn residency(&self) -> Option<&str> {
        self.name.strip_prefix(RESIDENCY)
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, TableName, Touched};

    #[test]
    fn what_is_not_said_may_be_meant() {
        let named = |columns: &str| Touched::Named(columns.split(' ').map(Into::into).collect());
        for (pattern, table, columns, expected) in [
            ("app.public.customers.ssn", "public.customers", named("id ssn"), true),
            ("app.public.customers.ssn", "customers", named("ssn"), true),
            ("app.public.customers.ssn", "CUSTOMERS", named("ssn"), true),
            ("app.public.customers.ssn", "customers", Touched::All, true),
            ("app.public.customers.ssn", "customers", named("id"), false),
            ("app.public.customers.ssn", "archive.customers", named("ssn"), false),
            ("app.public.customers.ssn", "other.public.customers", named("ssn"), false),
            ("other.public.customers.ssn", "customers", named("ssn"), false),
            ("*.*.*.email", "anything", named("email"), true),
            ("*.*.*.email", "anything", named("emails"), false),
            ("*.audit.*.*", "audit.log", named("x"), true),
            ("*.audit.*.*", "public.log", named("x"), false),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            let name = TableName::new(table, Some("app"));
            assert_eq!(parsed.fits(&name, &columns), expected, "{pattern} {table} {columns:?}");
        }
    }

    #[test]
    fn a_pattern_has_four_whole_parts() {
        for text in ["", "a", "a.b.c", "a.b.c.d.e", "a..c.d", "a.b.c.d*", "a.b.*c.d"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}

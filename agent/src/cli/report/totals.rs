//! What the rows of a report add up to, by who, what and where.

use std::collections::BTreeMap;

use serde::Serialize;

use super::row::Row;

/// Names in one table of totals; what comes with further ones is added up under one.
const MAX_NAMES: usize = 2_000;
const OTHERS: &str = "(others)";

/// A statement that touches several tables, or has several effects, counts under each.
#[derive(Debug, Default, Serialize)]
pub(super) struct Totals {
    pub statements: u64,
    pub rows: u64,
    /// Statements that may have done more than is known.
    pub uncertain: u64,
    pub by_kind: Sums,
    pub by_principal: Sums,
    pub by_initiator: Sums,
    pub by_database: Sums,
    pub by_table: Sums,
    pub by_effect: Sums,
    pub by_outcome: Sums,
    pub by_verdict: Sums,
    pub by_label: Sums,
    pub by_client_region: Sums,
    pub by_mark: Sums,
}

#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Sums(BTreeMap<String, Sum>);

/// Statements, and the rows that they read or changed as far as the server told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sum {
    pub statements: u64,
    pub rows: u64,
}

impl Totals {
    pub(super) fn add(&mut self, row: &Row) {
        let n = row.rows.unwrap_or(0);
        self.statements += 1;
        self.rows = self.rows.saturating_add(n);
        self.uncertain += u64::from(row.is_uncertain());
        let text =
            |text: &Option<String>, absent: &str| text.as_deref().unwrap_or(absent).to_owned();
        let kind = text(&row.principal_kind, "unknown");
        self.by_principal.add(&format!("{} ({kind})", row.who()), n);
        self.by_kind.add(&kind, n);
        if let Some(initiator) = &row.initiator {
            self.by_initiator.add(initiator, n);
        }
        let database = text(&row.database, "?");
        self.by_database.add(&format!("{database} on {}", text(&row.server, "?")), n);
        let mut tables: Vec<&str> =
            row.tables.iter().flatten().map(|table| table.name.as_str()).collect();
        tables.dedup();
        tables.iter().for_each(|table| self.by_table.add(table, n));
        if tables.is_empty() {
            self.by_table.add("(none named)", n);
        }
        match &row.effects {
            Some(effects) if !effects.is_empty() => {
                effects.iter().for_each(|effect| self.by_effect.add(effect, n));
            }
            _ => self.by_effect.add("unknown", n),
        }
        self.by_outcome.add(row.outcome.name(), n);
        self.by_verdict.add(&text(&row.verdict, "not judged"), n);
        row.labels.iter().for_each(|label| self.by_label.add(label, n));
        let possible = row.possible_labels.iter().map(|label| format!("{label} (possibly)"));
        possible.for_each(|label| self.by_label.add(&label, n));
        if !row.labels.is_empty() || !row.possible_labels.is_empty() {
            self.by_client_region.add(&text(&row.client_region, "not known"), n);
        }
        row.marks.iter().for_each(|mark| self.by_mark.add(mark, n));
    }
}

impl Sums {
    fn add(&mut self, name: &str, rows: u64) {
        let is_known = self.0.contains_key(name) || self.0.len() < MAX_NAMES;
        let sum = self.0.entry(if is_known { name } else { OTHERS }.to_owned()).or_default();
        sum.statements += 1;
        sum.rows = sum.rows.saturating_add(rows);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The largest first.
    pub(super) fn largest(&self) -> Vec<(&str, Sum)> {
        let mut all: Vec<(&str, Sum)> =
            self.0.iter().map(|(name, sum)| (name.as_str(), *sum)).collect();
        all.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.statements));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_NAMES, OTHERS, Sums, Totals};
    use crate::cli::report::row::{Row, Table};

    #[test]
    fn each_table_and_effect_of_a_statement_counts() {
        let table = |name: &str, access: &str| Table { name: name.into(), access: access.into() };
        let mut totals = Totals::default();
        totals.add(&Row {
            principal: Some("ana".into()),
            principal_kind: Some("human".into()),
            effects: Some(vec!["read".into(), "insert".into()]),
            tables: Some(vec![table("a", "insert"), table("b", "insert"), table("b", "read")]),
            rows: Some(7),
            ..Row::default()
        });
        totals.add(&Row { os_user: Some("www".into()), ..Row::default() });
        let names = |sums: &Sums| -> Vec<String> {
            let sums = sums.largest().into_iter();
            sums.map(|(name, sum)| format!("{name} {}/{}", sum.statements, sum.rows)).collect()
        };
        assert_eq!((totals.statements, totals.rows), (2, 7));
        assert_eq!(names(&totals.by_principal), ["ana (human) 1/7", "www (unknown) 1/0"]);
        assert_eq!(names(&totals.by_table), ["(none named) 1/0", "a 1/7", "b 1/7"]);
        assert_eq!(names(&totals.by_effect), ["insert 1/7", "read 1/7", "unknown 1/0"]);
        assert_eq!(names(&totals.by_database), ["? on ? 2/7"]);
    }

    #[test]
    fn totals_are_bounded_and_still_add_up() {
        let mut sums = Sums::default();
        for n in 0..MAX_NAMES + 10 {
            sums.add(&n.to_string(), 1);
        }
        assert_eq!(sums.0.len(), MAX_NAMES + 1);
        assert_eq!(sums.0[OTHERS].statements, 10);
        let all: u64 = sums.largest().iter().map(|(_, sum)| sum.statements).sum();
        assert_eq!(all, MAX_NAMES as u64 + 10);
    }
}

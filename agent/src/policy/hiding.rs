//! Which columns are hidden from whom: rules are asked about a read of just that column.

use std::sync::Arc;

use super::{
    Caller, Judge, Rule, Set,
    label::{TableName, Touched},
    question::{Case, Circumstances, Subject},
    world::World,
};
use crate::{
    event::{Access, Analysis, Effect, Effects, Facts, Flow, Mask, Origin, TableAccess, Verdict},
    statement::qualified,
};

/// A column by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnName<'a> {
    pub schema: Option<&'a str>,
    pub table: &'a str,
    /// `None` for any of them.
    pub column: Option<&'a str>,
}

/// What hides a column. Of several rules the strictest mask counts, and the strictest flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    pub mask: Mask,
    /// Whose mask it is.
    pub rule: Arc<str>,
    pub flow: Flow,
}

impl Hidden {
    /// Both of them together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let flow = self.flow.max(other.flow);
        let strictest = if other.mask >= self.mask { other } else { self };
        Self { flow, ..strictest }
    }
}

impl Set {
    /// Whether a rule hides anything from anybody.
    pub fn masks(&self) -> bool {
        self.has_masks
    }
}

impl World {
    /// Whether a column has a label, or (`None`) one of the table's may have.
    pub fn is_labelled(&self, database: &str, name: ColumnName<'_>) -> bool {
        let touched = match name.column {
            Some(column) => Touched::Named([column.to_lowercase().into()].into()),
            None => Touched::All,
        };
        let table = TableName { database: Some(database), schema: name.schema, table: name.table };
        !self.labels_on(&table, &touched).is_empty()
    }

    /// Patterns of labels that name a column of this database outright, and that `has` says isn't there.
    pub fn absent(&self, database: &str, has: impl Fn(ColumnName<'_>) -> bool) -> Vec<String> {
        let all = self.labels.iter().flat_map(|label| label.on.iter().map(move |on| (label, on)));
        let absent = all.filter_map(|(label, pattern)| match pattern.parts() {
            [Some(of), schema, Some(table), column @ Some(name)]
                if of == database.to_lowercase() && !has(ColumnName { schema, table, column }) =>
            {
                let schema = schema.unwrap_or("*");
                Some(format!("label {}: there is no {of}.{schema}.{table}.{name}", label.name))
            }
            _ => None,
        });
        absent.collect()
    }

    /// One column for each pattern of a label that may mean something in this database, for whoever doesn't know what
    /// there is in it.
    fn samples(&self, database: Option<&str>) -> Vec<(Option<String>, String, Option<String>)> {
        let patterns = self.labels.iter().flat_map(|label| &label.on);
        let fitting = patterns.filter(|pattern| pattern.fits_database(database));
        let sample = |[_, schema, table, column]: [Option<&str>; 4]| {
            let owned = |part: Option<&str>| part.map(str::to_owned);
            (owned(schema), table.unwrap_or("?").to_owned(), owned(column))
        };
        fitting.map(|pattern| sample(pattern.parts())).collect()
    }
}

impl Judge {
    /// What hides each of these columns from a client: the strictest, where several do.
    pub fn hides(
        &self,
        origin: &Origin,
        circumstances: Circumstances<'_>,
        columns: &[ColumnName<'_>],
    ) -> Vec<Option<Hidden>> {
        let set = self.set();
        let caller = Caller::new(origin, set.world());
        columns.iter().map(|column| set.hides(&caller, circumstances, *column)).collect()
    }

    /// Whether something may be hidden from a client in a database that nobody knows; by which rule.
    pub fn may_hide(&self, origin: &Origin, circumstances: Circumstances<'_>) -> Option<Arc<str>> {
        let set = self.set();
        let caller = Caller::new(origin, set.world());
        set.world().samples(caller.database.as_deref()).iter().find_map(|sample| {
            let (schema, table, column) = sample;
            let name = ColumnName { schema: schema.as_deref(), table, column: column.as_deref() };
            Some(set.hides(&caller, circumstances, name)?.rule)
        })
    }
}

impl Set {
    fn hides(
        &self,
        caller: &Caller,
        circumstances: Circumstances<'_>,
        name: ColumnName<'_>,
    ) -> Option<Hidden> {
        let facts = read_of(name);
        let case = Case { caller, subject: Subject::Statement(Some(&facts)), circumstances };
        let judgement = self.decide(&case);
        let wanting = judgement.findings.iter();
        let wanting = wanting.filter(|one| one.verdict == Verdict::Mask && !one.dry_run);
        let hidden = wanting.map(|finding| {
            // A rule that names no mask shows nothing.
            let rule = self.rule(&finding.rule);
            Hidden {
                mask: rule.and_then(Rule::mask).cloned().unwrap_or(Mask::Null),
                rule: finding.rule.clone(),
                flow: rule.map(Rule::flow).unwrap_or_default(),
            }
        });
        hidden.reduce(Hidden::and)
    }
}

/// The facts of a read of just that.
fn read_of(name: ColumnName<'_>) -> Facts {
    // A name with a dot is cut in two where it is looked at; labels can't name one anyway.
    let plain = |part: &str| part.replace(['.', '"'], "_");
    let parts = [name.schema, Some(name.table)].into_iter().flatten().map(plain);
    let parts: Vec<String> = parts.collect();
    let table = qualified(parts.iter().map(String::as_str));
    let column = name.column.map_or_else(|| "*".to_owned(), plain);
    Facts {
        summary: "SELECT".into(),
        effects: Effects::from_iter([Effect::Read]),
        columns: vec![format!("{table}.{column}").into()],
        tables: vec![TableAccess { name: table, access: Access::Read }],
        ..Facts::nothing(Analysis::Complete)
    }
}

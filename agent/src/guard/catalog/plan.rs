//! What a plan says of the rows that a statement changes or removes.

use std::{collections::BTreeMap, error::Error};

use serde_json::Value;
use tokio_postgres::types::{FromSql, Type};

/// The output of `EXPLAIN (FORMAT JSON)`.
pub(super) struct Plan(Value);

/// What is known of the rows that a statement changes or removes before it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::guard) struct Expected {
    pub planned: Vec<Planned>,
    pub sampled: Vec<Sampled>,
}

impl Expected {
    pub(super) fn most(&self) -> u64 {
        let planned = self.planned.iter().map(|one| one.rows);
        planned.chain(self.sampled.iter().map(|one| one.rows)).max().unwrap_or(0)
    }
}

/// By the planner, of one relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::guard) struct Planned {
    pub schema: String,
    pub relation: String,
    pub rows: u64,
}

/// By some of a relation's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::guard) struct Sampled {
    pub rows: u64,
    /// Of all that it has.
    pub percent: u8,
}

impl Sampled {
    /// Fewer, or from fewer blocks, may be those that stand together by chance.
    const FEWEST: i64 = 20;
    const FEWEST_BLOCKS: i64 = 3;

    /// `met` of `all` rows, in so many blocks, by so many percent of the blocks; `None` where that says too little.
    pub(super) fn of(all: i64, met: i64, blocks: i64, looked_at: f64) -> Option<Self> {
        let is_whole = looked_at >= 100.0;
        let says_enough = is_whole || met >= Self::FEWEST && blocks >= Self::FEWEST_BLOCKS;
        let percent = met.checked_mul(100)?.checked_div(all)?;
        (says_enough && looked_at > 0.0).then(|| Self {
            rows: (met as f64 * 100.0 / looked_at) as u64,
            percent: u8::try_from(percent).unwrap_or(100),
        })
    }
}

impl<'a> FromSql<'a> for Plan {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(serde_json::from_slice(raw)?))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }
}

impl Plan {
    pub(super) fn planned(&self) -> Vec<Planned> {
        let mut found = BTreeMap::new();
        look(&self.0, &mut found);
        let planned = found.into_iter();
        planned.map(|((schema, relation), rows)| Planned { schema, relation, rows }).collect()
    }
}

/// As deep as `serde_json` has read it.
fn look(plan: &Value, found: &mut BTreeMap<(String, String), u64>) {
    match plan {
        Value::Array(parts) => parts.iter().for_each(|part| look(part, found)),
        Value::Object(node) => {
            let word = |name: &str| node.get(name).and_then(Value::as_str);
            if word("Node Type") == Some("ModifyTable")
                && matches!(word("Operation"), Some("Update" | "Delete" | "Merge"))
                && let Some(relation) = word("Relation Name")
            {
                let inputs = node.get("Plans").and_then(Value::as_array).into_iter().flatten();
                let inputs = inputs.filter(|input| {
                    let relation = input.get("Parent Relationship").and_then(Value::as_str);
                    matches!(relation, Some("Outer" | "Member"))
                });
                let rows = inputs.filter_map(|input| input.get("Plan Rows")?.as_f64()).sum::<f64>();
                let of = (word("Schema").unwrap_or_default().to_owned(), relation.to_owned());
                *found.entry(of).or_default() += rows as u64;
            }
            node.values().for_each(|part| look(part, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Plan, Planned, Sampled};

    #[test]
    fn a_sample_stands_for_the_rest_where_it_is_large_enough() {
        let check = |(all, met, blocks, looked_at), expected: Option<(u64, u8)>| {
            let sampled = Sampled::of(all, met, blocks, looked_at);
            assert_eq!(sampled.map(|of| (of.rows, of.percent)), expected);
        };
        check((20, 20, 1, 100.0), Some((20, 100)));
        check((20, 3, 1, 100.0), Some((3, 15)));
        check((3_000, 1_500, 30, 0.5), Some((300_000, 50)));
        check((3_000, 19, 19, 0.5), None);
        check((3_000, 200, 2, 0.5), None);
        check((0, 0, 0, 100.0), None);
        check((0, 0, 0, 0.0), None);
    }

    #[test]
    fn rows_are_those_that_come_to_the_change() {
        let delete = json!([{ "Plan": {
            "Node Type": "ModifyTable", "Operation": "Delete", "Relation Name": "a", "Schema": "s",
            "Plan Rows": 0,
            "Plans": [
                { "Node Type": "Result", "Parent Relationship": "InitPlan", "Plan Rows": 900 },
                { "Node Type": "Seq Scan", "Parent Relationship": "Outer", "Plan Rows": 20 },
            ],
        }}]);
        let planned = |relation: &str, rows| Planned {
            schema: "s".to_owned(),
            relation: relation.to_owned(),
            rows,
        };
        assert_eq!(Plan(delete).planned(), [planned("a", 20)]);
        let with = json!([{ "Plan": {
            "Node Type": "CTE Scan", "Plan Rows": 5,
            "Plans": [
                { "Node Type": "ModifyTable", "Parent Relationship": "InitPlan", "Operation": "Update",
                  "Relation Name": "b", "Schema": "s", "Plan Rows": 7,
                  "Plans": [{ "Parent Relationship": "Member", "Plan Rows": 3 },
                            { "Parent Relationship": "Member", "Plan Rows": 4 }] },
                { "Node Type": "ModifyTable", "Parent Relationship": "InitPlan", "Operation": "Insert",
                  "Relation Name": "c", "Schema": "s",
                  "Plans": [{ "Parent Relationship": "Outer", "Plan Rows": 1000 }] },
            ],
        }}]);
        assert_eq!(Plan(with).planned(), [planned("b", 7)]);
    }
}

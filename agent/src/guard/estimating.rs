//! Which of a client's statements the server is asked about beforehand, and what its answer means.

use super::{
    catalog::{Expected, Kind, Planned, Question, Sampled, Snapshot, Value},
    sampling,
    unsettled::Unsettled,
};
use crate::{
    event::{Access, Effect, Facts, TableAccess},
    policy::Estimate,
    statement::{
        Body, Lexer, Lexing, TokenKind, only_computes,
        pieces::{self, Execution},
        qualified,
    },
};

/// A table with no more rows is small: nothing of it is bulk.
const SMALL: u64 = 10;
/// Schemas that a name without one is looked for in, one after the other.
const MAX_PATHS: usize = 8;

/// What is to be done to know how many rows a statement changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// It makes no difference, isn't safe, or can't be told.
    Nothing,
    Planner(Box<Question>),
    /// Whoever is asked would answer of something else.
    Nobody,
}

/// More than this is not ordinary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk {
    pub rows: u64,
    pub percent: u64,
}

impl Bulk {
    fn weigh(self, rows: u64, percent: Option<u64>) -> Estimate {
        let is_most = percent.is_some_and(|percent| percent >= self.percent) && rows > SMALL;
        Estimate {
            rows,
            percent: percent.and_then(|percent| u8::try_from(percent).ok()),
            is_bulk: is_most || rows >= self.rows,
            is_worst: false,
        }
    }
}

/// One statement of a text, as far as the planner is to be asked about it.
pub(super) struct Asked<'a> {
    /// As it stands in the text; `None` where that, or a value, can't be told.
    pub text: Option<&'a str>,
    pub lexing: Lexing,
    /// As it was analysed.
    pub said: &'a Facts,
    /// With what is behind it.
    pub facts: &'a Facts,
    pub types: &'a [u32],
    /// `None` where they are yet to come.
    pub values: Option<&'a [Value]>,
}

impl Asked<'_> {
    /// `prepared` gives what is prepared by a name.
    pub(super) fn asking(
        &self,
        snapshot: &Snapshot,
        own: &Unsettled,
        prepared: impl Fn(&str) -> Option<Body>,
    ) -> Asking {
        // Only UPDATE, DELETE and MERGE are restricted or not.
        if self.said.restricted.is_none() || !self.is_safe() {
            return Asking::Nothing;
        }
        let mut targets = self.targets(snapshot, own).peekable();
        if targets.peek().is_none()
            || targets.all(|target| is_one_row(snapshot, self.said, &target.name))
        {
            return Asking::Nothing;
        }
        let is_hidden = self.said.tables.iter().any(|TableAccess { name, access }| {
            let is_target_of_its_own = is_changed(*access) && own.is_own(name, snapshot);
            !is_target_of_its_own && own.hides(name, snapshot)
        });
        // Strings would be read otherwise there.
        let is_otherwise =
            |text: &&str| !self.lexing.standard_conforming_strings && text.contains('\\');
        let Some(text) = self.text.filter(|text| !is_hidden && !is_otherwise(text)) else {
            return Asking::Nobody;
        };
        let asked = |question: Option<Question>| {
            question.map_or(Asking::Nothing, |question| Asking::Planner(Box::new(question)))
        };
        let Some(paths) = paths(snapshot, self.said) else { return Asking::Nothing };
        let Some(statement) = pieces::unwrapped(text, self.lexing) else {
            return Asking::Nothing;
        };
        let Some(Execution { name, arguments }) = pieces::execution(statement, self.lexing) else {
            return asked(self.sent(statement, snapshot, paths));
        };
        let Some(body) = name.and_then(|name| prepared(&name)) else { return Asking::Nobody };
        asked(Some(Question {
            counts: self.counts(&body.statement, snapshot),
            prelude: Some(body),
            text: arguments.to_owned(),
            types: Vec::new(),
            values: Vec::new(),
            paths,
        }))
    }

    /// All rows that it may change or remove.
    pub(super) fn worst(&self, snapshot: &Snapshot, own: &Unsettled, bulk: Bulk) -> Estimate {
        // Of a name without a schema, the largest that it may mean.
        let largest = |target: &TableAccess| {
            let counts = snapshot.relations(&target.name).map(|it| snapshot.count(it.oid));
            counts.map(|rows| rows.unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX)
        };
        let rows = self.targets(snapshot, own).map(largest).fold(0, u64::saturating_add);
        Estimate { is_worst: true, ..bulk.weigh(rows, Some(100)) }
    }

    /// Relations whose rows it changes or removes, but for those that it has made itself.
    fn targets(&self, snapshot: &Snapshot, own: &Unsettled) -> impl Iterator<Item = &TableAccess> {
        self.changed().filter(|table| !own.is_own(&table.name, snapshot))
    }

    fn changed(&self) -> impl Iterator<Item = &TableAccess> {
        self.said.tables.iter().filter(|table| is_changed(table.access))
    }

    /// Planning computes what it can: nothing is planned that isn't PostgreSQL's own all through.
    fn is_safe(&self) -> bool {
        let Self { facts, said, .. } = self;
        let plain = [
            Effect::Read,
            Effect::Insert,
            Effect::Update,
            Effect::Delete,
            Effect::Lock,
            Effect::Session,
            Effect::CopyOut,
            Effect::Call,
            // `CREATE TABLE … AS WITH d AS (DELETE …) …`
            Effect::Define,
        ];
        let runs_code = !facts.calls.is_empty() || !facts.analysis.is_complete();
        !runs_code && facts.traits.is_empty() && said.effects.iter().all(|e| plain.contains(&e))
    }

    fn sent(
        &self,
        statement: &str,
        snapshot: &Snapshot,
        paths: Vec<Vec<String>>,
    ) -> Option<Question> {
        let n_parameters = n_parameters(statement, self.lexing)?;
        let values = match (n_parameters, self.values) {
            (0, _) => Vec::new(),
            (n, Some(values)) => values.get(..n)?.to_vec(),
            (_, None) => return None,
        };
        let types = self.types.get(..n_parameters.min(self.types.len()))?.to_vec();
        let counts = self.counts(statement, snapshot);
        Some(Question { prelude: None, text: statement.to_owned(), types, values, counts, paths })
    }

    /// Conditions are held against rows only where that computes, and nothing else.
    fn counts(&self, statement: &str, snapshot: &Snapshot) -> Vec<String> {
        let relations: Vec<_> =
            self.changed().flat_map(|table| snapshot.relations(&table.name)).collect();
        let is = |kind: Kind| relations.iter().any(|relation| relation.kind == kind);
        let target = sampling::Target {
            is_view: is(Kind::View),
            is_analysed: relations.iter().all(|relation| snapshot.count(relation.oid).is_some()),
        };
        let computes = self.facts.functions.iter().all(|name| only_computes(name))
            && !self.facts.effects.contains(Effect::Lock);
        match computes && !is(Kind::Foreign) {
            true => sampling::counts(statement, self.lexing, target),
            false => Vec::new(),
        }
    }
}

/// What is expected means for a table with so many rows.
pub(super) fn weighed(expected: &Expected, snapshot: &Snapshot, bulk: Bulk) -> Option<Estimate> {
    let planned = expected.planned.iter().map(|Planned { schema, relation, rows }| {
        let name = qualified([schema.as_str(), relation.as_str()].into_iter());
        let found = snapshot.relations(&name).find(|one| one.kind == Kind::Table);
        let all = found.and_then(|relation| snapshot.count(relation.oid));
        let percent = all.map(|all| (rows.saturating_mul(100) / all.max(1)).min(100));
        bulk.weigh(*rows, percent)
    });
    let sampled = expected.sampled.iter();
    let sampled =
        sampled.map(|Sampled { rows, percent }| bulk.weigh(*rows, Some((*percent).into())));
    planned.chain(sampled).max_by_key(|estimate| (estimate.is_bulk, estimate.rows))
}

fn is_changed(access: Access) -> bool {
    matches!(access, Access::Update | Access::Delete)
}

/// It names a row by a key of the table.
fn is_one_row(snapshot: &Snapshot, said: &Facts, table: &str) -> bool {
    let named =
        |column: &str| said.keys.iter().any(|key| *key.table == *table && *key.column == *column);
    let mut relations = snapshot.relations(table).peekable();
    relations.peek().is_some()
        && relations.all(|relation| {
            if relation.kind == Kind::Sequence {
                return true;
            }
            let keys = snapshot.keys(relation.oid);
            snapshot.children(relation.oid).is_empty()
                && keys.iter().any(|columns| columns.iter().all(|column| named(column)))
        })
}

/// The ways to look for names without a schema. One that nothing is known by is no table of a schema: what it stands
/// for, the server knows.
fn paths(snapshot: &Snapshot, said: &Facts) -> Option<Vec<Vec<String>>> {
    let mut common: Option<Vec<&str>> = None;
    let mut all: Vec<&str> = Vec::new();
    for table in said.tables.iter().filter(|table| !table.name.contains('.')) {
        let mut schemas: Vec<&str> =
            snapshot.relations(&table.name).map(|relation| relation.schema.as_str()).collect();
        schemas.sort_unstable();
        schemas.dedup();
        if schemas.is_empty() {
            // It may be the client's alone, as what it has made in its transaction.
            if is_changed(table.access) {
                return None;
            }
            continue;
        }
        all.extend(&schemas);
        match &mut common {
            None => common = Some(schemas),
            Some(common) => common.retain(|schema| schemas.contains(schema)),
        }
    }
    all.sort_unstable();
    all.dedup();
    let with = |first: Option<&str>| {
        let rest = all.iter().copied().filter(|schema| first.is_some_and(|first| first != *schema));
        let rest =
            rest.chain((first != Some("public") && !all.contains(&"public")).then_some("public"));
        first.into_iter().chain(rest).map(str::to_owned).collect()
    };
    Some(match common.as_deref() {
        None => vec![with(None)],
        // Each name is in another schema.
        Some([]) => vec![all.iter().map(|schema| (*schema).to_owned()).collect()],
        Some(common) => common.iter().take(MAX_PATHS).map(|schema| with(Some(schema))).collect(),
    })
}

/// The highest number of a parameter.
fn n_parameters(text: &str, lexing: Lexing) -> Option<usize> {
    let parameters = Lexer::new(text, lexing).filter(|token| token.kind == TokenKind::Parameter);
    parameters
        .map(|token| token.text(text).strip_prefix('$').and_then(|n| n.parse::<u16>().ok()))
        .try_fold(0, |most, n| Some(most.max(usize::from(n?))))
}

#[cfg(test)]
mod tests {
    use super::{Asked, Asking, Bulk, weighed};
    use crate::{
        event::{Access, Analysis, Effect, Facts, TableAccess},
        guard::{
            catalog::{Expected, Kind, Planned, Relation, Rows, Sampled, Snapshot, Value},
            unsettled::Unsettled,
        },
        statement::{Body, Lexing, STACK_BYTES, analyse},
    };

    fn snapshot() -> Snapshot {
        let table = |oid, schema: &str, name: &str, rows| Relation {
            oid,
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind: Kind::Table,
            rows,
            definition: None,
        };
        let rows = Rows {
            relations: vec![
                table(1, "public", "a", Some(100)),
                table(2, "one", "t", Some(10)),
                table(3, "two", "t", None),
                table(4, "public", "parts", Some(0)),
                table(5, "public", "parts_1", Some(1_000)),
            ],
            children: vec![(4, 5)],
            keys: vec![(1, vec!["id".to_owned()]), (1, vec!["x".to_owned(), "y".to_owned()])],
            ..Rows::default()
        };
        Snapshot::new("app", rows)
    }

    /// Where names are looked for, or that nobody asks.
    fn paths(text: &str, values: Option<&[Value]>) -> Option<Vec<String>> {
        let owned = text.to_owned();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let facts = thread.spawn(move || analyse(&owned, Lexing::default()).whole).unwrap();
        let facts = facts.join().unwrap();
        let lexing = Lexing::default();
        let asked =
            Asked { text: Some(text), lexing, said: &facts, facts: &facts, types: &[], values };
        let asking = asked.asking(&snapshot(), &Unsettled::default(), |_| None);
        let Asking::Planner(question) = asking else { return None };
        Some(question.paths.into_iter().map(|path| path.join(",")).collect())
    }

    #[test]
    fn the_planner_is_asked_where_it_matters_and_is_safe() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|paths| paths.iter().map(|p| (*p).to_owned()).collect());
            assert_eq!(paths(text, None), expected, "{text}");
        };
        check("DELETE FROM a WHERE b > 1", Some(&["public"]));
        check("DELETE FROM public.a WHERE b > 1", Some(&["public"]));
        check("UPDATE t SET b = 1 WHERE b > 1", Some(&["one,two,public", "two,one,public"]));
        check("DELETE FROM t USING a WHERE t.b > a.b", Some(&["one,public,two"]));
        // One row at most.
        check("DELETE FROM a WHERE id = 1 AND b > 1", None);
        check("DELETE FROM a WHERE x = 1 AND y = 2", None);
        check("DELETE FROM a WHERE x = 1", Some(&["public"]));
        // Somebody's code may be planned away, a table is the client's own, nothing is changed by a condition.
        check("DELETE FROM a WHERE f(b)", None);
        check("DELETE FROM mine WHERE b > 1", None);
        check("INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET b = 1", None);
        check("SELECT * FROM a", None);
        // Its parameters are yet to come.
        check("DELETE FROM a WHERE b > $1", None);
        let values = [Value::Text("1".to_owned())];
        assert!(paths("DELETE FROM a WHERE b > $1", Some(&values)).is_some());
        assert!(paths("DELETE FROM a WHERE b > $2", Some(&values)).is_none());
    }

    #[test]
    fn an_execute_is_asked_as_what_was_prepared() {
        let text = "EXPLAIN ANALYZE EXECUTE p (1)";
        let table = TableAccess { name: "a".into(), access: Access::Delete };
        let facts = Facts {
            effects: [Effect::Delete].into_iter().collect(),
            tables: vec![table],
            restricted: Some(true),
            ..Facts::nothing(Analysis::Complete)
        };
        let lexing = Lexing::default();
        let asked = Asked {
            text: Some(text),
            lexing,
            said: &facts,
            facts: &facts,
            types: &[],
            values: None,
        };
        let own = Unsettled::default();
        assert_eq!(asked.asking(&snapshot(), &own, |_| None), Asking::Nobody);
        let untold = Asked { text: None, ..asked };
        assert_eq!(untold.asking(&snapshot(), &own, |_| None), Asking::Nobody);
        let asked = Asked { text: Some(text), ..untold };
        let body = |name: &str| {
            (name == "p").then(|| Body::new("(int)", "DELETE FROM a WHERE sign(id) = $1"))
        };
        let asking = asked.asking(&snapshot(), &own, body);
        let Asking::Planner(question) = asking else { panic!("{asking:?}") };
        assert_eq!((question.prelude, question.text.as_str()), (body("p"), "(1)"));
        assert_eq!(question.counts.len(), 1);
    }

    #[test]
    fn where_nobody_can_be_asked_all_rows_count() {
        let check = |table: &str, expected: (u64, bool)| {
            let table = TableAccess { name: table.into(), access: Access::Delete };
            let facts = Facts { tables: vec![table], ..Facts::nothing(Analysis::Complete) };
            let lexing = Lexing::default();
            let asked =
                Asked { text: None, lexing, said: &facts, facts: &facts, types: &[], values: None };
            let bulk = Bulk { rows: 500, percent: 90 };
            let worst = asked.worst(&snapshot(), &Unsettled::default(), bulk);
            assert_eq!((worst.rows, worst.is_bulk), expected, "{}", facts.tables[0].name);
            assert!(worst.is_worst);
        };
        check("a", (100, true));
        // Nothing of a small table is bulk.
        check("one.t", (10, false));
        // It may be the one that was never analysed, or one that nobody knows.
        check("t", (u64::MAX, true));
        check("unknown", (u64::MAX, true));
    }

    #[test]
    fn what_is_bulk_depends_on_the_table() {
        let bulk = Bulk { rows: 500, percent: 90 };
        let check = |schema: &str, relation: &str, rows, expected: (Option<u8>, bool)| {
            let planned =
                vec![Planned { schema: schema.to_owned(), relation: relation.to_owned(), rows }];
            let all = Expected { planned, sampled: Vec::new() };
            let estimate = weighed(&all, &snapshot(), bulk).unwrap();
            assert_eq!((estimate.percent, estimate.is_bulk), expected, "{relation} {rows}");
        };
        check("public", "a", 89, (Some(89), false));
        check("public", "a", 90, (Some(90), true));
        check("public", "a", 120, (Some(100), true));
        check("one", "t", 10, (Some(100), false));
        check("two", "t", 499, (None, false));
        check("two", "t", 500, (None, true));
        check("public", "parts", 400, (Some(40), false));
        check("elsewhere", "x", 501, (None, true));
        assert!(weighed(&Expected::default(), &snapshot(), bulk).is_none());
        // What was counted goes before what is guessed.
        let planned = vec![Planned { schema: "public".into(), relation: "a".into(), rows: 1 }];
        let sampled = vec![Sampled { rows: 95, percent: 95 }];
        let estimate = weighed(&Expected { planned, sampled }, &snapshot(), bulk).unwrap();
        assert_eq!((estimate.rows, estimate.percent, estimate.is_bulk), (95, Some(95), true));
    }
}

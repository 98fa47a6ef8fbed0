//! Which of a client's statements the server is asked about beforehand, and what its answer means.

use super::{
    catalog::{Expected, Kind, Planned, Question, Sampled, Snapshot, Value},
    sampling,
};
use crate::{
    event::{Access, Effect, Facts},
    policy::Estimate,
    statement::{Lexer, Lexing, Token, TokenKind, only_computes, qualified},
};

/// A table with no more rows is small: nothing of it is bulk.
const SMALL: u64 = 10;
/// Schemas that a name without one is looked for in, one after the other.
const MAX_PATHS: usize = 8;
/// `EXPLAIN (ANALYZE) PREPARE …` and its like.
const MAX_WRAPPINGS: usize = 4;

/// More than this is not ordinary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk {
    pub rows: u64,
    pub percent: u64,
}

/// One statement of a text, as far as the planner is to be asked about it.
pub(super) struct Asked<'a> {
    /// As it stands in the text.
    pub text: &'a str,
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
    /// What the planner is asked; `None` where it makes no difference, isn't safe, or can't be told. `prepared` gives
    /// what SQL's PREPARE was given by that name: types in brackets, or nothing, and the statement.
    pub(super) fn question(
        &self,
        snapshot: &Snapshot,
        prepared: impl Fn(&str) -> Option<(String, String)>,
    ) -> Option<Question> {
        let Self { facts, said, lexing, .. } = self;
        // Strings would be read otherwise there. Only UPDATE, DELETE and MERGE are restricted or not.
        if !lexing.standard_conforming_strings || said.restricted.is_none() {
            return None;
        }
        // Planning computes what it can: nothing is planned that isn't PostgreSQL's own all through.
        let plain = [
            Effect::Read,
            Effect::Insert,
            Effect::Update,
            Effect::Delete,
            Effect::Lock,
            Effect::Session,
            Effect::CopyOut,
            Effect::Call,
        ];
        let runs_code = !facts.calls.is_empty() || !facts.analysis.is_complete();
        if runs_code || !facts.traits.is_empty() || !said.effects.iter().all(|e| plain.contains(&e))
        {
            return None;
        }
        let mut targets = said.tables.iter().filter(|table| is_changed(table.access)).peekable();
        targets.peek()?;
        if targets.all(|target| is_one_row(snapshot, said, &target.name)) {
            return None;
        }
        let statement = unwrapped(self.text, self.lexing)?;
        let tokens = significant(statement, self.lexing);
        let first = tokens.first()?;
        let paths = paths(snapshot, said)?;
        if first.is_word(statement, "EXECUTE") {
            let name = name_of(tokens.get(1)?.text(statement));
            let (types, prepared) = prepared(&name)?;
            let arguments = statement.get(tokens.get(1)?.end..)?;
            return Some(Question {
                counts: self.counts(&prepared, snapshot),
                prelude: Some((types, prepared)),
                text: arguments.trim().trim_end_matches(';').to_owned(),
                types: Vec::new(),
                values: Vec::new(),
                paths,
            });
        }
        let n_parameters = n_parameters(statement, &tokens)?;
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
        let changed = self.said.tables.iter().filter(|table| is_changed(table.access));
        let relations: Vec<_> = changed.flat_map(|table| snapshot.relations(&table.name)).collect();
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
    let weigh = |rows: u64, percent: Option<u64>| {
        let is_most = percent.is_some_and(|percent| percent >= bulk.percent) && rows > SMALL;
        Estimate {
            rows,
            percent: percent.and_then(|percent| u8::try_from(percent).ok()),
            is_bulk: is_most || rows >= bulk.rows,
        }
    };
    let planned = expected.planned.iter().map(|Planned { schema, relation, rows }| {
        let name = qualified([schema.as_str(), relation.as_str()].into_iter());
        let found = snapshot.relations(&name).find(|one| one.kind == Kind::Table);
        let all = found.and_then(|relation| snapshot.count(relation.oid));
        let percent = all.map(|all| (rows.saturating_mul(100) / all.max(1)).min(100));
        weigh(*rows, percent)
    });
    let sampled = expected.sampled.iter();
    let sampled = sampled.map(|Sampled { rows, percent }| weigh(*rows, Some((*percent).into())));
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

/// A text cut where its statements end; empty ones are left out.
pub(super) fn statements(text: &str, lexing: Lexing) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth, mut is_empty) = (0, 0_usize, true);
    for token in Lexer::new(text, lexing).filter(|token| token.is_significant()) {
        match token.text(text) {
            ";" if depth == 0 && token.kind == TokenKind::Punctuation => {
                if !is_empty {
                    parts.extend(text.get(start..token.start));
                }
                (start, is_empty) = (token.end, true);
                continue;
            }
            "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_empty = false;
    }
    if !is_empty {
        parts.extend(text.get(start..));
    }
    parts
}

/// What `PREPARE` is given: name, types in brackets or nothing, statement.
pub(super) fn preparation(text: &str, lexing: Lexing) -> Option<(String, String, String)> {
    let tokens = significant(text, lexing);
    if !tokens.first()?.is_word(text, "PREPARE") {
        return None;
    }
    let name = tokens.get(1)?;
    let after = tokens.iter().position(|token| token.is_word(text, "AS"))?;
    let (start, body) = (tokens.get(after)?.start, tokens.get(after + 1)?.start);
    Some((
        name_of(name.text(text)),
        text.get(name.end..start)?.trim().to_owned(),
        text.get(body..)?.to_owned(),
    ))
}

fn significant(text: &str, lexing: Lexing) -> Vec<Token> {
    Lexer::new(text, lexing).filter(|token| token.is_significant()).collect()
}

/// A name as it is kept.
fn name_of(written: &str) -> String {
    match written.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(name) => name.replace("\"\"", "\""),
        None => written.to_ascii_lowercase(),
    }
}

/// The statement inside of those that carry one.
fn unwrapped(text: &str, lexing: Lexing) -> Option<&str> {
    let mut text = text;
    for _ in 0..MAX_WRAPPINGS {
        let tokens = significant(text, lexing);
        let first = tokens.first()?;
        let bracketed = |from: usize| {
            let mut depth = 0_usize;
            tokens.iter().enumerate().skip(from).find_map(|(at, token)| {
                match token.text(text) {
                    "(" => depth += 1,
                    ")" => depth = depth.saturating_sub(1),
                    _ => {}
                }
                (depth == 0).then_some(at)
            })
        };
        let opens = tokens.get(1).is_some_and(|token| token.text(text) == "(");
        if first.is_word(text, "EXPLAIN") {
            let mut next = if opens { bracketed(1)? + 1 } else { 1 };
            let options = ["ANALYZE", "ANALYSE", "VERBOSE"];
            while tokens.get(next).is_some_and(|t| options.iter().any(|word| t.is_word(text, word)))
            {
                next += 1;
            }
            text = text.get(tokens.get(next)?.start..)?;
        } else if first.is_word(text, "PREPARE") {
            let after = tokens.iter().position(|token| token.is_word(text, "AS"))?;
            text = text.get(tokens.get(after + 1)?.start..)?;
        } else if first.is_word(text, "COPY") && opens {
            let (open, close) = (tokens.get(1)?, tokens.get(bracketed(1)?)?);
            text = text.get(open.end..close.start)?;
        } else {
            return Some(text);
        }
    }
    None
}

/// The highest number of a parameter.
fn n_parameters(text: &str, tokens: &[Token]) -> Option<usize> {
    let parameters = tokens.iter().filter(|token| token.kind == TokenKind::Parameter);
    parameters
        .map(|token| token.text(text).strip_prefix('$').and_then(|n| n.parse::<u16>().ok()))
        .try_fold(0, |most, n| Some(most.max(usize::from(n?))))
}

#[cfg(test)]
mod tests {
    use super::{Asked, Bulk, preparation, statements, unwrapped, weighed};
    use crate::{
        guard::catalog::{Expected, Kind, Planned, Relation, Rows, Sampled, Snapshot, Value},
        statement::{Lexing, STACK_BYTES, analyse},
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
        let asked = Asked { text, lexing, said: &facts, facts: &facts, types: &[], values };
        let question = asked.question(&snapshot(), |_| None)?;
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

    #[test]
    fn a_text_is_cut_where_the_server_cuts_it() {
        let cut = |text| statements(text, Lexing::default());
        assert_eq!(cut("a; b"), ["a", " b"]);
        assert_eq!(cut(";; a ';' /* ; */ ; -- ;\n"), [" a ';' /* ; */ "]);
        assert_eq!(cut("a (b; c) ; $$;$$"), ["a (b; c) ", " $$;$$"]);
        assert_eq!(cut(""), [""; 0]);
    }

    #[test]
    fn a_statement_is_taken_out_of_what_carries_it() {
        for (text, expected) in [
            ("DELETE FROM a", "DELETE FROM a"),
            ("EXPLAIN (ANALYZE, COSTS off) DELETE FROM a", "DELETE FROM a"),
            ("explain analyze verbose DELETE FROM a", "DELETE FROM a"),
            ("PREPARE p (int) AS DELETE FROM a", "DELETE FROM a"),
            ("COPY (DELETE FROM a RETURNING (b)) TO STDOUT", "DELETE FROM a RETURNING (b)"),
            ("EXPLAIN ANALYZE EXECUTE p (1)", "EXECUTE p (1)"),
        ] {
            assert_eq!(unwrapped(text, Lexing::default()), Some(expected));
        }
        let prepared = preparation("PREPARE \"P\"(int) AS DELETE FROM a", Lexing::default());
        assert_eq!(prepared, Some(("P".into(), "(int)".into(), "DELETE FROM a".into())));
        assert_eq!(preparation("EXECUTE p", Lexing::default()), None);
    }
}

//! Who inherits by which statement, in the made-up database with a few tables more.

use std::sync::Arc;

use super::{super::own::Own, Here, database, judge, on_large_stack, origin};
use crate::{
    event::{Heir, Mask},
    guard::{
        behind::Behind,
        catalog::{
            Code, Column, Events, Function, Inherited, Kind, Relation, Rows, Snapshot, What,
        },
        lineage::{Labelled, Legacy, Said},
    },
    policy::Circumstances,
    statement::{Lexing, Session, analyse_in},
};

/// Besides those: what is written to, a view of one, and code that writes.
fn rows() -> Rows {
    let mut rows = database();
    let mut columns = rows.columns.take().unwrap();
    let tables = [
        (30_100, "copy", "id name number more", None),
        (30_101, "log", "at said", None),
        (30_102, "stats", "n m", None),
        (
            30_103,
            "copies",
            "key digits",
            Some("SELECT id AS key, number AS digits FROM public.copy"),
        ),
    ];
    for (oid, name, names, definition) in tables {
        let kind = if definition.is_some() { Kind::View } else { Kind::Table };
        let (schema, name) = ("public".to_owned(), name.to_owned());
        let definition = definition.map(Into::into);
        rows.relations.push(Relation { oid, schema, name, kind, rows: Some(1), definition });
        for (place, name) in (1..).zip(names.split(' ')) {
            columns.push(Column {
                relation: oid,
                place,
                name: name.into(),
                kind: 25,
                made_by: None,
            });
        }
    }
    columns.sort_by_key(|column| (column.relation, column.place));
    rows.columns = Some(columns);
    rows.reads.push((30_103, 30_100));
    for (oid, head, body) in [
        (
            40_100,
            "logs() RETURNS trigger",
            "BEGIN INSERT INTO log VALUES (now(), NEW.ssn); RETURN NEW; END",
        ),
        (40_101, "counts() RETURNS trigger", "BEGIN UPDATE stats SET n = n + 1; RETURN NEW; END"),
        (
            40_102,
            "kept(words text) RETURNS text",
            "BEGIN INSERT INTO log VALUES (now(), words); RETURN words; END",
        ),
        (
            40_103,
            "moves()",
            "DECLARE v text; BEGIN SELECT ssn INTO v FROM customers LIMIT 1; INSERT INTO log VALUES (now(), v); END",
        ),
    ] {
        let sort = if head.contains("RETURNS") { "FUNCTION" } else { "PROCEDURE" };
        let definition = format!(
            "CREATE OR REPLACE {sort} public.{head} LANGUAGE plpgsql AS $function${body}$function$"
        );
        rows.functions.push(Function {
            oid,
            schema: "public".to_owned(),
            name: head.split('(').next().unwrap_or_default().to_owned(),
            definition: Some(definition.into()),
            extension: None,
            takes: (0, 2),
            is_aggregate: false,
            parts: Vec::new(),
        });
    }
    for function in [40_100, 40_101] {
        let definition = "CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()".into();
        let what = What::Trigger { function, definition, is_instead: false };
        rows.code.push((30_001, Code { on: Events::INSERT, what }));
    }
    rows
}

/// A client from whom nothing is hidden, as `veil` treats one.
struct Writer {
    snapshot: Arc<Snapshot>,
    inherited: Inherited,
    labelled: Labelled,
    own: Own,
}

impl Writer {
    fn new() -> Self {
        let snapshot = Arc::new(Snapshot::new("app", rows()));
        let inherited = Inherited::default();
        let labelled = Self::labelled(&snapshot, &inherited);
        Self { snapshot, inherited, labelled, own: Own::default() }
    }

    fn labelled(snapshot: &Arc<Snapshot>, inherited: &Inherited) -> Labelled {
        Labelled::new(snapshot.clone(), &judge(), &mut Here, inherited.all()).unwrap()
    }

    fn say(&mut self, text: &str) -> String {
        let analysed = analyse_in(text, &Session::default());
        let mut behind = Behind::new(self.snapshot.clone());
        let said = Said {
            text: Some(text),
            lexing: Lexing::default(),
            statements: &analysed.statements,
            has_run: false,
            prepared: &|name| PREPARED.iter().find(|it| it.0 == name).map(|it| vec![it.1.into()]),
        };
        let Legacy { heirs, unseen } =
            self.labelled.legacy(&said, &mut self.own, &mut behind, &mut Here);
        let mut told: Vec<String> = heirs.iter().map(shown).collect();
        for one in unseen {
            for (slot, roots) in one.columns {
                let roots = roots.iter().map(|(from, made)| mark(&from.to_string(), *made));
                let roots: Vec<String> = roots.collect();
                told.push(format!("{} {slot:?}<{}", one.name, roots.join("+")));
            }
        }
        self.inherited.add(heirs).unwrap();
        told.sort_unstable();
        told.dedup();
        self.labelled = Self::labelled(&self.snapshot, &self.inherited);
        told.join(", ")
    }

    fn hidden(&mut self) -> Vec<((u32, i16), Mask)> {
        let masks = self.labelled.masks(&mut judge(), &origin("report"), Circumstances::default());
        let masks = masks.unwrap();
        let hidden = masks.columns.iter().map(|(place, masked)| (*place, masked.mask.clone()));
        let mut hidden: Vec<_> = hidden.filter(|(place, _)| place.0 >= 30_100).collect();
        hidden.sort();
        hidden
    }
}

/// Without what all have.
fn mark(name: &str, is_derived: bool) -> String {
    let name = name.trim_start_matches("public.").trim_start_matches("customers.");
    format!("{name}{}", if is_derived { "*" } else { "" })
}

fn shown(heir: &Heir) -> String {
    format!("{}<{}", mark(&heir.column, false), mark(&heir.from.to_string(), heir.is_derived))
}

const PREPARED: [(&str, &str); 1] = [("p", "INSERT INTO copy (number) SELECT ssn FROM customers")];

/// What is derived has a star.
const CASES: &[(&str, &str)] = &[
    // Nothing of it is labelled, nothing is written, or it only goes through a predicate.
    ("INSERT INTO copy SELECT id, name FROM customers", ""),
    ("INSERT INTO copy (id) SELECT id FROM customers WHERE ssn = '1' ORDER BY email", ""),
    ("SELECT ssn FROM customers", ""),
    ("CREATE TABLE t AS SELECT id, name FROM customers WHERE ssn LIKE '1%'", ""),
    ("INSERT INTO orders SELECT * FROM orders", ""),
    ("EXPLAIN INSERT INTO copy (number) SELECT ssn FROM customers", ""),
    ("EXPLAIN (COSTS) CREATE TABLE t AS SELECT ssn FROM customers", ""),
    ("UPDATE customers SET ssn = trim(ssn)", ""),
    ("CREATE VIEW v AS SELECT ssn FROM customers", ""),
    ("CREATE TABLE t (LIKE customers INCLUDING ALL)", ""),
    ("INSERT INTO copy SELECT id FROM visits_2026 v, customers c WHERE c.email = v.email", ""),
    // As it is.
    ("INSERT INTO copy (number) SELECT ssn FROM customers", "copy.number<ssn"),
    ("INSERT INTO public.copy SELECT id, name, ssn FROM customers", "copy.number<ssn"),
    ("EXPLAIN ANALYZE INSERT INTO copy (number) SELECT ssn FROM customers", "copy.number<ssn"),
    ("PREPARE p AS INSERT INTO copy (number) SELECT ssn FROM customers", "copy.number<ssn"),
    ("INSERT INTO copy (more, id) SELECT mail, id FROM contacts", "copy.more<email"),
    ("INSERT INTO copy TABLE badges", "copy.name<badges.card, copy.number<badges.card*"),
    ("EXECUTE p", "copy.number<ssn"),
    ("INSERT INTO copy (number) SELECT c.ssn FROM (SELECT * FROM customers) c", "copy.number<ssn"),
    (
        "WITH gone AS (DELETE FROM customers RETURNING id, email, ssn) INSERT INTO copy SELECT id, email, ssn FROM gone",
        "copy.name<email, copy.number<ssn",
    ),
    (
        "WITH kept AS (INSERT INTO copy (number) SELECT ssn FROM customers RETURNING id) SELECT id FROM kept",
        "copy.number<ssn",
    ),
    (
        "COPY (INSERT INTO copy (number) SELECT ssn FROM customers RETURNING id) TO STDOUT",
        "copy.number<ssn",
    ),
    (
        "WITH a AS (INSERT INTO copy (number) SELECT ssn FROM customers RETURNING *) INSERT INTO log SELECT id, number FROM a",
        "copy.number<ssn, log.said<ssn",
    ),
    (
        "WITH a AS (INSERT INTO b SELECT ssn FROM customers RETURNING *) INSERT INTO log (said) SELECT x FROM a",
        "b At(0)<ssn, log.said<ssn",
    ),
    ("UPDATE copy SET number = c.ssn FROM customers c WHERE c.id = copy.id", "copy.number<ssn"),
    ("UPDATE copy SET (name, number) = (SELECT name, ssn FROM customers c WHERE c.id = copy.id)", "copy.name<ssn*, copy.number<ssn*"),
    ("UPDATE customers SET note = ssn", "note<ssn"),
    (
        "MERGE INTO copy USING customers c ON copy.id = c.id WHEN MATCHED THEN UPDATE SET number = c.ssn
            WHEN NOT MATCHED THEN INSERT (id, more) VALUES (c.id, c.email)",
        "copy.more<email, copy.number<ssn",
    ),
    (
        "MERGE INTO copy USING customers c ON copy.id = c.id WHEN NOT MATCHED THEN INSERT VALUES (c.id, c.name, c.ssn)",
        "copy.number<ssn",
    ),
    (
        "INSERT INTO copy (id, number) SELECT id, ssn FROM customers ON CONFLICT (id) DO UPDATE SET more = excluded.number, name = 'x'",
        "copy.more<ssn, copy.number<ssn",
    ),
    (
        "INSERT INTO copy SELECT id, name, ssn FROM customers ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        "copy.number<ssn",
    ),
    ("INSERT INTO copies SELECT id, ssn FROM customers", "copies.digits<ssn, copy.number<ssn"),
    ("UPDATE copies SET digits = ssn FROM customers", "copies.digits<ssn, copy.number<ssn"),
    // Something that is made of it.
    ("INSERT INTO copy (number) SELECT upper(ssn) FROM customers", "copy.number<ssn*"),
    ("INSERT INTO copy (number) SELECT max(ssn) || min(email) FROM customers", "copy.number<email*, copy.number<ssn*"),
    ("INSERT INTO copy (id, number) VALUES (1, (SELECT ssn FROM customers LIMIT 1))", "copy.number<ssn*"),
    ("INSERT INTO copy (more) SELECT row_to_json(c) FROM customers c", "copy.more<card*, copy.more<email*, copy.more<ssn*"),
    ("INSERT INTO copy (number) SELECT ssn FROM customers UNION SELECT name FROM customers", "copy.number<ssn"),
    ("INSERT INTO copy (number) SELECT area FROM areas", "copy.number<ssn*"),
    ("UPDATE copy SET more = more || c.ssn FROM customers c", "copy.more<ssn*"),
    ("ALTER TABLE customers ALTER COLUMN note TYPE text USING ssn || 'x'", "note<ssn*"),
    // Relations that nobody has seen.
    ("CREATE TABLE t AS SELECT id, ssn AS s FROM customers", "t At(1)<ssn"),
    ("SELECT id, upper(ssn) INTO t FROM customers", "t At(1)<ssn*"),
    ("SELECT id INTO t FROM orders UNION SELECT 1 FROM customers", ""),
    ("SELECT email INTO t FROM customers UNION SELECT 'x'", "t At(0)<email"),
    ("CREATE TABLE s.t (a, b) AS SELECT id, ssn FROM customers", "s.t At(1)<ssn"),
    ("CREATE TABLE s.t AS SELECT id, ssn FROM customers WITH NO DATA", ""),
    ("INSERT INTO new_one (a) SELECT ssn FROM customers", "new_one Named(\"a\")<ssn"),
    ("CREATE TEMP TABLE t AS SELECT id, ssn FROM customers", ""),
    // By code.
    ("INSERT INTO copy (number) SELECT ssn_of(1)", "copy.id<ssn*, copy.more<ssn*, copy.name<ssn*, copy.number<ssn*"),
    ("INSERT INTO customers (id, name) VALUES (1, 'a')", "log.at<ssn*, log.said<ssn*"),
    ("SELECT kept(ssn) FROM customers", "log.at<ssn*, log.said<ssn*"),
    ("CALL moves()", "log.at<ssn*, log.said<ssn*"),
    (
        "DO $$ DECLARE v text; BEGIN SELECT ssn INTO v FROM customers; INSERT INTO copy (number) VALUES (v); END $$",
        "copy.id<ssn*, copy.more<ssn*, copy.name<ssn*, copy.number<ssn*",
    ),
    ("INSERT INTO archive (id) SELECT 1", "archive.id<ssn*, archive.name<ssn*, archive.note<ssn*"),
];

#[test]
fn whoever_gets_something_inherits() {
    on_large_stack(|| {
        let mut wrong = String::new();
        for (text, expected) in CASES {
            let found = Writer::new().say(text);
            if found != *expected {
                wrong += &format!("{text}\n    is {found}\n    not {expected}\n");
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

#[test]
fn what_is_inherited_is_passed_on() {
    on_large_stack(|| {
        let mut writer = Writer::new();
        for (text, expected) in [
            ("INSERT INTO copy (number) SELECT ssn FROM customers", "copy.number<ssn"),
            ("INSERT INTO copy (number) SELECT ssn FROM customers", ""),
            ("INSERT INTO log (said) SELECT number FROM copy", "log.said<ssn"),
            ("INSERT INTO log (said) SELECT digits FROM copies", ""),
            ("UPDATE log SET said = lower(said)", "log.said<ssn*"),
            ("INSERT INTO stats (m) SELECT said FROM log", "stats.m<ssn*"),
            // For the session alone.
            ("CREATE TEMP TABLE own AS SELECT id, email AS mail FROM customers", ""),
            ("INSERT INTO stats (n) SELECT o.id FROM own o", ""),
            ("INSERT INTO stats SELECT * FROM own", "stats.m<email"),
            ("INSERT INTO other SELECT ssn FROM customers", "other At(0)<ssn"),
            ("INSERT INTO copy (more) SELECT whatever FROM other", "copy.more<ssn"),
        ] {
            assert_eq!(writer.say(text), expected, "{text}");
        }
        let hash: Mask = "hash".parse().unwrap();
        let mail: Mask = "last4".parse().unwrap();
        let hidden = [
            ((30_100, 3), hash.clone()),
            ((30_100, 4), hash.clone()),
            ((30_101, 2), Mask::Null),
            ((30_102, 2), Mask::Null.max(mail)),
            ((30_103, 2), hash),
        ];
        assert_eq!(writer.hidden(), hidden);
    });
}

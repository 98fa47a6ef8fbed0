//! Databases with code in them, statements, and what these turn out to be.

use std::{sync::Arc, thread};

use super::{Behind, Reads, Revealed};
use crate::{
    event::{Access, Facts},
    guard::catalog::{Code, Events, Function, Kind, Relation, Rows, Snapshot, What},
    statement::{Lexing, STACK_BYTES, analyse, analyse_behind},
};

/// The analysis itself, without a process of its own.
struct Here;

impl Reads for Here {
    fn read(&mut self, definition: &str) -> Option<Arc<Facts>> {
        Some(analyse_behind(definition).whole)
    }
}

/// Nobody answers.
struct Nobody;

impl Reads for Nobody {
    fn read(&mut self, _: &str) -> Option<Arc<Facts>> {
        None
    }
}

fn function(oid: u32, name: &str, language: &str, body: &str) -> Function {
    let definition = format!(
        "CREATE OR REPLACE FUNCTION public.{name}() RETURNS trigger LANGUAGE {language} AS \
         $function${body}$function$"
    );
    Function {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        definition: (language != "c").then(|| definition.into()),
        extension: None,
        takes: (0, 1),
        is_aggregate: false,
        parts: Vec::new(),
    }
}

fn relation(oid: u32, name: &str, query: Option<&str>) -> Relation {
    Relation {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind: if query.is_some() { Kind::View } else { Kind::Table },
        rows: Some(10),
        definition: query.map(Into::into),
    }
}

fn trigger(function: u32, on: Events) -> Code {
    let definition = "CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()".into();
    Code { on, what: What::Trigger { function, definition, is_instead: false } }
}

fn rule(text: &str, on: Events) -> Code {
    Code { on, what: What::Rule { definition: text.into(), is_instead: false } }
}

const WIPE: u32 = 20_000;
const TOUCH: u32 = 20_001;
const NATIVE: u32 = 20_002;
const NESTED: u32 = 20_003;
const LOWER: u32 = 20_004;
const ROUND: u32 = 20_005;
const PLUS: u32 = 20_006;
const EQUAL: u32 = 20_007;
const UPPER: u32 = 20_008;

fn database() -> Rows {
    let sql = |oid, name: &str, body: &str| function(oid, name, "sql", body);
    let extension = Some("citext".to_owned());
    Rows {
        functions: vec![
            function(WIPE, "wipe", "plpgsql", "BEGIN DELETE FROM victims; RETURN NEW; END"),
            function(TOUCH, "touch", "plpgsql", "BEGIN NEW.at = now(); RETURN NEW; END"),
            function(NATIVE, "native", "c", ""),
            function(NESTED, "nested", "plpgsql", "BEGIN PERFORM public.wipe(); RETURN NEW; END"),
            sql(LOWER, "lower", "DELETE FROM victims RETURNING 1"),
            sql(ROUND, "round", "SELECT pg_catalog.abs(1)"),
            sql(PLUS, "plus", "DELETE FROM victims RETURNING 1"),
            Function { extension: extension.clone(), ..function(EQUAL, "equal", "c", "") },
            Function { extension, ..function(UPPER, "upper", "c", "") },
        ],
        relations: vec![
            relation(30_000, "victims", None),
            relation(30_001, "wiped", None),
            relation(30_002, "touched", None),
            relation(30_003, "native", None),
            relation(30_004, "nested", None),
            relation(30_005, "ruled", None),
            relation(30_006, "parent", None),
            relation(30_007, "child", None),
            relation(30_008, "calling", Some("SELECT public.wipe() AS x")),
            relation(30_009, "plain", Some("SELECT id FROM public.victims")),
            relation(30_010, "pane", Some("SELECT * FROM public.wiped")),
            relation(30_011, "setting", Some("SELECT set_config('log_statement', 'none', false)")),
            relation(30_012, "referred", None),
            relation(30_013, "defaulted", None),
            relation(30_014, "of_views", Some("SELECT * FROM public.calling")),
            relation(30_015, "helped", Some("SELECT public.upper(name) FROM public.victims")),
            relation(30_016, "counted", None),
        ],
        operators: vec![("+".to_owned(), PLUS), ("=".to_owned(), EQUAL)],
        code: vec![
            (30_001, trigger(WIPE, Events::INSERT)),
            (30_002, trigger(TOUCH, Events::INSERT.and(Events::UPDATE))),
            (30_003, trigger(NATIVE, Events::DELETE)),
            (30_004, trigger(NESTED, Events::UPDATE)),
            (
                30_005,
                rule(
                    "CREATE RULE r AS ON INSERT TO public.ruled DO DELETE FROM public.victims",
                    Events::INSERT,
                ),
            ),
            (30_007, trigger(WIPE, Events::INSERT.and(Events::DELETE))),
            (
                30_012,
                Code {
                    on: Events::DELETE,
                    what: What::Cascade { to: 30_007, access: Access::Delete },
                },
            ),
            (30_013, Code { on: Events::INSERT, what: What::Expression("public.wipe()".into()) }),
            (
                30_016,
                Code { on: Events::default(), what: What::Expression("public.wipe(), id".into()) },
            ),
        ],
        children: vec![(30_006, 30_007)],
        ..Rows::default()
    }
}

fn with_stack(test: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(test).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn reveal(rows: Rows, text: &str, by: &mut impl Reads) -> Revealed {
    let said = analyse(text, Lexing::default()).whole;
    Behind::new(Arc::new(Snapshot::new("app", rows))).reveal(&said, by)
}

/// What stands out of a statement: `delete` where rows go without a condition, names of unknown code, traits.
fn shown(facts: &Facts) -> String {
    let mut words = Vec::new();
    if facts.restricted == Some(false) {
        words.push("unrestricted".to_owned());
    }
    words.extend(facts.calls.iter().map(|name| format!("calls {name}")));
    words.extend(facts.traits.iter().map(|one| one.name().to_owned()));
    words.join(", ")
}

#[test]
fn code_behind_a_statement_is_told() {
    with_stack(|| {
        let check = |text: &str, expected: &str| {
            let Revealed { facts, by } = reveal(database(), text, &mut Here);
            assert_eq!(shown(&facts), expected, "{text}: {by:?}");
            assert_eq!(by.is_empty(), expected.is_empty(), "{text}: {by:?}");
        };
        // Triggers, where they fire.
        check("INSERT INTO wiped VALUES (1)", "unrestricted");
        check("INSERT INTO app.public.wiped VALUES (1)", "unrestricted");
        check("UPDATE wiped SET a = 1 WHERE id = 2", "");
        check("SELECT * FROM wiped", "");
        check("UPDATE touched SET a = 1 WHERE id = 2", "");
        check("DELETE FROM native WHERE id = 2", "calls public.native");
        check("UPDATE nested SET a = 1 WHERE id = 2", "unrestricted");
        check("COPY wiped FROM STDIN", "unrestricted");
        check("WITH x AS (INSERT INTO wiped VALUES (1)) SELECT 1", "unrestricted");
        // Rules, partitions, foreign keys, defaults.
        check("INSERT INTO ruled VALUES (1)", "unrestricted");
        check("INSERT INTO parent VALUES (1)", "unrestricted");
        check("DELETE FROM referred WHERE id = 1", "unrestricted");
        check("INSERT INTO defaulted DEFAULT VALUES", "unrestricted");
        // Views, and what is written through them.
        check("SELECT * FROM calling", "unrestricted");
        check("SELECT * FROM of_views", "unrestricted");
        check("SELECT * FROM plain", "");
        check("SELECT * FROM helped", "");
        check("INSERT INTO pane VALUES (1)", "unrestricted");
        check("SELECT * FROM setting", "audit-setting");
        // Names that PostgreSQL has, too.
        check("SELECT lower('A')", "calls lower");
        check("SELECT pg_catalog.lower('A')", "");
        check("SELECT round(1.5)", "");
        check("SELECT upper('a')", "");
        check("SELECT 1 + 1", "calls +");
        check("SELECT 1 OPERATOR(pg_catalog.+) 1", "");
        check("SELECT 1 = 1", "");
        check("SELECT v.wipe FROM victims v", "calls .wipe");
    });
}

#[test]
fn what_is_computed_anew_is_code_behind_a_statement() {
    with_stack(|| {
        let check = |text: &str, expected: &str| {
            let Revealed { facts, by } = reveal(database(), text, &mut Here);
            assert_eq!(shown(&facts), expected, "{text}: {by:?}");
        };
        for text in
            ["ANALYZE counted", "VACUUM FULL counted", "CLUSTER counted", "REINDEX TABLE counted"]
        {
            check(text, "unrestricted");
        }
        check("ALTER TABLE counted VALIDATE CONSTRAINT c", "unrestricted");
        check("INSERT INTO counted VALUES (1)", "");
        check("ANALYZE victims", "");
        check("LOCK TABLE counted", "");
        // Whatever there is.
        for text in
            ["ANALYZE", "REINDEX SCHEMA public", "REINDEX INDEX i", "ANALYZE victims, unheard_of"]
        {
            check(text, "unrestricted");
        }
    });
}

#[test]
fn types_and_casts_are_code_behind_a_statement() {
    with_stack(|| {
        let check = |text: &str, expected: &str| {
            let rows = Rows { ambient: vec![WIPE], ..database() };
            let Revealed { facts, by } = reveal(rows, text, &mut Here);
            assert_eq!(shown(&facts), expected, "{text}: {by:?}");
        };
        for text in [
            "SELECT 1::careful",
            "SELECT careful '1'",
            "PREPARE p (careful) AS SELECT $1",
            "SELECT * FROM victims",
        ] {
            check(text, "unrestricted");
        }
        for text in ["SELECT 1", "SELECT $1", "BEGIN", "SET statement_timeout = 1"] {
            check(text, "");
        }
        let said = analyse("SELECT $1", Lexing::default()).whole;
        let rows = Rows { ambient: vec![WIPE], ..database() };
        let mut behind = Behind::new(Arc::new(Snapshot::new("app", rows)));
        let converting = behind.reveal(&Arc::new(said.converting()), &mut Here).facts;
        assert_eq!(shown(&converting), "unrestricted");
    });
}

#[test]
fn operators_that_nobody_writes_are_looked_up() {
    with_stack(|| {
        let check = |name: &str, text: &str| {
            let rows = Rows { operators: vec![(name.to_owned(), PLUS)], ..database() };
            let Revealed { facts, by } = reveal(rows, text, &mut Here);
            assert_eq!(shown(&facts), format!("calls {name}"), "{text}: {by:?}");
        };
        check("=", "SELECT CASE 'a' WHEN 'b' THEN 1 END");
        check("=", "SELECT 'a' IN (SELECT 'b')");
        check("=", "SELECT 1 FROM (VALUES (1)) a (k) JOIN (VALUES (1)) b (k) USING (k)");
        check("=", "SELECT 1 FROM (VALUES (1)) a (k) NATURAL JOIN (VALUES (1)) b (k)");
        check(">=", "SELECT 'a' BETWEEN 'a' AND 'b'");
        check("<", "SELECT 'a' NOT BETWEEN SYMMETRIC 'a' AND 'b'");
    });
}

#[test]
fn what_nobody_can_read_is_unknown_code() {
    with_stack(|| {
        let facts = reveal(database(), "UPDATE touched SET a = 1 WHERE id = 2", &mut Nobody).facts;
        assert_eq!(shown(&facts), "calls public.touch");
        let facts = reveal(database(), "SELECT round(1.5)", &mut Nobody).facts;
        assert_eq!(shown(&facts), "calls round");
    });
}

#[test]
fn code_without_end_is_given_up() {
    with_stack(|| {
        let mut rows = Rows::default();
        for n in 0..1_000 {
            let body = format!("SELECT public.f{}()", n + 1);
            rows.functions.push(function(20_000 + n, &format!("f{n}"), "sql", &body));
        }
        rows.relations = vec![relation(30_000, "a", None)];
        rows.code = vec![(30_000, trigger(20_000, Events::INSERT))];
        let facts = reveal(rows, "INSERT INTO a VALUES (1)", &mut Here).facts;
        assert_eq!(shown(&facts), "calls ?, calls public.f398");
    });
}

//! The masking corpus by text and catalog alone: ways past it are refused or followed, what people send passes.

mod nulling;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, LazyLock},
    thread,
};

use serde::Deserialize;

use super::{Copied, Labelled, ReadsUses, Why, defines, own_name};
use crate::{
    event::{Effect, Engine, Facts, Lane, Origin, Uses},
    guard::{
        behind::{Behind, Reads},
        catalog::{Code, Column, Events, Function, Kind, Relation, Rows, Snapshot, What},
        masking::{Masks, Treatment},
    },
    policy::{Circumstances, Judge, Label, Set, Source, World},
    statement::{Analysed, Lexing, STACK_BYTES, Session, analyse_behind, analyse_in, uses},
};

/// The analysis itself, without a process of its own.
struct Here;

impl Reads for Here {
    fn read(&mut self, definition: &str) -> Option<Arc<Facts>> {
        Some(analyse_behind(definition).whole)
    }
}

impl ReadsUses for Here {
    fn read_uses_as(&mut self, text: &str, lexing: Lexing) -> Option<Arc<[Uses]>> {
        Some(uses(text, lexing).into())
    }
}

/// `base.sql` as the catalog shows it: tables, then views with their queries and what they read.
const TABLES: [(u32, &str, &str); 8] = [
    (30_001, "customers", "id name email ssn card city balance born note"),
    (30_002, "orders", "id customer total placed note"),
    (30_003, "archive", "id name note"),
    (30_004, "categories", "id parent name"),
    (30_005, "visits", "at email page"),
    (30_006, "visits_2026", "at email page"),
    (30_007, "accounts", "id customer iban"),
    (30_008, "badges", "id card printed=upper(card) at=(id+1)"),
];
const VIEWS: [(u32, &str, &str, &[u32], &str); 8] = [
    (
        30_010,
        "contacts",
        "id name mail",
        &[30_001],
        "SELECT id, name, email AS mail FROM public.customers",
    ),
    (
        30_011,
        "addresses",
        "customer address",
        &[30_010],
        "SELECT id AS customer, mail AS address FROM public.contacts",
    ),
    (
        30_012,
        "areas",
        "id area loud",
        &[30_001],
        "SELECT id, substr(ssn, 1, 6) AS area, upper(name) AS loud FROM public.customers",
    ),
    (
        30_013,
        "either",
        "id which",
        &[30_001],
        "SELECT customers.id, customers.email AS which FROM public.customers UNION ALL SELECT customers.id, customers.ssn AS which FROM public.customers",
    ),
    (
        30_014,
        "identified",
        "id name",
        &[30_001],
        "SELECT id, name FROM public.customers WHERE (ssn IS NOT NULL) ORDER BY ssn",
    ),
    (
        30_015,
        "spending",
        "id name total",
        &[30_001, 30_002],
        "SELECT c.id, c.name, sum(o.total) AS total FROM (public.customers c JOIN public.orders o ON ((o.customer = c.id))) GROUP BY c.id, c.name",
    ),
    (
        30_016,
        "contact_copies",
        "id mail number",
        &[30_001],
        "SELECT id, email AS mail, ssn AS number FROM public.customers",
    ),
    // Nobody can read it.
    (30_017, "torn", "id x", &[30_001], "SELECT FROM WHERE"),
];
const FUNCTIONS: [(u32, &str, &str, &str); 9] = [
    (
        40_001,
        "ssn_of(wanted int) RETURNS text",
        "sql",
        "SELECT ssn FROM customers WHERE id = wanted",
    ),
    (
        40_002,
        "customer_of(wanted int) RETURNS SETOF customers",
        "sql",
        "SELECT * FROM customers WHERE id = wanted",
    ),
    (
        40_003,
        "any_column(wanted text) RETURNS SETOF text",
        "plpgsql",
        "BEGIN RETURN QUERY EXECUTE format('SELECT %I::text FROM customers', wanted); END",
    ),
    (
        40_004,
        "told(words text) RETURNS text",
        "plpgsql",
        "BEGIN RAISE NOTICE 'told: %', words; RETURN 'told'; END",
    ),
    (40_005, "half(a numeric) RETURNS numeric", "sql", "SELECT a / 2"),
    (
        40_006,
        "name_of(wanted int) RETURNS text",
        "sql",
        "SELECT c.name FROM customers c WHERE c.id = wanted",
    ),
    (
        40_007,
        "touched() RETURNS trigger",
        "plpgsql",
        "BEGIN NEW.note := 'touched'; RETURN NEW; END",
    ),
    (
        40_008,
        "copied() RETURNS trigger",
        "plpgsql",
        "BEGIN NEW.note := (SELECT ssn FROM customers WHERE id = NEW.id); RETURN NEW; END",
    ),
    (
        40_009,
        "same(a text, b text) RETURNS bool",
        "sql",
        "SELECT EXISTS (SELECT FROM customers WHERE ssn = b)",
    ),
];

fn database() -> Rows {
    let relation = |oid, name: &str, kind, definition: Option<&str>| Relation {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind,
        rows: Some(20),
        definition: definition.map(Into::into),
    };
    let mut rows = Rows::default();
    let mut columns = Vec::new();
    let mut show = |relation: u32, names: &str| {
        for (place, name) in (1..).zip(names.split(' ')) {
            let (name, made_by) = match name.split_once('=') {
                Some((name, expression)) => (name.into(), Some(expression.into())),
                None => (name.into(), None),
            };
            columns.push(Column { relation, place, name, kind: 25, made_by });
        }
    };
    for (oid, name, names) in TABLES {
        rows.relations.push(relation(oid, name, Kind::Table, None));
        show(oid, names);
    }
    for (oid, name, names, reads, query) in VIEWS {
        let kind = if name == "contact_copies" { Kind::MaterializedView } else { Kind::View };
        rows.relations.push(relation(oid, name, kind, Some(query)));
        rows.reads.extend(reads.iter().map(|read| (oid, *read)));
        show(oid, names);
    }
    rows.columns = Some(columns);
    rows.children = vec![(30_005, 30_006)];
    for (oid, head, language, body) in FUNCTIONS {
        let name = head.split_once('(').map(|(name, _)| name).unwrap_or(head);
        let definition = format!(
            "CREATE OR REPLACE FUNCTION public.{head} LANGUAGE {language} AS $function${body}$function$"
        );
        rows.functions.push(Function {
            oid,
            schema: "public".to_owned(),
            name: name.to_owned(),
            definition: Some(definition.into()),
            extension: None,
            takes: (0, 2),
            is_aggregate: false,
            parts: Vec::new(),
        });
    }
    let trigger = |function, on| {
        let definition = "CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()".into();
        Code { on, what: What::Trigger { function, definition, is_instead: false } }
    };
    rows.code =
        vec![(30_002, trigger(40_007, Events::UPDATE)), (30_003, trigger(40_008, Events::INSERT))];
    rows.operators = vec![("===".to_owned(), 40_009)];
    rows
}

const RULES: &str = r#"
@id("hide-pii") @verdict("mask") @mask("last4") @severity("low") @message("hidden")
forbid(principal, action == Action::"read", resource in Label::"pii");
@id("hide-secret") @verdict("mask") @mask("hash") @severity("low") @message("hidden")
forbid(principal, action == Action::"read", resource in Label::"secret")
unless { principal.name == "auditor" };
"#;

fn world() -> World {
    let label = |name: &str, on: &[&str]| Label {
        name: name.into(),
        on: on.iter().map(|pattern| pattern.parse().unwrap()).collect(),
    };
    let pii = ["app.public.customers.email", "app.public.visits.email", "*.*.*.card"];
    let labels = vec![label("pii", &pii), label("secret", &["app.public.customers.ssn"])];
    World { labels, ..World::default() }
}

fn set(rules: &str) -> Arc<Set> {
    let source = Source { name: "rules.cedar".into(), text: rules.into() };
    let set = Set::load(&[source], false, world());
    Arc::new(set.unwrap_or_else(|wrong| panic!("{wrong}")))
}

static SET: LazyLock<Arc<Set>> = LazyLock::new(|| set(RULES));

fn judge() -> Judge {
    Judge::new(SET.clone())
}

fn origin(principal: &str) -> Arc<Origin> {
    Arc::new(Origin {
        server: Some("main".into()),
        engine: Some(Engine::Postgresql),
        database: Some("app".into()),
        principal: Some(principal.into()),
        lane: Some(Lane::Guarded),
        ..Origin::default()
    })
}

/// A client of the made-up database, as `veil` treats one.
struct Client {
    labelled: Labelled,
    behind: Behind,
    masks: Arc<Masks>,
    session: Session,
    changing: HashSet<Arc<str>>,
    temporary: HashSet<Arc<str>>,
    prepared: Vec<(String, String)>,
}

impl Client {
    fn new() -> Self {
        Self::judged_by(judge(), database())
    }

    fn judged_by(mut judge: Judge, database: Rows) -> Self {
        let snapshot = Arc::new(Snapshot::new("app", database));
        let mut labelled =
            Labelled::new(snapshot.clone(), &judge, &mut Here, Default::default()).unwrap();
        let masks = labelled.masks(&mut judge, &origin("report"), Circumstances::default());
        Self {
            labelled,
            behind: Behind::new(snapshot),
            masks: masks.unwrap(),
            session: Session::default(),
            changing: HashSet::new(),
            temporary: HashSet::new(),
            prepared: Vec::new(),
        }
    }

    fn say(&mut self, text: &str) -> Result<Copied, Why> {
        let analysed = analyse_in(text, &self.session);
        let all = uses(text, Lexing::default()).into();
        let copy = self.judge(&analysed, &all)?;
        for name in all.iter().flat_map(|uses| &uses.executes) {
            let known = self.prepared.iter().find(|(known, _)| **known == **name);
            let (_, text) = known.ok_or_else(|| Why::NotPrepared(name.clone()))?.clone();
            self.judge(&analysed, &uses(&text, Lexing::default()).into())?;
        }
        if let Some(rest) = text.strip_prefix("PREPARE ") {
            let (name, text) = rest.split_once(" AS ").unwrap();
            self.prepared.push((name.to_owned(), text.to_owned()));
        }
        self.temporary.extend(all.iter().flat_map(|uses| &uses.temporary).map(|it| own_name(it)));
        self.session.hear(&analysed, text);
        self.changing.extend(defines(&analysed.whole));
        if !self.session.in_transaction {
            self.changing.clear();
        }
        Ok(copy)
    }

    fn judge(&mut self, analysed: &Analysed, uses: &Arc<[Uses]>) -> Result<Copied, Why> {
        let mut changing: HashSet<Arc<str>> =
            self.changing.union(&self.temporary).cloned().collect();
        if analysed.statements.len() > 1 {
            changing.extend(defines(&analysed.whole));
            let temporary = uses.iter().flat_map(|uses| &uses.temporary);
            changing.extend(temporary.map(|it| own_name(it)));
        }
        for said in &analysed.statements {
            let all = self.behind.reveal(said, &mut Here).facts;
            let ran = self.behind.runs(said, &mut Here);
            self.labelled.check(&all, &ran, &self.masks, &changing)?;
        }
        self.labelled.follow(uses, &self.masks, &changing)
    }
}

#[derive(Deserialize)]
struct Corpus {
    case: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    id: String,
    steps: Vec<Step>,
    becomes: Option<String>,
    first: Option<usize>,
    #[serde(default)]
    needs: BTreeSet<String>,
    /// Where its rule says so, it runs with NULLs.
    #[serde(default)]
    nulled: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    Text(String),
    Pipeline {
        pipeline: Vec<String>,
    },
    Function {
        function: String,
    },
    /// Without a text, what goes by that name already.
    Prepared {
        text: Option<String>,
    },
}

impl Step {
    fn texts(&self) -> Vec<String> {
        let texts = match self {
            Self::Text(text) => vec![text.clone()],
            Self::Prepared { text } => text.iter().cloned().collect(),
            Self::Pipeline { pipeline } => pipeline.clone(),
            Self::Function { function } => vec![format!("SELECT {function}($1)")],
        };
        texts.into_iter().map(|text| text.replace("{database}", "app")).collect()
    }
}

/// The number of the first step that is refused, and why.
fn refused(steps: &[Step]) -> Option<(usize, Why)> {
    let mut client = Client::new();
    steps.iter().enumerate().find_map(|(place, step)| {
        let mut texts = step.texts().into_iter();
        texts.find_map(|text| Some((place, client.say(&text).err()?)))
    })
}

/// Runs on the stack that the analysis wants.
fn on_large_stack(test: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(test).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn no_way_past_it_is_missed() {
    on_large_stack(|| {
        let corpus = include_str!("../../../../tests/corpus/masking/escapes.toml");
        let corpus: Corpus = toml::from_str(corpus).unwrap();
        assert!(corpus.case.len() >= 60);
        let mut wrong = String::new();
        for Sample { id, steps, becomes, first, needs, .. } in corpus.case {
            if needs.contains("server") {
                continue;
            }
            let expected = match becomes.as_deref() {
                Some("denied") => Some(first.unwrap_or(steps.len() - 1)),
                _ => None,
            };
            let found = refused(&steps);
            if found.as_ref().map(|(place, _)| *place) != expected {
                wrong.push_str(&format!("{id}: {found:?}\n"));
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

#[test]
fn everyday_statements_pass() {
    on_large_stack(|| {
        let corpus = include_str!("../../../../tests/corpus/masking/everyday.toml");
        let corpus: Corpus = toml::from_str(corpus).unwrap();
        assert!(corpus.case.len() >= 40);
        let mut wrong = String::new();
        for Sample { id, steps, .. } in corpus.case {
            if let Some((place, why)) = refused(&steps) {
                wrong.push_str(&format!("{id} {place}: {why}\n"));
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

#[test]
fn views_and_partitions_hide_what_they_show() {
    on_large_stack(|| {
        let masks = Client::new().masks;
        let mut found: Vec<String> = Vec::new();
        for masked in masks.columns.values() {
            found.push(format!("{} {} {}", masked.column, masked.mask, masked.rule));
        }
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "public.addresses.address last4 hide-pii",
                "public.areas.area null hide-secret",
                "public.badges.card last4 hide-pii",
                "public.badges.printed null hide-pii",
                "public.contact_copies.mail last4 hide-pii",
                "public.contact_copies.number hash hide-secret",
                "public.contacts.mail last4 hide-pii",
                "public.customers.card last4 hide-pii",
                "public.customers.email last4 hide-pii",
                "public.customers.ssn hash hide-secret",
                // Of the two, the stricter.
                "public.either.which hash hide-secret",
                "public.torn.id null hide-pii",
                "public.torn.x null hide-pii",
                "public.visits.email last4 hide-pii",
                "public.visits_2026.email last4 hide-pii",
            ]
        );
        assert_eq!(masks.of_column(30_001, 1), Treatment::Passes);
        assert_eq!(masks.of_column(30_999, 1), Treatment::Unknown);
    });
}

#[test]
fn what_is_hidden_hangs_on_who_asks() {
    on_large_stack(|| {
        let snapshot = Arc::new(Snapshot::new("app", database()));
        let mut judge = judge();
        let mut labelled = Labelled::new(snapshot, &judge, &mut Here, Default::default()).unwrap();
        let mut hidden = |principal: &str| {
            let asks = origin(principal);
            let masks = labelled.masks(&mut judge, &asks, Circumstances::default());
            let masks = masks.unwrap();
            masks.columns.contains_key(&(30_001, 4))
        };
        assert!(hidden("report"));
        assert!(!hidden("auditor"));
        assert!(judge.may_hide(&origin("auditor"), Circumstances::default()).is_some());
    });
}

#[test]
fn columns_that_are_copied_are_known_by_their_places() {
    on_large_stack(|| {
        let check = |text: &str, expected: &str| {
            let copy = Client::new().say(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            let shown = copy.map_or("-".to_owned(), |columns| {
                let each = columns.iter().map(|column| match column {
                    Some(column) => format!("{}:{}", column.masked.column, column.kind),
                    None => "plain".to_owned(),
                });
                each.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(shown, expected, "{text}");
        };
        check("COPY orders TO STDOUT", "-");
        check("COPY visits TO STDOUT", "plain public.visits.email:25 plain");
        check("COPY customers (ssn, id) TO STDOUT", "public.customers.ssn:25 plain");
        check(
            "COPY (SELECT upper(name), mail FROM contacts) TO STDOUT",
            "plain public.contacts.mail:25",
        );
        check("COPY (SELECT v.* FROM visits v) TO STDOUT", "plain public.visits.email:25 plain");
        check("COPY (SELECT id, o.total FROM customers JOIN orders o USING (id)) TO STDOUT", "-");
        let merged = "COPY (SELECT * FROM customers JOIN orders USING (id)) TO STDOUT";
        assert_eq!(Client::new().say(merged), Err(Why::Places));
    });
}

#[test]
fn words_name_the_column_and_where_it_goes() {
    on_large_stack(|| {
        for (text, expected) in [
            (
                "SELECT id FROM customers WHERE ssn = '1'",
                "public.customers.ssn flows into a predicate",
            ),
            ("SELECT upper(mail) FROM contacts", "public.contacts.mail flows into an expression"),
            ("SELECT c FROM customers c", "public.customers.email flows into a whole row"),
            ("SELECT ssn_of(1)", "public.customers.ssn is read by public.ssn_of"),
            ("SELECT * FROM mine", "mine is no relation that dbwarden has seen"),
            ("SELECT * FROM pg_stats", "pg_stats holds values of other tables"),
            ("DO $$ BEGIN END $$", "it can't be told what it does"),
        ] {
            assert_eq!(Client::new().say(text).unwrap_err().to_string(), expected, "{text}");
        }
    });
}

/// A worker's own stack is enough for whatever is followed.
#[test]
fn deep_and_wide_statements_end_in_words() {
    let deep = format!(
        "SELECT x FROM {}(SELECT name AS x FROM customers) a{}",
        "(SELECT x FROM ".repeat(60),
        ") a".repeat(60)
    );
    let recursive = (0..12).fold("SELECT 1 AS n".to_owned(), |inner, n| {
        format!("WITH RECURSIVE c{n} AS ({inner} UNION ALL SELECT 1) SELECT * FROM c{n}")
    });
    let wide = format!("SELECT * FROM {}", vec!["orders"; 300].join(" NATURAL JOIN "));
    for (text, is_too_much) in [(deep, true), (recursive, false), (wide, false)] {
        let reads = text.clone();
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        let all = thread.spawn(move || uses(&reads, Lexing::default()));
        let all: Arc<[Uses]> = all.unwrap().join().unwrap().into();
        let snapshot = Arc::new(Snapshot::new("app", database()));
        let masks = Arc::new(Masks::default());
        let ground =
            super::Client { snapshot: &snapshot, masks: &masks, changing: &HashSet::new() };
        let outcome = super::follow(&ground, &all);
        assert_eq!(matches!(outcome, Err(Why::TooMuch)), is_too_much, "{text}: {outcome:?}");
    }
}

/// Without a catalog, nothing that names a table passes.
#[test]
fn blind() {
    on_large_stack(|| {
        for (text, passes) in [
            ("SELECT 1", true),
            ("BEGIN", true),
            ("SELECT relname FROM pg_class", true),
            ("SELECT now(), version()", true),
            ("SELECT id FROM orders", false),
            ("SELECT f()", false),
            ("COPY orders TO STDOUT", false),
            ("SELECT * FROM pg_stats", false),
            ("EXECUTE p", false),
        ] {
            let facts = analyse_in(text, &Session::default()).whole;
            assert_eq!(super::blind(&facts).is_ok(), passes, "{text}");
            assert!(!passes || !facts.effects.contains(Effect::Unknown));
        }
    });
}

mod inheriting;

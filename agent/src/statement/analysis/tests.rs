//! What statements do: one table of texts and facts, and what must hold for any text.

use std::thread;

use super::{
    MAX_TEXT_BYTES, Parameter, Parameters, STACK_BYTES, Session, analyse, analyse_in, grammar,
};
use crate::{
    event::{Analysis, Effect, Facts, KeyValue},
    statement::{
        lexer::{Lexer, Lexing, LiteralKind, TokenKind},
        template::Template,
    },
};

/// Runs on the stack that the analysis wants.
fn on_large_stack(test: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(test).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn facts(text: &str) -> Facts {
    (*analyse(text, Lexing::default()).whole).clone()
}

/// Effects, tables, restriction, analysis and summary in one line.
fn line(facts: &Facts) -> String {
    let effects: Vec<&str> = facts.effects.iter().map(|effect| effect.name()).collect();
    let tables: Vec<String> = facts
        .tables
        .iter()
        .map(|table| format!("{}:{}", table.name, table.access.name()))
        .collect();
    let restricted = match facts.restricted {
        None => "-",
        Some(true) => "restricted",
        Some(false) => "unrestricted",
    };
    format!(
        "{} | {} | {restricted} | {} | {}",
        effects.join(" "),
        tables.join(" "),
        facts.analysis.name(),
        facts.summary
    )
}

#[test]
fn statements_do_what_they_do() {
    on_large_stack(|| {
        let mut wrong = String::new();
        for (text, expected) in table() {
            let found = line(&facts(text));
            if found.trim() != expected {
                wrong.push_str(&format!("{text}\n    {found}\n"));
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

/// `text`, then indented what it does.
fn table() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("tests/statements.txt").lines();
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    std::iter::from_fn(move || Some((lines.next()?, lines.next()?.trim())))
}

#[test]
fn settings_are_found_wherever_they_are_changed() {
    for (text, expected) in [
        ("SET log_statement = 'none'", "log_statement"),
        ("set local LOG_STATEMENT to none", "log_statement"),
        ("SET SESSION pgaudit.log = ''", "pgaudit.log"),
        ("SET \"pgaudit\".\"log\" = ''", "pgaudit.log"),
        ("ALTER SYSTEM SET log_destination = 'csvlog'", "log_destination"),
        ("ALTER SYSTEM RESET ALL", "all"),
        ("ALTER ROLE bob RESET ALL", "all"),
        ("ALTER DATABASE d SET log_statement = 'none'", "log_statement"),
        ("/* SET x = 1 */ SELECT 1; RESET log_statement", "log_statement"),
        ("SET a.b = 1; SELECT set_config('c.d', 'x', false)", "a.b c.d"),
        ("SELECT pg_catalog.set_config('Log_Statement'::text, 'none', false)", "log_statement"),
        ("SELECT set_config('log_' || 'statement', 'none', false)", "*"),
        ("SELECT set_config(name, 'none', false) FROM x", "*"),
        ("SELECT set_config($1, $2, true), set_config($3::text, $4, true)", ""),
        ("UPDATE pg_settings SET setting = 'none' WHERE name = 'log_statement'", "*"),
        ("SELECT * FROM pg_settings", ""),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET log_statement = 'none' AS 'SELECT 1'",
            "log_statement",
        ),
        ("ALTER FUNCTION f() SET log_statement FROM CURRENT", "log_statement"),
        ("EXPLAIN ANALYZE SELECT set_config('a.b', '', false)", "a.b"),
    ] {
        assert_eq!(facts(text).settings.join(" "), expected, "{text}");
    }
}

/// Columns, functions.
#[test]
fn columns_belong_to_tables_where_the_text_tells() {
    let check = |text: &str, columns: &str, functions: &str| {
        let facts = facts(text);
        assert_eq!(facts.columns.join(" "), columns, "{text}");
        assert_eq!(facts.functions.join(" "), functions, "{text}");
    };
    check("SELECT email FROM customers", "customers.email", "");
    check(
        "SELECT c.email, lower(name) FROM s.customers c",
        "s.customers.email s.customers.name",
        "lower",
    );
    check("SELECT a, x.b FROM x, y", "a x.b", "");
    check("SELECT * FROM x a, y", "x.* y.*", "");
    check("SELECT a.* FROM x a, y", "x.*", "");
    check("SELECT x FROM x", "x.*", "");
    check("SELECT count(*) FROM x", "", "count");
    check("SELECT s.x.a FROM s.x", "s.x.a", "");
    check("SELECT a.b FROM x AS a (b)", "x.*", "");
    check("SELECT a AS b FROM x ORDER BY b", "x.a", "");
    check("SELECT a FROM x GROUP BY a ORDER BY c", "x.a x.c", "");
    check("SELECT a FROM (SELECT b AS a FROM x) y", "x.b", "");
    check("SELECT * FROM u, (SELECT b FROM x) y", "u.* x.b", "");
    check("WITH y AS (SELECT b FROM x) SELECT b FROM y", "x.b", "");
    check("SELECT a FROM x WHERE EXISTS (SELECT 1 FROM y WHERE b = x.c)", "b x.a x.c", "");
    check("INSERT INTO x (a, b) VALUES (1, 2) RETURNING id", "x.a x.b x.id", "");
    check(
        "INSERT INTO x (a) VALUES (1) ON CONFLICT (k) DO UPDATE SET a = excluded.b",
        "x.a x.b",
        "",
    );
    check("UPDATE x SET a = b + 1 WHERE c = 2", "x.a x.b x.c", "");
    check("DELETE FROM x USING y WHERE x.a = y.b RETURNING x.*", "x.* x.a y.b", "");
    check(
        "MERGE INTO x USING y ON x.a = y.b WHEN MATCHED THEN UPDATE SET c = y.d",
        "x.a x.c y.b y.d",
        "",
    );
    check("COPY x (a, b) TO STDOUT", "x.a x.b", "");
    check("COPY x TO STDOUT", "x.*", "");
    check("SELECT \"A b\" FROM x", "x.\"A b\"", "");
    check("SELECT extract(year FROM a), public.f(a), \"F\"(1) FROM x", "x.a", "F extract public.f");
    check("SELECT g FROM generate_series(1, 2) g", "", "generate_series");
    check("EXPLAIN SELECT a FROM x", "", "");
    check("SELECT a FROM x JOIN y USING (k)", "a", "");
}

/// Each level of `nest` once more around `inside`.
fn nested(n: usize, open: &str, inside: &str, close: &str) -> String {
    format!("{}{inside}{}", open.repeat(n), close.repeat(n))
}

#[test]
fn nesting_gives_facts_or_unknown_and_never_a_crash() {
    on_large_stack(|| {
        for n in [1, 10, 46, 47, 100, 1_000, 10_000, 100_000] {
            let texts = [
                format!("SELECT {}", nested(n, "(", "1", ")")),
                format!("SELECT {}", nested(n, "1 + ", "1", "")),
                format!("SELECT {}", nested(n, "1 || (", "1", ")")),
                format!("SELECT {}", nested(n, "- ", "1", "")),
                format!("SELECT {}", nested(n, "NOT ", "true", "")),
                format!("SELECT {}", nested(n, "a AND (b OR ", "c", ")")),
                format!("SELECT {}", nested(n, "a AND ", "c", "")),
                format!("SELECT {}", nested(n, "(SELECT ", "1", ")")),
                format!("SELECT * FROM {}", nested(n, "(SELECT * FROM ", "t", ") x")),
                format!("SELECT * FROM t {}", "JOIN u ON true ".repeat(n)),
                format!("SELECT * FROM {}", nested(n, "(t JOIN ", "u", " ON true)")),
                format!(
                    "SELECT * FROM t WHERE {}",
                    nested(n, "EXISTS (SELECT 1 FROM t WHERE ", "a", ")")
                ),
                format!("SELECT {}", nested(n, "CASE WHEN a THEN ", "1", " END")),
                nested(n, "ARRAY[", "1", "]").replacen("ARRAY", "SELECT ARRAY", 1),
                format!("SELECT ARRAY{}", nested(n, "[", "1", "]")),
                format!("SELECT 1{}", "::int".repeat(n)),
                format!("SELECT {}", nested(n, "CAST(", "1", " AS int)")),
                format!("SELECT a{}", "[1]".repeat(n)),
                format!("SELECT a{}", ".b".repeat(n)),
                format!("SELECT {}", nested(n, "lower(", "a", ")")),
                format!("SELECT {}", nested(n, "mine(", "a", ")")),
                format!("SELECT {}", nested(n, "ROW(", "a", ", 1)")),
                format!("SELECT {}", nested(n, "COALESCE(", "a", ", 1)")),
                format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(n)),
                format!("SELECT 1 {}", "COLLATE x ".repeat(n)),
                format!("SELECT a {}", "IS NULL ".repeat(n)),
                format!("SELECT a {}", "AT TIME ZONE b ".repeat(n)),
                format!(
                    "SELECT a FROM t GROUP BY GROUPING SETS {}",
                    nested(n, "(GROUPING SETS (", "a", "))")
                ),
                nested(n, "WITH x AS (", "SELECT 1", ") SELECT * FROM x"),
                format!("WITH {} SELECT 1", vec!["x AS (SELECT 1)"; n].join(",")),
                nested(n, "(", "SELECT 1", ")"),
                nested(n, "EXPLAIN ", "SELECT 1", ""),
                format!("SELECT {}1", nested(n, "/*", " ", "*/")),
                format!("SELECT 1::a{}", "[]".repeat(n)),
                format!("SELECT 1::a({})", vec!["1"; n].join(",")),
                format!("SELECT 1 FROM t WHERE a IN ({})", vec!["1"; n].join(",")),
                format!("INSERT INTO t VALUES {}", vec!["(1, 'a')"; n].join(",")),
                "SELECT 1;".repeat(n),
                "(".repeat(n),
                "$a".repeat(n),
                "/*".repeat(n),
                "'\n".repeat(n),
                format!("SELECT {}1", "+".repeat(n)),
                format!("SELECT {}1", "*/".repeat(n)),
                format!("SELECT 1 {}", "/* */-- x\n".repeat(n)),
                format!("SELECT {}", "'a' --x\n".repeat(n)),
                format!("DELETE FROM t WHERE {}", nested(n, "NOT (", "1 = 1", ")")),
                format!("DELETE FROM t WHERE {}", nested(n, "(SELECT ", "true", ")")),
                format!(
                    "SELECT query_to_xml({})",
                    nested(n.min(20), "'SELECT query_to_xml(", "1", ")'")
                ),
            ];
            for text in texts {
                let shown: String = text.chars().take(40).collect();
                if text.len() > MAX_TEXT_BYTES {
                    // Not redacted either, which takes its time with megabytes in a debug build.
                    let refused = grammar::parse(&text, Lexing::default()).err();
                    assert_eq!(refused, Some(Analysis::TooLong), "{n} {shown}");
                    continue;
                }
                let facts = facts(&text);
                let is_known = facts.analysis <= Analysis::CallsCode;
                assert!(is_known || facts.effects.contains(Effect::Unknown), "{n} {shown}");
                if n <= 100 && facts.analysis != Analysis::SyntaxError {
                    assert!(is_known, "{n} {shown}: {}", facts.analysis.name());
                }
            }
        }
    });
}

/// Random numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// The text with other literals, of kinds that the grammar doesn't tell apart.
fn with_other_literals(text: &str, dice: &mut Dice) -> String {
    const STRINGS: &[&str] = &[
        "''",
        "'true'",
        "'false'",
        "'%'",
        "'DELETE FROM t'",
        "'t'",
        "E'\\n'",
        "$$role$$",
        "'1'",
        "'a.b'",
        "'a'\n'b'",
        "'analyze'",
        "'0'",
    ];
    const INTEGERS: &[&str] = &["0", "1", "2", "0x10", "1_000", "2147483647"];
    const FLOATS: &[&str] = &["0.0", "1.0", "1e3", "3000000000", ".5"];
    let mut other = String::new();
    for token in Lexer::new(text, Lexing::default()) {
        let TokenKind::Literal(kind) = token.kind else {
            other.push_str(token.text(text));
            continue;
        };
        let choices = match kind {
            LiteralKind::Plain | LiteralKind::Escaped | LiteralKind::Dollar => STRINGS,
            LiteralKind::Integer => INTEGERS,
            LiteralKind::Float => FLOATS,
            _ => &[token.text(text)],
        };
        other.push_str(choices[dice.roll(choices.len())]);
    }
    other
}

#[test]
fn texts_of_one_template_have_the_same_facts_unless_marked() {
    on_large_stack(|| {
        let mut dice = Dice(1);
        let mut n_compared = 0;
        let more = [
            "SELECT * FROM t WHERE a = 'x' AND b = 5 AND c IN (1, 2.5) LIMIT 10 OFFSET 2",
            "UPDATE t SET a = 'x', b = b + 1 WHERE id = 3 RETURNING 'y'",
            "UPDATE pgbench_accounts SET abalance = abalance + -3374 WHERE aid = 58374;",
            "DELETE FROM t WHERE a LIKE 'x' OR b = 1",
            "DELETE FROM t WHERE 'x' = a AND 5 > 3",
            "SELECT 'a'::date, interval '1 day', date '2020-01-01', 1.5::numeric(5, 2) FROM t",
            "SELECT a FROM t GROUP BY 1 ORDER BY 1",
            "INSERT INTO t VALUES ('a', 1), ('b', 2) ON CONFLICT (x) DO UPDATE SET y = 'z' WHERE t.a = 1",
        ];
        for (text, _) in table().chain(more.map(|text| (text, ""))) {
            for _ in 0..20 {
                let other = with_other_literals(text, &mut dice);
                let (mut one, mut two) = (Template::default(), Template::default());
                one.fill(text, Lexing::default());
                two.fill(&other, Lexing::default());
                if one.key() != two.key() || !one.is_sound() {
                    continue;
                }
                let (of_one, of_two) =
                    (analyse(text, Lexing::default()), analyse(&other, Lexing::default()));
                // What the grammar refuses, the server refuses too.
                if !of_one.is_literal_sensitive && of_two.whole.analysis != Analysis::SyntaxError {
                    assert_eq!(of_one.whole, of_two.whole, "{text}\n{other}");
                    assert!(!of_two.is_literal_sensitive, "{other}");
                    n_compared += usize::from(*text != *other);
                }
            }
        }
        assert!(n_compared > 1000, "{n_compared}");
    });
}

#[test]
fn what_is_cut_off_is_something_too() {
    on_large_stack(|| {
        for (text, _) in table() {
            for (end, _) in text.char_indices().step_by(5) {
                let whole = analyse(&text[..end], Lexing::default()).whole;
                let is_known = whole.analysis <= Analysis::CallsCode;
                assert!(is_known || whole.effects.contains(Effect::Unknown), "{}", &text[..end]);
            }
        }
    });
}

#[test]
fn statements_of_one_text_are_judged_one_by_one() {
    let analysed =
        analyse("SELECT 1 FROM a WHERE x = 5;\n DELETE FROM b WHERE y = 6 ;; ", Lexing::default());
    let lines: Vec<String> = analysed.statements.iter().map(|facts| line(facts)).collect();
    assert_eq!(
        lines,
        [
            "read | a:read | - | complete | SELECT a",
            "delete | b:delete | restricted | complete | DELETE b"
        ]
    );
    let texts: Vec<&str> = analysed.statements.iter().map(|facts| &*facts.text).collect();
    assert_eq!(texts, ["SELECT ? FROM a WHERE x = ?", "DELETE FROM b WHERE y = ?"]);
    // Literals are counted through the whole text.
    let keys =
        analysed.statements.iter().flat_map(|facts| &facts.keys).map(|key| key.value.clone());
    assert_eq!(keys.collect::<Vec<_>>(), [KeyValue::Literal(1), KeyValue::Literal(2)]);
    assert_eq!(
        line(&analysed.whole),
        "read delete | a:read b:delete | restricted | complete | SELECT a; DELETE b"
    );
}

/// What our lexer and PostgreSQL's scanner make of a text; `None` where that refuses it.
fn both_cuts(text: &str) -> Option<[Vec<(usize, usize)>; 2]> {
    let theirs = pg_query::scan_tokens(text).ok()?;
    let position = |at: i32| usize::try_from(at).unwrap();
    let theirs = theirs.iter().map(|token| (position(token.start), position(token.end)));
    let ours = Lexer::new(text, Lexing::default()).filter(|token| token.kind != TokenKind::Space);
    Some([ours.map(|token| (token.start, token.end)).collect(), theirs.collect()])
}

#[test]
fn tokens_are_those_of_postgres() {
    for (text, _) in table() {
        if let Some([ours, theirs]) = both_cuts(text) {
            assert_eq!(ours, theirs, "{text}");
        }
    }
    const PIECES: &[&str] = &[
        "'", "''", "\"", "$", "$$", "$a$", "$1", "--", "/*", "*/", "\n", " ", "e'", "E'", "b'",
        "x'", "n'", "U&'", "u&\"", "\\", "\\'", "0x", "0x1F", "1", "1_0", "1.", ".5", "1e", "1e5",
        "..", ".", ":", "::", ":=", "=>", "<>", "!=", "=-", "+", "-", "*", "@-", "?", "|", "a",
        "é", "uescape", ";", ",", "(", ")", "[", "]",
    ];
    let mut dice = Dice(2);
    let mut n_compared = 0;
    for _ in 0..20_000 {
        let text: String = (0..8).map(|_| PIECES[dice.roll(PIECES.len())]).collect();
        if let Some([ours, theirs]) = both_cuts(&text) {
            assert_eq!(ours, theirs, "{text}");
            n_compared += 1;
        }
    }
    assert!(n_compared > 2000, "{n_compared}");
}

#[test]
fn some_things_stand_out() {
    let lines = include_str!("tests/traits.txt").lines();
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut wrong = String::new();
    while let (Some(text), Some(expected)) = (lines.next(), lines.next()) {
        let facts = facts(text);
        let traits: Vec<&str> = facts.traits.iter().map(|one| one.name()).collect();
        let found = format!("{} | {}", traits.join(" "), facts.calls.join(" "));
        if found.trim() != expected.trim() {
            wrong.push_str(&format!("{text}\n    {found}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_session_says_what_its_texts_mean() {
    let parameters = |values: &[Option<&str>]| {
        let value = |value: &Option<&str>| match value {
            Some(text) => Parameter::Text((*text).into()),
            None => Parameter::Unreadable,
        };
        Parameters::Bound(values.iter().map(value).collect())
    };
    let check = |text: &str, session: &Session, expected: &str| {
        let facts = analyse_in(text, session).whole;
        let traits: Vec<&str> = facts.traits.iter().map(|one| one.name()).collect();
        let found = format!("{} | {}", traits.join(" "), facts.calls.join(" "));
        assert_eq!(found.trim(), expected, "{text}");
    };
    let bound =
        |values: &[Option<&str>]| Session { parameters: parameters(values), ..Session::default() };
    let set = "SELECT set_config($1, $2::text, false)";
    check(set, &bound(&[Some("log_statement"), Some("none")]), "audit-setting |");
    check(set, &bound(&[Some("app.tenant"), None]), "|");
    check(set, &bound(&[Some("search_path"), Some("a, b")]), "|");
    check(set, &bound(&[Some("search_path"), None]), "search-path |");
    check(set, &bound(&[None, None]), "audit-setting safety-setting |");
    check(set, &bound(&[]), "audit-setting safety-setting |");
    check(
        "SELECT query_to_xml($1, true, true, '')",
        &bound(&[Some("SELECT pg_read_file('/x')")]),
        "server-file |",
    );
    // Its own parameters.
    check("PREPARE p AS SELECT set_config($1, 'x', true)", &bound(&[Some("log_statement")]), "|");
    let open = Session { in_transaction: true, ..Session::default() };
    check("BEGIN READ WRITE", &open, "read-write |");
    check("BEGIN READ ONLY", &open, "|");
    let anywhere = Session { built_in_first: false, ..Session::default() };
    check("SELECT lower('a') || 'b', pg_catalog.now()", &anywhere, "| lower ||");

    let mut session = Session::default();
    let texts = ["PREPARE p AS SELECT mine(1)", "PREPARE q AS SELECT set_config($1, 'x', true)"];
    texts.iter().for_each(|text| session.hear(&analyse_in(text, &session), text));
    let known = |session: &Session, text: &str| {
        !analyse_in(text, session).whole.effects.contains(Effect::Unknown)
    };
    assert!(known(&session, "EXECUTE p") && known(&session, "EXPLAIN ANALYZE EXECUTE p"));
    assert!(!known(&session, "EXECUTE q('log_statement')") && !known(&session, "EXECUTE r"));
    check("EXECUTE p", &session, "| mine");
    session.hear(&analyse_in("DEALLOCATE p", &session), "DEALLOCATE p");
    session.prepared.settle(true);
    assert!(!known(&session, "EXECUTE p"));
    session.hear(&analyse_in("BEGIN", &session), "BEGIN");
    assert!(session.in_transaction && analyse_in(set, &session).is_parameter_sensitive);
    assert!(analyse_in("EXECUTE p", &session).is_session_sensitive);
}

#[test]
fn names_of_a_database_reveal_what_runs() {
    for (text, foreign, expected) in [
        ("SELECT lower(a) FROM t", &["lower"][..], "lower"),
        ("SELECT pg_catalog.lower(a) FROM t", &["lower"], ""),
        ("SELECT a = b FROM t", &["="], "="),
        ("SELECT t.f FROM t", &[".f"], ".f"),
        ("SELECT f FROM t", &[".f", "f"], ""),
        ("SELECT json_scalar(1)", &["json_scalar"], "json_scalar"),
        ("SELECT upper(a) FROM t", &["lower"], ""),
    ] {
        let found = facts(text).among(|name| foreign.contains(&name));
        let calls = found.map(|facts| facts.calls.join(" ")).unwrap_or_default();
        assert_eq!(calls, expected, "{text}");
    }
}

//! Searching a ledger on disk: what each filter finds, what SQL may not, and what it costs in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what the tests share may fail as they may"
)]

mod ledger;

use ledger::{Asked, Made, ask, ledger_of, row};
use serde_json::{Value, json};

/// Asks for statements and gives the numbers (`sequence`) of those found.
fn numbers(made: &Made, search: Value) -> Vec<u64> {
    let rows = ask(made, json!({ "search": search })).rows;
    rows.iter().map(|row| row["sequence"].as_u64().unwrap()).collect()
}

/// Ten statements, a second apart, of two people, a service and a stranger.
fn ten() -> Made {
    let alice = json!({"os_user": "alice", "exe": "/usr/bin/psql", "db_user": "alice", "database": "orders"});
    let shop = json!({"os_user": "shop", "unit": "shop-api.service", "db_user": "shop", "database": "orders"});
    let far = json!({"client_address": "10.0.0.7", "db_user": "report", "database": "billing", "server": "other"});
    ledger_of(&[
        row(
            1,
            &alice,
            json!({"text": "SELECT * FROM items WHERE id = ?", "effects": ["read"], "tables": [["items", "read"]], "rows": 1}),
        ),
        row(
            2,
            &alice,
            json!({"text": "DELETE FROM shop.items", "effects": ["delete"], "tables": [["shop.items", "delete"]], "rows": 120}),
        ),
        row(
            3,
            &shop,
            json!({"text": "UPDATE items SET a = ?", "effects": ["update"], "tables": [["items", "update"]], "rows": 7}),
        ),
        row(
            4,
            &shop,
            json!({"text": "INSERT INTO audit SELECT * FROM items", "effects": ["read", "insert"], "tables": [["audit", "insert"], ["items", "read"]], "rows": 7}),
        ),
        row(5, &far, json!({"text": "SELECT 100 % done", "effects": ["read"], "rows": 1})),
        row(
            6,
            &far,
            json!({"text": "COPY orders TO PROGRAM ?", "effects": ["copy-out", "program"], "tables": [["orders", "read"]]}),
        ),
        row(
            7,
            &far,
            json!({"text": "SELECT Größe FROM maße", "effects": ["read"], "error_code": "42P01"}),
        ),
        row(
            8,
            &shop,
            json!({"text": "DROP TABLE myitems", "effects": ["drop"], "tables": [["myitems", "drop"]], "verdict": "flag"}),
        ),
        row(9, &shop, json!({"text": null, "text_known": false})),
        row(
            10,
            &json!({}),
            json!({"text": "SELECT a_b", "fingerprint": "00000000000000ff", "connection": "00c0ffee00c0ffee"}),
        ),
    ])
}

#[test]
fn filters_find_what_they_name() {
    let made = ten();
    for (filter, expected) in [
        (json!({}), vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (json!({"since": made.time(4), "until": made.time(7)}), vec![4, 5, 6]),
        (json!({"text": ["ITEMS"]}), vec![1, 2, 3, 4, 8]),
        (json!({"text": ["items", "select"]}), vec![1, 4]),
        (json!({"text": ["from items where"]}), vec![1]),
        // What looks like a pattern is text.
        (json!({"text": ["%"]}), vec![5]),
        (json!({"text": ["a_b"]}), vec![10]),
        (json!({"text": ["axb"]}), vec![]),
        (json!({"text": ["GRÖSSE"]}), vec![]),
        (json!({"text": ["größe", "MASSE"]}), vec![]),
        (json!({"text": ["GRÖßE"]}), vec![7]),
        (json!({"who": "ALI"}), vec![1, 2]),
        (json!({"who": "bin/psql"}), vec![1, 2]),
        (json!({"who": "shop-api"}), vec![3, 4, 8, 9]),
        (json!({"who": "10.0.0."}), vec![5, 6, 7]),
        // A database user is no verified identity.
        (json!({"who": "report"}), vec![]),
        (json!({"server": "other"}), vec![5, 6, 7]),
        (json!({"database": "billing"}), vec![5, 6, 7]),
        (json!({"user": "shop"}), vec![3, 4, 8, 9]),
        (json!({"table": "items"}), vec![1, 2, 3, 4]),
        (json!({"table": "Shop.Items"}), vec![2]),
        (json!({"table": "item"}), vec![]),
        (json!({"effects": ["write"]}), vec![2, 3, 4]),
        (json!({"effects": ["drop", "program"]}), vec![6, 8]),
        (json!({"table": "items", "effects": ["write"]}), vec![2, 3]),
        (json!({"table": "items", "effects": ["insert"]}), vec![]),
        (json!({"table": "audit", "effects": ["insert"]}), vec![4]),
        (json!({"table": "orders", "effects": ["program"]}), vec![6]),
        (json!({"verdict": "flag"}), vec![8]),
        (json!({"min_rows": 7}), vec![2, 3, 4]),
        (json!({"errors": true}), vec![7]),
        (json!({"fingerprint": "00000000000000ff"}), vec![10]),
        (json!({"connection": "00c0ffee00c0ffee"}), vec![10]),
        (json!({"who": "alice", "min_rows": 100, "effects": ["delete"]}), vec![2]),
    ] {
        let search = json!({"filter": filter, "page": "all"});
        assert_eq!(numbers(&made, search), expected, "{filter}");
    }
}

#[test]
fn pages_go_both_ways_and_say_whether_there_is_more() {
    let made = ten();
    let page = |page: Value| ask(&made, json!({"search": {"page": page}}));
    let seen = |asked: &Asked| -> Vec<u64> {
        asked.rows.iter().map(|row| row["sequence"].as_u64().unwrap()).collect()
    };
    let newest = page(json!({"newest": 4}));
    assert_eq!((seen(&newest), newest.end["more"].clone()), (vec![7, 8, 9, 10], json!(true)));
    let before = page(json!({"before": [newest.end["first"], 4]}));
    assert_eq!((seen(&before), before.end["more"].clone()), (vec![3, 4, 5, 6], json!(true)));
    let first = page(json!({"before": [before.end["first"], 4]}));
    assert_eq!((seen(&first), first.end["more"].clone()), (vec![1, 2], json!(false)));
    let after = page(json!({"after": [before.end["last"], 3]}));
    assert_eq!((seen(&after), after.end["more"].clone()), (vec![7, 8, 9], json!(true)));
    let none = page(json!({"after": [newest.end["last"], 3]}));
    assert_eq!((seen(&none), none.end["more"].clone()), (vec![], json!(false)));
}

/// Sealed segments, of which two overlap in time, and two open logs: each row comes once.
#[test]
fn sealed_and_open_rows_are_one_ledger() {
    let nobody = json!({});
    let rows: Vec<_> =
        (1..=60).map(|n| row(n, &nobody, json!({"text": format!("s{n}")}))).collect();
    let made = Made::new();
    made.seal(1, &rows[0..20]);
    made.seal(2, &[&rows[20..30], &rows[35..40]].concat());
    made.seal(3, &[&rows[30..35], &rows[40..45]].concat());
    made.open(4, &rows[45..55]);
    made.open(5, &rows[55..60]);
    let all: Vec<u64> = (1..=60).collect();
    assert_eq!(numbers(&made, json!({"page": "all"})), all);
    assert_eq!(numbers(&made, json!({"page": {"newest": 100}})), all);
    assert_eq!(numbers(&made, json!({"page": {"newest": 8}})), all[52..]);
    let count = ask(&made, json!({"sql": {"query": "SELECT count(*) AS n FROM rows"}}));
    assert_eq!((count.error, count.rows), (None, vec![json!({"n": 60})]));
    // Where a log and its segment both are, the segment counts.
    made.seal(4, &rows[45..55]);
    assert_eq!(numbers(&made, json!({"page": "all"})), all);
}

#[test]
fn a_timeline_collapses_what_is_the_same_and_keeps_what_matters() {
    let shop =
        json!({"os_user": "shop", "db_user": "shop", "database": "orders", "server": "main"});
    let alice =
        json!({"os_user": "alice", "db_user": "alice", "database": "orders", "server": "main"});
    let read = json!({"text": "SELECT 1", "fingerprint": "01", "effects": ["read"], "rows": 2, "duration_us": 500});
    let mut rows = Vec::new();
    for n in 1..=50 {
        rows.push(row(n, &shop, read.clone()));
    }
    rows.push(row(
        51,
        &alice,
        json!({"text": "DROP TABLE items", "fingerprint": "02", "effects": ["drop"]}),
    ));
    rows.push(row(52, &shop, json!({"text": "UPDATE items SET a = ?", "fingerprint": "03", "effects": ["update"], "rows": 9})));
    rows.push(row(53, &alice, json!({"text": "SELECT x", "fingerprint": "04", "effects": ["read"], "error_code": "42703"})));
    rows.push(row(
        54,
        &json!({}),
        json!({"record": "gap", "action": "lost", "message": "3 records were lost"}),
    ));
    rows.push(row(55, &alice, json!({"record": "connection", "action": "closed"})));
    rows.push(row(56, &json!({}), json!({"record": "coverage", "action": "minute"})));
    let made = ledger_of(&rows);
    let timeline = |lines: u32| ask(&made, json!({"timeline": {"lines": lines}}));

    let all = timeline(100);
    let words = |asked: &Asked| -> Vec<(String, String, u64)> {
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let line = |row| (text(row, "who"), text(row, "weight"), row["count"].as_u64().unwrap());
        asked.rows.iter().map(line).collect()
    };
    let line = |who: &str, weight: &str, count| (who.to_owned(), weight.to_owned(), count);
    assert_eq!(
        words(&all),
        [
            line("shop", "ordinary", 50),
            line("alice", "unusual", 1),
            line("shop", "notable", 1),
            line("alice", "unusual", 1),
            line("?", "record", 1),
            line("alice", "notable", 1),
        ]
    );
    let run = &all.rows[0];
    assert_eq!(
        (
            &run["first"],
            &run["last"],
            &run["rows"],
            &run["errors"],
            &run["effects"],
            &run["max_duration_us"]
        ),
        (
            &json!(made.time(1)),
            &json!(made.time(50)),
            &json!(100),
            &json!(0),
            &json!(["read"]),
            &json!(500)
        ),
    );
    assert_eq!(all.end["timeline"]["statements"], json!(53));

    // With less room what stands out stays.
    let three = timeline(3);
    assert_eq!(
        words(&three),
        [line("alice", "unusual", 1), line("alice", "unusual", 1), line("?", "record", 1)]
    );
    let about = &three.end["timeline"];
    assert_eq!((&about["lines_left_out"], &about["statements_left_out"]), (&json!(3), &json!(51)));
}

#[test]
fn sql_asks_and_does_nothing_else() {
    let made = ten();
    let outside = tempfile::NamedTempFile::with_suffix(".csv").unwrap();
    std::fs::write(outside.path(), "a,b\n1,2\n").unwrap();
    let path = outside.path().display().to_string();
    let target = made.path().join("stolen.csv");
    let written = target.display().to_string();
    // A file that could be read, were it not outside.
    let sealed = std::fs::read_dir(made.path().join("segments")).unwrap().next().unwrap().unwrap();
    let copied = tempfile::NamedTempFile::with_suffix(".parquet").unwrap();
    std::fs::copy(sealed.path(), copied.path()).unwrap();
    let sealed = copied.path().display().to_string();
    for (query, expected) in [
        (format!("COPY rows TO '{written}'"), "would change something"),
        (format!("COPY (SELECT 1) TO '{written}' STORED AS CSV"), "COPY would change something"),
        (
            format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{path}'"),
            "would change something",
        ),
        (format!("EXPLAIN ANALYZE CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{path}'"), ""),
        ("CREATE TABLE t AS SELECT * FROM rows".into(), "would change something"),
        ("CREATE VIEW v AS SELECT * FROM rows".into(), "would change something"),
        ("DROP TABLE rows".into(), "would change something"),
        ("INSERT INTO rows SELECT * FROM rows".into(), "would change something"),
        ("DELETE FROM rows".into(), "would change something"),
        ("UPDATE rows SET text = 'x'".into(), "would change something"),
        ("EXPLAIN ANALYZE DELETE FROM rows".into(), ""),
        ("TRUNCATE rows".into(), ""),
        ("SET datafusion.execution.batch_size = 1".into(), "SET would change something"),
        ("BEGIN".into(), ""),
        ("PREPARE p AS SELECT 1".into(), ""),
        ("CREATE FUNCTION f() RETURNS INT RETURN 1".into(), ""),
        (format!("SELECT * FROM '{path}'"), "not found: there are rows, statements"),
        (format!("SELECT * FROM \"{path}\""), "not found: there are rows, statements"),
        (format!("SELECT * FROM \"file://{path}\""), "not found: there are rows, statements"),
        (format!("SELECT * FROM read_csv('{path}')"), "read_csv"),
        (format!("SELECT * FROM read_parquet('{path}')"), "read_parquet"),
        ("SELECT * FROM glob('/etc/*')".into(), "glob"),
        (format!("SELECT * FROM read_json('{path}')"), "read_json"),
        (format!("SELECT * FROM parquet_metadata('{sealed}')"), "parquet_metadata"),
        (format!("SELECT * FROM '{sealed}'"), "not found: there are rows, statements"),
        ("SELECT * FROM 'dbwarden://ledger/keys'".into(), "not found: there are rows, statements"),
        ("SELECT * FROM \"https://example.com/a.csv\"".into(), "not found: there are rows"),
        (
            format!("WITH t AS (SELECT * FROM '{path}') SELECT * FROM t"),
            "not found: there are rows",
        ),
        (format!("SELECT (SELECT max(a) FROM '{path}')"), "not found: there are rows"),
        (format!("EXPLAIN SELECT * FROM '{path}'"), "not found: there are rows"),
        (format!("DESCRIBE '{path}'"), "not found: there are rows"),
        (format!("SHOW COLUMNS FROM \"{path}\""), ""),
        (format!("INSERT INTO '{written}' SELECT * FROM rows"), ""),
        (format!("SELECT * INTO OUTFILE '{written}' FROM rows"), ""),
        (format!("SELECT * INTO '{written}' FROM rows"), ""),
        (
            format!("EXPLAIN COPY rows TO '{written}' STORED AS PARQUET"),
            "COPY would change something",
        ),
        (format!("EXPLAIN EXPLAIN COPY rows TO '{written}' STORED AS CSV"), ""),
        (
            format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{sealed}'"),
            "CREATE EXTERNAL TABLE would change something",
        ),
        (
            format!("CREATE UNBOUNDED EXTERNAL TABLE t (a INT) STORED AS JSON LOCATION '{path}'"),
            "would change something",
        ),
        (format!("CREATE EXTERNAL TABLE t STORED AS ARROW LOCATION '{path}'"), "would change"),
        (format!("ATTACH '{path}' AS other"), ""),
        (format!("COPY rows FROM '{path}'"), ""),
        (format!("LOAD '{path}'"), ""),
        ("SELECT read_text('/etc/passwd')".into(), "read_text"),
        ("SELECT nothing FROM rows".into(), "dbwarden sql --schema lists the columns"),
        ("SELECT 1; SELECT 2".into(), ""),
        ("SELEC 1".into(), "SELEC"),
        (String::new(), ""),
    ] {
        let asked = ask(&made, json!({"sql": {"query": query}}));
        let words = asked.error.unwrap_or_else(|| panic!("{query}: {:?}", asked.rows));
        assert!(words.contains(expected), "{query}: {words}");
        assert!(!target.exists(), "{query}");
    }
    for (query, expected) in [
        ("SELECT count(*) AS n FROM statements WHERE array_has(effects, 'read')", json!({"n": 4})),
        (
            "WITH t AS (SELECT max(rows) AS most FROM statements) SELECT * FROM t",
            json!({"most": 120}),
        ),
        ("SELECT count(*) AS n FROM connections", json!({"n": 0})),
        (
            "SELECT count(*) AS n FROM statements WHERE time > now() - interval '3650 days'",
            json!({"n": 10}),
        ),
    ] {
        let asked = ask(&made, json!({"sql": {"query": query}}));
        assert_eq!((asked.error, asked.rows), (None, vec![expected]), "{query}");
    }
}

#[test]
fn what_cannot_be_answered_says_why() {
    let made = ten();
    for (request, expected) in [
        (json!({"sql": {}}), "missing field `query`"),
        (json!({"delete": {}}), "unknown variant `delete`"),
        (json!({"search": {"filter": {"usr": "a"}}}), "unknown field `usr`"),
        (json!({"search": {"columns": ["secret"]}}), "there is no column \"secret\""),
        (json!({"search": {"filter": {"effects": ["explode"]}}}), "\"explode\" is no effect"),
        (json!({"search": {"page": {"after": ["12", 1]}}}), "names no row"),
        (json!({"search": {"filter": {"touched": "items.id=1"}}}), "keys can't be read"),
        (json!({"sql": {"query": "x".repeat(70_000)}}), "longer than 65536 bytes"),
    ] {
        let words = ask(&made, request.clone()).error.unwrap_or_default();
        assert!(words.contains(expected), "{words}");
    }
}

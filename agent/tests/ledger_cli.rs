//! `search`, `timeline` and `sql` as people and scripts see them, from a folder and through a service.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what the tests share may fail as they may"
)]

mod ledger;

use std::process::Command;

use dbwarden::control::QueryWorker;
use ledger::{Made, ledger_of, row, served::Served};
use serde_json::{Value, json};

/// Exit code, standard output, standard error.
fn dbwarden(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dbwarden"))
        .args(arguments)
        .env("TZ", "UTC-1")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn four() -> Made {
    let alice = json!({"os_user": "alice", "pid": 7, "exe": "/usr/bin/psql", "db_user": "alice", "database": "orders"});
    let shop = json!({"client_address": "10.0.0.7", "client_port": 40_000, "db_user": "shop", "database": "orders"});
    ledger_of(&[
        row(
            1,
            &shop,
            json!({"text": "SELECT 1", "fingerprint": "01", "effects": ["read"], "rows": 1, "duration_us": 500}),
        ),
        row(
            2,
            &shop,
            json!({"text": "SELECT 1", "fingerprint": "01", "effects": ["read"], "rows": 1, "duration_us": 900}),
        ),
        row(
            3,
            &alice,
            json!({"text": "DELETE FROM items, \"x\"", "fingerprint": "02", "effects": ["delete"], "tables": [["items", "delete"]], "rows": 1_204, "duration_us": 1_500_000}),
        ),
        row(
            4,
            &alice,
            json!({"text": "SELECT x", "fingerprint": "03", "error_code": "42703", "duration_us": 90}),
        ),
    ])
}

#[test]
fn tables_as_people_see_them() {
    let made = four();
    let folder = made.path().to_str().unwrap();
    for (arguments, expected) in [
        (
            vec!["search"],
            "\
── Mon 2026-11-23 (UTC+01:00) ──
15:00:01.000  10.0.0.7:40000            shop@orders          1 row    500 µs    SELECT 1
15:00:02.000  10.0.0.7:40000            shop@orders          1 row    900 µs    SELECT 1
15:00:03.000  alice psql                alice@orders     1204 rows    1.50 s    DELETE FROM items, \"x\"
15:00:04.000  alice psql                alice@orders                   90 µs    42703 ← SELECT x
",
        ),
        (
            vec!["search", "delete", "--utc"],
            "\
── Mon 2026-11-23 (UTC) ──
14:00:03.000  alice psql                alice@orders     1204 rows    1.50 s    DELETE FROM items, \"x\"
",
        ),
        (
            vec!["timeline", "--since", "2026-11-23", "--utc"],
            "\
Mon 2026-11-23 14:00:01 to 14:00:04 (UTC), 4 statements, 1 error
14:00:01  –14:00:02  10.0.0.7  shop@orders   ×2     2 rows  900 µs     SELECT 1
14:00:03             alice     alice@orders      1204 rows  1.50 s  ·  DELETE FROM items, \"x\"
14:00:04             alice     alice@orders                  90 µs  !  1 error (42703) ← SELECT x
",
        ),
        (
            vec!["timeline", "--since", "2026-11-23", "--utc", "--table", "items"],
            "\
Mon 2026-11-23 14:00:03 to 14:00:03 (UTC), 1 statement
14:00:03  delete  alice  alice@orders  1204 rows  1.50 s  ·  DELETE FROM items, \"x\"
",
        ),
        (
            vec!["sql", "SELECT text, sum(rows) AS n FROM statements GROUP BY 1 ORDER BY 2 NULLS LAST"],
            "\
text                       n
SELECT 1                   2
DELETE FROM items, \"x\"  1204
SELECT x                null
",
        ),
    ] {
        let ledger = ["--ledger", folder, "--format", "table"];
        let (code, out, err) = dbwarden(&[&arguments[..], &ledger].concat());
        assert_eq!((code, out.as_str()), (Some(0), expected), "{arguments:?}: {err}");
    }
}

#[test]
fn scripts_get_json_or_csv_and_people_a_hint() {
    let made = four();
    let folder = made.path().to_str().unwrap();
    for (arguments, out, err) in [
        (vec!["search", "delete"], "\"text\":\"DELETE FROM items, \\\"x\\\"\"", ""),
        (vec!["search", "nothing like it", "--format", "table"], "", "no statement found"),
        (
            vec!["search", "--limit", "2", "--format", "table"],
            "alice",
            "2 shown, there are older ones: --before 2026-11-23T14:00:03.000000Z/0000000000000001/3",
        ),
        (
            vec![
                "search",
                "--limit",
                "1",
                "--format",
                "table",
                "--after",
                "2026-11-23T14:00:01.000000Z/0000000000000001/1",
            ],
            "SELECT 1",
            "1 shown, there are newer ones: --after 2026-11-23T14:00:02.000000Z/0000000000000001/2",
        ),
        (
            vec!["sql", "SELECT text, rows FROM rows WHERE rows > 9", "--format", "csv"],
            "text,rows\r\n\"DELETE FROM items, \"\"x\"\"\",1204\r\n",
            "",
        ),
        (
            vec!["sql", "--schema"],
            "{\"column\":\"time\",\"type\":\"timestamp (UTC, microseconds)\"}",
            "",
        ),
        (vec!["timeline", "--since", "2026-11-23"], "\"weight\":\"notable\"", ""),
    ] {
        let mut whole = arguments.clone();
        if !arguments.contains(&"--schema") {
            whole.extend(["--ledger", folder]);
        }
        let (code, stdout, stderr) = dbwarden(&whole);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        assert!(stdout.contains(out), "{arguments:?}: {stdout}");
        assert!(stderr.contains(err), "{arguments:?}: {stderr}");
    }
}

#[test]
fn mistakes_are_answered_with_what_to_write() {
    let made = four();
    let folder = made.path().to_str().unwrap();
    for (arguments, code, words) in [
        (
            vec!["search", "--since", "soon", "--ledger", folder],
            2,
            "\"soon\" is no time: write 10m",
        ),
        (
            vec!["search", "--since", "1h", "--until", "2h", "--ledger", folder],
            2,
            "is not before --until",
        ),
        (
            vec!["search", "--effect", "explode", "--ledger", folder],
            2,
            "is no effect: there are read",
        ),
        (vec!["search", "--touched", "42", "--ledger", folder], 2, "write TABLE.COLUMN=VALUE"),
        (vec!["search", "--after", "12", "--ledger", folder], 2, "names no row"),
        (
            vec!["status", "--format", "csv"],
            2,
            "csv is for search, findings, timeline, sql and report",
        ),
        (vec!["search", "--ledger", "/nonexistent"], 1, "can't read /nonexistent"),
        // A search would read the host's own ledger, if it has one.
        (vec!["status", "--control", "/nonexistent.sock"], 3, "is the service running"),
        (vec!["sql", "DROP TABLE rows", "--ledger", folder], 1, "only questions can be asked"),
        (vec!["sql"], 2, "required"),
    ] {
        let (given, stdout, stderr) = dbwarden(&arguments);
        assert_eq!(given, Some(code), "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

/// The service starts the worker; the answer is the one that the folder itself gives.
#[test]
fn the_service_answers_as_the_folder_does() {
    let made = four();
    let folder = made.path().to_str().unwrap();
    let worker =
        QueryWorker { program: env!("CARGO_BIN_EXE_dbwarden").into(), ..QueryWorker::default() };
    let served = Served::start(made.path(), worker);
    let socket = served.socket();
    let control = socket.to_str().unwrap();
    for question in [
        vec!["search", "--all"],
        vec!["timeline", "--since", "2026-11-23"],
        vec!["sql", "SELECT count(*) AS n FROM rows"],
        vec!["sql", "SELECT nothing FROM rows"],
    ] {
        let served = dbwarden(&[&question[..], &["--control", control]].concat());
        let read = dbwarden(&[&question[..], &["--ledger", folder]].concat());
        assert_eq!(served, read, "{question:?}");
    }
}

/// A million rows come through a worker that never holds more than a few batches of them.
#[test]
fn a_worker_stays_small_whatever_it_answers() {
    const PEAK_KIB: u64 = 400 << 10;
    let folder = tempfile::tempdir().unwrap();
    let rows = dbwarden_tests::rows::Rows {
        n_rows: 1_000_000,
        first_us: 1_795_442_400_000_000,
        last_us: 1_795_528_800_000_000,
        segment_rows: 100_000,
        seed: 1,
    };
    rows.write(folder.path()).unwrap();
    for (request, expected) in [
        (json!({"search": {"page": "all", "columns": ["text", "rows"]}}), 1_000_000),
        (json!({"search": {"page": {"newest": 10_000}}}), 10_000),
        (json!({"timeline": {"lines": 40}}), 40),
    ] {
        assert_eq!(count(folder.path(), &request), Ok(expected), "{request}");
    }
    // What can't be answered in bounded memory isn't answered at all.
    let sorted = json!({"sql": {"query": "SELECT * FROM rows ORDER BY bytes_out, sequence"}});
    let words = count(folder.path(), &sorted).unwrap_err();
    assert!(words.contains("remembers more than it may"), "{words}");

    let peaks = std::fs::read_to_string(folder.path().join("peaks")).unwrap();
    let peaks: Vec<u64> = peaks.lines().map(|peak| peak.parse().unwrap()).collect();
    assert!(peaks.len() == 4 && peaks.iter().all(|peak| *peak < PEAK_KIB), "{peaks:?} KiB");
}

/// Runs a command and notes the most memory that it had. To a child the kernel counts what its parent
/// has when it forks: this one has next to nothing.
const MEASURED: &str = "
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
open(sys.argv[1], 'a').write(f'{peak}\\n')
sys.exit(code)";

/// The rows that a worker process writes, or why it doesn't.
fn count(ledger: &std::path::Path, request: &Value) -> Result<usize, String> {
    use std::io::{BufRead, BufReader, Write};
    let mut worker = Command::new("python3")
        .args(["-c", MEASURED])
        .arg(ledger.join("peaks"))
        .arg(env!("CARGO_BIN_EXE_dbwarden"))
        .arg("query-worker")
        .arg("--ledger")
        .arg(ledger)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    worker.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let mut rows = 0;
    let mut error = None;
    for line in BufReader::new(worker.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.strip_prefix("{\"@error\":") {
            Some(words) => error = Some(words.to_owned()),
            None => rows += usize::from(!line.starts_with("{\"@")),
        }
    }
    worker.wait().unwrap();
    error.map_or(Ok(rows), Err)
}

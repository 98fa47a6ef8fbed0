//! Reports of ledgers on disk: what belongs to them, what is left out and counted, and what they cost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what the tests share may fail as they may"
)]

mod ledger;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ledger::{Made, ledger_of, row};
use serde_json::{Value, json};

/// Labels and regions for all of these.
const CONFIGURATION: &str = r#"
[host]
name = "db1"
region = "eu-central-1"

[[label]]
name = "pii"
on = ["app.public.customers.email"]

[[label]]
name = "residency:eu"
on = ["app.public.patients.*"]

[[region]]
name = "us-east-1"
networks = ["10.9.0.0/16"]
"#;

/// Exit code, standard output, standard error.
fn dbwarden(made: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let configuration = made.join("configuration");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dbwarden"))
        .args(arguments)
        .arg("--config")
        .arg(&configuration)
        .arg("--ledger")
        .arg(made)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn report(made: &Made, arguments: &[&str]) -> Value {
    let arguments =
        [&["report"][..], arguments, &["--format", "json", "--no-verify", "--utc"]].concat();
    let (code, stdout, stderr) = dbwarden(made.path(), &arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn sequences(report: &Value) -> Vec<u64> {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().map(|row| row["sequence"].as_u64().unwrap()).collect()
}

/// What was left out, by reason, and that all of it adds up.
fn left_out(report: &Value) -> [u64; 3] {
    let sums = &report["reconciliation"];
    let n = |name: &str| sums[name].as_u64().unwrap();
    assert_eq!(sums["differences"], json!([]), "{sums:#}");
    assert_eq!(n("rows"), n("outside_period") + n("other_records") + n("statements"));
    let out = [n("unconcerned"), n("outside_filter"), n("in_region")];
    assert_eq!(n("statements"), out.iter().sum::<u64>() + n("reported"));
    assert_eq!(n("reported"), sequences(report).len() as u64);
    out
}

/// Twelve statements, sealed and open, and rows that are none.
fn twelve() -> Made {
    let ana = json!({"principal": "ana", "principal_kind": "human", "pid": 7, "database": "app", "region": "eu-central-1", "duration_us": 9});
    let bot = json!({"principal": "claude-code", "principal_kind": "ai", "initiator": "ana", "database": "app", "client_address": "10.9.1.2", "region": "eu-central-1", "duration_us": 9});
    let done = |n: u64,
                who: &Value,
                text: &str,
                effects: &[&str],
                tables: Value,
                columns: &[&str]| {
        row(
            n,
            who,
            json!({"text": text, "effects": effects, "tables": tables, "columns": columns, "analysis": "complete", "rows": 2, "verdict": "allow"}),
        )
    };
    let made = Made::new();
    made.seal(
        1,
        &[
            done(1, &ana, "SELECT 1", &["read"], json!([]), &[]),
            done(2, &ana, "UPDATE t SET a = ?", &["update"], json!([["t", "update"]]), &["t.a"]),
            done(3, &bot, "DELETE FROM t", &["delete"], json!([["t", "delete"]]), &[]),
            done(4, &ana, "BEGIN", &["session"], json!([]), &[]),
            row(5, &bot, json!({"text": "SELECT f()", "effects": ["read", "call"], "analysis": "calls-code"})),
            row(6, &json!({"database": "app"}), json!({"text": null, "text_known": false, "analysis": "no-text", "effects": ["unknown"]})),
            row(7, &ana, json!({"text": "UPDATE t SET a = ?/?", "effects": ["update"], "analysis": "complete", "error_code": "22012"})),
        ],
    );
    made.open(
        2,
        &[
            done(8, &ana, "SELECT email FROM customers", &["read"], json!([["customers", "read"]]), &["customers.email"]),
            done(9, &ana, "SELECT id FROM customers", &["read"], json!([["customers", "read"]]), &["customers.id"]),
            done(10, &ana, "SELECT * FROM patients", &["read"], json!([["patients", "read"]]), &["patients.*"]),
            done(11, &bot, "SELECT * FROM patients", &["read"], json!([["patients", "read"]]), &["patients.*"]),
            // A later version may know effects that this one doesn't.
            done(12, &ana, "FOO", &["foo"], json!([]), &[]),
            row(13, &json!({"sequence": null, "connection": null}), json!({"record": "coverage", "action": "seen", "server": "main", "counts": {"bytes_in": 100, "decoded_bytes": 90, "lost_bytes": 10}})),
            row(14, &json!({}), json!({"record": "connection", "action": "blind"})),
            row(15, &json!({"sequence": null, "connection": null}), json!({"record": "service", "action": "stopped"})),
        ],
    );
    made
}

#[test]
fn each_statement_is_reported_or_left_out_for_a_reason() {
    let made = twelve();
    let until = made.time(20);
    let period = ["--until", &until];
    for (arguments, expected, out) in [
        (vec!["changes"], vec![2, 3, 5, 6, 7, 12], [6, 0, 0]),
        (vec!["changes", "--kind", "ai"], vec![3, 5], [6, 4, 0]),
        (vec!["changes", "--errors"], vec![7], [6, 5, 0]),
        (vec!["changes", "--table", "t", "--effect", "delete"], vec![3], [6, 5, 0]),
        (vec!["access"], vec![5, 6, 8, 10, 11, 12], [6, 0, 0]),
        // Calls of code and what nobody saw may have read labelled data; a column without the label is none.
        (vec!["access", "--label", "pii"], vec![5, 6, 8, 12], [8, 0, 0]),
        (vec!["access", "--label", "pii", "--kind", "human"], vec![8, 12], [8, 2, 0]),
        // From here it may be read; the bot comes from elsewhere, and of one nobody knows.
        (vec!["residency"], vec![5, 6, 11], [7, 0, 2]),
    ] {
        let report = report(&made, &[&arguments[..], &period].concat());
        assert_eq!(sequences(&report), expected, "{arguments:?}");
        assert_eq!(left_out(&report), out, "{arguments:?}");
        assert_eq!(report["reconciliation"]["other_records"], 3);
    }
    let since = made.time(3);
    let report = report(&made, &["changes", "--since", &since, "--until", &made.time(7)]);
    assert_eq!(sequences(&report), [3, 5, 6]);
    assert_eq!(left_out(&report), [1, 0, 0]);
    assert_eq!(report["reconciliation"]["outside_period"], 11);
}

#[test]
fn rows_say_what_a_reader_must_know() {
    let made = twelve();
    let until = made.time(20);
    let changes = report(&made, &["changes", "--until", &until]);
    let row = |n: usize| changes["rows"][n].clone();
    assert_eq!(row(0)["place"], "1:1");
    assert_eq!(row(0)["outcome"], "done");
    assert_eq!(row(0)["marks"], json!(["no signed entry"]));
    assert_eq!(row(2)["marks"][0], "calls code");
    assert!(row(3)["marks"].as_array().unwrap().contains(&json!("text not seen")));
    assert_eq!((&row(4)["outcome"], &row(4)["error_code"]), (&json!("failed"), &json!("22012")));
    assert_eq!((&row(5)["place"], &row(5)["marks"]), (&Value::Null, &json!(["not sealed yet"])));
    assert_eq!(row(0)["approval"], Value::Null);
    assert_eq!(changes["totals"]["by_kind"]["ai"]["statements"], 2);
    assert_eq!(changes["totals"]["by_outcome"]["failed"]["statements"], 1);
    assert_eq!(changes["totals"]["uncertain"], 2);
    let server = &changes["servers"][0];
    assert_eq!((&server["lost_bytes"], &server["blind_connections"]), (&json!(10), &json!(1)));
    let gap = &changes["unobserved"][0];
    assert_eq!((&gap["reason"], &gap["from"]), (&json!("not-running"), &json!(made.time(15))));
    assert_eq!(changes["proof"]["verdict"], "not-verified");

    let residency = report(&made, &["residency", "--until", &until]);
    let last = residency["rows"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["labels"], json!(["residency:eu"]));
    assert_eq!(last["client_region"], "us-east-1");
    assert_eq!(residency["in_region"]["residency:eu"], json!([2, 4]));
    assert_eq!(residency["labels"]["applied_throughout"], Value::Null);
}

/// The number that a report is referred to by is over its rows as they stand in the JSON form.
#[test]
fn the_hash_is_that_of_the_lines() {
    use sha2::{Digest, Sha256};
    let made = twelve();
    let until = made.time(20);
    let (code, text, _) = dbwarden(
        made.path(),
        &["report", "changes", "--until", &until, "--format", "json", "--no-verify"],
    );
    assert_eq!(code, Some(0));
    let mut hash = Sha256::new();
    for line in text.lines().filter(|line| line.starts_with("{\"time\"")) {
        hash.update(line.trim_end_matches(','));
        hash.update("\n");
    }
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["rows_sha256"], hex::encode(hash.finalize()));
    // In whatever form, they are the same rows.
    let csv = made.path().join("report.csv");
    let path = csv.to_str().unwrap();
    let arguments = ["report", "changes", "--until", &until, "--no-verify", "--output", path];
    let (code, stdout, stderr) = dbwarden(made.path(), &arguments);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    let summary = fs::read(made.path().join("report.csv.summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    assert_eq!(summary["rows_sha256"], report["rows_sha256"]);
    let csv = fs::read_to_string(csv).unwrap();
    assert_eq!(csv.matches("\r\n").count(), 7, "{csv}");
    assert!(csv.starts_with("time,host,environment,"), "{csv}");
}

/// A statement's text is written by whoever can connect.
#[test]
fn hostile_texts_do_nothing_in_any_form() {
    let hostile = "=cmd|'/c calc'!A1 --</pre></td><script>alert(1)</script>\u{202e}<img src=x onerror=alert(2)>";
    let who =
        json!({"principal": "<b>ana</b>", "db_user": "'><svg onload=alert(3)>", "database": "app"});
    let made = ledger_of(&[row(
        1,
        &who,
        json!({"text": hostile, "effects": ["unknown"], "analysis": "syntax-error"}),
    )]);
    let until = made.time(20);
    let arguments = ["report", "changes", "--until", &until, "--no-verify"];
    let (code, html, stderr) =
        dbwarden(made.path(), &[&arguments[..], &["--format", "html"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    for bad in
        ["<script", "<img", "<svg", "<b>ana", "\u{202e}", "http://", "https://", "url(", "src="]
    {
        assert!(!html.replace("src=x onerror", "").contains(bad), "{bad}");
    }
    assert!(html.contains("&lt;script&gt;alert(1)") && html.contains("U+202E"), "{html}");
    assert!(html.contains("NOT VERIFIED"), "{html}");
    let csv = made.path().join("report.csv");
    let path = csv.to_str().unwrap();
    let (code, ..) = dbwarden(made.path(), &[&arguments[..], &["--output", path]].concat());
    assert_eq!(code, Some(0));
    let csv = fs::read_to_string(path).unwrap();
    assert!(csv.contains(",'=cmd|'/c calc'"), "{csv}");
}

#[test]
fn what_can_not_be_reported_is_refused_in_words() {
    let made = twelve();
    for (arguments, expected, words) in [
        (&["changes"][..], 2, "html, csv or json"),
        (&["changes", "--format", "csv"], 2, "needs --output FILE"),
        (
            &["access", "--format", "json", "--label", "pi"],
            2,
            "no label \"pi\": there are pii, residency:eu",
        ),
        (&["residency", "--format", "json", "--label", "pii"], 2, "there are residency:eu"),
        (&["changes", "--format", "json", "--since", "2999-01-01"], 2, "lies in the future"),
        // Nothing has signed these.
        (&["changes", "--format", "json"], 1, ""),
    ] {
        let (code, _, stderr) = dbwarden(made.path(), &[&["report"][..], arguments].concat());
        assert_eq!(code, Some(expected), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = dbwarden(Path::new("/tmp"), &["search", "--format", "html"]);
    assert_eq!(code, Some(2), "{stderr}");
}

/// Runs a command and notes the most memory that it, or its worker, had, in KiB. To a child the kernel counts
/// what its parent has when it forks: this one has next to nothing.
const MEASURED: &str = "
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
open(sys.argv[1], 'a').write(f'{peak}\\n')
sys.exit(code)";

/// Of 600,000 statements over 100,000 changed something, in memory that doesn't grow with them.
#[test]
fn many_rows_are_reported_in_bounded_memory() {
    const PEAK_KIB: u64 = 400 << 10;
    let folder = tempfile::tempdir().unwrap();
    let (first_us, last_us) = (1_795_442_400_000_000, 1_795_528_800_000_000);
    let rows = dbwarden_tests::rows::Rows {
        n_rows: 600_000,
        first_us,
        last_us,
        segment_rows: 50_000,
        seed: 1,
    };
    rows.write(folder.path()).unwrap();
    let configuration = folder.path().join("configuration");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let run = |arguments: &[&str], output: &str| -> (Option<i32>, PathBuf, String) {
        let output = folder.path().join(output);
        let ran = Command::new("python3")
            .args(["-c", MEASURED])
            .arg(folder.path().join("peaks"))
            .arg(env!("CARGO_BIN_EXE_dbwarden"))
            .args(["report", "changes", "--no-verify", "--until", "2026-11-25", "--utc"])
            .args(arguments)
            .arg("--config")
            .arg(&configuration)
            .arg("--ledger")
            .arg(folder.path())
            .arg("--output")
            .arg(&output)
            .output()
            .unwrap();
        (ran.status.code(), output, String::from_utf8(ran.stderr).unwrap())
    };
    let (code, json, stderr) = run(&[], "report.json");
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let n = left_out(&report)[0] + sequences(&report).len() as u64;
    assert_eq!(n, 600_000);
    let n_changes = sequences(&report).len();
    assert!(n_changes > 100_000, "{n_changes}");
    drop(report);

    let (code, csv, stderr) = run(&[], "report.csv");
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(fs::read_to_string(csv).unwrap().lines().count(), n_changes + 1);

    let (code, html, stderr) = run(&[], "report.html");
    assert_eq!(code, Some(2));
    assert!(stderr.contains(&format!("{n_changes} statements belong")), "{stderr}");
    assert!(!html.exists());
    let (code, html, stderr) = run(&["--who", "alice"], "report.html");
    assert_eq!(code, Some(0), "{stderr}");
    let html = fs::read_to_string(html).unwrap();
    assert!(html.matches("<tbody><tr><td class=\"r\">").count() > 100);

    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    let peaks = fs::read_to_string(folder.path().join("peaks")).unwrap();
    let peaks: Vec<u64> = peaks.lines().map(|peak| peak.parse().unwrap()).collect();
    assert!(peaks.len() == 4 && peaks.iter().all(|peak| *peak < PEAK_KIB), "{peaks:?} KiB");
}

//! A real ledger, verified, proven and copied; and read by programs that know nothing of dbwarden.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dbwarden::{
    event::{
        Analysis, ConnectionId, Effect, Effects, Engine, Entry, Facts, Lane, Origin, Record,
        StatementKind, Transport, WallTime,
    },
    ledger::{
        Appended, Ledger, Options,
        copies::{Copies, CopyOptions},
        keys::Keys,
        root_log::RootLog,
        verify,
    },
};
use dbwarden_tests::{Running, await_until, place, python, said};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// 2026-11-23T22:00:00Z.
const START: WallTime = WallTime(1_795_471_200_000_000);
const ROWS: usize = 300;

/// A ledger with three sealed segments of 300 rows each, two hours apart, and 5 open rows.
struct Written {
    place: TempDir,
}

impl Written {
    fn new() -> Result<Self> {
        let written = Self { place: tempfile::tempdir()? };
        let keys = Keys::open_or_create(&written.keys(), "db1")?;
        let witness = RootLog::open(&written.ledger(), keys, START)?;
        let mut options = Options::new(written.ledger());
        options.commit_interval = Duration::from_millis(20);
        options.min_free_bytes = 0;
        let mut ledger = Ledger::open(options, "db1", Box::new(witness), START)?;
        let (origin, facts) = (Arc::new(origin()), Arc::new(facts()));
        let mut now = START.0;
        for segment in 1..=3 {
            for n in 0..ROWS {
                let record = record(WallTime(now + n as i64), n as u64, &origin, &facts);
                ensure!(ledger.append(&Entry::Statement(record)) == Appended::Accepted);
            }
            // The segment's first row is old enough then.
            now += 7_200_000_000;
            await_until("a sealed segment", || {
                ledger.tick(WallTime(now));
                let log = written.ledger().join("open").join(format!("{segment:010}.log"));
                Ok((!log.exists()).then_some(()))
            })?;
        }
        for n in 0..5 {
            let record = record(WallTime(now + n), 0, &origin, &facts);
            ensure!(ledger.append(&Entry::Statement(record)) == Appended::Accepted);
        }
        ledger.close()?;
        Ok(written)
    }

    fn ledger(&self) -> PathBuf {
        self.place.path().join("ledger")
    }

    fn keys(&self) -> PathBuf {
        self.place.path().join("keys")
    }

    fn segments(&self) -> Result<Vec<PathBuf>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(self.ledger().join("segments"))? {
            segments.push(entry?.path());
        }
        segments.sort();
        Ok(segments)
    }

    fn dbwarden(&self, command: &[&str]) -> Result<Output> {
        let output = Command::new(place::profile_dir()?.join("dbwarden"))
            .args(command)
            .arg("--ledger")
            .arg(self.ledger())
            .arg("--keys")
            .arg(self.keys())
            .output()?;
        Ok(output)
    }

    fn verify(&self, more: &[&str]) -> Result<(Option<i32>, Value)> {
        let output = self.dbwarden(&[&["verify"], more].concat())?;
        let report = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok((output.status.code(), report))
    }

    fn copies(&self, url: &str, options: &[(&str, &str)]) -> Result<Copies> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Ok(Copies::start(CopyOptions {
            url: url.to_owned(),
            options: options.iter().map(owned).collect(),
            host: "db1".to_owned(),
            ledger: self.ledger(),
            interval: Duration::from_millis(50),
        })?)
    }
}

fn origin() -> Origin {
    Origin {
        host: "db1".into(),
        server: Some("orders".into()),
        engine: Some(Engine::Postgresql),
        transport: Some(Transport::Tcp),
        lane: Some(Lane::Observed),
        connection: Some(ConnectionId(7)),
        db_user: Some("ada".into()),
        ..Origin::default()
    }
}

fn facts() -> Facts {
    Facts {
        text: "SELECT naïve FROM songs WHERE id = ?".into(),
        fingerprint: 1,
        summary: "SELECT songs".into(),
        effects: Effects::from_iter([Effect::Read]),
        ..Facts::nothing(Analysis::Complete)
    }
}

fn record(time: WallTime, sequence: u64, origin: &Arc<Origin>, facts: &Arc<Facts>) -> Record {
    Record {
        time,
        duration_us: Some(5),
        first_byte_us: None,
        origin: origin.clone(),
        sequence,
        claims: None,
        text: Some("SELECT naïve FROM songs WHERE id = 5".into()),
        standard_conforming_strings: Some(true),
        parameters: Vec::new(),
        kind: StatementKind::default(),
        facts: Some(facts.clone()),
        keys: Vec::new(),
        rows: Some(1),
        bytes_in: 40,
        bytes_out: 2,
        error_code: None,
        error_message: None,
        redacted_error: None,
        transaction: None,
        judgement: None,
        approval: None,
        masked: Arc::default(),
        truncated_bytes: 0,
        lost_bytes: 0,
        joined_midstream: false,
    }
}

#[test]
fn verify_answers_with_its_exit_code() -> Result<()> {
    let written = Written::new()?;
    let (code, report) = written.verify(&[])?;
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!((&report["sound"], &report["segments"]), (&true.into(), &3.into()));
    assert_eq!(report["rows"].as_u64(), Some(3 * ROWS as u64), "{report:#}");

    let checkpoint = written.ledger().join("log/checkpoint");
    let kept = written.place.path().join("kept");
    fs::copy(&checkpoint, &kept)?;
    let (code, report) = written.verify(&["--checkpoint", &kept.to_string_lossy()])?;
    assert_eq!(code, Some(0), "{report:#}");

    // DuckDB leaves out one row of the second segment.
    let second = &written.segments()?[1];
    let rewrite = "import duckdb, sys\n\
        file = sys.argv[1]\n\
        duckdb.sql(f\"COPY (SELECT * EXCLUDE n FROM (SELECT *, row_number() OVER () n FROM \
        read_parquet('{file}', hive_partitioning=false)) WHERE n <> 43) TO '{file}.new' (FORMAT parquet)\")";
    said(python()?.args(["-c", rewrite]).arg(second))?;
    fs::rename(format!("{}.new", second.display()), second)?;
    let (code, report) = written.verify(&[])?;
    assert_eq!(code, Some(1));
    let finding = |code: &str| {
        let findings = report["findings"].as_array().into_iter().flatten();
        findings.into_iter().find(|finding| finding["code"] == code).cloned()
    };
    let missing = finding("row_missing").with_context(|| format!("{report:#}"))?;
    assert_eq!((&missing["segment"], &missing["row"]), (&2.into(), &42.into()));

    let nowhere = written.place.path().join("nowhere");
    let output = Command::new(place::profile_dir()?.join("dbwarden"))
        .args(["verify", "--ledger"])
        .arg(nowhere)
        .output()?;
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_ledger_that_is_being_written_is_sound_at_any_moment() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (folder, keys) = (place.path().join("ledger"), place.path().join("keys"));
    let witness = RootLog::open(&folder, Keys::open_or_create(&keys, "db1")?, START)?;
    let mut options = Options::new(&folder);
    options.commit_interval = Duration::from_millis(5);
    options.min_free_bytes = 0;
    options.max_bytes = Some(150_000);
    let mut ledger = Ledger::open(options, "db1", Box::new(witness), START)?;
    let (origin, facts) = (Arc::new(origin()), Arc::new(facts()));
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            let mut now = START.0;
            while !is_done.load(Ordering::Relaxed) {
                // An hour of rows in a tenth of a second.
                for n in 0..50 {
                    let record = record(WallTime(now), n, &origin, &facts);
                    let _: Appended = ledger.append(&Entry::Statement(record));
                    now += 72_000_000;
                    ledger.tick(WallTime(now));
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let options = verify::Options {
            ledger: &folder,
            keys: &keys,
            key: None,
            checkpoint: None,
            since: None,
        };
        let mut n_verified = 0;
        let verified = await_until("removals while it was verified", || {
            let report = verify::verify(&options, &mut |_| {})?;
            n_verified += 1;
            ensure!(report.is_sound(), "{report:#?}");
            Ok((n_verified >= 40 && report.segments_removed >= 5).then_some(()))
        });
        is_done.store(true, Ordering::Relaxed);
        verified
    })
}

#[test]
fn keys_rotate_without_a_service_and_old_checkpoints_verify() -> Result<()> {
    let written = Written::new()?;
    let kept = written.place.path().join("kept");
    fs::copy(written.ledger().join("log/checkpoint"), &kept)?;
    let shown = |output: &Output| serde_json::from_slice::<Value>(&output.stdout);
    let old = shown(&written.dbwarden(&["keys", "show"])?)?;
    let rotated = shown(&written.dbwarden(&["keys", "rotate"])?)?;
    assert_eq!(rotated["rotated"], true);
    let new = shown(&written.dbwarden(&["keys", "show"])?)?;
    assert_eq!(rotated["key"], new["key"]);
    assert_ne!(old["key"], new["key"]);
    for more in [
        &["--checkpoint", &*kept.to_string_lossy()][..],
        &["--key", old["key"].as_str().unwrap_or_default()],
        &["--key", new["key"].as_str().unwrap_or_default()],
    ] {
        let (code, report) = written.verify(more)?;
        assert_eq!(code, Some(0), "{report:#}");
    }
    Ok(())
}

/// The program that stands in PROOFS.md.
fn checker() -> Result<String> {
    let text = fs::read_to_string(place::workspace().join("PROOFS.md"))?;
    let start = text.split_once("```python\n").context("PROOFS.md has no program")?.1;
    Ok(start.split_once("```").context("its program doesn't end")?.0.to_owned())
}

/// From what somebody looks for to a proof that anybody can check.
#[test]
fn what_a_search_finds_can_be_proven() -> Result<()> {
    let written = Written::new()?;
    let search = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(place::profile_dir()?.join("dbwarden"));
        said(command.arg("search").args(arguments).arg("--ledger").arg(written.ledger()))
    };
    let json = search(&["naïve", "--all", "--format", "json"])?;
    let rows: Vec<Value> = json.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(rows.len() == 3 * ROWS + 5, "{} rows", rows.len());
    let (open, sealed): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row["segment_row"].is_null());
    ensure!(open.len() == 5 && open.iter().all(|row| row["segment"] == 4), "{open:?}");

    let program = checker()?;
    let proof = written.place.path().join("proof.json");
    let path = proof.to_string_lossy().into_owned();
    for row in [sealed[0], sealed[ROWS + 7], sealed[3 * ROWS - 1]] {
        let place = format!("{}:{}", row["segment"], row["segment_row"]);
        let output = written.dbwarden(&["verify", "--prove", &place, "--out", &path])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let proven: Value =
            serde_json::from_str(&said(python()?.args(["-c", &program]).arg(&proof))?)?;
        for column in ["sequence", "text", "db_user", "fingerprint"] {
            assert_eq!(proven[column], row[column], "{place}");
        }
        // The table shows the same place.
        let key = format!(
            "{}/0000000000000007/{}",
            row["time"].as_str().unwrap_or_default(),
            row["sequence"]
        );
        let table = search(&["--before", &key, "--limit", "1", "--places", "--format", "table"]);
        let table = table?;
        let before = row["segment_row"].as_u64().unwrap_or_default().checked_sub(1);
        if let Some(before) = before {
            let line = table.lines().nth(1).unwrap_or_default();
            assert!(line.starts_with(&format!("{}:{before} ", row["segment"])), "{table}");
        }
    }

    // A row that isn't sealed yet says so, and what to do.
    let table = search(&["--limit", "1", "--places", "--format", "table"])?;
    assert!(table.lines().any(|line| line.starts_with("4:open ")), "{table}");
    for (place, words) in
        [("4:0", "wait until it is sealed"), ("4:open", "a row without a number isn't sealed yet")]
    {
        let output = written.dbwarden(&["verify", "--prove", place])?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains(words), "{complaint}");
    }
    Ok(())
}

#[test]
fn a_proof_is_checked_by_the_program_of_the_document() -> Result<()> {
    let written = Written::new()?;
    let program = checker()?;
    let file = written.place.path().join("proof.json");
    let path = file.to_string_lossy().into_owned();
    for (place, sequence) in [("1:0", 0), ("2:42", 42), ("3:299", 299)] {
        let output = written.dbwarden(&["verify", "--prove", place, "--out", &path])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let checked = python()?.args(["-c", &program]).arg(&file).output()?;
        let complaint = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && complaint.is_empty(), "{complaint}");
        let row: HashMap<String, Value> = serde_json::from_slice(&checked.stdout)?;
        assert_eq!(row["sequence"], sequence);
        assert_eq!(row["text"], "SELECT naïve FROM songs WHERE id = ?");
        assert_eq!((&row["db_user"], &row["host"]), (&"ada".into(), &"db1".into()));
    }
    // Each field counts.
    let proof: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let fields = proof.as_object().context("a proof is an object")?;
    for name in fields.keys().filter(|name| *name != "schema_version") {
        let mut altered = proof.clone();
        altered[name] = match &proof[name] {
            Value::Number(n) => (n.as_u64().unwrap_or_default() + 1).into(),
            Value::Array(path) => path.iter().skip(1).cloned().collect::<Vec<_>>().into(),
            text => {
                let text = text.as_str().unwrap_or_default();
                let middle = text.len() / 2;
                let other = if text[middle..].starts_with('1') { "0" } else { "1" };
                format!("{}{other}{}", &text[..middle], &text[middle + 1..]).into()
            }
        };
        fs::write(&file, altered.to_string())?;
        let checked = python()?.args(["-c", &program]).arg(&file).output()?;
        assert!(!checked.status.success(), "{name} was changed, and nobody noticed");
    }
    let output = written.dbwarden(&["verify", "--prove", "3:300"])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("rows 0 to 299"));
    Ok(())
}

fn copied(copies: &Copies, expected: u64) -> Result<()> {
    await_until("the copies", || {
        let status = copies.status();
        if let Some(trouble) = status.trouble {
            anyhow::bail!("{trouble}");
        }
        Ok((status.copied == expected && status.waiting == 0).then_some(()))
    })
}

#[test]
fn duckdb_reads_the_copies_of_several_days_as_one_table() -> Result<()> {
    let written = Written::new()?;
    let bucket = written.place.path().join("a bucket");
    fs::create_dir(&bucket)?;
    let url = format!("file://{}", bucket.display().to_string().replace(' ', "%20"));
    let copies = written.copies(&url, &[])?;
    copied(&copies, 3)?;
    let checkpoint = bucket.join("_log/host=db1/checkpoint");
    await_until("the checkpoint", || Ok(checkpoint.exists().then_some(())))?;
    drop(copies);
    let query = "import duckdb, sys\n\
        print(duckdb.sql(f\"SELECT host, date::VARCHAR, count(*)::INT, min(sequence)::INT, max(text) \
        FROM read_parquet('{sys.argv[1]}/**/*.parquet', hive_partitioning=true) \
        GROUP BY 1, 2 ORDER BY 2\").fetchall())";
    let table = said(python()?.args(["-c", query]).arg(&bucket))?;
    assert_eq!(
        table.trim(),
        "[('db1', '2026-11-23', 300, 0, 'SELECT naïve FROM songs WHERE id = ?'), \
         ('db1', '2026-11-24', 600, 0, 'SELECT naïve FROM songs WHERE id = ?')]"
    );

    assert_eq!(counted(&url, &[])?, r#"{"host":"db1","n":900,"last":299}"#);

    // What is there is left alone; what is gone or cut short comes back.
    let again = written.copies(&url, &[])?;
    copied(&again, 3)?;
    assert_eq!(again.status().sent_bytes, 0);
    drop(again);
    let first = &written.segments()?[0];
    let name = first.file_name().context("a segment has a name")?;
    let there = bucket.join("host=db1/date=2026-11-23").join(name);
    fs::write(&there, "cut short")?;
    let again = written.copies(&url, &[])?;
    copied(&again, 3)?;
    drop(again);
    assert_eq!(fs::read(&there)?, fs::read(first)?);

    // What was altered here doesn't spread.
    fs::remove_file(&there)?;
    fs::write(first, "altered")?;
    let again = written.copies(&url, &[])?;
    let trouble = await_until("trouble", || Ok(again.status().trouble))?;
    assert!(trouble.contains("isn't what was sealed"), "{trouble}");
    assert!(!there.exists());
    Ok(())
}

#[test]
fn copies_go_to_an_s3_that_was_away_at_first() -> Result<()> {
    let written = Written::new()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let options = [
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
    ];
    let copies = written.copies("s3://ledgers/fleet", &options)?;
    let serve = format!(
        "import boto3, threading\n\
         from moto.server import ThreadedMotoServer\n\
         server = ThreadedMotoServer(ip_address='127.0.0.1', port={port})\n\
         server.start()\n\
         boto3.client('s3', endpoint_url='{endpoint}', region_name='us-east-1', \
         aws_access_key_id='key', aws_secret_access_key='secret').create_bucket(Bucket='ledgers')\n\
         threading.Event().wait()"
    );
    let server = Running::start("moto", python()?.args(["-c", &serve]), Signal::SIGTERM)?;
    await_until("the copies", || Ok((copies.status().copied == 3).then_some(())))?;
    await_until("no trouble", || Ok(copies.status().trouble.is_none().then_some(())))?;
    let list = format!(
        "import boto3\n\
         s3 = boto3.client('s3', endpoint_url='{endpoint}', region_name='us-east-1', \
         aws_access_key_id='key', aws_secret_access_key='secret')\n\
         for it in s3.list_objects_v2(Bucket='ledgers')['Contents']: print(it['Key'], it['Size'])"
    );
    let there = said(python()?.args(["-c", &list]))?;
    for segment in written.segments()? {
        let name = segment.file_name().context("a name")?.to_string_lossy().into_owned();
        let expected = format!("/{name} {}", fs::metadata(&segment)?.len());
        let line = there.lines().find(|line| line.ends_with(&expected));
        assert!(
            line.is_some_and(|line| line.starts_with("fleet/host=db1/date=2026-11-2")),
            "{there}"
        );
    }
    assert!(there.contains("fleet/_log/host=db1/checkpoint "), "{there}");

    // A fleet is searched where its copies are.
    assert_eq!(counted("s3://ledgers/fleet", &options)?, r#"{"host":"db1","n":900,"last":299}"#);
    let page = ["search", "naïve", "--limit", "7", "--format", "json"];
    assert_eq!(elsewhere("s3://ledgers/fleet", &options, &page)?.lines().count(), 7);
    drop(server);
    let error =
        elsewhere("s3://ledgers/fleet", &options, &page).err().context("nobody is there")?;
    assert!(error.to_string().contains("can't read the copies of ledgers"), "{error}");
    Ok(())
}

/// What a command says of copies.
fn elsewhere(url: &str, options: &[(&str, &str)], command: &[&str]) -> Result<String> {
    let program = place::profile_dir()?.join("dbwarden");
    said(Command::new(program).args(command).args(["--ledger", url]).envs(options.iter().copied()))
}

fn counted(url: &str, options: &[(&str, &str)]) -> Result<String> {
    let count = "SELECT host, count(*) AS n, max(sequence) AS last FROM statements GROUP BY host";
    Ok(elsewhere(url, options, &["sql", count, "--format", "json"])?.trim().to_owned())
}

#[test]
fn copies_need_a_place_that_exists() -> Result<()> {
    let written = Written::new()?;
    for url in ["", "/var/backups", "ftp://host/path", "memory:///"] {
        let error = written.copies(url, &[]).err().context("it was taken")?;
        assert!(error.to_string().contains("no place for copies"), "{error}");
    }
    Ok(())
}

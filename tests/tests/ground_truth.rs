//! What PostgreSQL logs and counts of its clients against what dbwarden reports of them.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use dbwarden_tests::{Agent, Postgres, Via, Watch, await_until, need_root, python, said};
use futures_util::{SinkExt, StreamExt, future::join_all};
use serde_json::Value;
use tokio_postgres::NoTls;

/// A log's duration is of the execution alone; dbwarden's runs from the request to the end of the
/// answer, with the time that the bytes wait on a busy machine.
const DURATION_SLACK: Duration = Duration::from_millis(500);

/// One statement as both sides must have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    text: String,
    user: String,
    database: String,
    error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, PartialOrd)]
struct Statement {
    said: Said,
    duration: Option<Duration>,
    /// As in `$1 = '7', $2 = NULL`.
    parameters: Option<String>,
}

/// The statements of each connection, by the application's name.
type Conversations = BTreeMap<String, Vec<Vec<Statement>>>;

/// The log's rules, which are not quite those of dbwarden:
///
/// * A `Query` is logged once with its whole text, however many statements stand in it. So does
///   dbwarden.
/// * The extended protocol is logged at `Execute`. The `Execute`s that go on with a portal are logged
///   as `execute fetch from`: to dbwarden they are the same statement.
/// * What fails before it runs (a syntax error, a failed `Parse` or `Bind`) shows only as the
///   `statement` of its error. To dbwarden it is a statement.
/// * An empty text in the extended protocol, and what stands behind an error in a pipeline, is never
///   logged. dbwarden reports both, the latter as not run. Their texts here say `unlogged`.
fn logged(entries: &[Value]) -> Conversations {
    let mut connections: BTreeMap<u64, (String, Vec<Statement>)> = BTreeMap::new();
    // The connections whose newest statement has not ended.
    let mut running: HashMap<u64, bool> = HashMap::new();
    for entry in entries.iter().filter(|entry| entry["backend_type"] == "client backend") {
        let field = |name: &str| entry[name].as_str().unwrap_or_default();
        let pid = entry["pid"].as_u64().unwrap_or_default();
        let (application, statements) = connections.entry(pid).or_default();
        let statement = |text: &str, error: Option<&str>| Statement {
            said: Said {
                text: text.to_owned(),
                user: field("user").to_owned(),
                database: field("dbname").to_owned(),
                error: error.map(str::to_owned),
            },
            duration: None,
            parameters: field("detail").strip_prefix("parameters: ").map(str::to_owned),
        };
        let message = field("message");
        match field("error_severity") {
            "LOG" => {
                let text = match message.strip_prefix("statement: ") {
                    Some(text) => Some(text),
                    None => message
                        .strip_prefix("execute ")
                        .filter(|rest| !rest.starts_with("fetch from "))
                        .and_then(|rest| Some(rest.split_once(": ")?.1)),
                };
                if let Some(text) = text {
                    statements.push(statement(text, None));
                    running.insert(pid, true);
                    *application = field("application_name").to_owned();
                } else if let Some(duration) = message.strip_prefix("duration: ")
                    && running.remove(&pid).is_some()
                    && let Some(statement) = statements.last_mut()
                {
                    let ms: f64 = duration.trim_end_matches(" ms").parse().unwrap_or_default();
                    statement.duration = Some(Duration::from_secs_f64(ms / 1_000.0));
                }
            }
            "ERROR" | "FATAL" if entry["statement"].is_string() => {
                let code = field("state_code");
                let ran = running.remove(&pid).is_some();
                match statements.last_mut() {
                    Some(last) if ran && last.said.text == field("statement") => {
                        last.said.error = Some(code.to_owned());
                    }
                    _ => statements.push(statement(field("statement"), Some(code))),
                }
                *application = field("application_name").to_owned();
            }
            _ => {}
        }
    }
    let mut conversations = Conversations::new();
    for (application, statements) in connections.into_values() {
        if !statements.is_empty() {
            conversations.entry(application).or_default().push(statements);
        }
    }
    conversations
}

/// The same of what dbwarden reported, without what the log never has.
fn reported(records: &[Value]) -> Conversations {
    let mut connections: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    for record in records.iter().filter(|record| !is_unlogged(record)) {
        let field = |name: &str| record[name].as_str().unwrap_or("(null)").to_owned();
        connections.entry((field("application"), field("connection"))).or_default().push(record);
    }
    let mut conversations = Conversations::new();
    for ((application, _), mut records) in connections {
        records.sort_by_key(|record| record["sequence"].as_u64());
        let statements = records.into_iter().map(statement).collect();
        conversations.entry(application).or_default().push(statements);
    }
    conversations
}

fn statement(record: &Value) -> Statement {
    let field = |name: &str| record[name].as_str().unwrap_or("(null)").to_owned();
    let parameters = record["parameters"].as_array().map(|parameters| {
        let one = |(n, value): (usize, &Value)| match value.as_str() {
            Some(text) => format!("${} = '{}'", n + 1, text.replace('\'', "''")),
            None => format!("${} = NULL", n + 1),
        };
        parameters.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
    });
    Statement {
        said: Said {
            text: field("text"),
            user: field("db_user"),
            database: field("database"),
            error: record["error_code"].as_str().map(str::to_owned),
        },
        duration: record["duration_us"].as_u64().map(Duration::from_micros),
        parameters,
    }
}

fn text(record: &Value) -> &str {
    record["text"].as_str().unwrap_or_default()
}

fn is_unlogged(record: &Value) -> bool {
    text(record).contains("unlogged")
}

/// Both sides, connection by connection and statement by statement, in the order of each.
fn compare(log: &Conversations, seen: &Conversations) -> Result<usize> {
    let names = |conversations: &Conversations| -> Vec<(String, usize)> {
        conversations.iter().map(|(name, all)| (name.clone(), all.len())).collect()
    };
    ensure!(
        names(log) == names(seen),
        "connections with statements differ: log {:?}, dbwarden {:?}",
        names(log),
        names(seen)
    );
    let mut n = 0;
    for (application, logged) in log {
        let Some(seen) = seen.get(application) else { continue };
        let sorted = |all: &[Vec<Statement>]| {
            let mut all = all.to_vec();
            all.sort_by(|a, b| a.iter().map(|s| &s.said).cmp(b.iter().map(|s| &s.said)));
            all
        };
        for (logged, seen) in sorted(logged).iter().zip(&sorted(seen)) {
            for (at, (logged, seen)) in logged.iter().zip(seen).enumerate() {
                agree(logged, seen)
                    .with_context(|| format!("statement {} of {application}", at + 1))?;
            }
            let n_logged = logged.len();
            ensure!(
                n_logged == seen.len(),
                "{application}: {n_logged} statements logged, {} reported; the next: {:?}",
                seen.len(),
                logged.get(seen.len()).or(seen.get(n_logged)).map(|s| brief(&s.said.text))
            );
            n += n_logged;
        }
    }
    Ok(n)
}

fn agree(logged: &Statement, seen: &Statement) -> Result<()> {
    if logged.said != seen.said {
        let brief = |said: &Said| Said { text: brief(&said.text), ..said.clone() };
        bail!("log {:?}, dbwarden {:?}", brief(&logged.said), brief(&seen.said));
    }
    let what = brief(&logged.said.text);
    if logged.parameters.is_some() {
        ensure!(
            logged.parameters == seen.parameters,
            "{what}: parameters: log {:?}, dbwarden {:?}",
            logged.parameters,
            seen.parameters
        );
    }
    let took = seen.duration.with_context(|| format!("{what} has no duration"))?;
    if let Some(ran) = logged.duration {
        // The clocks are two, the log rounds to microseconds.
        ensure!(
            took + Duration::from_millis(1) >= ran && took <= ran + DURATION_SLACK,
            "{what}: the log says {ran:?}, dbwarden {took:?}"
        );
    }
    Ok(())
}

fn brief(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Where a text tells its rows (`/* rows 5 */`, of several statements together, or `/* rows $1 */`),
/// the record must have them.
fn check_rows(record: &Value) -> Result<bool> {
    let marks = text(record).split("/* rows ").skip(1);
    let marks: Vec<&str> = marks.filter_map(|rest| Some(rest.split_once(" */")?.0)).collect();
    if marks.is_empty() || !record["error_code"].is_null() || is_unlogged(record) {
        return Ok(false);
    }
    let parameter = || record["parameters"][0].as_str().unwrap_or_default();
    let number = |mark: &&str| if *mark == "$1" { parameter() } else { mark }.parse::<u64>();
    let expected: u64 = marks.iter().map(number).sum::<Result<u64, _>>()?;
    ensure!(
        record["rows"].as_u64() == Some(expected),
        "{}: rows {}, expected {expected}",
        brief(text(record)),
        record["rows"]
    );
    Ok(true)
}

fn check_plain_facts(record: &Value, postgres: &Postgres) -> Result<()> {
    let what = brief(text(record));
    ensure!(record["text_known"] == true, "text not known: {record}");
    for name in ["lost_bytes", "truncated_bytes"] {
        ensure!(record[name] == 0, "{what}: {name} {}", record[name]);
    }
    ensure!(record["joined_midstream"] == false, "{what}: joined");
    let transport = record["transport"].as_str().unwrap_or_default();
    let application = record["application"].as_str().unwrap_or_default();
    let expected =
        ["unix", "tcp6", "tcp", "tls"].into_iter().find(|way| application.ends_with(way));
    if let Some(expected) = expected {
        ensure!(transport == expected.trim_end_matches('6'), "{application} came by {transport}");
    }
    if transport != "unix" {
        ensure!(record["server_port"] == postgres.port(), "{what}: port {}", record["server_port"]);
    }
    let (first, whole) = (record["first_byte_us"].as_u64(), record["duration_us"].as_u64());
    ensure!(first <= whole, "{what}: first byte after {first:?} µs of {whole:?}");
    ensure!(record["bytes_in"].as_u64() > Some(0), "{what}: no bytes in");
    Ok(())
}

/// One of everything that psql can send. 1 MiB is as much of a text as dbwarden keeps.
fn psql_script(folder: &Path) -> Result<String> {
    let long = format!("SELECT length('{}') /* rows 1 */;", "x".repeat((1 << 20) - 31));
    assert_eq!(long.len(), 1 << 20);
    let script = format!(
        r"SELECT 1 /* rows 1 */;
SELECT g /* rows 1000 */ FROM generate_series(1, 1000) g;
SELECT repeat('wide', 10000) /* rows 20 */ FROM generate_series(1, 20);
SELECT 1/0;
SELEC 1;
SELECT 'ünïcödé ☃ 🐘', E'\'quoted\'', $tag$ ; dollar $tag$ /* rows 1 */;
SELECT
    -- over several lines
    1 /* rows 1 */
  , 2;
;
-- only a comment
/* in a block */;
CREATE TEMP TABLE t (i int PRIMARY KEY, s text);
INSERT INTO t /* rows 3 */ VALUES (1, 'a'), (2, 'b'), (3, NULL);
INSERT INTO t VALUES (1, 'again');
UPDATE t /* rows 2 */ SET s = 'c' WHERE i > 1;
UPDATE t /* rows 0 */ SET s = 'c' WHERE i > 100;
DELETE FROM t /* rows 1 */ WHERE i = 3 RETURNING *;
COPY t FROM STDIN /* rows 2 */;
10	ten
11	eleven
\.
COPY t FROM STDIN;
not a number	x
\.
COPY t TO STDOUT /* rows 4 */;
BEGIN;
DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 100) g;
FETCH 7 FROM c /* rows 7 */;
MOVE 10 IN c /* rows 10 */;
FETCH ALL FROM c /* rows 83 */;
CLOSE c;
SELECT 1/0;
SELECT 'in a failed transaction';
ROLLBACK;
DO $$ BEGIN PERFORM 1; RAISE NOTICE 'hello'; END $$;
DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'DB001'; END $$;
SELECT 1 /* rows 1 */\; SELECT g /* rows 2 */ FROM generate_series(1, 2) g\; SELECT 3 /* rows 1 */;
SELECT 1\; SELECT 1/0\; SELECT 2;
PREPARE p (int) AS SELECT g FROM generate_series(1, $1) g;
EXECUTE p (4) /* rows 4 */;
DEALLOCATE p;
SET work_mem = '4MB';
SHOW work_mem;
EXPLAIN SELECT 1;
LISTEN news;
NOTIFY news, 'something';
CREATE TABLE again AS SELECT g /* rows 5 */ FROM generate_series(1, 5) g;
DROP TABLE again;
SELECT pg_sleep(0.1) /* rows 1 */;
{long}
SELECT 'the end' /* rows 1 */;
"
    );
    let path = folder.join("script.sql");
    std::fs::write(&path, script)?;
    Ok(path.display().to_string())
}

const WAYS: [(Via, &str); 4] =
    [(Via::Unix, "unix"), (Via::Tcp, "tcp"), (Via::Tcp6, "tcp6"), (Via::Tls, "tls")];

fn psql(postgres: &Postgres, folder: &Path) -> Result<()> {
    let script = psql_script(folder)?;
    for (via, way) in WAYS {
        let mut command = postgres.psql_command(via);
        command.args(["-v", "ON_ERROR_STOP=0", "-f", &script]);
        said(command.env("PGAPPNAME", format!("psql-{way}")).env("PGCLIENTENCODING", "UTF8"))?;
        let mut command = postgres.psql_command(via);
        command.args([
            "-c",
            "SELECT 1 /* rows 1 */; SELECT g /* rows 9 */ FROM generate_series(1, 9) g",
        ]);
        said(command.env("PGAPPNAME", format!("psql-c-{way}")))?;
    }
    Ok(())
}

const PSYCOPG: &str = r#"
import psycopg, sys, uuid
def fails(what):
    try:
        what()
    except psycopg.Error:
        return
    raise Exception("should have failed")
rows = "SELECT g /* rows $1 */ FROM generate_series(1, %s::int) g"
with psycopg.connect(sys.argv[1], autocommit=True) as db:
    db.execute("CREATE TEMP TABLE t (id int PRIMARY KEY, name text)")
    for n in range(8):
        db.execute(rows, [n], prepare=True).fetchall()
    for n in range(8):
        db.execute(rows, [n], prepare=True, binary=True).fetchall()
    db.execute("SELECT %b::int, %b::text, %b::bool, %b::float8, %b::int8 /* rows 1 */",
               [-1, "ü", True, 2.5, 2**40])
    db.execute("SELECT %t::int, %t::text, %t::bool, %t::text /* rows 1 */", [None, "it's", False, ""])
    db.execute("SELECT %s::text /* rows 1 */", ["long " * 5000])
    db.cursor().executemany("INSERT INTO t /* rows 1 */ VALUES (%s, %s)", [(n, f"n{n}") for n in range(200)])
    with db.pipeline():
        for n in range(150):
            db.execute(rows, [n])
    def pipeline_with_error():
        with db.pipeline():
            db.execute("SELECT 1 /* rows 1 */")
            db.execute("SELECT 1 / %s::int", [0])
            db.execute("SELECT 'unlogged: behind the error'")
            db.execute("SELECT 'unlogged: behind the error, too' WHERE %s::int = 1", [1])
    fails(pipeline_with_error)
    with db.cursor().copy("COPY t FROM STDIN /* rows 5000 */") as copy:
        for n in range(1000, 6000):
            copy.write_row([n, "copied"])
    with db.cursor().copy("COPY t (id, name) TO STDOUT (FORMAT binary) /* rows 5200 */") as copy:
        for data in copy:
            pass
    fails(lambda: db.execute("INSERT INTO t VALUES (%s, %s)", [1, "twice"]))
    fails(lambda: db.execute("SELECT %s::int + 1", ["not a number"]))
    fails(lambda: db.execute("SELECT * FROM nowhere WHERE id = %s", [1]))
    fails(lambda: db.execute("SELECT FROM WHERE %s", [1]))
    psycopg.ClientCursor(db).execute("SELECT %s, %s /* rows 1 */", ["a;b", 3])
    db.execute("SELECT 1 /* rows 1 */; SELECT 2 /* rows 1 */")
with psycopg.connect(sys.argv[1]) as db:
    with db.cursor(name="portal") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT g FROM generate_series(1, 1000) g")
        assert len(list(cursor)) == 1000
    with db.transaction():
        db.execute("SELECT 1 /* rows 1 */")
    db.rollback()
"#;

fn psycopg(postgres: &Postgres) -> Result<()> {
    for (via, way) in WAYS {
        let conninfo = postgres
            .conninfo(via)
            .replace("user=postgres dbname=postgres", "user=ada dbname=books");
        said(
            python()?
                .args(["-c", PSYCOPG])
                .arg(conninfo)
                .env("PGAPPNAME", format!("psycopg-{way}")),
        )?;
    }
    Ok(())
}

async fn tokio_client(conninfo: &str, application: &str) -> Result<tokio_postgres::Client> {
    let mut config: tokio_postgres::Config = conninfo.parse()?;
    config.application_name(application);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("a connection of tokio-postgres ended: {error}");
        }
    });
    Ok(client)
}

async fn tokio_postgres(conninfo: &str, way: &str) -> Result<()> {
    let mut client = tokio_client(conninfo, &format!("tokio-{way}")).await?;
    let rows = "SELECT g /* rows $1 */ FROM generate_series(1, $1::int) g";
    let prepared = client.prepare(rows).await?;
    for _ in 0..3 {
        // A hundred in flight at once.
        let flight = (0_i32..100).map(async |n| {
            let got = client.query(&prepared, &[&n]).await?.len();
            ensure!(got == n as usize, "{got} rows instead of {n}");
            Ok(())
        });
        join_all(flight).await.into_iter().collect::<Result<Vec<()>>>()?;
    }
    // Some of them fail; each has a Sync of its own.
    let divide = client.prepare("SELECT 12 / $1::int").await?;
    let flight = (0_i32..40).map(async |n| client.query(&divide, &[&(n % 4)]).await.is_err());
    let failed = join_all(flight).await.into_iter().filter(|failed| *failed).count();
    ensure!(failed == 10, "{failed} of 40 failed");

    let transaction = client.transaction().await?;
    let portal =
        transaction.bind("SELECT g /* rows 25 */ FROM generate_series(1, 25) g", &[]).await?;
    for expected in [10, 10, 5] {
        ensure!(transaction.query_portal(&portal, 10).await?.len() == expected);
    }
    // Left before its last row.
    let left =
        transaction.bind("SELECT g /* rows 10 */ FROM generate_series(1, 1000) g", &[]).await?;
    ensure!(transaction.query_portal(&left, 10).await?.len() == 10);
    drop((portal, left));
    transaction.commit().await?;

    client
        .batch_execute(
            "CREATE TEMP TABLE t (line text); SELECT 1 /* rows 1 */; SELECT 2 /* rows 1 */",
        )
        .await?;
    client.simple_query("").await?;
    client.query("/* unlogged: empty */", &[]).await?;
    let mut sink = std::pin::pin!(client.copy_in("COPY t FROM STDIN /* rows 3000 */").await?);
    for _ in 0..3000 {
        sink.send(Bytes::from_static(b"a line of it\n")).await?;
    }
    ensure!(sink.as_mut().finish().await? == 3000);
    let out = client.copy_out("COPY t TO STDOUT /* rows 3000 */").await?;
    ensure!(out.collect::<Vec<_>>().await.len() == 3000);
    ensure!(client.query("SELECT nothing FROM nowhere", &[]).await.is_err());
    ensure!(client.simple_query("SELECT nothing").await.is_err());

    let other = tokio_client(conninfo, &format!("tokio-other-{way}")).await?;
    let sleep = client.query("SELECT pg_sleep(60)", &[]);
    let cancel = async {
        let runs = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' \
                    AND state = 'active' AND wait_event = 'PgSleep'";
        while other.query(runs, &[]).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.cancel_token().cancel_query(NoTls).await
    };
    let (slept, cancelled) = futures_util::future::join(sleep, cancel).await;
    cancelled?;
    let code = slept.err().and_then(|error| error.code().cloned());
    ensure!(code == Some(tokio_postgres::error::SqlState::QUERY_CANCELED), "{code:?}");
    client.query("SELECT 'after it' /* rows 1 */", &[]).await?;
    Ok(())
}

/// All that the watcher has of this server. Its clients have left: what only the end of a connection
/// ends is told, at the latest, between the first last statement and the second.
fn collect(watch: &Watch, postgres: &Postgres) -> Result<Vec<Value>> {
    let ours = |record: &Value| postgres.owns(record);
    let mut records = Vec::new();
    for last in ["SELECT 'the last'", "SELECT 'the very last'"] {
        postgres.psql(Via::Unix, last)?;
        let more = watch.until(ours, |record| ours(record) && text(record) == last)?;
        records.extend(more.into_iter().filter(|record| text(record) != last));
    }
    Ok(records)
}

const UNLOGGED: [(&str, usize); 2] = [("unlogged: behind", 2 * WAYS.len()), ("unlogged: empty", 2)];

#[test]
fn what_postgres_logs_is_what_dbwarden_reports() -> Result<()> {
    need_root!();
    let mut postgres = Postgres::builder()
        .tls()
        .log_statements()
        .setting("log_duration", "on")
        .preload("pg_stat_statements")
        .start()?;
    postgres.psql(Via::Unix, "CREATE ROLE ada LOGIN")?;
    postgres.psql(Via::Unix, "CREATE DATABASE books OWNER ada")?;
    postgres.psql(Via::Unix, "CREATE EXTENSION pg_stat_statements")?;
    postgres.pgbench(Via::Unix, &["-i", "-q"])?;
    let before = postgres.log()?.len();
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    let folder = tempfile::tempdir()?;

    psql(&postgres, folder.path())?;
    psycopg(&postgres)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (via, way) in [(Via::Unix, "unix"), (Via::Tcp, "tcp")] {
        runtime.block_on(tokio_postgres(&postgres.conninfo(via), way))?;
    }
    // At a rate at which every line of the watcher's can be compared; the full rate has its own test.
    for (mode, (via, way)) in ["simple", "extended", "prepared"].into_iter().zip(&WAYS[1..]) {
        let mut pgbench =
            postgres.pgbench_command(*via, &["-n", "-M", mode, "-c", "4", "-R", "100", "-T", "3"]);
        said(pgbench.env("PGAPPNAME", format!("pgbench-{mode}-{way}")))?;
    }

    let log = logged(&postgres.log()?.split_off(before));
    let n_logged: usize = log.values().flatten().map(Vec::len).sum();
    let records = collect(&watch, &postgres)?;
    let n = compare(&log, &reported(&records))?;
    assert_eq!(n, n_logged);
    let status = agent.status()?;
    assert_eq!(status["totals"]["drops"], serde_json::json!({}));
    assert_eq!(status["agent"]["watch_missed"], 0);

    let mut n_rows_checked = 0;
    for record in &records {
        check_plain_facts(record, &postgres)?;
        n_rows_checked += usize::from(check_rows(record)?);
    }
    for (what, n) in UNLOGGED {
        let found: Vec<&Value> = records.iter().filter(|r| text(r).contains(what)).collect();
        assert_eq!(found.len(), n, "{what}");
        let not_run = |record: &&Value| record["error_message"].is_string();
        assert_eq!(found.iter().all(not_run), what.contains("behind"), "{what}");
    }
    println!("{n} statements as logged, {n_rows_checked} with the rows that their texts tell");
    Ok(())
}

/// Statements that PostgreSQL itself counted, and their rows.
fn counted(postgres: &Postgres) -> Result<(u64, u64)> {
    let sums = "SELECT sum(calls), sum(rows) FROM pg_stat_statements \
                WHERE query NOT LIKE '%pg_stat_statements%'";
    let line = postgres.psql(Via::Unix, sums)?;
    let (calls, rows) = line.split_once('|').context("two columns")?;
    Ok((calls.parse()?, rows.parse()?))
}

/// Statements that dbwarden counted on this server.
fn statements(agent: &Agent, postgres: &Postgres) -> Result<u64> {
    let status = agent.status()?;
    let ending = format!(":{}", postgres.port());
    let servers = status["servers"].as_array().context("no servers")?;
    let ours = servers.iter().find(|server| {
        let listens = server["listens"].as_array().into_iter().flatten();
        listens.filter_map(Value::as_str).any(|at| at.ends_with(&ending))
    });
    ours.and_then(|server| server["statements"].as_u64()).context("the server is not found")
}

/// A watcher can't follow this rate and needn't: the counts of both sides must be equal.
#[test]
fn pgbench_at_full_rate_is_counted_to_the_last_statement() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().preload("pg_stat_statements").max_connections(40).start()?;
    postgres.psql(Via::Unix, "CREATE EXTENSION pg_stat_statements")?;
    postgres.pgbench(Via::Unix, &["-i", "-q"])?;
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    for mode in ["simple", "extended", "prepared"] {
        for clients in ["1", "4", "16"] {
            let before = statements(&agent, &postgres)?;
            let reset = "SELECT 1 FROM pg_stat_statements_reset()";
            postgres.psql(Via::Unix, reset)?;
            await_until("the reset", || {
                Ok((statements(&agent, &postgres)? > before).then_some(()))
            })?;
            postgres.pgbench(Via::Tcp, &["-n", "-S", "-M", mode, "-c", clients, "-T", "4"])?;
            let (calls, _) = counted(&postgres)?;
            // The reset, the clients' statements, and the question just now.
            let expected = before + 1 + calls + 1;
            await_until(&format!("statement {expected}"), || {
                Ok((statements(&agent, &postgres)? >= expected).then_some(()))
            })?;
            let status = agent.status()?;
            println!("{mode}, {clients} clients: {calls} statements");
            assert_eq!(status["totals"]["drops"], serde_json::json!({}), "{mode}, {clients}");
            assert_eq!(statements(&agent, &postgres)?, expected, "{mode}, {clients}");
        }
    }
    Ok(())
}

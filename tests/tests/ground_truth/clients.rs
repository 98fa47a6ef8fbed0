//! Clients that between them send one of everything: psql, psycopg, tokio-postgres.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use dbwarden_tests::{Postgres, Via, python, said};
use futures_util::{SinkExt, StreamExt, future::join_all};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::{NoTls, config::Host};

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

pub const WAYS: [(Via, &str); 4] =
    [(Via::Unix, "unix"), (Via::Tcp, "tcp"), (Via::Tcp6, "tcp6"), (Via::Tls, "tls")];

pub fn psql(postgres: &Postgres, folder: &Path) -> Result<()> {
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
import os, psycopg, sys, uuid
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
            # Fails when it runs, not when it is planned, and runs once all of them are sent: psycopg sends no
            # more when it has heard of an error.
            db.execute("SELECT 1 / (%s::int + (pg_advisory_xact_lock(7) IS NULL)::int)", [0])
            db.execute("SELECT 'unlogged: behind the error'")
            db.execute("SELECT 'unlogged: behind the error, too' WHERE %s::int = 1", [1])
            holder.execute("SELECT pg_advisory_unlock(7)")
    name = "holder-" + os.environ["PGAPPNAME"]
    with psycopg.connect(sys.argv[1], autocommit=True, application_name=name) as holder:
        holder.execute("SELECT pg_advisory_lock(7)")
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

pub fn psycopg(postgres: &Postgres) -> Result<()> {
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

/// Cancels, and waits until the server has said all that it has to say about it: it signals a backend
/// and then its process group, and the second signal may find the statement after.
async fn cancel(conninfo: &str, token: &tokio_postgres::CancelToken) -> Result<()> {
    let config: tokio_postgres::Config = conninfo.parse()?;
    let port = config.get_ports().first().context("no port")?;
    match config.get_hosts().first() {
        Some(Host::Tcp(host)) => {
            cancel_over(TcpStream::connect((host.as_str(), *port)).await?, token).await
        }
        Some(Host::Unix(folder)) => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            cancel_over(UnixStream::connect(path).await?, token).await
        }
        None => bail!("no host in {conninfo}"),
    }
}

async fn cancel_over<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    token: &tokio_postgres::CancelToken,
) -> Result<()> {
    token.cancel_query_raw(&mut stream, NoTls).await?;
    let n = stream.read_to_end(&mut Vec::new()).await?;
    ensure!(n == 0, "{n} bytes in answer to a cancel request");
    Ok(())
}

pub async fn tokio_postgres(conninfo: &str, way: &str) -> Result<()> {
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
    let cancelling = async {
        let runs = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' \
                    AND state = 'active' AND wait_event = 'PgSleep'";
        while other.query(runs, &[]).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel(conninfo, &client.cancel_token()).await
    };
    let (slept, cancelled) = futures_util::future::join(sleep, cancelling).await;
    cancelled?;
    let code = slept.err().and_then(|error| error.code().cloned());
    ensure!(code == Some(tokio_postgres::error::SqlState::QUERY_CANCELED), "{code:?}");
    client.query("SELECT 'after it' /* rows 1 */", &[]).await?;
    Ok(())
}

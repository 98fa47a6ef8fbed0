//! What the guard asks the server itself: it counts before rows are gone, and nobody waits for it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, PostgresBuilder, Via, need_root};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio_postgres::{
    NoTls,
    types::{Kind, Type},
};

/// The guard waits no longer for an answer (`guard::catalog::PATIENCE`), and only once for one that is overdue.
const PATIENCE: Duration = Duration::from_millis(100);

/// Makes each insertion into a table empty another one.
fn trap(table: &str) -> String {
    format!(
        "CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM big; RETURN NEW; END';
         CREATE TRIGGER t BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION gone()"
    )
}

struct Asked {
    postgres: Postgres,
    agent: Agent,
}

impl Asked {
    fn start(server: PostgresBuilder, of_guard: &str, password: Option<&Path>) -> Result<Self> {
        let postgres = server.guarded().start()?;
        postgres.psql(
            Via::Tcp,
            "CREATE TABLE big WITH (fillfactor = 40) AS SELECT n AS id, n % 7 AS kind FROM generate_series(1, 30000) n;
             ALTER TABLE big ADD PRIMARY KEY (id);
             CREATE TABLE little AS SELECT n AS id FROM generate_series(1, 5) n;
             ANALYZE",
        )?;
        let asks = postgres.catalog_role(password)?;
        let configuration = postgres.guarded(&format!("environment = \"production\"\n{asks}"));
        let configuration = format!("{configuration}steer = false\n{of_guard}");
        let agent = Agent::builder().configuration(&configuration).start()?;
        agent.await_server(postgres.port())?;
        agent.await_guard()?;
        Ok(Self { postgres, agent })
    }

    /// The error, where there is one.
    fn says(&self, texts: &[&str]) -> Result<Option<String>> {
        let mut command = self.postgres.psql_command(Via::Guard);
        command.args(["-v", "VERBOSITY=verbose"]);
        for text in texts {
            command.args(["-c", text]);
        }
        let output = command.output()?;
        let words = String::from_utf8(output.stderr)?;
        Ok((!output.status.success()).then_some(words))
    }

    fn own_backends(&self) -> Result<Vec<i32>> {
        let pids = self.postgres.psql(
            Via::Tcp,
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'dbwarden catalog'",
        )?;
        pids.lines().map(|pid| Ok(pid.parse()?)).collect()
    }

    fn catalog(&self) -> Result<serde_json::Value> {
        Ok(self.agent.status()?["guard"]["servers"][0]["catalog"].clone())
    }
}

#[test]
fn the_planner_is_asked_before_rows_are_gone() -> Result<()> {
    need_root!();
    let asked = Asked::start(Postgres::builder(), "bulk_rows = 5000\nbulk_percent = 80", None)?;
    asked.agent.await_catalog()?;
    for (text, estimated) in [
        ("DELETE FROM big WHERE id > 20", Some("of the table")),
        ("DELETE FROM big WHERE id > 24000", Some("estimated rows: 6")),
        ("UPDATE public.big SET kind = 1 WHERE kind < 3", Some("estimated rows: 1")),
        ("DELETE FROM big WHERE id > 29000", None),
        ("UPDATE big SET kind = 3 WHERE id = 17", None),
        ("DELETE FROM little WHERE id > 0", None),
        // Of what the planner can't estimate, a part of the rows shows it: nine tenths of the blocks are not read.
        ("DELETE FROM big WHERE id % 1 = 0", Some("(100 % of the table)")),
        (
            "UPDATE big AS b SET kind = 0 WHERE b.kind * 2 = b.kind + kind",
            Some("(100 % of the table)"),
        ),
        ("UPDATE big SET kind = 3 WHERE abs(kind - 3) = 1", Some("estimated rows: ")),
        ("DELETE FROM big WHERE id || '-' || kind = '17-3'", None),
        // What takes too long is left to the planner.
        ("DELETE FROM big WHERE id = 17 AND pg_sleep(10) IS NULL", None),
    ] {
        let told = asked.says(&["BEGIN", text, "ROLLBACK"])?;
        match (estimated, told) {
            (None, None) => {}
            (Some(estimated), Some(told)) => {
                ensure!(told.contains("rule guard:bulk-write"), "{text}: {told}");
                ensure!(told.contains(estimated), "{text}: {told}");
            }
            (_, told) => anyhow::bail!("{text}: {told:?}"),
        }
    }
    ensure!(asked.postgres.psql(Via::Tcp, "SELECT count(*) FROM big")? == "30000");

    // What it asks is in the ledger as its own, and has not come past the guard.
    for word in ["EXPLAIN (FORMAT", "TABLESAMPLE", "FROM pg_proc p"] {
        let own = format!(
            "SELECT principal FROM statements WHERE application = 'dbwarden catalog' AND text LIKE \
             '%{word}%' LIMIT 1"
        );
        asked.agent.await_rows(1, &own)?;
    }
    let findings = asked.agent.command(&["findings", "--format", "json"]).output()?;
    let findings = String::from_utf8(findings.stdout)?;
    let past = findings
        .lines()
        .filter(|line| line.contains("past-the-guard") && line.contains("dbwarden catalog"));
    ensure!(past.count() == 0, "{findings}");
    Ok(())
}

#[test]
fn a_server_that_does_not_answer_keeps_nobody_waiting() -> Result<()> {
    need_root!();
    let asked = Asked::start(Postgres::builder(), "", None)?;
    asked.agent.await_catalog()?;
    let updates: Vec<String> = (0..20)
        .map(|n| format!("UPDATE big SET kind = 1 WHERE id BETWEEN {n} AND {n} + 1"))
        .collect();
    let updates: Vec<&str> = updates.iter().map(String::as_str).collect();
    let timed = || -> Result<Duration> {
        let begun = Instant::now();
        let told = asked.says(&updates)?;
        ensure!(told.is_none(), "{told:?}");
        Ok(begun.elapsed())
    };
    timed()?;
    let usual = timed()?;
    let backends = asked.own_backends()?;
    ensure!(!backends.is_empty(), "it doesn't ask");
    for pid in &backends {
        kill(Pid::from_raw(*pid), Signal::SIGSTOP)?;
    }
    let (hung, still) = (timed(), timed());
    for pid in &backends {
        kill(Pid::from_raw(*pid), Signal::SIGCONT)?;
    }
    let (hung, still) = (hung?, still?);
    // One wait for each of the guard's threads at most, and the noise of a busy machine.
    let most = usual * 2 + PATIENCE * 8;
    ensure!(hung < most && still < most, "usually {usual:?}, hung {hung:?}, then {still:?}");
    println!("20 updates: usually {usual:?}, hung {hung:?}, then {still:?}");
    Ok(())
}

#[test]
fn a_wrong_password_is_told_and_leaves_the_guard_working() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    let write = |password: &str| -> Result<()> {
        fs::write(&file, format!("{password}\n"))?;
        Ok(fs::set_permissions(&file, Permissions::from_mode(0o600))?)
    };
    write("not-the-secret-word")?;
    let server = Postgres::builder().hosts(
        "local all all trust\nhost all dbwarden all scram-sha-256\nhost all all all trust\n",
    );
    let asked = Asked::start(server, "", Some(&file))?;
    let begun = Instant::now();
    let why = loop {
        if let Some(why) = asked.catalog()?["Err"].as_str()
            && why.contains("password authentication failed")
        {
            break why.to_owned();
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "{}", asked.catalog()?);
        std::thread::yield_now();
    };
    ensure!(why.contains("28P01"), "{why}");
    // By their text alone.
    ensure!(asked.says(&["SELECT 1", "UPDATE big SET kind = 1 WHERE id = 1"])?.is_none());
    let told = asked.says(&["DELETE FROM big"])?.context("it went through")?;
    ensure!(told.contains("rule guard:unrestricted-write"), "{told}");
    ensure!(asked.says(&["BEGIN", "DELETE FROM big WHERE id > 0", "ROLLBACK"])?.is_none());
    for arguments in [&["doctor"][..], &["status"]] {
        let shown = said(asked.agent.command(arguments))?;
        ensure!(shown.contains("password") && shown.contains("catalog"), "{shown}");
        ensure!(!shown.contains("not-the-secret-word"), "{shown}");
    }
    write("asks")?;
    asked.agent.await_catalog()?;
    let told = asked.says(&["DELETE FROM big WHERE id > 0"])?.context("it went through")?;
    ensure!(told.contains("rule guard:bulk-write"), "{told}");
    ensure!(!asked.agent.log().contains("not-the-secret-word"), "the log has the password");
    Ok(())
}

#[test]
fn a_database_can_be_dropped_and_code_that_comes_later_is_seen() -> Result<()> {
    need_root!();
    let asked = Asked::start(Postgres::builder(), "", None)?;
    asked.agent.await_catalog()?;
    ensure!(asked.says(&["INSERT INTO little VALUES (6)"])?.is_none());
    // Past the guard.
    asked.postgres.psql(Via::Tcp, &trap("little"))?;
    let begun = Instant::now();
    let told = loop {
        match asked.says(&["BEGIN", "INSERT INTO little VALUES (7)", "ROLLBACK"])? {
            Some(told) => break told,
            None => ensure!(begun.elapsed() < Duration::from_secs(60), "it is never seen"),
        }
    };
    ensure!(told.contains("a trigger of little, public.gone"), "{told}");

    asked.postgres.psql(Via::Tcp, "CREATE DATABASE other")?;
    let via = asked.postgres.conninfo_as(Via::Guard, "postgres", "other");
    let mut psql = asked.postgres.program("psql");
    psql.args(["-X", "-d", &via, "-c", "SELECT count(*) FROM pg_class"]);
    said(psql)?;
    asked.postgres.psql(Via::Tcp, "DROP DATABASE other")?;
    Ok(())
}

/// A look that is fresh doesn't show it: there is another one before the first statement that names it is judged.
#[test]
fn what_was_made_past_the_guard_a_moment_ago_is_seen_by_its_name() -> Result<()> {
    need_root!();
    let asked = Asked::start(Postgres::builder(), "", None)?;
    asked.agent.await_catalog()?;
    ensure!(asked.says(&["INSERT INTO little VALUES (6)"])?.is_none());
    let made = format!("CREATE TABLE fresh (id int); {}", trap("fresh"));
    asked.postgres.psql(Via::Tcp, &made)?;
    let told = asked.says(&["INSERT INTO fresh VALUES (7)"])?.context("it went through")?;
    ensure!(told.contains("a trigger of fresh, public.gone"), "{told}");
    ensure!(asked.postgres.psql(Via::Tcp, "SELECT count(*) FROM big")? == "30000");
    Ok(())
}

/// A session says the same again and again, and nobody judges that anew until something changes.
#[test]
fn what_has_passed_is_judged_anew_when_code_comes_to_it() -> Result<()> {
    need_root!();
    let asked = Asked::start(Postgres::builder(), "", None)?;
    asked.agent.await_catalog()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let via = asked.postgres.conninfo(Via::Guard);
        let (client, connection) = tokio_postgres::connect(&via, NoTls).await?;
        let driver = tokio::spawn(connection);
        let text = "INSERT INTO little VALUES (7)";
        let statement = client.prepare("INSERT INTO little VALUES ($1)").await?;
        for _ in 0..100 {
            client.batch_execute(text).await?;
            client.batch_execute(text).await?;
            client.execute(&statement, &[&8]).await?;
            client.execute(&statement, &[&8]).await?;
        }
        // Past the guard.
        asked.postgres.psql(Via::Tcp, &trap("little"))?;
        let begun = Instant::now();
        let denied = loop {
            match client.execute(&statement, &[&9]).await {
                Err(denied) => break denied,
                Ok(_) => ensure!(begun.elapsed() < Duration::from_secs(60), "it is never seen"),
            }
        };
        let said_so = client.batch_execute(text).await.err().context("it went through")?;
        for error in [denied, said_so] {
            let detail = error.as_db_error().and_then(|error| error.detail()).unwrap_or_default();
            ensure!(detail.contains("a trigger of little, public.gone"), "{error:?}");
        }
        drop(client);
        Ok(driver.await??)
    })
}

/// The server makes values of a parameter's type before anything runs, by the type's own checks.
#[test]
fn the_type_of_a_parameter_is_code_too() -> Result<()> {
    need_root!();
    let asked = Asked::start(Postgres::builder(), "", None)?;
    asked.agent.await_catalog()?;
    asked.postgres.psql(Via::Tcp, "CREATE DOMAIN counted AS int CHECK (VALUE > 0)")?;
    let oid = asked.postgres.psql(Via::Tcp, "SELECT 'counted'::regtype::oid::int")?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let via = asked.postgres.conninfo(Via::Guard);
        let (client, connection) = tokio_postgres::connect(&via, NoTls).await?;
        let driver = tokio::spawn(connection);
        let counted = [Type::new("counted".to_owned(), oid, Kind::Simple, "public".to_owned())];
        client.prepare_typed("SELECT $1", &counted).await?;
        // Past the guard.
        asked.postgres.psql(
            Via::Tcp,
            "CREATE FUNCTION gone(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN DELETE FROM big; RETURN true; END';
             ALTER DOMAIN counted ADD CHECK (gone(VALUE))",
        )?;
        let begun = Instant::now();
        let denied = loop {
            match client.prepare_typed("SELECT $1", &counted).await {
                Err(denied) => break denied,
                Ok(_) => ensure!(begun.elapsed() < Duration::from_secs(60), "it is never seen"),
            }
        };
        let detail = denied.as_db_error().and_then(|error| error.detail()).unwrap_or_default();
        ensure!(detail.contains("a domain") && detail.contains("public.gone"), "{denied:?}");
        // Of PostgreSQL's own types nothing runs.
        client.prepare_typed("SELECT $1", &[Type::INT4]).await?;
        drop(client);
        Ok(driver.await??)
    })
}

fn said(mut command: Command) -> Result<String> {
    let output = command.output()?;
    let words = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&words).into_owned())
}

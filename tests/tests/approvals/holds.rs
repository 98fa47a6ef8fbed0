//! Held statements: the client is told at once, waits, and goes on or is denied; nobody else waits with it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dbwarden_tests::{Via, await_until, need_root, python, said};
use nix::sys::signal::Signal;

use super::office::{ALICE, BOB, Office, Waiting, id, words};

const DELETE: &str = "DELETE FROM customers WHERE id = 9";

#[test]
fn a_held_statement_goes_on_when_it_was_approved() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let waiting = Waiting::start(&office, ALICE, &[DELETE, "SELECT 'and on'"])?;
    let id = waiting.id.clone();
    for expected in [
        "NOTICE:  WA001: dbwarden: deletes are looked at first (waiting for approval apr-",
        "rule hold-deletes; effects: delete; tables: customers",
        &format!("Ask a member of dba to run `dbwarden approvals approve {id}`"),
    ] {
        ensure!(waiting.notice.contains(expected), "{expected}: {}", waiting.notice);
    }
    // Others of the same worker don't wait, nor does the server hold anything for it.
    let others: Result<Vec<_>> =
        (0..8).map(|_| office.postgres().psql(Via::Guard, "SELECT 1")).collect();
    ensure!(others?.iter().all(|one| one == "1"));
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'";
    ensure!(office.postgres().psql(Via::Tcp, open)? == "0");
    ensure!(office.customers()? == "100");

    let shown = office.decided(BOB, &["show", &id])?;
    ensure!(shown["verdict"] == "hold" && shown["text"] == DELETE, "{shown:#}");
    office.approved(BOB, &id)?;
    let (went_well, rest) = waiting.end()?;
    ensure!(went_well && rest.is_empty(), "{rest}");
    ensure!(office.customers()? == "99");
    let rows = office.rows(&id, &["requested", "approved", "used", "executed"])?;
    ensure!(rows[3]["rows"] == 1 && rows[3]["error_code"].is_null(), "{:#}", rows[3]);
    let query = format!("SELECT verdict, rule, rows FROM statements WHERE approval = '{id}'");
    let row = &office.agent().await_rows(1, &query)?[0];
    ensure!(row["verdict"] == "hold" && row["rows"] == 1, "{row:#}");
    // Nobody finds a difference between what the guard has sent and what the server was seen to get.
    let differs = "SELECT * FROM rows WHERE record = 'finding' AND rule LIKE 'builtin:%'";
    ensure!(office.agent().rows(differs)?.is_empty());
    Ok(())
}

/// People approve what the server gets; who looks for what the client has said finds that.
#[test]
fn a_held_statement_goes_on_with_nulls() -> Result<()> {
    need_root!();
    let office = Office::open_with(
        "[[label]]\nname = \"held\"\non = [\"*.public.customers.id\"]\n\
         [[label]]\nname = \"hidden\"\non = [\"*.public.customers.name\"]\n",
    )?;
    let said = "SELECT id, upper(name) FROM customers WHERE id = 9";
    let waiting = Waiting::start(&office, ALICE, &[said])?;
    let id = waiting.id.clone();
    let shown = office.decided(BOB, &["show", &id])?;
    let text = shown["text"].as_str().unwrap_or_default();
    ensure!(text.ends_with("upper((NULL::pg_catalog.text)) FROM customers WHERE id = 9"), "{text}");
    office.approved(BOB, &id)?;
    let (went_well, rest) = waiting.end()?;
    ensure!(went_well && rest.is_empty(), "{rest}");
    let query =
        format!("SELECT text, rows, verdict, masked FROM statements WHERE approval = '{id}'");
    let row = &office.agent().await_rows(1, &query)?[0];
    ensure!(row["text"] == "SELECT id, upper(name) FROM customers WHERE id = ?", "{row:#}");
    ensure!(row["masked"][0] == "public.customers.name:null-flow", "{row:#}");
    ensure!(row["verdict"] == "hold" && row["rows"] == 1, "{row:#}");
    Ok(())
}

#[test]
fn denied_left_cancelled_and_timed_out() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let waiting = Waiting::start(&office, ALICE, &[DELETE])?;
    let id = waiting.id.clone();
    office.decided(BOB, &["deny", &id, "--reason", "number nine stays"])?;
    let (_, told) = waiting.end()?;
    ensure!(told.contains("ERROR:  42501: dbwarden: deletes are looked at first"), "{told}");
    ensure!(
        told.contains("bob (human) has denied the request of alice (human): number nine stays")
    );
    office.rows(&id, &["requested", "denied"])?;

    // Its user presses Ctrl-C.
    let mut waiting = Waiting::start(&office, ALICE, &[DELETE])?;
    let id = waiting.id.clone();
    waiting.psql.signal(Signal::SIGINT)?;
    let (_, told) = waiting.end()?;
    ensure!(told.contains("57014: canceling statement due to user request"), "{told}");
    let rows = office.rows(&id, &["requested", "denied"])?;
    ensure!(rows[1]["message"] == "its client has cancelled it", "{:#}", rows[1]);

    let waiting = Waiting::start(&office, ALICE, &["SET statement_timeout = '700ms'", DELETE])?;
    let (id, since) = (waiting.id.clone(), Instant::now());
    let (_, told) = waiting.end()?;
    ensure!(told.contains("57014: canceling statement due to statement timeout"), "{told}");
    ensure!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    let rows = office.rows(&id, &["requested", "denied"])?;
    ensure!(rows[1]["message"] == "its client's statement_timeout was over", "{:#}", rows[1]);

    // One that dies without a word.
    let mut waiting = Waiting::start(&office, ALICE, &[DELETE])?;
    let id = waiting.id.clone();
    waiting.psql.signal(Signal::SIGKILL)?;
    let rows = office.rows(&id, &["requested", "denied"])?;
    ensure!(rows[1]["message"] == "its client has left", "{:#}", rows[1]);
    let told = office.refused(BOB, &["approve", &id])?;
    ensure!(told.contains("is denied already"), "{told}");
    ensure!(office.customers()? == "100");
    Ok(())
}

/// Where locks may be held nobody waits for people.
#[test]
fn in_a_transaction_it_becomes_a_ticket() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let told = words(&office.psql(ALICE, &["BEGIN", "SELECT 1", DELETE, "COMMIT"])?);
    ensure!(told.contains("ERROR:  WA001: dbwarden: deletes are looked at first"), "{told}");
    let id = id(&told)?;
    office.approved(BOB, &id)?;
    let told = words(&office.psql(ALICE, &["BEGIN", "SELECT 1", DELETE, "COMMIT"])?);
    ensure!(told.trim() == "1", "{told}");
    ensure!(office.customers()? == "99");
    office.rows(&id, &["requested", "approved", "used", "executed"])?;
    Ok(())
}

const PIPELINED: &str = r#"
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True) as c:
    try:
        with c.pipeline():
            c.execute("SELECT 'before'")
            c.execute("DELETE FROM customers WHERE id = %s", (11,))
            c.execute("SELECT 'after'").fetchone()
        print("not denied")
    except psycopg.Error as e:
        print(e.sqlstate)
"#;

/// What has been sent before it in the same pipeline can't be taken back, and nobody waits in the midst of it.
#[test]
fn in_the_midst_of_a_pipeline_it_is_denied() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let mut client = python()?;
    let conninfo = office.postgres().conninfo_as(Via::Guard, "app", "postgres");
    let output = client.args(["-c", PIPELINED, &conninfo]).output()?;
    ensure!(words(&output).contains("42501"), "{}", words(&output));
    ensure!(office.customers()? == "100");
    Ok(())
}

const WAITS: &str = r#"
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True) as c:
    c.add_notice_handler(lambda d: print(d.message_primary, flush=True))
    c.execute("SET search_path = public")
    for prepare in (False, True):
        print(c.execute("DELETE FROM customers WHERE id = %s", (11,), prepare=prepare).rowcount, flush=True)
    print(c.execute("SELECT count(*) FROM customers").fetchone()[0], flush=True)
"#;

/// `Parse`, `Bind` and `Execute` wait together, so that the server holds no lock for them.
#[test]
fn in_the_extended_protocol_it_waits_as_well() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let mut client = python()?;
    client.args(["-c", WAITS, &office.postgres().conninfo_as(Via::Guard, "app", "postgres")]);
    let approver = std::thread::scope(|scope| -> Result<String> {
        let run = scope.spawn(move || said(&mut client));
        let mut approved = 0;
        while approved < 2 {
            let open = await_until("a request", || {
                let output = office.approvals(BOB, &["list"])?;
                let text = String::from_utf8(output.stdout)?;
                let open = text.lines().find(|line| line.contains("\"state\":\"open\""));
                Ok(open.map(str::to_owned))
            })?;
            let shown: serde_json::Value = serde_json::from_str(&open)?;
            ensure!(
                shown["parameters"][0] == "11" || shown["parameters"][0] == "\\x000b",
                "{shown:#}"
            );
            let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'customers'::regclass";
            ensure!(office.postgres().psql(Via::Tcp, locks)? == "0");
            office.approved(BOB, &id(&open)?)?;
            approved += 1;
        }
        run.join().unwrap_or_else(|_| anyhow::bail!("it panicked"))
    })?;
    let lines: Vec<&str> = approver.lines().collect();
    ensure!(lines.len() == 5, "{approver}");
    ensure!(lines[1] == "1" && lines[3] == "0" && lines[4] == "99", "{approver}");
    ensure!(lines[0].contains("(waiting for approval apr-"), "{approver}");
    Ok(())
}

const ASYNCPG: &str = r#"
import asyncio, asyncpg, sys
async def main():
    c = await asyncpg.connect(sys.argv[1])
    c.add_log_listener(lambda c, m: print(m.message, flush=True))
    print(await c.execute("DELETE FROM customers WHERE id = $1", 12), flush=True)
    try:
        async with c.transaction():
            await c.execute("UPDATE customers SET name = $1 WHERE id = $2", "x", 13)
    except asyncpg.PostgresError as e:
        print(e.sqlstate, flush=True)
    print(await c.fetchval("SELECT count(*) FROM customers"), flush=True)
    await c.close()
asyncio.run(main())
"#;

/// It prepares first and asks for the answer without an end of the segment.
#[test]
fn asyncpg_waits_as_well() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let mut client = python()?;
    let guard = office.postgres().guard_port().unwrap_or_default();
    let url = format!("postgresql://app@127.0.0.1:{guard}/postgres?sslmode=disable");
    client.args(["-c", ASYNCPG, &url]);
    let told = std::thread::scope(|scope| -> Result<String> {
        let run = scope.spawn(move || said(&mut client));
        let open = await_until("a request", || {
            let text = String::from_utf8(office.approvals(BOB, &["list"])?.stdout)?;
            Ok(text.contains("\"state\":\"open\"").then_some(text))
        })?;
        let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'customers'::regclass";
        ensure!(office.postgres().psql(Via::Tcp, locks)? == "0");
        office.approved(BOB, &id(&open)?)?;
        run.join().unwrap_or_else(|_| anyhow::bail!("it panicked"))
    })?;
    let lines: Vec<&str> = told.lines().collect();
    ensure!(lines.contains(&"DELETE 1") && lines.contains(&"WA001"), "{told}");
    ensure!(lines.last() == Some(&"99"), "{told}");
    Ok(())
}

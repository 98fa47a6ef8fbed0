//! Tickets: an error of its own at once, and the identical statement passes once when it was approved.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Running, Via, await_until, need_root, place, python, scraped};
use nix::sys::signal::Signal;

use super::office::{ALICE, BOB, CAROL, EVE, Office, id, words};

const UPDATE: &str = "UPDATE customers SET name = 'renamed' WHERE id = 7";

#[test]
fn psql_gets_a_ticket_and_passes_when_it_comes_again() -> Result<()> {
    need_root!();
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let office = Office::open_with(&format!("[telemetry]\nprometheus = \"127.0.0.1:{port}\""))?;
    let told = words(&office.psql(ALICE, &[UPDATE])?);
    let id = id(&told)?;
    // It can be seen from outside that somebody waits.
    let figures = |n: u8| {
        await_until(&format!("{n} open approvals"), || {
            let open = &office.agent().status()?["guard"]["approvals_open"][0];
            let labels = format!("dbwarden_server={},dbwarden_verdict=\"ticket\"", open["server"]);
            let line = format!("dbwarden_approvals_open{{{labels}}} {n}");
            let page = scraped(port)?;
            let is_told = open["ticket"] == n && page.lines().any(|one| one == line);
            Ok(is_told.then_some(page))
        })
    };
    figures(1)?;
    for expected in [
        "ERROR:  WA001: dbwarden: updates need a ticket (approval apr-",
        "rule ticket-updates; effects: update; tables: customers",
        &format!("Ask a member of dba to run `dbwarden approvals approve {id}`"),
    ] {
        ensure!(told.contains(expected), "{expected}: {told}");
    }
    // Whoever asks again asks for the same.
    ensure!(office.ticket(ALICE, &[UPDATE])? == id);

    let shown = office.decided(BOB, &["show", &id])?;
    for (field, expected) in [
        ("id", id.as_str()),
        ("state", "open"),
        ("verdict", "ticket"),
        ("principal", "alice"),
        ("principal_kind", "human"),
        ("database", "postgres"),
        ("role", "app"),
        ("search_path", "\"$user\", public"),
        ("text", UPDATE),
        ("needs", "a member of dba"),
        ("message", "updates need a ticket"),
        ("summary", "UPDATE customers"),
        ("login_user", "daemon"),
    ] {
        ensure!(shown[field] == expected, "{field}: {shown:#}");
    }
    ensure!(shown["tables"][0]["name"] == "customers", "{shown:#}");
    // On call, but no approver of this rule: in an emergency she sees it.
    ensure!(office.decided(EVE, &["show", &id])?["text"] == UPDATE);

    let decided = office.decided(BOB, &["approve", &id, "--reason", "as agreed"])?;
    ensure!(decided["state"] == "approved", "{decided:#}");
    let output = office.psql(ALICE, &[UPDATE])?;
    ensure!(words(&output).is_empty(), "{}", words(&output));
    let name = office.postgres().psql(Via::Tcp, "SELECT name FROM customers WHERE id = 7")?;
    ensure!(name == "renamed", "{name}");

    let rows = office.rows(&id, &["requested", "approved", "used", "executed"])?;
    let page = figures(0)?;
    for action in ["requested", "approved", "used", "executed"] {
        let labels = format!("dbwarden_approval_action=\"{action}\",dbwarden_verdict=\"ticket\"");
        let line = format!("dbwarden_approvals_total{{{labels}}} 1");
        ensure!(page.lines().any(|one| one == line), "no {line} in {page}");
    }
    for row in &rows {
        ensure!(row["rule"] == "ticket-updates" && row["verdict"] == "ticket", "{row:#}");
        // Values are for those who decide, not for the ledger.
        ensure!(row["text"] == "UPDATE customers SET name = ? WHERE id = ?", "{row:#}");
    }
    let who: Vec<_> = rows.iter().map(|row| row["principal"].as_str().unwrap_or("")).collect();
    ensure!(who == ["alice", "bob", "alice", "alice"], "{who:?}");
    let message = "bob (human) has approved the request of alice (human): as agreed";
    ensure!(rows[1]["message"] == message, "{:#}", rows[1]);
    ensure!(rows[3]["rows"] == 1 && rows[3]["duration_us"].as_u64().is_some(), "{:#}", rows[3]);
    // The statements are linked with it: those that were denied, and the one that has run.
    let query = format!(
        "SELECT error_code, verdict, rule FROM statements WHERE approval = '{id}' ORDER BY time"
    );
    let statements = office.agent().await_rows(3, &query)?;
    let codes: Vec<_> = statements.iter().map(|row| row["error_code"].as_str()).collect();
    ensure!(codes == [Some("WA001"), Some("WA001"), None], "{statements:#?}");
    for row in &statements {
        ensure!(row["verdict"] == "ticket" && row["rule"] == "ticket-updates", "{row:#}");
    }
    Ok(())
}

#[test]
fn two_people_and_one_who_denies() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let grant = ["GRANT SELECT ON customers TO other"];
    let id = office.ticket(ALICE, &grant)?;
    ensure!(office.approved(BOB, &id)?["state"] == "open");
    let told = office.refused(BOB, &["approve", &id])?;
    ensure!(told.contains("has approved it already"), "{told}");
    ensure!(office.ticket(ALICE, &grant)? == id, "one is not enough");
    ensure!(office.approved(CAROL, &id)?["state"] == "approved");
    // Approved, and taken back before it was used.
    let denied = office.decided(BOB, &["deny", &id, "--reason", "not today"])?;
    ensure!(denied["state"] == "denied", "{denied:#}");
    let told = words(&office.psql(ALICE, &grant)?);
    ensure!(told.contains("it was denied: bob (human) has denied"), "{told}");
    ensure!(told.contains("not today"), "{told}");
    office.rows(&id, &["requested", "approved", "refused", "approved", "denied", "refused"])?;
    Ok(())
}

const PSYCOPG: &str = r#"
import psycopg, sys
def approve(ticket):
    print("approve", ticket, flush=True)
    assert sys.stdin.readline() == "approved\n"
UPDATE = "UPDATE customers SET name = %s WHERE id = %s"
with psycopg.connect(sys.argv[1], autocommit=True) as c:
    for way in ({}, {"prepare": True}, {"binary": True}):
        try:
            c.execute(UPDATE, ("by psycopg", 5), **way)
            sys.exit("not denied")
        except psycopg.Error as e:
            print(e.sqlstate, e.diag.message_primary)
            ticket = e.diag.message_detail.split()[1]
        approve(ticket)
        try:
            c.execute(UPDATE, ("by psycopg", 6), **way)
            sys.exit("another parameter")
        except psycopg.Error as e:
            print(e.sqlstate, e.diag.message_detail.split("; ")[-1])
        print(c.execute(UPDATE, ("by psycopg", 5), **way).rowcount)
        try:
            c.execute(UPDATE, ("by psycopg", 5), **way)
            sys.exit("twice")
        except psycopg.Error as e:
            print(e.sqlstate, e.diag.message_detail.split("; ")[-1])
            ticket = e.diag.message_detail.split()[1]
        c.execute("SELECT 1")
        approve(ticket)
        with c.transaction():
            c.execute("SELECT 1")
            print("in a transaction", c.execute(UPDATE, ("by psycopg", 5), **way).rowcount)
"#;

/// Runs a client that says `approve ID` and waits; gives what else it says.
fn conversation(office: &Office, mut command: Command) -> Result<Vec<String>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Running::start("the client", &mut command, Signal::SIGTERM)?;
    let (mut stdin, stdout) = client.pipes().context("it has no pipes")?;
    let mut told = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match line.strip_prefix("approve ") {
            Some(id) => {
                office.approved(BOB, id).with_context(|| told.join("\n"))?;
                writeln!(stdin, "approved")?;
            }
            None => told.push(line),
        }
    }
    ensure!(client.wait()?.success(), "{told:#?}");
    Ok(told)
}

#[test]
fn psycopg_passes_with_the_same_parameters() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let mut client = python()?;
    client.args(["-c", PSYCOPG, &office.postgres().conninfo_as(Via::Guard, "app", "postgres")]);
    let lines = conversation(&office, client)?;
    ensure!(lines.len() == 15, "{lines:#?}");
    let told = lines.join("\n");
    for lines in lines.chunks(5) {
        ensure!(lines[0].starts_with("WA001 dbwarden: updates need a ticket"), "{told}");
        ensure!(lines[1].starts_with("WA001") && lines[1].ends_with("parameters"), "{told}");
        ensure!(lines[2] == "1", "{told}");
        ensure!(
            lines[3].starts_with("WA001") && lines[3].ends_with("it was used already"),
            "{told}"
        );
        ensure!(lines[4] == "in a transaction 1", "{told}");
    }
    Ok(())
}

#[test]
fn pgjdbc_passes_in_every_mode() -> Result<()> {
    need_root!();
    let jar = place::jdbc()?;
    if !jar.exists() {
        println!("skipped: {} is not there: cargo xtask setup", jar.display());
        return Ok(());
    }
    let office = Office::open()?;
    let program = place::workspace().join("tests/tests/clients/Approved.java");
    let guard = office.postgres().guard_port().unwrap_or_default();
    let mut java = Command::new("java");
    java.arg("-cp").arg(&jar).arg(&program);
    java.arg(format!("jdbc:postgresql://127.0.0.1:{guard}/postgres?sslmode=disable"));
    let told = conversation(&office, java)?.join("\n");
    for mode in ["extended", "simple", "extendedForPrepared", "extendedCacheEverything"] {
        for expected in [
            format!("{mode} autocommit WA001 updated 1 then WA001"),
            format!("{mode} transaction WA001 updated 1"),
        ] {
            ensure!(told.contains(&expected), "{expected}: {told}");
        }
    }
    Ok(())
}

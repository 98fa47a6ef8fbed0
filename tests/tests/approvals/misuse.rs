//! Each way to use an approval for something else, or to decide about one's own: refused, and recorded.

use anyhow::{Result, ensure};
use dbwarden_tests::{Via, need_root, said, sender::started_by};
use serde_json::Value;

use super::office::{ALICE, ALICE_AGAIN, BOB, EVE, Office, RULES, id, words};

const UPDATE: &str = "UPDATE customers SET name = 'x' WHERE id = 7";

/// What `statements` are told, of which the last needs an approval.
fn told(office: &Office, statements: &[&str]) -> Result<String> {
    let told = words(&office.psql(ALICE, statements)?);
    ensure!(told.contains("WA001"), "{statements:?}: {told}");
    Ok(told)
}

fn refusals(office: &Office, id: &str, n: usize) -> Result<Vec<Value>> {
    let query = format!(
        "SELECT principal, message FROM rows WHERE approval = '{id}' AND action = 'refused' ORDER BY time"
    );
    office.agent().await_rows(n, &query)
}

#[test]
fn an_approval_is_good_for_nothing_else() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let postgres = office.postgres();
    postgres.psql(
        Via::Tcp,
        "CREATE SCHEMA evil; CREATE TABLE evil.customers (id int, name text);
         GRANT USAGE ON SCHEMA evil TO app; GRANT ALL ON evil.customers TO app",
    )?;
    let id = office.ticket(ALICE, &[UPDATE])?;
    office.approved(BOB, &id)?;
    let other_value = "UPDATE customers SET name = 'x' WHERE id = 8";
    let temporary = "CREATE TEMP TABLE customers (id int, name text)";
    let cases: [(&[&str], &str); 5] = [
        (&[other_value], "text"),
        (&["SET ROLE other", UPDATE], "role"),
        (&["SET search_path = evil, public", UPDATE], "search_path"),
        (&[temporary, UPDATE], "search_path, objects"),
        (&["SET DateStyle = 'SQL, DMY'", UPDATE], "settings"),
    ];
    for (statements, what) in cases {
        let told = told(&office, statements)?;
        let expected = format!("{id} is not for this: {what}");
        ensure!(told.contains(&expected), "{expected}: {told}");
    }
    let rows = refusals(&office, &id, 5)?;
    let says = |at: usize, words: &str| {
        rows[at]["message"].as_str().is_some_and(|message| message.contains(words))
    };
    ensure!(says(1, "role: app → other (session of app)"), "{rows:#?}");
    ensure!(says(2, "search_path: \"$user\", public"), "{rows:#?}");
    ensure!(!rows.iter().any(|row| row.to_string().contains("id = 8")), "{rows:#?}");

    // Another table by that name, and back.
    let swap = |from: &str, to: &str| {
        let text = format!("ALTER TABLE {from} RENAME TO {to}");
        postgres.psql(Via::Tcp, &text)
    };
    swap("customers", "aside")?;
    postgres.psql(
        Via::Tcp,
        "CREATE TABLE customers (id int, name text); GRANT ALL ON customers TO app",
    )?;
    let told = told(&office, &[UPDATE])?;
    ensure!(told.contains(&format!("{id} is not for this: objects")), "{told}");
    swap("customers", "swapped")?;
    swap("aside", "customers")?;

    // It is still good for what it was given for, and once.
    let output = office.psql(ALICE, &[UPDATE])?;
    ensure!(words(&output).is_empty(), "{}", words(&output));
    let told = self::told(&office, &[UPDATE])?;
    ensure!(told.contains(&format!("{id}: it was used already")), "{told}");
    refusals(&office, &id, 7)?;
    Ok(())
}

const CALLS: &str = r#"
@id("ticket-calls") @verdict("ticket") @approvers("dba") @message("whose code is it")
forbid (principal, action == Action::"call", resource) when { context.lane == "guarded" };
"#;

/// What is named stays the same, and does something else.
#[test]
fn a_name_for_something_else_is_something_else() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let code = |id: u32| {
        let text = format!(
            "CREATE OR REPLACE FUNCTION tidy() RETURNS void LANGUAGE sql AS \
             'UPDATE customers SET name = ''tidied'' WHERE id = {id}'"
        );
        office.postgres().psql(Via::Tcp, &text)
    };
    code(3)?;
    let call = &["SELECT tidy()"];
    office.guarded.judge_by(&format!("{RULES}{CALLS}"))?;
    let told = told(&office, call)?;
    let id = id(&told)?;
    office.approved(BOB, &id)?;
    code(4)?;
    let told = self::told(&office, call)?;
    ensure!(told.contains(&format!("{id} is not for this: objects")), "{told}");
    let rows = refusals(&office, &id, 1)?;
    ensure!(rows[0]["message"].as_str().is_some_and(|it| it.contains("tidy(): ")), "{rows:#?}");

    // A cursor at another row.
    let of = |row: u32| {
        format!("DECLARE c CURSOR FOR SELECT * FROM customers WHERE id = {row} FOR UPDATE")
    };
    let at_cursor = "UPDATE customers SET name = 'here' WHERE CURRENT OF c";
    let statements = |declare: &str| -> Result<String> {
        self::told(&office, &["BEGIN", declare, "FETCH c", at_cursor, "COMMIT"])
    };
    let ours = self::id(&statements(&of(1))?)?;
    let shown = office.decided(BOB, &["show", &ours])?;
    ensure!(shown["prepared"].as_str().is_some_and(|it| it.contains("id = 1")), "{shown:#}");
    office.approved(BOB, &ours)?;
    let told = statements(&of(2))?;
    ensure!(told.contains(&format!("{ours} is not for this: prepared statements")), "{told}");
    let output = office.psql(ALICE, &["BEGIN", &of(1), "FETCH c", at_cursor, "COMMIT"])?;
    ensure!(!words(&output).contains("ERROR"), "{}", words(&output));
    let name = office
        .postgres()
        .psql(Via::Tcp, "SELECT string_agg(name, ',') FROM customers WHERE id < 3")?;
    ensure!(name.contains("here") && name.contains("customer 2"), "{name}");
    Ok(())
}

#[test]
fn neither_later_nor_under_other_rules() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let insert = "INSERT INTO customers VALUES (200, 'new')";
    let short = office.ticket(ALICE, &[insert])?;
    office.approved(BOB, &short)?;
    office.rows(&short, &["requested", "approved", "expired"])?;
    let told = told(&office, &[insert])?;
    ensure!(told.contains(&format!("{short}: it has expired")), "{told}");

    let id = office.ticket(ALICE, &[UPDATE])?;
    office.approved(BOB, &id)?;
    office.guarded.judge_by(&format!("{RULES}\n// Otherwise the same.\n"))?;
    office.rows(&id, &["requested", "approved", "denied"])?;
    let told = self::told(&office, &[UPDATE])?;
    ensure!(told.contains(&format!("{id}: it was denied: the policies have changed")), "{told}");
    refusals(&office, &id, 1)?;
    Ok(())
}

#[test]
fn nobody_decides_about_their_own() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let mine = office.ticket(ALICE, &[UPDATE])?;
    for person in [ALICE, ALICE_AGAIN] {
        for glass in [&[][..], &["--break-glass", "--reason", "now"]] {
            let told = office.refused(person, &[&["approve", &mine], glass].concat())?;
            ensure!(told.contains("it is their own request: somebody else"), "{told}");
        }
    }
    // Her agent asks, and she is who asks; her agent is nobody who may decide.
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let claude = folder.path().join("claude");
    std::fs::copy("/bin/sh", &claude)?;
    let mut psql = office.postgres().program("psql");
    psql.args(["-X", "-v", "VERBOSITY=verbose", "-d"]);
    psql.arg(office.postgres().conninfo_as(Via::Guard, "app", "postgres")).args(["-c", UPDATE]);
    let mut agents = office.by(ALICE, &started_by(&claude, &psql));
    let theirs = id(&words(&agents.output()?))?;
    ensure!(theirs != mine, "another principal's request");
    let shown = office.decided(BOB, &["show", &theirs])?;
    ensure!(shown["principal_kind"] == "ai" && shown["initiator"] == "alice", "{shown:#}");
    let told = office.refused(ALICE, &["approve", &theirs])?;
    ensure!(told.contains("whom they have launched"), "{told}");
    let mut approve = office.agent().command(&["approvals", "approve", &mine]);
    // Where the shell of an account may start it from.
    let program = folder.path().join("dbwarden");
    std::fs::copy(approve.get_program(), &program)?;
    let arguments: Vec<_> = approve.get_args().map(ToOwned::to_owned).collect();
    approve = std::process::Command::new(&program);
    approve.args(arguments);
    let output = office.by(BOB, &started_by(&claude, &approve)).output()?;
    ensure!(words(&output).contains("only people may decide"), "{}", words(&output));

    // Nobody in no group, nor root, however they came to be root.
    let told = office.refused(EVE, &["approve", &mine])?;
    ensure!(told.contains("eve (human) is in none of the groups that may approve: dba"), "{told}");
    let output = office.by_as_root(BOB, &approve).output()?;
    ensure!(words(&output).contains("root decides in an emergency only"), "{}", words(&output));
    let mut plain = office.agent().command(&["approvals", "approve", &mine]);
    let output = plain.output()?;
    ensure!(words(&output).contains("only people may decide"), "{}", words(&output));
    let rows = refusals(&office, &mine, 8)?;
    let who: Vec<_> = rows.iter().map(|row| row["principal"].as_str().unwrap_or("")).collect();
    ensure!(who[..4] == ["alice"; 4] && who[5..7] == ["eve", "bob"], "{who:?}");

    // In an emergency: with a reason, by whoever is on call, and everybody hears of it.
    let output = office.approvals(EVE, &["approve", &mine, "--break-glass"])?;
    ensure!(output.status.code() == Some(2), "{}", words(&output));
    let told = office.refused(BOB, &["approve", &mine, "--break-glass", "--reason", "down"])?;
    ensure!(told.contains("bob (human) is not in oncall"), "{told}");
    let glass = ["approve", &mine, "--break-glass", "--reason", "the shop is down"];
    ensure!(office.decided(EVE, &glass)?["state"] == "approved");
    let alarm = "SELECT severity, message, principal FROM rows \
                 WHERE record = 'finding' AND rule = 'builtin:break-glass'";
    let alarm = &office.agent().await_rows(1, alarm)?[0];
    ensure!(alarm["severity"] == "critical" && alarm["principal"] == "eve", "{alarm:#}");
    let message = alarm["message"].as_str().unwrap_or_default();
    ensure!(message.contains("in an emergency: the shop is down"), "{alarm:#}");
    ensure!(words(&office.psql(ALICE, &[UPDATE])?).is_empty());
    Ok(())
}

/// What is bound isn't what a client says of itself, and what is shown isn't what others may see.
#[test]
fn whoever_may_not_decide_sees_no_values() -> Result<()> {
    need_root!();
    let office = Office::open()?;
    let secret = "UPDATE customers SET name = 'very private' WHERE id = 7";
    let id = office.ticket(ALICE, &[secret])?;
    let of = |output: std::process::Output| words(&output);
    let bare = said(&mut office.agent().command(&["approvals", "--json", "show", &id]))?;
    ensure!(bare.contains("very private"), "root sees all of it: {bare}");
    for command in [&["show", id.as_str()][..], &["list"]] {
        ensure!(of(office.approvals(BOB, command)?).contains("very private"));
    }
    // A member of the socket's group, and of nothing else.
    let daemon = office.agent().command(&["approvals", "--json", "show", &id]);
    let nobody = dbwarden_tests::sender::wrapped(
        &["setpriv", "--reuid", "13", "--regid", "13", "--groups", "60"],
        &daemon,
    );
    let mut nobody = nobody;
    let seen = said(nobody.current_dir("/"))?;
    ensure!(!seen.contains("very private") && seen.contains("SET name = ?"), "{seen}");
    let ledger = office.agent().rows("SELECT * FROM rows WHERE record = 'approval'")?;
    ensure!(!format!("{ledger:?}").contains("very private"));
    Ok(())
}

//! Tables that somebody fills from hidden columns hide them too: by every way, after a restart, until that is taken
//! back or they are gone.

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Guarded, Postgres, Via, await_until, need_root, said};
use serde_json::Value;

const PROGRAM: &str = include_str!("clients/inherited.py");

const PEOPLE: &str = "
    CREATE ROLE app LOGIN; GRANT pg_read_all_data TO app;
    CREATE TABLE people (id int PRIMARY KEY, name text, ssn text);
    INSERT INTO people SELECT n, 'N' || n, 'Zq4-' || n FROM generate_series(1, 20) n;
    CREATE VIEW shown AS SELECT id, ssn FROM people";

const LABELS: &str = r#"
[[label]]
name = "pii"
on = ["*.public.people.ssn"]
"#;

const RULES: &str = r#"
@id("hide") @verdict("mask") @mask("hash") @severity("low") @message("not for you")
forbid (principal, action, resource)
when { resource has labels && resource.labels.contains("pii") && !(context has db_user && context.db_user == "postgres") };
"#;

struct Copied(Guarded);

impl Copied {
    fn start() -> Result<Self> {
        Ok(Self(Guarded::start_asking(Postgres::builder(), PEOPLE, RULES, LABELS, "")?))
    }

    fn program(&self, what: &str) -> Result<String> {
        let postgres = &self.0.postgres;
        let mut python = dbwarden_tests::python()?;
        python.args(["-c", PROGRAM]);
        python.arg(postgres.conninfo_as(Via::Guard, "postgres", "postgres"));
        python.arg(postgres.conninfo_as(Via::Guard, "app", "postgres")).arg(what);
        said(&mut python).with_context(|| self.0.agent.log())
    }

    fn admin(&self, text: &str) -> Result<String> {
        self.0.postgres.psql(Via::Guard, text)
    }

    /// What the masked client reads.
    fn app(&self, text: &str) -> Result<String> {
        let mut psql = self.0.postgres.program("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text]);
        psql.arg(self.0.postgres.conninfo_as(Via::Guard, "app", "postgres"));
        Ok(said(&mut psql)?.trim().to_owned())
    }

    fn labels(&self) -> Result<Vec<Value>> {
        let told = said(&mut self.0.agent.command(&["labels", "list"]))?;
        Ok(told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    fn rows(&self, action: &str) -> Result<String> {
        let query = format!("SELECT message FROM rows WHERE action = '{action}'");
        let rows = await_until(action, || {
            let rows = self.0.agent.rows(&query)?;
            Ok((!rows.is_empty()).then_some(rows))
        })?;
        let each = rows.iter().filter_map(|row| row["message"].as_str());
        Ok(each.collect::<Vec<_>>().join("\n"))
    }
}

#[test]
fn copies_by_every_way_are_hidden_too() -> Result<()> {
    need_root!();
    let mut copied = Copied::start()?;
    let told = copied.program("make")?;
    ensure!(told.trim() == "tables 42", "{told}");
    let told = copied.rows("label_inherited")?;
    ensure!(told.contains("public.copy_0_0.ssn from public.people.ssn"), "{told}");

    // The guard and the service are others, and know it before their first client.
    let before = copied.labels()?.len();
    copied.0.agent.stop()?;
    copied.0.agent.start_again()?;
    copied.0.agent.await_server(copied.0.postgres.port())?;
    copied.0.agent.await_guard()?;
    copied.0.agent.await_catalog()?;
    ensure!(copied.labels()?.len() == before, "{before}");
    let told = copied.program("look")?;
    ensure!(told.trim() == "hidden 42", "{told}");
    Ok(())
}

#[test]
fn an_inherited_label_goes_with_its_table_and_by_word() -> Result<()> {
    need_root!();
    let copied = Copied::start()?;
    copied.admin("CREATE TABLE plain AS SELECT id, name FROM people WHERE ssn LIKE 'Zq4%'")?;
    copied.admin("CREATE TABLE a AS SELECT id, ssn AS number, upper(ssn) AS loud FROM people")?;
    copied.admin("EXPLAIN CREATE TABLE b AS SELECT ssn FROM people")?;
    let told = copied.app("SELECT id, number, loud FROM a WHERE id = 1")?;
    ensure!(told.starts_with("1|") && told.ends_with('|') && !told.contains("Zq4"), "{told}");
    // The same pseudonym as where it comes from.
    let told = copied.app("SELECT ssn FROM people WHERE id = 1")? + "|" + &told;
    let cells: Vec<&str> = told.split('|').collect();
    ensure!(cells[0] == cells[2], "{told}");
    ensure!(copied.app("SELECT name FROM plain WHERE id = 2")? == "N2");

    let labels = copied.labels()?;
    let shown: Vec<String> = labels
        .iter()
        .map(|one| format!("{} {} {}", one["column"], one["from"][0]["derived"], one["by"]))
        .collect();
    ensure!(labels.len() == 2, "{labels:?}");
    ensure!(shown[0].starts_with("\"public.a.number\" false"), "{shown:?}");
    ensure!(shown[0].contains("as postgres"), "{shown:?}");
    ensure!(shown[1].starts_with("\"public.a.loud\" true"), "{shown:?}");
    let statement = labels[0]["statement"].as_str().context("no fingerprint")?;
    let ran = format!("SELECT text FROM statements WHERE fingerprint = '{statement}' LIMIT 1");
    let ran = copied.0.agent.await_rows(1, &ran)?;
    ensure!(ran[0]["text"].as_str().is_some_and(|text| text.contains("upper")), "{ran:?}");

    // Somebody takes it back, and the next statement of the masked client shows it.
    let number = labels[0]["number"].to_string();
    said(&mut copied.0.agent.command(&["labels", "forget", &number]))?;
    await_until("the clear", || {
        Ok((copied.app("SELECT number FROM a WHERE id = 1")? == "Zq4-1").then_some(()))
    })?;
    let told = copied.rows("label_forgotten")?;
    ensure!(told.contains("uid 0") && told.contains("public.a.number"), "{told}");
    ensure!(copied.labels()?.len() == 1);
    let again = copied.0.agent.command(&["labels", "forget", &number]).output()?;
    ensure!(!again.status.success());
    // Until it is written there once more.
    copied.admin("INSERT INTO a (number) SELECT ssn FROM people WHERE id = 2")?;
    let told = copied.app("SELECT number FROM a")?;
    ensure!(!told.contains("Zq4"), "{told}");

    // Another table by its name has nothing of it.
    copied.admin("DROP TABLE a")?;
    copied.admin("CREATE TABLE a AS SELECT id, 'harmless'::text AS number FROM people")?;
    await_until("another table", || {
        let told = copied.app("SELECT number FROM a WHERE id = 1");
        Ok(told.is_ok_and(|told| told == "harmless").then_some(()))
    })?;
    copied.rows("label_gone")?;
    ensure!(copied.labels()?.is_empty());
    Ok(())
}

/// The guard is told of it once it has run.
#[test]
fn copies_past_the_guard_are_hidden_soon_after() -> Result<()> {
    need_root!();
    let copied = Copied::start()?;
    let direct = |text: &str| copied.0.postgres.psql(Via::Tcp, text);
    // So that somebody has looked at the catalog before.
    ensure!(!copied.app("SELECT ssn FROM people WHERE id = 1")?.contains("Zq4"));
    direct("CREATE TABLE made AS SELECT id, ssn FROM people")?;
    direct("CREATE TABLE filled (id int, ssn text)")?;
    direct("INSERT INTO filled SELECT id, ssn FROM people")?;
    direct("CREATE TABLE plain AS SELECT id, name FROM people")?;
    let labels = await_until("the labels", || {
        let labels = copied.labels()?;
        Ok((labels.len() == 2).then_some(labels))
    })?;
    ensure!(labels.iter().all(|one| one["by"].as_str().is_some_and(|by| by.contains("postgres"))));
    for table in ["made", "filled"] {
        let told = copied.app(&format!("SELECT ssn FROM {table} WHERE id = 1"))?;
        ensure!(!told.is_empty() && !told.contains("Zq4"), "{table}: {told}");
    }
    ensure!(copied.app("SELECT name FROM plain WHERE id = 2")? == "N2");
    Ok(())
}

//! What is hidden stays so while relations are defined, and nobody else's locks keep clients from the rest.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Via, await_until, need_root, place};
use tempfile::TempDir;

const LABELS: &str = r#"
[[label]]
name = "pii"
on = ["*.public.customers.ssn", "*.public.customers.email"]
"#;

const RULES: &str = r#"
@id("hide-pii") @verdict("mask") @mask("hash") @severity("low") @message("not for you")
forbid (principal, action, resource) when { resource has labels && resource.labels.contains("pii") };
"#;

struct Hidden {
    postgres: Postgres,
    agent: Agent,
    _policies: TempDir,
}

impl Hidden {
    fn start() -> Result<Self> {
        let postgres = Postgres::builder().guarded().start()?;
        postgres.psql(Via::Tcp, "CREATE ROLE app LOGIN")?;
        let base = place::workspace().join("tests/corpus/masking/base.sql");
        postgres.psql(Via::Tcp, &fs::read_to_string(base)?)?;
        let asks = postgres.catalog_role(None)?;
        let policies = tempfile::tempdir()?;
        fs::write(policies.path().join("own.cedar"), RULES)?;
        let folder = policies.path().display();
        let of_policy =
            format!("[policy]\ndirectory = \"{folder}\"\nstarter_pack = false\n{LABELS}");
        let of_server = postgres.guarded(&format!("environment = \"production\"\n{asks}"));
        let agent = Agent::builder().configuration(&of_policy);
        let agent = agent.configuration(&format!("{of_server}steer = false")).start()?;
        agent.await_server(postgres.port())?;
        agent.await_guard()?;
        agent.await_catalog()?;
        Ok(Self { postgres, agent, _policies: policies })
    }

    fn client(&self, texts: &[&str]) -> Command {
        let mut command = self.postgres.psql_command(Via::Guard);
        for text in texts {
            command.args(["-c", text]);
        }
        command
    }

    /// Why it is refused, said in one session.
    fn refused(&self, texts: &[&str]) -> Result<Option<String>> {
        let output = self.client(texts).output()?;
        let words = String::from_utf8(output.stderr)?;
        let why = words.split_once("can't be followed: ");
        ensure!(
            output.status.success() || why.is_some(),
            "{texts:?}: {words}\n{}",
            self.agent.log()
        );
        Ok(why.and_then(|(_, why)| why.lines().next()).map(str::to_owned))
    }

    fn check(&self, texts: &[&str], expected: Option<&str>) -> Result<()> {
        let why = self.refused(texts)?;
        ensure!(why.as_deref() == expected, "{texts:?}: {why:?}, and not {expected:?}");
        Ok(())
    }
}

#[test]
fn what_is_defined_is_followed_once_it_is_committed() -> Result<()> {
    need_root!();
    let hidden = Hidden::start()?;
    let shows = "CREATE OR REPLACE VIEW mine AS SELECT ssn AS x FROM customers";
    let plain = "CREATE OR REPLACE VIEW mine AS SELECT name AS x FROM customers";
    let computed = "SELECT x || '' FROM mine";
    let flows = Some("public.mine.x flows into an expression");
    let unsettled = Some("mine is being defined anew");
    hidden.check(&[shows, "SELECT x FROM mine", computed], flows)?;
    hidden.check(&[plain, computed], None)?;
    hidden.check(&["BEGIN", shows, computed], unsettled)?;
    hidden.check(&[&format!("{shows}; {computed}")], unsettled)?;
    hidden.check(&[computed], None)?;
    hidden.check(&[shows, computed], flows)?;
    let temporary = "CREATE TEMPORARY TABLE mine AS SELECT id FROM customers";
    hidden.check(&[temporary, "SELECT * FROM mine"], unsettled)?;
    hidden.check(&["CREATE TABLE u (id int)", "SELECT * FROM u", "DROP TABLE u"], None)?;

    // Past the guard, too, as soon as it is seen.
    hidden.postgres.psql(
        Via::Tcp,
        "ALTER TABLE customers ADD COLUMN loud text GENERATED ALWAYS AS (upper(ssn)) STORED",
    )?;
    await_until("the new column", || {
        let why = hidden.refused(&["SELECT lower(loud) FROM customers"])?;
        Ok(why.filter(|why| why == "public.customers.loud flows into an expression"))
    })?;
    hidden.check(&["SELECT loud FROM customers"], None)
}

#[test]
fn a_lock_of_somebody_else_keeps_nobody_from_other_tables() -> Result<()> {
    need_root!();
    let hidden = Hidden::start()?;
    let mut holder = hidden.postgres.psql_command(Via::Tcp);
    holder.args([
        "-c",
        "BEGIN; CREATE OR REPLACE VIEW contacts AS SELECT id, name, email AS mail FROM customers; \
         ALTER TABLE archive ADD COLUMN more int; SELECT pg_sleep(4)",
    ]);
    let mut holder = holder.spawn()?;
    await_until("the lock", || {
        let held = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock' AND \
                    relation = 'archive'::regclass";
        Ok((hidden.postgres.psql(Via::Tcp, held)? == "1").then_some(()))
    })?;
    let mut rounds = 0;
    while holder.try_wait()?.is_none() {
        let joined = "SELECT o.id, c.ssn FROM orders o JOIN customers c ON c.id = o.customer";
        hidden.check(&["SELECT id, email FROM customers WHERE id < 3", joined], None)?;
        hidden.check(&["CREATE TABLE IF NOT EXISTS u (id int)", "SELECT * FROM u"], None)?;
        rounds += 1;
    }
    ensure!(rounds > 2, "only {rounds} rounds");
    let status = holder.wait().context("the holder")?;
    ensure!(status.success(), "{status}");
    // It was changed past the guard: known to be what it is as soon as that is seen.
    await_until("the view", || {
        Ok(hidden.refused(&["SELECT mail FROM contacts"])?.is_none().then_some(()))
    })
}

//! The corpus through the guard, with the rules that dbwarden brings along.

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, need_root};

use super::{
    cases::Case,
    run::{Bench, Endpoint},
    server,
};

struct Guarded {
    postgres: Postgres,
    agent: Agent,
}

impl Guarded {
    fn start() -> Result<Self> {
        let postgres = server().guarded().start()?;
        let asks = postgres.catalog_role(None)?;
        let configuration = postgres.guarded(&format!("environment = \"production\"\n{asks}"));
        let agent =
            Agent::builder().configuration(&format!("{configuration}steer = false")).start()?;
        agent.await_server(postgres.port())?;
        agent.await_guard()?;
        agent.await_catalog()?;
        Ok(Self { postgres, agent })
    }

    fn bench(&self) -> Result<Bench> {
        let direct = Endpoint::new("127.0.0.1", self.postgres.port());
        let guard = self.postgres.guard_port().context("it has no port for a guard")?;
        Bench::new(&direct, &Endpoint::new("127.0.0.1", guard))
    }
}

#[test]
fn what_is_hostile_is_denied_in_words_and_does_no_damage() -> Result<()> {
    need_root!();
    let guarded = Guarded::start()?;
    let mut bench = guarded.bench()?;
    let mut through = Vec::new();
    for case in &Case::load("hostile")? {
        let report = bench.run(case)?;
        let is_denied = report.failures.iter().any(|(_, failure)| failure.code == "42501");
        if report.is_damage() || !is_denied {
            through.push(format!("{}: {report:?}", case.id));
        }
    }
    ensure!(through.is_empty(), "these get through:\n{}", through.join("\n"));
    let denied = guarded.agent.status()?["guard"]["denied"].as_u64().unwrap_or_default();
    ensure!(denied >= 150, "only {denied} were denied");
    Ok(())
}

#[test]
fn what_is_harmless_passes_the_guard() -> Result<()> {
    need_root!();
    let guarded = Guarded::start()?;
    let mut bench = guarded.bench()?;
    let mut broken = Vec::new();
    for case in &Case::load("harmless")? {
        for (n, failure) in bench.run(case)?.failures {
            broken.push(format!("{}, step {n} ({:?}): {failure}", case.id, case.steps.get(n)));
        }
    }
    ensure!(broken.is_empty(), "these are kept back:\n{}", broken.join("\n"));
    Ok(())
}

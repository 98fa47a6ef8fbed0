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
        let of_server =
            format!("environment = \"production\"\nguard_socket = {:?}\n{asks}", postgres.front());
        let configuration = postgres.guarded(&of_server);
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

/// One hostile case in `every`.
fn nothing_gets_through(bench: &mut Bench, every: usize) -> Result<()> {
    let cases = Case::load("hostile")?;
    let mut through = Vec::new();
    for case in cases.iter().step_by(every) {
        let report = bench.run(case)?;
        let is_denied = report.failures.iter().any(|(_, failure)| failure.code == "42501");
        if report.is_damage() || !is_denied {
            through.push(format!("{}: {report:?}", case.id));
        }
    }
    ensure!(through.is_empty(), "these get through:\n{}", through.join("\n"));
    Ok(())
}

#[test]
fn what_is_hostile_is_denied_in_words_and_does_no_damage() -> Result<()> {
    need_root!();
    let guarded = Guarded::start()?;
    let mut bench = guarded.bench()?;
    nothing_gets_through(&mut bench, 1)?;
    let denied = guarded.agent.status()?["guard"]["denied"].as_u64().unwrap_or_default();
    ensure!(denied >= 150, "only {denied} were denied");
    Ok(())
}

/// The same guard by its unix socket.
#[test]
fn by_a_unix_socket_it_is_no_other() -> Result<()> {
    need_root!();
    let guarded = Guarded::start()?;
    guarded.agent.await_front()?;
    let direct = Endpoint::new("127.0.0.1", guarded.postgres.port());
    let front = guarded.postgres.front_dir();
    let front = front.to_str().context("no path for a client")?;
    let mut bench = Bench::new(&direct, &Endpoint::new(front, guarded.postgres.port()))?;
    nothing_gets_through(&mut bench, 20)?;
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

//! The corpus against a real server: what is called hostile does damage, what is called harmless runs.

mod cases;
mod client;
mod guarded;
mod masking;
mod run;

use anyhow::{Result, ensure};
use cases::Case;
use dbwarden_tests::{Postgres, PostgresBuilder, need_root};
use run::{Bench, Endpoint};

/// A server on which everything of the corpus can happen.
fn server() -> PostgresBuilder {
    Postgres::builder().setting("max_prepared_transactions", "5")
}

/// Each half on a server of its own: making databases is most of the work.
#[test]
fn what_is_hostile_does_damage() -> Result<()> {
    need_root!();
    let cases = Case::load("hostile")?;
    ensure!(cases.len() >= 150, "only {} cases", cases.len());
    let halves = cases.split_at(cases.len() / 2);
    let broken = std::thread::scope(|scope| {
        let runs = [halves.0, halves.1].map(|half| scope.spawn(|| harmless_ones(half)));
        runs.map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let broken = broken.into_iter().collect::<Result<Vec<_>>>()?.concat();
    ensure!(broken.is_empty(), "these do no damage:\n{}", broken.join("\n"));
    Ok(())
}

/// Those that do no damage.
fn harmless_ones(cases: &[Case]) -> Result<Vec<String>> {
    let postgres = server().start()?;
    let direct = Endpoint::new("127.0.0.1", postgres.port());
    let mut bench = Bench::new(&direct, &direct)?;
    let mut broken = Vec::new();
    for case in cases {
        let report = bench.run(case)?;
        if !report.is_damage() {
            broken.push(format!("{}: {report:?}", case.id));
        }
    }
    Ok(broken)
}

#[test]
fn what_is_harmless_runs() -> Result<()> {
    need_root!();
    let postgres = server().start()?;
    let direct = Endpoint::new("127.0.0.1", postgres.port());
    let mut bench = Bench::new(&direct, &direct)?;
    let mut broken = Vec::new();
    let cases = Case::load("harmless")?;
    for case in &cases {
        let report = bench.run(case)?;
        for (n, failure) in &report.failures {
            broken.push(format!("{}, step {n} ({:?}): {failure}", case.id, case.steps.get(*n)));
        }
    }
    ensure!(broken.is_empty(), "these fail:\n{}", broken.join("\n"));
    let n_steps: usize = cases.iter().map(|case| case.steps.len()).sum();
    ensure!(n_steps >= 100, "only {n_steps} statements");
    Ok(())
}

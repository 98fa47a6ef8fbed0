//! What the guard costs a client, beside what proxies cost that judge nothing.

mod idle;
mod large;
mod report;
mod transactions;
mod ways;

use std::path::Path;

use anyhow::Result;
use dbwarden_tests::Via;

use super::{Plan, Report, pinned::Pinned, servers::settings, tell};
use crate::interrupt;
use transactions::{LOADS, Transactions};
use ways::{WAYS, Way, Ways};

/// 100 000 rows: all of it stays in the server's memory, and each of its processes has soon touched it all.
const SCALE: &str = "1";

/// What one load measured on one way in one round.
struct Visit<T> {
    round: u32,
    way: Way,
    figures: T,
}

pub fn run(plan: &Plan, program: &Path) -> Result<Vec<Report>> {
    tell("a PostgreSQL, a HAProxy, a PgBouncer");
    let ways = {
        let _on_one = Pinned::to_one()?;
        let postgres = settings().guarded().start()?;
        postgres.pgbench(Via::Unix, &["-i", "-q", "-s", SCALE])?;
        // Read once, so that nobody pays for the first reading.
        postgres.psql(Via::Unix, "SELECT count(*), sum(abalance) FROM pgbench_accounts")?;
        Ways::start(program, postgres)?
    };
    let mut transactions: Vec<Vec<Visit<Transactions>>> =
        LOADS.iter().map(|_| Vec::new()).collect();
    let mut rows = Vec::new();
    for round in 0..plan.rounds() {
        let told = |way: Way| format!("round {} of {}, {}", round + 1, plan.rounds(), way.name());
        // All ways of one load within half a minute: a machine's pace changes in minutes.
        for (load, visits) in LOADS.iter().zip(&mut transactions) {
            for way in order(round).into_iter().filter(|way| way.has_transactions()) {
                interrupt::check()?;
                let agent = ways.agent(way)?;
                let figures =
                    transactions::measure(&ways, way, agent.as_ref(), load, plan.seconds())?;
                tell(&format!("{}, {load}: {figures}", told(way)));
                visits.push(Visit { round, way, figures });
            }
        }
        for way in order(round).into_iter().filter(|way| way.has_rows()) {
            interrupt::check()?;
            let agent = ways.agent(way)?;
            let figures = large::measure(&ways, way, agent.as_ref(), plan.seconds())?;
            tell(&format!("{}: {figures}", told(way)));
            rows.push(Visit { round, way, figures });
        }
    }
    drop(ways);
    let idle = idle::measure(plan, program)?;
    let mut reports = vec![report::transactions(plan, &transactions), report::rows(plan, &rows)];
    reports.push(idle::report(plan, &idle));
    Ok(reports)
}

/// Another order each round, so that no way always comes first or after the same one.
fn order(round: u32) -> [Way; WAYS.len()] {
    let mut order = WAYS;
    order.rotate_left(round as usize % WAYS.len());
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

//! What knowing a statement's facts costs: parsed, and found again, beside bare parsers.

use anyhow::{Result, bail};
use dbwarden_tests::place;

use super::{
    Plan, Report, Target,
    example::Example,
    figures::{median, ratio},
    table::table,
    tell,
};

/// What `agent/examples/statement_costs.rs` measures, and how a table calls it.
const WAYS: [(&str, &str); 6] = [
    ("cold", "not seen before"),
    ("template", "other literals"),
    ("text", "same text"),
    ("in-process", "without the child"),
    ("pg_query", "pg_query"),
    ("sqlparser", "sqlparser"),
];

/// The short mix, of which the targets speak.
const SHORT: &str = "pgbench";
/// Microseconds for a short statement whose template is known.
const TEMPLATE_US: f64 = 1.5;
/// For one that has to be parsed, of what a bare parse and fingerprint take.
const COLD_RATIO: f64 = 4.0;

/// Microseconds of each round.
struct Cost {
    mix: String,
    way: String,
    bytes: u32,
    us: f64,
}

pub fn run(plan: &Plan) -> Result<Report> {
    let program = Example::build("statement_costs")?;
    let agent = place::target_dir()?.join("release/dbwarden");
    // Of `seconds`, each mix gets its share in each way.
    let slice_ms = u64::from(plan.seconds()) * 20;
    tell(&format!("{} rounds of {slice_ms} ms for each way and mix", plan.rounds()));
    let text = program.run([
        agent.into_os_string(),
        plan.rounds().to_string().into(),
        slice_ms.to_string().into(),
    ])?;
    let costs: Vec<Cost> = text.lines().map(cost).collect::<Result<_>>()?;
    Ok(report(plan, &costs))
}

fn cost(line: &str) -> Result<Cost> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [mix, way, bytes, us] = fields.as_slice() else { bail!("`{line}` is no measurement") };
    Ok(Cost {
        mix: (*mix).to_owned(),
        way: (*way).to_owned(),
        bytes: bytes.parse()?,
        us: us.parse()?,
    })
}

fn report(plan: &Plan, costs: &[Cost]) -> Report {
    let us = |mix: &str, way: &str| {
        median(costs.iter().filter(|cost| cost.mix == mix && cost.way == way).map(|cost| cost.us))
    };
    let mut mixes: Vec<&str> = Vec::new();
    for cost in costs {
        if !mixes.contains(&cost.mix.as_str()) {
            mixes.push(&cost.mix);
        }
    }
    let rows = mixes.iter().map(|mix| {
        let bytes = costs.iter().find(|cost| cost.mix == *mix).map_or(0, |cost| cost.bytes);
        let figures = WAYS.iter().map(|(way, _)| format!("{:.2}", us(mix, way)));
        [(*mix).to_owned(), bytes.to_string()].into_iter().chain(figures).collect()
    });
    let head: Vec<&str> =
        ["mix", "bytes"].into_iter().chain(WAYS.map(|(_, title)| title)).collect();
    let title = "Microseconds a statement (medians over the rounds)";
    let text = table(plan.style(), title, &head, rows.collect());

    let known = us(SHORT, "template");
    let against_bare = ratio(us(SHORT, "cold"), us(SHORT, "pg_query"));
    let targets = vec![
        Target {
            what: format!("a short statement that differs in literals: at most {TEMPLATE_US} µs"),
            measured: format!("{known:.2} µs"),
            met: known <= TEMPLATE_US,
        },
        Target {
            what: format!(
                "one not seen before: at most {COLD_RATIO} of pg_query's parse and fingerprint"
            ),
            measured: format!("{against_bare:.2}"),
            met: against_bare <= COLD_RATIO,
        },
    ];
    Report { text, targets }
}

//! What judging a statement costs: by rules that are asked, and by a verdict that is remembered.

use anyhow::{Result, bail};

use super::{Plan, Report, Target, example::Example, figures::median, table::table, tell};

/// Nanoseconds of a remembered verdict.
const REMEMBERED_NS: f64 = 300.0;
const SETS: [u32; 2] = [20, 200];

/// One figure of one round, as `agent/examples/policy_costs.rs` prints it.
struct Cost {
    rules: u32,
    way: String,
    ns: f64,
    allocations: f64,
}

pub fn run(plan: &Plan) -> Result<Report> {
    let program = Example::build("policy_costs")?;
    let slice_ms = u64::from(plan.seconds()) * 50;
    tell(&format!("{} rounds of {slice_ms} ms for each way", plan.rounds()));
    let text = program.run([plan.rounds().to_string(), slice_ms.to_string()])?;
    let costs: Vec<Cost> = text.lines().map(cost).collect::<Result<_>>()?;
    Ok(report(plan, &costs))
}

fn cost(line: &str) -> Result<Cost> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [rules, way, ns, allocations] = fields.as_slice() else {
        bail!("`{line}` is no measurement")
    };
    Ok(Cost {
        rules: rules.parse()?,
        way: (*way).to_owned(),
        ns: ns.parse()?,
        allocations: allocations.parse()?,
    })
}

fn report(plan: &Plan, costs: &[Cost]) -> Report {
    let of = |rules: u32, way: &str, figure: fn(&Cost) -> f64| {
        median(costs.iter().filter(|cost| cost.rules == rules && cost.way == way).map(figure))
    };
    let ns = |rules: u32, way: &str| of(rules, way, |cost| cost.ns);
    let rows = SETS.map(|rules| {
        vec![
            rules.to_string(),
            format!("{:.1}", ns(rules, "load") / 1e6),
            format!("{:.1}", ns(rules, "evaluated") / 1e3),
            format!("{:.0}", ns(rules, "remembered")),
            format!("{:.0}", of(rules, "remembered", |cost| cost.allocations)),
        ]
    });
    let head = ["rules", "load, ms", "evaluated, µs", "remembered, ns", "allocations"];
    let title = "The verdict on a statement (medians over the rounds)";
    let text = table(plan.style(), title, &head, rows.to_vec());
    let targets = SETS.map(|rules| {
        let known = ns(rules, "remembered");
        Target {
            what: format!("a remembered verdict with {rules} rules: under {REMEMBERED_NS} ns"),
            measured: format!("{known:.0} ns"),
            met: known < REMEMBERED_NS,
        }
    });
    Report { text, targets: targets.into() }
}

//! What telling OpenTelemetry of a statement costs the recorder, and the thread that sends.

use anyhow::{Result, bail};

use super::{Plan, Report, Target, example::Example, figures::median, table::table, tell};

/// What `agent/examples/telemetry_costs.rs` measures, and how a table calls it.
const WAYS: [(&str, &str); 4] = [
    ("metrics", "metrics alone"),
    ("ratio-0.1", "a tenth as spans"),
    ("ratio-1.0", "all as spans"),
    ("away", "all, nobody receives"),
];
/// Nanoseconds of the recorder's thread for a statement at the default ratio.
const DEFAULT: &str = "ratio-0.1";
const DEFAULT_NS: f64 = 1_000.0;

/// One figure of one round.
struct Cost {
    way: String,
    recorder_ns: f64,
    allocations: f64,
    exporter_ns: f64,
}

pub fn run(plan: &Plan) -> Result<Report> {
    let program = Example::build("telemetry_costs")?;
    let slice_ms = u64::from(plan.seconds()) * 50;
    tell(&format!("{} rounds of {slice_ms} ms for each way", plan.rounds()));
    let text = program.run([plan.rounds().to_string(), slice_ms.to_string()])?;
    let costs: Vec<Cost> = text.lines().map(cost).collect::<Result<_>>()?;
    Ok(report(plan, &costs))
}

fn cost(line: &str) -> Result<Cost> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [way, recorder_ns, allocations, exporter_ns] = fields.as_slice() else {
        bail!("`{line}` is no measurement")
    };
    Ok(Cost {
        way: (*way).to_owned(),
        recorder_ns: recorder_ns.parse()?,
        allocations: allocations.parse()?,
        exporter_ns: exporter_ns.parse()?,
    })
}

fn report(plan: &Plan, costs: &[Cost]) -> Report {
    let of = |way: &str, figure: fn(&Cost) -> f64| {
        median(costs.iter().filter(|cost| cost.way == way).map(figure))
    };
    let rows = WAYS.map(|(way, name)| {
        vec![
            name.to_owned(),
            format!("{:.0}", of(way, |cost| cost.recorder_ns)),
            format!("{:.2}", of(way, |cost| cost.allocations)),
            format!("{:.0}", of(way, |cost| cost.exporter_ns)),
        ]
    });
    let head = ["told", "recorder, ns", "allocations", "exporter, ns"];
    let title = "Telling of a statement (processor time; medians over the rounds)";
    let text = table(plan.style(), title, &head, rows.to_vec());
    let known = of(DEFAULT, |cost| cost.recorder_ns);
    let target = Target {
        what: format!("the recorder, at the default ratio: under {DEFAULT_NS} ns a statement"),
        measured: format!("{known:.0} ns"),
        met: known < DEFAULT_NS,
    };
    Report { text, targets: vec![target] }
}

//! Benchmarks: ratios against a baseline and a peer, measured in the same run.

mod cost;
mod decode;
mod example;
mod figures;
mod guard;
mod host;
mod ledger;
mod neighbour;
mod observe;
mod pinned;
mod policy;
mod servers;
mod statement;
mod table;
mod telemetry;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use dbwarden_tests::{Agent, is_root};

use crate::{build, setup, steps::Steps};
use table::Style;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// What watching costs a PostgreSQL: bare, with dbwarden, with pgaudit, with log_statement=all
    ///
    /// Ends with `neighbour`. Every round visits every variant, each time in another order; figures
    /// are medians over the rounds, and ratios are taken within a round.
    Observe(Plan),
    /// What dbwarden costs a busy process that is no database, on each hook set
    Neighbour(Plan),
    /// What the guard costs a client: beside going direct, through HAProxy, through PgBouncer
    ///
    /// pgbench with 1 and 16 clients, a result of 100 000 rows, and the memory of idle connections, of
    /// which there are up to 5 000: the server takes some GiB then. Every round visits every way, each time in
    /// another order; figures are medians over the rounds, and ratios are taken within a round.
    Guard(Plan),
    /// What keeping statements costs, and how soon they are found: beside pgaudit's log and DuckDB
    ///
    /// Rows appended and sealed, five searches over ten million rows, and a PostgreSQL that answers
    /// 30 000 statements a second while somebody searches.
    Ledger(Plan),
    /// What knowing a statement's facts costs: parsed and found again, beside pg_query and sqlparser
    Statement(Plan),
    /// What judging a statement costs, with 20 and with 200 rules
    ///
    /// Needs neither root nor a server.
    Policy(Plan),
    /// What telling OpenTelemetry of a statement costs, by how many become spans
    ///
    /// Needs neither root nor a server.
    Telemetry(Plan),
    /// What decoding a PostgreSQL statement costs: of recorded connections and of pgbench's
    ///
    /// Needs neither root nor a server.
    Decode(Plan),
}

/// How much is measured, and how it is told.
#[derive(clap::Args)]
struct Plan {
    /// Interleaved rounds [default: 5, or 2 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Seconds of load in each visit of a round [default: 10, or 2 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// A short run: it shows that all of it works, its figures are rough
    #[arg(long)]
    quick: bool,
    /// Print the tables as Markdown
    #[arg(long)]
    markdown: bool,
    /// Exit with 1 if a target is missed
    #[arg(long)]
    check: bool,
}

impl Plan {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 10 })
    }

    fn style(&self) -> Style {
        if self.markdown { Style::Markdown } else { Style::Plain }
    }

    /// As one would type it again.
    fn command(&self, subject: &str) -> String {
        let (rounds, seconds) = (self.rounds(), self.seconds());
        format!("cargo xtask bench {subject} --rounds {rounds} --seconds {seconds}")
    }
}

/// What was measured, to be printed, and how it stands against the targets.
struct Report {
    text: String,
    targets: Vec<Target>,
}

struct Target {
    what: String,
    measured: String,
    met: bool,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.subject {
        Subject::Observe(plan) => {
            let agent = release_agent()?;
            let reports = [observe::run(plan, &agent)?, neighbour::run(plan, &agent)?];
            tell_all(plan, "observe", &reports)
        }
        Subject::Neighbour(plan) => {
            let report = neighbour::run(plan, &release_agent()?)?;
            tell_all(plan, "neighbour", &[report])
        }
        Subject::Guard(plan) => {
            let reports = guard::run(plan, &release_agent()?)?;
            tell_all(plan, "guard", &reports)
        }
        Subject::Ledger(plan) => {
            release_agent()?;
            tell_all(plan, "ledger", &ledger::run(plan)?)
        }
        Subject::Statement(plan) => tell_all(plan, "statement", &[statement::run(plan)?]),
        Subject::Telemetry(plan) => tell_all(plan, "telemetry", &[telemetry::run(plan)?]),
        Subject::Policy(plan) => tell_all(plan, "policy", &[policy::run(plan)?]),
        Subject::Decode(plan) => tell_all(plan, "decode", &[decode::run(plan)?]),
    }
}

/// Sets up and builds; an error where nobody could load its programs.
fn release_agent() -> Result<PathBuf> {
    if !is_root() {
        bail!(
            "loading BPF programs needs root: run `cargo xtask bench` as root, with the cargo that \
             you use now, as in\n  sudo --preserve-env=PATH,HOME,CARGO_TARGET_DIR cargo xtask bench \
             observe"
        );
    }
    let mut steps = Steps::new(setup::STEPS + build::STEPS)?;
    let toolchain = setup::all(&mut steps)?;
    Ok(build::build(&mut steps, &toolchain, true)?.agent)
}

/// The machine, the figures, how they stand against the targets, and how to repeat them.
fn tell_all(plan: &Plan, subject: &str, reports: &[Report]) -> Result<()> {
    let style = plan.style();
    println!("\n{}", host::facts(style)?);
    for report in reports {
        println!("{}", report.text);
    }
    let targets: Vec<&Target> = reports.iter().flat_map(|report| &report.targets).collect();
    if !targets.is_empty() {
        println!("{}", verdicts(&targets, style));
    }
    println!("{}", style.code(&plan.command(subject)));
    let n_missed = targets.iter().filter(|target| !target.met).count();
    if plan.check && n_missed > 0 {
        bail!("{n_missed} of {} targets missed", targets.len());
    }
    Ok(())
}

fn verdicts(targets: &[&Target], style: Style) -> String {
    let rows = targets.iter().map(|target| {
        let verdict = if target.met { "met" } else { "MISSED" };
        vec![target.what.clone(), target.measured.clone(), verdict.to_owned()]
    });
    table::table(style, "Targets", &["target", "measured", "verdict"], rows.collect())
}

/// An agent of the release build, ready. `ledger` is more of that section of its configuration.
fn start_agent(program: &Path, arguments: &[&str], ledger: &str) -> Result<Agent> {
    let builder = Agent::builder().program(program).ledger(ledger);
    arguments.iter().fold(builder, |builder, argument| builder.argument(argument)).start()
}

/// What goes on, for who waits.
fn tell(line: &str) {
    eprintln!("{line}");
}

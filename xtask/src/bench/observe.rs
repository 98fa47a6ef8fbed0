//! What watching costs a PostgreSQL, beside what its own ways of logging cost.

use std::{
    path::Path,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use dbwarden_tests::{Agent, Postgres, Running, Via};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Plan, Report, Target,
    cost::{self, BpfStats, HostClock},
    figures::{median, ratio},
    pinned::Pinned,
    servers::{Servers, take_log_lines},
    start_agent,
    table::{Style, table},
    tell,
};
use crate::interrupt;

const CLIENTS: &str = "4";
const NO_LEDGER: &str = "enabled = false";
/// `pgbench -S` asks for the number of branches and for the partitioning before it begins.
const OWN_STATEMENTS: u64 = 2;
/// Between the end of the load and the last look at the clocks: by then all is read and written.
const SETTLE: Duration = Duration::from_millis(300);
/// How long dbwarden may take to count the last statements.
const PATIENCE: Duration = Duration::from_secs(10);
/// The target: what dbwarden adds, as a share of what pgaudit adds; and the one beyond it.
const SHARE: f64 = 0.5;
const STRETCH_SHARE: f64 = 0.25;
const WATCHING_KIB: u64 = 100 << 10;
const KEEPING_KIB: u64 = 150 << 10;

/// How the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Simple,
    Prepared,
}

const MODES: [Mode; 2] = [Mode::Simple, Mode::Prepared];

impl Mode {
    /// Of `pgbench -M`.
    fn name(self) -> &'static str {
        match self {
            Mode::Simple => "simple",
            Mode::Prepared => "prepared",
        }
    }
}

/// Who watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Bare,
    /// Sees statements, and keeps none.
    Dbwarden,
    /// As it is installed.
    DbwardenKeeping,
    /// And somebody reads every statement.
    DbwardenWatched,
    Pgaudit,
    LogStatement,
    /// dbwarden while the kernel counts its programs' run time, which costs something itself: in
    /// no comparison.
    DbwardenCounted,
}

const COMPARED: [Variant; 6] = [
    Variant::Bare,
    Variant::Dbwarden,
    Variant::DbwardenKeeping,
    Variant::DbwardenWatched,
    Variant::Pgaudit,
    Variant::LogStatement,
];

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Bare => "bare",
            Variant::Dbwarden => "dbwarden, no ledger",
            Variant::DbwardenKeeping => "dbwarden",
            Variant::DbwardenWatched => "dbwarden, no ledger, a watcher",
            Variant::Pgaudit => "pgaudit.log=all",
            Variant::LogStatement => "log_statement=all",
            Variant::DbwardenCounted => "dbwarden, BPF counted",
        }
    }

    fn server(self, servers: &Servers) -> &Postgres {
        match self {
            Variant::Pgaudit => &servers.pgaudit,
            Variant::LogStatement => &servers.log_statement,
            _ => &servers.plain,
        }
    }

    /// What each statement leaves in the server's log.
    fn log_word(self) -> Option<&'static str> {
        match self {
            Variant::Pgaudit => Some("AUDIT: SESSION"),
            Variant::LogStatement => Some("SELECT abalance"),
            _ => None,
        }
    }
}

/// What one visit measured. Times are of processors, in microseconds.
struct Visit {
    round: u32,
    mode: Mode,
    variant: Variant,
    transactions: u64,
    per_second: f64,
    /// Of the whole host, less what it did when nothing was going on.
    host_us: f64,
    /// Of server, clients, agent and watcher.
    processes_us: f64,
    agent: Option<AgentVisit>,
}

struct AgentVisit {
    agent_us: f64,
    watch_us: f64,
    /// While it was counted.
    bpf_us: Option<f64>,
    peak_kib: u64,
    ring_peak_bytes: u64,
    drops: u64,
    watch_missed: u64,
    /// To the server that was measured; pgbench's own ones are not in it.
    statements: u64,
    /// To all servers of the host: what its time went to.
    all_statements: u64,
}

pub fn run(plan: &Plan, program: &Path) -> Result<Report> {
    tell("three PostgreSQLs: plain, with pgaudit, with log_statement=all");
    let servers = {
        let _on_one = Pinned::to_one()?;
        Servers::start()?
    };
    for server in servers.all() {
        pgbench(server, Mode::Simple, 1)?;
    }
    let mut visits = Vec::new();
    let mut idles = Vec::new();
    for round in 0..plan.rounds() {
        for mode in MODES {
            let idle = idle_share(Duration::from_secs(plan.seconds().div_ceil(4).into()))?;
            idles.push(idle);
            for variant in order(round).into_iter().chain([Variant::DbwardenCounted]) {
                interrupt::check()?;
                let visit = visit(plan, program, &servers, round, mode, variant, idle)?;
                tell(&format!(
                    "round {} of {}, {}, {}: {:.0} tx/s, {:.1} µs of CPU a transaction",
                    round + 1,
                    plan.rounds(),
                    mode.name(),
                    variant.name(),
                    visit.per_second,
                    visit.processes_us / visit.transactions as f64,
                ));
                visits.push(visit);
            }
        }
    }
    Ok(Measured { visits, idle_share: median(idles) }.report(plan))
}

/// Another order each round, so that no variant always comes first or after the same one.
fn order(round: u32) -> [Variant; COMPARED.len()] {
    let mut order = COMPARED;
    order.rotate_left(round as usize % COMPARED.len());
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Busy time of the host per wall-clock time when we do nothing.
fn idle_share(time: Duration) -> Result<f64> {
    let clock = HostClock::start()?;
    sleep(time);
    let (wall, busy) = clock.elapsed()?;
    Ok(busy / wall)
}

fn visit(
    plan: &Plan,
    program: &Path,
    servers: &Servers,
    round: u32,
    mode: Mode,
    variant: Variant,
    idle_share: f64,
) -> Result<Visit> {
    let server = variant.server(servers);
    let _counted = (variant == Variant::DbwardenCounted).then(BpfStats::on).transpose()?;
    let mut observer = match variant {
        Variant::Bare | Variant::Pgaudit | Variant::LogStatement => None,
        Variant::Dbwarden | Variant::DbwardenCounted => {
            Some(Observer::start(program, server, NO_LEDGER, false)?)
        }
        Variant::DbwardenKeeping => Some(Observer::start(program, server, "", false)?),
        Variant::DbwardenWatched => Some(Observer::start(program, server, NO_LEDGER, true)?),
    };
    if let Some(word) = variant.log_word() {
        take_log_lines(server, word)?;
    }
    sleep(SETTLE);

    let agent_before = observer.as_ref().map(Observer::spent).transpose()?;
    let server_before = cost::tree_us(server.pid()?)?;
    let host = HostClock::start()?;
    let load = pgbench(server, mode, plan.seconds())?;
    sleep(SETTLE);
    let (wall, busy) = host.elapsed()?;
    let server_us = cost::tree_us(server.pid()?)? - server_before;
    let agent = match (&mut observer, agent_before) {
        (Some(observer), Some(before)) => Some(observer.visited(&before, load.transactions)?),
        _ => None,
    };
    if let Some(word) = variant.log_word() {
        let n_logged = take_log_lines(server, word)?;
        ensure!(
            n_logged >= load.transactions,
            "{} logged {n_logged} of {} statements: it is not what was to be measured",
            variant.name(),
            load.transactions
        );
    }
    let agent_us = agent.as_ref().map_or(0.0, |agent| agent.agent_us + agent.watch_us);
    Ok(Visit {
        round,
        mode,
        variant,
        transactions: load.transactions,
        per_second: load.per_second,
        host_us: busy - wall * idle_share,
        processes_us: server_us + load.client_us + agent_us,
        agent,
    })
}

struct Load {
    transactions: u64,
    per_second: f64,
    client_us: f64,
}

fn pgbench(server: &Postgres, mode: Mode, seconds: u32) -> Result<Load> {
    let seconds = seconds.to_string();
    let before = cost::children_us()?;
    let on_one = Pinned::to_one()?;
    let said = server
        .pgbench(Via::Unix, &["-n", "-S", "-M", mode.name(), "-c", CLIENTS, "-T", &seconds])?;
    drop(on_one);
    let client_us = cost::children_us()? - before;
    let after = |key: &str| -> Option<f64> {
        let value = said.lines().find_map(|line| line.strip_prefix(key))?;
        value.split_whitespace().next()?.parse().ok()
    };
    match (after("number of transactions actually processed: "), after("tps = ")) {
        (Some(transactions), Some(per_second)) if transactions > 0.0 => {
            Ok(Load { transactions: transactions as u64, per_second, client_us })
        }
        _ => bail!("can't read pgbench's report:\n{said}"),
    }
}

/// dbwarden, perhaps with somebody who watches.
struct Observer {
    /// Of the server that is measured.
    port: u16,
    // First: a watcher whose agent has gone would complain.
    watcher: Option<Running>,
    agent: Agent,
}

/// What it had spent and seen at a moment.
struct Spent {
    agent_us: f64,
    watch_us: f64,
    bpf_us: f64,
    statements: u64,
    all_statements: u64,
}

impl Observer {
    fn start(program: &Path, server: &Postgres, ledger: &str, watched: bool) -> Result<Observer> {
        let _off_it = Pinned::off_it()?;
        let agent = start_agent(program, &[], ledger)?;
        agent.await_server(server.port())?;
        let watcher = if watched {
            let mut command = agent.command(&["watch", "--format", "json"]);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            let watcher = Running::start("dbwarden watch", &mut command, Signal::SIGTERM)?;
            agent.await_watchers(1)?;
            Some(watcher)
        } else {
            None
        };
        Ok(Observer { port: server.port(), watcher, agent })
    }

    fn spent(&self) -> Result<Spent> {
        let watch = self.watcher.as_ref().map(|watcher| cost::threads_us(watcher.pid()));
        let status = self.agent.status()?;
        Ok(Spent {
            agent_us: cost::threads_us(self.agent.pid())?,
            watch_us: watch.transpose()?.unwrap_or_default(),
            bpf_us: cost::bpf_us(self.agent.pid())?,
            statements: statements_to(&status, self.port)?,
            all_statements: all_statements(&status)?,
        })
    }

    fn visited(&mut self, before: &Spent, transactions: u64) -> Result<AgentVisit> {
        let wanted = before.statements + transactions + OWN_STATEMENTS;
        let after = self.spent()?;
        let until = Instant::now() + PATIENCE;
        let mut status = self.agent.status()?;
        while statements_to(&status, self.port)? < wanted && Instant::now() < until {
            sleep(SETTLE);
            status = self.agent.status()?;
        }
        if let Some(watcher) = &mut self.watcher {
            ensure!(watcher.ended()?.is_none(), "dbwarden watch has ended");
        }
        let drops = status["totals"]["drops"].as_object().into_iter().flatten();
        let rings = status["rings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let bpf_us = after.bpf_us - before.bpf_us;
        Ok(AgentVisit {
            agent_us: after.agent_us - before.agent_us,
            watch_us: after.watch_us - before.watch_us,
            bpf_us: (bpf_us > 0.0).then_some(bpf_us),
            peak_kib: cost::peak_kib(self.agent.pid())?,
            ring_peak_bytes: rings
                .iter()
                .filter(|ring| ring["name"] == "data")
                .filter_map(|ring| ring["peak_bytes"].as_u64())
                .sum(),
            drops: drops.filter_map(|(_, n)| n.as_u64()).sum(),
            watch_missed: status["agent"]["watch_missed"].as_u64().unwrap_or_default(),
            statements: (statements_to(&status, self.port)? - before.statements)
                .saturating_sub(OWN_STATEMENTS),
            all_statements: all_statements(&status)?.saturating_sub(before.all_statements),
        })
    }
}

fn all_statements(status: &Value) -> Result<u64> {
    status["totals"]["statements"].as_u64().context("status counts no statements")
}

/// Others may be at work on this host.
fn statements_to(status: &Value, port: u16) -> Result<u64> {
    let ending = format!(":{port}");
    let listens = |server: &Value| {
        let at = server["listens"].as_array().into_iter().flatten().filter_map(Value::as_str);
        at.into_iter().any(|at| at.ends_with(&ending))
    };
    let servers = status["servers"].as_array().context("status lists no servers")?;
    let server = servers.iter().find(|server| listens(server));
    let count = server.and_then(|server| server["statements"].as_u64());
    count.with_context(|| format!("status has no server on port {port}"))
}

struct Measured {
    visits: Vec<Visit>,
    idle_share: f64,
}

impl Measured {
    fn of(&self, mode: Mode, variant: Variant) -> impl Iterator<Item = &Visit> {
        self.visits.iter().filter(move |visit| visit.mode == mode && visit.variant == variant)
    }

    fn median_of(&self, mode: Mode, variant: Variant, figure: impl Fn(&Visit) -> f64) -> f64 {
        median(self.of(mode, variant).map(figure))
    }

    /// The median over the rounds of what `compare` makes of a visit and its round's bare one.
    fn against_bare(
        &self,
        mode: Mode,
        variant: Variant,
        compare: impl Fn(&Visit, &Visit) -> f64,
    ) -> f64 {
        median(self.of(mode, variant).filter_map(|visit| {
            let bare = self.of(mode, Variant::Bare).find(|bare| bare.round == visit.round)?;
            Some(compare(visit, bare))
        }))
    }

    fn added(&self, mode: Mode, variant: Variant, figure: fn(&Visit) -> f64) -> f64 {
        self.against_bare(mode, variant, |visit, bare| figure(visit) - figure(bare))
    }

    fn report(&self, plan: &Plan) -> Report {
        let style = plan.style();
        let mut text = format!(
            "pgbench -S, {CLIENTS} clients over the unix socket, server and clients on one processor, \
             {} rounds of {} s; medians, compared within each round.\n\n",
            plan.rounds(),
            plan.seconds()
        );
        for mode in MODES {
            text += &self.comparison(style, mode);
            text.push('\n');
        }
        text += &self.own_costs(style);
        text += &format!(
            "\nHost CPU is the time in which a processor was not idle, less what the host did \
             before each round's load ({:.1} % of one processor here: more than a few say that \
             others were at work). Process CPU is what the scheduler measured of PostgreSQL, \
             pgbench, dbwarden and its watcher; BPF programs run in PostgreSQL's time, and are in \
             it. Kernel time is the programs' run time as the kernel counts it, in visits of its \
             own, since counting costs something too. Logs are written to a file by the server's \
             processes themselves.\n",
            self.idle_share * 100.0
        );
        Report { text, targets: self.targets() }
    }

    fn comparison(&self, style: Style, mode: Mode) -> String {
        let rows = COMPARED.map(|variant| {
            let mut row = vec![
                variant.name().to_owned(),
                format!("{:.0}", self.median_of(mode, variant, |visit| visit.per_second)),
                times(self.against_bare(mode, variant, |visit, bare| {
                    ratio(visit.per_second, bare.per_second)
                })),
            ];
            for figure in [host_us, processes_us] {
                row.push(format!("{:.1}", self.median_of(mode, variant, figure)));
                row.push(format!("{:+.1}", self.added(mode, variant, figure)));
                row.push(times(self.against_bare(mode, variant, |visit, bare| {
                    ratio(figure(visit), figure(bare))
                })));
            }
            row
        });
        let title = format!("{} protocol; CPU in µs a transaction", capitalised(mode.name()));
        let head = [
            "variant",
            "tx/s",
            "× bare",
            "host CPU",
            "added",
            "× bare",
            "process CPU",
            "added",
            "× bare",
        ];
        table(style, &title, &head, rows.to_vec())
    }

    fn own_costs(&self, style: Style) -> String {
        let mut rows = Vec::new();
        for mode in MODES {
            let kernel = self.kernel_us(mode);
            for variant in [Variant::Dbwarden, Variant::DbwardenKeeping, Variant::DbwardenWatched] {
                let own = || self.own(mode, variant);
                let watch_us =
                    median(own().map(|(_, agent)| agent.watch_us / agent.all_statements as f64));
                let most = |figure: fn(&AgentVisit) -> u64| {
                    own().map(|(_, agent)| figure(agent)).max().unwrap_or_default()
                };
                let sum = |figure: fn(&AgentVisit) -> u64| -> u64 {
                    own().map(|(_, agent)| figure(agent)).sum()
                };
                let watched = variant == Variant::DbwardenWatched;
                let if_watched = |text: String| if watched { text } else { String::new() };
                rows.push(vec![
                    format!("{}: {}", mode.name(), variant.name()),
                    format!("{kernel:.2}"),
                    format!("{:.2}", self.agent_us(mode, variant)),
                    if_watched(format!("{watch_us:.2}")),
                    format!("{:.1}", most(|agent| agent.peak_kib) as f64 / 1024.0),
                    format!(
                        "{:.2}",
                        most(|agent| agent.ring_peak_bytes) as f64 / f64::from(1 << 20)
                    ),
                    sum(|agent| agent.drops).to_string(),
                    if_watched(sum(|agent| agent.watch_missed).to_string()),
                    own().map(|(visit, _)| visit.transactions).sum::<u64>().to_string(),
                    sum(|agent| agent.statements).to_string(),
                ]);
            }
        }
        let head = [
            "dbwarden itself",
            "kernel µs/stmt",
            "agent µs/stmt",
            "watcher µs/stmt",
            "peak MiB",
            "ring peak MiB",
            "drops",
            "watcher missed",
            "transactions",
            "seen",
        ];
        table(style, "What dbwarden itself uses", &head, rows)
    }

    /// Run time of the BPF programs a statement.
    fn kernel_us(&self, mode: Mode) -> f64 {
        let counted = self.own(mode, Variant::DbwardenCounted);
        median(counted.filter_map(|(_, agent)| Some(agent.bpf_us? / agent.all_statements as f64)))
    }

    /// The agent's own time a statement.
    fn agent_us(&self, mode: Mode, variant: Variant) -> f64 {
        let own = self.own(mode, variant);
        median(own.map(|(_, agent)| agent.agent_us / agent.all_statements as f64))
    }

    /// Visits with an agent.
    fn own(&self, mode: Mode, variant: Variant) -> impl Iterator<Item = (&Visit, &AgentVisit)> {
        self.of(mode, variant).filter_map(|visit| Some((visit, visit.agent.as_ref()?)))
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for mode in MODES {
            let share = |figure: fn(&Visit) -> f64| {
                let [ours, theirs] = [Variant::Dbwarden, Variant::Pgaudit]
                    .map(|variant| self.added(mode, variant, figure));
                (ours, theirs, ratio(ours, theirs))
            };
            let (ours, theirs, processes) = share(processes_us);
            let own = self.kernel_us(mode) + self.agent_us(mode, Variant::Dbwarden);
            let (_, _, host) = share(host_us);
            let stretch = if processes <= STRETCH_SHARE { "met" } else { "not met" };
            targets.push(Target {
                what: format!(
                    "{}: added CPU at most {SHARE} of pgaudit's (stretch, {STRETCH_SHARE}: \
                     {stretch})",
                    mode.name()
                ),
                measured: format!(
                    "{ours:.1} of {theirs:.1} µs: {processes:.2} (by host CPU {host:.2}; its own \
                     kernel and agent time: {own:.1} µs)"
                ),
                met: theirs > 0.0 && processes <= SHARE,
            });
        }
        let agents = || self.visits.iter().filter_map(|visit| Some((visit, visit.agent.as_ref()?)));
        let transactions: u64 = agents().map(|(visit, _)| visit.transactions).sum();
        let statements: u64 = agents().map(|(_, agent)| agent.statements).sum();
        targets.push(Target {
            what: "every statement is seen, once".to_owned(),
            measured: format!("{statements} of {transactions}"),
            met: agents().all(|(visit, agent)| visit.transactions == agent.statements),
        });
        let drops: u64 = agents().map(|(_, agent)| agent.drops).sum();
        targets.push(Target {
            what: "no drops with the ring at its default size".to_owned(),
            measured: drops.to_string(),
            met: drops == 0,
        });
        for (keeps, most_kib) in [(false, WATCHING_KIB), (true, KEEPING_KIB)] {
            let of = agents().filter(|(v, _)| (v.variant == Variant::DbwardenKeeping) == keeps);
            let peak = of.map(|(_, agent)| agent.peak_kib).max().unwrap_or_default();
            let ledger = if keeps { "with" } else { "without" };
            targets.push(Target {
                what: format!("agent memory under {} MiB {ledger} a ledger", most_kib >> 10),
                measured: format!("{:.1} MiB", peak as f64 / 1024.0),
                met: peak < most_kib,
            });
        }
        targets
    }
}

/// A transaction of `pgbench -S` is one statement.
fn host_us(visit: &Visit) -> f64 {
    visit.host_us / visit.transactions as f64
}

fn processes_us(visit: &Visit) -> f64 {
    visit.processes_us / visit.transactions as f64
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2}")
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

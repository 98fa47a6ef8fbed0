//! What the visits say: medians over the rounds, ratios within a round.

use super::{
    super::{
        Plan, Report, Target,
        figures::{median, ratio},
        table::table,
    },
    Visit,
    large::Rows,
    transactions::{LOADS, Load, Transactions, WARMING},
    ways::{WAYS, Way},
};

/// What the guard may add, by what PgBouncer adds.
const MOST_ADDED: f64 = 1.3;
/// Of HAProxy's rate.
const LEAST_RATE: f64 = 0.7;
/// Likewise, with two columns masked.
const LEAST_MASKING: f64 = 0.4;
/// Of what the guard costs, where rules mask values for others: the noise of a busy machine.
const MOST_LABELS: f64 = 1.1;

struct Of<'v, T>(&'v [Visit<T>]);

impl<T> Of<'_, T> {
    fn of(&self, way: Way) -> impl Iterator<Item = &Visit<T>> {
        self.0.iter().filter(move |visit| visit.way == way)
    }

    fn median(&self, way: Way, figure: impl Fn(&T) -> f64) -> f64 {
        median(self.of(way).map(|visit| figure(&visit.figures)))
    }

    /// The median of what `compare` makes of a visit and the same round's visit of another way.
    fn against(&self, way: Way, other: Way, compare: impl Fn(&T, &T) -> f64) -> f64 {
        median(self.of(way).filter_map(|visit| {
            let other = self.of(other).find(|other| other.round == visit.round)?;
            Some(compare(&visit.figures, &other.figures))
        }))
    }

    fn times(&self, way: Way, other: Way, figure: impl Fn(&T) -> f64) -> f64 {
        self.against(way, other, |one, other| ratio(figure(one), figure(other)))
    }

    /// What a way adds to what a client has without it.
    fn added(&self, way: Way, figure: impl Fn(&T) -> f64) -> f64 {
        self.added_to(way.without(), way, figure)
    }

    fn added_to(&self, other: Way, way: Way, figure: impl Fn(&T) -> f64) -> f64 {
        self.against(way, other, |one, other| figure(one) - figure(other))
    }
}

pub fn transactions(plan: &Plan, measured: &[Vec<Visit<Transactions>>]) -> Report {
    let mut text = format!(
        "pgbench -S over TCP on loopback; client, proxy and server on one processor, the agent beside its \
         guard off it; {} rounds of {} s, after {WARMING} s that don't count; medians, compared within each \
         round.\n\n",
        plan.rounds(),
        plan.seconds()
    );
    let mut targets = Vec::new();
    for (load, visits) in LOADS.iter().zip(measured) {
        let visits = Of(visits);
        text += &one_load(plan, load, &visits);
        text.push('\n');
        targets.extend(targets_of(load, &visits));
    }
    text += "A proxy's CPU is that of its processes, the guard's with its analysts. The agent's is beside it: \
             it observes what the guard sends, and keeps it. The server's has what BPF programs do in its \
             time. Added is to going direct; what the guard itself adds is to going direct where the agent \
             observes, as it does on its hosts for everybody.\n";
    Report { text, targets }
}

fn one_load(plan: &Plan, load: &Load, visits: &Of<'_, Transactions>) -> String {
    let ways = WAYS.into_iter().filter(|way| way.has_transactions());
    let rows = ways.map(|way| {
        let mut row = vec![
            way.name().to_owned(),
            format!("{:.0}", visits.median(way, |of| of.per_second)),
            format!("{:.2}", visits.times(way, Way::Direct, |of| of.per_second)),
        ];
        for figure in [|of: &Transactions| of.p50_us, |of: &Transactions| of.p99_us] {
            row.push(format!("{:.0}", visits.median(way, figure)));
            row.push(format!("{:+.0}", visits.added_to(Way::Direct, way, figure)));
        }
        let cpu: [fn(&Transactions) -> f64; 3] =
            [|of| of.spent.proxy_us, |of| of.spent.agent_us, |of| of.spent.server_us];
        row.extend(cpu.map(|figure| format!("{:.1}", visits.median(way, figure))));
        row.push(format!("{:.2}", visits.times(way, Way::PgBouncer, |of| of.spent.proxy_us)));
        row
    });
    let head = [
        "way",
        "tx/s",
        "× direct",
        "p50 µs",
        "added",
        "p99 µs",
        "added",
        "proxy CPU",
        "agent CPU",
        "server CPU",
        "proxy × PgBouncer",
    ];
    table(
        plan.style(),
        &format!("pgbench -S, {load}; CPU in µs a transaction"),
        &head,
        rows.collect(),
    )
}

fn targets_of(load: &Load, visits: &Of<'_, Transactions>) -> [Target; 3] {
    let [ours, theirs] = [Way::Guard, Way::PgBouncer].map(|way| visits.added(way, |of| of.p50_us));
    let added = ratio(ours, theirs);
    let all = visits.added_to(Way::Direct, Way::Guard, |of| of.p50_us);
    let cpu = visits.times(Way::Guard, Way::PgBouncer, |of| of.spent.proxy_us);
    let labels = visits.times(Way::Labelled, Way::Catalog, |of| of.spent.proxy_us);
    [
        Target {
            what: format!("{load}: added p50 latency at most {MOST_ADDED} of PgBouncer's"),
            measured: format!(
                "{ours:.1} of {theirs:.1} µs: {added:.2} ({:.2} with the observer's)",
                ratio(all, theirs)
            ),
            met: theirs > 0.0 && added <= MOST_ADDED,
        },
        Target {
            what: format!("{load}: added CPU at most {MOST_ADDED} of PgBouncer's"),
            measured: format!("{cpu:.2}"),
            met: cpu > 0.0 && cpu <= MOST_ADDED,
        },
        Target {
            what: format!("{load}: labels cost no more CPU than {MOST_LABELS} of none"),
            measured: format!("{labels:.2}"),
            met: labels > 0.0 && labels <= MOST_LABELS,
        },
    ]
}

pub fn rows(plan: &Plan, measured: &[Visit<Rows>]) -> Report {
    let visits = Of(measured);
    let ways = WAYS.into_iter().filter(|way| way.has_rows());
    let table_rows = ways.map(|way| {
        vec![
            way.name().to_owned(),
            format!("{:.0}", visits.median(way, |of| of.mb_per_second)),
            format!("{:.2}", visits.times(way, Way::Direct, |of| of.rows_per_second)),
            format!("{:.2}", visits.times(way, Way::Haproxy, |of| of.rows_per_second)),
            format!("{:.0}", visits.median(way, |of| of.spent.proxy_us)),
            format!("{:.0}", visits.median(way, |of| of.spent.agent_us)),
            format!("{:.0}", visits.median(way, |of| of.spent.server_us)),
        ]
    });
    let head = ["way", "MB/s", "× direct", "× HAProxy", "proxy CPU", "agent CPU", "server CPU"];
    let title = "A result of 100 000 rows, one client; CPU in µs a MB";
    let target = |way: Way, what: &str, least: f64| {
        let rate = visits.times(way, Way::Haproxy, |of| of.rows_per_second);
        Target {
            what: format!("{what}: at least {least} of HAProxy's rate"),
            measured: format!("{rate:.2}"),
            met: rate >= least,
        }
    };
    let targets = vec![
        target(Way::Guard, "large results", LEAST_RATE),
        target(Way::Masking, "large results with two masked columns", LEAST_MASKING),
    ];
    Report { text: table(plan.style(), title, &head, table_rows.collect()), targets }
}

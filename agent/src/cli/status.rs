//! `dbwarden status`: health, coverage and losses of the running service.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::Result;

use super::{
    Answer, Common, Format, block_on,
    table::{Align, Table},
    terminal::{Paint, Style, bytes, clean, count, counted, duration, whole_seconds},
};
use crate::control::{
    Client, CopyStatus, GuardStatus, LedgerStatus, ServerStatus, Status, TelemetryStatus,
    WebhookStatus,
};

pub fn status(common: &Common) -> Result<Answer> {
    common.no_csv()?;
    let status = block_on(async { Ok(Client::new(&common.control).status().await?) })?;
    let mut out = io::stdout().lock();
    match common.format() {
        Format::Json | Format::Csv => writeln!(out, "{}", serde_json::to_string(&status)?)?,
        Format::Table => out.write_all(render(&status, Paint::of_stdout()).as_bytes())?,
    }
    Ok(Answer::Done)
}

fn render(status: &Status, paint: Paint) -> String {
    let mut text = String::new();
    let mut fact = |name: &str, style: Style, words: &str| {
        text += &format!("{}  {}\n", paint.paint(Style::Dim, &format!("{name:<9}")), {
            paint.paint(style, &clean(words))
        });
    };
    let Status { capture, agent, .. } = status;
    let totals = &capture.totals;

    let up = whole_seconds(status.uptime_seconds);
    let version = &status.version;
    fact(
        "dbwarden",
        Style::Bold,
        &format!("{version} on {}, pid {}, up {up}", status.host, status.pid),
    );
    if status.stale {
        let words = "the pipeline is busy and did not answer: what follows is its last word before";
        fact("stale", Style::Warning, words);
    }
    match capture.hooks.set.as_str() {
        "" => fact("hooks", Style::Bad, "none: nothing is captured"),
        set if capture.hooks.why.is_empty() => fact("hooks", Style::Plain, set),
        set => fact("hooks", Style::Plain, &format!("{set} ({})", capture.hooks.why)),
    }
    let per_mille = agent.cpu_ms / status.uptime_seconds.max(1);
    fact(
        "costs",
        Style::Plain,
        &format!(
            "{} of memory, {} of CPU ({}.{} % of one core), {} processes remembered",
            bytes(agent.memory_bytes),
            duration(agent.cpu_ms.saturating_mul(1_000)),
            per_mille / 10,
            per_mille % 10,
            count(capture.processes),
        ),
    );
    fact(
        "seen",
        Style::Plain,
        &format!(
            "{} on {} ({} open), {} in, {} out",
            counted(totals.statements, "statement"),
            counted(totals.connections, "connection"),
            count(totals.connections_open),
            bytes(totals.bytes_in),
            bytes(totals.bytes_out),
        ),
    );
    let lost: u64 = totals.drops.values().sum();
    match reasons(&totals.drops) {
        None => fact("lost", Style::Good, "nothing"),
        Some(reasons) => {
            fact("lost", Style::Bad, &format!("{}: {reasons}", counted(lost, "record")));
        }
    }
    let mut blind = Vec::new();
    if totals.blind_connections > 0 {
        blind.push(counted(totals.blind_connections, "encrypted connection"));
    }
    if totals.unobservable_bytes > 0 {
        blind.push(format!("{} past every hook", bytes(totals.unobservable_bytes)));
    }
    if totals.sync_losses > 0 {
        blind.push(format!("message boundaries ({})", counted(totals.sync_losses, "time")));
    }
    match blind.is_empty() {
        true => fact("blind to", Style::Good, "nothing"),
        false => fact("blind to", Style::Warning, &blind.join(", ")),
    }
    if agent.watchers > 0 {
        let missed = match agent.watch_missed {
            0 => String::new(),
            n => format!(", {n} lines missed by slow ones"),
        };
        fact("watchers", Style::Plain, &format!("{}{missed}", agent.watchers));
    }
    if let Some(ledger) = &capture.ledger {
        self::ledger(ledger, &mut fact);
    }
    if let Some(telemetry) = &capture.telemetry {
        self::telemetry(telemetry, &mut fact);
    }
    for webhook in &capture.webhooks {
        self::webhook(webhook, &mut fact);
    }
    if let Some(guard) = &capture.guard {
        self::guard(guard, &mut fact);
    }
    for ring in &capture.rings {
        let per_cent = ring.peak_bytes.saturating_mul(100) / ring.size_bytes.max(1);
        let style = if per_cent >= 50 { Style::Warning } else { Style::Plain };
        let words =
            format!("at most {per_cent} % of {} in use ({})", bytes(ring.size_bytes), ring.name);
        fact("ring", style, &words);
    }

    text.push('\n');
    if capture.servers.is_empty() {
        text += &paint.paint(Style::Warning, "no database server found on this host");
        text.push('\n');
    } else {
        text += &servers(&capture.servers).render(paint);
    }
    for server in capture.servers.iter().filter(|server| !server.verified) {
        let why = server.unverified_because.as_deref().unwrap_or("no reason given");
        let words = clean(&format!("{} (pid {}) is unverified: {why}", server.name, server.pid));
        text += &format!("{}\n", paint.paint(Style::Warning, &words));
    }
    for absent in &capture.absent {
        let words = format!(
            "{} is configured, but no such server runs here: {}",
            absent.name, absent.looked_for
        );
        text += &format!("{}\n", paint.paint(Style::Warning, &clean(&words)));
    }
    text
}

fn ledger(ledger: &LedgerStatus, fact: &mut impl FnMut(&str, Style, &str)) {
    let sealed = counted(ledger.sealed_segments, "sealed segment");
    fact(
        "ledger",
        Style::Plain,
        &format!(
            "{sealed} ({}), {} since ({}) in {}",
            bytes(ledger.sealed_bytes),
            counted(ledger.open_rows, "row"),
            bytes(ledger.open_bytes),
            ledger.directory,
        ),
    );
    if ledger.missed_rows > 0 {
        let words = format!("{} could not be kept", counted(ledger.missed_rows, "row"));
        fact("", Style::Bad, &words);
    }
    for trouble in &ledger.troubles {
        fact("", Style::Bad, trouble);
    }
    if let Some(copies) = &ledger.copies {
        self::copies(copies, fact);
    }
}

fn copies(copies: &CopyStatus, fact: &mut impl FnMut(&str, Style, &str)) {
    let CopyStatus { url, copied, waiting, missed, sent_bytes, trouble } = copies;
    let there = counted(*copied, "segment");
    let words = format!("{there} in {url}, {} wait, {} sent", count(*waiting), bytes(*sent_bytes));
    fact("copies", Style::Plain, &words);
    if *missed > 0 {
        let words = format!("{} removed before being copied", counted(*missed, "segment"));
        fact("", Style::Bad, &words);
    }
    if let Some(trouble) = trouble {
        fact("", Style::Bad, trouble);
    }
}

fn guard(guard: &GuardStatus, fact: &mut impl FnMut(&str, Style, &str)) {
    let passed = counted(guard.passed, "statement");
    let unjudged = match guard.unjudged {
        0 => String::new(),
        n => format!(", {} need no guard", count(n)),
    };
    let waiting = match guard.approvals_open.iter().map(|open| open.hold + open.ticket).sum() {
        0 => String::new(),
        n => format!(", {} open (dbwarden approvals list)", counted(n, "approval")),
    };
    let words = format!(
        "{} passed, {} denied, {} ({} open), {} refused{unjudged}{waiting}",
        passed,
        count(guard.denied),
        counted(guard.clients, "client"),
        count(guard.clients_open),
        count(guard.refused),
    );
    match guard.stands {
        true => fact("guard", Style::Good, &words),
        false => fact("guard", Style::Bad, &format!("does not stand: {words}")),
    }
    if guard.inherited > 0 {
        let columns = counted(guard.inherited, "column");
        let words = format!("{columns} with inherited labels (dbwarden labels list)");
        fact("", Style::Plain, &words);
    }
    if guard.differing > 0 {
        let connections = counted(guard.differing, "connection");
        let words =
            format!("{connections} on which the server got something else than the guard sent");
        fact("", Style::Bad, &words);
    }
    if let Some(problem) = &guard.problem {
        fact("guard", Style::Bad, problem);
    }
    for server in &guard.servers {
        let socket = server.socket.as_ref().filter(|_| server.socket_problem.is_none());
        let ways = [server.listens.as_ref(), socket];
        let ways: Vec<&str> = ways.into_iter().flatten().map(String::as_str).collect();
        let way = match ways.as_slice() {
            [] => format!("{}, {}", server.name, server.steering),
            ways => format!("{}, {}; or by {}", server.name, server.steering, ways.join(", ")),
        };
        match &server.problem {
            None => {
                fact("guarded", Style::Plain, &way);
                if let Some(unix) = &server.unix {
                    fact("", Style::Plain, unix);
                }
                if let (Some(at), Some(why)) = (&server.socket, &server.socket_problem) {
                    fact("", Style::Bad, &format!("no guard at {at}: {why}"));
                }
                if let Some(why) = &server.network {
                    fact("", Style::Warning, &format!("clients from the network are not: {why}"));
                }
                if let Some(why) = &server.certificate {
                    fact("", Style::Bad, &format!("its certificate of before is shown: {why}"));
                }
                match &server.catalog {
                    Some(Ok(words)) => fact("", Style::Plain, &format!("its catalog: {words}")),
                    Some(Err(why)) => fact("", Style::Warning, &format!("its catalog: {why}")),
                    None => {}
                }
                for lack in &server.lacks {
                    fact("", Style::Warning, lack);
                }
            }
            Some(problem) => {
                fact("guarded", Style::Bad, &format!("{}, not reached: {problem}", server.name));
            }
        }
    }
}

fn telemetry(telemetry: &TelemetryStatus, fact: &mut impl FnMut(&str, Style, &str)) {
    for signal in &telemetry.signals {
        let words = format!(
            "to {}, {} sent, {} wait",
            signal.endpoint,
            count(signal.sent),
            count(signal.waiting)
        );
        fact(&signal.signal, Style::Plain, &words);
        if let Some(reasons) = reasons(&signal.dropped) {
            fact("", Style::Bad, &format!("dropped: {reasons}"));
        }
        if let Some(trouble) = &signal.trouble {
            fact("", Style::Bad, trouble);
        }
    }
    if let Some(address) = &telemetry.prometheus {
        fact("scraped", Style::Plain, &format!("at http://{address}/metrics"));
        if let Some(trouble) = &telemetry.prometheus_trouble {
            fact("", Style::Bad, trouble);
        }
    }
}

fn webhook(webhook: &WebhookStatus, fact: &mut impl FnMut(&str, Style, &str)) {
    let WebhookStatus { name, target, waiting, sent, lost, trouble } = webhook;
    let words = format!("{name} to {target}, {} sent, {} wait", count(*sent), count(*waiting));
    fact("webhook", Style::Plain, &words);
    if let Some(reasons) = reasons(lost) {
        fact("", Style::Bad, &format!("lost: {reasons}"));
    }
    if let Some(trouble) = trouble {
        fact("", Style::Bad, trouble);
    }
}

/// Those that there are.
fn reasons(counts: &BTreeMap<String, u64>) -> Option<String> {
    let counted = counts.iter().filter(|(_, n)| **n > 0);
    let reasons: Vec<String> = counted.map(|(reason, n)| format!("{reason} {n}")).collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

fn servers(servers: &[ServerStatus]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("SERVER", Left),
        ("ENGINE", Left),
        ("PID", Right),
        ("LISTENS", Left),
        ("TLS", Left),
        ("OPEN", Right),
        ("BLIND", Right),
        ("STATEMENTS", Right),
        ("IN", Right),
        ("OUT", Right),
    ]);
    for server in servers {
        let engine = match &server.version {
            Some(version) => format!("{} {version}", server.engine),
            None => server.engine.clone(),
        };
        let named = if server.verified { Style::Bold } else { Style::Warning };
        let tls = if server.tls == "observed" { Style::Good } else { Style::Plain };
        let blind = if server.blind_connections > 0 { Style::Warning } else { Style::Dim };
        table.row(vec![
            (named, clean(&server.name)),
            (Style::Plain, clean(&engine)),
            (Style::Plain, server.pid.to_string()),
            (Style::Plain, clean(&server.listens.join(" "))),
            (tls, clean(&server.tls)),
            (Style::Plain, count(server.connections_open)),
            (blind, count(server.blind_connections)),
            (Style::Plain, count(server.statements)),
            (Style::Plain, bytes(server.bytes_in)),
            (Style::Plain, bytes(server.bytes_out)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Paint, render};
    use crate::control::{
        AbsentServer, Agent, CopyStatus, GuardStatus, GuardedServer, Hooks, LedgerStatus,
        OpenApprovals, Ring, ServerStatus, SignalStatus, Snapshot, Status, TelemetryStatus, Totals,
        WebhookStatus,
    };

    fn busy() -> Status {
        let main = ServerStatus {
            name: "main".into(),
            engine: "postgresql".into(),
            version: Some("15.4".into()),
            pid: 812,
            verified: true,
            listens: vec!["127.0.0.1:5432".into(), "/run/postgresql/.s.PGSQL.5432".into()],
            tls: "observed".into(),
            connections_open: 12,
            connections: 300,
            statements: 1_204_221,
            bytes_in: 90 << 20,
            bytes_out: 3 << 30,
            ..ServerStatus::default()
        };
        let fake = ServerStatus {
            name: "postgres-999".into(),
            engine: "postgresql".into(),
            pid: 999,
            unverified_because: Some("/tmp/postgres\x1b[2J belongs to uid 1000".into()),
            listens: vec!["0.0.0.0:5499".into()],
            tls: "off".into(),
            blind_connections: 2,
            ..ServerStatus::default()
        };
        Status {
            version: "0.1.0".into(),
            pid: 4_711,
            host: "db1".into(),
            uptime_seconds: 11_520,
            agent: Agent { memory_bytes: 38 << 20, cpu_ms: 12_100, watchers: 1, watch_missed: 0 },
            stale: false,
            capture: Snapshot {
                hooks: Hooks { set: "tp_btf".into(), why: "best of this kernel".into() },
                servers: vec![main, fake],
                absent: vec![AbsentServer {
                    name: "orders".into(),
                    looked_for: "port 5433".into(),
                }],
                totals: Totals {
                    statements: 1_204_221,
                    connections: 302,
                    connections_open: 12,
                    bytes_in: 90 << 20,
                    bytes_out: 3 << 30,
                    drops: [("ring full".to_owned(), 3), ("page fault".to_owned(), 0)].into(),
                    blind_connections: 2,
                    ..Totals::default()
                },
                rings: vec![Ring {
                    name: "data".into(),
                    size_bytes: 16 << 20,
                    peak_bytes: 1 << 20,
                }],
                processes: 412,
                guard: Some(GuardStatus {
                    stands: true,
                    servers: vec![GuardedServer {
                        name: "main".into(),
                        listens: Some("127.0.0.1:6432".into()),
                        problem: None,
                        steering: "its clients are led to the guard".into(),
                        network: Some("the server doesn't listen on 127.0.0.1".into()),
                        certificate: None,
                        unix: Some("clients of its unix socket are led to the guard".into()),
                        socket: Some("/run/postgresql/.s.PGSQL.5432".into()),
                        socket_problem: Some("the server was not found".into()),
                        catalog: Some(Ok("it is asked, and estimates".into())),
                        lacks: vec!["orders: label pii: there is no orders.public.x.y".into()],
                    }],
                    passed: 1_200,
                    denied: 3,
                    approvals_open: vec![OpenApprovals {
                        server: "main".into(),
                        hold: 1,
                        ticket: 1,
                    }],
                    differing: 1,
                    clients: 40,
                    clients_open: 2,
                    ..GuardStatus::default()
                }),
                ledger: Some(LedgerStatus {
                    directory: "/var/lib/dbwarden/ledger".into(),
                    open_rows: 1_200,
                    open_bytes: 130 << 10,
                    sealed_segments: 7,
                    sealed_bytes: 41 << 20,
                    missed_rows: 3,
                    troubles: vec!["the file system is full".into()],
                    copies: Some(CopyStatus {
                        url: "s3://ledgers/fleet".into(),
                        copied: 5,
                        waiting: 2,
                        missed: 1,
                        sent_bytes: 9 << 20,
                        trouble: Some("the bucket is away".into()),
                    }),
                    ..LedgerStatus::default()
                }),
                telemetry: Some(TelemetryStatus {
                    signals: vec![SignalStatus {
                        signal: "traces".into(),
                        endpoint: "https://otel:4317".into(),
                        waiting: 12,
                        sent: 4_000,
                        dropped: [("queue_full".to_owned(), 7), ("refused".to_owned(), 0)].into(),
                        trouble: Some("the backend is away".into()),
                    }],
                    prometheus: Some("127.0.0.1:9464".into()),
                    prometheus_trouble: None,
                }),
                webhooks: vec![WebhookStatus {
                    name: "oncall".into(),
                    target: "https://alerts/dbwarden".into(),
                    waiting: 3,
                    sent: 40,
                    lost: [("expired".to_owned(), 2), ("refused".to_owned(), 0)].into(),
                    trouble: Some("HTTP 503".into()),
                }],
            },
        }
    }

    #[test]
    fn a_busy_service() {
        let expected = "\
dbwarden   0.1.0 on db1, pid 4711, up 3 h 12 m
hooks      tp_btf (best of this kernel)
costs      38 MiB of memory, 12.1 s of CPU (0.1 % of one core), 412 processes remembered
seen       1.2M statements on 302 connections (12 open), 90 MiB in, 3 GiB out
lost       3 records: ring full 3
blind to   2 encrypted connections
watchers   1
ledger     7 sealed segments (41 MiB), 1200 rows since (130 KiB) in /var/lib/dbwarden/ledger
           3 rows could not be kept
           the file system is full
copies     5 segments in s3://ledgers/fleet, 2 wait, 9 MiB sent
           1 segment removed before being copied
           the bucket is away
traces     to https://otel:4317, 4000 sent, 12 wait
           dropped: queue_full 7
           the backend is away
scraped    at http://127.0.0.1:9464/metrics
webhook    oncall to https://alerts/dbwarden, 40 sent, 3 wait
           lost: expired 2
           HTTP 503
guard      1200 statements passed, 3 denied, 40 clients (2 open), 0 refused, 2 approvals open (dbwarden approvals list)
           1 connection on which the server got something else than the guard sent
guarded    main, its clients are led to the guard; or by 127.0.0.1:6432
           clients of its unix socket are led to the guard
           no guard at /run/postgresql/.s.PGSQL.5432: the server was not found
           clients from the network are not: the server doesn't listen on 127.0.0.1
           its catalog: it is asked, and estimates
           orders: label pii: there is no orders.public.x.y
ring       at most 6 % of 16 MiB in use (data)

SERVER        ENGINE           PID  LISTENS                                       TLS       OPEN  BLIND  STATEMENTS      IN    OUT
main          postgresql 15.4  812  127.0.0.1:5432 /run/postgresql/.s.PGSQL.5432  observed    12      0        1.2M  90 MiB  3 GiB
postgres-999  postgresql       999  0.0.0.0:5499                                  off          0      2           0     0 B    0 B
postgres-999 (pid 999) is unverified: /tmp/postgres\u{fffd}[2J belongs to uid 1000
orders is configured, but no such server runs here: port 5433
";
        assert_eq!(render(&busy(), Paint { colour: false }), expected);
    }

    #[test]
    fn trouble_stands_out() {
        let text = render(&busy(), Paint { colour: true });
        for expected in [
            "\x1b[31m3 records: ring full 3\x1b[0m",
            "\x1b[33m2 encrypted connections\x1b[0m",
            "\x1b[33morders is configured",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        let nothing = render(&Status::default(), Paint { colour: true });
        for expected in
            ["\x1b[31mnone: nothing is captured\x1b[0m", "\x1b[33mno database server found"]
        {
            assert!(nothing.contains(expected), "{nothing}");
        }
    }

    #[test]
    fn what_is_served_is_read_back() {
        let served = serde_json::to_string(&busy()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&served).unwrap(), busy());
        assert_eq!(serde_json::from_str::<Status>("{}").unwrap(), Status::default());
    }
}

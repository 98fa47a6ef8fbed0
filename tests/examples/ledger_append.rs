//! What a row costs the ledger, appended and sealed: CPU time and bytes, for two mixes of statements.
//!
//! `ledger_append MILLIONS_OF_ROWS ROUNDS` writes one line of JSON for each measurement; `cargo xtask
//! bench ledger` runs it.

use std::{
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dbwarden::{
    event::{
        Access, Analysis, ConnectionId, Effect, Effects, Engine, Entry, Facts, Lane, LoginStrength,
        Origin, Parent, Record, StatementKind, TableAccess, Transport, WallTime,
    },
    ledger::{Appended, Ledger, LedgerStatus, Options, keys::Keys, root_log::RootLog},
};
use dbwarden_tests::pattern::Numbers;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;

/// Made beforehand, then appended again and again with later times.
const PREPARED: usize = 200_000;
const CONNECTIONS: usize = 8;
const START_US: i64 = 1_764_000_000_000_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [millions, rounds] = arguments.as_slice() else {
        anyhow::bail!("usage: ledger_append MILLIONS_OF_ROWS ROUNDS");
    };
    let n_rows = (millions.parse::<f64>().context("MILLIONS_OF_ROWS")? * 1e6) as usize;
    for _ in 0..rounds.parse::<u32>().context("ROUNDS")? {
        measure("pgbench", pgbench(), n_rows)?;
        measure("5000 texts", distinct_texts(), n_rows)?;
        measure_recovery(pgbench(), n_rows)?;
    }
    Ok(())
}

/// As the service opens it, but for the size at which it seals.
fn open(folder: &Path, seal_bytes: Option<u64>) -> Result<Ledger> {
    let directory = folder.join("ledger");
    let mut options = Options { min_free_bytes: 0, ..Options::new(&directory) };
    options.seal_bytes = seal_bytes.unwrap_or(options.seal_bytes);
    let now = WallTime(START_US);
    let keys = Keys::open_or_create(&folder.join("keys"), "db-1")?;
    let proof = RootLog::open(&directory, keys, now)?;
    Ok(Ledger::open(options, "db-1", Box::new(proof), now)?)
}

/// How long an open log keeps the service from starting after a crash.
fn measure_recovery(mut entries: Vec<Entry>, n_rows: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut ledger = open(folder.path(), Some(u64::MAX))?;
    append(&mut ledger, &mut entries, n_rows)?;
    ledger.close()?;
    let begun = Instant::now();
    let ledger = open(folder.path(), Some(u64::MAX))?;
    let took = begun.elapsed().as_secs_f64();
    let gb = ledger.status().open_bytes as f64 / 1e9;
    println!("{}", json!({"recovery_s_per_gb": took / gb}));
    Ok(ledger.close()?)
}

/// Appends the entries again and again; gives the time of the last.
fn append(ledger: &mut Ledger, entries: &mut [Entry], n_rows: usize) -> Result<WallTime> {
    let span = times(entries).max().context("no entries")?.0 - START_US + 100;
    let mut now = WallTime(START_US);
    let mut appended = 0;
    while appended < n_rows {
        for entry in entries.iter_mut().take(n_rows - appended) {
            while ledger.append(entry) == Appended::Full {
                thread::sleep(Duration::from_millis(1));
                ledger.tick(now);
            }
            appended += 1;
            if appended % 1000 == 0 {
                ledger.tick(now);
            }
            let Entry::Statement(record) = entry else { continue };
            now = now.max(record.time);
            record.time.0 += span;
        }
    }
    Ok(now)
}

fn measure(mix: &str, mut entries: Vec<Entry>, n_rows: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut ledger = open(folder.path(), None)?;
    let (cpu, begun) = (cpu_time()?, Instant::now());
    let mut now = append(&mut ledger, &mut entries, n_rows)?;
    let (append_cpu, append_wall) = (cpu_time()? - cpu, begun.elapsed());
    let is_sealed = |status: &LedgerStatus| {
        status.sealed_segments > 0 && status.unsealed_segments == 0 && status.open_rows == 0
    };
    while !is_sealed(&ledger.status()) {
        // An age at which the last segment is sealed too.
        now.0 += 7_200_000_000;
        ledger.tick(now);
        thread::sleep(Duration::from_millis(20));
    }
    let cpu = cpu_time()? - cpu;
    let status = ledger.status();
    ensure!(status.failing.is_none() && status.unproven.is_none(), "{status:?}");
    let us_per_row = |time: Duration| time.as_secs_f64() * 1e6 / n_rows as f64;
    println!(
        "{}",
        json!({
            "mix": mix,
            "rows": n_rows,
            "append_us": us_per_row(append_cpu),
            "append_and_seal_us": us_per_row(cpu),
            "rows_per_second": n_rows as f64 / append_wall.as_secs_f64(),
            "bytes_per_row": status.sealed_bytes as f64 / n_rows as f64,
            "ledger_mib": peak_mib()? - entries_mib(&entries),
        })
    );
    Ok(ledger.close()?)
}

fn times(entries: &[Entry]) -> impl Iterator<Item = WallTime> {
    entries.iter().filter_map(|entry| match entry {
        Entry::Statement(record) => Some(record.time),
        _ => None,
    })
}

fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let [user, system] = [usage.user_time(), usage.system_time()]
        .map(|time| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000));
    Ok(user + system)
}

fn peak_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn entries_mib(entries: &[Entry]) -> f64 {
    let lists = entries.iter().map(|entry| match entry {
        Entry::Statement(record) => record.keys.len() * 80,
        _ => 0,
    });
    (size_of_val(entries) + lists.sum::<usize>()) as f64 / f64::from(1 << 20)
}

/// One statement of a script.
struct Script {
    facts: Arc<Facts>,
    text: Arc<str>,
    key: Option<(&'static str, u64)>,
    bytes_in: u64,
    bytes_out: u64,
    rows: Option<u64>,
    transaction: &'static str,
    micros: u64,
}

fn script(
    text: &str,
    summary: &str,
    effects: &[Effect],
    tables: &[(&str, Access)],
    columns: &[&str],
    key: Option<(&'static str, u64)>,
    (bytes_in, bytes_out, micros): (u64, u64, u64),
) -> Script {
    let facts = Facts {
        text: text.into(),
        fingerprint: text.bytes().fold(7, |hash: u64, byte| {
            hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(byte.into())
        }),
        summary: summary.into(),
        effects: effects.iter().copied().collect::<Effects>(),
        tables: tables
            .iter()
            .map(|(name, access)| TableAccess { name: (*name).into(), access: *access })
            .collect(),
        columns: columns.iter().map(|column| (*column).into()).collect(),
        ..Facts::nothing(Analysis::Complete)
    };
    Script {
        text: facts.text.clone(),
        facts: Arc::new(facts),
        key,
        bytes_in,
        bytes_out,
        rows: Some(1),
        transaction: "in_transaction",
        micros,
    }
}

fn pgbench() -> Vec<Entry> {
    use Access::{Insert, Read, Update};
    let control = |text, transaction| Script {
        transaction,
        rows: None,
        ..script(text, text, &[Effect::Session], &[], &[], None, (20, 30, 30))
    };
    let update = |table: &'static str, column: &'static str, balance: &str, key, micros| {
        let text = format!("UPDATE {table} SET {balance} = {balance} + $1 WHERE {column} = $2;");
        let columns = [format!("{table}.{balance}"), format!("{table}.{column}")];
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let effects = [Effect::Read, Effect::Update];
        let tables = [(table, Read), (table, Update)];
        script(
            &text,
            &format!("UPDATE {table}"),
            &effects,
            &tables,
            &columns,
            Some(key),
            (52, 35, micros),
        )
    };
    let scripts = [
        control("BEGIN;", "in_transaction"),
        update("pgbench_accounts", "aid", "abalance", ("pgbench_accounts.aid", 1_000_000), 180),
        script(
            "SELECT abalance FROM pgbench_accounts WHERE aid = $1;",
            "SELECT pgbench_accounts",
            &[Effect::Read],
            &[("pgbench_accounts", Read)],
            &["pgbench_accounts.abalance", "pgbench_accounts.aid"],
            Some(("pgbench_accounts.aid", 1_000_000)),
            (48, 58, 90),
        ),
        update("pgbench_tellers", "tid", "tbalance", ("pgbench_tellers.tid", 100), 150),
        update("pgbench_branches", "bid", "bbalance", ("pgbench_branches.bid", 10), 160),
        script(
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP);",
            "INSERT pgbench_history",
            &[Effect::Insert],
            &[("pgbench_history", Insert)],
            &["tid", "bid", "aid", "delta", "mtime"],
            None,
            (66, 32, 100),
        ),
        control("END;", "idle"),
    ];
    entries(&scripts, true)
}

fn distinct_texts() -> Vec<Entry> {
    let scripts: Vec<Script> = (0..5000)
        .map(|n| {
            let table = format!("table_{}", n % 97);
            let text = format!(
                "SELECT a.id, a.name, b.value_{n} FROM {table} AS a JOIN other_{} AS b ON a.id = b.id \
                 WHERE a.created > ? AND b.kind = ? ORDER BY a.name LIMIT ?",
                n % 31
            );
            let columns = [format!("{table}.id"), format!("{table}.name"), format!("value_{n}")];
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let tables = [(&*table, Access::Read), ("other", Access::Read)];
            let summary = format!("SELECT {table}");
            script(&text, &summary, &[Effect::Read], &tables, &columns, None, (240, 400, 700))
        })
        .collect();
    entries(&scripts, false)
}

/// Each connection runs the scripts in turn (or any), and each statement is appended when it ends.
fn entries(scripts: &[Script], in_turn: bool) -> Vec<Entry> {
    let mut numbers = Numbers(1);
    let origins: Vec<Arc<Origin>> = (0..CONNECTIONS).map(|n| Arc::new(origin(n))).collect();
    let mut clocks = [START_US; CONNECTIONS];
    let mut sequences = [0; CONNECTIONS];
    let mut accounts = [0; CONNECTIONS];
    let mut ended = Vec::with_capacity(PREPARED);
    for _ in 0..PREPARED {
        let connection = (0..CONNECTIONS).min_by_key(|&n| clocks[n]).unwrap_or_default();
        let turn = if in_turn { sequences[connection] } else { numbers.draw() };
        let script = &scripts[(turn % scripts.len() as u64) as usize];
        if turn % scripts.len() as u64 == 0 {
            accounts[connection] = numbers.draw();
        }
        let duration = script.micros + numbers.below(script.micros) * numbers.below(4) / 3;
        let start = clocks[connection];
        let think = 20 + numbers.below(30);
        clocks[connection] += (duration + think) as i64;
        sequences[connection] += 1;
        let keys = script.key.map(|(column, n_values)| {
            let value = (accounts[connection] % n_values).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Arc::<str>::from(format!("{column}={:016x}", Numbers(value).draw()))
        });
        let record = Record {
            time: WallTime(start),
            duration_us: Some(duration),
            first_byte_us: Some(duration - numbers.below(10)),
            origin: origins[connection].clone(),
            sequence: sequences[connection],
            claims: None,
            text: Some(script.text.clone()),
            standard_conforming_strings: Some(true),
            parameters: Vec::new(),
            kind: StatementKind::Extended,
            facts: Some(script.facts.clone()),
            keys: keys.into_iter().collect(),
            rows: script.rows,
            bytes_in: script.bytes_in + numbers.below(6),
            bytes_out: script.bytes_out + numbers.below(3),
            error_code: None,
            error_message: None,
            redacted_error: None,
            transaction: Some(script.transaction),
            judgement: None,
            approval: None,
            masked: Arc::default(),
            truncated_bytes: 0,
            lost_bytes: 0,
            joined_midstream: false,
        };
        ended.push((start + duration as i64, Entry::Statement(record)));
    }
    ended.sort_by_key(|(end, _)| *end);
    ended.into_iter().map(|(_, entry)| entry).collect()
}

fn origin(n: usize) -> Origin {
    let text = |text: &str| Some(Arc::<str>::from(text));
    Origin {
        host: "db-1".into(),
        environment: text("production"),
        server: text("postgresql:5432"),
        engine: Some(Engine::Postgresql),
        server_address: text("127.0.0.1"),
        server_port: Some(5432),
        transport: Some(Transport::Tcp),
        lane: Some(Lane::Observed),
        connection: Some(ConnectionId(0x67ab_0000_0000_0000 + n as u64)),
        database: text("pgbench"),
        db_user: text("app"),
        application: text("pgbench"),
        client_address: text("127.0.0.1"),
        client_port: Some(40_000 + 13 * n as u16),
        pid: Some(4711),
        process_start: Some(WallTime(START_US - 1_000_000)),
        exe: text("/usr/lib/postgresql/15/bin/pgbench"),
        command: text("pgbench -M prepared -c 8 -T 60 pgbench"),
        uid: Some(1000),
        os_user: text("ada"),
        login_uid: Some(1000),
        login_user: text("ada"),
        login_strength: Some(LoginStrength::Strong),
        session: Some(3),
        tty: text("pts/0"),
        parents: [(4700, "bash"), (4600, "sshd"), (1, "systemd")]
            .map(|(pid, comm)| Parent { pid, comm: comm.into() })
            .into(),
        cgroup: text("/user.slice/user-1000.slice/session-3.scope"),
        unit: text("session-3.scope"),
        ..Origin::default()
    }
}

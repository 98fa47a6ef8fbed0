//! What clients can do to the agent's memory: thousands of them, endless statements, garbage.

use std::{fs, time::Instant};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Via, Wire, await_until, need_root};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// What the agent may take at any time, with its ledger, besides its own code: of that an optimised program has 65 MiB in
/// memory, with which it stays below 150, and an unoptimised one 110 MiB and more.
const BOUND: u64 = 60 * MIB;

/// Memory of a process besides the files that are mapped into it: now, and at its peak.
fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok::<_, anyhow::Error>(kib.with_context(|| format!("no {name}"))? * 1024)
    };
    let files = bytes("RssFile:")?;
    Ok((bytes("VmRSS:")?.saturating_sub(files), bytes("VmHWM:")?.saturating_sub(files)))
}

fn check_memory(agent: &Agent, when: &str) -> Result<()> {
    let (now, peak) = memory(agent.pid())?;
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    println!("{when}: {:.1} MiB besides its code, {:.1} MiB at the peak", mib(now), mib(peak));
    ensure!(peak < BOUND, "{when}: {:.1} MiB at the peak", mib(peak));
    Ok(())
}

fn totals(agent: &Agent) -> Result<Value> {
    Ok(agent.status()?["totals"].clone())
}

fn total(agent: &Agent, name: &str) -> Result<u64> {
    totals(agent)?[name].as_u64().with_context(|| format!("status has no {name}"))
}

#[test]
fn thousands_of_connections() -> Result<()> {
    need_root!();
    const IDLE: usize = 5_000;
    const BUSY: usize = 500;
    const ROUNDS: usize = 10;
    let postgres = Postgres::builder()
        .max_connections(5_600)
        .setting("shared_buffers", "16MB")
        .setting("max_wal_senders", "0")
        .setting("wal_level", "minimal")
        .setting("autovacuum", "off")
        .start()?;
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    check_memory(&agent, "alone")?;
    let begun = Instant::now();
    let mut idle = Vec::with_capacity(IDLE);
    for n in 0..IDLE {
        idle.push(Wire::connect(&postgres, &format!("idle {n}"))?);
    }
    let mut busy = Vec::with_capacity(BUSY);
    for n in 0..BUSY {
        busy.push(Wire::connect(&postgres, &format!("busy {n}"))?);
    }
    println!("{} connections in {:.1} s", IDLE + BUSY, begun.elapsed().as_secs_f64());
    await_until("the last connection", || {
        Ok((total(&agent, "connections_open")? >= (IDLE + BUSY) as u64).then_some(()))
    })?;
    check_memory(&agent, "all connected")?;
    let before = total(&agent, "statements")?;
    for round in 0..ROUNDS {
        // All of them at once, with answers of several kilobytes.
        for wire in &mut busy {
            wire.send_extended(&format!(
                "SELECT repeat('x', 100), {round} FROM generate_series(1, 40)"
            ))?;
        }
        for wire in &mut busy {
            ensure!(wire.answer()?.rows == 40);
        }
        // What 500 connections say in a round fits into the ring; all rounds together may not, where an
        // unoptimised agent shares two processors with them.
        let expected = before + (BUSY * (round + 1)) as u64;
        await_until("the round's last statement", || {
            Ok((total(&agent, "statements")? >= expected).then_some(()))
        })?;
    }
    check_memory(&agent, "busy")?;
    // The idle ones are still known.
    let watch = agent.watch()?;
    let last = idle.last_mut().context("idle connections")?;
    last.query("SELECT 'still here'")?;
    let seen = watch.statements(1, |record| record["text"] == "SELECT 'still here'")?;
    assert_eq!(seen[0]["application"], format!("idle {}", IDLE - 1));
    assert_eq!(seen[0]["db_user"], "postgres");
    let totals = totals(&agent)?;
    assert_eq!(totals["drops"], serde_json::json!({}));
    drop((idle, busy));
    await_until("the end of all connections", || {
        Ok((total(&agent, "connections_open")? == 0).then_some(()))
    })?;
    check_memory(&agent, "all gone")
}

#[test]
fn a_statement_of_200_mb() -> Result<()> {
    need_root!();
    const LEN: usize = 200_000_000;
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    let mut wire = Wire::connect(&postgres, "large")?;
    let text = format!("/* {} */ SELECT 1", "x".repeat(LEN));
    for extended in [false, true] {
        if extended {
            wire.send_extended(&text)?;
        } else {
            wire.send_query(&text)?;
        }
        assert_eq!(wire.answer()?.rows, 1);
        let seen = watch.statements(1, |record| record["application"] == "large")?;
        let seen = seen.first().context("one statement")?;
        let kept = seen["text"].as_str().unwrap_or_default();
        ensure!(text.starts_with(kept), "another text");
        let number = |name: &str| seen[name].as_u64().unwrap_or_default();
        let (truncated, lost) = (number("truncated_bytes"), number("lost_bytes"));
        println!("{} bytes kept, {truncated} truncated, {lost} lost", kept.len());
        ensure!(
            kept.len() as u64 + truncated + lost >= text.len() as u64,
            "more is missing: {}",
            text.len()
        );
        // A little more than the text: the message around it.
        ensure!(kept.len() as u64 + truncated + lost <= text.len() as u64 + 64);
        ensure!(number("bytes_in") >= text.len() as u64);
        assert_eq!((seen["rows"].as_u64(), &seen["error_code"]), (Some(1), &Value::Null));
        check_memory(&agent, "after it")?;
        // What follows on the connection is right.
        wire.query("SELECT generate_series(1, 3)")?;
        let seen = watch.statements(1, |record| record["application"] == "large")?;
        assert_eq!(seen[0]["text"], "SELECT generate_series(1, 3)");
        assert_eq!((&seen[0]["rows"], &seen[0]["lost_bytes"]), (&3.into(), &0.into()));
    }
    Ok(())
}

/// Bytes that no PostgreSQL client sends.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    };
    let startup = b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0".to_vec();
    vec![
        ("http", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("tls", [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(), random(500)].concat()),
        ("short", random(3)),
        ("random", random(9_000)),
        ("long", random(200_000)),
        ("a length too large", b"\x7f\xff\xff\xff\0\x03\0\0user\0".to_vec()),
        ("a session, then random", [startup.clone(), random(5_000)].concat()),
        (
            "a session, then a length too large",
            [startup, b"Q\xff\xff\xff\xffSELECT 1".to_vec()].concat(),
        ),
    ]
}

#[test]
fn garbage_on_the_port() -> Result<()> {
    need_root!();
    const TIMES: usize = 50;
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    let kinds = garbage();
    for _ in 0..TIMES {
        for (name, bytes) in &kinds {
            let mut wire = Wire::open(&postgres)?;
            // The server may have hung up already.
            if wire.send(bytes).is_ok() {
                wire.finish_sending().with_context(|| (*name).to_owned()).ok();
            }
            wire.read_to_end()?;
        }
    }
    postgres.psql(Via::Unix, "SELECT 'in between' FROM generate_series(1, 2)")?;
    let seen = watch.statements(1, |record| {
        record["text"].as_str().is_some_and(|text| text.starts_with("SELECT 'in between'"))
    })?;
    assert_eq!((&seen[0]["rows"], &seen[0]["joined_midstream"]), (&2.into(), &false.into()));
    let losses = total(&agent, "sync_losses")?;
    println!("{losses} sync losses in {} connections", TIMES * kinds.len());
    ensure!(losses >= TIMES as u64, "{losses} sync losses");
    check_memory(&agent, "after the garbage")
}

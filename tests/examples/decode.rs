//! Measures the PostgreSQL decoder: for `cargo xtask bench decode`, which reads its lines of JSON.
//!
//! Arguments: rounds, and seconds of each visit to a subject.

#[path = "../tests/postgres_transcripts/transcript.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod transcript;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env,
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dbwarden::{
    event::{BootTime, Direction, Engine, SessionEvent},
    protocol::{Limits, Session},
};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use transcript::Call;

/// Counts what the decoder asks for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: `System` does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: likewise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: likewise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Statements of a synthetic connection: enough that its start doesn't show.
const STATEMENTS: usize = 10_000;

/// What is decoded: whole connections.
struct Subject {
    name: &'static str,
    connections: Vec<Vec<Call>>,
}

fn subjects() -> Result<Vec<Subject>> {
    let recorded = transcript::all("postgresql-")?;
    ensure!(!recorded.is_empty(), "no transcripts are recorded");
    let recorded = recorded.into_iter().map(|transcript| transcript.calls).collect();
    Ok(vec![
        Subject { name: "recorded transcripts", connections: recorded },
        Subject { name: "pgbench -S -M prepared", connections: vec![pgbench(prepared)] },
        Subject { name: "pgbench -S -M simple", connections: vec![pgbench(simple)] },
    ])
}

/// One call with these messages.
fn call(direction: Direction, messages: &[(u8, &[u8])]) -> Call {
    let mut bytes = Vec::new();
    for (tag, body) in messages {
        bytes.push(*tag);
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
    }
    Call { direction, bytes }
}

/// A connection from its start-up on, with what `statement` makes of each number.
fn pgbench(statement: fn(usize) -> [Call; 2]) -> Vec<Call> {
    let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
    startup.extend_from_slice(b"user\0bench\0database\0bench\0application_name\0pgbench\0\0");
    startup[3] = startup.len() as u8;
    let parse = b"P_0\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0";
    let mut calls = vec![
        Call { direction: Direction::Request, bytes: startup },
        call(Direction::Response, &[(b'R', &[0; 4]), (b'Z', b"I")]),
        call(Direction::Request, &[(b'P', parse), (b'S', b"")]),
        call(Direction::Response, &[(b'1', b""), (b'Z', b"I")]),
    ];
    calls.extend((0..STATEMENTS).flat_map(statement));
    calls
}

/// `abalance`, an `int4` as text.
const COLUMNS: &[u8] = b"\0\x01abalance\0\0\0\x40\x10\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
const ROW: &[u8] = b"\0\x01\0\0\0\x05-4242";

fn prepared(n: usize) -> [Call; 2] {
    let aid = (100_000 + n).to_string();
    let mut bind = b"\0P_0\0\0\0\0\x01\0\0\0".to_vec();
    bind.push(aid.len() as u8);
    bind.extend_from_slice(aid.as_bytes());
    bind.extend_from_slice(&[0, 0]);
    [
        call(
            Direction::Request,
            &[(b'B', &bind), (b'D', b"P\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")],
        ),
        call(
            Direction::Response,
            &[(b'2', b""), (b'T', COLUMNS), (b'D', ROW), (b'C', b"SELECT 1\0"), (b'Z', b"I")],
        ),
    ]
}

fn simple(n: usize) -> [Call; 2] {
    let text = format!("SELECT abalance FROM pgbench_accounts WHERE aid = {};\0", 100_000 + n);
    [
        call(Direction::Request, &[(b'Q', text.as_bytes())]),
        call(
            Direction::Response,
            &[(b'T', COLUMNS), (b'D', ROW), (b'C', b"SELECT 1\0"), (b'Z', b"I")],
        ),
    ]
}

/// What one pass over a subject, or several, came to.
#[derive(Default)]
struct Work {
    statements: u64,
    bytes: u64,
    allocations: u64,
    time: Duration,
}

fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn pass(subject: &Subject, work: &mut Work) -> Result<()> {
    let allocated = ALLOCATIONS.load(Ordering::Relaxed);
    let begun = thread_time()?;
    for calls in &subject.connections {
        let mut session = Session::new(Engine::Postgresql, Limits::default());
        let mut at = BootTime(0);
        let mut sink = |event: SessionEvent<'_>| {
            if let SessionEvent::Statement(statement) = black_box(event) {
                work.statements += 1;
                black_box(&statement.text);
            }
        };
        for call in calls {
            at.0 += 1_000;
            work.bytes += call.bytes.len() as u64;
            session.bytes(call.direction, at, &call.bytes, &mut sink);
        }
        session.close(at, &mut sink);
    }
    work.time += thread_time()?.saturating_sub(begun);
    work.allocations += ALLOCATIONS.load(Ordering::Relaxed) - allocated;
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1).map(|argument| argument.parse::<u32>());
    let mut argument = |what: &str| arguments.next().with_context(|| format!("no {what}"));
    let rounds = argument("rounds")??;
    let visit = Duration::from_secs(argument("seconds")??.into());
    let subjects = subjects()?;
    for subject in &subjects {
        // Warms up, and shows that what was made up is understood.
        let mut work = Work::default();
        pass(subject, &mut work)?;
        ensure!(work.statements > 0, "{}: no statements in it", subject.name);
    }
    for _ in 0..rounds {
        for subject in &subjects {
            let mut work = Work::default();
            while work.time < visit {
                pass(subject, &mut work)?;
            }
            let Work { statements, bytes, allocations, time } = work;
            let line = json!({
                "subject": subject.name,
                "statements": statements,
                "bytes": bytes,
                "allocations": allocations,
                "seconds": time.as_secs_f64(),
            });
            println!("{line}");
        }
    }
    Ok(())
}

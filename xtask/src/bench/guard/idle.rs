//! The guard's memory for sessions in which nothing goes on.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Postgres, Running, Via, python};
use nix::sys::signal::Signal;

use super::{
    super::{Plan, Report, Target, cost, table::table, tell},
    ways::Watching,
};
use crate::interrupt;

/// Sessions before the first look: what the guard keeps once and for all is there by then.
const FIRST: u32 = 10;
const FEW: u32 = 1_000;
const MANY: u32 = 5_000;
const MOST_KIB: f64 = 32.0;

/// What a process of the server takes that was never asked anything, and what is left to the host.
const BACKEND_KIB: u64 = 2_600;
const LEFT_KIB: u64 = 2 << 20;

/// Opens as many sessions as each line of its input says, and holds them; it asks something in the first
/// thousand. In all of them it would take the server a megabyte more for each.
const HOLDER: &str = r#"
import psycopg, resource, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for line in sys.stdin:
    while len(held) < int(line):
        held.append(psycopg.connect(sys.argv[1], autocommit=True))
        if len(held) <= 1000:
            assert held[-1].execute("SELECT 1").fetchone() == (1,)
    print(len(held), flush=True)
"#;

/// So many sessions, and what each takes.
pub struct Idle {
    way: &'static str,
    n: u32,
    session_kib: f64,
}

pub fn measure(plan: &Plan, program: &Path) -> Result<Vec<Idle>> {
    let postgres = Postgres::builder()
        .tls()
        .guarded()
        .max_connections(MANY + 100)
        // Each of its processes maps all of it.
        .setting("shared_buffers", "16MB")
        .start()?;
    let is_room = cost::available_kib()? > u64::from(MANY) * BACKEND_KIB + LEFT_KIB;
    if !is_room {
        tell(&format!(
            "{MANY} idle sessions are left out: the host has no memory for their server"
        ));
    }
    let many: &[u32] = if plan.quick || !is_room { &[FEW] } else { &[FEW, MANY] };
    let mut measured = Vec::new();
    for (way, via, counts) in
        [("in the clear", Via::Guard, many), ("TLS on both sides", Via::GuardTls, &[FEW])]
    {
        let guard = Watching::start(program, &postgres, "guard", "", None)?;
        let mut holder = Holder::start(&postgres.conninfo(via))?;
        holder.hold(FIRST)?;
        let before = guard.kib()?;
        for &n in counts {
            interrupt::check()?;
            holder.hold(n)?;
            let more = guard.kib()?.saturating_sub(before);
            let session_kib = more as f64 / f64::from(n - FIRST);
            tell(&format!("{n} idle sessions, {way}: {session_kib:.1} KiB each"));
            measured.push(Idle { way, n, session_kib });
        }
    }
    Ok(measured)
}

/// A client that holds many sessions.
struct Holder {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    // Last: it ends when its input does.
    _process: Running,
}

impl Holder {
    fn start(conninfo: &str) -> Result<Self> {
        let mut command = python()?;
        command.args(["-c", HOLDER]).arg(conninfo).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Running::start("the holder of sessions", &mut command, Signal::SIGTERM)?;
        let (stdin, stdout) = process.pipes().context("the holder has no input or output")?;
        Ok(Self { stdin, stdout: BufReader::new(stdout), _process: process })
    }

    fn hold(&mut self, n: u32) -> Result<()> {
        writeln!(self.stdin, "{n}")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line.trim_end() == n.to_string(), "the holder of {n} sessions has ended");
        Ok(())
    }
}

pub fn report(plan: &Plan, measured: &[Idle]) -> Report {
    let rows = measured.iter().map(|idle| {
        vec![idle.way.to_owned(), idle.n.to_string(), format!("{:.1}", idle.session_kib)]
    });
    let title = "Memory of the guard for idle sessions (proportional set size)";
    let text = table(plan.style(), title, &["sessions", "how many", "KiB each"], rows.collect());
    let worst = measured.iter().map(|idle| idle.session_kib).fold(0.0, f64::max);
    let target = Target {
        what: format!("at most {MOST_KIB} KiB for an idle connection"),
        measured: format!("{worst:.1} KiB"),
        met: worst > 0.0 && worst <= MOST_KIB,
    };
    Report { text, targets: vec![target] }
}

//! What dbwarden costs a process that makes a million system calls a second and is no database.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsRawFd,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use dbwarden_tests::{Agent, Postgres};
use nix::{
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
    time::{ClockId, clock_gettime},
    unistd::getppid,
};

use super::{
    Plan, Report, Target,
    figures::{median, quantile, ratio},
    start_agent,
    table::table,
    tell,
};
use crate::interrupt;

/// Time is measured in slices of this length, and a visit's figure is the quickest tenth's: what a
/// neighbour on the other half of a core or in the same cache does can only slow a slice down, and
/// comes and goes; what a BPF program takes is in each of them.
const SLICE: Duration = Duration::from_millis(5);
const QUICKEST: f64 = 0.1;
const CALLS_BETWEEN_CLOCKS: u32 = 500;
const SETTLE: Duration = Duration::from_millis(300);
/// The target: what must be left of the rate.
const LEFT: f64 = 0.98;

/// What the process does all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Getppid,
    Read,
    Write,
    SendReceive,
}

const CALLS: [Call; 4] = [Call::Getppid, Call::Read, Call::Write, Call::SendReceive];

impl Call {
    fn name(self) -> &'static str {
        match self {
            Call::Getppid => "getppid",
            Call::Read => "read of /dev/zero",
            Call::Write => "write to /dev/null",
            Call::SendReceive => "send and recv on a socket pair",
        }
    }
}

/// What is attached meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Bare,
    TpBtf,
    Syscalls,
}

const VARIANTS: [Variant; 3] = [Variant::Bare, Variant::TpBtf, Variant::Syscalls];

impl Variant {
    /// Of `dbwarden run --hooks`.
    fn hooks(self) -> Option<&'static str> {
        match self {
            Variant::Bare => None,
            Variant::TpBtf => Some("tp_btf"),
            Variant::Syscalls => Some("syscalls"),
        }
    }
}

struct Visit {
    round: u32,
    variant: Variant,
    call: Call,
    /// Of the thread's own processor time.
    call_ns: f64,
}

pub fn run(plan: &Plan, program: &Path) -> Result<Report> {
    let server = Postgres::builder().start()?;
    let time = Duration::from_secs(plan.seconds().into()) / CALLS.len() as u32;
    let mut visits = Vec::new();
    for round in 0..plan.rounds() {
        let mut order = VARIANTS;
        order.rotate_left(round as usize % VARIANTS.len());
        for variant in order {
            let _agent = attach(program, &server, variant)?;
            sleep(SETTLE);
            for call in CALLS {
                interrupt::check()?;
                visits.push(Visit { round, variant, call, call_ns: call_ns(call, time)? });
            }
            tell(&format!(
                "round {} of {}, a neighbour, {}",
                round + 1,
                plan.rounds(),
                variant.hooks().unwrap_or("bare")
            ));
        }
    }
    Ok(report(plan, &visits))
}

/// dbwarden with a server to watch, as it would be on a database's host.
fn attach(program: &Path, server: &Postgres, variant: Variant) -> Result<Option<Agent>> {
    let Some(hooks) = variant.hooks() else { return Ok(None) };
    let agent = start_agent(program, &["--hooks", hooks], "")?;
    agent.await_server(server.port())?;
    Ok(Some(agent))
}

/// This thread's own processor time a system call: what other processes take from it doesn't count,
/// what a BPF program takes inside its calls does.
fn call_ns(call: Call, time: Duration) -> Result<f64> {
    let mut zero = File::open("/dev/zero")?;
    let mut null = File::options().write(true).open("/dev/null")?;
    let (one, other) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    let mut byte = [1];
    let mut make = || -> Result<u32> {
        match call {
            Call::Getppid => {
                std::hint::black_box(getppid());
            }
            Call::Read => zero.read_exact(&mut byte)?,
            Call::Write => null.write_all(&byte)?,
            Call::SendReceive => {
                send(one.as_raw_fd(), &byte, MsgFlags::empty())?;
                recv(other.as_raw_fd(), &mut byte, MsgFlags::empty())?;
                return Ok(2);
            }
        }
        Ok(1)
    };
    let until = Instant::now() + time;
    let mut slices = Vec::new();
    while Instant::now() < until {
        let begun = thread_time()?;
        let mut n_calls = 0;
        let spent = loop {
            for _ in 0..CALLS_BETWEEN_CLOCKS {
                n_calls += make()?;
            }
            let spent = thread_time()?.saturating_sub(begun);
            if spent >= SLICE {
                break spent;
            }
        };
        slices.push(spent.as_secs_f64() * 1e9 / f64::from(n_calls));
    }
    Ok(quantile(slices, QUICKEST))
}

fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn report(plan: &Plan, visits: &[Visit]) -> Report {
    let of = |variant: Variant, call: Call| {
        visits.iter().filter(move |visit| visit.variant == variant && visit.call == call)
    };
    let call_ns = |variant, call| median(of(variant, call).map(|visit| visit.call_ns));
    let against_bare = |variant, call, compare: fn(f64, f64) -> f64| {
        median(of(variant, call).filter_map(|visit| {
            let bare = of(Variant::Bare, call).find(|bare| bare.round == visit.round)?;
            Some(compare(visit.call_ns, bare.call_ns))
        }))
    };
    let added = |variant, call| against_bare(variant, call, |ours, bare| ours - bare);
    // Of rates: the quicker the call, the higher.
    let left = |variant, call| against_bare(variant, call, |ours, bare| ratio(bare, ours));
    let rows = CALLS.map(|call| {
        let bare = call_ns(Variant::Bare, call);
        let mut row =
            vec![call.name().to_owned(), format!("{:.2}", 1e3 / bare), format!("{bare:.0}")];
        for variant in [Variant::TpBtf, Variant::Syscalls] {
            row.push(format!("{:+.0}", added(variant, call)));
            row.push(format!("{:.3}", left(variant, call)));
        }
        row
    });
    let head = [
        "system call",
        "bare, M/s",
        "ns",
        "tp_btf adds ns",
        "rate × bare",
        "syscalls adds ns",
        "rate × bare",
    ];
    let title = "A neighbour that is no database; by its own CPU time";
    let targets = CALLS.map(|call| {
        let left = left(Variant::TpBtf, call);
        Target {
            what: format!("a neighbour's {}: at least {LEFT} of its rate", call.name()),
            measured: format!("{left:.3}"),
            met: left >= LEFT,
        }
    });
    Report { text: table(plan.style(), title, &head, rows.to_vec()), targets: targets.into() }
}

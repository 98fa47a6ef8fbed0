//! What telling of a statement costs: prints lines of `way recorder-ns allocations exporter-ns`, which `cargo xtask
//! bench telemetry` makes a table of.
//!
//! The recorder's share is what its thread is on a processor for; the exporter's is that of the other threads.
//! Statements come in bursts that the queue takes, and each burst is sent before the next one comes.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use dbwarden::{
    config::{self, Compression, Otlp, Protocol, Span},
    event::{ConnectionId, Engine, Lane, Origin, Record, StatementKind, Transport, WallTime},
    statement::{Lexing, analyse},
    telemetry::{Feed, Gather, Metric, Pace, Source, Telemetry},
};
use nix::time::{ClockId, clock_gettime};

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    static N_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has nothing to count any more.
        let _ = N_ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as promised to us.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The argument that makes a receiver of this program.
const RECEIVE: &str = "receive";
/// Statements that take turns, and the connections that they come on.
const STATEMENTS: usize = 200;
const CONNECTIONS: usize = 50;
/// Fits into the queue whatever is sampled.
const BURST: usize = 8_000;

const PACE: Pace = Pace {
    gather: Duration::from_millis(1),
    first_pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(30),
    farewell: Duration::from_secs(3),
    checkpoint: Duration::from_secs(3_600),
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.first() {
        Some(first) if first == RECEIVE => receive(),
        _ => {
            let mut numbers = arguments.iter().filter_map(|argument| argument.parse().ok());
            let rounds = numbers.next().unwrap_or(5);
            measure_all(rounds, Duration::from_millis(numbers.next().unwrap_or(200)))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(rounds: u64, slice: Duration) -> Result<()> {
    let mut receiver = Command::new(env::current_exe()?)
        .arg(RECEIVE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a receiver")?;
    let outcome = measure_with(&mut receiver, rounds, slice);
    // It ends when nobody holds its standard input.
    drop(receiver.stdin.take());
    receiver.wait()?;
    outcome
}

fn measure_with(receiver: &mut Child, rounds: u64, slice: Duration) -> Result<()> {
    let mut port = String::new();
    BufReader::new(receiver.stdout.take().context("no output")?).read_line(&mut port)?;
    let here = format!("http://127.0.0.1:{}/v1/traces", port.trim());
    // Of a listener that is gone: nobody is there.
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let nowhere = format!("http://{nobody}/v1/traces");
    let records = records();
    for _ in 0..rounds {
        measure("metrics", None, &records, slice)?;
        measure("ratio-0.1", Some((0.1, &here)), &records, slice)?;
        measure("ratio-1.0", Some((1.0, &here)), &records, slice)?;
        measure("away", Some((1.0, &nowhere)), &records, slice)?;
    }
    Ok(())
}

fn measure(
    way: &str,
    traces: Option<(f64, &str)>,
    records: &[Arc<Record>],
    slice: Duration,
) -> Result<()> {
    let mut settings = config::Telemetry::default();
    if let Some((ratio, endpoint)) = traces {
        settings.traces.ratio = ratio;
        settings.traces.otlp = Some(otlp(endpoint));
    }
    let gather: Gather = Box::new(|| Box::pin(async { Vec::<Metric>::new() }));
    let host = Arc::new(Origin { host: "db1".into(), ..Origin::default() });
    let source = Source { host, gather, checkpoint: None, now: WallTime(0) };
    let mut feed = Telemetry::start(&settings, source, PACE)?;
    // Once for what is kept of each statement and connection.
    burst(&mut feed, records);
    settled(&feed, way);

    let (mut n, mut own, mut allocations) = (0_u64, Duration::ZERO, 0);
    let all_before = clock(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    let thread_before = clock(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    while own < slice {
        let (begun, before) =
            (clock(ClockId::CLOCK_THREAD_CPUTIME_ID)?, N_ALLOCATIONS.with(Cell::get));
        burst(&mut feed, records);
        own += clock(ClockId::CLOCK_THREAD_CPUTIME_ID)? - begun;
        allocations += N_ALLOCATIONS.with(Cell::get) - before;
        n += BURST as u64;
        settled(&feed, way);
    }
    let all = clock(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - all_before;
    let thread = clock(ClockId::CLOCK_THREAD_CPUTIME_ID)? - thread_before;
    let each = |total: f64| total / n as f64;
    println!(
        "{way} {:.1} {:.2} {:.1}",
        each(own.as_nanos() as f64),
        each(allocations as f64),
        each(all.saturating_sub(thread).as_nanos() as f64),
    );
    feed.close();
    Ok(())
}

fn burst(feed: &mut Feed, records: &[Arc<Record>]) {
    for record in records.iter().cycle().take(BURST) {
        feed.statement(record, WallTime(0));
    }
}

/// Waits until the receiver has everything. One that is away never will: there the queue stays full.
fn settled(feed: &Feed, way: &str) {
    let shared = feed.shared();
    let until = Instant::now() + Duration::from_secs(30);
    while way != "away"
        && shared.status().signals.iter().any(|signal| signal.waiting > 0)
        && Instant::now() < until
    {
        thread::sleep(Duration::from_millis(1));
    }
}

fn clock(id: ClockId) -> Result<Duration> {
    Ok(clock_gettime(id).context("reading a clock")?.into())
}

fn otlp(endpoint: &str) -> Otlp {
    Otlp {
        endpoint: endpoint.to_owned(),
        protocol: Protocol::Http,
        compression: Compression::None,
        timeout: Span(Duration::from_secs(10)),
        certificate: None,
        client_certificate: None,
        client_key: None,
        headers: Default::default(),
        secret_headers: Default::default(),
    }
}

fn records() -> Vec<Arc<Record>> {
    let text = |n: usize| match n % 4 {
        0 => format!("SELECT a, b FROM table_{n} WHERE id = 1"),
        1 => format!("UPDATE table_{n} SET a = 2 WHERE id = 1"),
        2 => format!("SELECT * FROM table_{n} t JOIN other_{n} o ON o.id = t.id"),
        _ => format!("INSERT INTO table_{n} (a, b) VALUES (1, 2)"),
    };
    let origins: Vec<Arc<Origin>> = (0..CONNECTIONS).map(|n| Arc::new(origin(n as u64))).collect();
    let texts = (0..STATEMENTS).map(text);
    let records = texts.zip(origins.iter().cycle()).enumerate().map(|(n, (text, origin))| {
        let facts = analyse(&text, Lexing::default()).whole;
        Arc::new(Record {
            time: WallTime(1_764_000_000_000_000 + n as i64),
            duration_us: Some(300),
            first_byte_us: Some(200),
            origin: origin.clone(),
            sequence: n as u64 + 1,
            claims: None,
            text: Some(facts.text.clone()),
            standard_conforming_strings: Some(true),
            parameters: Vec::new(),
            kind: StatementKind::Simple,
            facts: Some(facts),
            keys: Vec::new(),
            rows: Some(1),
            bytes_in: 60,
            bytes_out: 120,
            error_code: None,
            error_message: None,
            redacted_error: None,
            transaction: Some("idle"),
            judgement: None,
            approval: None,
            masked: Arc::default(),
            truncated_bytes: 0,
            lost_bytes: 0,
            joined_midstream: false,
        })
    });
    records.collect()
}

fn origin(n: u64) -> Origin {
    Origin {
        host: "db1".into(),
        environment: Some("production".into()),
        server: Some("orders".into()),
        engine: Some(Engine::Postgresql),
        server_address: Some("127.0.0.1".into()),
        server_port: Some(5_432),
        transport: Some(Transport::Tcp),
        lane: Some(Lane::Observed),
        connection: Some(ConnectionId(n)),
        database: Some("app".into()),
        db_user: Some("app".into()),
        application: Some("shop".into()),
        client_address: Some("127.0.0.1".into()),
        client_port: Some(40_000),
        pid: Some(4_711),
        exe: Some("/usr/bin/shop".into()),
        uid: Some(1_000),
        os_user: Some("shop".into()),
        unit: Some("shop.service".into()),
        ..Origin::default()
    }
}

/// Takes everything over HTTP and keeps nothing, until its standard input ends.
fn receive() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is no trouble.
            thread::spawn(move || drop(answer(&stream)));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn answer(mut stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut body = Vec::new();
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

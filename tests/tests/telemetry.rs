//! End to end: what a collector that this project did not write receives of a traced request, and what
//! can be scraped.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    Agent, Certificates, Postgres, Running, Via, await_until, need_root, python, said,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Rotel, a collector of OpenTelemetry; it writes out whatever it receives.
struct Collector {
    _process: Running,
    output: std::path::PathBuf,
    grpc: u16,
    http: u16,
}

/// One span, by the collector's own words.
#[derive(Debug, Default)]
struct Span {
    trace: String,
    parent: String,
    id: String,
    name: String,
    attributes: BTreeMap<String, String>,
}

impl Collector {
    fn start(folder: &Path) -> Result<Self> {
        Self::start_at(folder, free_port()?, free_port()?)
    }

    fn start_at(folder: &Path, grpc: u16, http: u16) -> Result<Self> {
        let find =
            "import pathlib, rotel; print(pathlib.Path(rotel.__file__).parent / 'rotel-agent')";
        let program = said(python()?.args(["-c", find]))?;
        let output = folder.join("collector.log");
        let log = File::options().create(true).append(true).open(&output)?;
        let mut command = std::process::Command::new(program.trim());
        command
            .arg("start")
            .arg(format!("--otlp-grpc-endpoint=127.0.0.1:{grpc}"))
            .arg(format!("--otlp-http-endpoint=127.0.0.1:{http}"))
            .args(["--exporter=blackhole", "--debug-log-verbosity=detailed"])
            .args(["--debug-log=traces", "--debug-log=metrics", "--debug-log=logs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Running::start("the collector", &mut command, Signal::SIGTERM)?;
        await_until("the collector", || Ok(TcpStream::connect(("127.0.0.1", http)).ok()))?;
        Ok(Self { _process: process, output, grpc, http })
    }

    fn said(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.output)?).into_owned())
    }

    fn spans(&self) -> Result<Vec<Span>> {
        let mut spans: Vec<Span> = Vec::new();
        let mut is_span = false;
        for line in self.said()?.lines() {
            let line = line.trim();
            if line.starts_with("Span #") {
                spans.push(Span::default());
                is_span = true;
            } else if line.starts_with("Resource") {
                // Of other spans, metrics or logs.
                is_span = false;
            }
            let Some(span) = spans.last_mut().filter(|_| is_span) else { continue };
            if let Some(attribute) = line.strip_prefix("-> ")
                && let Some((name, value)) = attribute.split_once(": ")
            {
                let value = value.split_once('(').map_or(value, |(_, value)| value);
                let value = value.strip_suffix(')').unwrap_or(value);
                span.attributes.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            } else if let Some((name, value)) = line.split_once(':') {
                let value = value.trim().to_owned();
                match name.trim() {
                    "Trace ID" => span.trace = value,
                    "Parent ID" => span.parent = value,
                    "ID" => span.id = value,
                    "Name" => span.name = value,
                    _ => {}
                }
            }
        }
        Ok(spans)
    }
}

/// Ends TLS before a collector, for clients with a certificate of the same authority alone.
const TERMINATOR: &str = "
import os, socket, ssl, sys, threading
authority, certificate, key, address, behind, port_file = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.load_verify_locations(authority)
context.verify_mode = ssl.CERT_REQUIRED
context.set_alpn_protocols(['h2', 'http/1.1'] if behind.startswith('grpc:') else ['http/1.1'])
target = ('127.0.0.1', int(behind.split(':')[1]))

def copy(source, sink):
    try:
        while data := source.recv(65536): sink.sendall(data)
    except OSError: pass
    for end in (source, sink):
        try: end.shutdown(socket.SHUT_RDWR)
        except OSError: pass

def serve(plain):
    try: client = context.wrap_socket(plain, server_side=True)
    except OSError: return plain.close()
    server = socket.create_connection(target)
    threading.Thread(target=copy, args=(client, server), daemon=True).start()
    copy(server, client)

listener = socket.create_server((address, 0))
with open(port_file + '.new', 'w') as file: file.write(str(listener.getsockname()[1]))
os.rename(port_file + '.new', port_file)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

/// `behind` is `grpc:PORT` or `http:PORT` of a collector.
fn terminator(
    folder: &Path,
    own: &Certificates,
    address: &str,
    behind: &str,
) -> Result<(Running, u16)> {
    let port_file = folder.join(format!("{address}-{behind}"));
    let mut command = python()?;
    command.args(["-c", TERMINATOR]).args([&own.authority, &own.certificate, &own.key]);
    command.args([address, behind]).arg(&port_file).stdin(Stdio::null());
    let process = Running::start("what ends TLS", &mut command, Signal::SIGTERM)?;
    let port = await_until("its port", || Ok(fs::read_to_string(&port_file).ok()))?;
    Ok((process, port.parse()?))
}

fn signal(agent: &Agent, name: &str) -> Result<Value> {
    let status = agent.status()?;
    let signals = status["telemetry"]["signals"].as_array().context("no signals")?;
    signals.iter().find(|signal| signal["signal"] == name).cloned().context("no such signal")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A WSGI application that asks a database, traced by OpenTelemetry's own instrumentation, and one
/// request to it. The second statement names no parent.
const APPLICATION: &str = "
import sys, threading, urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server
import psycopg
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

conninfo, port = sys.argv[1:]
provider = TracerProvider()
exporter = OTLPSpanExporter(f'http://127.0.0.1:{port}/v1/traces')
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
PsycopgInstrumentor().instrument(enable_commenter=True)

def application(environ, start_response):
    with psycopg.connect(conninfo, autocommit=True) as db:
        db.cursor().execute(\"SELECT 'Wiedikon-4711' AS city\")
    start_response('200 OK', [('content-type', 'text/plain')])
    return [b'fine']

class Quiet(WSGIRequestHandler):
    def log_message(self, *_): pass

server = make_server('127.0.0.1', 0, OpenTelemetryMiddleware(application), handler_class=Quiet)
serving = threading.Thread(target=server.handle_request)
serving.start()
urllib.request.urlopen(f'http://127.0.0.1:{server.server_port}/patients').read()
serving.join()
provider.shutdown()
";

#[test]
fn a_request_leads_to_its_statement_and_what_is_counted_arrives() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let collector = Collector::start(folder.path())?;
    let postgres = Postgres::builder().start()?;
    let scraped = free_port()?;
    let agent = Agent::builder()
        .configuration(&format!(
            "[telemetry]\nprometheus = \"127.0.0.1:{scraped}\"\n\
             otlp = {{ endpoint = \"http://127.0.0.1:{}\", protocol = \"grpc\", compression = \"gzip\" }}\n\
             traces.ratio = 0.0\nmetrics.interval = \"1s\"\nresource = {{ team = \"dba\" }}",
            collector.grpc
        ))
        .start()?;
    agent.await_server(postgres.port())?;
    said(
        python()?
            .args(["-c", APPLICATION, &postgres.conninfo(Via::Tcp)])
            .arg(collector.http.to_string()),
    )?;
    postgres.psql(Via::Unix, "SELECT 1")?;
    ensure!(postgres.psql(Via::Unix, "SELECT 1/0").is_err());

    // One trace: the request, the driver's span, and what the database was really sent.
    let (request, driver, statement) = await_until("the trace", || {
        let mut spans = collector.spans()?;
        let mut take =
            |is: &dyn Fn(&Span) -> bool| spans.iter().position(is).map(|at| spans.swap_remove(at));
        let Some(request) = take(&|span| span.name.starts_with("GET")) else { return Ok(None) };
        let Some(driver) = take(&|span| span.parent == request.id) else { return Ok(None) };
        let Some(statement) = take(&|span| span.parent == driver.id) else { return Ok(None) };
        Ok(Some((request, driver, statement)))
    })
    .with_context(|| format!("{:?}\n{}", collector.spans(), agent.log()))?;
    ensure!(request.trace == driver.trace && driver.trace == statement.trace, "{statement:?}");
    for (name, expected) in [
        ("db.system.name", "postgresql"),
        ("dbwarden.db_user", "postgres"),
        ("network.transport", "tcp"),
    ] {
        let value = statement.attributes.get(name).with_context(|| format!("no {name}"))?;
        ensure!(value == expected, "{name} is {value}");
    }
    for name in ["process.pid", "dbwarden.principal", "dbwarden.connection", "dbwarden.sequence"] {
        ensure!(statement.attributes.contains_key(name), "{name}: {statement:?}");
    }
    let text = statement.attributes.get("db.query.text").context("no text")?;
    ensure!(text.contains("SELECT ? AS city"), "{text}");

    // Without a parent and at a ratio of nothing, only the error is sent.
    let failed = await_until("the error", || {
        let spans = collector.spans()?;
        let code = |span: &Span| span.attributes.get("error.type").cloned();
        Ok(spans.into_iter().find(|span| code(span).as_deref() == Some("22012")))
    })?;
    ensure!(failed.trace != statement.trace, "{failed:?}");

    for name in [
        "db.client.operation.duration",
        "dbwarden.ring.size",
        "dbwarden.connections.open",
        "dbwarden.export.sent",
        "dbwarden.ledger.size",
        "dbwarden.connection.opened",
        "dbwarden.service.started",
        "team: Str(dba)",
    ] {
        await_until(name, || Ok(collector.said()?.contains(name).then_some(())))?;
    }
    // The application's own instrumentation sends literals; dbwarden doesn't.
    let said = collector.said()?;
    let leak =
        said.lines().find(|line| line.contains("Wiedikon") && !line.contains("db.statement"));
    ensure!(leak.is_none(), "a literal has left the host: {leak:?}");

    let mut stream = TcpStream::connect(("127.0.0.1", scraped))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    for line in [
        "HTTP/1.1 200 OK",
        "# TYPE db_client_operation_duration_seconds histogram",
        "dbwarden_ring_size_bytes{dbwarden_ring=\"data\"} 16777216",
        "db_response_status_code=\"22012\"",
        "dbwarden_export_failing{dbwarden_signal=\"traces\"} 0",
    ] {
        ensure!(page.contains(line), "no {line} in {page}");
    }
    let status = agent.status()?;
    let signals = status["telemetry"]["signals"].as_array().context("no signals")?;
    ensure!(signals.len() == 3, "{signals:?}");
    for signal in signals {
        ensure!(signal["sent"].as_u64() > Some(0) && signal["trouble"].is_null(), "{signal}");
    }

    // The last checkpoint leaves the host when the agent stops.
    drop(agent);
    await_until("a checkpoint", || {
        let said = collector.said()?;
        Ok((said.contains("dbwarden.ledger.checkpoint") || said.contains("— dbwarden/"))
            .then_some(()))
    })?;
    Ok(())
}

#[test]
fn both_protocols_log_in_by_certificate_and_a_wrong_name_is_told() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let collector = Collector::start(folder.path())?;
    let own = Certificates::create(folder.path())?;
    let (certificate, key) = own.client("agent")?;
    let (grpc, http) = (format!("grpc:{}", collector.grpc), format!("http:{}", collector.http));
    let (_grpc, grpc) = terminator(folder.path(), &own, "127.0.0.1", &grpc)?;
    let (_misnamed, misnamed) = terminator(folder.path(), &own, "127.0.0.2", &http)?;
    let (_http, http) = terminator(folder.path(), &own, "127.0.0.1", &http)?;
    let postgres = Postgres::builder().start()?;
    let otlp = |name: &str, protocol: &str, endpoint: String| {
        format!(
            "[telemetry.{name}.otlp]\nendpoint = \"{endpoint}\"\nprotocol = \"{protocol}\"\n\
             certificate = \"{}\"\nclient_certificate = \"{}\"\nclient_key = \"{}\"\n",
            own.authority.display(),
            certificate.display(),
            key.display()
        )
    };
    let agent = Agent::builder()
        .configuration("[telemetry]\ntraces.ratio = 1.0\nmetrics.interval = \"1s\"")
        .configuration(&otlp("traces", "grpc", format!("https://localhost:{grpc}")))
        .configuration(&otlp("logs", "http/protobuf", format!("https://127.0.0.1:{http}/v1/logs")))
        .configuration(&otlp(
            "metrics",
            "http/protobuf",
            format!("https://127.0.0.2:{misnamed}/v1/metrics"),
        ))
        .start()?;
    agent.await_server(postgres.port())?;
    postgres.psql(Via::Unix, "SELECT 'over TLS'")?;
    for (name, arrives) in [("traces", "SELECT ?"), ("logs", "dbwarden.service.started")] {
        await_until(name, || Ok(collector.said()?.contains(arrives).then_some(())))
            .with_context(|| format!("{:?}", signal(&agent, name)))?;
        // The answer is on its way.
        await_until("its count", || {
            let signal = signal(&agent, name)?;
            let is_well = signal["trouble"].is_null() && signal["sent"].as_u64() > Some(0);
            Ok(is_well.then_some(()))
        })?;
    }
    let trouble = await_until("the wrong name", || {
        Ok(signal(&agent, "metrics")?["trouble"].as_str().map(str::to_owned))
    })?;
    ensure!(trouble.contains("certificate") && trouble.contains("127.0.0.2"), "{trouble}");
    Ok(())
}

/// How long the backend is down.
const OUTAGE_SECONDS: u32 = 60;

#[test]
fn after_a_minute_without_a_backend_what_was_dropped_is_what_did_not_arrive() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let (grpc, http) = (free_port()?, free_port()?);
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder()
        .configuration(&format!(
            "[telemetry]\ntraces.ratio = 1.0\nmetrics.enabled = false\nlogs.enabled = false\n\
             otlp = {{ endpoint = \"http://127.0.0.1:{grpc}\", protocol = \"grpc\" }}"
        ))
        .start()?;
    agent.await_server(postgres.port())?;
    let script = folder.path().join("load.sql");
    fs::write(&script, "SELECT 1;\n")?;
    let (script, seconds) = (script.display().to_string(), OUTAGE_SECONDS.to_string());
    let load = ["-n", "-c", "2", "-R", "600", "-T", &seconds, "-f", &script];
    postgres.pgbench(Via::Unix, &load)?;
    let down = signal(&agent, "traces")?;
    ensure!(down["sent"] == 0 && down["trouble"].is_string(), "{down}");
    ensure!(down["dropped"]["queue_full"].as_u64() > Some(0), "all fit: {down}");

    let collector = Collector::start_at(folder.path(), grpc, http)?;
    await_until("recovery", || {
        let signal = signal(&agent, "traces")?;
        Ok((signal["waiting"] == 0 && signal["trouble"].is_null()).then_some(()))
    })?;
    let n = |value: &Value| value.as_u64().context("no figure");
    let query = "SELECT count(*) AS n FROM statements";
    // What is under way waits no more, and isn't sent yet.
    let (statements, sent, dropped) = await_until("an account of each statement", || {
        let signal = signal(&agent, "traces")?;
        let (sent, dropped) = (n(&signal["sent"])?, n(&signal["dropped"]["queue_full"])?);
        let text = said(&mut agent.command(&["sql", "--format", "json", query]))?;
        let statements = n(&serde_json::from_str::<Value>(text.trim())?["n"])?;
        Ok((sent + dropped == statements).then_some((statements, sent, dropped)))
    })?;
    await_until("what was sent", || {
        let arrived = collector.said()?.matches("Span #").count() as u64;
        ensure!(arrived <= sent, "{arrived} arrived, {sent} sent");
        Ok((arrived == sent).then_some(()))
    })?;
    eprintln!("{statements} statements: {sent} sent and arrived, {dropped} dropped and counted");
    Ok(())
}

/// How long a slow backend takes for each export.
const EXPORT: Duration = Duration::from_secs(2);

/// A backend over HTTP that takes everything, slowly: one export after the other. Gives its port, and how
/// many it has answered.
fn slow_backend() -> Result<(u16, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let answered = Arc::new(AtomicU64::new(0));
    let n = answered.clone();
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if take_slowly(&stream).is_ok() {
                n.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok((port, answered))
}

fn take_slowly(mut stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "it ends in the middle of its head");
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", n)) => length = n.parse()?,
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    // The time that it takes is what makes it slow: there is nothing to wait for.
    thread::sleep(EXPORT);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(())
}

#[test]
fn a_slow_backend_delays_neither_statements_nor_the_ledger() -> Result<()> {
    need_root!();
    const CLIENTS: u64 = 4;
    const EACH: u64 = 8_000;
    let folder = tempfile::tempdir()?;
    let (port, answered) = slow_backend()?;
    let postgres = Postgres::builder().start()?;
    let mut agent = Agent::builder()
        .configuration(&format!(
            "[telemetry]\ntraces.ratio = 1.0\nmetrics.enabled = false\nlogs.enabled = false\n\
             otlp = {{ endpoint = \"http://127.0.0.1:{port}\", protocol = \"http/protobuf\" }}"
        ))
        .start()?;
    agent.await_server(postgres.port())?;
    let script = folder.path().join("load.sql");
    fs::write(&script, "SELECT 1;\n")?;
    let (script, each) = (script.display().to_string(), EACH.to_string());
    postgres.pgbench(Via::Unix, &["-n", "-c", "4", "-t", &each, "-f", &script])?;
    postgres.psql(Via::Unix, "SELECT 1 AS the_last_one")?;
    let begun = Instant::now();
    let query = "SELECT text FROM statements WHERE text = 'SELECT ? AS the_last_one'";
    agent.await_rows(1, query)?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(5), "the last statement was found after {took:?}");
    let n = |value: &Value| value.as_u64().context("no figure");
    let statements = "SELECT count(*) AS n FROM statements";
    let kept = n(&agent.await_rows(1, statements)?[0]["n"])?;
    ensure!(kept > CLIENTS * EACH, "{kept} of {} statements are kept", CLIENTS * EACH + 1);
    agent.await_rows(0, "SELECT message FROM rows WHERE record = 'gap'")?;
    // Nothing but what the queue had no room for is lost, also as it goes on.
    let (mut sent, mut full) = (0, 0);
    for _ in 0..2 {
        let before = answered.load(Ordering::Relaxed);
        await_until("an export", || Ok((answered.load(Ordering::Relaxed) > before).then_some(())))?;
        (sent, full) = await_until("all accounted for", || {
            let traces = signal(&agent, "traces")?;
            ensure!(traces["trouble"].is_null(), "{traces}");
            let (sent, full) = (n(&traces["sent"])?, n(&traces["dropped"]["queue_full"])?);
            let waiting = n(&traces["waiting"])?;
            Ok((sent + waiting + full == kept && waiting > 0).then_some((sent, full)))
        })?;
    }
    ensure!(sent > 0 && full > 0, "{sent} sent, {full} dropped of {kept}");
    let stopping = Instant::now();
    agent.stop()?;
    ensure!(stopping.elapsed() < Duration::from_secs(15), "{:?} to stop", stopping.elapsed());
    eprintln!(
        "{kept} statements kept, the last found after {took:?}; {sent} sent, {full} dropped and counted"
    );
    Ok(())
}

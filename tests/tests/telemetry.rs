//! End to end: what a collector that this project did not write receives of a traced request, and what
//! can be scraped.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Running, Via, await_until, need_root, python, said};
use nix::sys::signal::Signal;

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
        let find =
            "import pathlib, rotel; print(pathlib.Path(rotel.__file__).parent / 'rotel-agent')";
        let program = said(python()?.args(["-c", find]))?;
        let (grpc, http) = (free_port()?, free_port()?);
        let output = folder.join("collector.log");
        let log = File::create(&output)?;
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

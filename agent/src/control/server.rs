//! Answers on the control socket: a path for each question, bounded in clients, bytes and time.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header, http,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, warn};

use super::{
    Agent, Filter, Line, Listener, Question, Service, Snapshot, Status, Watcher,
    access::Peer,
    approvals,
    hub::WATCHERS,
    labels,
    quarantine::{self, Unchanged},
    query::{Queries, Refusal},
};
use crate::{
    approval::Undecided,
    enforce::QuarantineError,
    event::{Origin, Shown, WallTime, in_full},
    inheritance::InheritanceError,
};

/// Clients at a time, of all sorts.
const CLIENTS: usize = 64;
/// To send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Without reading a single byte of what is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// For clients to take what is theirs when the service stops.
const FAREWELL: Duration = Duration::from_secs(1);
/// For the pipeline to come by and answer.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// Lines are sent together when they come within this time.
const WATCH_PAUSE: Duration = Duration::from_millis(10);
const WATCH_FRAME_BYTES: usize = 64 << 10;
/// Of a request's head; only queries have a body.
const HEAD_BYTES: usize = 16 << 10;

const PATHS: [&str; 8] = [
    "/v1",
    "/v1/approvals",
    "/v1/labels",
    "/v1/quarantine",
    "/v1/query",
    "/v1/status",
    "/v1/watch",
    "/v1/whois",
];

/// Answers clients until `service.ended`. Runs in a tokio runtime of its own, away from the
/// pipeline's thread.
pub async fn serve(listener: Listener, host: &str, service: Arc<Service>) -> io::Result<()> {
    listener.socket.set_nonblocking(true)?;
    let socket = UnixListener::from_std(listener.socket.try_clone()?)?;
    let started = Instant::now();
    let room = Arc::new(Semaphore::new(CLIENTS));
    let queries =
        service.ledger.clone().map(|ledger| Queries::new(service.query_worker.clone(), ledger));
    let api = Arc::new(Api { service: service.clone(), host: host.to_owned(), started, queries });
    loop {
        let accepted = tokio::select! {
            () = service.ended.wait() => break,
            accepted = socket.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or memory: let others give some back first.
                warn!(%error, "can't accept a control client");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            refuse_for_lack_of_room(&stream);
            continue;
        };
        let admission = match Peer::of(&stream) {
            Ok(peer) => listener.access.check(&peer).map(|()| peer),
            Err(error) => Err(format!("the kernel does not say who asks: {error}")),
        };
        let api = api.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, api, admission).await {
                debug!(%error, "a control client went away");
            }
            drop(place);
        });
    }
    // Whoever still reads gets its last lines.
    let all = u32::try_from(CLIENTS).unwrap_or(u32::MAX);
    let _ = timeout(FAREWELL, room.acquire_many(all)).await;
    Ok(())
}

/// One request and its answer: no connection is kept, so that none can be parked.
async fn converse(
    stream: UnixStream,
    api: Arc<Api>,
    admission: Result<Peer, String>,
) -> Result<(), hyper::Error> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let answer = service_fn(move |request: Request<Incoming>| {
        let (api, admission) = (api.clone(), admission.clone());
        async move {
            Ok::<_, Infallible>(match admission {
                Err(words) => error(StatusCode::FORBIDDEN, &words),
                Ok(peer) => api.answer(request, &peer).await,
            })
        }
    });
    http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), answer)
        .await
}

fn refuse_for_lack_of_room(stream: &UnixStream) {
    // A client that can't take it at once goes without.
    let _ = stream.try_write(
        b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 33\r\n\
          content-type: application/json\r\n\r\n{\"error\":\"too many clients ask\"}\n",
    );
}

const NDJSON: &str = "application/x-ndjson";

type Answer = Response<Either<Full<Bytes>, Stream>>;

struct Api {
    service: Arc<Service>,
    host: String,
    started: Instant,
    /// `None` where no ledger is kept.
    queries: Option<Queries>,
}

impl Api {
    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        match (request.uri().path(), request.method()) {
            ("/v1/query", &Method::POST) => return self.query(request.into_body()).await,
            ("/v1/quarantine", &Method::POST) => {
                return self.change_quarantine(request.into_body(), peer).await;
            }
            ("/v1/approvals", &Method::POST) => {
                return self.change_approval(request.into_body(), peer).await;
            }
            ("/v1/labels", &Method::POST) => {
                return self.change_label(request.into_body(), peer).await;
            }
            ("/v1/query", _) => {
                return error(StatusCode::METHOD_NOT_ALLOWED, "only POST is understood here");
            }
            (_, &Method::GET) => {}
            _ => return error(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood"),
        }
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            "/v1" => value(
                StatusCode::OK,
                &json!({ "version": env!("CARGO_PKG_VERSION"), "paths": PATHS }),
            ),
            "/v1/status" => value(StatusCode::OK, &self.status().await),
            "/v1/watch" => match Filter::of_query(query) {
                Ok(filter) if filter.literals && peer.uid != 0 => error(
                    StatusCode::FORBIDDEN,
                    "only root may see the literals of statements: watch without --literals",
                ),
                Ok(filter) => self.watch(filter),
                Err(words) => error(StatusCode::BAD_REQUEST, &words),
            },
            "/v1/whois" => self.whois(query).await,
            "/v1/quarantine" => value(StatusCode::OK, &self.service.quarantine.list()),
            "/v1/labels" => value(StatusCode::OK, &self.service.inheritance.list()),
            "/v1/approvals" => self.approvals(query, peer).await,
            path => error(
                StatusCode::NOT_FOUND,
                &format!("no such path: {path}; there are {}", PATHS.join(", ")),
            ),
        }
    }

    async fn query(&self, request: Incoming) -> Answer {
        let Some(queries) = &self.queries else {
            let words = "this service keeps no ledger, so there is nothing to search";
            return error(StatusCode::NOT_FOUND, words);
        };
        match queries.ask(request).await {
            Ok(lines) => respond(StatusCode::OK, NDJSON, Either::Right(Stream(lines))),
            Err(refusal) => {
                let status = match refusal {
                    Refusal::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
                    Refusal::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
                    Refusal::TooSlow => StatusCode::REQUEST_TIMEOUT,
                    Refusal::NoWorker(ref source) => {
                        warn!(error = %source, "can't start a query worker");
                        StatusCode::INTERNAL_SERVER_ERROR
                    }
                };
                error(status, &refusal.to_string())
            }
        }
    }

    async fn change_quarantine(&self, request: Incoming, peer: &Peer) -> Answer {
        let bytes = match body(request, quarantine::REQUEST_BYTES).await {
            Ok(bytes) => bytes,
            Err(refused) => return refused,
        };
        let now = WallTime::from_utc(time::UtcDateTime::now());
        match quarantine::change(&self.service.quarantine, peer, &bytes, now) {
            Ok(changed) => value(StatusCode::OK, &changed),
            Err(why) => {
                let status = match why {
                    Unchanged::NotRoot => StatusCode::FORBIDDEN,
                    Unchanged::Quarantine(QuarantineError::NoSuch(_)) => StatusCode::NOT_FOUND,
                    Unchanged::Quarantine(QuarantineError::Write { .. }) => {
                        StatusCode::INTERNAL_SERVER_ERROR
                    }
                    _ => StatusCode::BAD_REQUEST,
                };
                error(status, &in_full(&why))
            }
        }
    }

    async fn change_label(&self, request: Incoming, peer: &Peer) -> Answer {
        let bytes = match body(request, labels::REQUEST_BYTES).await {
            Ok(bytes) => bytes,
            Err(refused) => return refused,
        };
        match labels::change(&self.service.inheritance, peer, &bytes) {
            Ok(changed) => value(StatusCode::OK, &changed),
            Err(why) => {
                let status = match why {
                    labels::Unchanged::NotRoot => StatusCode::FORBIDDEN,
                    labels::Unchanged::Inheritance(InheritanceError::NoSuch(_)) => {
                        StatusCode::NOT_FOUND
                    }
                    labels::Unchanged::Inheritance(_) => StatusCode::INTERNAL_SERVER_ERROR,
                    labels::Unchanged::Request(_) => StatusCode::BAD_REQUEST,
                };
                error(status, &in_full(&why))
            }
        }
    }

    async fn approvals(&self, query: &str, peer: &Peer) -> Answer {
        let wanted = match approvals::Wanted::of_query(query) {
            Ok(wanted) => wanted,
            Err(words) => return error(StatusCode::BAD_REQUEST, &words),
        };
        let desk = &self.service.desk;
        if wanted.follow {
            let (lines, stream) = mpsc::channel(1);
            let service = self.service.clone();
            tokio::spawn(async move {
                approvals::feed(service.desk.clone(), lines, service.ended.wait()).await;
            });
            return respond(StatusCode::OK, NDJSON, Either::Right(Stream(stream)));
        }
        // Whoever can't be told sees what everybody may see who may ask at all.
        let reader = approvals::who(&self.service.questions, peer)
            .await
            .unwrap_or_else(|_| Arc::new(Origin { uid: Some(peer.uid), ..Origin::default() }));
        match wanted.id {
            None => value(StatusCode::OK, &desk.list(&reader, wanted.all)),
            Some(id) => match desk.show(&id, &reader) {
                Some(shown) => value(StatusCode::OK, &shown),
                None => error(StatusCode::NOT_FOUND, &format!("there is no request {id}")),
            },
        }
    }

    async fn change_approval(&self, request: Incoming, peer: &Peer) -> Answer {
        let bytes = match body(request, approvals::REQUEST_BYTES).await {
            Ok(bytes) => bytes,
            Err(refused) => return refused,
        };
        let who = match approvals::who(&self.service.questions, peer).await {
            Ok(who) => who,
            Err(why) => return error(StatusCode::FORBIDDEN, &why.to_string()),
        };
        let now = WallTime::from_utc(time::UtcDateTime::now());
        match approvals::change(&self.service.desk, &who, &bytes, now) {
            Ok(shown) => value(StatusCode::OK, &shown),
            Err(why) => {
                let status = match &why {
                    approvals::Unchanged::Undecided(Undecided::NoSuch(_)) => StatusCode::NOT_FOUND,
                    approvals::Unchanged::Undecided(Undecided::Unfit(_))
                    | approvals::Unchanged::Nobody(_) => StatusCode::FORBIDDEN,
                    approvals::Unchanged::Undecided(
                        Undecided::Over(..) | Undecided::PoliciesChanged | Undecided::Twice(_),
                    ) => StatusCode::CONFLICT,
                    _ => StatusCode::BAD_REQUEST,
                };
                error(status, &why.to_string())
            }
        }
    }

    async fn whois(&self, query: &str) -> Answer {
        let who = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "who");
        let question = match who.map(|(_, who)| who.parse::<Question>()) {
            Some(Ok(question)) => question,
            Some(Err(words)) => return error(StatusCode::BAD_REQUEST, &words),
            None => return error(StatusCode::BAD_REQUEST, "say who: /v1/whois?who=4711"),
        };
        match self.service.questions.ask(question).await {
            Ok(whois) => value(StatusCode::OK, &whois),
            Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, &why.to_string()),
        }
    }

    async fn status(&self) -> Status {
        let (snapshot, fresh) = self.service.status.ask(STATUS_PATIENCE).await;
        let (memory_bytes, cpu_ms) = own_cost();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            host: self.host.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            agent: Agent {
                memory_bytes,
                cpu_ms,
                watchers: self.service.live.watchers() as u64,
                watch_missed: self.service.live.missed(),
            },
            stale: !fresh,
            capture: Snapshot::clone(&snapshot),
        }
    }

    fn watch(&self, filter: Filter) -> Answer {
        let Some(watcher) = self.service.live.watch(filter.literals) else {
            let words = format!("{WATCHERS} watch already, and no more may");
            return error(StatusCode::SERVICE_UNAVAILABLE, &words);
        };
        let (lines, stream) = mpsc::channel(1);
        tokio::spawn(feed(watcher, filter, lines, self.service.clone()));
        respond(StatusCode::OK, NDJSON, Either::Right(Stream(stream)))
    }
}

/// Brings a watcher's lines to its connection until either ends.
async fn feed(watcher: Watcher, filter: Filter, out: mpsc::Sender<Bytes>, service: Arc<Service>) {
    loop {
        let stopping = tokio::select! {
            () = watcher.filled() => false,
            () = service.ended.wait() => true,
            () = out.closed() => return,
        };
        let (lines, missed) = watcher.take();
        let mut frame = Vec::new();
        for line in lines {
            if matches!(&line, Line::Statement(record) if !filter.lets_through(record)) {
                continue;
            }
            match &line {
                Line::Statement(record) => {
                    write_line(&mut frame, &Shown { record, literals: filter.literals })
                }
                Line::Notice(notice) => write_line(&mut frame, notice),
            }
            if frame.len() >= WATCH_FRAME_BYTES
                && out.send(std::mem::take(&mut frame).into()).await.is_err()
            {
                return;
            }
        }
        if missed > 0 {
            write_line(&mut frame, &json!({ "missed": missed }));
        }
        if (!frame.is_empty() && out.send(frame.into()).await.is_err()) || stopping {
            return;
        }
        sleep(WATCH_PAUSE).await;
    }
}

fn write_line(frame: &mut Vec<u8>, line: &impl Serialize) {
    let start = frame.len();
    match serde_json::to_writer(&mut *frame, line) {
        Ok(()) => frame.push(b'\n'),
        Err(error) => {
            frame.truncate(start);
            warn!(%error, "a line for a watcher can't be written as JSON");
        }
    }
}

/// A body that comes from a channel of one frame: who does not read fills no memory here.
struct Stream(mpsc::Receiver<Bytes>);

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn value(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            respond(status, "application/json", Either::Left(Full::from(body)))
        }
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()),
    }
}

/// What comes with a request, of so many bytes at most; or why it doesn't.
async fn body(request: Incoming, most: usize) -> Result<Bytes, Answer> {
    match timeout(HEAD_TIMEOUT, Limited::new(request, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(broken)) => Err(error(StatusCode::BAD_REQUEST, &broken.to_string())),
        Err(_) => Err(error(StatusCode::REQUEST_TIMEOUT, "the request took too long")),
    }
}

fn error(status: StatusCode, words: &str) -> Answer {
    let body = format!("{}\n", json!({ "error": words }));
    respond(status, "application/json", Either::Left(Full::from(body)))
}

fn respond(status: StatusCode, sort: &'static str, body: Either<Full<Bytes>, Stream>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let sort = http::HeaderValue::from_static(sort);
    response.headers_mut().insert(header::CONTENT_TYPE, sort);
    response
}

/// Resident bytes, and milliseconds of CPU since the start.
pub fn own_cost() -> (u64, u64) {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4_096);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu_ms = cpu.tv_sec * 1_000 + cpu.tv_nsec / 1_000_000;
    (pages.saturating_mul(page), u64::try_from(cpu_ms).unwrap_or(0))
}

//! Questions to the ledger: each is answered by a process of its own, which can't slow or grow the agent.

use std::{io, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tracing::warn;

use super::LedgerPlace;

/// Workers at a time.
const WORKERS: usize = 4;
/// Of a request.
const REQUEST_BYTES: usize = 64 << 10;
/// To send it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CHUNK_BYTES: usize = 64 << 10;
/// Of one line of an answer.
const LINE_BYTES: usize = 16 << 20;

/// What answers a question to the ledger.
#[derive(Clone, Debug)]
pub struct QueryWorker {
    /// Started as `program query-worker --ledger LEDGER --keys KEYS`: this one.
    pub program: PathBuf,
    /// For a whole answer. Who exports more asks about less time at once.
    pub time_limit: Duration,
}

impl Default for QueryWorker {
    fn default() -> Self {
        Self { program: "/proc/self/exe".into(), time_limit: Duration::from_secs(600) }
    }
}

/// Starts query workers, a few at a time.
#[derive(Debug)]
pub(super) struct Queries {
    worker: QueryWorker,
    ledger: LedgerPlace,
    room: Arc<Semaphore>,
}

impl Queries {
    pub(super) fn new(worker: QueryWorker, ledger: LedgerPlace) -> Self {
        Self { worker, ledger, room: Arc::new(Semaphore::new(WORKERS)) }
    }

    /// The lines of the answer; an error says in words why there is none, and whether asking again
    /// later is worth it.
    pub(super) async fn ask(&self, request: Incoming) -> Result<mpsc::Receiver<Bytes>, Refusal> {
        let place = self.room.clone().try_acquire_owned().map_err(|_| Refusal::NoRoom)?;
        let body = Limited::new(request, REQUEST_BYTES).collect();
        let request = match timeout(REQUEST_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return Err(Refusal::TooLong),
            Err(_) => return Err(Refusal::TooSlow),
        };
        let mut worker = self.start().map_err(Refusal::NoWorker)?;
        if let Some(mut input) = worker.stdin.take() {
            // A worker that ends before it has read all says why in its answer.
            let _ = input.write_all(&request).await;
        }
        let (lines, answer) = mpsc::channel(1);
        tokio::spawn(relay(worker, self.worker.time_limit, lines, place));
        Ok(answer)
    }

    fn start(&self) -> io::Result<Child> {
        Command::new(&self.worker.program)
            .arg("query-worker")
            .arg("--ledger")
            .arg(&self.ledger.ledger)
            .arg("--keys")
            .arg(&self.ledger.keys)
            // The service's may hold what logs in to an object store.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{WORKERS} searches run already: try again in a moment")]
    NoRoom,
    #[error("the request is longer than {REQUEST_BYTES} bytes")]
    TooLong,
    #[error("the request did not come within {} s", REQUEST_TIMEOUT.as_secs())]
    TooSlow,
    #[error("can't start a query worker")]
    NoWorker(#[source] io::Error),
}

/// Brings whole lines from the worker to the asker; the worker is killed when there is no asker left
/// or no time.
async fn relay(
    mut worker: Child,
    time_limit: Duration,
    out: mpsc::Sender<Bytes>,
    place: OwnedSemaphorePermit,
) {
    let failure = tokio::select! {
        failure = lines(&mut worker, &out) => failure,
        () = out.closed() => None,
        () = sleep(time_limit) => {
            Some(format!("this took longer than {} s: ask about less time", time_limit.as_secs()))
        }
    };
    // Its memory is free before somebody else gets its place.
    if let Err(error) = worker.kill().await {
        warn!(%error, "can't end a query worker");
    }
    // An asker who doesn't read the words has no worker any more, and keeps nobody else from one.
    drop(place);
    if let Some(words) = failure {
        let _ = out.send(format!("{}\n", json!({ "@error": words })).into()).await;
    }
}

/// What went wrong, if anything did that the worker itself can't have told.
async fn lines(worker: &mut Child, out: &mpsc::Sender<Bytes>) -> Option<String> {
    let mut output = worker.stdout.take()?;
    let mut pending = Vec::with_capacity(CHUNK_BYTES);
    loop {
        pending.reserve(CHUNK_BYTES);
        match output.read_buf(&mut pending).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Some(format!("the query worker can't be read: {error}")),
        }
        if let Some(end) = pending.iter().rposition(|&byte| byte == b'\n') {
            let rest = pending.split_off(end + 1);
            if out.send(std::mem::replace(&mut pending, rest).into()).await.is_err() {
                return None;
            }
        } else if pending.len() > LINE_BYTES {
            return Some("the query worker wrote a line without end".into());
        }
    }
    match worker.wait().await {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("the query worker has ended early ({status})")),
        Err(error) => Some(format!("the query worker can't be waited for: {error}")),
    }
}

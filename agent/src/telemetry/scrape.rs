//! `GET /metrics` for Prometheus: few clients at a time, each for a short time.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Clients at a time.
const CLIENTS: usize = 8;
/// For one client, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(20);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 16 << 10;
/// Until the address is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// Answers for ever. `trouble`: why it can't at the moment.
pub async fn serve<F>(
    address: SocketAddr,
    trouble: &Mutex<Option<String>>,
    metrics: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> Infallible
where
    F: Future<Output = String> + Send + 'static,
{
    let set = |words: Option<String>| {
        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = words;
    };
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let words = format!("can't listen on {address}: {error}");
                tracing::warn!("metrics for Prometheus: {words}");
                set(Some(words));
                sleep(PAUSE).await;
            }
        }
    };
    set(None);
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let accepted = listener.accept().await;
        let (Ok((stream, _)), Ok(place)) = (accepted, room.clone().acquire_owned().await) else {
            // Out of descriptors or memory: let others give some back first.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, converse(stream, metrics)).await;
            drop(place);
        });
    }
}

async fn converse<F>(
    stream: TcpStream,
    metrics: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> Result<(), hyper::Error>
where
    F: Future<Output = String> + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let metrics = metrics.clone();
        async move {
            let path = request.uri().path();
            let (status, sort, body) = match (request.method(), path) {
                (&Method::GET, "/metrics") => {
                    (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics().await)
                }
                (_, "/metrics") => {
                    (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned())
                }
                _ => (StatusCode::NOT_FOUND, "text/plain", "there is /metrics\n".to_owned()),
            };
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            let sort = header::HeaderValue::from_static(sort);
            response.headers_mut().insert(header::CONTENT_TYPE, sort);
            Ok::<_, Infallible>(response)
        }
    });
    http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

//! One request to a receiver, and what became of it.

mod files;
mod grpc;
mod http;

use std::time::Duration;

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use tokio::time::timeout;

use crate::config::{Otlp, Protocol};

/// What is sent.
#[derive(Clone, Debug)]
pub enum Payload {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

/// The receiver has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Items that it has, and will not keep.
    pub n_rejected: u64,
    /// Why, or what else it wants to say.
    pub message: String,
}

impl Accepted {
    /// Of a partial success, which has no items where there is only something to say.
    fn of((n_rejected, message): (i64, String)) -> Self {
        Self { n_rejected: u64::try_from(n_rejected).unwrap_or(0), message: shortened(&message) }
    }
}

/// It is not known to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// The same can go well another time.
    pub is_passing: bool,
    /// When, if the receiver says so.
    pub again_after: Option<Duration>,
}

impl Failure {
    fn passing(why: impl Into<String>) -> Self {
        Self { why: shortened(&why.into()), is_passing: true, again_after: None }
    }

    fn final_(why: impl Into<String>) -> Self {
        Self { why: shortened(&why.into()), is_passing: false, again_after: None }
    }
}

/// Made anew after each failure: by then a certificate may be another file, a name another address.
pub enum Client {
    Grpc(Box<grpc::Client>),
    Http(http::Client),
}

impl Client {
    /// # Errors
    /// A file that can't be read or understood.
    pub fn new(otlp: &Otlp) -> Result<Self, Failure> {
        Ok(match otlp.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(grpc::Client::new(otlp)?)),
            Protocol::Http => Self::Http(http::Client::new(otlp)?),
        })
    }

    pub async fn send(&self, payload: Payload, patience: Duration) -> Result<Accepted, Failure> {
        let sending = async {
            match self {
                Self::Grpc(client) => client.send(payload).await,
                Self::Http(client) => client.send(payload).await,
            }
        };
        match timeout(patience, sending).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::passing(format!("no answer within {patience:?}"))),
        }
    }
}

fn user_agent() -> String {
    format!("dbwarden/{} OTLP", env!("CARGO_PKG_VERSION"))
}

/// What a stranger says, for a line of the status.
fn shortened(words: &str) -> String {
    const CHARS: usize = 300;
    let mut line = words.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let start: String = line.by_ref().take(CHARS).collect();
    match line.next() {
        Some(_) => start + "…",
        None => start,
    }
}

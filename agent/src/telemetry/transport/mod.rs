//! One request to a receiver, and what became of it.

mod grpc;
mod http;

use std::time::Duration;

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use tokio::time::timeout;

use crate::{
    config::{Otlp, Protocol},
    delivery::{Failure, Tls, read_pem, shortened},
};

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
    crate::delivery::user_agent("OTLP")
}

/// Its files, as they are now.
fn tls(otlp: &Otlp) -> Result<Tls, Failure> {
    let client = match (&otlp.client_certificate, &otlp.client_key) {
        (Some(certificate), Some(key)) => Some((read_pem(certificate)?, read_pem(key)?)),
        _ => None,
    };
    Ok(Tls { authority: otlp.certificate.as_deref().map(read_pem).transpose()?, client })
}

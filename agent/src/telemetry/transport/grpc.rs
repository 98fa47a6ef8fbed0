//! OTLP over gRPC.

use opentelemetry_proto::tonic::collector::{
    logs::v1::logs_service_client::LogsServiceClient,
    metrics::v1::metrics_service_client::MetricsServiceClient,
    trace::v1::trace_service_client::TraceServiceClient,
};
use tonic::{
    Code, Request, Status,
    codec::CompressionEncoding,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{Accepted, Payload, tls, user_agent};
use crate::{
    config::{Compression, Otlp},
    delivery::Failure,
    event::in_full,
};

/// A client of one receiver; each sends one signal, and has what the others need too.
pub struct Client {
    channel: Channel,
    headers: MetadataMap,
    compression: Option<CompressionEncoding>,
}

impl Client {
    pub fn new(otlp: &Otlp) -> Result<Self, Failure> {
        let failed = |error: tonic::transport::Error| Failure::passing(in_full(&error));
        let mut endpoint = Endpoint::from_shared(otlp.endpoint.clone())
            .and_then(|endpoint| endpoint.user_agent(user_agent()))
            .map_err(failed)?
            .connect_timeout(otlp.timeout.0);
        if otlp.endpoint.starts_with("https:") {
            let files = tls(otlp)?;
            let mut tls = ClientTlsConfig::new();
            tls = match files.authority {
                Some(authority) => tls.ca_certificate(Certificate::from_pem(authority)),
                None => tls.with_native_roots(),
            };
            if let Some((certificate, key)) = files.client {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(tls).map_err(failed)?;
        }
        Ok(Self {
            channel: endpoint.connect_lazy(),
            headers: headers(otlp),
            compression: match otlp.compression {
                Compression::None => None,
                Compression::Gzip => Some(CompressionEncoding::Gzip),
            },
        })
    }

    pub async fn send(&self, payload: Payload) -> Result<Accepted, Failure> {
        let channel = self.channel.clone();
        let partial = match payload {
            Payload::Traces(request) => {
                let mut client = TraceServiceClient::new(channel);
                if let Some(encoding) = self.compression {
                    client = client.send_compressed(encoding);
                }
                let answer = client.export(self.request(request)).await.map_err(failure)?;
                let partial = answer.into_inner().partial_success;
                partial.map(|partial| (partial.rejected_spans, partial.error_message))
            }
            Payload::Metrics(request) => {
                let mut client = MetricsServiceClient::new(channel);
                if let Some(encoding) = self.compression {
                    client = client.send_compressed(encoding);
                }
                let answer = client.export(self.request(request)).await.map_err(failure)?;
                let partial = answer.into_inner().partial_success;
                partial.map(|partial| (partial.rejected_data_points, partial.error_message))
            }
            Payload::Logs(request) => {
                let mut client = LogsServiceClient::new(channel);
                if let Some(encoding) = self.compression {
                    client = client.send_compressed(encoding);
                }
                let answer = client.export(self.request(request)).await.map_err(failure)?;
                let partial = answer.into_inner().partial_success;
                partial.map(|partial| (partial.rejected_log_records, partial.error_message))
            }
        };
        Ok(partial.map(Accepted::of).unwrap_or_default())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }
}

fn headers(otlp: &Otlp) -> MetadataMap {
    let mut headers = MetadataMap::new();
    for (name, value) in otlp.headers.iter().chain(&otlp.secret_headers.0) {
        let name = MetadataKey::<Ascii>::from_bytes(name.as_bytes());
        // The configuration has checked them.
        if let (Ok(name), Ok(value)) = (name, MetadataValue::<Ascii>::try_from(value.as_str())) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Which failures pass is OTLP's own list.
fn failure(status: Status) -> Failure {
    let why = format!("gRPC {:?}: {}", status.code(), in_full(&status));
    let is_passing = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only where the receiver says when: otherwise the same batch is too large for ever.
        Code::ResourceExhausted => names_retry_info(status.details()),
        // The connection's trouble, not the receiver's word.
        Code::Unknown => std::error::Error::source(&status).is_some(),
        _ => false,
    };
    match is_passing {
        true => Failure::passing(why),
        false => Failure::final_(why),
    }
}

fn names_retry_info(details: &[u8]) -> bool {
    const TYPE: &[u8] = b"google.rpc.RetryInfo";
    details.windows(TYPE.len()).any(|window| window == TYPE)
}

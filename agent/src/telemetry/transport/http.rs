//! OTLP over HTTP, in protobuf.

use std::io::Write;

use flate2::{Compression as Level, write::GzEncoder};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
    trace::v1::ExportTraceServiceResponse,
};
use prost_otlp::Message;

use super::{Accepted, Payload, tls, user_agent};
use crate::{
    config::{Compression, Otlp},
    delivery::{self, Failure, Headers, StatusCode},
};

pub struct Client {
    client: delivery::Client,
    endpoint: String,
    compression: Compression,
}

impl Client {
    pub fn new(otlp: &Otlp) -> Result<Self, Failure> {
        let headers = otlp.headers.iter().chain(&otlp.secret_headers.0);
        // The configuration has checked them.
        let headers = Headers::new(headers.map(|(name, value)| (name.as_str(), value.as_str())));
        Ok(Self {
            client: delivery::Client::new(&tls(otlp)?, &user_agent(), headers)?,
            endpoint: otlp.endpoint.clone(),
            compression: otlp.compression,
        })
    }

    pub async fn send(&self, payload: Payload) -> Result<Accepted, Failure> {
        let bytes = match &payload {
            Payload::Traces(request) => request.encode_to_vec(),
            Payload::Metrics(request) => request.encode_to_vec(),
            Payload::Logs(request) => request.encode_to_vec(),
        };
        let form = ("content-type", "application/x-protobuf");
        let (headers, bytes) = match self.compression {
            Compression::None => (Headers::new([form]), bytes),
            Compression::Gzip => {
                let packed = gzip(&bytes)
                    .map_err(|error| Failure::final_(format!("can't compress: {error}")))?;
                (Headers::new([form, ("content-encoding", "gzip")]), packed)
            }
        };
        let answer = self.client.post(&self.endpoint, headers, bytes).await?;
        if answer.status.is_success() {
            return Ok(accepted(&payload, &answer.body));
        }
        Err(match answer.status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Failure { again_after: answer.again_after, ..Failure::passing(answer.words()) }
            }
            _ => Failure::final_(answer.words()),
        })
    }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Level::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn accepted(payload: &Payload, body: &[u8]) -> Accepted {
    let partial = match payload {
        Payload::Traces(_) => ExportTraceServiceResponse::decode(body)
            .map(|answer| answer.partial_success.map(|p| (p.rejected_spans, p.error_message))),
        Payload::Metrics(_) => ExportMetricsServiceResponse::decode(body).map(|answer| {
            answer.partial_success.map(|p| (p.rejected_data_points, p.error_message))
        }),
        Payload::Logs(_) => ExportLogsServiceResponse::decode(body).map(|answer| {
            answer.partial_success.map(|p| (p.rejected_log_records, p.error_message))
        }),
    };
    // Some receivers say "{}" or "ok": it has been taken all the same.
    partial.ok().flatten().map(Accepted::of).unwrap_or_default()
}

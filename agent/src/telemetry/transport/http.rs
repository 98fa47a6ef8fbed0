//! OTLP over HTTP, in protobuf.

use std::{io::Write, time::Duration};

use flate2::{Compression as Level, write::GzEncoder};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
    trace::v1::ExportTraceServiceResponse,
};
use prost_otlp::Message;
use reqwest::{
    Certificate, Identity, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};

use super::{Accepted, Failure, Payload, files::Files, user_agent};
use crate::{
    config::{Compression, Otlp},
    event::in_full,
};

/// Of an answer; there is little to say.
const ANSWER_BYTES: usize = 64 << 10;
/// A receiver may ask for more patience than that, and doesn't get it.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

pub struct Client {
    client: reqwest::Client,
    endpoint: String,
    compression: Compression,
}

impl Client {
    pub fn new(otlp: &Otlp) -> Result<Self, Failure> {
        let files = Files::read(otlp)?;
        let mut builder = reqwest::Client::builder()
            .use_rustls_tls()
            .user_agent(user_agent())
            // Whoever is redirected may be led astray, headers and all.
            .redirect(redirect::Policy::none())
            .default_headers(headers(otlp));
        let failed = |error: reqwest::Error| Failure::passing(in_full(&error));
        if let Some(authority) = &files.authority {
            builder = builder.tls_built_in_root_certs(false);
            for certificate in Certificate::from_pem_bundle(authority).map_err(failed)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some(client) = &files.client {
            let both = [&*client.certificate, b"\n", &*client.key].concat();
            builder = builder.identity(Identity::from_pem(&both).map_err(failed)?);
        }
        Ok(Self {
            client: builder.build().map_err(failed)?,
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
        let mut request =
            self.client.post(&self.endpoint).header(CONTENT_TYPE, "application/x-protobuf");
        request = match self.compression {
            Compression::None => request.body(bytes),
            Compression::Gzip => {
                let packed = gzip(&bytes)
                    .map_err(|error| Failure::final_(format!("can't compress: {error}")))?;
                request.header(CONTENT_ENCODING, "gzip").body(packed)
            }
        };
        let answer = request.send().await.map_err(|error| {
            // The URL is said elsewhere.
            Failure::passing(in_full(&error.without_url()))
        })?;
        let (status, pause) = (answer.status(), pause(answer.headers()));
        let body = body(answer).await?;
        if status.is_success() {
            return Ok(accepted(&payload, &body));
        }
        let words = String::from_utf8_lossy(&body);
        let why = format!("HTTP {status} {words}");
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Failure { again_after: pause, ..Failure::passing(why) }
            }
            _ => Failure::final_(why),
        })
    }
}

fn headers(otlp: &Otlp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in otlp.headers.iter().chain(&otlp.secret_headers.0) {
        // The configuration has checked them.
        if let (Ok(name), Ok(mut value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Level::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

async fn body(mut answer: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) =
        answer.chunk().await.map_err(|error| Failure::passing(in_full(&error.without_url())))?
    {
        let room = ANSWER_BYTES - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if body.len() >= ANSWER_BYTES {
            break;
        }
    }
    Ok(body)
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

/// `Retry-After`, in seconds; as a date it is passed over.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

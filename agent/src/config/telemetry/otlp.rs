//! Where one signal is sent, over which protocol, and how both ends are known to each other.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use toml::Spanned;
use url::Url;

use super::super::{Span, error::Complaint, file, settings::absolute, settings::within};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    #[serde(rename = "grpc")]
    Grpc,
    #[serde(rename = "http/protobuf")]
    Http,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    Gzip,
}

/// A receiver of one signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Otlp {
    /// The whole URL that is posted to; with gRPC, without a path.
    pub endpoint: String,
    pub protocol: Protocol,
    pub compression: Compression,
    pub timeout: Span,
    /// Who signs the receiver's certificate; by default those whom the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Shown nowhere.
    #[serde(skip)]
    pub secret_headers: SecretHeaders,
}

/// Headers from the environment, which may log in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretHeaders(pub BTreeMap<String, String>);

impl fmt::Debug for SecretHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretHeaders({})", self.0.len())
    }
}

/// What one source says of a receiver.
#[derive(Clone, Debug, Default)]
pub(super) struct Partial {
    pub endpoint: Option<Endpoint>,
    pub protocol: Option<Protocol>,
    pub compression: Option<Compression>,
    pub timeout: Option<Span>,
    pub headers: Option<BTreeMap<String, String>>,
    pub secret_headers: Option<SecretHeaders>,
    pub certificate: Option<PathBuf>,
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub url: Url,
    /// It was given for one signal: nothing is appended to it.
    pub is_whole: bool,
    /// For complaints about what it doesn't go with.
    pub place: Place,
}

/// Where something was written.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(std::ops::Range<usize>),
    Variable(String),
}

impl Place {
    pub fn complaint(&self, key: &str, message: impl fmt::Display) -> Complaint {
        match self {
            Self::File(span) => Complaint::at(span.clone(), format!("`{key}`: {message}")),
            Self::Variable(name) => Complaint::of_environment(format!("{name}: {message}")),
        }
    }
}

const TIMEOUT: Span = Span(Duration::from_secs(10));
pub(super) const TIMEOUTS: RangeInclusive<Span> =
    Span(Duration::from_millis(100))..=Span(Duration::from_secs(300));

/// Clients of gRPC listen there by convention.
const GRPC_PORT: u16 = 4_317;

impl Partial {
    pub fn of_file(written: Spanned<file::Otlp>) -> Result<Self, Complaint> {
        let file::Otlp {
            endpoint,
            protocol,
            compression,
            timeout,
            headers,
            certificate,
            client_certificate,
            client_key,
        } = written.into_inner();
        let path = |key: &str, path: Option<Spanned<PathBuf>>| {
            path.map(|path| absolute(key, path)).transpose()
        };
        Ok(Self {
            endpoint: endpoint
                .map(|written| {
                    let place = Place::File(written.span());
                    Endpoint::parse(written.get_ref(), place)
                })
                .transpose()?,
            protocol,
            compression,
            timeout: within("timeout", timeout, &TIMEOUTS)?,
            headers: headers.map(file_headers).transpose()?,
            secret_headers: None,
            certificate: path("certificate", certificate)?,
            client_certificate: path("client_certificate", client_certificate)?,
            client_key: path("client_key", client_key)?,
        })
    }

    pub fn for_one_signal(mut self) -> Self {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.is_whole = true;
        }
        self
    }

    /// What it doesn't say, another may.
    pub fn or(self, other: Self) -> Self {
        Self {
            endpoint: self.endpoint.or(other.endpoint),
            protocol: self.protocol.or(other.protocol),
            compression: self.compression.or(other.compression),
            timeout: self.timeout.or(other.timeout),
            headers: self.headers.or(other.headers),
            secret_headers: self.secret_headers.or(other.secret_headers),
            certificate: self.certificate.or(other.certificate),
            client_certificate: self.client_certificate.or(other.client_certificate),
            client_key: self.client_key.or(other.client_key),
        }
    }

    /// `None` where nobody says where to.
    pub fn complete(self, signal: Signal) -> Result<Option<Otlp>, Complaint> {
        let Some(Endpoint { url, is_whole, place }) = self.endpoint else { return Ok(None) };
        let usual = match url.port() {
            Some(GRPC_PORT) => Protocol::Grpc,
            _ => Protocol::Http,
        };
        let protocol = self.protocol.unwrap_or(usual);
        let files = [&self.certificate, &self.client_certificate, &self.client_key];
        if url.scheme() == "http" && files.into_iter().any(Option::is_some) {
            let message = format!("{url} is not encrypted, so certificates have no use: https is");
            return Err(place.complaint("endpoint", message));
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            let message = "a client's certificate and its key go together: \
                           `client_certificate` and `client_key`";
            return Err(place.complaint("endpoint", message));
        }
        let path = url.path().trim_end_matches('/');
        let endpoint = match protocol {
            Protocol::Grpc if !path.is_empty() => {
                let message = format!(
                    "{url}: gRPC has no paths; \"http/protobuf\" is the protocol that does"
                );
                return Err(place.complaint("endpoint", message));
            }
            Protocol::Grpc => url.as_str().trim_end_matches('/').to_owned(),
            Protocol::Http if is_whole => url.to_string(),
            Protocol::Http => {
                format!("{}/v1/{}", url.as_str().trim_end_matches('/'), signal.name())
            }
        };
        Ok(Some(Otlp {
            endpoint,
            protocol,
            compression: self.compression.unwrap_or_default(),
            timeout: self.timeout.unwrap_or(TIMEOUT),
            headers: self.headers.unwrap_or_default(),
            secret_headers: self.secret_headers.unwrap_or_default(),
            certificate: self.certificate,
            client_certificate: self.client_certificate,
            client_key: self.client_key,
        }))
    }
}

const FORMS: &str = "http://HOST:4317 (gRPC), http://HOST:4318 (HTTP), or the same with https";

impl Endpoint {
    pub fn parse(text: &str, place: Place) -> Result<Self, Complaint> {
        let parsed = Url::parse(text);
        if let Ok(url) = &parsed
            && (!url.username().is_empty() || url.password().is_some() || url.query().is_some())
        {
            let mut complaint = place.complaint(
                "endpoint",
                format!("nothing may stand in it that logs in: {CREDENTIALS}"),
            );
            complaint.is_secret = true;
            return Err(complaint);
        }
        match parsed {
            Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => {
                Ok(Self { url, is_whole: false, place })
            }
            _ => {
                Err(place
                    .complaint("endpoint", format!("{text:?} is no place to send to: {FORMS}")))
            }
        }
    }
}

const CREDENTIALS: &str = "headers that do are taken from OTEL_EXPORTER_OTLP_HEADERS in the environment \
     (/etc/dbwarden/environment)";

/// Headers that don't log in: what stands in the file is shown, and kept in the ledger.
fn file_headers(
    written: BTreeMap<String, Spanned<String>>,
) -> Result<BTreeMap<String, String>, Complaint> {
    let mut headers = BTreeMap::new();
    for (name, value) in written {
        let span = value.span();
        let lower = name.to_ascii_lowercase();
        if ["auth", "key", "token", "secret", "password", "cookie", "credential"]
            .iter()
            .any(|word| lower.contains(word))
        {
            let message = format!("the header {name:?} looks as if it logged in: {CREDENTIALS}");
            return Err(Complaint::of_secret(span, message));
        }
        let value = value.into_inner();
        if let Some(lack) = header_lack(&name, &value) {
            return Err(Complaint::at(span, format!("the header {name:?} {lack}")));
        }
        headers.insert(lower, value);
    }
    Ok(headers)
}

/// What keeps these from being a header of ours.
pub(super) fn header_lack(name: &str, value: &str) -> Option<&'static str> {
    let is_name =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let name = name.to_ascii_lowercase();
    let is_ours = name.starts_with("grpc-")
        || name.starts_with(':')
        || ["content-type", "content-length", "content-encoding", "host", "te", "connection"]
            .contains(&name.as_str());
    if !is_name {
        Some("has a name that is not of letters, digits, `-`, `_` and `.`")
    } else if is_ours {
        Some("is the protocol's own")
    } else if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        Some("has a value with other characters than visible ASCII ones")
    } else {
        None
    }
}

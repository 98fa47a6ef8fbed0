//! The standard `OTEL_*` variables, as OpenTelemetry's specification has them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use super::{
    Compression, Protocol, SecretHeaders, Signal, is_attribute,
    otlp::{Endpoint, Partial, Place, TIMEOUTS, header_lack},
};
use crate::config::{Span, error::Complaint};

/// Those of this process, or of a test.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

/// What `OTEL_TRACES_SAMPLER` asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampler {
    pub ratio: Option<f64>,
    pub follow_parent: Option<bool>,
}

const PROMETHEUS_PORT: u16 = 9_464;

impl FromIterator<(String, String)> for Environment {
    /// An empty variable is as good as none.
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        let ours = |(name, value): &(String, String)| {
            name.starts_with("OTEL_") && !value.trim().is_empty()
        };
        Self(variables.into_iter().filter(ours).collect())
    }
}

impl Environment {
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(text).collect()
    }

    pub fn is_disabled(&self) -> bool {
        self.is_true("OTEL_SDK_DISABLED")
    }

    /// Whether a signal may be sent over OTLP.
    pub fn exports(&self, signal: Signal) -> Result<bool, Complaint> {
        let name = format!("OTEL_{}_EXPORTER", signal.name().to_ascii_uppercase());
        let Some(list) = self.get(&name) else { return Ok(true) };
        let mut exports = false;
        for word in list.split(',').map(str::trim) {
            match word {
                "otlp" => exports = true,
                "none" => {}
                "prometheus" if matches!(signal, Signal::Metrics) => {}
                _ => {
                    return Err(not_allowed(&name, word, "otlp, none; of metrics also prometheus"));
                }
            }
        }
        Ok(exports)
    }

    /// Where `OTEL_METRICS_EXPORTER` asks for Prometheus.
    pub fn prometheus(&self) -> Result<Option<SocketAddr>, Complaint> {
        let list = self.get("OTEL_METRICS_EXPORTER").unwrap_or_default();
        if !list.split(',').any(|word| word.trim() == "prometheus") {
            return Ok(None);
        }
        let host =
            self.parsed("OTEL_EXPORTER_PROMETHEUS_HOST", "an IP address", |text| match text {
                "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                text => text.parse().ok(),
            })?;
        let port =
            self.parsed("OTEL_EXPORTER_PROMETHEUS_PORT", "a port", |text| text.parse().ok())?;
        let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Some(SocketAddr::new(host, port.unwrap_or(PROMETHEUS_PORT))))
    }

    /// What is said of the receiver of one signal, or of all.
    pub(super) fn otlp(&self, signal: Signal) -> Result<Partial, Complaint> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_", signal.name().to_ascii_uppercase());
        let own = self.otlp_of(&own)?.for_one_signal();
        Ok(own.or(self.otlp_of("OTEL_EXPORTER_OTLP_")?))
    }

    fn otlp_of(&self, prefix: &str) -> Result<Partial, Complaint> {
        let name = |key: &str| format!("{prefix}{key}");
        let path = |key: &str| {
            let known = |text: &str| text.starts_with('/').then(|| text.into());
            self.parsed(&name(key), "an absolute path", known)
        };
        let endpoint = self.get(&name("ENDPOINT")).map(|text| {
            let place = Place::Variable(name("ENDPOINT"));
            let scheme = if self.is_true(&name("INSECURE")) { "http" } else { "https" };
            match text.contains("://") {
                true => Endpoint::parse(text, place),
                false => Endpoint::parse(&format!("{scheme}://{text}"), place),
            }
        });
        let protocols = "grpc or http/protobuf";
        let protocol = self.parsed(&name("PROTOCOL"), protocols, |text| match text {
            "grpc" => Some(Protocol::Grpc),
            "http/protobuf" => Some(Protocol::Http),
            _ => None,
        })?;
        let compression = self.parsed(&name("COMPRESSION"), "gzip or none", |text| match text {
            "gzip" => Some(Compression::Gzip),
            "none" => Some(Compression::None),
            _ => None,
        })?;
        let headers = self.get(&name("HEADERS")).map(|list| headers(&name("HEADERS"), list));
        Ok(Partial {
            endpoint: endpoint.transpose()?,
            protocol,
            compression,
            timeout: self.milliseconds(&name("TIMEOUT"), &TIMEOUTS)?,
            headers: None,
            secret_headers: headers.transpose()?,
            certificate: path("CERTIFICATE")?,
            client_certificate: path("CLIENT_CERTIFICATE")?,
            client_key: path("CLIENT_KEY")?,
        })
    }

    pub fn sampler(&self) -> Result<Sampler, Complaint> {
        let name = "OTEL_TRACES_SAMPLER";
        let Some(sampler) = self.get(name) else { return Ok(Sampler::default()) };
        let follow_parent = sampler.starts_with("parentbased_");
        let ratio = match sampler.trim_start_matches("parentbased_") {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self
                .parsed("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", |text| {
                    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
                })?
                .unwrap_or(1.0),
            _ => {
                let allowed = "always_on, always_off, traceidratio, each also after parentbased_";
                return Err(not_allowed(name, sampler, allowed));
            }
        };
        Ok(Sampler { ratio: Some(ratio), follow_parent: Some(follow_parent) })
    }

    pub fn metric_interval(&self, range: &RangeInclusive<Span>) -> Result<Option<Span>, Complaint> {
        self.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", range)
    }

    /// `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.
    pub fn resource(&self) -> Result<BTreeMap<String, String>, Complaint> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let mut resource = BTreeMap::new();
        for pair in pairs(self.get(name).unwrap_or_default()) {
            match pair {
                Some((key, value)) if is_attribute(&key, &value) => {
                    resource.insert(key, value);
                }
                _ => {
                    return Err(not_allowed(
                        name,
                        "this",
                        "name=value,name=value, percent-encoded",
                    ));
                }
            }
        }
        if let Some(service) = self.get("OTEL_SERVICE_NAME") {
            resource.insert("service.name".to_owned(), service.to_owned());
        }
        Ok(resource)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn parsed<T>(
        &self,
        name: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Complaint> {
        let Some(text) = self.get(name) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| not_allowed(name, text, allowed))
    }

    fn milliseconds(
        &self,
        name: &str,
        range: &RangeInclusive<Span>,
    ) -> Result<Option<Span>, Complaint> {
        let allowed = format!("milliseconds, from {} to {}", range.start(), range.end());
        self.parsed(name, &allowed, |text| {
            let span = Span(Duration::from_millis(text.parse().ok()?));
            range.contains(&span).then_some(span)
        })
    }
}

fn not_allowed(name: &str, text: &str, allowed: &str) -> Complaint {
    Complaint::of_environment(format!("{name}: {text:?} is not allowed (allowed: {allowed})"))
}

fn headers(name: &str, list: &str) -> Result<SecretHeaders, Complaint> {
    let mut headers = BTreeMap::new();
    for pair in pairs(list) {
        // Its value may be a secret, so it isn't repeated.
        let Some((key, value)) = pair else {
            let message = format!("{name}: it must be name=value,name=value, percent-encoded");
            return Err(Complaint::of_environment(message));
        };
        if let Some(lack) = header_lack(&key, &value) {
            let message = format!("{name}: the header {key:?} {lack}");
            return Err(Complaint::of_environment(message));
        }
        headers.insert(key.to_ascii_lowercase(), value);
    }
    Ok(SecretHeaders(headers))
}

/// `name=value,name=value`, values percent-encoded; `None` for what is no pair.
fn pairs(list: &str) -> impl Iterator<Item = Option<(String, String)>> {
    list.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), percent_decoded(value.trim())?))
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let code = behind.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match (*first, code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = behind.get(2..)?;
            }
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

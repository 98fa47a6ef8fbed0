//! The configuration file's shape: exactly what the user may write, nothing resolved yet.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{
    Size, Span,
    guard::{LaneChoice, OnGuardDown, OnLedgerDown},
    settings::{HookChoice, Literals, LogLevel, TlsCapture},
    telemetry::{Compression, Protocol},
    webhook::WebhookFormat,
};
use crate::{
    event::{Engine, Severity},
    principal::Written,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub host: Host,
    pub control: Control,
    pub capture: Capture,
    pub ledger: Ledger,
    pub telemetry: Telemetry,
    pub principal: Vec<Spanned<Written>>,
    pub server: Vec<Spanned<Server>>,
    pub policy: Policy,
    pub enforce: Enforce,
    pub guard: Guard,
    pub approvals: Approvals,
    pub label: Vec<Spanned<Label>>,
    pub region: Vec<Spanned<Region>>,
    pub webhook: Vec<Spanned<Webhook>>,
    pub log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    pub name: Option<Spanned<String>>,
    pub environment: Option<String>,
    pub region: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    pub socket: Option<Spanned<PathBuf>>,
    pub group: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capture {
    pub hooks: Option<HookChoice>,
    pub ring_bytes: Option<Spanned<Size>>,
    pub control_ring_bytes: Option<Spanned<Size>>,
    pub request_bytes: Option<Spanned<Size>>,
    pub response_head_bytes: Option<Spanned<Size>>,
    pub response_tail_bytes: Option<Spanned<Size>>,
    pub tls: Option<TlsCapture>,
    pub poolers: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ledger {
    pub enabled: Option<bool>,
    pub directory: Option<Spanned<PathBuf>>,
    pub keys: Option<Spanned<PathBuf>>,
    pub literals: Option<Literals>,
    pub commit_interval: Option<Spanned<Span>>,
    pub seal_bytes: Option<Spanned<Size>>,
    pub seal_after: Option<Spanned<Span>>,
    pub keep_for: Option<Span>,
    pub keep_bytes: Option<Size>,
    pub keep_free: Option<Size>,
    pub copy: Option<Spanned<LedgerCopy>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerCopy {
    pub url: Option<Spanned<String>>,
    pub interval: Option<Spanned<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    pub enabled: Option<bool>,
    pub prometheus: Option<SocketAddr>,
    pub otlp: Option<Spanned<Otlp>>,
    pub resource: BTreeMap<String, Spanned<String>>,
    pub traces: Traces,
    pub metrics: Metrics,
    pub logs: Logs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Otlp {
    pub endpoint: Option<Spanned<String>>,
    pub protocol: Option<Protocol>,
    pub compression: Option<Compression>,
    pub timeout: Option<Spanned<Span>>,
    pub headers: Option<BTreeMap<String, Spanned<String>>>,
    pub certificate: Option<Spanned<PathBuf>>,
    pub client_certificate: Option<Spanned<PathBuf>>,
    pub client_key: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    pub enabled: Option<bool>,
    pub ratio: Option<Spanned<f64>>,
    pub slow: Option<Spanned<Span>>,
    pub follow_parent: Option<bool>,
    pub returned_rows: Option<bool>,
    pub otlp: Option<Spanned<Otlp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    pub enabled: Option<bool>,
    pub interval: Option<Spanned<Span>>,
    pub otlp: Option<Spanned<Otlp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    pub enabled: Option<bool>,
    pub otlp: Option<Spanned<Otlp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    pub name: Option<Spanned<String>>,
    #[serde(deserialize_with = "engine")]
    pub engine: Option<Engine>,
    pub port: Option<Spanned<u16>>,
    pub data_directory: Option<Spanned<PathBuf>>,
    pub executable: Option<Spanned<PathBuf>>,
    pub socket: Option<Spanned<PathBuf>>,
    pub environment: Option<String>,
    pub region: Option<String>,
    pub exclude: bool,
    pub lane: Option<Spanned<LaneChoice>>,
    pub on_guard_down: Option<OnGuardDown>,
    pub on_ledger_down: Option<OnLedgerDown>,
    pub guard_socket: Option<Spanned<PathBuf>>,
    pub tls_certificate: Option<Spanned<PathBuf>>,
    pub tls_key: Option<Spanned<PathBuf>>,
    pub client_ca_certificate: Option<Spanned<PathBuf>>,
    pub client_ca_key: Option<Spanned<PathBuf>>,
    pub catalog: Option<Spanned<Catalog>>,
    pub database: Vec<Spanned<Database>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Catalog {
    pub user: Option<String>,
    pub password_file: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    pub name: Option<String>,
    pub environment: Option<String>,
    pub region: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub level: LogLevel,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    pub enabled: Option<bool>,
    pub directory: Option<Spanned<PathBuf>>,
    pub starter_pack: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enforce {
    pub quarantine: Option<Span>,
    pub cuts_per_minute: Option<Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    pub steer: Option<bool>,
    pub pins: Option<Spanned<PathBuf>>,
    pub bulk_rows: Option<Spanned<u64>>,
    pub bulk_percent: Option<Spanned<u64>>,
    pub detectors: Vec<Spanned<String>>,
    pub listen: Option<Spanned<Listen>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    pub ttl: Option<Spanned<Span>>,
    pub hold: Option<Spanned<Span>>,
    pub break_glass: Option<Spanned<String>>,
}

/// An address for the one server that is guarded, or one for each.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Listen {
    One(SocketAddr),
    Each(BTreeMap<String, SocketAddr>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Label {
    pub name: Option<String>,
    pub on: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Region {
    pub name: Option<String>,
    pub networks: Vec<Spanned<String>>,
    pub units: Vec<String>,
    pub containers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    pub name: Option<Spanned<String>>,
    pub url: Option<Spanned<String>>,
    pub url_file: Option<Spanned<PathBuf>>,
    pub format: Option<WebhookFormat>,
    pub secret_file: Option<Spanned<PathBuf>>,
    pub min_severity: Option<Severity>,
    pub rules: Option<Spanned<Vec<String>>>,
    pub dry_run: Option<bool>,
    pub approvals: Option<bool>,
    pub timeout: Option<Spanned<Span>>,
    pub give_up: Option<Spanned<Span>>,
    pub certificate: Option<Spanned<PathBuf>>,
}

/// `event::Engine` is written out by sinks and read only here, so its names are read here.
fn engine<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Engine>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Name {
        Postgresql,
    }
    Ok(Some(match Name::deserialize(deserializer)? {
        Name::Postgresql => Engine::Postgresql,
    }))
}

//! What the stages need, resolved and checked, and the one place that makes it from a file.

use std::{collections::HashSet, ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{
    Approvals, DatabaseOf, Enforce, LabelOn, Policy, RegionOf, Size, Span,
    approvals::approvals,
    copy::{LedgerCopy, copy},
    databases::databases,
    error::Complaint,
    file,
    guard::{
        Catalog, Guard, LaneChoice, OnGuardDown, OnLedgerDown, catalog, guard, guard_socket, pair,
    },
    policies::{labels, regions},
    principals::principals,
    telemetry::{Environment, Telemetry, telemetry},
    webhook::{Webhook, webhooks},
};
use crate::{event::Engine, principal::Written};

/// The whole effective configuration. Serialises to the file's own shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    pub host: Host,
    pub control: Control,
    pub capture: Capture,
    pub ledger: Ledger,
    pub telemetry: Telemetry,
    pub log: Log,
    #[serde(rename = "server", skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<Server>,
    /// Rules that stand before those that dbwarden brings along.
    #[serde(rename = "principal", skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<Written>,
    pub policy: Policy,
    pub enforce: Enforce,
    pub guard: Guard,
    pub approvals: Approvals,
    #[serde(rename = "label", skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelOn>,
    #[serde(rename = "region", skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionOf>,
    #[serde(rename = "webhook", skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<Webhook>,
}

/// What is said of this host in every record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// Where the control socket stands and who may use it besides root.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Control {
    pub socket: PathBuf,
    /// Name of a group of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// How much is captured and with which hooks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Capture {
    pub hooks: HookChoice,
    /// Ring buffer for captured bytes: a power of two, a multiple of the page size.
    pub ring_bytes: Size,
    /// Ring buffer for opens, closes, forks, execs and exits: as above.
    pub control_ring_bytes: Size,
    /// Captured of one request call at most.
    pub request_bytes: Size,
    /// Captured from the start of one response call at most.
    pub response_head_bytes: Size,
    /// Captured from the end of one response call at most.
    pub response_tail_bytes: Size,
    pub tls: TlsCapture,
    /// Whether poolers are watched, and the clients behind them named.
    pub poolers: bool,
}

/// Where statements are kept, how and for how long.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ledger {
    pub enabled: bool,
    pub directory: PathBuf,
    /// What signs it.
    pub keys: PathBuf,
    pub literals: Literals,
    /// What a crash of the host can cost at most.
    pub commit_interval: Span,
    /// The open segment is sealed at this size or age.
    pub seal_bytes: Size,
    pub seal_after: Span,
    /// The oldest sealed segments go when they are older, or all together larger, than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_for: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_bytes: Option<Size>,
    /// Writing pauses while the file system has less room than this.
    pub keep_free: Size,
    /// Where it is copied to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<LedgerCopy>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    pub level: LogLevel,
}

/// Names, adds or excludes a server: it is meant when everything that is given fits it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Server {
    /// `None` only where the server is excluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Where it is not what is said of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub exclude: bool,
    #[serde(skip_serializing_if = "LaneChoice::is_observe")]
    pub lane: LaneChoice,
    #[serde(skip_serializing_if = "OnGuardDown::is_refuse")]
    pub on_guard_down: OnGuardDown,
    #[serde(skip_serializing_if = "OnLedgerDown::is_refuse")]
    pub on_ledger_down: OnLedgerDown,
    /// Where its clients look for its unix socket, and the guard listens: the server itself has moved elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard_socket: Option<PathBuf>,
    /// What the guard answers TLS with; by default the files that the server is configured with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// The authority by which the guard is whoever has shown a certificate to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_key: Option<PathBuf>,
    /// `None`: what the text of a statement doesn't tell, the guard doesn't know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<Catalog>,
    /// Those that are not where the server is; the first that fits counts.
    #[serde(rename = "database", skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<DatabaseOf>,
}

/// Which set of kernel hooks sees the socket calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum HookChoice {
    /// The best that this kernel has.
    #[default]
    Auto,
    /// `sock_send_length` and `sock_recv_length` (kernels from 6.3).
    TpBtf,
    /// Exit tracepoints of the socket system calls.
    Syscalls,
}

/// Whether plaintext is taken from the TLS library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsCapture {
    /// Where it is safe.
    #[default]
    Auto,
    Off,
}

/// Whether values that stand in statements are kept; secrets never are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Literals {
    /// `?` stands for each.
    #[default]
    Redact,
    Keep,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// The socket that clients look for when nobody names another.
pub const CONTROL_SOCKET: &str = "/run/dbwarden/control.sock";
/// Where the ledger is kept when nobody names another place.
pub const LEDGER_DIRECTORY: &str = "/var/lib/dbwarden/ledger";
pub const KEY_DIRECTORY: &str = "/var/lib/dbwarden/keys";

/// One call is captured in a bounded number of chunks by the programs in the kernel.
const BUDGET: RangeInclusive<u64> = 256..=65_536;
const RING_MAX: u64 = 1 << 30;
pub(super) const NAME_MAX: usize = 63;
const COMMIT: RangeInclusive<Span> =
    Span(Duration::from_millis(10))..=Span(Duration::from_secs(60));
const SEAL_BYTES: RangeInclusive<Size> = Size(1 << 20)..=Size(1 << 30);
const CUTS_PER_MINUTE: RangeInclusive<u32> = 0..=10_000;
const SEAL_AFTER: RangeInclusive<Span> =
    Span(Duration::from_secs(10))..=Span(Duration::from_secs(7 * 86_400));

impl Settings {
    /// What applies where nothing is configured.
    pub fn defaults(host_name: &str) -> Self {
        Self {
            host: Host { name: host_name.to_owned(), environment: None, region: None },
            control: Control { socket: CONTROL_SOCKET.into(), group: None },
            capture: Capture {
                hooks: HookChoice::Auto,
                ring_bytes: Size(16 << 20),
                control_ring_bytes: Size(4 << 20),
                request_bytes: Size(64 << 10),
                response_head_bytes: Size(8 << 10),
                response_tail_bytes: Size(8 << 10),
                tls: TlsCapture::Auto,
                poolers: true,
            },
            ledger: Ledger {
                enabled: true,
                directory: LEDGER_DIRECTORY.into(),
                keys: KEY_DIRECTORY.into(),
                literals: Literals::Redact,
                commit_interval: Span(Duration::from_secs(1)),
                seal_bytes: Size(64 << 20),
                seal_after: Span(Duration::from_secs(3_600)),
                keep_for: None,
                keep_bytes: None,
                keep_free: Size(1 << 30),
                copy: None,
            },
            telemetry: Telemetry::default(),
            log: Log { level: LogLevel::Info },
            servers: Vec::new(),
            principals: Vec::new(),
            policy: Policy::default(),
            enforce: Enforce::default(),
            guard: Guard::default(),
            approvals: Approvals::default(),
            labels: Vec::new(),
            regions: Vec::new(),
            webhooks: Vec::new(),
        }
    }

    /// What the guard needs of them, without what is not its business.
    pub fn of_guard(&self) -> Self {
        Self {
            host: self.host.clone(),
            servers: self.servers.clone(),
            principals: self.principals.clone(),
            policy: self.policy.clone(),
            labels: self.labels.clone(),
            regions: self.regions.clone(),
            guard: self.guard.clone(),
            ..Self::defaults(&self.host.name)
        }
    }

    /// Checks what was written and fills in what was not.
    pub(super) fn of_file(file: file::File, host: &HostFacts) -> Result<Self, Complaint> {
        let defaults = Self::defaults(&host.name);
        let capture = defaults.capture;
        let page = host.page_bytes;
        let policy = policy(file.policy)?;
        let mut lanes = file.server.iter().filter_map(|server| server.get_ref().lane.as_ref());
        if !policy.enabled
            && let Some(lane) = lanes.find(|lane| !lane.get_ref().is_observe())
        {
            return Err(Complaint::at(
                lane.span(),
                "[policy] is not enabled, so a guard would have nothing to judge by",
            ));
        }
        let servers = servers(file.server)?;
        let principals = principals(file.principal)?;
        let groups: Vec<String> = principals.iter().flat_map(|rule| rule.groups.clone()).collect();
        Ok(Self {
            host: Host {
                name: file.host.name.map(host_name).transpose()?.unwrap_or(defaults.host.name),
                environment: file.host.environment,
                region: file.host.region,
            },
            control: Control {
                socket: file
                    .control
                    .socket
                    .map(|path| socket_path("socket", path))
                    .transpose()?
                    .unwrap_or(defaults.control.socket),
                group: file.control.group.map(group_name).transpose()?,
            },
            capture: Capture {
                hooks: file.capture.hooks.unwrap_or(capture.hooks),
                ring_bytes: ring("ring_bytes", file.capture.ring_bytes, capture.ring_bytes, page)?,
                control_ring_bytes: ring(
                    "control_ring_bytes",
                    file.capture.control_ring_bytes,
                    capture.control_ring_bytes,
                    page,
                )?,
                request_bytes: budget(
                    "request_bytes",
                    file.capture.request_bytes,
                    capture.request_bytes,
                )?,
                response_head_bytes: budget(
                    "response_head_bytes",
                    file.capture.response_head_bytes,
                    capture.response_head_bytes,
                )?,
                response_tail_bytes: budget(
                    "response_tail_bytes",
                    file.capture.response_tail_bytes,
                    capture.response_tail_bytes,
                )?,
                tls: file.capture.tls.unwrap_or(capture.tls),
                poolers: file.capture.poolers.unwrap_or(capture.poolers),
            },
            ledger: ledger(file.ledger, defaults.ledger)?,
            telemetry: telemetry(file.telemetry, &host.environment)?,
            log: Log { level: file.log.level },
            guard: guard(file.guard, &servers)?,
            servers,
            approvals: approvals(file.approvals, &groups)?,
            principals,
            policy,
            enforce: enforce(file.enforce)?,
            labels: labels(file.label)?,
            regions: regions(file.region)?,
            webhooks: webhooks(file.webhook)?,
        })
    }
}

/// What the checks need to know of the host.
#[derive(Clone, Debug)]
pub(super) struct HostFacts {
    pub name: String,
    pub page_bytes: u64,
    pub environment: Environment,
}

fn ring(
    key: &str,
    written: Option<Spanned<Size>>,
    default: Size,
    page: u64,
) -> Result<Size, Complaint> {
    let Some(written) = written else { return Ok(default) };
    let Size(bytes) = *written.get_ref();
    if bytes.is_power_of_two() && bytes % page == 0 && bytes <= RING_MAX {
        return Ok(Size(bytes));
    }
    let nearest = Size(bytes.clamp(page, RING_MAX).next_power_of_two());
    Err(Complaint::at(
        written.span(),
        format!(
            "`{key}`: the kernel wants a power of two that is a multiple of its page ({}), at most \
             {}; {} is not; the nearest is \"{nearest}\"",
            Size(page),
            Size(RING_MAX),
            Size(bytes),
        ),
    ))
}

fn budget(key: &str, written: Option<Spanned<Size>>, default: Size) -> Result<Size, Complaint> {
    let Some(written) = written else { return Ok(default) };
    let size = *written.get_ref();
    if BUDGET.contains(&size.0) {
        return Ok(size);
    }
    let (min, max) = (Size(*BUDGET.start()), Size(*BUDGET.end()));
    Err(Complaint::at(
        written.span(),
        format!("`{key}`: from {min} to {max} bytes of one call can be captured; {size} can't"),
    ))
}

fn ledger(written: file::Ledger, default: Ledger) -> Result<Ledger, Complaint> {
    let directory = written.directory.map(|path| absolute("directory", path)).transpose()?;
    let directory = directory.unwrap_or(default.directory);
    let keys = written.keys.map(|path| absolute("keys", path)).transpose()?;
    Ok(Ledger {
        enabled: written.enabled.unwrap_or(default.enabled),
        copy: written.copy.map(|written| copy(written, &directory)).transpose()?,
        directory,
        keys: keys.unwrap_or(default.keys),
        literals: written.literals.unwrap_or(default.literals),
        commit_interval: within("commit_interval", written.commit_interval, &COMMIT)?
            .unwrap_or(default.commit_interval),
        seal_bytes: within("seal_bytes", written.seal_bytes, &SEAL_BYTES)?
            .unwrap_or(default.seal_bytes),
        seal_after: within("seal_after", written.seal_after, &SEAL_AFTER)?
            .unwrap_or(default.seal_after),
        keep_for: written.keep_for.or(default.keep_for),
        keep_bytes: written.keep_bytes.or(default.keep_bytes),
        keep_free: written.keep_free.unwrap_or(default.keep_free),
    })
}

fn policy(written: file::Policy) -> Result<Policy, Complaint> {
    let default = Policy::default();
    let directory = written.directory.map(|path| absolute("directory", path)).transpose()?;
    Ok(Policy {
        enabled: written.enabled.unwrap_or(default.enabled),
        directory: directory.unwrap_or(default.directory),
        starter_pack: written.starter_pack.unwrap_or(default.starter_pack),
    })
}

fn enforce(written: file::Enforce) -> Result<Enforce, Complaint> {
    let default = Enforce::default();
    Ok(Enforce {
        quarantine: written.quarantine.unwrap_or(default.quarantine),
        cuts_per_minute: within("cuts_per_minute", written.cuts_per_minute, &CUTS_PER_MINUTE)?
            .unwrap_or(default.cuts_per_minute),
    })
}

pub(super) fn within<T: Copy + PartialOrd + std::fmt::Display>(
    key: &str,
    written: Option<Spanned<T>>,
    range: &RangeInclusive<T>,
) -> Result<Option<T>, Complaint> {
    let Some(written) = written else { return Ok(None) };
    let value = *written.get_ref();
    if range.contains(&value) {
        return Ok(Some(value));
    }
    let (min, max) = (range.start(), range.end());
    Err(Complaint::at(written.span(), format!("`{key}`: from {min} to {max}; {value} is not")))
}

fn host_name(written: Spanned<String>) -> Result<String, Complaint> {
    plain_name("name", written)
}

fn group_name(written: Spanned<String>) -> Result<String, Complaint> {
    plain_name("group", written)
}

/// A word that can stand in a log line, a table and a label without quoting.
pub(super) fn plain_name(key: &str, written: Spanned<String>) -> Result<String, Complaint> {
    let span = written.span();
    let name = written.into_inner();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(plain) {
        return Ok(name);
    }
    Err(Complaint::at(
        span,
        format!(
            "`{key}`: {name:?} is not allowed: 1 to {NAME_MAX} letters, digits, `.`, `_` or `-`"
        ),
    ))
}

pub(super) fn absolute(key: &str, written: Spanned<PathBuf>) -> Result<PathBuf, Complaint> {
    let span = written.span();
    let path = written.into_inner();
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Complaint::at(span, format!("`{key}`: {path:?} must be an absolute path")))
}

/// The kernel has 108 bytes for a socket's path, with the closing zero.
pub(super) const SOCKET_PATH_MAX: usize = 107;

pub(super) fn socket_path(key: &str, written: Spanned<PathBuf>) -> Result<PathBuf, Complaint> {
    let span = written.span();
    let path = absolute(key, written)?;
    match path.as_os_str().len() {
        0..=SOCKET_PATH_MAX => Ok(path),
        len => Err(Complaint::at(
            span,
            format!(
                "`{key}`: a socket's path has at most {SOCKET_PATH_MAX} bytes, this one has {len}"
            ),
        )),
    }
}

fn servers(written: Vec<Spanned<file::Server>>) -> Result<Vec<Server>, Complaint> {
    let (mut names, mut sockets) = (HashSet::new(), HashSet::new());
    let mut servers = Vec::with_capacity(written.len());
    for entry in written {
        let span = entry.span();
        let name_span = entry.get_ref().name.as_ref().map(Spanned::span);
        let socket_span = entry.get_ref().guard_socket.as_ref().map(Spanned::span);
        let server = server(entry)?;
        if let Some(socket) = &server.guard_socket
            && !sockets.insert(socket.clone())
        {
            return Err(Complaint::at(
                socket_span.unwrap_or(span),
                "`guard_socket`: another [[server]] has it",
            ));
        }
        if let Some(name) = &server.name
            && !names.insert(name.clone())
        {
            return Err(Complaint::at(
                name_span.unwrap_or(span),
                format!("`name`: two [[server]] are called \"{name}\"; names must differ"),
            ));
        }
        servers.push(server);
    }
    Ok(servers)
}

fn server(entry: Spanned<file::Server>) -> Result<Server, Complaint> {
    let span = entry.span();
    let written = entry.into_inner();
    let port = match written.port {
        Some(port) if *port.get_ref() == 0 => {
            return Err(Complaint::at(port.span(), "`port`: from 1 to 65535; 0 is no port"));
        }
        port => port.map(Spanned::into_inner),
    };
    let path = |key: &str, path: Option<Spanned<PathBuf>>| {
        path.map(|path| absolute(key, path)).transpose()
    };
    pair(("tls_certificate", &written.tls_certificate), ("tls_key", &written.tls_key))?;
    let of_clients = ("client_ca_certificate", &written.client_ca_certificate);
    pair(of_clients, ("client_ca_key", &written.client_ca_key))?;
    let lane = written.lane.as_ref().map(|lane| *lane.get_ref()).unwrap_or_default();
    if let Some(lane) = written.lane.filter(|lane| !lane.get_ref().is_observe())
        && written.exclude
    {
        return Err(Complaint::at(lane.span(), "[[server]] is excluded, so it can't be guarded"));
    }
    let server = Server {
        name: written.name.map(|name| plain_name("name", name)).transpose()?,
        engine: written.engine,
        port,
        data_directory: path("data_directory", written.data_directory)?,
        executable: path("executable", written.executable)?,
        socket: written.socket.map(|path| absolute("socket", path)).transpose()?,
        environment: written.environment,
        region: written.region,
        exclude: written.exclude,
        lane,
        on_guard_down: written.on_guard_down.unwrap_or_default(),
        on_ledger_down: written.on_ledger_down.unwrap_or_default(),
        guard_socket: guard_socket(written.guard_socket, lane)?,
        tls_certificate: path("tls_certificate", written.tls_certificate)?,
        tls_key: path("tls_key", written.tls_key)?,
        client_ca_certificate: path("client_ca_certificate", written.client_ca_certificate)?,
        client_ca_key: path("client_ca_key", written.client_ca_key)?,
        catalog: written.catalog.map(|written| catalog(written, lane)).transpose()?,
        databases: databases(written.database)?,
    };
    if server.name.is_none() && !server.exclude {
        return Err(Complaint::at(
            span,
            "[[server]] needs a `name` to call the server by, or `exclude = true` to leave it alone",
        ));
    }
    let selects = server.port.is_some()
        || server.data_directory.is_some()
        || server.executable.is_some()
        || server.socket.is_some();
    if !selects {
        return Err(Complaint::at(
            span,
            "[[server]] must say which server is meant: `port`, `socket`, `data_directory` or \
             `executable`",
        ));
    }
    Ok(server)
}

//! The configuration: what the user wrote (`file`) becomes what the stages need (`settings`) here.

mod approvals;
mod copy;
mod databases;
mod error;
mod file;
mod guard;
mod policies;
mod principals;
mod settings;
mod size;
mod span;
mod telemetry;
mod webhook;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use approvals::Approvals;
pub use copy::LedgerCopy;
pub use databases::DatabaseOf;
pub use error::{Error, Mistake};
pub use guard::{Catalog, Guard, LaneChoice, NEXT, OnGuardDown, OnLedgerDown};
pub use policies::{
    Enforce, LabelOn, POLICY_DIRECTORY, Policy, RegionOf, UnreadablePolicies, policy_source,
    policy_sources, world,
};
pub use settings::{
    CONTROL_SOCKET, Capture, Control, HookChoice, Host, KEY_DIRECTORY, LEDGER_DIRECTORY, Ledger,
    Literals, Log, LogLevel, Server, Settings, TlsCapture,
};
pub use size::Size;
pub use span::Span;
pub use telemetry::{
    Compression, Logs, Metrics, Otlp, Protocol, SecretHeaders, Signal, Telemetry, Traces,
};
pub use webhook::{Webhook, WebhookFormat, WebhookTarget};

use error::Complaint;
use settings::HostFacts;

/// Read when no `--config` is given; may be absent.
pub const DEFAULT_PATH: &str = "/etc/dbwarden/config.toml";

/// The ledger that is read when nobody names another and no service can be asked.
pub const LEDGER: &str = "/var/lib/dbwarden/ledger";

/// The settings from `named`, which must exist, or from the default path, which may not.
pub fn load(named: Option<&Path>) -> Result<Settings, Error> {
    let path = named.unwrap_or(Path::new(DEFAULT_PATH));
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text, &this_host()),
        Err(source) if source.kind() == io::ErrorKind::NotFound && named.is_none() => {
            parse(path, "", &this_host())
        }
        Err(source) => Err(Error::Unreadable { path: path.to_owned(), source }),
    }
}

/// The file that [`load`] reads; `None` where there is none, and nothing but the defaults applies.
pub fn source(named: Option<&Path>) -> Option<&Path> {
    named.or_else(|| Some(Path::new(DEFAULT_PATH)).filter(|path| path.exists()))
}

/// The settings that [`Settings::to_toml`](Settings) has written: what one process of ours says to another.
pub fn read_back(text: &str) -> Result<Settings, Error> {
    parse(Path::new("settings"), text, &this_host())
}

fn parse(path: &Path, text: &str, host: &HostFacts) -> Result<Settings, Error> {
    let located = |complaint: Complaint| match complaint.is_of_environment {
        true => Error::Environment(complaint.message),
        false => Error::Invalid(Box::new(complaint.locate(PathBuf::from(path), text))),
    };
    let file: file::File =
        toml::from_str(text).map_err(|error| located(Complaint::of_toml(&error, text)))?;
    Settings::of_file(file, host).map_err(located)
}

fn this_host() -> HostFacts {
    let uname = rustix::system::uname();
    HostFacts {
        name: uname.nodename().to_string_lossy().into_owned(),
        page_bytes: u64::try_from(rustix::param::page_size()).unwrap_or(4_096),
        environment: telemetry::Environment::of_process(),
    }
}

#[cfg(test)]
mod tests;

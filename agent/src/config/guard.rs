//! Which servers are guarded, where their clients may come in, and what happens without a guard.

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, path::PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{
    error::Complaint,
    file,
    settings::{NAME_MAX, SOCKET_PATH_MAX, Server, absolute, socket_path, within},
};
use crate::event::Detector;

/// The guard, as far as it isn't a matter of one server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guard {
    /// Whether those who connect to a guarded server are led to the guard. Where not, they may come by
    /// themselves.
    pub steer: bool,
    /// On a BPF file system: what refuses clients while there is no guard, though the service is gone.
    pub pins: PathBuf,
    /// More rows than an ordinary UPDATE or DELETE touches, as the server estimates it; the same as a part of a
    /// table that has more than a handful.
    pub bulk_rows: u64,
    pub bulk_percent: u64,
    /// What is hidden from clients who see labelled values masked, wherever in a text it stands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detectors: Vec<Detector>,
    /// Where clients may come in by themselves, by server.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub listen: BTreeMap<String, SocketAddr>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            steer: true,
            pins: "/sys/fs/bpf/dbwarden".into(),
            bulk_rows: 10_000,
            bulk_percent: 90,
            detectors: Vec::new(),
            listen: BTreeMap::new(),
        }
    }
}

const BULK_ROWS: RangeInclusive<u64> = 1..=1_000_000_000_000;
const BULK_PERCENT: RangeInclusive<u64> = 1..=100;

/// Whose connection the guard asks a server by for what a statement's text alone doesn't tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Catalog {
    pub user: String,
    /// Holds the password alone; for the service to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

pub(super) fn catalog(
    written: Spanned<file::Catalog>,
    lane: LaneChoice,
) -> Result<Catalog, Complaint> {
    let span = written.span();
    let file::Catalog { user, password_file } = written.into_inner();
    if lane.is_observe() {
        return Err(Complaint::at(
            span,
            "`catalog` is of use to a guard only: set `lane = \"guard\"` in this [[server]], or take it out",
        ));
    }
    let user = user.filter(|user| !user.is_empty() && user.len() <= NAME_MAX);
    let Some(user) = user else {
        return Err(Complaint::at(
            span,
            format!("`catalog` needs the `user` to ask the server as, of 1 to {NAME_MAX} bytes"),
        ));
    };
    let password_file = password_file.map(|path| absolute("password_file", path)).transpose()?;
    Ok(Catalog { user, password_file })
}

/// Which way to a server is watched how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneChoice {
    /// Nothing stands between clients and server.
    #[default]
    Observe,
    /// Every statement is judged before the server gets it.
    Guard,
    /// One or the other, as the policies say of each client that connects.
    Policy,
}

impl LaneChoice {
    /// Whether nobody is ever guarded.
    pub fn is_observe(&self) -> bool {
        *self == Self::Observe
    }
}

/// Behind the name of a guard's socket, or of a link, that takes its place as a whole.
pub const NEXT: &str = ".dbwarden";

/// What becomes of new connections to a guarded server while there is no guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGuardDown {
    #[default]
    Refuse,
    /// They go straight on to the server.
    Direct,
}

impl OnGuardDown {
    pub(super) fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }
}

/// What becomes of what guarded clients want while the ledger can't be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLedgerDown {
    /// Nothing is let through that nobody could find later.
    #[default]
    Refuse,
    /// It passes, and is counted as missing.
    Pass,
}

impl OnLedgerDown {
    pub(super) fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }
}

pub(super) fn guard(written: file::Guard, servers: &[Server]) -> Result<Guard, Complaint> {
    let steer = written.steer.unwrap_or(true);
    let pins = written.pins.map(|path| absolute("pins", path)).transpose()?;
    let default = Guard::default();
    let bulk_rows = within("bulk_rows", written.bulk_rows, &BULK_ROWS)?;
    let bulk_percent = within("bulk_percent", written.bulk_percent, &BULK_PERCENT)?;
    let guard = Guard {
        steer,
        pins: pins.unwrap_or(default.pins),
        bulk_rows: bulk_rows.unwrap_or(default.bulk_rows),
        bulk_percent: bulk_percent.unwrap_or(default.bulk_percent),
        detectors: detectors(written.detectors)?,
        listen: BTreeMap::new(),
    };
    let Some(listen) = written.listen else { return Ok(guard) };
    let span = listen.span();
    let guarded: Vec<&str> = servers
        .iter()
        .filter(|server| !server.lane.is_observe())
        .filter_map(|server| server.name.as_deref())
        .collect();
    let listen = match listen.into_inner() {
        file::Listen::One(address) => match guarded.as_slice() {
            [only] => BTreeMap::from([((*only).to_owned(), address)]),
            [] => {
                return Err(Complaint::at(
                    span,
                    "`listen`: no server is guarded: set `lane = \"guard\"` or \"policy\" in its [[server]]",
                ));
            }
            several => {
                let each: Vec<String> =
                    several.iter().map(|name| format!("{name} = \"127.0.0.1:…\"")).collect();
                return Err(Complaint::at(
                    span,
                    format!(
                        "`listen`: several servers are guarded, so say which is meant: listen = {{ {} }}",
                        each.join(", ")
                    ),
                ));
            }
        },
        file::Listen::Each(listen) => {
            if let Some(name) = listen.keys().find(|name| !guarded.contains(&name.as_str())) {
                return Err(Complaint::at(
                    span,
                    format!("`listen`: \"{name}\" is no guarded [[server]]"),
                ));
            }
            listen
        }
    };
    Ok(Guard { listen, ..guard })
}

fn detectors(written: Vec<Spanned<String>>) -> Result<Vec<Detector>, Complaint> {
    let mut detectors = Vec::new();
    for name in written {
        let found = Detector::ALL.iter().find(|detector| detector.name() == name.get_ref());
        let Some(found) = found else {
            let all: Vec<&str> = Detector::ALL.iter().map(|detector| detector.name()).collect();
            return Err(Complaint::at(
                name.span(),
                format!("`detectors`: {:?} is none of {}", name.get_ref(), all.join(", ")),
            ));
        };
        if !detectors.contains(found) {
            detectors.push(*found);
        }
    }
    Ok(detectors)
}

/// With room for the ending of a name that takes its place.
pub(super) fn guard_socket(
    written: Option<Spanned<PathBuf>>,
    lane: LaneChoice,
) -> Result<Option<PathBuf>, Complaint> {
    let Some(written) = written else { return Ok(None) };
    let span = written.span();
    if lane.is_observe() {
        return Err(Complaint::at(
            span,
            "`guard_socket`: the server is not guarded: set `lane = \"guard\"` too",
        ));
    }
    let path = socket_path("guard_socket", written)?;
    if path.as_os_str().len() + NEXT.len() > SOCKET_PATH_MAX || path.file_name().is_none() {
        let most = SOCKET_PATH_MAX - NEXT.len();
        return Err(Complaint::at(
            span,
            format!("`guard_socket`: the path of a file, of at most {most} bytes"),
        ));
    }
    Ok(Some(path))
}

/// Both, or none where they are found by what the server is configured with.
pub(super) fn pair(
    (name, certificate): (&str, &Option<Spanned<PathBuf>>),
    (name_of_key, key): (&str, &Option<Spanned<PathBuf>>),
) -> Result<(), Complaint> {
    let (given, missing) = match (certificate, key) {
        (Some(given), None) => (given, name_of_key),
        (None, Some(given)) => (given, name),
        _ => return Ok(()),
    };
    Err(Complaint::at(given.span(), format!("[[server]] needs `{missing}` too")))
}

//! Policies and what they speak of: where their files are, labels for data, regions for clients.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Settings, Span, error::Complaint, file};
use crate::{
    policy::{Label, Pattern, Region, Source, World},
    principal::Network,
};

/// Where the policies are when nobody names another place.
pub const POLICY_DIRECTORY: &str = "/etc/dbwarden/policies";

/// What judges statements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    pub enabled: bool,
    /// Of its files those that end in `.cedar`.
    pub directory: PathBuf,
    /// The rules that dbwarden brings along apply too.
    pub starter_pack: bool,
}

/// What is done about those whose connections a rule ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Enforce {
    /// How long their next connections end too; 0: not at all.
    pub quarantine: Span,
    /// Of one server at most.
    pub cuts_per_minute: u32,
}

/// A name for data, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelOn {
    pub name: String,
    pub on: Vec<String>,
}

/// Who is in a region, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionOf {
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
}

/// Of a directory; more is a mistake, and would make loading slow.
const MAX_FILES: usize = 256;
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Default for Enforce {
    fn default() -> Self {
        Self { quarantine: Span(Duration::from_secs(15 * 60)), cuts_per_minute: 10 }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { enabled: true, directory: POLICY_DIRECTORY.into(), starter_pack: true }
    }
}

/// Policies that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadablePolicies {
    #[error("can't read the policies in {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: more than {MAX_FILES} files end in .cedar", .0.display())]
    TooMany(PathBuf),
    #[error("{}: larger than {MAX_FILE_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
}

/// The `*.cedar` files of a directory by name; none where it isn't there.
pub fn policy_sources(directory: &Path) -> Result<Vec<Source>, UnreadablePolicies> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| UnreadablePolicies::Unreadable { path, source }
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(directory)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable(directory))?.path();
        // Editors leave `.x.cedar.swp` and `.#x.cedar` behind.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|end| end == "cedar") && !name.starts_with('.') {
            if paths.len() == MAX_FILES {
                return Err(UnreadablePolicies::TooMany(directory.to_owned()));
            }
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| policy_source(path)).collect()
}

/// One file of policies.
pub fn policy_source(path: &Path) -> Result<Source, UnreadablePolicies> {
    let unreadable = |source| UnreadablePolicies::Unreadable { path: path.to_owned(), source };
    let about = fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is no file");
        return Err(unreadable(error));
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(UnreadablePolicies::TooLarge(path.to_owned()));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Ok(Source { name: path.display().to_string().into(), text: text.into() })
}

impl Settings {
    /// What policies may speak of.
    pub fn world(&self) -> World {
        let mut groups: Vec<Arc<str>> =
            self.principals.iter().flat_map(|rule| words(&rule.groups)).collect();
        groups.sort();
        groups.dedup();
        World { groups, ..world(&self.labels, &self.regions) }
    }
}

/// Labels and regions as they are written → as they are asked; what is written has been read before.
pub fn world(labels: &[LabelOn], regions: &[RegionOf]) -> World {
    let patterns =
        |on: &[String]| -> Vec<Pattern> { on.iter().filter_map(|on| on.parse().ok()).collect() };
    let networks = |all: &[String]| -> Vec<Network> {
        all.iter().filter_map(|one| one.parse().ok()).collect()
    };
    World {
        labels: labels
            .iter()
            .map(|label| Label { name: label.name.as_str().into(), on: patterns(&label.on) })
            .collect(),
        regions: regions
            .iter()
            .map(|region| Region {
                name: region.name.as_str().into(),
                networks: networks(&region.networks),
                units: words(&region.units),
                containers: words(&region.containers),
            })
            .collect(),
        groups: Vec::new(),
    }
}

fn words(words: &[String]) -> Vec<Arc<str>> {
    words.iter().map(|word| word.as_str().into()).collect()
}

pub(super) fn labels(written: Vec<Spanned<file::Label>>) -> Result<Vec<LabelOn>, Complaint> {
    let mut names = HashSet::new();
    let mut labels = Vec::with_capacity(written.len());
    for entry in written {
        let span = entry.span();
        let label = entry.into_inner();
        let name = label.name.unwrap_or_default();
        if name.is_empty() {
            let words = "[[label]] needs a `name`, as in \"pii\" or \"residency:eu\"";
            return Err(Complaint::at(span, words));
        }
        if !names.insert(name.clone()) {
            let words =
                format!("`name`: two [[label]] are called {name:?}; one can stand on many columns");
            return Err(Complaint::at(span, words));
        }
        if label.on.is_empty() {
            let words = "[[label]] needs `on`: the columns, as in [\"app.public.customers.ssn\", \"*.*.*.email\"]";
            return Err(Complaint::at(span, words));
        }
        let mut on = Vec::with_capacity(label.on.len());
        for pattern in label.on {
            let wrong = pattern.get_ref().parse::<Pattern>().err();
            if let Some(wrong) = wrong {
                return Err(Complaint::at(pattern.span(), format!("`on`: {wrong}")));
            }
            on.push(pattern.into_inner());
        }
        labels.push(LabelOn { name, on });
    }
    Ok(labels)
}

pub(super) fn regions(written: Vec<Spanned<file::Region>>) -> Result<Vec<RegionOf>, Complaint> {
    let mut regions = Vec::with_capacity(written.len());
    for entry in written {
        let span = entry.span();
        let file::Region { name, networks, units, containers } = entry.into_inner();
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            let words = "[[region]] needs a `name`, as in \"eu-central-1\"";
            return Err(Complaint::at(span, words));
        };
        if networks.is_empty() && units.is_empty() && containers.is_empty() {
            let words = "[[region]] must say who is there: `networks`, `units` or `containers`";
            return Err(Complaint::at(span, words));
        }
        let mut read = Vec::with_capacity(networks.len());
        for network in networks {
            if let Err(wrong) = network.get_ref().parse::<Network>() {
                return Err(Complaint::at(network.span(), format!("`networks`: {wrong}")));
            }
            read.push(network.into_inner());
        }
        regions.push(RegionOf { name, networks: read, units, containers });
    }
    Ok(regions)
}

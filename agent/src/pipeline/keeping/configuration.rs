//! The row that says which configuration applies, and what is different since the last start.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::{
    config::Settings,
    event::{Occurrence, OccurrenceKind, Origin, WallTime},
    ledger::durable,
};

/// In the ledger's folder: what applied when it was last written to. The rows have its hash.
const FILE: &str = "configuration.toml";
/// Changes that a row tells; more are counted.
const TOLD: usize = 12;
/// Characters of a value that a row tells.
const VALUE_CHARS: usize = 120;

/// The configuration as it applies, from whatever file and command line. Nothing in it is secret.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// As `dbwarden run --print-config` shows it.
    text: String,
    /// `None` where there is no file.
    source: Option<PathBuf>,
}

impl Configuration {
    pub fn new(settings: &Settings, source: Option<&Path>) -> Result<Self, toml::ser::Error> {
        Ok(Self { text: toml::to_string(settings)?, source: source.map(Path::to_owned) })
    }

    /// As rows tell it: hexadecimal, of the text that `dbwarden run --print-config` shows.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.text.as_bytes()))
    }

    /// The SHA-256 in the message of a row that [`Self::row`] has made.
    pub fn sha256_of_row(message: &str) -> Option<&str> {
        let hash = message.split_once("(SHA-256 ")?.1.split_once(')')?.0;
        (hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(hash)
    }

    /// The row that tells of it, for the ledger in `folder`.
    pub fn row(&self, folder: &Path, time: WallTime, host: &Arc<Origin>) -> Occurrence {
        let before = fs::read_to_string(folder.join(FILE)).ok();
        let changes = before.as_deref().map(|before| changes(before, &self.text));
        let file = match &self.source {
            Some(path) => path.display().to_string(),
            None => "no file".to_owned(),
        };
        let hash = self.sha256();
        let told = match &changes {
            None => "the first of this ledger".to_owned(),
            Some(changes) if changes.is_empty() => "as at the last start".to_owned(),
            Some(changes) => {
                let told: Vec<&str> = changes.iter().take(TOLD).map(String::as_str).collect();
                let rest = changes.len().saturating_sub(TOLD);
                let rest = if rest > 0 { format!(", and {rest} more") } else { String::new() };
                format!("changed since the last start: {}{rest}", told.join(", "))
            }
        };
        Occurrence {
            time,
            kind: OccurrenceKind::Configuration,
            action: match &changes {
                Some(changes) if !changes.is_empty() => "changed",
                _ => "applied",
            },
            origin: host.clone(),
            message: Some(format!("configuration of {file} (SHA-256 {hash}): {told}")),
            counts: vec![("changes".into(), changes.map_or(0, |changes| changes.len() as u64))],
        }
    }

    /// For the next start to compare with.
    pub fn remember(&self, folder: &Path) -> io::Result<()> {
        let file = folder.join(FILE);
        match fs::read_to_string(&file) {
            Ok(known) if known == self.text => Ok(()),
            _ => durable::replace(&file, self.text.as_bytes()),
        }
    }
}

/// What differs, as `ledger.literals "redact" → "keep"`.
fn changes(before: &str, now: &str) -> Vec<String> {
    let (before, now) = (settings(before), settings(now));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let value = |value: Option<&String>| value.cloned().unwrap_or_else(|| "(nothing)".to_owned());
    names
        .into_iter()
        .filter(|name| before.get(*name) != now.get(*name))
        .map(|name| format!("{name} {} → {}", value(before.get(name)), value(now.get(name))))
        .collect()
}

/// Each key by its whole name. What isn't readable says nothing.
fn settings(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(table) = text.parse::<Table>() {
        flatten("", &Value::Table(table), &mut found);
    }
    found
}

fn flatten(name: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    let inner =
        |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                flatten(&inner(key), value, found);
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                flatten(&inner(&n.to_string()), item, found);
            }
        }
        value => {
            found.insert(name.to_owned(), value.to_string().chars().take(VALUE_CHARS).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::Configuration;
    use crate::{
        config::{Literals, Settings},
        event::WallTime,
    };

    #[test]
    fn each_start_says_what_applies_and_what_is_different() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults("db1");
        let row = |settings: &Settings| {
            let source = Some(Path::new("/etc/dbwarden/config.toml"));
            let configuration = Configuration::new(settings, source).unwrap();
            let row = configuration.row(folder.path(), WallTime(0), &Arc::default());
            let told = row.message.as_deref().and_then(Configuration::sha256_of_row);
            assert_eq!(told, Some(configuration.sha256().as_str()));
            configuration.remember(folder.path()).unwrap();
            (row.action, row.message.unwrap())
        };
        let (action, first) = row(&settings);
        assert!(action == "applied" && first.ends_with("): the first of this ledger"), "{first}");
        assert!(
            first.starts_with("configuration of /etc/dbwarden/config.toml (SHA-256 "),
            "{first}"
        );
        let (action, same) = row(&settings);
        assert!(action == "applied" && same.ends_with("): as at the last start"), "{same}");

        settings.ledger.literals = Literals::Keep;
        settings.host.region = Some("eu\u{1b}[2J".into());
        let (action, changed) = row(&settings);
        let told = "changed since the last start: host.region (nothing) → \"eu\\u001B[2J\", \
                    ledger.literals \"redact\" → \"keep\"";
        assert!(action == "changed" && changed.ends_with(told), "{changed}");
        assert_ne!(first.get(..110), changed.get(..110), "the hash is the same");
    }
}

//! What is wrong with a configuration file, said so that its author can mend it.

use std::{fmt, io, ops::Range, path::PathBuf};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't read the configuration {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Invalid(Box<Mistake>),
    #[error("the environment (/etc/dbwarden/environment): {0}")]
    Environment(String),
}

/// One mistake and where it stands.
///
/// Shown as `FILE:LINE: what is wrong`, then the line itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    pub path: PathBuf,
    /// Counts from 1; 0 where the mistake is nowhere in particular.
    pub line: usize,
    /// The line as written; empty where it may hold a secret.
    pub excerpt: String,
    /// What is wrong, what is allowed.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.path.display(), self.message);
        }
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)?;
        if self.excerpt.is_empty() {
            return Ok(());
        }
        write!(f, "\n{:>5} | {}", self.line, self.excerpt)
    }
}

/// A mistake by its place in the text, before anybody counted lines.
#[derive(Debug)]
pub(super) struct Complaint {
    pub span: Option<Range<usize>>,
    pub message: String,
    /// The line isn't shown: what is said of it ends in logs.
    pub is_secret: bool,
    /// It is about a variable, not about the file.
    pub is_of_environment: bool,
}

impl Complaint {
    pub(super) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span: Some(span),
            message: message.into(),
            is_secret: false,
            is_of_environment: false,
        }
    }

    /// About a variable; `message` begins with its name.
    pub(super) fn of_environment(message: String) -> Self {
        Self { span: None, message, is_secret: false, is_of_environment: true }
    }

    /// Of a line that may hold a secret.
    pub(super) fn of_secret(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { is_secret: true, ..Self::at(span, message) }
    }

    /// The TOML reader's words in ours: key, section, and what would be allowed there.
    pub(super) fn of_toml(error: &toml::de::Error, text: &str) -> Self {
        let span = error.span();
        let place = span.as_ref().map(|span| Place::of(text, span.start)).unwrap_or_default();
        let message = reworded(error.message(), &place);
        let named = error.message().split('`').nth(1);
        let is_secret = [named, place.key].into_iter().flatten().any(names_secret);
        let message = message + if is_secret { NO_SECRETS } else { "" };
        Self { span, message, is_secret, is_of_environment: false }
    }

    pub(super) fn locate(self, path: PathBuf, text: &str) -> Mistake {
        let (line, excerpt) = match self.span {
            Some(span) if self.is_secret => {
                (text.get(..span.start).unwrap_or(text).matches('\n').count() + 1, String::new())
            }
            Some(span) => {
                let before = text.get(..span.start).unwrap_or(text);
                let line = before.matches('\n').count();
                (line + 1, text.lines().nth(line).unwrap_or_default().trim_end().to_owned())
            }
            None => (0, String::new()),
        };
        Mistake { path, line, excerpt, message: self.message }
    }
}

/// What is added to a complaint about a key that looks as if it held one.
const NO_SECRETS: &str = "; secrets don't stand in this file: credentials of object stores are taken \
     from the environment (AWS_…, AZURE_…, GOOGLE_…), keys of webhooks and \
     passwords for catalogs (`password_file`) from files";

/// Where in the file an offset lies: the last section header above it and the key on its line.
#[derive(Default)]
struct Place<'a> {
    section: Option<&'a str>,
    key: Option<&'a str>,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, offset: usize) -> Self {
        let line_end = text.get(offset..).and_then(|rest| rest.find('\n')).unwrap_or(text.len());
        let until = text.get(..offset.saturating_add(line_end).min(text.len())).unwrap_or(text);
        let mut lines = until.lines().rev();
        let line = lines.next().unwrap_or_default();
        let key = line.split_once('=').map(|(key, _)| key.trim());
        let section = lines
            .map(|line| line.split('#').next().unwrap_or_default().trim())
            .find(|line| line.starts_with('['));
        Self { section, key }
    }
}

fn names_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["secret", "password", "token", "access_key", "account_key", "credential", "sas"]
        .iter()
        .any(|word| key.contains(word))
}

fn reworded(message: &str, place: &Place<'_>) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let section = place.section.map(|section| format!(" in {section}")).unwrap_or_default();
    let key = place.key.map(|key| format!("`{key}`: ")).unwrap_or_default();
    if message.starts_with("unknown field") {
        let given = quoted.next().unwrap_or_default();
        let allowed: Vec<&str> = quoted.collect();
        let hint = did_you_mean(given, &allowed);
        format!("unknown key `{given}`{section}{hint} (allowed: {})", allowed.join(", "))
    } else if message.starts_with("unknown variant") {
        let given = quoted.next().unwrap_or_default();
        let allowed: Vec<&str> = quoted.collect();
        let hint = did_you_mean(given, &allowed);
        let list: Vec<String> = allowed.iter().map(|name| format!("\"{name}\"")).collect();
        format!("{key}\"{given}\" is not allowed{section}{hint} (allowed: {})", list.join(", "))
    } else {
        format!("{key}{}", message.trim_end())
    }
}

fn did_you_mean(given: &str, allowed: &[&str]) -> String {
    allowed
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

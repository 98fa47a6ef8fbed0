//! What is wrong with policies, said so that their author can mend it.

use std::{fmt, sync::Arc};

use miette::Diagnostic;

/// One file of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As people know it: its path.
    pub name: Arc<str>,
    pub text: Arc<str>,
}

/// One mistake and where it stands.
///
/// Shown as `FILE:LINE: what is wrong`, the line itself, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    pub file: Arc<str>,
    /// Counts from 1.
    pub line: usize,
    /// The line as written.
    pub excerpt: String,
    pub message: String,
    pub help: Option<String>,
}

impl Complaint {
    /// About what stands at this byte of a source.
    pub(super) fn at(source: &Source, offset: usize, message: impl Into<String>) -> Self {
        let before = source.text.get(..offset).unwrap_or(&source.text);
        let line = before.matches('\n').count();
        let excerpt = source.text.lines().nth(line).unwrap_or_default().trim_end().to_owned();
        let (message, help) = (message.into(), None);
        Self { file: source.name.clone(), line: line + 1, excerpt, message, help }
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// In Cedar's words; `start` is the byte to point to where it doesn't say.
    pub(super) fn of_cedar(source: &Source, start: usize, error: &dyn Diagnostic) -> Self {
        let place = error.labels().and_then(|mut labels| labels.next());
        let offset = place.as_ref().map_or(start, miette::LabeledSpan::offset);
        let mut message = error.to_string();
        // `expected …`
        if let Some(label) = place.as_ref().and_then(|label| label.label()) {
            message += &format!(": {label}");
        }
        let complaint = Self::at(source, offset, message);
        match error.help() {
            Some(help) => complaint.with_help(help.to_string()),
            None => complaint,
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)?;
        write!(f, "\n{:>5} | {}", self.line, self.excerpt)?;
        match &self.help {
            Some(help) => write!(f, "\n      = {help}"),
            None => Ok(()),
        }
    }
}

/// All that is wrong with a set, by file and line.
#[derive(Debug, thiserror::Error)]
pub struct Complaints(pub Vec<Complaint>);

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, complaint) in self.0.iter().enumerate() {
            let gap = if n == 0 { "" } else { "\n" };
            write!(f, "{gap}{complaint}")?;
        }
        Ok(())
    }
}

/// `; did you mean …?` where something known is much like it.
pub(super) fn did_you_mean<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

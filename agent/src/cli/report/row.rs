//! One statement of a report: what the ledger has of it, and what the report says of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::who::who;

/// Fields in the order in which they are written.
macro_rules! row {
    ($($(#[$about:meta])* $name:ident: $type:ty,)+) => {
        /// Absent is null.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(default)]
        pub(super) struct Row {
            $($(#[$about])* pub $name: $type,)+
        }

        impl Row {
            pub(super) const COLUMNS: &[&str] = &[$(stringify!($name)),+];
        }
    };
}

row! {
    time: String,
    host: Option<String>,
    environment: Option<String>,
    server: Option<String>,
    engine: Option<String>,
    transport: Option<String>,
    database: Option<String>,
    db_user: Option<String>,
    application: Option<String>,
    client_address: Option<String>,
    principal: Option<String>,
    principal_kind: Option<String>,
    principal_rule: Option<String>,
    initiator: Option<String>,
    os_user: Option<String>,
    login_user: Option<String>,
    exe: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    pod: Option<String>,
    connection: Option<String>,
    sequence: Option<u64>,
    text: Option<String>,
    text_known: Option<bool>,
    fingerprint: Option<String>,
    summary: Option<String>,
    effects: Option<Vec<String>>,
    tables: Option<Vec<Table>>,
    functions: Option<Vec<String>>,
    restricted: Option<bool>,
    analysis: Option<String>,
    rows: Option<u64>,
    duration_us: Option<u64>,
    error_code: Option<String>,
    error_message: Option<String>,
    transaction: Option<String>,
    verdict: Option<String>,
    rule: Option<String>,
    /// What the steps of an approval have in common with it.
    approval: Option<String>,
    masked: Option<Vec<String>>,
    truncated_bytes: Option<u64>,
    lost_bytes: Option<u64>,
    joined_midstream: Option<bool>,
    labels: Vec<String>,
    possible_labels: Vec<String>,
    client_region: Option<String>,
    #[serde(skip_deserializing)]
    outcome: Outcome,
    /// What a reader must know before relying on the row.
    #[serde(skip_deserializing)]
    marks: Vec<String>,
    segment: Option<u64>,
    segment_row: Option<u64>,
    /// `SEGMENT:ROW`, as `dbwarden verify --prove` takes it; null until the segment is sealed.
    #[serde(skip_deserializing)]
    place: Option<String>,
    /// The first checkpoint that covers the row is the one over so many entries of the root log.
    #[serde(skip_deserializing)]
    checkpoint: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Table {
    pub name: String,
    pub access: String,
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Done,
    Failed,
    /// The server skipped it, after an earlier error of the same pipeline.
    NotRun,
    /// Its end wasn't seen.
    #[default]
    Unknown,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::NotRun => "not run",
            Self::Unknown => "end not seen",
        }
    }
}

impl Row {
    /// Says what the ledger's columns mean for this report; `checkpoint` is the one that covers its segment.
    pub(super) fn judge(&mut self, checkpoint: impl Fn(u64) -> Option<u64>) {
        self.outcome = match (&self.error_code, &self.error_message, self.duration_us) {
            (Some(_), ..) => Outcome::Failed,
            (None, Some(_), _) => Outcome::NotRun,
            (None, None, Some(_)) => Outcome::Done,
            (None, None, None) => Outcome::Unknown,
        };
        if let (Some(segment), Some(row)) = (self.segment, self.segment_row) {
            self.place = Some(format!("{segment}:{row}"));
            self.checkpoint = checkpoint(segment);
        }
        self.marks = self.marks();
    }

    /// It may have done more than is known.
    pub(super) fn is_uncertain(&self) -> bool {
        let is_known = |effects: &Vec<String>| !effects.iter().any(|effect| effect == "unknown");
        self.analysis.as_deref() != Some("complete") || !self.effects.as_ref().is_some_and(is_known)
    }

    fn marks(&self) -> Vec<String> {
        let mut marks = Vec::new();
        let mut mark = |holds: bool, words: &str| {
            if holds {
                marks.push(words.to_owned());
            }
        };
        let more_than_none = |bytes: Option<u64>| bytes.unwrap_or(0) > 0;
        mark(self.outcome != Outcome::Done, self.outcome.name());
        let in_transaction = self.transaction.as_deref().is_some_and(|state| state != "idle");
        mark(in_transaction && self.outcome == Outcome::Done, "in a transaction");
        mark(self.text_known == Some(false), "text not seen");
        let has_unknown = self.effects.iter().flatten().any(|effect| effect == "unknown");
        mark(has_unknown || self.effects.is_none(), "effect unknown");
        match self.analysis.as_deref() {
            Some("complete") => {}
            Some("calls-code") => mark(true, "calls code"),
            Some(reason) => mark(true, &format!("analysis incomplete: {reason}")),
            None => mark(true, "not analysed"),
        }
        mark(!self.possible_labels.is_empty(), "may have read more");
        mark(more_than_none(self.truncated_bytes), "captured in part");
        mark(more_than_none(self.lost_bytes), "bytes lost");
        mark(self.joined_midstream == Some(true), "connection joined midway");
        mark(self.place.is_none(), "not sealed yet");
        mark(self.place.is_some() && self.checkpoint.is_none(), "no signed entry");
        marks
    }

    /// Itself as the line that its hash is over.
    pub(super) fn canonical(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    pub(super) fn to_map(&self) -> serde_json::Result<serde_json::Map<String, Value>> {
        match serde_json::to_value(self)? {
            Value::Object(map) => Ok(map),
            _ => Ok(serde_json::Map::new()),
        }
    }

    /// Who sent it, by the best that is verified.
    pub(super) fn who(&self) -> &str {
        who!(self).unwrap_or("?")
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Row};

    #[test]
    fn columns_are_those_of_the_rows_in_their_order() {
        let text = Row::default().canonical().unwrap();
        let places: Vec<usize> =
            Row::COLUMNS.iter().map(|name| text.find(&format!("\"{name}\":")).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
        assert_eq!(Row::COLUMNS.len(), Row::default().to_map().unwrap().len());
    }

    #[test]
    fn what_a_reader_must_know_is_marked() {
        let complete = || Row {
            text_known: Some(true),
            effects: Some(vec!["update".into()]),
            analysis: Some("complete".into()),
            duration_us: Some(5),
            segment: Some(7),
            segment_row: Some(3),
            ..Row::default()
        };
        let failed = Row { error_code: Some("22012".into()), ..complete() };
        let skipped = Row { error_message: Some("not run: …".into()), ..complete() };
        let unseen = Row { duration_us: None, text_known: Some(false), ..complete() };
        let begun = Row { transaction: Some("in_transaction".into()), ..complete() };
        let unknown = Row {
            effects: Some(vec!["unknown".into()]),
            analysis: Some("too-long".into()),
            truncated_bytes: Some(9),
            ..complete()
        };
        let open = Row { segment_row: None, possible_labels: vec!["pii".into()], ..complete() };
        for (mut row, outcome, marks) in [
            (complete(), Outcome::Done, ""),
            (failed, Outcome::Failed, "failed"),
            (skipped, Outcome::NotRun, "not run"),
            (unseen, Outcome::Unknown, "end not seen, text not seen"),
            (begun, Outcome::Done, "in a transaction"),
            (
                unknown,
                Outcome::Done,
                "effect unknown, analysis incomplete: too-long, captured in part",
            ),
            (open, Outcome::Done, "may have read more, not sealed yet"),
        ] {
            row.judge(|segment| (segment == 7).then_some(9));
            assert_eq!((row.outcome, row.marks.join(", ").as_str()), (outcome, marks));
            let place = row.segment_row.map(|_| "7:3".to_owned());
            assert_eq!(
                (row.place.clone(), row.checkpoint.is_some()),
                (place.clone(), place.is_some())
            );
        }
        let mut unsigned = complete();
        unsigned.judge(|_| None);
        assert_eq!(unsigned.marks, ["no signed entry"]);
    }
}

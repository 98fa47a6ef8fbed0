//! The sum that must come out: every row of the period's segments is in the report or left out for a reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{event::WallTime, ledger::entry::History, search::ReportTrailer};

/// Rows of one segment of one sort.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Count {
    pub host: Option<String>,
    pub segment: u64,
    pub sealed: bool,
    pub statement: Option<bool>,
    pub in_period: Option<bool>,
    pub rows: u64,
    pub first: Option<WallTime>,
    pub last: Option<WallTime>,
}

/// Two counts that are made apart: of rows by segment, and of statements by what became of them.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Reconciliation {
    pub sealed_segments: u64,
    pub open_segments: u64,
    /// In all segments that may have rows of the period.
    pub rows: u64,
    /// Of the sealed ones as their signed entries say; null where nobody has those.
    pub signed_rows: Option<u64>,
    pub sealed_rows: u64,
    pub outside_period: u64,
    /// Connections, coverage, findings, …
    pub other_records: u64,
    pub statements: u64,
    pub unconcerned: u64,
    pub outside_filter: u64,
    pub in_region: u64,
    pub reported: u64,
    /// Rows that this very document has.
    pub written: u64,
    /// What doesn't come out; empty where everything does.
    pub differences: Vec<String>,
    /// Of the period's statements and other records.
    pub first: Option<WallTime>,
    pub last: Option<WallTime>,
}

/// The counts, as they come.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By host, and segment: whether it is sealed, and its rows.
    segments: BTreeMap<(String, u64), (bool, u64)>,
    sums: Reconciliation,
}

impl Counts {
    pub(super) fn add(&mut self, count: &Count) {
        let key = (count.host.clone().unwrap_or_default(), count.segment);
        let (sealed, rows) = self.segments.entry(key).or_default();
        *sealed |= count.sealed;
        *rows += count.rows;
        let sums = &mut self.sums;
        sums.rows += count.rows;
        if count.sealed {
            sums.sealed_rows += count.rows;
        }
        if count.in_period != Some(true) {
            sums.outside_period += count.rows;
            return;
        }
        match count.statement {
            Some(true) => sums.statements += count.rows,
            _ => sums.other_records += count.rows,
        }
        sums.first = sums.first.into_iter().chain(count.first).min();
        sums.last = sums.last.into_iter().chain(count.last).max();
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = self.segments.keys().map(|(host, _)| host.clone()).collect();
        hosts.dedup();
        hosts
    }

    /// The first and the last row of the period.
    pub(super) fn span(&self) -> Option<(WallTime, WallTime)> {
        Some((self.sums.first?, self.sums.last?))
    }

    /// Segments that were open when the rows were read, with their rows.
    pub(super) fn open(&self) -> impl Iterator<Item = (u64, u64)> {
        let open = self.segments.iter().filter(|(_, (sealed, _))| !sealed);
        open.map(|((_, segment), (_, rows))| (*segment, *rows))
    }

    /// Draws the line. `told` is missing where the answer broke off.
    pub(super) fn reconcile(
        mut self,
        told: Option<&ReportTrailer>,
        written: u64,
        history: Option<&History>,
    ) -> Reconciliation {
        let sealed = self.segments.values().filter(|(sealed, _)| *sealed).count() as u64;
        self.sums.sealed_segments = sealed;
        self.sums.open_segments = self.segments.len() as u64 - sealed;
        self.sums.written = written;
        if let Some(history) = history {
            self.against_entries(history);
        }
        let mut sums = self.sums;
        let mut differ = |what: String| sums.differences.push(what);
        match told {
            None => differ("the ledger could not be read to its end".to_owned()),
            Some(told) => {
                sums.unconcerned = told.unconcerned;
                sums.outside_filter = told.outside_filter;
                sums.in_region = told.in_region;
                sums.reported = told.reported;
                let all = told.unconcerned + told.outside_filter + told.in_region + told.reported;
                if all != sums.statements {
                    differ(format!(
                        "{all} statements were looked at, and the segments have {}",
                        sums.statements
                    ));
                }
                if told.reported != written {
                    differ(format!(
                        "{} rows belong to the report, and it has {written}",
                        told.reported
                    ));
                }
            }
        }
        sums
    }

    /// What the signed entries say of each sealed segment.
    fn against_entries(&mut self, history: &History) {
        let mut signed_rows = 0;
        for ((_, number), (_, rows)) in self.segments.iter().filter(|(_, (sealed, _))| *sealed) {
            let Some((_, entry)) = history.segment(*number) else {
                let words = format!("segment {number} has no signed entry");
                self.sums.differences.push(words);
                continue;
            };
            signed_rows += entry.rows;
            if entry.rows != *rows {
                let words =
                    format!("segment {number} has {rows} rows, and {} were signed", entry.rows);
                self.sums.differences.push(words);
            }
        }
        self.sums.signed_rows = Some(signed_rows);
    }
}

#[cfg(test)]
mod tests {
    use super::{Count, Counts, Reconciliation};
    use crate::search::ReportTrailer;

    fn count(segment: u64, sealed: bool, statement: bool, in_period: bool, rows: u64) -> Count {
        let (statement, in_period) = (Some(statement), Some(in_period));
        Count { segment, sealed, statement, in_period, rows, ..Count::default() }
    }

    /// 100 sealed and 20 open rows: 15 outside of the period, 25 of other sorts, 80 statements.
    fn reconciled(told: Option<ReportTrailer>, written: u64) -> Reconciliation {
        let mut counts = Counts::default();
        for one in [
            count(1, true, true, false, 10),
            count(1, true, true, true, 70),
            count(1, true, false, true, 20),
            count(2, false, true, true, 10),
            count(2, false, false, true, 5),
            count(2, false, false, false, 5),
        ] {
            counts.add(&one);
        }
        assert_eq!(counts.open().collect::<Vec<_>>(), [(2, 20)]);
        counts.reconcile(told.as_ref(), written, None)
    }

    fn told(reported: u64) -> Option<ReportTrailer> {
        Some(ReportTrailer {
            reported,
            outside_filter: 30,
            unconcerned: 20,
            in_region: 5,
            ..ReportTrailer::default()
        })
    }

    #[test]
    fn what_comes_out_comes_out_exactly() {
        let sums = reconciled(told(25), 25);
        assert_eq!(sums.differences, [""; 0]);
        assert_eq!((sums.rows, sums.sealed_rows, sums.statements), (120, 100, 80));
        assert_eq!(sums.rows, sums.outside_period + sums.other_records + sums.statements);
        assert_eq!(
            sums.statements,
            sums.unconcerned + sums.outside_filter + sums.in_region + sums.reported
        );
        assert_eq!((sums.sealed_segments, sums.open_segments), (1, 1));
    }

    #[test]
    fn a_single_row_too_few_or_too_many_is_told() {
        for (told, written, expected) in [
            (told(25), 24, "25 rows belong to the report, and it has 24"),
            (told(24), 24, "79 statements were looked at, and the segments have 80"),
            (told(26), 26, "81 statements were looked at, and the segments have 80"),
            (None, 25, "the ledger could not be read to its end"),
        ] {
            assert_eq!(reconciled(told, written).differences, [expected]);
        }
    }
}

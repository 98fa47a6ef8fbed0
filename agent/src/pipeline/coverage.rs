//! How much of a server was seen, minute by minute: what turns "nothing is missing" into a claim that can be checked.

use std::{cell::Cell, sync::Arc};

use super::record::Tally;
use crate::event::{Entry, Occurrence, OccurrenceKind, Origin, WallTime};

/// One server's counters. Only the pipeline's thread counts.
#[derive(Default)]
pub struct Coverage {
    total: Cell<Tally>,
    /// What the rows so far add up to.
    told: Cell<Tally>,
}

impl Coverage {
    pub fn add(&self, more: &Tally) {
        let mut total = self.total.get();
        total += *more;
        self.total.set(total);
    }

    pub fn total(&self) -> Tally {
        self.total.get()
    }

    /// The row of what was seen since the last one; nothing where nothing was.
    pub fn row(&self, time: WallTime, server: Origin) -> Option<Entry> {
        let total = self.total.get();
        let counts = total.since(&self.told.replace(total)).counts();
        (!counts.is_empty()).then(|| {
            Entry::Occurrence(Occurrence {
                time,
                kind: OccurrenceKind::Coverage,
                action: "seen",
                origin: Arc::new(server),
                message: None,
                counts,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Coverage;
    use crate::{
        event::{Entry, Origin, WallTime},
        pipeline::record::Tally,
    };

    #[test]
    fn each_row_has_what_came_after_the_one_before() {
        let coverage = Coverage::default();
        let row = || match coverage.row(WallTime(0), Origin::default()) {
            Some(Entry::Occurrence(row)) => row
                .counts
                .iter()
                .map(|(name, n)| format!("{name}={n}"))
                .collect::<Vec<_>>()
                .join(" "),
            _ => "none".to_owned(),
        };
        assert_eq!(row(), "none");
        coverage.add(&Tally { statements: 2, bytes_in: 100, lost_bytes: 30, ..Tally::default() });
        assert_eq!(row(), "statements=2 bytes_in=100 decoded_bytes=70 lost_bytes=30");
        assert_eq!(row(), "none");
        coverage.add(&Tally { bytes_out: 50, truncated_bytes: 50, ..Tally::default() });
        assert_eq!(row(), "bytes_out=50 truncated_bytes=50");
        assert_eq!(coverage.total().bytes_in, 100);
    }
}

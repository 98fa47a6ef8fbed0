//! What the kernel side had to drop, as rows: each loss is told once, soon, by its reason.

use std::sync::Arc;

use dbwarden_common::{Counter, Drop, N_DROPS};

use crate::event::{Occurrence, OccurrenceKind, Origin, WallTime};

/// The kernel's counters as far as rows have told them.
#[derive(Default)]
pub struct Losses {
    told: [Counter; N_DROPS],
}

impl Losses {
    /// The row of what was dropped since the last one; nothing where nothing was.
    pub fn row(
        &mut self,
        drops: &[(Drop, Counter)],
        time: WallTime,
        host: &Arc<Origin>,
    ) -> Option<Occurrence> {
        let mut counts = Vec::new();
        let mut n_records = 0;
        for (reason, counter) in drops {
            let told = self.told.get_mut(*reason as usize)?;
            let events = counter.events.saturating_sub(told.events);
            let bytes = counter.bytes.saturating_sub(told.bytes);
            *told = *counter;
            if events > 0 {
                n_records += events;
                counts.push((format!("{}_records", reason.name()).into(), events));
                counts.push((format!("{}_bytes", reason.name()).into(), bytes));
            }
        }
        (n_records > 0).then(|| Occurrence {
            time,
            kind: OccurrenceKind::Gap,
            action: "dropped",
            origin: host.clone(),
            message: Some(format!("{n_records} records were lost; `dbwarden status` says why")),
            counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dbwarden_common::{Counter, Drop};

    use super::Losses;
    use crate::event::WallTime;

    #[test]
    fn each_loss_is_told_once() {
        let mut losses = Losses::default();
        let mut row = |events, bytes| {
            let drops = [
                (Drop::RingFull, Counter { events, bytes }),
                (Drop::Quota, Counter { events: 0, bytes: 0 }),
            ];
            let row = losses.row(&drops, WallTime(0), &Arc::default())?;
            let counts = row.counts.iter().map(|(name, n)| format!("{name}={n}"));
            Some(counts.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(row(0, 0), None);
        assert_eq!(row(2, 100).as_deref(), Some("ring_full_records=2 ring_full_bytes=100"));
        assert_eq!(row(2, 100), None);
        assert_eq!(row(3, 160).as_deref(), Some("ring_full_records=1 ring_full_bytes=60"));
    }
}

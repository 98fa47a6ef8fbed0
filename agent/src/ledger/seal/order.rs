//! Which row comes when: the first look at a log that is sealed.

use super::SealError;
use crate::{
    event::WallTime,
    ledger::{
        canonical,
        log::{Payload, Piece, Scanner},
    },
};

/// Where in the log the rows' groups begin, by time, and the definitions', by number.
#[derive(Debug, Default)]
pub struct Order {
    pub rows: Vec<(WallTime, u64)>,
    pub origins: Vec<u64>,
    pub facts: Vec<u64>,
}

impl Order {
    /// Reads the whole log. Rows of one time stay in the order in which they were appended.
    pub fn of(scanner: &mut Scanner) -> Result<Self, SealError> {
        let mut order = Self::default();
        while let Some((batch, payload_at)) = scanner.next_batch()? {
            let mut payload = Payload::new(batch.payload);
            for (place, piece) in payload.by_ref() {
                order.piece(payload_at + place as u64, piece)?;
            }
            if !payload.is_done() {
                return Err(SealError::Piece(payload_at + payload.place() as u64));
            }
        }
        // Nearly sorted already: this takes little more than a look.
        order.rows.sort_by_key(|(time, _)| *time);
        Ok(order)
    }

    fn piece(&mut self, place: u64, piece: Piece<'_>) -> Result<(), SealError> {
        let (definitions, number) = match piece {
            Piece::Origin { number, .. } => (&mut self.origins, number),
            Piece::Facts { number, .. } => (&mut self.facts, number),
            Piece::Row { group, .. } => {
                let time = canonical::time_of(group).ok_or(SealError::Piece(place))?;
                self.rows.push((time, place));
                return Ok(());
            }
            Piece::Forget => return Ok(()),
        };
        if number as usize != definitions.len() {
            return Err(SealError::Piece(place));
        }
        definitions.push(place);
        Ok(())
    }

    /// The first and the last.
    pub fn times(&self) -> Option<(WallTime, WallTime)> {
        Some((self.rows.first()?.0, self.rows.last()?.0))
    }
}

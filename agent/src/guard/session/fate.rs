//! What becomes of a client's messages, and what goes to the server for them.

use super::{Shared, passing::sent};
use crate::{guard::court::Court, protocol::postgres::frontend};

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Passes,
    /// It passes after something else.
    Preceded(Vec<u8>),
    /// Something else is sent for it.
    Replaced(Vec<u8>),
    /// It passes in other words.
    Reworded(Vec<u8>),
    /// It goes with what follows it, in these words where they are others.
    Kept(Option<Vec<u8>>),
    /// It waits, and all that comes after it.
    Waits,
}

impl Fate {
    /// It passes, in the words of its reading where the client's are others.
    pub(super) fn reworded(self, other: Option<Vec<u8>>) -> Self {
        match (self, other) {
            (Self::Passes, Some(other)) => Self::Reworded(other),
            (Self::Kept(None), other) => Self::Kept(other),
            (fate, _) => fate,
        }
    }

    /// What is sent for a message with this tag.
    pub(super) fn words(self, tag: u8, shared: &mut Shared) -> Vec<u8> {
        match self {
            Self::Reworded(other) => {
                passes(tag, shared);
                other
            }
            Self::Preceded(other) | Self::Replaced(other) => other,
            Self::Passes | Self::Kept(_) | Self::Waits => Vec::new(),
        }
    }
}

/// Where in the stream to the server it is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Bytes that were sent before those of now.
    pub before: u64,
    /// Bytes that had been there already.
    pub out: usize,
}

impl Place {
    pub(super) fn after(self, out: &[u8]) -> u64 {
        self.before + out.len().saturating_sub(self.out) as u64
    }
}

/// Sends something else; nothing for the rest of a message that was replaced before.
pub(super) fn replace(
    other: &[u8],
    place: Place,
    shared: &mut Shared,
    court: &mut dyn Court,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(other);
    let summed = shared.sums.add_wire(place.after(out), other);
    summed.into_iter().for_each(|sum| court.summed(sum));
}

/// A message goes to the server.
pub(super) fn passes(tag: u8, shared: &mut Shared) {
    match tag {
        frontend::BIND | frontend::EXECUTE => shared.progress.passes(true),
        frontend::PARSE | frontend::DESCRIBE | frontend::CLOSE => shared.progress.passes(false),
        _ => {}
    }
}

/// Sends what has waited for the message that comes now.
pub(super) fn release(place: Place, shared: &mut Shared, court: &mut dyn Court, out: &mut Vec<u8>) {
    if shared.approvals.kept.is_empty() {
        return;
    }
    let kept = std::mem::take(&mut shared.approvals.kept);
    let mut reworded = std::mem::take(&mut shared.approvals.kept_reworded).into_iter().peekable();
    shared.approvals.kept_from = None;
    let mut rest = &kept[..];
    while let Some((header, _)) = rest.split_first_chunk::<5>() {
        let [_, len @ ..] = *header;
        let len = u32::from_be_bytes(len) as usize + 1;
        let Some((message, after)) = rest.split_at_checked(len) else { break };
        passes(header[0], shared);
        let at = kept.len() - rest.len();
        let other = reworded.next_if(|(from, _)| *from == at);
        let message = other.as_ref().map_or(message, |(_, other)| other);
        replace(message, place, shared, court, out);
        rest = after;
    }
    for reading in std::mem::take(&mut shared.approvals.kept_readings) {
        shared.counts.passed += 1;
        sent(&reading, shared, court);
    }
}

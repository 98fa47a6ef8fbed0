//! Who is in quarantine, asked and changed over the control socket; only root changes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::access::Peer;
use crate::{
    enforce::{Detainee, Quarantine, QuarantineError, Who},
    event::WallTime,
};

/// Of a request.
pub(super) const REQUEST_BYTES: usize = 16 << 10;
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3_600);
const REASON_BYTES: usize = 500;

/// What somebody wants changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineChange {
    Add { who: Who, seconds: u64, reason: String },
    Release { number: u64 },
}

/// Why it stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unchanged {
    #[error("only root may put somebody into quarantine or let somebody out")]
    NotRoot,
    #[error("can't be understood: {0}")]
    Request(#[from] serde_json::Error),
    #[error("from a second to {} days", LONGEST.as_secs() / 86_400)]
    Span,
    #[error("a reason has at most {REASON_BYTES} bytes, and no control characters")]
    Reason,
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
}

/// The one who has been put in or let out.
pub(super) fn change(
    quarantine: &Quarantine,
    peer: &Peer,
    request: &[u8],
    now: WallTime,
) -> Result<Detainee, Unchanged> {
    if peer.uid != 0 {
        return Err(Unchanged::NotRoot);
    }
    let by = format!("uid {}", peer.uid);
    Ok(match serde_json::from_slice(request)? {
        QuarantineChange::Add { who, seconds, reason } => {
            if seconds == 0 || seconds > LONGEST.as_secs() {
                return Err(Unchanged::Span);
            }
            if reason.len() > REASON_BYTES || reason.contains(char::is_control) {
                return Err(Unchanged::Reason);
            }
            let micros = i64::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
            let until = WallTime(now.0.saturating_add(micros));
            quarantine.add(who, (now, until), &reason, &by)?
        }
        QuarantineChange::Release { number } => quarantine.release(number, &by)?,
    })
}

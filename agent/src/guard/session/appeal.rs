//! Which messages wait: those that need an approval, and those of their segment before them.

use std::sync::Arc;

use super::{
    Shared,
    approval::{Appeal, Subject},
    fate::Fate,
    names::{Found, Meaning},
    passing::Values,
};
use crate::{
    guard::{
        court::{Court, Denial, Gated, Moment, Reading},
        masking::Copied,
    },
    protocol::postgres::deframer::Message,
};

/// Why something doesn't pass.
pub(super) enum Stop {
    Denied(Denial),
    /// Not yet.
    Waits,
}

/// What was judged, or what people have decided.
pub(super) fn appeal(
    judged: Result<Copied, Denial>,
    subject: impl FnOnce() -> Option<Subject>,
    shared: &mut Shared,
) -> Result<Copied, Stop> {
    let denial = match judged {
        Ok(copy) => return Ok(copy),
        Err(denial) => denial,
    };
    let copy = denial.needs.as_ref().and_then(|needs| needs.copy.clone());
    match shared.approvals.appeal(denial, subject(), begins(shared)) {
        Appeal::Passes => Ok(copy),
        Appeal::Denied(denial) => Err(Stop::Denied(denial)),
        Appeal::Waits => Err(Stop::Waits),
    }
}

/// Nothing that runs is at the server yet of this segment.
pub(super) fn begins(shared: &Shared) -> bool {
    !shared.progress.is_bound()
}

/// What becomes of a part that runs nothing: it `waits` with what it belongs to, as others do that come after one that
/// waits.
pub(super) fn part(message: &Message<'_>, waits: bool, shared: &Shared, court: &dyn Court) -> Fate {
    let waits = waits && court.asks() || !shared.approvals.kept.is_empty();
    let len = usize::try_from(message.wire_len()).unwrap_or(usize::MAX);
    match waits && message.is_whole() && shared.approvals.has_room(len) {
        true => Fate::Kept(None),
        false => Fate::Passes,
    }
}

/// With the values that an approval is bound to; `None` where several statements may be meant.
pub(super) fn gated(
    found: Found,
    values: Values<'_>,
    state: Moment,
    court: &mut dyn Court,
) -> Option<Meaning> {
    let Found::Readings(readings) = found else { return None };
    let [only] = &*readings else { return None };
    let read = court.read_again(only, Some((values.make)()), state);
    let values = Some((values.make)().into());
    Some(Arc::new([Arc::new(Reading { values, approval: Gated::Needed, ..Reading::clone(&read) })]))
}

//! What a client asks for, read and judged: what may pass, and what is said of what may not.

use std::sync::Arc;

use super::{
    Shared,
    names::{Found, Meaning},
    poison,
    requests::Fate,
    veil::{Copies, Run},
};
use crate::{
    event::Effect,
    guard::{
        court::{Argument, Court, Denial, Moment, Permit, Reading},
        masking::CopyColumn,
    },
    protocol::postgres::frontend::Arguments,
};

/// `None` for a text that is too long to be judged.
pub(super) fn read(
    text: Option<&[u8]>,
    state: Moment,
    shared: &Shared,
    court: &mut dyn Court,
) -> Arc<Reading> {
    let text = text.and_then(|bytes| shared.settings.decode(bytes));
    court.read(text.as_deref(), state)
}

/// With the types that its `Parse` gives its parameters, where they matter.
pub(super) fn typed(reading: Arc<Reading>, types: &[u8]) -> Arc<Reading> {
    if types.is_empty() || !reading.is_estimable() {
        return reading;
    }
    let (types, _) = types.as_chunks::<4>();
    let types = types.iter().map(|oid| u32::from_be_bytes(*oid)).collect();
    Arc::new(Reading { types, ..Reading::clone(&reading) })
}

/// The values of a `Bind` or a `FunctionCall`.
pub(super) fn values(arguments: &Arguments<'_>, shared: &Shared) -> Vec<Argument> {
    let values = arguments.iter().map(|(is_binary, value)| match value {
        Some(None) => Argument::Null,
        Some(Some(bytes)) if is_binary => Argument::Binary(bytes.into()),
        Some(Some(bytes)) => match shared.settings.decode(bytes) {
            Some(text) => Argument::Text(text.into()),
            None => Argument::Unreadable,
        },
        None => Argument::Unreadable,
    });
    values.collect()
}

/// Those of a `Bind`, made where somebody wants them.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub count: u16,
    pub make: &'a dyn Fn() -> Vec<Argument>,
}

/// Of a COPY to the client: which of its columns are masked.
pub(super) type Copied = Option<Arc<[Option<CopyColumn>]>>;

/// A denial, and the text that it is about.
pub(super) type Denied = (Denial, Option<String>);

/// Whatever a name may mean must pass. What the client has named otherwise than by messages (PREPARE, DECLARE)
/// was judged there.
pub(super) fn judge_found(
    found: Found,
    values: Option<Values<'_>>,
    state: Moment,
    court: &mut dyn Court,
) -> Result<(Meaning, Copied), Denied> {
    let readings = match found {
        Found::Nothing => return Ok((Arc::new([]), None)),
        Found::Readings(readings) => readings,
        Found::Anything => {
            let message = "dbwarden: it can't be told which statement this name stands for";
            return Err((Denial::limit(message, "Prepare the statement again."), None));
        }
    };
    let changes = |reading: &Arc<Reading>| {
        let analysed = &reading.analysed;
        let is_estimable = values.is_some_and(|values| values.count > 0) && reading.is_estimable();
        analysed.is_session_sensitive
            || is_estimable
            || values.is_some() && analysed.is_parameter_sensitive
    };
    let readings = match readings.iter().any(changes) {
        false => readings,
        true => readings
            .iter()
            .map(|reading| match changes(reading) {
                true => court.read_again(reading, values.map(|values| (values.make)()), state),
                false => reading.clone(),
            })
            .collect(),
    };
    let mut copy = None;
    for reading in readings.iter() {
        let judged = court.judge(reading);
        let permit = judged.map_err(|denial| (denial, reading.text.clone()))?;
        copy = copy.or(permit.copy);
    }
    Ok((readings, copy))
}

/// It is judged, and what is masked from now on is known.
pub(super) fn pass(
    reading: &Reading,
    was_settled: bool,
    shared: &mut Shared,
    court: &mut dyn Court,
) -> Result<Permit, Denial> {
    let permit = court.judge(reading)?;
    // Not before: what it was judged by is masked.
    shared.veil.follow(was_settled, court);
    Ok(permit)
}

/// What a masked client is about to run; `None` for others.
pub(super) fn run(readings: Meaning, copy: Copied, shared: &Shared) -> Result<Option<Run>, Denial> {
    if !shared.veil.is_on() {
        return Ok(None);
    }
    let mut wholes = readings.iter().map(|reading| &reading.analysed.whole);
    let copies = match copy {
        Some(columns) => {
            let is_followed = matches!(&*readings, [only] if only.copy_form().is_some());
            if !is_followed || !shared.settings.is_ascii_safe() {
                return Err(Denial::unmaskable(&columns));
            }
            Copies::Masked(columns)
        }
        None if wholes.any(|facts| facts.effects.contains(Effect::CopyOut)) => Copies::Plain,
        None => Copies::Nothing,
    };
    Ok(Some(Run { readings, copies }))
}

pub(super) fn sent(reading: &Reading, shared: &mut Shared, court: &mut dyn Court) {
    reading.analysed.statements.iter().for_each(|facts| shared.settings.sent(facts));
    court.sent(reading);
}

/// What becomes of a part of the extended protocol.
pub(super) fn settle(
    judged: Result<(), Denied>,
    shared: &mut Shared,
    court: &mut dyn Court,
) -> Fate {
    let Err((denial, text)) = judged else { return Fate::Passes };
    let text = deny(denial, text.as_deref(), shared, court);
    Fate::Replaced(poison::parse(b"dbwarden", &text))
}

/// Gives the text that is sent for a denied statement.
pub(super) fn deny(
    denial: Denial,
    text: Option<&str>,
    shared: &mut Shared,
    court: &mut dyn Court,
) -> String {
    shared.counts.denied += 1;
    let poison = shared.poisons.text(denial.clone());
    court.denied(&shared.poisons.token(), &denial, text);
    poison
}

pub(super) fn too_much(what: &str) -> Denial {
    let message = format!("dbwarden: more {what} than the guard follows");
    Denial::limit(&message, "Close what is not used any more.")
}

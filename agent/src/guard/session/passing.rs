//! What a client asks for, read and judged: what may pass, and what is said of what may not.

use std::sync::Arc;

use super::{
    Broken, Shared,
    fate::Fate,
    names::{Found, Meaning},
    poison,
    progress::TooMany,
    veil::{Copies, Run},
};
use crate::{
    event::Effect,
    guard::{
        court::{Argument, Court, Denial, Gated, Moment, Reading},
        masking::Copied,
    },
    protocol::postgres::{FIRST_OWN_OID, frontend::Arguments},
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
pub(super) fn typed(reading: Arc<Reading>, types: &[u8], court: &dyn Court) -> Arc<Reading> {
    let (types, _) = types.as_chunks::<4>();
    let types = || types.iter().map(|oid| u32::from_be_bytes(*oid));
    let is_typed = types().next().is_some();
    if !is_typed
        || !(reading.is_estimable() || court.asks() || types().any(|oid| oid >= FIRST_OWN_OID))
    {
        return reading;
    }
    Arc::new(Reading { types: types().collect(), ..Reading::clone(&reading) })
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

pub(super) fn judge_reading(reading: &Reading, court: &mut dyn Court) -> Result<Copied, Denial> {
    match court.judge(reading) {
        Ok(permit) => Ok(permit.copy),
        Err(denial) => match &denial.needs {
            // It runs already.
            Some(needs) if reading.approval == Gated::Given => Ok(needs.copy.clone()),
            _ => Err(denial),
        },
    }
}

/// The same of what a client says anew; where that doesn't pass, what may go in its place is judged.
pub(super) fn judge_said(
    reading: &mut Arc<Reading>,
    sent_as: Option<&[u8]>,
    state: Moment,
    court: &mut dyn Court,
) -> Result<Copied, Denial> {
    let judged = judge_reading(reading, court);
    // Nothing else is written in another encoding than it was read in.
    let is_as_sent =
        || sent_as.is_some_and(|bytes| reading.text.as_deref().map(str::as_bytes) == Some(bytes));
    if judged.as_ref().is_err_and(|denial| denial.needs.is_none())
        && is_as_sent()
        && let Some(other) = court.instead(reading, state)
    {
        let judged_instead = judge_reading(&other, court);
        if judged_instead.is_ok() || judged_instead.as_ref().is_err_and(|it| it.needs.is_some()) {
            *reading = other;
            return judged_instead;
        }
    }
    judged
}

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
        Found::Anything => return Err((ambiguous(), None)),
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
    let (mut copy, mut masks) = (None, None);
    for reading in readings.iter() {
        let judged = judge_reading(reading, court);
        copy = copy.or(judged.map_err(|denial| (denial, reading.said().map(str::to_owned)))?);
        if readings.len() > 1 {
            let hidden = court.masks();
            // Whichever the server runs, its answer is masked as one of them is.
            if *masks.get_or_insert_with(|| hidden.clone()) != hidden {
                return Err((ambiguous(), None));
            }
        }
    }
    Ok((readings, copy))
}

fn ambiguous() -> Denial {
    let message = "dbwarden: it can't be told which statement this name stands for";
    Denial::limit(message, "Prepare the statement again.")
}

/// There is something, and all of it but begins a transaction.
pub(super) fn only_begin(readings: &[Arc<Reading>]) -> bool {
    !readings.is_empty() && readings.iter().all(|reading| reading.only_begins())
}

/// Of an `Execute`.
pub(super) struct Portal<'a> {
    pub name: &'a [u8],
    pub segment: u64,
    pub was_settled: bool,
}

/// What may be executed is, described before where its rows are masked.
pub(super) fn execute_on(
    portal: Portal<'_>,
    readings: Meaning,
    copy: Copied,
    shared: &mut Shared,
    court: &mut dyn Court,
) -> Result<Fate, Broken> {
    shared.veil.follow(portal.was_settled, court);
    match run(|| readings.clone(), copy, shared) {
        Ok(run) => {
            let first = shared.veil.executes(portal.name, run, portal.segment);
            let first = first.map_err(|TooMany| Broken::TooMany)?;
            if !first.is_empty() {
                shared.progress.part();
            }
            runs(&readings, shared, court);
            Ok(if first.is_empty() { Fate::Passes } else { Fate::Preceded(first) })
        }
        Err(denial) => Ok(settle(Err((denial, None)), shared, court)),
    }
}

/// What a masked client is about to run; `None` for others, of whom nobody asks for it.
pub(super) fn run(
    readings: impl FnOnce() -> Meaning,
    copy: Copied,
    shared: &Shared,
) -> Result<Option<Run>, Denial> {
    if !shared.veil.is_on() {
        return Ok(None);
    }
    let readings = readings();
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

pub(super) fn runs(readings: &[Arc<Reading>], shared: &mut Shared, court: &mut dyn Court) {
    shared.counts.passed += 1;
    readings.iter().for_each(|reading| sent(reading, shared, court));
}

pub(super) fn pass_on(reading: &Arc<Reading>, shared: &mut Shared, court: &mut dyn Court) -> Fate {
    shared.counts.passed += 1;
    sent(reading, shared, court);
    Fate::Passes
}

pub(super) fn sent(reading: &Arc<Reading>, shared: &mut Shared, court: &mut dyn Court) {
    reading.analysed.statements.iter().for_each(|facts| shared.settings.sent(facts));
    shared.veil.rewords(std::slice::from_ref(reading));
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

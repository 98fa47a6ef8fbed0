//! What the client asks for: judged, then sent on, or something else in its place.

use std::sync::Arc;

use super::{
    Broken, LIMITS, SPARE_BYTES, Shared,
    appeal::{Stop, appeal, begins, gated, part},
    approval::{Appeal, Subject},
    between,
    fate::{Fate, Place, passes, release, replace},
    is_passed_on,
    names::{self, Found},
    passing::{
        Portal, Values, deny, execute_on, judge_found, judge_reading, judge_said, only_begin,
        pass_on, read, run, runs, settle, too_much, typed, values,
    },
    poison,
    progress::TooMany,
};
use crate::{
    event::{BootTime, SyncLoss},
    guard::court::{Court, Denial, Gated, Reading},
    protocol::postgres::{
        deframer::{Deframer, Message, Side, State, Step},
        frontend::{self, Bind, Execute, Parse, Target},
    },
};

#[derive(Debug)]
pub(super) struct Requests {
    deframer: Deframer,
    /// Of the message under way: what has come of it and waits for its judgement.
    pub(super) waiting: Vec<u8>,
    /// What becomes of the rest of the message under way.
    fate: Option<Fate>,
}

impl Requests {
    pub(super) fn new() -> Self {
        let mut deframer = Deframer::new(Side::Frontend);
        // The start-up is over.
        deframer.enter(State::Header);
        Self { deframer, waiting: Vec::new(), fate: None }
    }

    /// Gives the end of `bytes`, which passes as it is, after what is in `out`.
    pub(super) fn bytes<'b>(
        &mut self,
        bytes: &'b [u8],
        shared: &mut Shared,
        court: &mut dyn Court,
        out: &mut Vec<u8>,
    ) -> Result<&'b [u8], Broken> {
        if shared.approvals.waits() {
            shared.approvals.held.extend_from_slice(bytes);
            return Ok(&[]);
        }
        let mut rest = bytes;
        // Where what hasn't been passed on begins.
        let mut from = bytes;
        let place = Place { before: shared.counts.sent_bytes, out: out.len() };
        loop {
            let at = rest;
            let asked = shared.veil.asked();
            let broken = match self.deframer.next(&mut rest, BootTime(0), &LIMITS) {
                Some(Step::Message(message)) => {
                    let fate = match self.fate.take() {
                        Some(fate) => Ok(fate),
                        None => judge(&message, shared, court),
                    };
                    let fate = fate.map(|fate| match fate {
                        Fate::Preceded(mut other) => {
                            out.extend_from_slice(between(from, at));
                            release(place, shared, court, out);
                            out.append(&mut other);
                            from = at;
                            Fate::Passes
                        }
                        other => other,
                    });
                    match fate {
                        // Only the first message of these bytes can have begun before them.
                        Ok(Fate::Passes) => {
                            release(place, shared, court, out);
                            passes(message.tag, shared);
                            out.append(&mut self.waiting);
                            let end = place.after(out) + between(from, rest).len() as u64;
                            let summed = shared.sums.add(end, &message);
                            summed.into_iter().for_each(|sum| court.summed(sum));
                            continue;
                        }
                        Ok(Fate::Kept(other)) => {
                            out.extend_from_slice(between(from, at));
                            from = rest;
                            shared.approvals.kept_from.get_or_insert(asked);
                            shared.approvals.reword(other);
                            shared.approvals.kept.append(&mut self.waiting);
                            shared.approvals.kept.extend_from_slice(between(at, rest));
                            continue;
                        }
                        Ok(Fate::Waits) => {
                            out.extend_from_slice(between(from, at));
                            let approvals = &mut shared.approvals;
                            approvals.held.append(&mut approvals.kept);
                            approvals.held.append(&mut self.waiting);
                            approvals.held.extend_from_slice(at);
                            approvals.kept_readings.clear();
                            approvals.kept_reworded.clear();
                            // All of it is judged once more.
                            shared.veil.take_back(approvals.kept_from.take().unwrap_or(asked));
                            if shared.progress.take_back() {
                                approvals.comes_after_parts();
                            }
                            return Ok(&[]);
                        }
                        Ok(fate @ (Fate::Preceded(_) | Fate::Replaced(_) | Fate::Reworded(_))) => {
                            out.extend_from_slice(between(from, at));
                            release(place, shared, court, out);
                            let other = fate.words(message.tag, shared);
                            replace(&other, place, shared, court, out);
                            from = rest;
                            self.waiting.clear();
                            continue;
                        }
                        Err(broken) => broken,
                    }
                }
                Some(Step::Bad(SyncLoss::UnknownMessage(tag))) => Broken::UnknownMessage(tag),
                Some(Step::Bad(SyncLoss::BadLength(len))) => Broken::BadLength(len),
                Some(_) => Broken::Malformed(0),
                None => {
                    let passed = self.unfinished(from, at, place, shared, court, out);
                    if self.waiting.is_empty() && self.waiting.capacity() > SPARE_BYTES {
                        self.waiting = Vec::new();
                    }
                    self.deframer.give_back(SPARE_BYTES);
                    return passed;
                }
            };
            out.extend_from_slice(between(from, at));
            return Err(broken);
        }
    }

    /// The message under way, which begins `at` there or before, goes on with bytes that are yet to come.
    fn unfinished<'b>(
        &mut self,
        from: &'b [u8],
        at: &[u8],
        place: Place,
        shared: &mut Shared,
        court: &mut dyn Court,
        out: &mut Vec<u8>,
    ) -> Result<&'b [u8], Broken> {
        let whole = between(from, at);
        if self.fate.is_none() {
            let judged = match self.deframer.unfinished(BootTime(0)) {
                Some(message) if is_passed_on(message.tag) => Some(judge(&message, shared, court)),
                // It is longer than is looked at.
                Some(message) if message.body.len() >= kept(message.tag) => {
                    Some(judge(&message, shared, court))
                }
                _ => None,
            };
            match judged {
                // Neither is the fate of a message that isn't there as a whole.
                Some(Ok(Fate::Passes | Fate::Kept(_))) => {
                    release(place, shared, court, out);
                    self.deframer.tag_under_way().into_iter().for_each(|tag| passes(tag, shared));
                    out.append(&mut self.waiting);
                    self.fate = Some(Fate::Passes);
                }
                // What is described before it runs is short, and so is what is said in other words.
                Some(Ok(fate @ (Fate::Preceded(_) | Fate::Replaced(_) | Fate::Reworded(_)))) => {
                    out.extend_from_slice(whole);
                    release(place, shared, court, out);
                    let tag = self.deframer.tag_under_way().unwrap_or_default();
                    let other = fate.words(tag, shared);
                    replace(&other, place, shared, court, out);
                    self.waiting.clear();
                    self.fate = Some(Fate::Replaced(Vec::new()));
                    return Ok(&[]);
                }
                Some(Ok(Fate::Waits)) => {
                    out.extend_from_slice(whole);
                    let tag = self.deframer.tag_under_way();
                    return Err(Broken::Malformed(tag.unwrap_or_default()));
                }
                Some(Err(broken)) => {
                    out.extend_from_slice(whole);
                    return Err(broken);
                }
                None => {
                    self.waiting.extend_from_slice(at);
                    return Ok(whole);
                }
            }
        }
        Ok(if self.fate == Some(Fate::Passes) { from } else { whole })
    }
}

fn kept(tag: u8) -> usize {
    frontend::keep(tag, &LIMITS).unwrap_or_default()
}

fn judge(
    message: &Message<'_>,
    shared: &mut Shared,
    court: &mut dyn Court,
) -> Result<Fate, Broken> {
    let tag = message.tag;
    let state = shared.state();
    let malformed = || Broken::Malformed(tag);
    let too_many = |TooMany| Broken::TooMany;
    let was_settled = shared.progress.is_settled();
    if !matches!(tag, frontend::DESCRIBE | frontend::EXECUTE | frontend::FLUSH) {
        shared.veil.turns();
    }
    let goes_astray = match tag {
        frontend::QUERY | frontend::FUNCTION_CALL => shared.progress.is_amid_parts(),
        frontend::SYNC => shared.progress.is_copying_in(),
        _ => false,
    };
    if goes_astray {
        return Err(Broken::Astray);
    }
    match tag {
        frontend::QUERY => {
            let segment = shared.progress.segment();
            let body = message.body;
            let text = match body.split_last() {
                Some((0, text)) if message.is_whole() && !text.contains(&0) => Some(text),
                // PostgreSQL reads up to the first zero, and refuses what comes after it.
                _ if message.is_whole() => return Err(malformed()),
                _ => None,
            };
            let mut reading = read(text, state, shared, court);
            let judged = judge_said(&mut reading, text, state, court);
            let subject = || Subject::of(reading.text.as_deref(), &reading.types, &[]);
            let passed = appeal(judged, subject, shared).and_then(|copy| {
                // Not before: what it was judged by is masked.
                shared.veil.follow(was_settled, court);
                run(|| Arc::new([reading.clone()]), copy, shared).map_err(Stop::Denied)
            });
            let fate = match passed {
                Ok(run) => {
                    shared.veil.queries(run, segment).map_err(too_many)?;
                    let other = reading.reworded().map(poison::query);
                    pass_on(&reading, shared, court).reworded(other)
                }
                Err(Stop::Waits) => return Ok(Fate::Waits),
                Err(Stop::Denied(denial)) => {
                    let text = deny(denial, reading.said(), shared, court);
                    Fate::Replaced(poison::query(&text))
                }
            };
            shared.progress.request().map_err(too_many)?;
            Ok(fate)
        }
        frontend::PARSE => {
            let begins = begins(shared);
            let segment = shared.progress.part();
            let parse = Parse::read(message).ok_or_else(malformed)?;
            if !parse.whole && message.is_whole() {
                return Err(malformed());
            }
            let reading = read(parse.whole.then_some(parse.text), state, shared, court);
            let mut reading = typed(reading, parse.types, court);
            let mut judged = judge_said(&mut reading, Some(parse.text), state, court);
            if judged.as_ref().is_err_and(|denial| denial.needs.is_some()) {
                // Nothing of it is run before it is executed.
                judged = Ok(None);
                reading = Arc::new(Reading { approval: Gated::Needed, ..Reading::clone(&reading) });
            }
            let waits = reading.is_gated() || reading.only_begins();
            let judged = judged.and_then(|_copy| {
                shared.veil.follow(was_settled, court);
                let meaning = Arc::new([reading.clone()]);
                let defined = shared.prepared.define(parse.name, meaning, segment);
                defined.map_err(|_| too_much("prepared statements"))?;
                if let Some(name) = shared.settings.decode(names::kept(parse.name)) {
                    court.prepared(&name, &reading);
                }
                Ok(())
            });
            Ok(match judged {
                Ok(()) => {
                    let types = message.body.get(parse.name.len() + parse.text.len() + 2..);
                    let types = types.unwrap_or_default();
                    let other = reading.reworded();
                    let other = other.map(|text| poison::parse_with(parse.name, text, types));
                    shared.veil.rewords(&[reading]);
                    part(message, waits && begins, shared, court).reworded(other)
                }
                Err(denial) => {
                    let text = deny(denial, reading.said(), shared, court);
                    Fate::Replaced(poison::parse(parse.name, &text))
                }
            })
        }
        frontend::BIND => {
            let begins = begins(shared);
            let segment = shared.progress.part();
            let bind = Bind::read(message).ok_or_else(malformed)?;
            let found = shared.prepared.find(bind.statement, segment);
            let name = shared.settings.decode(names::kept(bind.statement));
            let is_blind = name.is_none_or(|name| court.may_hang_on_values(&name));
            let make = || values(&bind.arguments, shared);
            let values = Values { count: bind.arguments.count, make: &make };
            let mut found = match is_blind {
                true => Err((Denial::blind(), None)),
                false => judge_found(found, Some(values), state, court),
            };
            if found.as_ref().is_err_and(|(denial, _)| denial.needs.is_some()) {
                let unbound = shared.prepared.find(bind.statement, segment);
                let gated = gated(unbound, values, state, court);
                found = gated.map_or(found, |meaning| Ok((meaning, None)));
            }
            let waits = found.as_ref().is_ok_and(|(readings, _)| {
                readings.iter().any(|reading| reading.is_gated() || reading.only_begins())
            });
            let judged = found.and_then(|(readings, _copy)| {
                shared.veil.follow(was_settled, court);
                shared.veil.rewords(&readings);
                let defined = shared.portals.define(bind.portal, readings, segment);
                defined.map_err(|_| (too_much("portals"), None))
            });
            match judged {
                Ok(()) => Ok(part(message, waits && begins, shared, court)),
                denied @ Err(_) => Ok(settle(denied, shared, court)),
            }
        }
        frontend::EXECUTE => {
            let begins = begins(shared);
            let segment = shared.progress.part();
            let execute = Execute::read(message).ok_or_else(malformed)?;
            let found = shared.portals.find(execute.portal, segment);
            let portal = Portal { name: execute.portal, segment, was_settled };
            let (denial, text) = match judge_found(found, None, state, court) {
                Ok((readings, _)) if begins && only_begin(&readings) => {
                    let fate = part(message, true, shared, court);
                    // No rows come of it.
                    shared.veil.executes(portal.name, None, segment).map_err(too_many)?;
                    match fate {
                        Fate::Kept(_) => {
                            shared.approvals.kept_readings.extend(readings.iter().cloned())
                        }
                        _ => runs(&readings, shared, court),
                    }
                    return Ok(fate);
                }
                Ok((readings, copy)) => return execute_on(portal, readings, copy, shared, court),
                Err(denied) => denied,
            };
            let bound = match shared.portals.find(execute.portal, segment) {
                Found::Readings(readings) => readings,
                Found::Nothing | Found::Anything => Arc::new([]),
            };
            let copy = denial.needs.as_ref().and_then(|needs| needs.copy.clone());
            match shared.approvals.appeal(denial, Subject::of_readings(&bound), begins) {
                Appeal::Waits => Ok(Fate::Waits),
                Appeal::Denied(denial) => Ok(settle(Err((denial, text)), shared, court)),
                Appeal::Passes => {
                    let fate = execute_on(portal, bound.clone(), copy, shared, court);
                    // What is left of it may be fetched piece by piece.
                    let given = |reading: &Arc<Reading>| {
                        Arc::new(Reading { approval: Gated::Given, ..Reading::clone(reading) })
                    };
                    let meaning = bound.iter().map(given).collect();
                    // It was there before.
                    let _ = shared.portals.define(execute.portal, meaning, segment);
                    fate
                }
            }
        }
        frontend::FUNCTION_CALL => {
            let (oid, arguments) = match frontend::function_call(message) {
                Some((oid, arguments)) => (Some(oid), values(&arguments, shared)),
                None if message.is_whole() => return Err(malformed()),
                None => (None, Vec::new()),
            };
            let asked = if court.asks() { arguments.clone() } else { Vec::new() };
            let reading = court.read_call(oid, arguments, state);
            let subject = || Subject::of(reading.text.as_deref(), &reading.types, &asked);
            let judged = judge_reading(&reading, court);
            let fate = match appeal(judged, subject, shared) {
                Ok(_copy) => {
                    shared.veil.follow(was_settled, court);
                    pass_on(&reading, shared, court)
                }
                Err(Stop::Waits) => return Ok(Fate::Waits),
                Err(Stop::Denied(denial)) => {
                    // The text is not the client's.
                    let text = deny(denial, None, shared, court);
                    Fate::Replaced(poison::query(&text))
                }
            };
            shared.progress.request().map_err(too_many)?;
            Ok(fate)
        }
        frontend::CLOSE | frontend::DESCRIBE => {
            let segment = match tag {
                frontend::CLOSE => shared.progress.part_that_ends_well(),
                _ => shared.progress.part(),
            };
            let target = Target::read(message).ok_or_else(malformed)?;
            if tag == frontend::DESCRIBE {
                let portal = match target {
                    Target::Portal(name) => Some(name),
                    Target::Statement(_) => None,
                };
                shared.veil.describes(portal, segment).map_err(too_many)?;
            }
            match target {
                Target::Statement(name) if tag == frontend::CLOSE => shared.prepared.close(name),
                Target::Portal(name) if tag == frontend::CLOSE => shared.portals.close(name),
                Target::Statement(_) | Target::Portal(_) => {}
            }
            Ok(part(message, false, shared, court))
        }
        frontend::SYNC => {
            shared.progress.sync().map_err(too_many)?;
            Ok(Fate::Passes)
        }
        frontend::COPY_DONE | frontend::COPY_FAIL => {
            shared.progress.copy_end().map_err(too_many)?;
            Ok(Fate::Passes)
        }
        frontend::TERMINATE => {
            shared.counts.took_leave = true;
            Ok(Fate::Passes)
        }
        frontend::COPY_DATA => {
            shared.progress.copy_data();
            Ok(Fate::Passes)
        }
        frontend::FLUSH | frontend::PASSWORD => Ok(Fate::Passes),
        other => Err(Broken::UnknownMessage(other)),
    }
}

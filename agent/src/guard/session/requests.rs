//! What the client asks for: judged, then sent on, or something else in its place.

use std::sync::Arc;

use super::{
    Broken, LIMITS, SPARE_BYTES, Shared, between, is_passed_on,
    passing::{Values, deny, judge_found, pass, read, run, sent, settle, too_much, typed, values},
    poison,
    progress::TooMany,
};
use crate::{
    event::{BootTime, SyncLoss},
    guard::court::Court,
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

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Passes,
    /// It passes after something else.
    Preceded(Vec<u8>),
    /// Something else is sent for it.
    Replaced(Vec<u8>),
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
        let mut rest = bytes;
        // Where what hasn't been passed on begins.
        let mut from = bytes;
        let place = Place { before: shared.counts.sent_bytes, out: out.len() };
        loop {
            let at = rest;
            let broken = match self.deframer.next(&mut rest, BootTime(0), &LIMITS) {
                Some(Step::Message(message)) => {
                    let fate = match self.fate.take() {
                        Some(fate) => Ok(fate),
                        None => judge(&message, shared, court),
                    };
                    let fate = fate.map(|fate| match fate {
                        Fate::Preceded(mut other) => {
                            out.extend_from_slice(between(from, at));
                            out.append(&mut other);
                            from = at;
                            Fate::Passes
                        }
                        other => other,
                    });
                    match fate {
                        // Only the first message of these bytes can have begun before them.
                        Ok(Fate::Passes) => {
                            out.append(&mut self.waiting);
                            let end = place.after(out) + between(from, rest).len() as u64;
                            let summed = shared.sums.add(end, &message);
                            summed.into_iter().for_each(|sum| court.summed(sum));
                            continue;
                        }
                        Ok(Fate::Preceded(other) | Fate::Replaced(other)) => {
                            out.extend_from_slice(between(from, at));
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
                Some(Ok(Fate::Passes)) => {
                    out.append(&mut self.waiting);
                    self.fate = Some(Fate::Passes);
                }
                // What is described before it runs is short.
                Some(Ok(Fate::Preceded(other) | Fate::Replaced(other))) => {
                    out.extend_from_slice(whole);
                    replace(&other, place, shared, court, out);
                    self.waiting.clear();
                    self.fate = Some(Fate::Replaced(Vec::new()));
                    return Ok(&[]);
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

/// Where in the stream to the server it is.
#[derive(Clone, Copy)]
struct Place {
    /// Bytes that were sent before those of now.
    before: u64,
    /// Bytes that had been there already.
    out: usize,
}

impl Place {
    fn after(self, out: &[u8]) -> u64 {
        self.before + out.len().saturating_sub(self.out) as u64
    }
}

/// Sends something else; nothing for the rest of a message that was replaced before.
fn replace(
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
    match tag {
        frontend::QUERY => {
            let segment = shared.progress.segment();
            shared.progress.request().map_err(too_many)?;
            let body = message.body;
            let text = match body.split_last() {
                Some((0, text)) if message.is_whole() && !text.contains(&0) => Some(text),
                // PostgreSQL reads up to the first zero, and refuses what comes after it.
                _ if message.is_whole() => return Err(malformed()),
                _ => None,
            };
            let reading = read(text, state, shared, court);
            let passed = pass(&reading, was_settled, shared, court).and_then(|permit| {
                let readings = Arc::new([reading.clone()]);
                let run = run(readings, permit.copy, shared)?;
                sent(&reading, shared, court);
                Ok(run)
            });
            Ok(match passed {
                Ok(run) => {
                    shared.veil.queries(run, segment).map_err(too_many)?;
                    shared.counts.passed += 1;
                    Fate::Passes
                }
                Err(denial) => {
                    let text = deny(denial, reading.text.as_deref(), shared, court);
                    Fate::Replaced(poison::query(&text))
                }
            })
        }
        frontend::PARSE => {
            let segment = shared.progress.part();
            let parse = Parse::read(message).ok_or_else(malformed)?;
            if !parse.whole && message.is_whole() {
                return Err(malformed());
            }
            let reading = read(parse.whole.then_some(parse.text), state, shared, court);
            let reading = typed(reading, parse.types);
            let judged = pass(&reading, was_settled, shared, court).and_then(|_permit| {
                let meaning = Arc::new([reading.clone()]);
                let defined = shared.prepared.define(parse.name, meaning, segment);
                defined.map_err(|_| too_much("prepared statements"))?;
                if let Ok(name) = std::str::from_utf8(parse.name) {
                    court.prepared(name, &reading);
                }
                Ok(())
            });
            Ok(match judged {
                Ok(()) => Fate::Passes,
                Err(denial) => {
                    let text = deny(denial, reading.text.as_deref(), shared, court);
                    Fate::Replaced(poison::parse(parse.name, &text))
                }
            })
        }
        frontend::BIND => {
            let segment = shared.progress.part();
            let bind = Bind::read(message).ok_or_else(malformed)?;
            let found = shared.prepared.find(bind.statement, segment);
            let make = || values(&bind.arguments, shared);
            let values = Values { count: bind.arguments.count, make: &make };
            let found = judge_found(found, Some(values), state, court);
            let judged = found.and_then(|(readings, _copy)| {
                shared.veil.follow(was_settled, court);
                let defined = shared.portals.define(bind.portal, readings, segment);
                defined.map_err(|_| (too_much("portals"), None))
            });
            Ok(settle(judged, shared, court))
        }
        frontend::EXECUTE => {
            let segment = shared.progress.part();
            let execute = Execute::read(message).ok_or_else(malformed)?;
            let found = shared.portals.find(execute.portal, segment);
            let judged = judge_found(found, None, state, court).and_then(|(readings, copy)| {
                shared.veil.follow(was_settled, court);
                let run = run(readings.clone(), copy, shared);
                let run = run.map_err(|denial| (denial, None))?;
                shared.counts.passed += 1;
                readings.iter().for_each(|reading| sent(reading, shared, court));
                Ok(run)
            });
            match judged {
                Ok(run) => {
                    let first = shared.veil.executes(execute.portal, run, segment);
                    let first = first.map_err(too_many)?;
                    Ok(if first.is_empty() { Fate::Passes } else { Fate::Preceded(first) })
                }
                Err(denied) => Ok(settle(Err(denied), shared, court)),
            }
        }
        frontend::FUNCTION_CALL => {
            shared.progress.request().map_err(too_many)?;
            let (oid, arguments) = match frontend::function_call(message) {
                Some((oid, arguments)) => (Some(oid), values(&arguments, shared)),
                None if message.is_whole() => return Err(malformed()),
                None => (None, Vec::new()),
            };
            let reading = court.read_call(oid, arguments, state);
            let passed = pass(&reading, was_settled, shared, court);
            Ok(match passed {
                Ok(_permit) => {
                    sent(&reading, shared, court);
                    shared.counts.passed += 1;
                    Fate::Passes
                }
                Err(denial) => {
                    // The text is not the client's.
                    let text = deny(denial, None, shared, court);
                    Fate::Replaced(poison::query(&text))
                }
            })
        }
        frontend::CLOSE | frontend::DESCRIBE => {
            let segment = shared.progress.part();
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
            Ok(Fate::Passes)
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
        frontend::COPY_DATA | frontend::FLUSH | frontend::PASSWORD => Ok(Fate::Passes),
        other => Err(Broken::UnknownMessage(other)),
    }
}

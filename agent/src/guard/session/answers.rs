//! What the server answers: passed on byte for byte, but for the error that stands for a denial.

use super::{Broken, LIMITS, SPARE_BYTES, Shared, between, veil::Becomes};
use crate::{
    event::{BootTime, TransactionStatus},
    guard::{court::Court, report::Severity},
    protocol::postgres::{
        backend::{self, Authentication},
        deframer::{Deframer, Message, Side, Step},
        reader::Reader,
    },
};

#[derive(Debug)]
pub(super) struct Answers {
    deframer: Deframer,
    /// Of a message under way that may not pass as it is: what has come of it.
    waiting: Vec<u8>,
    under_way: UnderWay,
    authentication: &'static str,
    /// The log-in is over.
    authenticated: bool,
}

/// What has become of the beginning of the message under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum UnderWay {
    /// It waits, if there is one.
    #[default]
    Waits,
    Passes,
    /// The client has got something else.
    Dropped,
}

/// The beginnings of an error's message that no denial is as long as.
const ERROR_BYTES: usize = 8_192;
/// Before the body of a message.
pub(super) const HEADER: usize = 5;

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            deframer: Deframer::new(Side::Backend),
            waiting: Vec::new(),
            under_way: UnderWay::Waits,
            authentication: "trust",
            authenticated: false,
        }
    }

    /// All that was passed on ends with a message.
    pub(super) fn are_whole(&self) -> bool {
        self.under_way == UnderWay::Waits
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
        loop {
            let veil = &shared.veil;
            self.deframer.skip(&mut rest, |tag| {
                matches!(tag, backend::DATA_ROW | backend::COPY_DATA) && veil.ignores(tag)
            });
            let at = rest;
            let message = match self.deframer.next(&mut rest, BootTime(0), &LIMITS) {
                Some(Step::Message(message)) => message,
                Some(_) => {
                    out.extend_from_slice(between(from, at));
                    return Err(Broken::Server);
                }
                None => return self.unfinished(from, at, shared, out),
            };
            let tag = message.tag;
            let heard =
                hear(&message, &mut self.authentication, &mut self.authenticated, shared, court);
            let is_ours = shared.veil.hears(tag);
            if ends_part(tag) {
                shared.progress.part_done();
            } else if tag == backend::COPY_IN_RESPONSE && shared.progress.copy_in().is_err() {
                out.extend_from_slice(between(from, at));
                return Err(Broken::Astray);
            }
            match std::mem::take(&mut self.under_way) {
                UnderWay::Passes => continue,
                // Only the first message of these bytes can have begun before them.
                UnderWay::Dropped => from = rest,
                UnderWay::Waits if heard.is_some() => {
                    out.extend_from_slice(between(from, at));
                    out.extend_from_slice(&heard.unwrap_or_default());
                    from = rest;
                }
                UnderWay::Waits if shared.veil.is_on() => {
                    let whole = between(at, rest);
                    if !self.waiting.is_empty() {
                        self.waiting.extend_from_slice(whole);
                    }
                    let message = if self.waiting.is_empty() { whole } else { &self.waiting };
                    let body = message.get(HEADER..).unwrap_or_default();
                    out.extend_from_slice(between(from, at));
                    from = at;
                    let Shared { veil, settings, .. } = shared;
                    let becomes = veil.take(tag, body, is_ours, settings, court, out)?;
                    if becomes == Becomes::Other {
                        from = rest;
                    } else if !self.waiting.is_empty() {
                        out.append(&mut self.waiting);
                        from = rest;
                    }
                }
                UnderWay::Waits => out.append(&mut self.waiting),
            }
            self.waiting.clear();
        }
    }

    /// The message under way, which begins `at` there or before, goes on with bytes that are yet to come.
    fn unfinished<'b>(
        &mut self,
        from: &'b [u8],
        at: &[u8],
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> Result<&'b [u8], Broken> {
        let whole = between(from, at);
        let tag = self.deframer.tag_under_way();
        match (tag, self.under_way) {
            (None, _) => {
                self.deframer.give_back(SPARE_BYTES);
                if self.waiting.capacity() > SPARE_BYTES {
                    self.waiting = Vec::new();
                }
                Ok(from)
            }
            (Some(_), UnderWay::Passes) => Ok(from),
            (Some(_), UnderWay::Dropped) => Ok(whole),
            (Some(tag), UnderWay::Waits) => {
                let may_be_denial = tag == backend::ERROR_RESPONSE && shared.poisons.are_waiting();
                let most = shared.veil.holds(tag).max(if may_be_denial { ERROR_BYTES } else { 0 });
                if most > 0 && self.waiting.len() + at.len() <= most {
                    self.waiting.extend_from_slice(at);
                    return Ok(whole);
                }
                if shared.veil.holds(tag) > 0 {
                    self.waiting.extend_from_slice(at);
                    out.extend_from_slice(whole);
                    let body = self.waiting.get(HEADER..).unwrap_or_default();
                    shared.veil.take_beginning(tag, body, out)?;
                    self.waiting = Vec::new();
                    self.under_way = UnderWay::Dropped;
                    return Ok(&[]);
                }
                // Only the first message of these bytes can have begun before them.
                out.append(&mut self.waiting);
                self.under_way = UnderWay::Passes;
                Ok(from)
            }
        }
    }
}

/// Whether a server says so that it has done what one message of the extended protocol asks that might have failed.
fn ends_part(tag: u8) -> bool {
    matches!(
        tag,
        backend::PARSE_COMPLETE
            | backend::BIND_COMPLETE
            | backend::ROW_DESCRIPTION
            | backend::NO_DATA
            | backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY_RESPONSE
            | backend::PORTAL_SUSPENDED
    )
}

/// Takes in a message; gives what is sent instead, if anything is.
fn hear(
    message: &Message<'_>,
    authentication: &mut &'static str,
    authenticated: &mut bool,
    shared: &mut Shared,
    court: &mut dyn Court,
) -> Option<Vec<u8>> {
    match message.tag {
        backend::AUTHENTICATION if !*authenticated => match backend::authentication(message.body) {
            Some(Authentication::Ok) => {
                *authenticated = true;
                court.authenticated(authentication);
            }
            Some(Authentication::Asks(method)) => *authentication = method,
            Some(Authentication::Continues) | None => {}
        },
        backend::PARAMETER_STATUS => {
            let mut reader = Reader::new(message.body);
            let (name, value) = (reader.cstr()?, reader.cstr()?);
            shared.settings.reported(name, value);
            if name == b"application_name" {
                court.renamed(&String::from_utf8_lossy(value));
            }
        }
        backend::COMMAND_COMPLETE
            if [&b"DISCARD ALL\0"[..], b"DEALLOCATE ALL\0"].contains(&message.body) =>
        {
            shared.prepared.forget_settled();
        }
        backend::BACKEND_KEY_DATA if message.is_whole() => {
            shared.cancel_key = Some(message.body.into());
        }
        backend::ERROR_RESPONSE => {
            shared.progress.error();
            return shared
                .poisons
                .behind(message.body)
                .map(|denial| denial.encode(Severity::Error));
        }
        backend::READY_FOR_QUERY => {
            let status = backend::ready_for_query(message.body);
            shared.transaction = status;
            let settled = shared.progress.ready();
            if let Some(segment) = shared.progress.answered() {
                shared.veil.answered(segment);
            }
            if let Some(went_well) = settled {
                shared.settings.settled();
                shared.poisons.settle();
                shared.veil.settle();
                shared.prepared.settle(went_well);
                shared.portals.settle(went_well);
                court.answered(went_well);
                if status == Some(TransactionStatus::Idle) {
                    // A portal ends with its transaction.
                    shared.portals.clear();
                    court.settled();
                }
            }
        }
        _ => {}
    }
    None
}

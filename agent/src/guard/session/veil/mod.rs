//! What a masked client gets of the server's answers.
//!
//! Rows are masked by what the server itself says of their columns, just before they come: each `Execute` has a
//! `Describe` of its portal right before it, the client's own or one of the guard's. So whatever names, cursors and
//! pipelines are about, rows belong to the description that came last.
//!
//! | room | what |
//! |---|---|
//! | [`flight`] | what was asked and is yet to be answered |
//! | [`rows`] | descriptions and rows |
//! | [`copy`] | rows of a COPY |
//! | [`reports`] | errors, notices, notifications |

mod copy;
mod flight;
mod reports;
mod rows;
#[cfg(test)]
pub(super) mod tests;

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use super::{Broken, answers::HEADER, progress::TooMany, settings::Settings};
use crate::{
    guard::{
        court::{Court, Reading},
        masking::{Hiding, Masks, TextPrint},
    },
    protocol::postgres::backend,
};
use copy::Copying;
pub(super) use flight::{Copies, Run};
use flight::{Flight, Running};
use rows::Rows;

/// Of one session.
#[derive(Debug, Default)]
pub(super) struct Veil {
    masks: Option<Arc<Masks>>,
    flight: Flight,
    hiding: Arc<Hiding>,
    rows: Option<Box<Rows>>,
    copying: Option<Box<Copying>>,
    /// Somebody knows that this client is masked.
    is_known: bool,
    /// Of the rows under way it is told what is masked.
    is_told: bool,
    /// What was told of texts.
    told: Option<Box<LruCache<TextPrint, Vec<Arc<str>>>>>,
    /// The portal that the client's newest message describes.
    described: Option<Box<[u8]>>,
    /// The server has got other words than the client's, and not answered all yet: where in a text it finds trouble,
    /// may be in those.
    is_reworded: bool,
}

/// What becomes of a message of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Becomes {
    /// It passes as it came.
    Itself,
    /// What the client gets for it, if anything, has been written.
    Other,
}

/// Of a row, or what else has to be whole to be looked at.
const MAX_ROW_BYTES: usize = 16 << 20;
/// Names of all columns that a row can have fit.
const MAX_DESCRIPTION_BYTES: usize = 256 << 10;
/// Of an error, a notice, a notification, with its header.
const MAX_REPORT_BYTES: usize = 16 << 10;
/// Texts of which it is known what was told of them.
const MAX_TOLD: NonZeroUsize = NonZeroUsize::new(256).unwrap();

impl Veil {
    /// Whether the client is masked.
    pub(super) fn is_on(&self) -> bool {
        self.masks.is_some()
    }

    /// A statement is about to go to the server; `is_settled`: nothing before it is unanswered.
    pub(super) fn follow(&mut self, is_settled: bool, court: &mut dyn Court) {
        match (self.is_on(), court.masks()) {
            (false, None) => {}
            (_, Some(masks)) => {
                if !std::mem::replace(&mut self.is_known, true) {
                    court.veiled();
                }
                self.masks = Some(masks);
                self.hiding = court.hiding();
            }
            (true, None) if is_settled => self.masks = None,
            // Something before it is answered for a masked client.
            (true, None) => {}
        }
    }

    /// The client has asked for a description; of a portal, where it has that name.
    pub(super) fn describes(&mut self, portal: Option<&[u8]>, at: u64) -> Result<(), TooMany> {
        self.flight.describe(at, false)?;
        self.described = portal.filter(|_| self.is_on()).map(Into::into);
        Ok(())
    }

    /// These go to the server.
    pub(super) fn rewords(&mut self, readings: &[Arc<Reading>]) {
        self.is_reworded |= readings.iter().any(|reading| reading.reworded().is_some());
    }

    /// Everything is answered.
    pub(super) fn settle(&mut self) {
        self.is_reworded = false;
    }

    /// Counts what was asked so far.
    pub(super) fn asked(&self) -> u64 {
        self.flight.asked()
    }

    /// What was asked after so much has not been sent: it will be asked once more.
    pub(super) fn take_back(&mut self, asked: u64) {
        self.flight.take_back(asked);
        self.described = None;
    }

    /// Something else than a description or its rows is asked for.
    pub(super) fn turns(&mut self) {
        self.described = None;
    }

    /// An `Execute` goes to the server; gives what goes before it.
    pub(super) fn executes(
        &mut self,
        portal: &[u8],
        run: Option<Run>,
        at: u64,
    ) -> Result<Vec<u8>, TooMany> {
        let described = self.described.take();
        let is_described = run.is_none() || described.is_some_and(|it| *it == *portal);
        if !is_described {
            self.flight.describe(at, true)?;
        }
        self.flight.run(at, false, run)?;
        Ok(if is_described { Vec::new() } else { describe(portal) })
    }

    /// A `Query` goes to the server.
    pub(super) fn queries(&mut self, run: Option<Run>, at: u64) -> Result<(), TooMany> {
        self.flight.run(at, true, run)
    }

    /// A message of the server's has come; whether it is the answer to a question of our own.
    pub(super) fn hears(&mut self, tag: u8) -> bool {
        match tag {
            backend::ROW_DESCRIPTION | backend::NO_DATA => return self.flight.described(),
            backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY_RESPONSE
            | backend::PORTAL_SUSPENDED => self.flight.completed(),
            _ => {}
        }
        false
    }

    /// All that was asked up to this segment is answered.
    pub(super) fn answered(&mut self, segment: u64) {
        self.flight.answered(segment);
        self.rows = None;
        self.copying = None;
    }

    /// Whole messages of this type pass without being looked at.
    pub(super) fn ignores(&self, tag: u8) -> bool {
        match tag {
            backend::DATA_ROW => match (&self.masks, &self.rows) {
                (None, _) => true,
                (Some(_), Some(rows)) => self.is_told && !rows.covers,
                (Some(_), None) => false,
            },
            backend::COPY_DATA => self.copying.is_none(),
            _ => false,
        }
    }

    /// How much of a message of this type is held back until it has come as a whole.
    pub(super) fn holds(&self, tag: u8) -> usize {
        if !self.is_on() || self.ignores(tag) {
            return 0;
        }
        match tag {
            backend::DATA_ROW | backend::COPY_DATA => MAX_ROW_BYTES,
            backend::ROW_DESCRIPTION | backend::NO_DATA | backend::COPY_OUT_RESPONSE => {
                MAX_DESCRIPTION_BYTES
            }
            backend::ERROR_RESPONSE | backend::NOTICE_RESPONSE | backend::NOTIFICATION_RESPONSE => {
                MAX_REPORT_BYTES
            }
            _ => 0,
        }
    }

    /// A message has come as a whole that the client is not to get as it is, perhaps.
    pub(super) fn take(
        &mut self,
        tag: u8,
        body: &[u8],
        is_ours: bool,
        settings: &Settings,
        court: &mut dyn Court,
        out: &mut Vec<u8>,
    ) -> Result<Becomes, Broken> {
        let Some(masks) = &self.masks else { return Ok(Becomes::Itself) };
        match tag {
            backend::DATA_ROW => {
                self.tell(court);
                match (&self.rows, self.flight.running()) {
                    (Some(rows), _) if rows.covers => {
                        rows.put(body, &self.hiding, out)?;
                        return Ok(Becomes::Other);
                    }
                    // They were described before anything was masked.
                    (Some(_), _) | (None, Running::Unveiled) => {}
                    // Without a description nobody knows what they are.
                    (None, _) => return Err(Broken::Server),
                }
            }
            backend::ROW_DESCRIPTION => {
                let mut rows = self.rows.take().unwrap_or_default();
                let described = rows.describe(body, masks, &self.hiding, settings.is_utf8());
                described.ok_or(Broken::Server)?;
                self.rows = Some(rows);
                self.is_told = false;
                return Ok(if is_ours { Becomes::Other } else { Becomes::Itself });
            }
            backend::NO_DATA => {
                self.rows = None;
                return Ok(if is_ours { Becomes::Other } else { Becomes::Itself });
            }
            backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY_RESPONSE
            | backend::PORTAL_SUSPENDED => self.rows = None,
            backend::COPY_OUT_RESPONSE => {
                let run = match self.flight.running() {
                    Running::Unveiled => return Ok(Becomes::Itself),
                    Running::Veiled(run) => run,
                    Running::Nothing => return Err(Broken::Copy),
                };
                let watch = self.hiding.detectors.watch_any();
                let mut tags = Vec::new();
                match &run.copies {
                    Copies::Nothing => return Err(Broken::Copy),
                    Copies::Plain => self.copying = watch.map(Copying::watching).map(Box::new),
                    Copies::Masked(columns) => {
                        let form = run.readings.first().and_then(|reading| reading.copy_form());
                        let is_utf8 = settings.is_utf8();
                        let copying = form.and_then(|form| {
                            Copying::begin(body, columns, form.clone(), watch, is_utf8)
                        });
                        self.copying = Some(Box::new(copying.ok_or(Broken::Copy)?));
                        tags.extend(columns.iter().flatten().map(|column| column.masked.tag()));
                    }
                }
                self.tell_of(&tags, court);
            }
            backend::COPY_DATA => {
                if let Some(copying) = &mut self.copying {
                    copying.put(body, &self.hiding, out)?;
                    return Ok(Becomes::Other);
                }
            }
            backend::COPY_DONE => self.copying = None,
            // The whole content of the database.
            backend::COPY_BOTH_RESPONSE => return Err(Broken::Copy),
            backend::ERROR_RESPONSE | backend::NOTICE_RESPONSE => {
                return Ok(self.report(tag, body, out));
            }
            backend::NOTIFICATION_RESPONSE => {
                reports::silent(body, out).ok_or(Broken::Server)?;
                return Ok(Becomes::Other);
            }
            _ => {}
        }
        Ok(Becomes::Itself)
    }

    /// More of a message has come than is held: what the client gets in its place, where that can be said.
    pub(super) fn take_beginning(
        &self,
        tag: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        match tag {
            backend::ERROR_RESPONSE | backend::NOTICE_RESPONSE => {
                self.report(tag, body, out);
                Ok(())
            }
            backend::DATA_ROW | backend::COPY_DATA => Err(Broken::LongRow),
            _ => Err(Broken::Server),
        }
    }

    /// Of a long one as much counts as is held, in whatever pieces it comes.
    fn report(&self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Becomes {
        let held = body.get(..MAX_REPORT_BYTES - HEADER).unwrap_or(body);
        let is_whole = held.len() == body.len();
        match reports::instead(tag, held, is_whole, self.is_reworded) {
            Some(mut other) => {
                out.append(&mut other);
                Becomes::Other
            }
            None => Becomes::Itself,
        }
    }

    /// Of the first of the rows that were described last: what is masked in them.
    fn tell(&mut self, court: &mut dyn Court) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let tags = self.rows.as_mut().map(|rows| std::mem::take(&mut rows.masked));
        self.tell_of(&tags.unwrap_or_default(), court);
    }

    /// Once for a text, as long as nothing changes.
    fn tell_of(&mut self, tags: &[Arc<str>], court: &mut dyn Court) {
        let Running::Veiled(run) = self.flight.running() else { return };
        let readings = run.readings.clone();
        let told = self.told.get_or_insert_with(|| Box::new(LruCache::new(MAX_TOLD)));
        for text in readings.iter().filter_map(|reading| reading.text.as_deref()) {
            let print = TextPrint::of(text);
            let is_news = match told.get_mut(&print) {
                None => {
                    told.put(print, tags.to_vec());
                    true
                }
                Some(known) => {
                    // A query of several statements has several answers.
                    let more = tags.iter().filter(|tag| !known.contains(tag)).cloned();
                    let more: Vec<_> = more.collect();
                    known.extend(more.iter().cloned());
                    !more.is_empty()
                }
            };
            if is_news && let Some(tags) = told.get(&print) {
                court.masked(print, tags);
            }
        }
    }
}

/// `Describe` of a portal.
fn describe(portal: &[u8]) -> Vec<u8> {
    use crate::protocol::postgres::frontend::DESCRIBE;
    super::poison::message(DESCRIBE, &[b"P", portal, b"\0"])
}

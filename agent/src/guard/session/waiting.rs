//! How a session goes on whose statement needs an approval: settled, asked, answered, sent or denied.

use std::{sync::Arc, time::Duration};

use super::{
    Broken, Output, Session,
    approval::{Decision, Stage, Waits},
    context::{Names, Read, Reader, sync},
};
use crate::{
    approval::{Answer, Context, Over},
    event::{TransactionStatus, Verdict},
    guard::court::{Court, Needs, Question},
};

/// Held of what a client says while it waits; after that it isn't read.
const MAX_HELD: usize = 256 << 10;

/// What a session hears from outside.
#[derive(Debug)]
pub enum Tiding {
    /// The service's.
    Answer(Answer),
    /// Its client has asked for that on a connection of its own.
    Cancelled,
    /// Its `statement_timeout` is over.
    TimedOut,
}

impl Session {
    /// Something of the client's waits for an answer.
    pub fn waits(&self) -> bool {
        self.shared.approvals.waits()
    }

    /// Whether more of the client may be read.
    pub fn has_room(&self) -> bool {
        self.shared.approvals.held.len() < MAX_HELD
    }

    /// How long its client lets a statement take, as long as it waits for people. While the server is asked once more
    /// nobody would hear of its end.
    pub fn patience(&self) -> Option<Duration> {
        match &self.shared.approvals.stage {
            Stage::Asked(waits) if waits.id.is_some() => waits.statement_timeout,
            _ => None,
        }
    }

    /// What a request to cancel names this session by, as far as the server has told.
    pub fn cancel_key(&self) -> Option<&[u8]> {
        self.shared.cancel_key.as_deref()
    }

    /// # Errors
    /// What the client has sent meanwhile is none of the protocol.
    pub fn hear(
        &mut self,
        tiding: Tiding,
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<(), Broken> {
        let mut waits = match std::mem::take(&mut self.shared.approvals.stage) {
            Stage::Asked(waits) => waits,
            // Whoever waits no more misses nothing. Who has yet to ask asks in vain.
            other => {
                self.shared.approvals.stage = other;
                return Ok(());
            }
        };
        match tiding {
            Tiding::Answer(Answer::Pass { .. }) => self.resume(waits, Decision::Passes, court, out),
            Tiding::Answer(answer @ Answer::Ticket { .. }) => {
                let denial = waits.ticket(&answer).unwrap_or_else(|| waits.denial.clone());
                self.resume(waits, Decision::Denied(denial), court, out)
            }
            Tiding::Answer(answer @ Answer::Wait { .. }) => {
                self.shared.notice = waits.notice(&answer);
                waits.id = match answer {
                    Answer::Wait { id, .. } => Some(id),
                    _ => None,
                };
                self.shared.approvals.stage = Stage::Asked(waits);
                self.tell_notice(out);
                Ok(())
            }
            Tiding::Answer(Answer::Again { .. }) => self.ask_server(waits, court, out),
            Tiding::Answer(Answer::Denied { id, why }) => {
                let denial = waits.denied(id.as_ref(), &why);
                self.resume(waits, Decision::Denied(denial), court, out)
            }
            Tiding::Cancelled => {
                court.gives_up(Over::Cancelled);
                let denial = waits.canceled("user request");
                self.resume(waits, Decision::Denied(denial), court, out)
            }
            Tiding::TimedOut => {
                court.gives_up(Over::TimedOut);
                let denial = waits.canceled("statement timeout");
                self.resume(waits, Decision::Denied(denial), court, out)
            }
        }
    }

    /// Goes on as far as that is possible now.
    pub(super) fn advance(
        &mut self,
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<(), Broken> {
        let shared = &mut self.shared;
        let is_quiet = shared.progress.is_settled() && self.answers.are_whole();
        if !is_quiet || !matches!(shared.approvals.stage, Stage::Settling(_)) {
            return Ok(());
        }
        let Stage::Settling(mut waits) = std::mem::take(&mut shared.approvals.stage) else {
            return Ok(());
        };
        match shared.transaction {
            // The server has yet to say that it is ready.
            None => {
                shared.approvals.stage = Stage::Settling(waits);
                return Ok(());
            }
            Some(TransactionStatus::Idle) => {}
            // It may hold locks that others wait for.
            Some(TransactionStatus::InTransaction) => waits.verdict = Verdict::Ticket,
            Some(TransactionStatus::Failed) => {
                let denial = waits.denial.clone();
                return self.resume(waits, Decision::Denied(denial), court, out);
            }
        }
        self.ask_server(waits, court, out)
    }

    fn ask_server(
        &mut self,
        mut waits: Box<Waits>,
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<(), Broken> {
        self.shared.approvals.n_asked += 1;
        let messages = names(&waits.needs).messages(self.shared.approvals.n_asked);
        let Some(mut messages) = messages else {
            let denial = waits.denial.clone();
            return self.resume(waits, Decision::Denied(denial), court, out);
        };
        if waits.after_parts {
            // They have prepared something, and hold what they have looked at.
            messages.insert(0, sync());
        }
        for message in messages {
            let Self { shared, .. } = self;
            out.to_server.extend_from_slice(&message);
            shared.counts.sent_bytes += message.len() as u64;
            let summed = shared.sums.add_wire(shared.counts.sent_bytes, &message);
            summed.into_iter().for_each(|sum| court.summed(sum));
        }
        court.summed_so_far(self.shared.counts.sent_bytes, self.shared.sums.current());
        let reader = Reader::new(std::mem::take(&mut waits.after_parts));
        self.shared.approvals.stage = Stage::Context(waits, Box::new(reader));
        Ok(())
    }

    /// The server answers the guard's own question: none of that is for the client. Gives what follows it.
    pub(super) fn take_context<'b>(
        &mut self,
        mut bytes: &'b [u8],
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<&'b [u8], Broken> {
        let Stage::Context(waits, mut reader) = std::mem::take(&mut self.shared.approvals.stage)
        else {
            return Ok(bytes);
        };
        let mut aside = Vec::new();
        let read = reader.read(&mut bytes, &mut aside);
        if !aside.is_empty() {
            let passed = self.answers.bytes(&aside, &mut self.shared, court, &mut out.to_client)?;
            out.to_client.extend_from_slice(passed);
        }
        match read {
            Read::Broken => return Err(Broken::Server),
            Read::More => self.shared.approvals.stage = Stage::Context(waits, reader),
            Read::Done => match reader.context(&names(&waits.needs)) {
                Some((context, timeout)) => self.ask_people(waits, context, timeout, court),
                None => {
                    court.gives_up(Over::Unbound);
                    let why = "the server did not say what it would be bound to";
                    let denial = waits.denied(waits.id.as_ref(), why);
                    self.resume(waits, Decision::Denied(denial), court, out)?;
                }
            },
        }
        Ok(bytes)
    }

    fn ask_people(
        &mut self,
        mut waits: Box<Waits>,
        context: Context,
        statement_timeout: Option<Duration>,
        court: &mut dyn Court,
    ) {
        let subject = waits.subject.clone();
        court.ask(Question {
            needs: waits.needs.clone(),
            verdict: waits.verdict,
            text: subject.text,
            types: subject.types,
            values: subject.values,
            context,
            waits_for: waits.id.clone(),
        });
        waits.statement_timeout = statement_timeout;
        self.shared.approvals.stage = Stage::Asked(waits);
    }

    /// The statement is judged once more, and what was decided holds for it.
    fn resume(
        &mut self,
        waits: Box<Waits>,
        decision: Decision,
        court: &mut dyn Court,
        out: &mut Output,
    ) -> Result<(), Broken> {
        let shared = &mut self.shared;
        let Waits { subject, needs, .. } = *waits;
        shared.approvals.decided(subject, needs, decision);
        let held = std::mem::take(&mut shared.approvals.held);
        let before = out.to_server.len();
        let passed = self.requests.bytes(&held, shared, court, &mut out.to_server);
        out.to_server.extend_from_slice(passed.as_ref().copied().unwrap_or_default());
        shared.counts.sent_bytes += (out.to_server.len() - before) as u64;
        passed?;
        if shared.approvals.is_left_over() {
            court.gives_up(Over::Moot);
        }
        court.summed_so_far(shared.counts.sent_bytes, shared.sums.current());
        self.advance(court, out)
    }

    /// In the midst of an answer it would be taken for a part of that.
    pub(super) fn tell_notice(&mut self, out: &mut Output) {
        if self.answers.are_whole()
            && let Some(notice) = self.shared.notice.take()
        {
            out.to_client.extend_from_slice(&notice);
        }
    }
}

fn names(needs: &Arc<Needs>) -> Names<'_> {
    Names {
        tables: &needs.tables,
        functions: &needs.functions,
        with_prepared: needs.is_session_sensitive,
    }
}

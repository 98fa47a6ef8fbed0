//! A statement that needs an approval: what waits with it, and how far it has got.

use std::{borrow::Cow, sync::Arc, time::Duration};

use super::context::Reader;
use crate::guard::{
    court::{Argument, DENIED, Denial, Gated, Link, NEEDS_APPROVAL, Needs, Reading},
    report::{Report, Severity},
};
use crate::{approval::Answer, event::Verdict};

/// What waits before its statement comes: `Parse` and `Bind` of one segment, a `BEGIN` before them.
const MAX_KEPT: usize = 128 << 10;
/// A longer text, or a longer value, can't be shown to anybody.
const MAX_SHOWN: usize = 64 << 10;
/// `query_canceled`
const CANCELED: &str = "57014";

/// Of one session.
#[derive(Debug, Default)]
pub(super) struct Approvals {
    pub(super) stage: Stage,
    /// All that the client has sent from the first message on that waits.
    pub(super) held: Vec<u8>,
    /// Messages that wait for what follows them, and what of them runs something.
    pub(super) kept: Vec<u8>,
    pub(super) kept_readings: Vec<Arc<Reading>>,
    /// What is sent in the place of some of `kept`, by where those begin in it.
    pub(super) kept_reworded: Vec<(usize, Vec<u8>)>,
    /// What had been asked for a masked client before them.
    pub(super) kept_from: Option<u64>,
    /// What was decided about the statement that `held` begins with: for that alone, and for what it needed then.
    decision: Option<Box<Decided>>,
    /// Numbers the questions to the server.
    pub(super) n_asked: u64,
}

/// About what it was, for what that needed then, and what.
type Decided = (Subject, Arc<Needs>, Decision);

/// Of nearly all sessions there is none: it takes no room in them.
#[derive(Debug, Default)]
pub(super) enum Stage {
    #[default]
    Free,
    /// Until the server has answered what came before.
    Settling(Box<Waits>),
    /// The server is asked what it is bound to.
    Context(Box<Waits>, Box<Reader>),
    /// The service is asked.
    Asked(Box<Waits>),
}

/// A statement that needs an approval.
#[derive(Debug)]
pub(super) struct Waits {
    pub subject: Subject,
    pub needs: Arc<Needs>,
    /// What its client is told where nobody can be asked.
    pub denial: Denial,
    /// As far as its session can wait.
    pub verdict: Verdict,
    /// Parts of its segment are at the server, and no end of that.
    pub after_parts: bool,
    /// The client was told to wait for this one.
    pub id: Option<Arc<str>>,
    /// As the server says, where there is one.
    pub statement_timeout: Option<Duration>,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub text: String,
    pub types: Arc<[u32]>,
    pub values: Arc<[Argument]>,
}

#[derive(Debug)]
pub(super) enum Decision {
    Passes,
    Denied(Denial),
}

/// What becomes of a statement now.
#[derive(Debug)]
pub(super) enum Appeal {
    Passes,
    Denied(Denial),
    /// Nothing yet.
    Waits,
}

impl Subject {
    /// `None` where it can't be told, or is too long to be shown.
    pub(super) fn of(text: Option<&str>, types: &Arc<[u32]>, values: &[Argument]) -> Option<Self> {
        let text = text.filter(|text| text.len() <= MAX_SHOWN)?;
        let len = |value: &Argument| match value {
            Argument::Null => Some(0),
            Argument::Text(text) => Some(text.len()),
            Argument::Binary(bytes) => Some(bytes.len()),
            Argument::Unreadable => None,
        };
        let sum = values.iter().map(len).try_fold(0, |sum, len| Some(sum + len?))?;
        (sum <= MAX_SHOWN).then(|| Self {
            text: text.to_owned(),
            types: types.clone(),
            values: values.into(),
        })
    }

    /// Of a portal.
    pub(super) fn of_readings(readings: &[Arc<Reading>]) -> Option<Self> {
        match readings {
            [only] => Self::of(only.text.as_deref(), &only.types, only.values.as_deref()?),
            _ => None,
        }
    }
}

impl Approvals {
    /// The message that is kept next is sent so.
    pub(super) fn reword(&mut self, other: Option<Vec<u8>>) {
        self.kept_reworded.extend(other.map(|other| (self.kept.len(), other)));
    }

    pub(super) fn waits(&self) -> bool {
        !matches!(self.stage, Stage::Free)
    }

    /// What becomes of a statement that is denied, unless an approval lets it pass. `begins`: nothing that it hangs
    /// on is at the server already.
    pub(super) fn appeal(
        &mut self,
        denial: Denial,
        subject: Option<Subject>,
        begins: bool,
    ) -> Appeal {
        let Some(needs) = denial.needs.clone() else { return Appeal::Denied(denial) };
        match self.decision.take().map(|decided| *decided) {
            Some((of, then, decision))
                if subject.as_ref() == Some(&of)
                    && then.needs == needs.needs
                    && then.does == needs.does =>
            {
                return match decision {
                    Decision::Passes => Appeal::Passes,
                    Decision::Denied(denial) => Appeal::Denied(denial),
                };
            }
            // What was decided is about something else.
            Some(_) | None => {}
        }
        let Some(subject) = subject.filter(|_| begins) else { return Appeal::Denied(denial) };
        let verdict = needs.verdict;
        self.stage = Stage::Settling(Box::new(Waits {
            subject,
            needs,
            denial,
            verdict,
            after_parts: false,
            id: None,
            statement_timeout: None,
        }));
        Appeal::Waits
    }

    /// Parts of its segment, which only prepare, have been sent before it.
    pub(super) fn comes_after_parts(&mut self) {
        if let Stage::Settling(waits) = &mut self.stage {
            waits.after_parts = true;
        }
    }

    pub(super) fn decided(&mut self, of: Subject, needs: Arc<Needs>, decision: Decision) {
        self.stage = Stage::Free;
        self.decision = Some(Box::new((of, needs, decision)));
    }

    /// Whether the decision was of no use.
    pub(super) fn is_left_over(&mut self) -> bool {
        self.decision.take().is_some()
    }

    /// Whether so many bytes more may wait for what follows them.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.kept.len() + len <= MAX_KEPT
    }
}

impl Reading {
    /// It was judged to need an approval before.
    pub(super) fn is_gated(&self) -> bool {
        self.approval == Gated::Needed
    }

    /// It only opens a transaction: nothing is lost if that waits for the first statement in it.
    pub(super) fn only_begins(&self) -> bool {
        let whole = &self.analysed.whole;
        whole.analysis.is_complete() && &*whole.summary == "BEGIN"
    }
}

impl Waits {
    /// What the client gets that has a ticket now.
    pub(super) fn ticket(&self, answer: &Answer) -> Option<Denial> {
        let Answer::Ticket { id, who, until, besides } = answer else { return None };
        let besides = besides.as_ref().map(|besides| format!("; {besides}")).unwrap_or_default();
        Some(Denial {
            code: Cow::Borrowed(NEEDS_APPROVAL),
            message: format!("{} (approval {id})", self.denial.message).into(),
            detail: format!("approval {id} until {until}; {}{besides}", self.denial.detail).into(),
            hint: format!(
                "Ask {who} to run `dbwarden approvals approve {id}` on the server's host, then send \
                 the same statement again: it passes once."
            )
            .into(),
            approval: Some(self.link(id)),
            needs: None,
            ..self.denial.clone()
        })
    }

    /// What the client gets whose statement waits now.
    pub(super) fn notice(&self, answer: &Answer) -> Option<Vec<u8>> {
        let Answer::Wait { id, who, until, besides } = answer else { return None };
        let besides = besides.as_ref().map(|besides| format!("; {besides}")).unwrap_or_default();
        let message = format!("{} (waiting for approval {id})", self.denial.message);
        let detail = format!("approval {id} until {until}; {}{besides}", self.denial.detail);
        let hint = format!(
            "Ask {who} to run `dbwarden approvals approve {id}` on the server's host. To give up, cancel \
             the statement."
        );
        let report = Report {
            severity: Severity::Notice,
            code: NEEDS_APPROVAL,
            message: &message,
            detail: Some(&detail),
            hint: Some(&hint),
        };
        Some(report.encode())
    }

    /// What the client gets whose statement doesn't pass.
    pub(super) fn denied(&self, id: Option<&Arc<str>>, why: &str) -> Denial {
        let of = id.map(|id| format!("approval {id}: ")).unwrap_or_default();
        Denial {
            code: Cow::Borrowed(DENIED),
            detail: format!("{of}{why}; {}", self.denial.detail).into(),
            hint: Cow::Borrowed("Send it again to ask anew."),
            approval: id.map(|id| self.link(id)),
            needs: None,
            ..self.denial.clone()
        }
    }

    /// What the client gets that doesn't want to wait any more, in PostgreSQL's words.
    pub(super) fn canceled(&self, why: &'static str) -> Denial {
        let id = self.id.as_ref();
        let of = id.map(|id| format!(", which waited for approval {id}")).unwrap_or_default();
        Denial {
            code: Cow::Borrowed(CANCELED),
            message: format!("canceling statement due to {why}").into(),
            detail: format!(
                "The statement{of}, was not sent to the server; {}",
                self.denial.detail
            )
            .into(),
            hint: Cow::Borrowed("Send it again to ask anew."),
            approval: id.map(|id| self.link(id)),
            needs: None,
            ..self.denial.clone()
        }
    }

    fn link(&self, id: &Arc<str>) -> Link {
        Link { id: id.clone(), verdict: self.verdict }
    }
}

//! Why a statement is refused to a client from whom something is hidden, in words.

use std::{borrow::Cow, sync::Arc};

use super::{ground::Stray, views::Place};
use crate::{
    event::{Flow, Sink},
    guard::{
        court::{DENIED, Denial},
        masking::Masks,
    },
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::guard) enum Why {
    #[error("{column} flows into {}", sink.name())]
    Flows { column: Arc<str>, rule: Arc<str>, sink: Sink, place: Place, flow: Flow },
    #[error("{column} has a label that hangs on the definition that is changed")]
    Changes { column: Arc<str>, rule: Arc<str> },
    #[error("{0} is read by {1}")]
    ReadBy(Arc<str>, Arc<str>),
    #[error("{0} is no relation that dbwarden has seen")]
    NotSeen(Arc<str>),
    #[error("{0} is being defined anew")]
    Changing(Arc<str>),
    #[error("code that it calls may be being defined anew")]
    ChangingCode,
    #[error("{0} holds values of other tables")]
    Statistics(Arc<str>),
    #[error("it can't be told which of the columns that are copied is which")]
    Places,
    #[error("it is more than can be followed")]
    TooMuch,
    #[error("not all of it is understood")]
    Unreadable,
    #[error("it can't be told what it does")]
    Unknown,
    #[error("it reaches for files or programs of the server's host")]
    Files,
    #[error("it opens a stream of changes")]
    Replication,
    #[error("it reaches for another server")]
    OtherServer,
    #[error("{0}() runs text, or reads what only its arguments name")]
    Reader(Arc<str>),
    #[error("{0}: code that can't be looked into")]
    UnknownCode(Arc<str>),
    #[error("{0} defines something")]
    Defines(Arc<str>),
    #[error("{0}: nobody has seen it prepared")]
    NotPrepared(Arc<str>),
    #[error("the database can't be asked what it names")]
    Blind,
    #[error("the columns of this database are not known yet")]
    NoColumns,
    #[error("more columns have labels, or show what has some, than can be followed")]
    TooManyColumns,
    #[error("the process that reads statements does not answer")]
    Unanswered,
    #[error("more columns have inherited labels than are kept: `dbwarden labels list` shows them")]
    TooManyHeirs,
    #[error("no column that the rule speaks of is known here")]
    NothingHidden,
}

impl Why {
    /// It may be otherwise in a moment, by itself.
    pub(in crate::guard) fn may_pass(&self) -> bool {
        matches!(self, Self::Blind | Self::NoColumns | Self::Unanswered)
    }

    pub(super) fn of(stray: Stray, masks: &Masks) -> Self {
        let named = |place: Place| match masks.columns.get(&place) {
            Some(masked) => (masked.column.clone(), masked.rule.clone(), masked.flow),
            None => ("?".into(), "?".into(), Flow::Deny),
        };
        match stray {
            Stray::Flows(origin, sink) => {
                let place = (origin.relation, origin.place);
                let (column, rule, flow) = named(place);
                Self::Flows { column, rule, sink, place, flow }
            }
            Stray::Changes(origin) => {
                let (column, rule, _) = named((origin.relation, origin.place));
                Self::Changes { column, rule }
            }
            Stray::Unknown(name) => Self::NotSeen(name),
            Stray::Changing(name) => Self::Changing(name),
            Stray::Statistics(name) => Self::Statistics(name),
            Stray::Places => Self::Places,
            Stray::TooMuch => Self::TooMuch,
            Stray::Unreadable => Self::Unreadable,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Flows { flow: Flow::Null, .. } => {
                "It can't be NULL there: not in a whole row, what `*` stands for, USING or NATURAL, nor where something is \
                 written, locked or called for its effects. Name the columns one by one, or leave it out."
            }
            Self::Flows { .. } | Self::ReadBy(..) => {
                "Select it as a plain column, which shows its masked values, or leave it out."
            }
            Self::NotSeen(_) | Self::Changing(_) | Self::ChangingCode => {
                "Temporary relations, and what a transaction has defined that isn't committed, can't be followed: \
                 commit first, or read the table itself."
            }
            Self::Blind | Self::NoColumns | Self::Unanswered => {
                "dbwarden needs its catalog connection to know which columns are hidden; `dbwarden status` on the \
                 server's host says what is wrong. Try again later."
            }
            Self::TooManyHeirs => {
                "What it writes of labelled columns would be shown to those from whom they are hidden. \
                 `dbwarden labels forget` makes room."
            }
            Self::Places => "Name the columns one by one.",
            _ => {
                "Ask whoever keeps dbwarden's policies for an exception; `dbwarden policy explain` shows what it takes."
            }
        }
    }

    /// `rule`: one that hides something from the client.
    pub(in crate::guard) fn denial(&self, rule: &Arc<str>) -> Denial {
        let rule = match self {
            Self::Flows { rule, .. } | Self::Changes { rule, .. } => rule,
            _ => rule,
        };
        Denial {
            code: Cow::Borrowed(DENIED),
            rule: rule.clone(),
            message: match self {
                Self::TooManyHeirs => format!("dbwarden: {self}"),
                _ => {
                    format!("dbwarden: columns are hidden here, and this can't be followed: {self}")
                }
            }
            .into(),
            detail: format!("rule {rule}; {self}").into(),
            hint: Cow::Borrowed(self.hint()),
            approval: None,
            needs: None,
        }
    }
}

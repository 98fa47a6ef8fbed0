//! What a session has said before a text, as far as that changes what the text does.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{DiscardMode, TransactionStmtKind},
};
use serde::{Deserialize, Serialize};

use super::{
    Analysed,
    prepared::{Body, Preparations, Prepared},
};
use crate::{
    event::Facts,
    statement::{lexer::Lexing, pieces},
};

/// Nothing is known of it by default: names mean what PostgreSQL brings, nothing was prepared, no
/// transaction is open, and parameters are not looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    pub lexing: Lexing,
    /// A transaction may be open: `BEGIN` then changes that one.
    pub in_transaction: bool,
    /// `pg_catalog` is searched before all else. Where not, a name without a schema is anybody's.
    pub built_in_first: bool,
    /// What `EXECUTE` can run.
    pub prepared: Preparations,
    pub parameters: Parameters,
}

/// What a statement changes for those after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// A transaction is open.
    Begin,
    /// None is.
    End,
    Prepare(Prepared),
    Deallocate(Arc<str>),
    DeallocateAll,
}

/// Values for `$1` and so on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Parameters {
    /// They come later, and the text is judged again then; or nobody looks at them.
    #[default]
    Unseen,
    Bound(Vec<Parameter>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Parameter {
    Null,
    Text(Arc<str>),
    /// In a format that nobody reads here.
    Unreadable,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            lexing: Lexing::default(),
            in_transaction: false,
            built_in_first: true,
            prepared: Preparations::default(),
            parameters: Parameters::default(),
        }
    }
}

/// What is known of a value before it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Text(&'a str),
    /// A parameter that comes later.
    Later,
    Computed,
}

impl Said {
    pub(super) fn by(statement: &Node, facts: &Arc<Facts>, is_sensitive: bool) -> Option<Self> {
        Some(match statement.node.as_ref()? {
            NodeEnum::TransactionStmt(it) => match it.kind() {
                TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart => {
                    Self::Begin
                }
                TransactionStmtKind::TransStmtCommit | TransactionStmtKind::TransStmtRollback => {
                    if it.chain {
                        Self::Begin
                    } else {
                        Self::End
                    }
                }
                TransactionStmtKind::TransStmtPrepare => Self::End,
                _ => return None,
            },
            NodeEnum::PrepareStmt(it) => Self::Prepare(Prepared {
                name: it.name.as_str().into(),
                facts: facts.clone(),
                is_parameter_sensitive: is_sensitive,
                is_by_text: true,
                body: None,
            }),
            NodeEnum::DeallocateStmt(it) if it.name.is_empty() => Self::DeallocateAll,
            NodeEnum::DeallocateStmt(it) => Self::Deallocate(it.name.as_str().into()),
            NodeEnum::DiscardStmt(it) if it.target() == DiscardMode::DiscardAll => {
                Self::DeallocateAll
            }
            _ => return None,
        })
    }
}

impl Session {
    /// A text was let through: what it changes for those after it. It may have failed, and changed nothing:
    /// whoever knows better of the transaction says so in `in_transaction`, and of prepared statements by
    /// settling them.
    pub fn hear(&mut self, analysed: &Analysed, text: &str) {
        let n = analysed.says.iter().filter(|said| matches!(said, Said::Prepare(_))).count();
        let mut bodies = match n {
            0 => Vec::new(),
            _ => pieces::preparations(text, self.lexing),
        };
        // Each says which of them it is by its place alone.
        if bodies.len() != n {
            bodies.clear();
        }
        let mut bodies = bodies.iter();
        for said in &analysed.says {
            match said {
                Said::Prepare(prepared) => {
                    let body = bodies.next().map(|it| Body::new(it.types, it.statement));
                    self.prepared.push(Prepared { body, ..prepared.clone() });
                }
                _ => self.follow(said),
            }
        }
    }

    pub(super) fn follow(&mut self, said: &Said) {
        match said {
            Said::Begin => self.in_transaction = true,
            Said::End => self.in_transaction = false,
            Said::Prepare(_) | Said::Deallocate(_) | Said::DeallocateAll => {
                self.prepared.follow(said);
            }
        }
    }

    pub(super) fn parameter(&self, number: i32) -> Value<'_> {
        let Parameters::Bound(values) = &self.parameters else { return Value::Later };
        let nth = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        match nth.and_then(|nth| values.get(nth)) {
            Some(Parameter::Null) => Value::Null,
            Some(Parameter::Text(text)) => Value::Text(text),
            Some(Parameter::Unreadable) | None => Value::Computed,
        }
    }
}

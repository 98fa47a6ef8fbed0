//! What a session must know of those who judge: a text becomes a reading, a reading is let pass or denied.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    masking::{Copied, CopyColumn, Hiding, Masked, Masks, TextPrint},
    report::{Report, Severity},
};
use crate::{
    approval::{Context, Need, Over, Who},
    event::{Claims, CopyForm, Facts, RequestSum, Verdict},
    protocol::postgres::FIRST_OWN_OID,
    statement::{Analysed, Parameter},
};

/// Judges what one client wants to do.
pub trait Court {
    /// What a text does. `None`: nobody can tell how the server will read it.
    fn read(&mut self, text: Option<&str>, state: Moment) -> Arc<Reading>;

    /// The same at a later moment, and with the parameters that have come meanwhile.
    fn read_again(
        &mut self,
        reading: &Arc<Reading>,
        values: Option<Vec<Argument>>,
        state: Moment,
    ) -> Arc<Reading>;

    /// A call by object identifier, where that has come.
    fn read_call(&mut self, oid: Option<u32>, values: Vec<Argument>, state: Moment)
    -> Arc<Reading>;

    /// Whether it may go to the server. Whoever has no permit can't send it.
    fn judge(&mut self, reading: &Reading) -> Result<Permit, Denial>;

    /// What might go to the server in the place of what was denied last: judged like anything else.
    fn instead(&mut self, _reading: &Arc<Reading>, _state: Moment) -> Option<Arc<Reading>> {
        None
    }

    /// What is hidden from the client in the answers to what was judged last; `None` where nothing is.
    fn masks(&mut self) -> Option<Arc<Masks>> {
        None
    }

    /// All that was sent is answered, and no transaction is open: what it has defined is there for everybody.
    fn settled(&mut self) {}

    /// It goes to the server: what it says holds for what comes after it.
    fn sent(&mut self, reading: &Reading);

    /// The server has been asked to prepare it under this name.
    fn prepared(&mut self, name: &str, reading: &Reading);

    /// By this name there may be a statement that the client has prepared by a text, and of which nobody could judge
    /// what hangs on its values.
    fn may_hang_on_values(&self, _name: &str) -> bool {
        false
    }

    /// All that was sent is answered, and nothing of it failed if it `went_well`.
    fn answered(&mut self, _went_well: bool) {}

    /// A statement is denied; `token` stands for it at the server.
    fn denied(&mut self, token: &str, denial: &Denial, text: Option<&str>);

    /// What the server is asked in a stretch of the stream, which is over.
    fn summed(&mut self, sum: RequestSum);

    /// What it is asked in the stretch under way, when it gets so many bytes in all.
    fn summed_so_far(&mut self, bytes: u64, sum: RequestSum);

    /// The server has let the client in.
    fn authenticated(&mut self, method: &'static str);

    /// The client calls itself so from now on.
    fn renamed(&mut self, application: &str);

    /// Whether some statements need an approval.
    fn asks(&self) -> bool {
        false
    }

    /// Whether people let it pass: the answer comes later.
    fn ask(&mut self, _question: Question) {}

    /// It doesn't wait for the answer any more.
    fn gives_up(&mut self, _why: Over) {}
    /// What masks are made with.
    fn hiding(&self) -> Arc<Hiding>;

    /// The client is masked from now on; told before anything is sent for it.
    fn veiled(&mut self) {}

    /// In an answer to this text these are masked, each as `schema.table.column:mask`; or none is.
    fn masked(&mut self, _text: TextPrint, _columns: &[Arc<str>]) {}
}

/// What is known of a session at the moment at which a text is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// `None` where it may be either.
    pub conforming_strings: Option<bool>,
    /// A transaction may be open.
    pub in_transaction: bool,
}

/// A value that a client gives with a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Null,
    Text(Arc<str>),
    Binary(Box<[u8]>),
    /// It was not kept, or no text can be made of it.
    Unreadable,
}

impl Argument {
    /// As far as it is looked at.
    pub(super) fn parameter(&self) -> Parameter {
        match self {
            Self::Null => Parameter::Null,
            Self::Text(text) => Parameter::Text(text.clone()),
            Self::Binary(_) | Self::Unreadable => Parameter::Unreadable,
        }
    }
}

/// A text with all that is known of it.
#[derive(Clone, Debug)]
pub struct Reading {
    pub text: Option<String>,
    /// Statement by statement, and what they say for those after them.
    pub analysed: Arc<Analysed>,
    pub claims: Option<Arc<Claims>>,
    /// Numbers of the types that the client gives its parameters.
    pub types: Arc<[u32]>,
    /// Of parameters, once they have come, where they make a difference.
    pub values: Option<Arc<[Argument]>>,
    pub approval: Gated,
    /// The client has said something else.
    pub nulled: Option<Arc<Nulled>>,
}

/// What a client has said, where the server gets the same with NULL for some columns.
#[derive(Clone, Debug)]
pub struct Nulled {
    pub said: Arc<Reading>,
    /// As records have them.
    pub columns: Arc<[Arc<str>]>,
}

/// How a text stands to approvals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gated {
    #[default]
    No,
    /// It was judged to need one when it was prepared or bound: its values are kept.
    Needed,
    /// It has begun to run with one.
    Given,
}

/// The memory of a longer text is not used again.
const SPARE_TEXT: usize = 4 << 10;

impl Reading {
    /// In the memory of the `last` one, where nobody has kept that: most texts are let pass, and forgotten.
    pub(super) fn anew(
        last: &mut Arc<Self>,
        text: &str,
        analysed: Arc<Analysed>,
        claims: Option<Arc<Claims>>,
    ) -> Arc<Self> {
        match Arc::get_mut(last) {
            Some(Self {
                text: Some(kept),
                analysed: is,
                claims: claimed,
                types,
                values,
                approval,
                nulled,
            }) if kept.capacity() <= SPARE_TEXT => {
                kept.clear();
                kept.push_str(text);
                (*is, *claimed, *values) = (analysed, claims, None);
                *approval = Gated::No;
                *nulled = None;
                if !types.is_empty() {
                    *types = Arc::default();
                }
            }
            _ => *last = Arc::new(Self::of(Some(text.to_owned()), analysed, claims)),
        }
        last.clone()
    }

    /// Without parameters.
    pub(super) fn of(
        text: Option<String>,
        analysed: Arc<Analysed>,
        claims: Option<Arc<Claims>>,
    ) -> Self {
        let types = Arc::default();
        let approval = Gated::No;
        Self { text, analysed, claims, types, values: None, approval, nulled: None }
    }

    /// How the one COPY writes that it is.
    pub(super) fn copy_form(&self) -> Option<&CopyForm> {
        match self.analysed.statements.as_slice() {
            [only] => only.copy.as_deref(),
            _ => None,
        }
    }

    /// Rows are changed or removed by a condition: how many may hang on its parameters.
    pub(super) fn is_estimable(&self) -> bool {
        self.analysed.whole.restricted.is_some()
    }

    /// Its parameters are of types of somebody's own, as its client says: those may run code.
    pub(super) fn takes_own_types(&self) -> bool {
        self.types.iter().any(|oid| *oid >= FIRST_OWN_OID)
    }

    /// What goes to the server, where that is not what the client has said.
    pub(super) fn reworded(&self) -> Option<&str> {
        self.nulled.as_ref().and(self.text.as_deref())
    }

    /// What the client has said.
    pub(super) fn said(&self) -> Option<&str> {
        self.nulled.as_ref().map_or(self, |nulled| &nulled.said).text.as_deref()
    }

    pub(super) fn weight(&self) -> usize {
        let values = self.values.iter().flat_map(|values| values.iter());
        let values = values.map(|value| match value {
            Argument::Text(text) => text.len() + size_of::<Argument>(),
            Argument::Binary(bytes) => bytes.len() + size_of::<Argument>(),
            Argument::Null | Argument::Unreadable => size_of::<Argument>(),
        });
        let said = self.nulled.as_ref().map_or(0, |nulled| nulled.said.weight());
        self.text.as_ref().map_or(0, String::capacity)
            + values.sum::<usize>()
            + self.types.len() * 4
            + said
            + 256
    }
}

/// Shows that somebody has judged.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    pub(super) copy: Copied,
    judged: (),
}

impl Permit {
    pub(super) fn given() -> Self {
        Self::copying(None)
    }

    pub(super) fn copying(copy: Copied) -> Self {
        Self { copy, judged: () }
    }
}

/// Why a statement doesn't go to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// SQLSTATE.
    pub code: Cow<'static, str>,
    pub rule: Arc<str>,
    pub message: Arc<str>,
    pub detail: Arc<str>,
    pub hint: Cow<'static, str>,
    /// The approval that was asked for.
    #[serde(default)]
    pub approval: Option<Link>,
    /// With an approval it would pass.
    #[serde(skip)]
    pub needs: Option<Arc<Needs>>,
}

/// Which approval a statement has needed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub id: Arc<str>,
    /// `hold` or `ticket`.
    pub verdict: Verdict,
}

/// What it takes to let a statement pass that is denied for now.
#[derive(Debug, PartialEq, Eq)]
pub struct Needs {
    /// What its rules want: `hold` or `ticket`.
    pub verdict: Verdict,
    /// The worst first.
    pub needs: Vec<Need>,
    pub facts: Arc<Facts>,
    /// What is behind it, in words.
    pub behind: Vec<String>,
    /// Relations and functions that it names.
    pub tables: Vec<Arc<str>>,
    pub functions: Vec<Arc<str>>,
    /// It hangs on what the session has prepared or declared.
    pub is_session_sensitive: bool,
    /// A hash of all that it does.
    pub does: String,
    pub estimated_rows: Option<u64>,
    pub estimated_percent: Option<u8>,
    pub who: Who,
    pub principal_rule: Option<String>,
    /// Version of the policies.
    pub policy: Arc<str>,
    /// The text without secrets.
    pub shown: String,
    /// As [`Permit`] has it.
    pub copy: Copied,
}

/// A statement with all that an approval is bound to.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    pub needs: Arc<Needs>,
    /// As far as its session can wait.
    pub verdict: Verdict,
    pub text: String,
    pub types: Arc<[u32]>,
    pub values: Arc<[Argument]>,
    pub context: Context,
    /// The approval that it has waited for.
    pub waits_for: Option<Arc<str>>,
}

/// `insufficient_privilege`
pub const DENIED: &str = "42501";
/// Of a class of dbwarden's own: an approval would let the statement pass.
pub const NEEDS_APPROVAL: &str = "WA001";
/// `configuration_limit_exceeded`
const TOO_MUCH: &str = "53400";
/// `io_error`
const UNRECORDED: &str = "58030";

impl Denial {
    /// The guard can't follow what the client wants.
    pub(super) fn limit(message: &str, hint: &'static str) -> Self {
        Self {
            code: Cow::Borrowed(TOO_MUCH),
            rule: "guard:limit".into(),
            message: message.into(),
            detail: "rule guard:limit".into(),
            hint: Cow::Borrowed(hint),
            approval: None,
            needs: None,
        }
    }

    /// Values for what a text has prepared, whose types and place nobody here knows.
    pub(super) fn blind() -> Self {
        Self {
            code: Cow::Borrowed(DENIED),
            message: "dbwarden: what PREPARE has made, and hangs on its values, takes none from the protocol".into(),
            ..Self::limit("", "Run it by EXECUTE, or let the driver prepare it.")
        }
    }

    /// A COPY in which nobody can tell where a masked value stands.
    pub(super) fn unmaskable(columns: &[Option<CopyColumn>]) -> Self {
        let masked: Vec<&Masked> = columns.iter().flatten().map(|column| &column.masked).collect();
        let names: Vec<&str> = masked.iter().map(|masked| &*masked.column).collect();
        let rule =
            masked.first().map_or_else(|| "guard:masking".into(), |first| first.rule.clone());
        Self {
            code: Cow::Borrowed(DENIED),
            message: "dbwarden: values can't be masked in a COPY that is written so".into(),
            detail: format!("rule {rule}; masked: {}", names.join(", ")).into(),
            rule,
            hint: Cow::Borrowed(
                "Without ENCODING, as the only statement, in text, CSV or binary it passes.",
            ),
            approval: None,
            needs: None,
        }
    }

    /// Nobody could find later what it was.
    pub(super) fn unrecorded(why: &str) -> Self {
        Self {
            code: Cow::Borrowed(UNRECORDED),
            rule: "guard:ledger".into(),
            message:
                "dbwarden: what is said here can't be recorded at the moment, so nothing passes"
                    .into(),
            detail: format!("rule guard:ledger; the ledger: {why}").into(),
            hint: Cow::Borrowed(
                "Try again later. On the server's host, `dbwarden status` shows what is wrong.",
            ),
            approval: None,
            needs: None,
        }
    }

    /// As the client is told.
    pub(super) fn encode(&self, severity: Severity) -> Vec<u8> {
        Report {
            severity,
            code: &self.code,
            message: &self.message,
            detail: Some(&self.detail),
            hint: Some(&self.hint),
        }
        .encode()
    }
}

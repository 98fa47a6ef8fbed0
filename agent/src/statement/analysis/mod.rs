//! What a text does, by PostgreSQL's own grammar.

mod behind;
mod calls;
mod carriers;
mod copy_form;
mod definitions;
mod depth;
mod findings;
mod functions;
mod grammar;
mod names;
mod objects;
mod parts;
mod prepared;
mod query;
mod reach;
mod restrict;
mod sameness;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod uses;
mod utility;
mod walk;

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    fingerprint::fingerprint,
    lexer::{Lexer, Lexing},
    reading::redact_ambiguous,
    redact::redact,
    template::Template,
};
use crate::event::{Analysis, Effect, Effects, Facts};
pub use behind::analyse_behind;
pub use functions::only_computes;
pub use grammar::{MAX_TEXT_BYTES, STACK_BYTES};
pub use names::qualified;
pub use prepared::{Body, Preparations, Prepared};
pub use session::{Parameter, Parameters, Said, Session};
pub use settings::startup;
pub use uses::uses;
use walk::Walk;

/// The facts of a text, statement by statement and together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysed {
    /// In the order of the text; literals are counted through the whole of it.
    pub statements: Vec<Arc<Facts>>,
    /// All that they do and touch, and the worst of what isn't known.
    pub whole: Arc<Facts>,
    /// Whether other literals could mean other facts. Where not, the facts hold for each text of the
    /// same template.
    pub is_literal_sensitive: bool,
    /// Whether values of parameters could mean other facts than those that are unseen.
    pub is_parameter_sensitive: bool,
    /// Whether another [`Session`] could, beyond its lexing and what is searched first.
    pub is_session_sensitive: bool,
    /// What it changes for the texts after it.
    pub says: Vec<Said>,
}

impl Analysed {
    /// Facts for a text that isn't parsed: what the lexer alone can tell, and that all else is unknown.
    pub fn unparsed(text: &str, lexing: Lexing, reason: Analysis) -> Self {
        let verb = leading_keyword(text, lexing);
        let redacted = redact(text, lexing);
        let mut facts = unknown_facts(redacted, fingerprint(text, lexing), verb, reason);
        // No SQL, but PostgreSQL's language for replication, which the grammar at hand doesn't have.
        if verb.is_some_and(|verb| REPLICATION.contains(&verb)) && reason == Analysis::SyntaxError {
            facts.effects = Effects::from_iter([Effect::Replicate]);
            facts.analysis = Analysis::Complete;
        }
        Self::only(facts)
    }

    /// Facts for a text of which it isn't known how the server has read it.
    pub fn ambiguous(text: &str) -> Self {
        let redacted = redact_ambiguous(text);
        let lexing = Lexing::default();
        // Of nothing that might be a literal.
        let fingerprint = fingerprint(&redacted, lexing);
        let verb = leading_keyword(&redacted, lexing);
        Self::only(unknown_facts(redacted, fingerprint, verb, Analysis::AmbiguousText))
    }

    fn only(facts: Facts) -> Self {
        Self { is_literal_sensitive: true, ..Self::of(Arc::new(facts)) }
    }

    /// Facts that come from elsewhere than from a text.
    pub fn of(whole: Arc<Facts>) -> Self {
        Self {
            statements: vec![whole.clone()],
            whole,
            is_literal_sensitive: false,
            is_parameter_sensitive: false,
            is_session_sensitive: false,
            says: Vec::new(),
        }
    }
}

fn unknown_facts(redacted: String, fingerprint: u64, verb: Option<&str>, why: Analysis) -> Facts {
    Facts {
        text: redacted.into(),
        fingerprint,
        summary: verb.unwrap_or_default().into(),
        effects: Effects::from_iter([Effect::Unknown]),
        ..Facts::nothing(why)
    }
}

/// Words that may open a text and are shown as its summary. Others may be anything, a secret too.
const KEYWORDS: &[&str] = &[
    "ALTER", "ANALYZE", "BEGIN", "CALL", "COMMENT", "COMMIT", "COPY", "CREATE", "DECLARE",
    "DELETE", "DO", "DROP", "EXECUTE", "EXPLAIN", "GRANT", "INSERT", "LOCK", "MERGE", "PREPARE",
    "REVOKE", "ROLLBACK", "SELECT", "SET", "SHOW", "TRUNCATE", "UPDATE", "VACUUM", "VALUES",
    "WITH",
];

const REPLICATION: &[&str] = &[
    "ALTER_REPLICATION_SLOT",
    "BASE_BACKUP",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "IDENTIFY_SYSTEM",
    "READ_REPLICATION_SLOT",
    "START_REPLICATION",
    "TIMELINE_HISTORY",
    "UPLOAD_MANIFEST",
];

fn leading_keyword(text: &str, lexing: Lexing) -> Option<&'static str> {
    let first = Lexer::new(text, lexing).find(|token| token.is_significant())?;
    let known = KEYWORDS.iter().chain(REPLICATION);
    known.copied().find(|word| first.is_word(text, word))
}

/// Judges each statement of `text`.
///
/// Never fails and never panics; wants [`STACK_BYTES`] of stack.
pub fn analyse(text: &str, lexing: Lexing) -> Analysed {
    analyse_in(text, &Session { lexing, ..Session::default() })
}

/// The same where more is known of the session; what a text says itself holds for the rest of it.
pub fn analyse_in(text: &str, session: &Session) -> Analysed {
    let lexing = session.lexing;
    let tree = match grammar::parse(text, lexing) {
        Ok(tree) => tree,
        Err(reason) => return Analysed::unparsed(text, lexing, reason),
    };
    let mut template = Template::default();
    template.fill(text, lexing);
    let mut session = Cow::Borrowed(session);
    let mut says = Vec::new();
    let mut is_literal_sensitive = false;
    let mut is_parameter_sensitive = false;
    let mut is_session_sensitive = false;
    let mut statements = Vec::with_capacity(tree.stmts.len());
    for raw in &tree.stmts {
        let mut walk = Walk::new(&template, &session);
        if let Some(statement) = raw.stmt.as_deref() {
            walk.statement(statement);
        }
        is_literal_sensitive |= walk.findings.is_literal_sensitive;
        is_parameter_sensitive |= walk.findings.is_parameter_sensitive;
        is_session_sensitive |= walk.findings.is_session_sensitive;
        let is_sensitive = walk.findings.is_parameter_sensitive;
        let own = own_text(text, raw.stmt_location, raw.stmt_len);
        let facts = Arc::new(own_facts(walk.findings, own, lexing));
        if let Some(said) = raw.stmt.as_deref().and_then(|it| Said::by(it, &facts, is_sensitive)) {
            if tree.stmts.len() > 1 {
                session.to_mut().follow(&said);
            }
            says.push(said);
        }
        statements.push(facts);
    }
    let whole = match statements.as_slice() {
        [only] => only.clone(),
        several => {
            Arc::new(findings::merge(several, redact(text, lexing), fingerprint(text, lexing)))
        }
    };
    Analysed {
        statements,
        whole,
        is_literal_sensitive,
        is_parameter_sensitive,
        is_session_sensitive,
        says,
    }
}

fn own_facts(findings: findings::Findings, own: &str, lexing: Lexing) -> Facts {
    findings.into_facts(redact(own, lexing), fingerprint(own, lexing))
}

/// A statement's part of the text; no length means up to the end.
fn own_text(text: &str, location: i32, len: i32) -> &str {
    let start = usize::try_from(location).unwrap_or_default();
    let rest = text.get(start..).unwrap_or(text);
    match usize::try_from(len) {
        Ok(len) if len > 0 => rest.get(..len).unwrap_or(rest),
        _ => rest,
    }
}

//! The same text with NULL where it means a column: then whatever it does with that tells of no value.
//!
//! What is made here is judged like any text of the client's before it goes on: what is overlooked here is denied there.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{
    Client, Labelled,
    follow::Follow,
    ground::Ground,
    scope::{Origin, Origins},
    types,
    views::Place,
};
use crate::{
    event::{Effect, Facts, Form, Spot, Uses},
    guard::{
        behind::Ran,
        catalog::Snapshot,
        masking::{Masks, NULLED},
    },
    statement::{Lexer, Lexing, LiteralKind, Token, TokenKind},
};

/// Which references may mean a column.
pub(super) struct Trace {
    wanted: Place,
    /// By the token that each begins with; `true` where it is the relation's own column.
    found: BTreeMap<Spot, bool>,
}

impl Trace {
    pub(super) fn take(&mut self, spot: Spot, from: &Origins, own: &Origins) {
        let wanted = Origin { relation: self.wanted.0, place: self.wanted.1, is_derived: false };
        if from.contains(&wanted) {
            *self.found.entry(spot).or_default() |= own.contains(&wanted);
        }
    }
}

/// Whether a statement does nothing, with all that it runs, but to show something: where a column is NULL, nothing is
/// written otherwise than was said.
pub(in crate::guard) fn only_shows(uses: &Uses, all: &Facts, ran: &Ran) -> bool {
    use Effect::{Call, CopyOut, Read, Session};
    let does_only = |facts: &Facts, these: &[Effect]| {
        Effect::ALL.iter().all(|effect| these.contains(effect) || !facts.effects.contains(*effect))
    };
    // What is prepared, and a cursor, is the session's.
    uses.only_reads
        && does_only(all, &[Read, CopyOut, Session, Call])
        && ran.facts.iter().all(|(facts, _)| does_only(facts, &[Read, Call]))
}

/// Whatever a statement does with columns, it is walked through to its end.
struct Leniently<'a>(Client<'a>);

impl Ground for Leniently<'_> {
    fn snapshot(&self) -> &Snapshot {
        self.0.snapshot()
    }

    fn matters(&self, relation: u32, place: i16) -> bool {
        self.0.matters(relation, place)
    }

    fn is_lenient(&self) -> bool {
        true
    }

    fn is_changing(&self, _: Option<u32>, _: &str) -> bool {
        false
    }
}

impl Labelled {
    /// The text with NULL in the place of whatever may mean this column; `uses`: of those of its statements in which
    /// that makes no difference but to what they show.
    pub(in crate::guard) fn without(
        &self,
        place: Place,
        text: &str,
        lexing: Lexing,
        uses: &[&Uses],
        masks: &Arc<Masks>,
    ) -> Option<String> {
        let kind = types::name(self.snapshot.column(place.0, place.1)?.kind)?;
        let changing = HashSet::new();
        let client = Client { snapshot: &self.snapshot, masks, changing: &changing };
        let ground = Leniently(client);
        let mut trace = Trace { wanted: place, found: BTreeMap::new() };
        for uses in uses {
            // Where it ends early, what comes after that is denied.
            let _ = Follow::tracing(&ground, uses, &mut trace).statement();
        }
        // Where the column itself is NULL, so is what is made of it under other names.
        let is_any_own = trace.found.values().any(|is_own| *is_own);
        let spots = trace.found.iter().filter(|(_, is_own)| **is_own || !is_any_own);
        nulled(text, lexing, spots.map(|(spot, _)| *spot), kind)
    }
}

/// `None` where nothing is to be replaced, or something else stands there than was to be expected.
fn nulled(
    text: &str,
    lexing: Lexing,
    spots: impl Iterator<Item = Spot>,
    kind: &str,
) -> Option<String> {
    let tokens = Lexer::new(text, lexing).filter(|token| token.is_significant());
    let tokens: Vec<Token> = tokens.collect();
    // What stands before it may be a claim, or a hint, which counts where it stands first.
    let mut kept = tokens.first()?.start;
    let mut other = text.get(..kept)?.to_owned();
    if !text.contains(NULLED) {
        other.push_str(NULLED);
    }
    let mut is_other = false;
    for spot in spots {
        let first = usize::try_from(spot.token).ok()?;
        let last = match spot.form {
            Form::Place => {
                let token = tokens.get(first)?;
                let is_number = token.kind == TokenKind::Literal(LiteralKind::Integer);
                is_number.then_some(token)?
            }
            Form::Value | Form::Result | Form::Namesake => {
                name(text, tokens.get(first..)?, usize::from(spot.parts))?
            }
        };
        other.push_str(text.get(kept..tokens.get(first)?.start)?);
        let name = last.text(text);
        match spot.form {
            Form::Value | Form::Place => other.push_str(&format!("(NULL::{kind})")),
            Form::Result => other.push_str(&format!("(NULL::{kind}) AS {name}")),
            // It gives its name on, as a column does.
            Form::Namesake => other.push_str(&format!("(SELECT NULL::{kind} AS {name})")),
        }
        kept = last.end;
        is_other = true;
    }
    other.push_str(text.get(kept..)?);
    is_other.then_some(other)
}

/// The last of so many names with dots between them, and no more.
fn name<'t>(text: &str, tokens: &'t [Token], parts: usize) -> Option<&'t Token> {
    let len = (2 * parts).checked_sub(1)?;
    let (own, after) = tokens.split_at_checked(len)?;
    let is_fitting = own.iter().enumerate().all(|(n, token)| match n % 2 {
        0 => matches!(token.kind, TokenKind::Word | TokenKind::QuotedName),
        _ => token.is_sign(text, "."),
    });
    let goes_on =
        after.first().is_some_and(|next| next.is_sign(text, ".") || next.is_word(text, "UESCAPE"));
    own.last().filter(|_| is_fitting && !goes_on)
}

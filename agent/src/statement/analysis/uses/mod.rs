//! Where the columns go that a statement names: its queries, the names in them, and what becomes of their rows.
//!
//! Knows no catalog: `guard/lineage` looks up the names. A walk of its own beside the one for facts, and exhaustive
//! likewise: what it doesn't know makes the uses not whole.

mod expression;
mod query;
mod source;
mod statements;
#[cfg(test)]
mod tests;

use std::{rc::Rc, sync::Arc};

use pg_query::{Node, NodeEnum, protobuf::ColumnRef};

use super::{
    functions::{self, Known},
    grammar,
    names::strings,
};
use crate::{
    event::{Effect, Form, Query, Reference, Spot, Uses},
    statement::lexer::{Lexer, Lexing},
};

/// Deeper trees are not looked into.
const MAX_DEPTH: usize = 300;
/// Of one statement, as of each list that grows with it.
const MAX_QUERIES: usize = 1_000;
const MAX_REFERENCES: usize = 20_000;

/// The uses of each statement of `text`; of one that can't be read, that of an unknown one.
///
/// Never fails and never panics; wants [`super::STACK_BYTES`] of stack.
pub fn uses(text: &str, lexing: Lexing) -> Vec<Uses> {
    let Ok(tree) = grammar::parse(text, lexing) else { return vec![Uses::unknown()] };
    let tokens = Lexer::new(text, lexing).filter(|token| token.is_significant());
    let tokens: Rc<[usize]> = tokens.map(|token| token.start).collect();
    let each = tree.stmts.iter().map(|raw| match raw.stmt.as_deref() {
        Some(statement) => of_statement(statement, tokens.clone()),
        None => Uses::unknown(),
    });
    each.collect()
}

fn of_statement(statement: &Node, tokens: Rc<[usize]>) -> Uses {
    let mut gathering = Gathering { tokens, ..Gathering::default() };
    gathering.statement(statement);
    let only_reads = statements::only_reads(statement) && !gathering.writes;
    Uses { only_reads, ..gathering.uses }
}

#[derive(Default)]
struct Gathering {
    uses: Uses,
    /// Common table expressions that can be named here, the nearest last, with their queries.
    ctes: Vec<(String, usize)>,
    depth: usize,
    n_references: usize,
    /// Where the tokens of the text begin that say something.
    tokens: Rc<[usize]>,
    /// Some query in it does more than to read.
    writes: bool,
}

impl Gathering {
    /// Something isn't understood.
    fn lose(&mut self) {
        self.uses.is_whole = false;
    }

    /// One level down, unless that is too deep.
    fn deeper(&mut self, walk: impl FnOnce(&mut Self)) {
        if self.depth >= MAX_DEPTH {
            return self.lose();
        }
        self.depth += 1;
        walk(self);
        self.depth -= 1;
    }

    /// The place of a query that is yet to be gathered.
    fn reserve(&mut self) -> usize {
        if self.uses.queries.len() >= MAX_QUERIES {
            // It stands for another one; nobody looks at either.
            self.lose();
            return 0;
        }
        self.uses.queries.push(Query::default());
        self.uses.queries.len() - 1
    }

    fn put(&mut self, place: usize, query: Query) {
        if let Some(reserved) = self.uses.queries.get_mut(place) {
            *reserved = query;
        }
    }

    fn reference(&mut self, reference: &ColumnRef) -> Reference {
        self.n_references += 1;
        if self.n_references > MAX_REFERENCES {
            self.lose();
        }
        let names = strings(&reference.fields);
        let is_star = names.len() < reference.fields.len();
        let (column, of) = match (is_star, names.as_slice()) {
            (true, of) => (None, of.last()),
            (false, [.., of, column]) => (Some(column), Some(of)),
            (false, [column]) => (Some(column), None),
            (false, []) => {
                self.lose();
                (None, None)
            }
        };
        let shared = |name: &&str| Arc::from(*name);
        let spot = self.spot(reference.location, names.len(), Form::Value);
        let spot = spot.filter(|_| !is_star);
        Reference { of: of.map(shared), column: column.map(shared), spot }
    }

    /// Of functions that somebody has made, only their definitions tell what they do.
    fn calls(&mut self, name: &[&str]) {
        let known = match name {
            [schema, name] => functions::known(Some(schema), name),
            [name] => functions::known(None, name),
            _ => Known::Unknown,
        };
        self.writes |= match known {
            Known::Harmless | Known::Opaque => false,
            Known::Does(effects) => effects.iter().any(|effect| *effect != Effect::Read),
            _ => true,
        };
    }

    /// What begins at this byte of the text.
    fn spot(&self, location: i32, parts: usize, form: Form) -> Option<Spot> {
        let location = usize::try_from(location).ok()?;
        let token = self.tokens.binary_search(&location).ok()?;
        Some(Spot { token: u32::try_from(token).ok()?, parts: u16::try_from(parts).ok()?, form })
    }
}

/// The strings of a list, as names.
fn listed(nodes: &[Node]) -> Vec<Arc<str>> {
    strings(nodes).into_iter().map(Arc::from).collect()
}

fn column_ref(node: &Node) -> Option<&ColumnRef> {
    match &node.node {
        Some(NodeEnum::ColumnRef(reference)) => Some(reference),
        _ => None,
    }
}

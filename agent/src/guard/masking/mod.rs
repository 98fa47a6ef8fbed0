//! Which columns are hidden from a client, by the numbers that a server gives with its answers.
//!
//! A statement is let through only if each hidden column that it touches reaches the client as itself, or not at all;
//! so whatever an answer calls its origin says all that there is to know of a value.
//!
//! | room | what |
//! |---|---|
//! | [`cover`] | a mask made ready for the values of one column |
//! | [`kind`] | the types whose values can be masked into others of the same type |
//! | [`value`] | a value read from either format, and written again |
//! | [`decimal`], [`moment`], [`words`] | numbers, times and texts that stand in the place of others |
//! | [`pseudonym`] | what is the same for the same value, under this host's key |
//! | [`detect`] | what texts hold that no label says |
//! | [`told`] | how a text is named where it is told what was masked in its answer |

mod cover;
mod decimal;
mod detect;
mod kind;
mod moment;
mod pseudonym;
mod told;
mod value;
mod words;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    event::{Flow, Mask},
    protocol::postgres::FIRST_OWN_OID,
};

pub use cover::{Cover, Form};
pub use detect::{Detectors, Watch};
pub use pseudonym::Pseudonyms;
pub use told::{NULLED, TextPrint};

/// What is hidden from one client in one database, as that was seen once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// By relation and place of the column in it (`pg_attribute.attnum`).
    pub columns: HashMap<(u32, i16), Masked>,
    /// Relations that were there then, views included.
    pub relations: HashSet<u32>,
}

/// A column of which nobody gets to see the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    pub mask: Mask,
    pub rule: Arc<str>,
    /// `schema.table.column`, as it is recorded.
    pub column: Arc<str>,
    /// What becomes of a statement in which it goes into something else.
    pub flow: Flow,
}

impl Masked {
    /// As records have it.
    pub fn tag(&self) -> Arc<str> {
        format!("{}:{}", self.column, self.mask.name()).into()
    }

    /// Likewise, where it was NULL for all of a statement.
    pub fn flow_tag(&self) -> Arc<str> {
        format!("{}:null-flow", self.column).into()
    }
}

/// What masks are made with.
#[derive(Debug, Default)]
pub struct Hiding {
    pub pseudonyms: Pseudonyms,
    pub detectors: Detectors,
}

/// What becomes of the values that come from a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment<'a> {
    Passes,
    Masked(&'a Masked),
    /// Of a relation that nobody has seen: NULL.
    Unknown,
}

impl Masks {
    /// As a `RowDescription` tells the origin of a column: two zeros where it has none.
    pub fn of_column(&self, relation: u32, place: i16) -> Treatment<'_> {
        match self.columns.get(&(relation, place)) {
            Some(masked) => Treatment::Masked(masked),
            None if relation >= FIRST_OWN_OID && !self.relations.contains(&relation) => {
                Treatment::Unknown
            }
            None => Treatment::Passes,
        }
    }
}

/// Of a `COPY … TO STDOUT` to a client from whom something is hidden: its columns in their order, and which of them
/// are. `None` of what is no such statement, or has nothing to hide.
pub type Copied = Option<Arc<[Option<CopyColumn>]>>;

/// A column of a `COPY … TO STDOUT`, whose rows don't say where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyColumn {
    pub masked: Masked,
    /// Number of its type, as `pg_attribute` has it.
    pub kind: u32,
}

#[cfg(test)]
mod tests {
    use super::{Flow, Mask, Masked, Masks, Treatment};

    #[test]
    fn what_nobody_has_seen_is_unknown() {
        let column = "public.customers.ssn".into();
        let masked = Masked { mask: Mask::Null, rule: "r".into(), column, flow: Flow::Deny };
        let masks =
            Masks { columns: [((20_000, 2), masked.clone())].into(), relations: [20_000].into() };
        for (relation, place, expected) in [
            (20_000, 2, Treatment::Masked(&masked)),
            (20_000, 1, Treatment::Passes),
            (20_001, 2, Treatment::Unknown),
            // PostgreSQL's own, and what has no origin.
            (1_259, 2, Treatment::Passes),
            (0, 0, Treatment::Passes),
        ] {
            assert_eq!(masks.of_column(relation, place), expected, "{relation} {place}");
        }
    }
}

//! What a client says of itself: tags from a statement's comment or the application's name.

use serde::{Serialize, Serializer, ser::SerializeMap};

/// Anybody may write anything there, so nothing that is verified is ever mixed with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// In ascending order of their names, each of which is there once.
    pub tags: Vec<Tag>,
    /// Of a valid `traceparent`, which is then no tag.
    pub trace: Option<Trace>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    pub name: Box<str>,
    pub value: Box<str>,
}

/// Where the statement belongs in a distributed trace (W3C Trace Context).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// 32 hexadecimal digits in lower case.
    pub trace_id: Box<str>,
    /// 16 hexadecimal digits in lower case.
    pub span_id: Box<str>,
    /// Whether the client records that trace.
    pub is_sampled: bool,
}

/// Tags whose values are identifiers by agreement. The values of all others are whatever a client likes
/// to write, and are hidden like literals.
const IDENTIFIERS: [&str; 3] = ["agent", "model", "run_id"];
const IDENTIFIER_BYTES: usize = 128;

impl Claims {
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|tag| *tag.name == *name).map(|tag| &*tag.value)
    }

    /// Names and values for somebody who may, or may not, see literals.
    pub fn shown(&self, literals: bool) -> impl Iterator<Item = (&str, &str)> {
        self.tags.iter().map(move |Tag { name, value }| {
            let seen = literals || IDENTIFIERS.contains(&&**name) && is_identifier(value);
            (&**name, if seen { value } else { "?" })
        })
    }

    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        let tag = |tag: &Tag| size_of::<Tag>() + tag.name.len() + tag.value.len();
        size_of::<Self>() + self.tags.iter().map(tag).sum::<usize>()
    }
}

/// No sentence and no data: what names of programs, models and runs are made of.
fn is_identifier(value: &str) -> bool {
    value.len() <= IDENTIFIER_BYTES
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+".contains(&b))
}

/// Claims as a map.
pub(super) struct Shown<'a> {
    pub claims: &'a Claims,
    pub literals: bool,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.claims.tags.len()))?;
        for (name, value) in self.claims.shown(self.literals) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::{Claims, Tag};

    #[test]
    fn free_values_are_hidden_like_literals() {
        let long = "x".repeat(129);
        for (name, value, shown) in [
            ("agent", "claude-code", "claude-code"),
            ("model", "anthropic/claude:4.5", "anthropic/claude:4.5"),
            ("run_id", "7f3a_1", "7f3a_1"),
            ("run_id", "ana@example.com", "?"),
            ("agent", "two words", "?"),
            ("agent", long.as_str(), "?"),
            ("route", "/customers/4711", "?"),
        ] {
            let tag = Tag { name: name.into(), value: value.into() };
            let claims = Claims { tags: vec![tag], trace: None };
            assert_eq!(claims.shown(false).next(), Some((name, shown)), "{value}");
            assert_eq!(claims.shown(true).next(), Some((name, value)));
        }
    }
}

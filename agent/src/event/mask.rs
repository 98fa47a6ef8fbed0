//! How a labelled value is hidden from whoever may not see it.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::origin::named;

/// What stands in a value's place, from the one that tells most of it to the one that tells nothing: where two rules
/// hide one column, the greater one applies.
///
/// Where it makes no sense for the type of a column, the value is NULL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Mask {
    /// A number or a time near to it; the same one every time.
    Noise,
    /// Its last four letters and digits; the others are `*`.
    Last4,
    /// The name before the `@` as in [`Self::Hash`], and what is behind it as it is.
    Email,
    /// A pseudonym: the same for the same value, and for nobody else to tell from where.
    Hash,
    /// The same for all of them, NULLs excepted.
    Fixed(Arc<str>),
    Null,
}

/// As rules write them.
pub const MASKS: [&str; 6] = ["null", "hash", "email", "last4", "noise", "fixed:…"];

const FIXED: &str = "fixed:";

named! {
    /// What becomes of a statement in which a hidden value goes into something else. Where two rules hide one column,
    /// the greater one applies.
    #[derive(Default, PartialOrd, Ord, Hash)]
    Flow {
        /// The column is NULL for all of the statement.
        Null = "null",
        /// It is denied.
        #[default]
        Deny = "deny",
    }
}

/// `fixed` is written out in every row; nobody needs a longer one.
const MAX_FIXED_BYTES: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMask {
    #[error("there is no mask {0:?}")]
    Unknown(String),
    #[error("a fixed text has up to {MAX_FIXED_BYTES} bytes, and no zero among them")]
    Unfit,
}

impl Mask {
    /// Without the text of a fixed one: for records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Last4 => "last4",
            Self::Email => "email",
            Self::Hash => "hash",
            Self::Fixed(_) => "fixed",
            Self::Null => "null",
        }
    }
}

impl FromStr for Mask {
    type Err = NoMask;

    fn from_str(text: &str) -> Result<Self, NoMask> {
        Ok(match text {
            "noise" => Self::Noise,
            "last4" => Self::Last4,
            "email" => Self::Email,
            "hash" => Self::Hash,
            "null" => Self::Null,
            _ => match text.strip_prefix(FIXED) {
                Some(fixed) if fixed.len() <= MAX_FIXED_BYTES && !fixed.contains('\0') => {
                    Self::Fixed(fixed.into())
                }
                Some(_) => return Err(NoMask::Unfit),
                None => return Err(NoMask::Unknown(text.to_owned())),
            },
        })
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(text) => write!(f, "{FIXED}{text}"),
            other => f.write_str(other.name()),
        }
    }
}

impl From<Mask> for String {
    fn from(mask: Mask) -> Self {
        mask.to_string()
    }
}

impl TryFrom<String> for Mask {
    type Error = NoMask;

    fn try_from(text: String) -> Result<Self, NoMask> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::{Mask, NoMask};

    #[test]
    fn masks_are_read_as_they_are_written_and_the_stricter_one_is_greater() {
        let texts = ["noise", "last4", "email", "hash", "fixed:", "fixed:a:b ü", "null"];
        let masks: Vec<Mask> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(masks.is_sorted());
        assert_eq!(masks.iter().map(Mask::to_string).collect::<Vec<_>>(), texts);
        for (text, expected) in [
            ("Hash", NoMask::Unknown("Hash".into())),
            ("", NoMask::Unknown(String::new())),
            ("fixed:\0", NoMask::Unfit),
        ] {
            assert_eq!(text.parse::<Mask>(), Err(expected));
        }
        let long = format!("fixed:{}", "x".repeat(257));
        assert_eq!(long.parse::<Mask>(), Err(NoMask::Unfit));
    }
}

//! The types of PostgreSQL whose values can be masked into others of the same type.

/// Of a column, by its type's object identifier and modifier. Domains are described as what they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text(Length),
    Json {
        /// In binary, a version stands before it.
        is_binary: bool,
    },
    Bool,
    /// Signed, of so many bytes.
    Integer(u8),
    /// Of 4 or 8 bytes.
    Real(u8),
    Numeric(Option<Precision>),
    Date,
    Timestamp {
        has_zone: bool,
    },
    Uuid,
    Bytes,
    Address,
}

/// How long a text of a type may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Any,
    Characters(u32),
    /// Shorter ones are filled up with spaces.
    Padded(u32),
}

/// `numeric(digits, scale)`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Precision {
    pub digits: u32,
    pub scale: u16,
}

/// Stands before every length in a modifier.
const HEADER: i32 = 4;
/// Of `character(n)`.
const MAX_CHARACTERS: u32 = 10_485_760;
/// `NAMEDATALEN` without the zero.
const NAME_BYTES: u32 = 63;

impl Kind {
    /// `None`: nothing but NULL can stand for a value of this type.
    pub(super) fn of(oid: u32, modifier: i32) -> Option<Self> {
        let length = u32::try_from(modifier.saturating_sub(HEADER)).ok();
        let length = length.filter(|n| *n <= MAX_CHARACTERS);
        Some(match oid {
            16 => Self::Bool,
            17 => Self::Bytes,
            // name
            19 => Self::Text(Length::Characters(NAME_BYTES)),
            20 => Self::Integer(8),
            21 => Self::Integer(2),
            23 => Self::Integer(4),
            25 => Self::Text(Length::Any),
            114 => Self::Json { is_binary: false },
            700 => Self::Real(4),
            701 => Self::Real(8),
            869 => Self::Address,
            // character(n)
            1042 => Self::Text(length.map_or(Length::Any, Length::Padded)),
            // character varying(n)
            1043 => Self::Text(length.map_or(Length::Any, Length::Characters)),
            1082 => Self::Date,
            1114 => Self::Timestamp { has_zone: false },
            1184 => Self::Timestamp { has_zone: true },
            1700 => Self::Numeric(precision(modifier)?),
            2950 => Self::Uuid,
            3802 => Self::Json { is_binary: true },
            _ => return None,
        })
    }
}

/// `None` for a scale below zero, of which nothing is made.
fn precision(modifier: i32) -> Option<Option<Precision>> {
    if modifier < HEADER {
        return Some(None);
    }
    let modifier = modifier - HEADER;
    // Eleven bits with a sign.
    let scale = ((modifier & 0x7ff) ^ 0x400) - 0x400;
    let digits = u32::try_from(modifier >> 16).ok()? & 0xffff;
    Some(Some(Precision { digits, scale: u16::try_from(scale).ok()? }))
}

#[cfg(test)]
mod tests {
    use super::{Kind, Length, Precision};

    #[test]
    fn modifiers() {
        let numeric = |digits, scale| Some(Kind::Numeric(Some(Precision { digits, scale })));
        for (oid, modifier, expected) in [
            (25, -1, Some(Kind::Text(Length::Any))),
            (1043, 14, Some(Kind::Text(Length::Characters(10)))),
            (1043, -1, Some(Kind::Text(Length::Any))),
            (1042, 5, Some(Kind::Text(Length::Padded(1)))),
            (1700, -1, Some(Kind::Numeric(None))),
            (1700, (10 << 16 | 2) + 4, numeric(10, 2)),
            (1700, (2 << 16 | 5) + 4, numeric(2, 5)),
            // numeric(2, -3)
            (1700, (2 << 16 | 0x7fd) + 4, None),
            // money, interval, text[], and what somebody has made
            (790, -1, None),
            (1186, -1, None),
            (1009, -1, None),
            (16_400, -1, None),
        ] {
            assert_eq!(Kind::of(oid, modifier), expected, "{oid} {modifier}");
        }
    }
}

//! A number of bytes as people write it: `16777216` or `"16MiB"`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text.get(digits.len()..)?.trim_start();
        let (_, factor) =
            UNITS.iter().find(|(name, _)| *name == unit || (*name == "B" && unit.is_empty()))?;
        digits.parse::<u64>().ok()?.checked_mul(*factor).map(Self)
    }
}

/// In the largest unit that divides it: `16MiB`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "0B"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: bytes as in 16777216, or with KiB, MiB or GiB as in \"16MiB\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Size, E> {
                u64::try_from(value)
                    .map(Size)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Size, E> {
                Size::parse(value)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn reads_what_people_write() {
        for (text, expected) in [
            ("16MiB", Some(16 << 20)),
            ("16 MiB", Some(16 << 20)),
            ("64KiB", Some(64 << 10)),
            ("1GiB", Some(1 << 30)),
            ("512B", Some(512)),
            ("512", Some(512)),
            ("16MB", None),
            ("16mib", None),
            ("MiB", None),
            ("", None),
            ("-1KiB", None),
            ("1.5MiB", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(Size::parse(text).map(|size| size.0), expected, "{text:?}");
        }
    }

    #[test]
    fn shows_the_largest_unit_that_divides() {
        for (bytes, expected) in
            [(16 << 20, "16MiB"), (65_536, "64KiB"), (1_000, "1000B"), (0, "0B"), (1 << 30, "1GiB")]
        {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }
}

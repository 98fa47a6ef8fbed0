//! A length of time as people write it: `"1s"`, `"1h 30m"`, `"90d"`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Self).map_err(|error| {
            format!("{text:?} is no time, as in \"1s\", \"1h 30m\" or \"90d\": {error}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Span;

    #[test]
    fn what_is_written_out_is_read_back() {
        for (text, seconds) in [("1s", 1), ("1h 30m", 5_400), ("90days", 90 * 86_400)] {
            let read: Span = serde_json::from_value(text.into()).unwrap();
            assert_eq!(read.0.as_secs(), seconds, "{text}");
            let again: Span = serde_json::from_value(read.to_string().into()).unwrap();
            assert_eq!(again, read, "{text}");
        }
        for text in ["", "5", "soon", "-1s"] {
            assert!(serde_json::from_value::<Span>(text.into()).is_err(), "{text}");
        }
    }
}

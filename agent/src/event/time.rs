//! Times: the kernel's boot clock, which records carry, and UTC, which people read.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Nanoseconds since boot, suspend included (`CLOCK_BOOTTIME`): the clock of every kernel record.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Whole microseconds from `earlier` to `self`; 0 if `earlier` is later.
    pub fn micros_since(self, earlier: BootTime) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }
}

/// Microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

impl WallTime {
    /// Parts of a microsecond are left out.
    pub fn from_utc(time: time::UtcDateTime) -> Self {
        Self(i64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX))
    }

    /// The same moment as `time` knows it; out-of-range values become the epoch.
    pub fn to_utc(self) -> time::UtcDateTime {
        time::UtcDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .unwrap_or(time::UtcDateTime::UNIX_EPOCH)
    }
}

/// RFC 3339 with six decimals, as in `2026-11-23T15:04:05.000123Z`.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = time::macros::format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
        );
        f.write_str(&self.to_utc().format(format).unwrap_or_default())
    }
}

/// As it is displayed.
impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Any RFC 3339.
impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let time = time::UtcDateTime::parse(&text, &time::format_description::well_known::Rfc3339)
            .map_err(de::Error::custom)?;
        Ok(Self::from_utc(time))
    }
}

/// Turns boot time into UTC: the offset between the two clocks, measured by the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// UTC minus boot time, in nanoseconds.
    pub offset_ns: i128,
}

impl Clock {
    /// The UTC moment of a kernel record.
    pub fn wall(self, at: BootTime) -> WallTime {
        let micros = (i128::from(at.0) + self.offset_ns) / 1_000;
        WallTime(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

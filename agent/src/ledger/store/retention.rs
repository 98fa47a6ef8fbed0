//! Which sealed segments have had their time.

use std::{fs::File, time::Duration};

use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::{
    event::WallTime,
    ledger::{Removal, layout::SegmentFile},
};

use super::options::Options;

/// A sealed segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub file: SegmentFile,
    pub size: u64,
}

/// Why the oldest sealed segment is to go now, if it is. `open_bytes` are those of logs.
pub fn due(
    sealed: &[Sealed],
    open_bytes: u64,
    options: &Options,
    now: WallTime,
) -> Option<&'static str> {
    let oldest = sealed.first()?;
    let age = Duration::from_micros(now.0.saturating_sub(oldest.file.last_time.0).max(0) as u64);
    let total = sealed.iter().map(|sealed| sealed.size).sum::<u64>() + open_bytes;
    if options.max_age.is_some_and(|max| age > max) {
        Some("age")
    } else if options.max_bytes.is_some_and(|max| total > max) {
        Some("size")
    } else {
        None
    }
}

/// What is said of the removal. A file that can't be read any more counts as empty.
pub fn removal(sealed: &Sealed, reason: &'static str) -> Removal {
    let n_rows = File::open(&sealed.file.path)
        .map_err(Into::into)
        .and_then(SerializedFileReader::new)
        .map_or(0, |reader| reader.metadata().file_metadata().num_rows());
    Removal {
        number: sealed.file.number,
        path: sealed.file.path.clone(),
        n_rows: n_rows.max(0) as u64,
        file_size: sealed.size,
        first_time: sealed.file.first_time,
        last_time: sealed.file.last_time,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Sealed, due};
    use crate::{
        event::WallTime,
        ledger::{Options, layout::SegmentFile},
    };

    #[test]
    fn the_oldest_goes_when_it_is_too_old_or_all_are_too_large() {
        let sealed = |number: u64, last_second: i64, size| Sealed {
            file: SegmentFile {
                number,
                first_time: WallTime(0),
                last_time: WallTime(last_second * 1_000_000),
                path: "x".into(),
            },
            size,
        };
        let two = [sealed(1, 100, 10), sealed(2, 200, 10)];
        let hour = Some(Duration::from_secs(3600));
        let cases = [
            // segments, open bytes, max age, max bytes, now in seconds, expected
            (&two[..], 0, None, None, 1_000_000, None),
            (&two, 0, hour, None, 3700, None),
            (&two, 0, hour, None, 3701, Some("age")),
            (&two[1..], 0, hour, None, 3701, None),
            (&two, 0, hour, None, 0, None),
            (&two, 0, None, Some(20), 0, None),
            (&two, 1, None, Some(20), 0, Some("size")),
            (&two, 0, None, Some(19), 0, Some("size")),
            (&two, 0, hour, Some(19), 4000, Some("age")),
            (&[], 99, hour, Some(19), 4000, None),
        ];
        for (sealed, open_bytes, max_age, max_bytes, seconds, expected) in cases {
            let options = Options { max_age, max_bytes, ..Options::new("x") };
            let found = due(sealed, open_bytes, &options, WallTime(seconds * 1_000_000));
            assert_eq!(found, expected, "{max_age:?} {max_bytes:?} at {seconds}");
        }
    }
}

//! Where things are in the ledger's directory, and how they are named.
//!
//! ```text
//! open/0000000012.log                                                    rows that aren't sealed yet
//! segments/0000000011-20261124T231500.000001Z-20261125T001459.999999Z.parquet
//! configuration.toml                                                     what the last start applied
//! ```
//!
//! While a segment is being sealed its log is still there. Where both are, the Parquet file holds the
//! same rows, whole: readers take one of them and never add both.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use time::{PrimitiveDateTime, macros::format_description};

use crate::event::WallTime;

/// Whoever works with several files at once, or with a file that may be gone, goes by this.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// What a sealed file's name says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    pub number: u64,
    pub first_time: WallTime,
    pub last_time: WallTime,
    pub path: PathBuf,
}

/// What an open log's name says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogFile {
    pub number: u64,
    pub path: PathBuf,
}

impl Layout {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn open_dir(&self) -> PathBuf {
        self.root.join("open")
    }

    pub fn segment_dir(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub fn log(&self, number: u64) -> PathBuf {
        self.open_dir().join(format!("{number:010}.log"))
    }

    pub fn segment(&self, number: u64, first: WallTime, last: WallTime) -> PathBuf {
        let name = format!("{number:010}-{}-{}.parquet", name_time(first), name_time(last));
        self.segment_dir().join(name)
    }

    /// Where a sealed file is written before it gets its name.
    pub fn unfinished_segment(&self, number: u64) -> PathBuf {
        self.segment_dir().join(format!("{number:010}.parquet{UNFINISHED}"))
    }

    /// By number. Other names are passed over; a directory that isn't there is empty.
    pub fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        list(&self.segment_dir(), SegmentFile::parse)
    }

    /// By number.
    pub fn logs(&self) -> io::Result<Vec<LogFile>> {
        list(&self.open_dir(), LogFile::parse)
    }

    /// What a crash left behind of sealed files that never got their name.
    pub fn unfinished(&self) -> io::Result<Vec<PathBuf>> {
        list(&self.segment_dir(), |path| {
            path.to_str().is_some_and(|path| path.ends_with(UNFINISHED)).then(|| path.to_owned())
        })
    }
}

const UNFINISHED: &str = ".tmp";

impl SegmentFile {
    pub fn parse(path: &Path) -> Option<Self> {
        let mut words = path.file_name()?.to_str()?.strip_suffix(".parquet")?.split('-');
        let number = number(words.next()?)?;
        let (first_time, last_time) = (parse_time(words.next()?)?, parse_time(words.next()?)?);
        words.next().is_none().then(|| Self {
            number,
            first_time,
            last_time,
            path: path.to_owned(),
        })
    }
}

impl LogFile {
    pub fn parse(path: &Path) -> Option<Self> {
        let number = number(path.file_name()?.to_str()?.strip_suffix(".log")?)?;
        Some(Self { number, path: path.to_owned() })
    }
}

/// Makes durable that a file is there, or gone.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn list<T: Ord>(folder: &Path, parse: impl Fn(&Path) -> Option<T>) -> io::Result<Vec<T>> {
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(parse(&entry?.path()));
    }
    found.sort();
    Ok(found)
}

fn number(digits: &str) -> Option<u64> {
    let is_number = digits.len() >= 10 && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

const TIME: &[time::format_description::BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second].[subsecond digits:6]Z");

fn name_time(time: WallTime) -> String {
    time.to_utc().format(TIME).unwrap_or_default()
}

fn parse_time(text: &str) -> Option<WallTime> {
    let time = PrimitiveDateTime::parse(text, TIME).ok()?.assume_utc();
    i64::try_from(time.unix_timestamp_nanos() / 1_000).ok().map(WallTime)
}

#[cfg(test)]
mod tests {
    use super::{Layout, LogFile, SegmentFile};
    use crate::event::WallTime;

    #[test]
    fn names_tell_what_is_inside() {
        let layout = Layout::new("/ledger");
        for (number, first, last) in [(1, 0, 1), (12, 1_764_000_000_000_001, 1_764_000_000_999_999)]
        {
            let path = layout.segment(number, WallTime(first), WallTime(last));
            let file = SegmentFile::parse(&path).unwrap();
            assert_eq!((file.number, file.first_time.0, file.last_time.0), (number, first, last));
        }
        let path = layout.segment(11, WallTime(1), WallTime(1_764_000_000_999_999));
        assert_eq!(
            path.to_str().unwrap(),
            "/ledger/segments/0000000011-19700101T000000.000001Z-20251124T160000.999999Z.parquet"
        );
        assert_eq!(LogFile::parse(&layout.log(7)).unwrap().number, 7);
        for other in ["", "1.log", "a.log", "0000000001.log.tmp", "00000000+1.log"] {
            assert_eq!(LogFile::parse(other.as_ref()), None, "{other}");
        }
        for other in ["0000000001.parquet.tmp", "0000000001-a-b.parquet", "0000000001.parquet"] {
            assert_eq!(SegmentFile::parse(other.as_ref()), None, "{other}");
        }
    }
}

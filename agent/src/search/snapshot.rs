//! What is in the ledger at one moment: its sealed segments and the logs that are still open.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::SearchError;
use crate::event::WallTime;

/// Every row that was recorded before it was taken, each once.
#[derive(Debug)]
pub struct Snapshot {
    /// In the order of their numbers, which is that of time.
    pub segments: Vec<Segment>,
    pub open: Vec<OpenLog>,
}

/// A sealed segment, as its file's name and size tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub number: u64,
    pub name: String,
    pub first: WallTime,
    pub last: WallTime,
    pub bytes: u64,
    pub sealed: SystemTime,
}

/// A log that was not sealed when the snapshot was taken. The file is open: sealing, which removes
/// its name, takes nothing from us.
#[derive(Debug)]
pub struct OpenLog {
    pub number: u64,
    pub file: File,
}

impl Snapshot {
    /// Logs are opened before segments are listed, and a segment's file has its name before its log
    /// loses its own: so a segment that is sealed meanwhile is in one list at least, and where it is
    /// in both the sealed one counts.
    pub fn take(ledger: &Path) -> Result<Self, SearchError> {
        let folder = ledger.join("segments");
        let failed = |path: PathBuf| move |source| SearchError::Unreadable { path, source };
        let mut open = open_logs(&ledger.join("open")).map_err(failed(ledger.join("open")))?;
        let segments = segments(&folder).map_err(failed(folder.clone()))?;
        let sealed: HashSet<u64> = segments.iter().map(|segment| segment.number).collect();
        open.retain(|log| !sealed.contains(&log.number));
        Ok(Self { segments, open })
    }

    /// What is sealed, and what is open.
    pub fn split(self) -> (Self, Self) {
        let Self { segments, open } = self;
        (Self { segments, open: Vec::new() }, Self { segments: Vec::new(), open })
    }

    /// Leaves out what was sealed before `time` and so holds nothing that was recorded since.
    pub fn recorded_since(&mut self, time: WallTime) {
        let since = UNIX_EPOCH + Duration::from_micros(u64::try_from(time.0).unwrap_or(0));
        self.segments.retain(|segment| segment.sealed >= since);
    }
}

fn open_logs(folder: &Path) -> io::Result<Vec<OpenLog>> {
    let mut logs = Vec::new();
    for entry in entries(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
        let Some(number) = number else { continue };
        match File::open(entry.path()) {
            Ok(file) => logs.push(OpenLog { number, file }),
            // Sealed since it was listed: it will be among the segments.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    logs.sort_by_key(|log| log.number);
    Ok(logs)
}

fn segments(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in entries(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((number, first, last)) = name.to_str().and_then(parse_name) else { continue };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed by retention since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        segments.push(Segment {
            number,
            name: name.to_string_lossy().into_owned(),
            first,
            last,
            bytes: metadata.len(),
            sealed: metadata.modified()?,
        });
    }
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}

/// Nothing where there is no such folder yet.
fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error),
    }
}

/// `NNNNNNNNNN-<first time>-<last time>.parquet`, times in microseconds since 1970.
fn parse_name(name: &str) -> Option<(u64, WallTime, WallTime)> {
    let mut parts = name.strip_suffix(".parquet")?.splitn(3, '-');
    let number = parts.next()?.parse().ok()?;
    let first = parts.next()?.parse().ok()?;
    let last = parts.next()?.parse().ok()?;
    Some((number, WallTime(first), WallTime(last)))
}

//! What is in the ledger at one moment: its sealed segments and the logs that are still open.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    ops::RangeInclusive,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::SearchError;
use crate::{
    event::WallTime,
    ledger::{
        layout::{Layout, LogFile, SegmentFile},
        log::ALL_TIMES,
    },
};

/// Every row that was recorded before it was taken, each once.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// In the order of time; of one host's ledger that is the order of their numbers.
    pub segments: Vec<Segment>,
    pub open: Vec<OpenLog>,
    /// What was recorded before is of no interest.
    pub recorded_since: WallTime,
}

/// A sealed segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub file: SegmentFile,
    /// In the store that it is read from.
    pub location: String,
    pub bytes: u64,
    pub sealed: SystemTime,
}

/// A log that was not sealed when the snapshot was taken. The file is open: sealing, which removes
/// its name, takes nothing from us. What is appended later is no part of the snapshot.
#[derive(Clone, Debug)]
pub(super) struct OpenLog {
    pub number: u64,
    pub len: u64,
    file: Arc<File>,
}

impl Snapshot {
    /// Logs are opened before segments are listed, and a segment's file has its name before its log
    /// loses its own: so a segment that is sealed meanwhile is in one list at least, and where it is
    /// in both the sealed one counts.
    pub fn take(ledger: &Path) -> Result<Self, SearchError> {
        Self::take_while(ledger, || {})
    }

    /// `meanwhile` happens between the two looks.
    fn take_while(ledger: &Path, meanwhile: impl FnOnce()) -> Result<Self, SearchError> {
        // A ledger that was never written is empty; one that isn't there is a mistake.
        fs::metadata(ledger)
            .map_err(|source| SearchError::Unreadable { path: ledger.to_owned(), source })?;
        let layout = Layout::new(ledger);
        let failed = |path: PathBuf| move |source| SearchError::Unreadable { path, source };
        let logs = layout.logs().map_err(failed(layout.open_dir()))?;
        let mut open = Vec::new();
        for LogFile { number, path } in logs {
            let Some(file) = unless_gone(File::open(&path)).map_err(failed(path.clone()))? else {
                continue;
            };
            // It is being begun, and has not even its head.
            let len = file.metadata().map_err(failed(path))?.len();
            if len > 0 {
                open.push(OpenLog { number, len, file: Arc::new(file) });
            }
        }
        meanwhile();
        let mut segments = Vec::new();
        for file in layout.segments().map_err(failed(layout.segment_dir()))? {
            // Retention may have removed it since.
            let metadata =
                unless_gone(fs::metadata(&file.path)).map_err(failed(file.path.clone()))?;
            let Some(metadata) = metadata else { continue };
            let sealed = metadata.modified().map_err(failed(file.path.clone()))?;
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            let location = format!("segments/{name}");
            segments.push(Segment { file, location, bytes: metadata.len(), sealed });
        }
        let sealed: HashSet<u64> = segments.iter().map(|segment| segment.file.number).collect();
        open.retain(|log| !sealed.contains(&log.number));
        Ok(Self { segments, open, recorded_since: *ALL_TIMES.start() })
    }

    /// Segments that were copied elsewhere.
    pub fn of_copies(segments: Vec<Segment>) -> Self {
        Self { segments, open: Vec::new(), recorded_since: *ALL_TIMES.start() }
    }

    /// Leaves out segments that have no row of these times. What is open stays.
    pub fn only_between(&mut self, times: &RangeInclusive<WallTime>) {
        self.segments.retain(|Segment { file, .. }| {
            file.first_time <= *times.end() && file.last_time >= *times.start()
        });
    }

    /// What is sealed, and what is open.
    pub fn split(self) -> (Self, Self) {
        let Self { segments, open, recorded_since } = self;
        (
            Self { segments, open: Vec::new(), recorded_since },
            Self { segments: Vec::new(), open, recorded_since },
        )
    }

    /// Leaves out what was sealed before `time` and so holds nothing that was recorded since; of the
    /// open logs, what was committed before.
    pub fn only_recorded_since(&mut self, time: WallTime) {
        self.recorded_since = time;
        let since = UNIX_EPOCH + Duration::from_micros(u64::try_from(time.0).unwrap_or(0));
        self.segments.retain(|segment| segment.sealed >= since);
    }
}

impl OpenLog {
    /// Opens it again, for a reader with a position of its own, whatever has become of its name.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Snapshot;
    use crate::{event::WallTime, ledger::layout::Layout};

    /// What a snapshot has of segment 2 while it is sealed: the log, the file, never both, never none.
    #[test]
    fn a_segment_that_is_sealed_meanwhile_is_there_once() {
        let sealed = |layout: &Layout| {
            fs::write(layout.segment(2, WallTime(1), WallTime(2)), "sealed").unwrap();
        };
        let removed = |layout: &Layout| fs::remove_file(layout.log(2)).unwrap();
        let nothing = |_: &Layout| {};
        type Step<'a> = &'a dyn Fn(&Layout);
        for (before, meanwhile, segments, open) in [
            (&nothing as Step<'_>, &nothing as Step<'_>, vec![1], vec![2, 3]),
            (&nothing, &sealed, vec![1, 2], vec![3]),
            (
                &nothing,
                &|layout: &Layout| {
                    sealed(layout);
                    removed(layout)
                },
                vec![1, 2],
                vec![3],
            ),
            (&sealed, &nothing, vec![1, 2], vec![3]),
            (&sealed, &removed, vec![1, 2], vec![3]),
            (
                &|layout: &Layout| {
                    sealed(layout);
                    removed(layout)
                },
                &nothing,
                vec![1, 2],
                vec![3],
            ),
        ] {
            let ledger = tempfile::tempdir().unwrap();
            let layout = Layout::new(ledger.path());
            fs::create_dir(layout.open_dir()).unwrap();
            fs::create_dir(layout.segment_dir()).unwrap();
            fs::write(layout.segment(1, WallTime(0), WallTime(1)), "sealed").unwrap();
            fs::write(layout.log(2), "log").unwrap();
            fs::write(layout.log(3), "log").unwrap();
            fs::write(layout.unfinished_segment(3), "unfinished").unwrap();
            before(&layout);
            let snapshot = Snapshot::take_while(ledger.path(), || meanwhile(&layout)).unwrap();
            let numbers: Vec<u64> = snapshot.segments.iter().map(|s| s.file.number).collect();
            let logs: Vec<u64> = snapshot.open.iter().map(|log| log.number).collect();
            assert_eq!((numbers, logs), (segments, open));
            for log in &snapshot.open {
                assert_eq!(fs::read_to_string(log.path()).unwrap(), "log");
            }
        }
    }

    #[test]
    fn an_empty_ledger_is_empty_and_none_is_an_error() {
        let ledger = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::take(ledger.path()).unwrap();
        assert!(snapshot.segments.is_empty() && snapshot.open.is_empty());
        assert!(Snapshot::take(&ledger.path().join("absent")).is_err());
    }
}

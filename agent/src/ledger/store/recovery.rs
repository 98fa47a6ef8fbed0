//! What is done with the files that are there when the ledger is opened.

use std::{fs, path::Path, sync::Arc};

use super::{
    directory::{self, Lock, OpenError, failed},
    options::Options,
    retention::Sealed,
};
use crate::{
    event::{Occurrence, OccurrenceKind, Origin, WallTime},
    ledger::{
        checkpoint::OpenSegment,
        layout::{self, Layout, LogFile},
        log::{self, Header, HeaderError, LogWriter, Recovered, ScanError},
        schema,
        witness::Witness,
    },
};

/// A ledger that is whole.
#[derive(Debug)]
pub struct Recovery {
    pub lock: Lock,
    pub layout: Layout,
    /// The segment that is appended to.
    pub log: LogWriter,
    /// When its first row came; `None` if it has none.
    pub log_since: Option<WallTime>,
    pub n_origins: u32,
    pub n_facts: u32,
    /// Segments whose sealing was interrupted, or hadn't begun.
    pub unsealed: Vec<OpenSegment>,
    pub sealed: Vec<Sealed>,
    pub torn: Vec<TornLog>,
}

/// A log of which not everything could be kept.
#[derive(Clone, Copy, Debug)]
pub struct TornLog {
    segment: u64,
    n_bytes: u64,
    is_damaged: bool,
    last_commit: Option<WallTime>,
}

impl TornLog {
    /// The row that tells of it.
    pub fn occurrence(&self, origin: &Arc<Origin>, now: WallTime) -> Occurrence {
        let message = if self.is_damaged {
            "The open log was damaged: what can't be read was set aside, as a file that ends in `.damaged`."
        } else {
            "The last write before a crash was incomplete and was cut off."
        };
        let last_commit =
            self.last_commit.map(|time| ("last_commit_us".into(), time.0.max(0) as u64));
        let counts = [("segment".into(), self.segment), ("lost_bytes".into(), self.n_bytes)];
        Occurrence {
            time: now,
            kind: OccurrenceKind::Gap,
            action: if self.is_damaged { "damaged" } else { "torn" },
            origin: origin.clone(),
            message: Some(message.to_owned()),
            counts: counts.into_iter().chain(last_commit).collect(),
        }
    }
}

pub fn recover(
    options: &Options,
    host: &str,
    witness: &dyn Witness,
    now: WallTime,
) -> Result<Recovery, OpenError> {
    let layout = Layout::new(&options.directory);
    let lock = directory::prepare(&layout)?;
    for path in layout.unfinished().map_err(failed(&layout.segment_dir()))? {
        remove(&path)?;
    }
    drop_half_sealed(&layout, witness)?;

    let mut torn = Vec::new();
    let mut logs = Vec::new();
    for file in layout.logs().map_err(failed(&layout.open_dir()))? {
        logs.extend(recover_log(&file, &mut torn)?.map(|recovered| (file, recovered)));
    }
    let sealed = sealed(&layout)?;
    let last_sealed = sealed.last().map_or(0, |sealed| sealed.file.number);
    let newest = logs.pop_if(|(file, _)| file.number > last_sealed);
    let mut recovery = match newest {
        Some((file, recovered)) => resume(layout, lock, &file, &recovered)?,
        None => {
            let last = logs.last().map(|(file, recovered)| (file.number, recovered.commit.chain));
            let (number, previous) = last.unwrap_or_default();
            let header = Header {
                schema_version: schema::VERSION,
                segment: number.max(last_sealed) + 1,
                time: now,
                previous,
                host: host.to_owned(),
            };
            begin(layout, lock, &header)?
        }
    };
    recovery.unsealed = logs
        .iter()
        .map(|(file, recovered)| OpenSegment { number: file.number, commit: recovered.commit })
        .collect();
    recovery.sealed = sealed;
    recovery.torn = torn;
    Ok(recovery)
}

fn resume(
    layout: Layout,
    lock: Lock,
    file: &LogFile,
    recovered: &Recovered,
) -> Result<Recovery, OpenError> {
    let log = LogWriter::resume(&file.path, recovered).map_err(failed(&file.path))?;
    let log_since = (recovered.commit.rows > 0).then_some(recovered.header.time);
    let Recovered { n_origins, n_facts, .. } = *recovered;
    Ok(Recovery { log_since, n_origins, n_facts, ..new(layout, lock, log) })
}

fn begin(layout: Layout, lock: Lock, header: &Header) -> Result<Recovery, OpenError> {
    let path = layout.log(header.segment);
    let log = LogWriter::create(&path, header).map_err(failed(&path))?;
    Ok(new(layout, lock, log))
}

fn new(layout: Layout, lock: Lock, log: LogWriter) -> Recovery {
    let (unsealed, sealed, torn) = (Vec::new(), Vec::new(), Vec::new());
    let (log_since, n_origins, n_facts) = (None, 0, 0);
    Recovery { lock, layout, log, log_since, n_origins, n_facts, unsealed, sealed, torn }
}

/// Where a segment has both its log and its file, one of them goes: the log if the witness knows of the
/// file, else the file, which is then made anew.
fn drop_half_sealed(layout: &Layout, witness: &dyn Witness) -> Result<(), OpenError> {
    let segments = layout.segments().map_err(failed(&layout.segment_dir()))?;
    for log in layout.logs().map_err(failed(&layout.open_dir()))? {
        for segment in segments.iter().filter(|segment| segment.number == log.number) {
            let known = witness.is_sealed(log.number);
            remove(if known { &log.path } else { &segment.path })?;
        }
    }
    Ok(())
}

/// `None` if nothing of it was ever written, or nothing can be read; then it is out of the way.
fn recover_log(file: &LogFile, torn: &mut Vec<TornLog>) -> Result<Option<Recovered>, OpenError> {
    let path = &file.path;
    let scan_failed = |source| OpenError::Log { path: path.clone(), source };
    let found = match log::recover(path) {
        Ok(Some(recovered)) if recovered.header.segment != file.number => {
            Err(ScanError::Header(HeaderError::Damaged))
        }
        found => found,
    };
    let found = match found {
        Err(ScanError::Header(HeaderError::Magic | HeaderError::Damaged)) => {
            let n_bytes = fs::metadata(path).map_err(failed(path))?.len();
            fs::rename(path, log::set_aside(path)).map_err(failed(path))?;
            let lost =
                TornLog { segment: file.number, n_bytes, is_damaged: true, last_commit: None };
            torn.push(lost);
            return Ok(None);
        }
        found => found.map_err(scan_failed)?,
    };
    match &found {
        None => remove(path)?,
        Some(recovered) => torn.extend(recovered.torn.map(|tail| TornLog {
            segment: file.number,
            n_bytes: tail.n_bytes,
            is_damaged: tail.is_damaged,
            last_commit: recovered.last_commit,
        })),
    }
    Ok(found)
}

fn sealed(layout: &Layout) -> Result<Vec<Sealed>, OpenError> {
    let files = layout.segments().map_err(failed(&layout.segment_dir()))?;
    files
        .into_iter()
        .map(|file| {
            let size = fs::metadata(&file.path).map_err(failed(&file.path))?.len();
            Ok(Sealed { file, size })
        })
        .collect()
}

fn remove(path: &Path) -> Result<(), OpenError> {
    fs::remove_file(path).and_then(|()| layout::sync_parent(path)).map_err(failed(path))
}

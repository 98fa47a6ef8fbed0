//! All sealed segments: each there, each as signed, and no others.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    path::Path,
};

use super::{
    Options, Progress, VerifyError, at, file, names,
    open::log_leaves,
    outside::own_trail,
    report::{Finding, Reason, Report},
    rows,
    signed::Signed,
};
use crate::ledger::{
    entry::{History, Segment},
    layout::{Layout, SegmentFile},
    root_log,
};

/// Each signed segment has its file, and each file is signed.
pub(super) fn check_presence(
    signed: &Signed,
    layout: &Layout,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let mut found: HashSet<String> = names(&layout.segment_dir())?.into_iter().collect();
    for segment in present(&signed.history) {
        if !found.remove(&segment.file) {
            report.segment(segment.number, &shown(&segment.file), Reason::SegmentMissing);
        }
    }
    let n_segments = signed.history.segments().count() - present(&signed.history).count();
    report.segments_removed = n_segments as u64;
    let mut left: Vec<String> = found.into_iter().collect();
    left.sort();
    left.iter().for_each(|name| check_unsigned(name, signed, layout, report));
    Ok(())
}

/// Each file that is there is the one that was sealed, from its first byte to its last.
pub(super) fn check_contents(
    signed: &Signed,
    options: &Options<'_>,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), VerifyError> {
    let log = options.ledger.join(root_log::FOLDER);
    let folder = Layout::new(options.ledger).segment_dir();
    let is_wanted =
        |segment: &&Segment| options.since.is_none_or(|since| segment.last_us >= since.0);
    let wanted = present(&signed.history).filter(is_wanted);
    let total_bytes = wanted.map(|segment| segment.bytes).sum();
    let mut done = Progress { bytes: 0, total_bytes, segment: 0 };
    for segment in present(&signed.history) {
        let (number, name) = (segment.number, shown(&segment.file));
        let path = folder.join(&segment.file);
        let trail = own_trail(&log, segment);
        let len = fs::metadata(&path).map(|file| file.len());
        if trail.is_none() || len.is_err() {
            if was_removed(number, &log, options)? {
                report.segments_removed += 1;
                continue;
            }
            if trail.is_none() {
                report.segment(number, &format!("log/{number:010}.trail"), Reason::TrailBad);
            }
        }
        let Ok(len) = len else {
            let is_known = |finding: &Finding| {
                finding.segment == Some(number) && finding.reason == Reason::SegmentMissing
            };
            if !report.findings.iter().any(is_known) {
                report.segment(number, &name, Reason::SegmentMissing);
            }
            continue;
        };
        if !is_wanted(&segment) {
            report.segments_passed_over += 1;
            if len != segment.bytes {
                let reason = Reason::FileLength { signed: segment.bytes, found: len };
                report.segment(number, &name, reason);
            }
            continue;
        }
        done.segment = number;
        let mut read = |bytes| {
            done.bytes += bytes;
            progress(done);
        };
        match file::check(&path, &name, segment, trail.as_ref(), &mut read, report) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !was_removed(number, &log, options)? {
                    report.segment(number, &name, Reason::SegmentMissing);
                }
                continue;
            }
            checked => checked.map_err(at(&path))?,
        }
        report.segments += 1;
        report.rows += segment.rows;
        report.bytes += segment.bytes;
    }
    Ok(())
}

/// Those that are not removed.
fn present(history: &History) -> impl Iterator<Item = &Segment> {
    history.segments().filter(|segment| history.removal(segment.number).is_none())
}

/// Whether its removal was signed since verification began.
fn was_removed(number: u64, log: &Path, options: &Options<'_>) -> Result<bool, VerifyError> {
    let now = Signed::read(log, options, &mut Report::default())?;
    Ok(now.is_some_and(|now| now.history.removal(number).is_some()))
}

fn shown(file: &str) -> String {
    format!("segments/{file}")
}

/// What a crash can have left: a file that never got its name, one that was removed already, and one
/// that is sealed but not signed yet, whose log is still there.
fn check_unsigned(name: &str, signed: &Signed, layout: &Layout, report: &mut Report) {
    let (path, shown) = (layout.segment_dir().join(name), shown(name));
    if name.ends_with(".tmp") {
        return;
    }
    let Some(SegmentFile { number, .. }) = SegmentFile::parse(&path) else {
        return report.file(&shown, Reason::UnknownFile);
    };
    if let Some((_, segment)) = signed.history.segment(number) {
        let mut nothing = Report::default();
        let is_same = segment.file == name
            && file::check(&path, name, segment, None, &mut |_| {}, &mut nothing).is_ok()
            && nothing.is_sound();
        // A running service may be removing it just now.
        if !is_same && path.exists() {
            report.segment(number, &shown, Reason::SegmentResurrected);
        }
        return;
    }
    let is_last = signed.history.segments().next_back().is_none_or(|last| last.number < number);
    if !is_last || !same_rows(&path, &layout.log(number)) {
        report.segment(number, &shown, Reason::SegmentUnsigned);
    }
}

/// Readers take the file or the log, so that both must hold the same.
fn same_rows(sealed: &Path, log: &Path) -> bool {
    let mut balance: BTreeMap<_, i64> = BTreeMap::new();
    let Some(in_log) = log_leaves(log) else { return false };
    in_log.into_iter().for_each(|leaf| *balance.entry(leaf).or_default() += 1);
    let Ok(file) = File::open(sealed) else { return false };
    let in_file = rows::of_file(file, &mut |leaf, _| {
        *balance.entry(leaf).or_default() -= 1;
        true
    });
    in_file.is_ok() && balance.values().all(|n| *n == 0)
}

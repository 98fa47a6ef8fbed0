//! All sealed segments: each there, each as signed, and no others.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    path::Path,
};

use super::{
    Progress, VerifyError, at, file, names,
    open::log_leaves,
    outside::own_trail,
    report::{Reason, Report},
    rows,
    signed::Signed,
};
use crate::{
    event::WallTime,
    ledger::{
        layout::{Layout, SegmentFile},
        root_log,
    },
};

pub(super) fn check(
    signed: &Signed,
    layout: &Layout,
    since: Option<WallTime>,
    progress: &mut dyn FnMut(Progress),
    report: &mut Report,
) -> Result<(), VerifyError> {
    let folder = layout.segment_dir();
    let mut found: HashSet<String> = names(&folder)?.into_iter().collect();
    let log = layout.root().join(root_log::FOLDER);
    let mut done = Progress { bytes: 0, total_bytes: 0, segment: 0 };
    let is_wanted = |last_us: i64| since.is_none_or(|since| last_us >= since.0);
    let history = &signed.history;
    let present = || history.segments().filter(|segment| history.removal(segment.number).is_none());
    done.total_bytes =
        present().filter(|segment| is_wanted(segment.last_us)).map(|segment| segment.bytes).sum();

    for segment in present() {
        let (number, name) = (segment.number, format!("segments/{}", segment.file));
        let path = folder.join(&segment.file);
        if !found.remove(&segment.file) {
            report.segment(number, &name, Reason::SegmentMissing);
            continue;
        }
        let trail = own_trail(&log, segment);
        if trail.is_none() {
            report.segment(number, &format!("log/{number:010}.trail"), Reason::TrailBad);
        }
        if !is_wanted(segment.last_us) {
            report.segments_passed_over += 1;
            let len = fs::metadata(&path).map_err(at(&path))?.len();
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
                report.segment(number, &name, Reason::SegmentMissing);
            }
            checked => checked.map_err(at(&path))?,
        }
        report.segments += 1;
        report.rows += segment.rows;
        report.bytes += segment.bytes;
    }
    report.segments_removed = history.segments().count() as u64 - present().count() as u64;
    let mut left: Vec<String> = found.into_iter().collect();
    left.sort();
    left.iter().try_for_each(|name| check_unsigned(name, signed, layout, report))
}

/// What a crash can have left: a file that never got its name, one that was removed already, and one
/// that is sealed but not signed yet, whose log is still there.
fn check_unsigned(
    name: &str,
    signed: &Signed,
    layout: &Layout,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let (path, shown) = (layout.segment_dir().join(name), format!("segments/{name}"));
    if name.ends_with(".tmp") {
        return Ok(());
    }
    let Some(SegmentFile { number, .. }) = SegmentFile::parse(&path) else {
        report.file(&shown, Reason::UnknownFile);
        return Ok(());
    };
    if let Some((_, segment)) = signed.history.segment(number) {
        let mut nothing = Report::default();
        let is_same = segment.file == name
            && file::check(&path, name, segment, None, &mut |_| {}, &mut nothing).is_ok()
            && nothing.is_sound();
        if !is_same {
            report.segment(number, &shown, Reason::SegmentResurrected);
        }
        return Ok(());
    }
    let is_last = signed.history.segments().next_back().is_none_or(|last| last.number < number);
    if !is_last || !same_rows(&path, &layout.log(number)) {
        report.segment(number, &shown, Reason::SegmentUnsigned);
    }
    Ok(())
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

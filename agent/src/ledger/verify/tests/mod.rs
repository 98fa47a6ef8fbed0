//! Ledgers that were changed in every way, and what verification says.

mod kept;

use std::{fs, path::Path};

use super::{Anchor, Options, Progress, names, verify};
use crate::{
    event::WallTime,
    ledger::{
        Witness, keys,
        log::{LogWriter, recover},
        note::Note,
    },
};
use kept::{Ledger, assert_findings, copy, rearrange};

#[test]
fn a_ledger_that_nobody_touched_is_sound() {
    let ledger = Ledger::of_three_segments();
    let report = ledger.verify();
    assert_findings(&report, &[]);
    assert_eq!((report.segments, report.rows, report.open_rows), (2, 1_505, 7));
    assert_eq!((report.unsigned_rows, report.unsealed_loss_bytes), (0, 0));
    assert_eq!(report.origin.as_deref(), Some("dbwarden/db1"));
    let mut last = 0;
    let mut progress = |now: Progress| {
        assert!(now.bytes > last && now.bytes <= now.total_bytes);
        last = now.bytes;
    };
    verify(&ledger.options(), &mut progress).unwrap();
    assert_eq!(last, report.bytes);
}

#[test]
fn rows_that_were_changed_are_named() {
    let ledger = Ledger::of_three_segments();
    let all: Vec<u32> = (0..1_500).collect();
    let check = |change: &dyn Fn(&mut Vec<u32>), expected: &[(&str, u64)]| {
        let twin = ledger.twin();
        let mut places = all.clone();
        change(&mut places);
        rearrange(&twin.segment(1), &places);
        let report = twin.verify();
        let found: Vec<_> = report.findings.iter().map(|f| (f.code, f.segment, f.row)).collect();
        // The file's length differs by the way.
        let found: Vec<_> = found.into_iter().filter(|(code, ..)| *code != "file_length").collect();
        let expected: Vec<_> =
            expected.iter().map(|(code, row)| (*code, Some(1), Some(*row))).collect();
        assert_eq!(found, expected);
    };
    check(&|rows| drop(rows.drain(7..8)), &[("row_missing", 7)]);
    check(&|rows| drop(rows.drain(1_499..)), &[("row_missing", 1_499)]);
    check(&|rows| rows.insert(1_100, 1_100), &[("row_duplicated", 1_100)]);
    check(&|rows| rows.push(3), &[("row_duplicated", 1_500)]);
    check(&|rows| rows.swap(20, 900), &[("rows_reordered", 20)]);
    check(&|rows| rows[1_030] = 5, &[("row_altered", 1_030)]);
    check(&|rows| rows.reverse(), &[("rows_altered", 0)]);
    check(&|rows| drop(rows.drain(1_030..1_040)), &[("rows_altered", 1_024)]);
    // The same rows, written again by another writer.
    let twin = ledger.twin();
    rearrange(&twin.segment(1), &all);
    let codes: Vec<_> = twin.verify().findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["file_length", "file_altered"]);
}

#[test]
fn segments_that_are_missing_unsigned_or_exchanged_are_named() {
    let ledger = Ledger::of_three_segments();
    let check = |tamper: &dyn Fn(&Ledger), expected: &[(&str, Option<u64>, Option<u64>)]| {
        let twin = ledger.twin();
        tamper(&twin);
        twin.check(expected);
    };
    check(
        &|ledger| fs::remove_file(ledger.segment(1)).unwrap(),
        &[("segment_missing", Some(1), None)],
    );
    check(
        &|ledger| {
            let copy = ledger.layout().segment(9, WallTime(0), WallTime(1));
            fs::copy(ledger.segment(1), copy).unwrap();
        },
        &[("segment_unsigned", Some(9), None)],
    );
    check(
        &|ledger| {
            let copy = ledger.layout().segment(1, WallTime(0), WallTime(1));
            fs::copy(ledger.segment(1), copy).unwrap();
        },
        &[("segment_removed", Some(1), None)],
    );
    check(
        &|ledger| fs::write(ledger.path("segments/notes.parquet"), "x").unwrap(),
        &[("file_unknown", None, None)],
    );
    check(
        &|ledger| fs::write(ledger.path("open/0000000009.txt"), "x").unwrap(),
        &[("file_unknown", None, None)],
    );
    check(
        &|ledger| fs::remove_file(ledger.path("log/0000000001.trail")).unwrap(),
        &[("trail_bad", Some(1), None)],
    );
    check(
        &|ledger| fs::remove_file(ledger.layout().log(3)).unwrap(),
        &[("open_missing", Some(3), None)],
    );
    check(
        &|ledger| {
            fs::copy(ledger.layout().log(3), ledger.layout().log(5)).unwrap();
        },
        &[("open_unlinked", Some(5), None)],
    );
    check(
        &|ledger| fs::remove_file(ledger.path("log/checkpoint")).unwrap(),
        &[("checkpoint_missing", None, None)],
    );
    check(
        &|ledger| fs::remove_file(ledger.path("log/checkpoints.log")).unwrap(),
        &[("checkpoint_missing", None, None)],
    );
    check(
        &|ledger| fs::remove_file(ledger.path("log/entries.jsonl")).unwrap(),
        &[("log_short", None, None)],
    );
}

/// What a crash leaves behind is no offence.
#[test]
fn what_was_not_signed_yet_is_told_apart() {
    let mut ledger = Ledger::of_three_segments();
    ledger.append(2);
    let report = ledger.verify();
    assert_findings(&report, &[]);
    assert_eq!((report.open_rows, report.unsigned_rows, report.unsealed_loss_bytes), (7, 2, 0));

    let log = ledger.layout().log(3);
    let whole = fs::read(&log).unwrap();
    fs::write(&log, [&whole[..], b"torn"].concat()).unwrap();
    let report = ledger.verify();
    assert_findings(&report, &[]);
    assert_eq!((report.unsigned_rows, report.unsealed_loss_bytes), (2, 4));
    fs::write(&log, &whole).unwrap();

    // Sealed and not signed: the log is still there.
    ledger.write_segment();
    ledger.check(&[]);
    let sealed = ledger.segment(3);
    rearrange(&sealed, &[0, 1, 2, 3, 4, 5, 6, 7, 7]);
    ledger.check(&[("segment_unsigned", Some(3), None)]);
    fs::remove_file(&sealed).unwrap();

    // Signed, and the log wasn't removed yet.
    ledger.start();
    let (sealed, now) = (ledger.write_segment(), ledger.tick());
    ledger.log().sealed(&sealed, now).unwrap();
    ledger.stop();
    ledger.check(&[]);
    fs::write(&log, &whole[..whole.len() - 1]).unwrap();
    ledger.check(&[("open_unsigned", Some(3), None)]);
    fs::remove_file(&log).unwrap();

    // Its removal is signed, and the file is still there.
    ledger.start();
    let now = ledger.tick();
    ledger.log().remove(1, "age", now).unwrap();
    ledger.stop();
    ledger.check(&[]);
    fs::remove_file(ledger.segment(1)).unwrap();
    ledger.check(&[]);
    assert_eq!(ledger.verify().segments_removed, 1);
}

#[test]
fn signed_rows_that_a_start_found_gone_stay_a_no() {
    let mut ledger = Ledger::of_three_segments();
    let log = ledger.layout().log(3);
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 10]).unwrap();
    ledger.check(&[("open_short", Some(3), Some(3))]);
    // The service goes on with what is left, and says so.
    let recovered = recover(&log).unwrap().unwrap();
    ledger.writer = Some(LogWriter::resume(&log, &recovered).unwrap());
    ledger.encoder.begin_log(recovered.n_origins, recovered.n_facts);
    ledger.start();
    ledger.commit(8);
    ledger.commit(1);
    ledger.stop();
    ledger.check(&[("rows_lost", Some(3), None)]);
}

#[test]
fn a_checkpoint_kept_elsewhere_sees_a_rollback() {
    let mut ledger = Ledger::new();
    ledger.commit(5);
    let snapshot = ledger.twin();
    ledger.commit(5);
    let in_open: Note = ledger.log().checkpoint().clone();
    ledger.seal();
    ledger.commit(5);
    let in_next: Note = ledger.log().checkpoint().clone();
    ledger.commit(5);
    ledger.seal();
    ledger.stop();
    let check = |ledger: &Ledger, note: &Note, expected: &[(&str, Option<u64>, Option<u64>)]| {
        let options = Options { checkpoint: Some(note.clone()), ..ledger.options() };
        assert_findings(&verify(&options, &mut |_| {}).unwrap(), expected);
    };
    check(&ledger, &in_open, &[]);
    check(&ledger, &in_next, &[]);

    // The host is put back, and lives on otherwise.
    let mut restored = snapshot.twin();
    check(&restored, &in_open, &[("rolled_back", Some(1), None)]);
    check(&restored, &in_next, &[("rolled_back", None, None)]);
    let log = restored.layout().log(1);
    let recovered = recover(&log).unwrap().unwrap();
    restored.writer = Some(LogWriter::resume(&log, &recovered).unwrap());
    restored.encoder.begin_log(recovered.n_origins, recovered.n_facts);
    restored.start();
    restored.entries.draw();
    restored.commit(9);
    restored.seal();
    restored.commit(9);
    restored.stop();
    restored.check(&[]);
    check(&restored, &in_open, &[("rolled_back", Some(1), None)]);
    check(&restored, &in_next, &[("rewritten", None, None), ("rolled_back", Some(2), None)]);

    let stranger = Ledger::of_three_segments();
    check(&stranger, &in_open, &[("outside_foreign", None, None)]);
}

#[test]
fn keys_are_held_against_what_others_know() {
    let mut ledger = Ledger::new();
    let first = ledger.log().keys().signing().public().clone();
    ledger.commit(1);
    let old = ledger.log().checkpoint().clone();
    keys::prepare_rotation(&ledger.keys()).unwrap();
    ledger.commit(1);
    ledger.stop();
    let report = ledger.verify();
    assert_findings(&report, &[]);
    assert_eq!(report.anchor, Anchor::Host);
    let with = |ledger: &Ledger, key| {
        verify(&Options { key: Some(key), ..ledger.options() }, &mut |_| {}).unwrap()
    };
    assert_findings(&with(&ledger, first.clone()), &[]);
    let options = Options { checkpoint: Some(old), ..ledger.options() };
    assert_findings(&verify(&options, &mut |_| {}).unwrap(), &[]);

    let stranger = Ledger::of_three_segments();
    assert_findings(&with(&stranger, first), &[("key_foreign", None, None)]);
    fs::remove_dir_all(stranger.keys()).unwrap();
    let report = stranger.verify();
    assert_findings(&report, &[]);
    assert_eq!(report.anchor, Anchor::Ledger);
    copy(&ledger.keys(), &{
        fs::create_dir(stranger.keys()).unwrap();
        stranger.keys()
    });
    stranger.check(&[("key_foreign", None, None)]);
}

#[test]
fn since_passes_over_what_is_older() {
    let ledger = Ledger::of_three_segments();
    let second = ledger.layout().segments().unwrap()[1].last_time;
    let options = Options { since: Some(second), ..ledger.options() };
    let report = verify(&options, &mut |_| {}).unwrap();
    assert_findings(&report, &[]);
    assert_eq!((report.segments, report.segments_passed_over, report.rows), (1, 1, 5));
    fs::remove_file(ledger.segment(1)).unwrap();
    let report = verify(&options, &mut |_| {}).unwrap();
    assert_findings(&report, &[("segment_missing", Some(1), None)]);
}

/// Where to change a file: everywhere if it is short, else at places all over it.
fn places(len: usize) -> impl Iterator<Item = usize> {
    let step = (len / 30).max(1);
    (0..len).step_by(step).chain(len.saturating_sub(8)..len)
}

/// A file that is truncated and written again is brought to the disk by some filesystems at once; a
/// new one isn't.
fn put(file: &Path, bytes: &[u8]) {
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

#[test]
fn no_change_of_a_signed_byte_goes_unnoticed() {
    let mut ledger = Ledger::new();
    ledger.commit(3);
    ledger.commit(2);
    ledger.seal();
    keys::prepare_rotation(&ledger.keys()).unwrap();
    ledger.commit(2);
    ledger.seal();
    ledger.commit(2);
    ledger.commit(1);
    ledger.stop();
    ledger.check(&[]);
    let mut files = Vec::new();
    for folder in ["log", "segments", "open"] {
        let names = names(&ledger.path(folder)).unwrap();
        files.extend(names.into_iter().map(|name| ledger.path(folder).join(name)));
    }
    assert_eq!(files.len(), 8);
    let mut n_changes = 0;
    for file in &files {
        let bytes = fs::read(file).unwrap();
        let mut refused = |changed: Vec<u8>, what: &str, at: usize| {
            if changed != bytes {
                put(file, &changed);
                assert!(!ledger.verify().is_sound(), "{what} at {at} of {}", file.display());
                n_changes += 1;
            }
        };
        for at in places(bytes.len()) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            refused(flipped, "flip", at);
            if at % 3 == 0 {
                refused(bytes[..at].to_vec(), "cut", at);
                refused([&bytes[..at], &bytes[at + 1..]].concat(), "drop", at);
                refused([&bytes[..at], b"x", &bytes[at..]].concat(), "insert", at);
                let mut swapped = bytes.clone();
                swapped.swap(at, bytes.len() - 1 - at);
                refused(swapped, "swap", at);
            }
        }
        // What follows the signed part of a growing file is the tail that a crash tears.
        put(file, &[&bytes[..], b"more"].concat());
        let report = ledger.verify();
        let is_told_apart = report.is_sound() && report.unsealed_loss_bytes == 4;
        let grows = file.extension().is_some_and(|end| end == "log" || end == "jsonl");
        assert_eq!((is_told_apart, report.is_sound()), (grows, grows), "{}", file.display());
        fs::remove_file(file).unwrap();
        assert!(!ledger.verify().is_sound(), "{} is gone", file.display());
        fs::write(file, bytes).unwrap();
    }
    ledger.check(&[]);
    assert!(n_changes > 400, "{n_changes}");
}

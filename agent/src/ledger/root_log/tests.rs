//! A root log through its life, crashes included.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{CHECKPOINT, CHECKPOINTS, ENTRIES, RootLog, RootLogError};
use crate::{
    event::WallTime,
    ledger::{
        checkpoint::{Checkpoint, Commit, OpenSegment},
        durable,
        entry::Segment,
        keys::{self, Keys},
        trail::Trail,
    },
};

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn ledger(&self) -> PathBuf {
        self.root.path().join("ledger")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.ledger().join("log").join(name)
    }

    fn keys(&self) -> PathBuf {
        self.root.path().join("keys")
    }

    fn open(&self) -> Result<RootLog, RootLogError> {
        let keys = Keys::open_or_create(&self.keys(), "db1").unwrap();
        RootLog::open(&self.ledger(), keys, WallTime(1))
    }
}

fn segment(number: u64) -> Segment {
    Segment {
        number,
        file: format!("{number:010}-a-b.parquet"),
        bytes: 100,
        sha256: [1; 32],
        rows: 10,
        first_us: 0,
        last_us: 9,
        root: [2; 32],
        chain: [3; 32],
        trail_sha256: [0; 32],
    }
}

fn open(number: u64, rows: u64) -> OpenSegment {
    OpenSegment { number, commit: Commit { rows, chain: [4; 32] } }
}

fn copy(from: &Path, to: &Path) {
    durable::create_private_folder(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Everything that can happen, once.
fn live(log: &mut RootLog) {
    log.commit(&[open(1, 5)], WallTime(2)).unwrap();
    log.commit(&[open(1, 10), open(2, 0)], WallTime(3)).unwrap();
    log.seal(segment(1), &Trail::default(), WallTime(4)).unwrap();
    log.commit(&[open(2, 10), open(3, 1)], WallTime(5)).unwrap();
    log.seal(segment(2), &Trail::default(), WallTime(6)).unwrap();
    log.remove(1, "age", WallTime(7)).unwrap();
    log.lose(3, 1, WallTime(8)).unwrap();
}

#[test]
fn a_log_is_continued_where_it_ended() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    assert_eq!(log.history().size(), 1);
    live(&mut log);
    for _ in 0..2 {
        // A second time, they change nothing.
        log.seal(segment(2), &Trail::default(), WallTime(9)).unwrap();
        log.remove(1, "age", WallTime(9)).unwrap();
        assert_eq!(log.history().size(), 5);
    }
    let (root, note) = (log.history().root(), log.checkpoint().to_string());
    drop(log);

    let log = place.open().unwrap();
    assert_eq!((log.history().size(), log.history().root()), (5, root));
    assert_eq!(log.checkpoint().to_string(), note);
    assert_eq!(fs::read_to_string(place.log(CHECKPOINT)).unwrap(), note);
    assert_eq!(log.history().removal(1).unwrap().reason, "age");
    assert_eq!(log.history().losses().len(), 1);
    assert!(!Trail::path(&place.ledger().join("log"), 1).exists());
    assert!(Trail::path(&place.ledger().join("log"), 2).exists());
    assert_eq!(log.signed_open(), &[]);
}

#[test]
fn what_can_not_follow_is_refused_and_leaves_no_trace() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    log.seal(segment(1), &Trail::default(), WallTime(2)).unwrap();
    let before = fs::read(place.log(ENTRIES)).unwrap();
    for refused in [
        log.seal(segment(3), &Trail::default(), WallTime(3)),
        log.remove(2, "age", WallTime(3)),
        log.seal(Segment { file: "../x".into(), ..segment(2) }, &Trail::default(), WallTime(3)),
    ] {
        assert!(matches!(refused, Err(RootLogError::Refused { index: 2, .. })));
    }
    assert_eq!(fs::read(place.log(ENTRIES)).unwrap(), before);
    log.seal(segment(2), &Trail::default(), WallTime(4)).unwrap();
}

#[test]
fn one_process_at_a_time() {
    let place = Place::new();
    let log = place.open().unwrap();
    assert!(matches!(place.open(), Err(RootLogError::Busy { .. })));
    drop(log);
    place.open().unwrap();
}

#[test]
fn checkpoints_before_and_after_a_rotation_verify() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    let before = log.checkpoint().clone();
    assert!(!log.rotate_if_prepared(WallTime(2)).unwrap());
    let new = keys::prepare_rotation(&place.keys()).unwrap();
    // The service takes it with its next commit.
    log.commit(&[open(1, 1)], WallTime(3)).unwrap();
    assert!(keys::is_rotated(&place.keys()));
    assert_eq!(log.keys().signing().public(), &new);
    let after = log.checkpoint().clone();
    drop(log);

    let log = place.open().unwrap();
    let old = log.history().key_at(1).unwrap();
    assert!(Checkpoint::verified(&before, &[old]).is_ok());
    assert!(Checkpoint::verified(&after, &[old]).is_err(), "the old key is of no use any more");
    assert_eq!(log.history().key_at(2), Some(&new));
    assert!(Checkpoint::verified(&after, &[&new]).is_ok());
}

/// Each write of an entry is cut as a crash would, and the log goes on.
#[test]
fn a_crash_loses_only_what_was_not_signed() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    live(&mut log);
    let entries = fs::read(place.log(ENTRIES)).unwrap();
    let checkpoints = fs::read(place.log(CHECKPOINTS)).unwrap();
    log.seal(segment(3), &Trail::default(), WallTime(9)).unwrap();
    let more_entries = fs::read(place.log(ENTRIES)).unwrap();
    let more_checkpoints = fs::read(place.log(CHECKPOINTS)).unwrap();
    drop(log);

    let check = |entries: &[u8], checkpoints: &[u8], expected: u64| {
        let crashed = Place::new();
        copy(&place.keys(), &crashed.keys());
        copy(&place.ledger().join("log"), &crashed.ledger().join("log"));
        fs::write(crashed.log(ENTRIES), entries).unwrap();
        fs::write(crashed.log(CHECKPOINTS), checkpoints).unwrap();
        if expected == 5 {
            // It was replaced last.
            let older = fs::read_to_string(place.log(CHECKPOINTS)).unwrap();
            let newest = older.rfind("dbwarden/db1\n6\n").unwrap();
            let last = older[..newest].rfind("dbwarden/db1\n5\n").unwrap();
            fs::write(crashed.log(CHECKPOINT), &older[last..newest]).unwrap();
        }
        let mut log = crashed.open().unwrap();
        assert_eq!(log.history().size(), expected);
        log.seal(segment(3), &Trail::default(), WallTime(10)).unwrap();
        assert_eq!(log.history().size(), 6);
    };
    for len in (entries.len()..more_entries.len()).step_by(23).chain([more_entries.len()]) {
        check(&more_entries[..len], &checkpoints, 5);
    }
    for len in (checkpoints.len()..more_checkpoints.len()).step_by(23) {
        check(&more_entries, &more_checkpoints[..len], 5);
    }
    check(&more_entries, &more_checkpoints, 6);
}

#[test]
fn a_log_that_was_tampered_with_is_not_continued() {
    let place = Place::new();
    live(&mut place.open().unwrap());
    let check = |tamper: &dyn Fn(&Place), expected: &str| {
        let tampered = Place::new();
        copy(&place.keys(), &tampered.keys());
        copy(&place.ledger().join("log"), &tampered.ledger().join("log"));
        tamper(&tampered);
        let error = tampered.open().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let edit = |place: &Place, name: &str, from: &str, to: &str| {
        let text = fs::read_to_string(place.log(name)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(place.log(name), text.replacen(from, to, 1)).unwrap();
    };
    check(&|place| edit(place, ENTRIES, "\"rows\":10", "\"rows\":11"), "aren't those");
    check(&|place| edit(place, ENTRIES, "\"rows\":10", "\"rows\": 10"), "entry 1");
    check(&|place| fs::write(place.log(ENTRIES), "").unwrap(), "5 entries, and there are 0");
    check(&|place| edit(place, CHECKPOINT, "\n5\n", "\n6\n"), "6 entries, and there are 5");
    check(&|place| edit(place, CHECKPOINT, "time 19", "time 20"), "doesn't fit");
    check(
        &|place| {
            fs::remove_file(place.log(CHECKPOINT)).unwrap();
            fs::remove_file(place.log(CHECKPOINTS)).unwrap();
        },
        "no checkpoint",
    );
    check(&|place| fs::remove_dir_all(place.keys()).unwrap(), "another key");
    check(
        &|place| {
            fs::remove_dir_all(place.ledger().join("log")).unwrap();
            fs::create_dir(place.ledger().join("segments")).unwrap();
            fs::write(place.ledger().join("segments/x.parquet"), "x").unwrap();
        },
        "no checkpoint",
    );
}

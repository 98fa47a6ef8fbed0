//! The ledger from open to close, and after every way in which it can have ended.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arrow_array::{RecordBatch, UInt64Array, cast::AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use tempfile::TempDir;

use super::{Appended, Ledger, OpenError, Options};
use crate::{
    event::{Entry, LOST_ROWS, Occurrence, OccurrenceKind, Parameter, Record, WallTime},
    ledger::{
        Literals, Removal, SealedSegment, Unproven, Witness, WitnessError,
        checkpoint::OpenSegment,
        encoder::Encoder,
        layout::Layout,
        log::{Header, Reader, set_aside},
        samples,
        seal::seal,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that the ledger is to make.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("ledger");
    (folder, directory)
}

fn options(directory: &Path) -> Options {
    Options {
        commit_interval: Duration::from_millis(20),
        min_free_bytes: 0,
        ..Options::new(directory)
    }
}

/// What a witness was told, and what it says it knows.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    committed: Vec<Vec<OpenSegment>>,
    sealed: Vec<SealedSegment>,
    removed: Vec<Removal>,
    fails: bool,
}

impl Notes {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }
}

fn unless_it_fails(told: &Told) -> Result<(), WitnessError> {
    if told.fails { Err("the witness is away".into()) } else { Ok(()) }
}

impl Witness for Notes {
    fn committed(&mut self, open: &[OpenSegment], _: WallTime) -> Result<(), WitnessError> {
        unless_it_fails(&self.told())?;
        self.told().committed.push(open.to_vec());
        Ok(())
    }

    fn sealed(&mut self, segment: &SealedSegment, _: WallTime) -> Result<(), WitnessError> {
        unless_it_fails(&self.told())?;
        assert!(segment.path.exists());
        self.told().sealed.push(segment.clone());
        Ok(())
    }

    fn is_sealed(&self, number: u64) -> bool {
        self.told().sealed.iter().any(|segment| segment.number == number)
    }

    fn removed(&mut self, removal: &Removal, _: WallTime) -> Result<(), WitnessError> {
        unless_it_fails(&self.told())?;
        assert!(removal.path.exists(), "told before it goes");
        self.told().removed.push(removal.clone());
        Ok(())
    }
}

/// A statement that can be told from all others.
fn statement(sequence: u64) -> Entry {
    let time = WallTime(1_764_000_000_000_000 + sequence as i64);
    Entry::Statement(Record { sequence, time, ..samples::full_record() })
}

fn append(ledger: &mut Ledger, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        assert_eq!(ledger.append(&statement(sequence)), Appended::Accepted);
    }
}

fn open(options: Options, witness: &Notes) -> Ledger {
    Ledger::open(options, "db-1", Box::new(witness.clone()), WallTime(1)).unwrap()
}

/// Ticks until `what` is so.
fn await_until(ledger: &mut Ledger, mut what: impl FnMut(&Ledger) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut now = ledger.now;
    while !what(ledger) {
        assert!(Instant::now() < deadline, "{:?}", ledger.status());
        now.0 += 1000;
        ledger.tick(now);
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// All rows, segment by segment: the sequence of statements, and the action of everything else.
fn contents(directory: &Path) -> (Vec<u64>, Vec<String>) {
    let layout = Layout::new(directory);
    let mut batches = Vec::new();
    let sealed = layout.segments().unwrap();
    for segment in &sealed {
        let file = File::open(&segment.path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        batches.extend(reader.map(Result::unwrap));
    }
    for log in layout.logs().unwrap() {
        if sealed.iter().all(|segment| segment.number != log.number) {
            let mut reader = Reader::open(&log.path).unwrap();
            while let Some(batch) = reader.next_batch().unwrap() {
                batches.push(batch);
            }
        }
    }
    (batches.iter().flat_map(sequences).collect(), batches.iter().flat_map(actions).collect())
}

fn sequences(batch: &RecordBatch) -> Vec<u64> {
    let column = batch.column_by_name("sequence").unwrap();
    let column = column.as_any().downcast_ref::<UInt64Array>().unwrap();
    column.iter().flatten().collect()
}

fn actions(batch: &RecordBatch) -> Vec<String> {
    let column = batch.column_by_name("action").unwrap().as_string::<i32>();
    column.iter().flatten().map(str::to_owned).collect()
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let (_folder, directory) = place();
    let notes = Notes::default();
    for from in [1, 101, 201] {
        let mut ledger = open(options(&directory), &notes);
        append(&mut ledger, from..=from + 99);
        ledger.close().unwrap();
        let told = notes.told().committed.last().unwrap().clone();
        assert_eq!(told.iter().map(|open| open.commit.rows).collect::<Vec<_>>(), [from + 99]);
    }
    assert_eq!(contents(&directory), ((1..=300).collect(), vec![]));
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    for file in fs::read_dir(directory.join("open")).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_row_is_found_and_durable_without_a_close() {
    let (_folder, directory) = place();
    let mut ledger = open(options(&directory), &Notes::default());
    append(&mut ledger, 1..=5);
    await_until(&mut ledger, |ledger| ledger.status().open_rows == 5);
    assert_eq!(contents(&directory).0, [1, 2, 3, 4, 5]);
}

#[test]
fn segments_are_sealed_by_size_and_by_age() {
    let (_folder, directory) = place();
    let notes = Notes::default();
    let hour = Duration::from_secs(3600);
    let small = Options { seal_bytes: 20_000, seal_age: hour, ..options(&directory) };
    let mut ledger = open(small, &notes);
    for from in (1..1000).step_by(100) {
        append(&mut ledger, from..=from + 99);
        ledger.tick(WallTime(ledger.now.0 + 100_000));
    }
    await_until(&mut ledger, |ledger| {
        let status = ledger.status();
        status.sealed_segments >= 3 && status.unsealed_segments == 0
    });
    let by_size = ledger.status().sealed_segments;
    append(&mut ledger, 1001..=1001);
    ledger.tick(WallTime(ledger.now.0 + 1));
    ledger.tick(WallTime(ledger.now.0 + hour.as_micros() as i64));
    await_until(&mut ledger, |ledger| ledger.status().sealed_segments > by_size);
    ledger.close().unwrap();
    assert_eq!(contents(&directory).0, (1..=1001).collect::<Vec<_>>());

    let told = notes.told();
    let numbers: Vec<u64> = told.sealed.iter().map(|segment| segment.number).collect();
    assert_eq!(numbers, (1..=by_size + 1).collect::<Vec<_>>());
    assert_eq!(told.sealed.iter().map(|segment| segment.n_rows).sum::<u64>(), 1001);
    // The chain goes on from segment to segment.
    let layout = Layout::new(&directory);
    let log = &layout.logs().unwrap()[0];
    let (header, ..) = Header::decode(&fs::read(&log.path).unwrap()).unwrap();
    assert_eq!(header.previous, told.sealed.last().unwrap().chain);
}

#[test]
fn retention_removes_the_oldest_and_says_so() {
    let (_folder, directory) = place();
    let notes = Notes::default();
    let two_files = Options { seal_bytes: 20_000, max_bytes: Some(250_000), ..options(&directory) };
    let mut ledger = open(two_files, &notes);
    for from in (1..2000).step_by(100) {
        append(&mut ledger, from..=from + 99);
        ledger.tick(WallTime(ledger.now.0 + 100_000));
    }
    await_until(&mut ledger, |ledger| {
        let status = ledger.status();
        let removed = notes.told().removed.len();
        status.unsealed_segments == 0
            && removed > 0
            && status.sealed_bytes + status.open_bytes <= 250_000
    });
    ledger.close().unwrap();
    let (sequences, actions) = contents(&directory);
    let told = notes.told();
    let n_removed: u64 = told.removed.iter().map(|removal| removal.n_rows).sum();
    let removals = actions.iter().filter(|action| *action == "removed").count();
    assert_eq!(sequences, (2001 - sequences.len() as u64..=2000).collect::<Vec<_>>());
    // Some of the removed rows may have been rows that tell of a removal.
    assert!(n_removed >= 2000 - sequences.len() as u64);
    assert!(removals <= told.removed.len() && removals > 0);
    let numbers: Vec<u64> = told.removed.iter().map(|removal| removal.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert!(told.removed.iter().all(|removal| removal.reason == "size"));
}

/// The ways in which a crash can leave a segment whose sealing has begun.
#[test]
fn an_interrupted_sealing_is_finished() {
    type Crash = fn(&Layout, &Notes);
    let cases: [(&str, Crash); 4] = [
        ("before anything was written", |_, _| {}),
        ("in the middle of the file", |layout, _| {
            fs::write(layout.unfinished_segment(1), b"PAR1 and not much more").unwrap();
        }),
        ("before the witness was told", |layout, _| {
            seal(layout, 1, WallTime(1)).unwrap();
        }),
        ("before the log was removed", |layout, notes| {
            let segment = seal(layout, 1, WallTime(1)).unwrap();
            notes.told().sealed.push(segment);
        }),
    ];
    for (when, crash) in cases {
        let (_folder, directory) = place();
        let layout = Layout::new(&directory);
        let mut ledger = open(options(&directory), &Notes::default());
        append(&mut ledger, 1..=50);
        ledger.close().unwrap();
        // The next log is always begun before a sealing begins.
        let header = Header {
            schema_version: 1,
            segment: 2,
            time: WallTime(1),
            previous: [1; 32],
            host: "db-1".to_owned(),
        };
        fs::write(layout.log(2), header.encode()).unwrap();

        let notes = Notes::default();
        crash(&layout, &notes);
        let mut ledger = open(options(&directory), &notes);
        append(&mut ledger, 51..=60);
        await_until(&mut ledger, |ledger| ledger.status().unsealed_segments == 0);
        ledger.close().unwrap();
        assert_eq!(contents(&directory), ((1..=60).collect(), vec![]), "{when}");
        assert_eq!(layout.logs().unwrap().len(), 1, "{when}");
        assert_eq!(layout.segments().unwrap().len(), 1, "{when}");
        assert_eq!(notes.told().sealed.len(), 1, "{when}");
        assert!(layout.unfinished().unwrap().is_empty(), "{when}");
    }
}

#[test]
fn a_torn_tail_is_a_row_of_the_next_log() {
    let (_folder, directory) = place();
    let log = Layout::new(&directory).log(1);
    for (n_bytes, damage, action) in [(10, None, "torn"), (0, Some(300), "damaged")] {
        let mut ledger = open(options(&directory), &Notes::default());
        append(&mut ledger, 1..=1);
        ledger.close().unwrap();
        let mut ledger = open(options(&directory), &Notes::default());
        append(&mut ledger, 2..=2);
        ledger.close().unwrap();
        let mut bytes = fs::read(&log).unwrap();
        bytes.truncate(bytes.len() - n_bytes);
        if let Some(at) = damage {
            bytes[at] ^= 1;
        }
        fs::write(&log, &bytes).unwrap();
        let mut ledger = open(options(&directory), &Notes::default());
        ledger.tick(WallTime(5));
        ledger.close().unwrap();
        let (sequences, actions) = contents(&directory);
        let expected: &[u64] = if damage.is_some() { &[] } else { &[1] };
        assert_eq!((sequences.as_slice(), actions), (expected, vec![action.to_owned()]));
        assert_eq!(set_aside(&log).exists(), damage.is_some());
        fs::remove_file(&log).unwrap();
    }
}

#[test]
fn a_log_whose_header_is_gone_is_set_aside() {
    let (_folder, directory) = place();
    let layout = Layout::new(&directory);
    let mut ledger = open(options(&directory), &Notes::default());
    append(&mut ledger, 1..=1);
    ledger.close().unwrap();
    let mut bytes = fs::read(layout.log(1)).unwrap();
    bytes[0] ^= 1;
    fs::write(layout.log(1), &bytes).unwrap();
    let mut ledger = open(options(&directory), &Notes::default());
    append(&mut ledger, 2..=2);
    ledger.tick(WallTime(5));
    ledger.close().unwrap();
    assert_eq!(contents(&directory), (vec![2], vec!["damaged".to_owned()]));
    assert_eq!(fs::read(set_aside(&layout.log(1))).unwrap(), bytes);
}

#[test]
fn a_witness_that_fails_is_told_again() {
    let (_folder, directory) = place();
    let notes = Notes::default();
    notes.told().fails = true;
    let small = Options { seal_bytes: 1000, max_bytes: Some(0), ..options(&directory) };
    let mut ledger = open(small, &notes);
    append(&mut ledger, 1..=10);
    await_until(&mut ledger, |ledger| ledger.status().unproven.is_some());
    let layout = Layout::new(&directory);
    assert!(layout.log(1).exists(), "the log stays until the witness knows the file");
    notes.told().fails = false;
    await_until(&mut ledger, |_| !notes.told().removed.is_empty());
    await_until(&mut ledger, |ledger| ledger.status().unproven.is_none());
    assert!(!layout.log(1).exists());
    assert_eq!(notes.told().sealed[0].n_rows, 10);
}

#[test]
fn a_directory_that_others_can_enter_is_refused() {
    let (_folder, directory) = place();
    let open = || Ledger::open(options(&directory), "db-1", Box::new(Unproven), WallTime(1));
    let first = open().unwrap();
    assert!(matches!(open(), Err(OpenError::Busy { .. })));
    first.close().unwrap();
    let segments = directory.join("segments");
    for (path, mode) in [(&directory, 0o750), (&directory, 0o701), (&segments, 0o777)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let error = open().err().unwrap();
        let said = error.to_string();
        assert!(matches!(error, OpenError::Mode { .. }), "{said}");
        assert!(said.ends_with(&format!("run `chmod 700 {}`", path.display())), "{said}");
        fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    }
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, b"").unwrap();
    assert!(matches!(open(), Err(OpenError::NotDirectory { .. })));
}

/// A disk without room: entries are taken as long as there is memory for them, then refused and counted.
#[test]
fn below_the_floor_nothing_is_written_and_what_is_refused_is_counted() {
    let (_folder, directory) = place();
    let full = Options { min_free_bytes: u64::MAX, ..options(&directory) };
    let mut ledger = open(full, &Notes::default());
    append(&mut ledger, 1..=1);
    await_until(&mut ledger, |ledger| ledger.status().paused.is_some());
    let paused = ledger.status().paused.unwrap();
    assert!(paused.starts_with("only ") && paused.ends_with("make room"), "{paused}");

    let text: Arc<str> = "x".repeat(1 << 20).into();
    let large = |sequence| {
        let parameters = vec![Parameter::Text(text.to_string())];
        Entry::Statement(Record { sequence, parameters, ..samples::full_record() })
    };
    ledger.encoder = Encoder::new(Literals::Kept);
    let mut refused = 0;
    let mut sequence = 2;
    let deadline = Instant::now() + PATIENCE;
    while refused < 5 {
        assert!(Instant::now() < deadline);
        if ledger.append(&large(sequence)) == Appended::Full {
            refused += 1;
        }
        sequence += 1;
    }
    assert_eq!(ledger.status().missed_rows, 5);
    // A gap that can't be told is as large as it was.
    let gap = Entry::Occurrence(Occurrence {
        time: WallTime(0),
        kind: OccurrenceKind::Gap,
        action: "recorder_full",
        origin: Arc::default(),
        message: None,
        counts: vec![(LOST_ROWS.into(), 37)],
    });
    assert_eq!(ledger.append(&gap), Appended::Full);
    assert_eq!(ledger.status().missed_rows, 42);
    assert!(sequence < 60, "memory is bounded");
    ledger.close().unwrap();
    let (sequences, actions) = contents(&directory);
    assert_eq!(sequences.len() as u64, sequence - 1 - 5);
    assert_eq!(actions, ["not-kept"]);
}

#[test]
fn what_no_log_can_hold_is_refused() {
    let (_folder, directory) = place();
    let kept = Options { literals: Literals::Kept, ..options(&directory) };
    let mut ledger = open(kept, &Notes::default());
    let huge = "x".repeat(13 << 20);
    let by_parameter =
        Record { parameters: vec![Parameter::Text(huge.clone())], ..samples::full_record() };
    let by_text = Record { text: Some(huge.into()), ..samples::full_record() };
    for record in [by_parameter, by_text] {
        assert_eq!(ledger.append(&Entry::Statement(record)), Appended::TooLarge);
    }
    append(&mut ledger, 3..=3);
    ledger.close().unwrap();
    assert_eq!(contents(&directory), (vec![3], vec!["not-kept".to_owned(); 2]));
}

/// Somebody who reads while it is written sees each row once, in order, and none that isn't kept.
#[test]
fn a_reader_beside_the_writer_sees_no_half_rows() {
    let (_folder, directory) = place();
    let mut ledger = open(options(&directory), &Notes::default());
    let log = Layout::new(&directory).log(1);
    let done = Arc::new(AtomicBool::new(false));
    let reading = thread::spawn({
        let done = done.clone();
        move || {
            let mut reader = Reader::open(&log).unwrap();
            let mut found = Vec::new();
            loop {
                let was_done = done.load(Ordering::Acquire);
                while let Some(batch) = reader.next_batch().unwrap() {
                    found.extend(sequences(&batch));
                }
                if was_done {
                    return found;
                }
            }
        }
    });
    for from in (1..5_000).step_by(100) {
        append(&mut ledger, from..=from + 99);
        ledger.tick(WallTime(ledger.now.0 + 10_000));
    }
    ledger.close().unwrap();
    done.store(true, Ordering::Release);
    assert_eq!(reading.join().unwrap(), (1..=5_000).collect::<Vec<_>>());
}

//! Logs that are whole, torn, growing, long.

use std::{fs, io::Write, path::PathBuf};

use arrow_array::RecordBatch;
use tempfile::TempDir;

use super::{Header, LogWriter, Reader, Torn, recover};
use crate::{
    event::{Entry, WallTime},
    ledger::{
        canonical::{self, Groups, Literals},
        columns::RowReader,
        encoder::Encoder,
        samples::Entries,
        schema,
    },
};

struct Log {
    folder: TempDir,
    writer: LogWriter,
    encoder: Encoder,
    rows: Vec<Groups>,
}

impl Log {
    fn new() -> Self {
        let folder = quick_folder();
        let header = Header {
            schema_version: schema::VERSION,
            segment: 1,
            time: WallTime(0),
            previous: [0; 32],
            host: "db-1".to_owned(),
        };
        let writer = LogWriter::create(&folder.path().join("log"), &header).unwrap();
        Self { folder, writer, encoder: Encoder::new(Literals::Kept), rows: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn batch(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.encoder.push(entry).unwrap();
            self.rows.push(canonical::tests::groups(entry, Literals::Kept));
        }
        // Each a microsecond a row after the one before.
        self.writer.add(&self.encoder.take(Vec::new()), WallTime(self.rows.len() as i64));
        self.writer.write().unwrap();
    }

    fn random_batches(&mut self, seed: u64, lens: &[usize]) {
        let mut entries = Entries::new(seed);
        for &len in lens {
            let entries: Vec<Entry> = (0..len).map(|_| entries.entry()).collect();
            self.batch(&entries);
        }
    }
}

/// In memory where there is a place for that: these tests sync a thousand times.
fn quick_folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<Groups> {
    let reader = RowReader::new(batch).unwrap();
    let row = |row| {
        let mut groups = Groups::default();
        reader.read(row, &mut groups).unwrap();
        groups
    };
    (0..batch.num_rows()).map(row).collect()
}

fn read(reader: &mut Reader) -> Vec<Groups> {
    let mut found = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        found.extend(rows(&batch));
    }
    found
}

#[test]
fn a_reader_follows_the_log_as_it_grows() {
    let mut log = Log::new();
    let mut reader = Reader::open(&log.path()).unwrap();
    let mut found = Vec::new();
    for seed in 0..10 {
        log.random_batches(seed, &[3, 0, 20]);
        found.extend(read(&mut reader));
        assert!(found == log.rows, "after {seed}");
    }
    assert!(read(&mut Reader::open(&log.path()).unwrap()) == log.rows);
}

/// Asked again and again it gives nothing more, wherever in the log it was told to end.
#[test]
fn a_reader_ends_where_it_is_told_to() {
    let mut log = Log::new();
    let mut ends = vec![(fs::metadata(log.path()).unwrap().len(), 0)];
    for seed in 0..3 {
        log.random_batches(seed, &[20]);
        ends.push((fs::metadata(log.path()).unwrap().len(), log.rows.len()));
    }
    for pair in ends.windows(2) {
        let [(begin, before), (end, after)] = *pair else { continue };
        for (len, n) in [(begin, before), (end - 1, before), (end, after)] {
            let mut reader = Reader::open(&log.path()).unwrap().up_to(len);
            assert!(read(&mut reader) == log.rows[..n], "up to {len}");
            assert!(reader.next_batch().unwrap().is_none(), "up to {len}");
        }
    }
}

#[test]
fn a_reader_may_pass_over_batches_and_columns() {
    let mut log = Log::new();
    log.random_batches(1, &[50, 50]);
    let mut reader = Reader::open(&log.path()).unwrap().committed_since(WallTime(51));
    assert!(read(&mut reader) == log.rows[50..]);
    let mut reader = Reader::open(&log.path()).unwrap().only_columns(|name| name == "time");
    let batch = reader.next_batch().unwrap().unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (100, 1));
    assert_eq!(batch.column(0).null_count(), 0);
    let mut reader = Reader::open(&log.path()).unwrap().only_columns(|_| false);
    assert_eq!(reader.next_batch().unwrap().unwrap().num_rows(), 100);
    let mut reader = Reader::open(&log.path()).unwrap().between(WallTime(0)..=WallTime(1));
    assert!(read(&mut reader).is_empty());
}

#[test]
fn large_logs_come_in_small_batches() {
    let mut log = Log::new();
    log.random_batches(1, &[20_000]);
    let mut reader = Reader::open(&log.path()).unwrap();
    let mut found = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        assert!(batch.num_rows() <= 8192);
        found.extend(rows(&batch));
    }
    assert!(found == log.rows, "definitions were forgotten in between");
}

/// Cut at every byte of its last batches, a log keeps everything before.
#[test]
fn a_torn_tail_costs_only_itself() {
    let mut log = Log::new();
    log.random_batches(1, &[3]);
    let mut ends = vec![log.writer.n_bytes()];
    for n_rows in [1, 1, 2] {
        log.random_batches(n_rows as u64, &[n_rows]);
        ends.push(log.writer.n_bytes());
    }
    let whole = fs::read(log.path()).unwrap();
    let torn = log.folder.path().join("torn");
    let kept_rows = [3, 4, 5, 7];
    for end in ends[0] as usize..=whole.len() {
        fs::write(&torn, &whole[..end]).unwrap();
        let last = ends.iter().rposition(|&whole_end| whole_end as usize <= end).unwrap();
        let expected = &log.rows[..kept_rows[last]];
        // A reader doesn't mind,
        assert!(read(&mut Reader::open(&torn).unwrap()) == expected, "read to {end}");
        // recovery cuts,
        let recovered = recover(&torn).unwrap().unwrap();
        let n_bytes = end as u64 - ends[last];
        assert_eq!(
            recovered.torn,
            (n_bytes > 0).then_some(Torn { n_bytes, is_damaged: false }),
            "cut at {end}"
        );
        assert_eq!(recovered.len, ends[last]);
        // and writing goes on behind it.
        let mut writer = LogWriter::resume(&torn, &recovered).unwrap();
        let mut encoder = Encoder::new(Literals::Kept);
        encoder.begin_log(recovered.n_origins, recovered.n_facts);
        let entry = Entries::new(9).entry();
        encoder.push(&entry).unwrap();
        writer.add(&encoder.take(Vec::new()), WallTime(2));
        writer.sync().unwrap();
        let found = read(&mut Reader::open(&torn).unwrap());
        assert!(found[..expected.len()] == *expected);
        assert!(found[expected.len()..] == [canonical::tests::groups(&entry, Literals::Kept)]);
        assert_eq!(recover(&torn).unwrap().unwrap().torn, None);
    }
}

#[test]
fn a_file_without_a_whole_header_was_never_a_log() {
    let log = Log::new();
    let whole = fs::read(log.path()).unwrap();
    for end in 0..whole.len() {
        fs::write(log.path(), &whole[..end]).unwrap();
        assert!(recover(&log.path()).unwrap().is_none(), "{end}");
    }
    assert!(recover(&log.path().with_extension("not-there")).is_err());
    fs::write(log.path(), vec![b'x'; 500]).unwrap();
    assert!(recover(&log.path()).is_err(), "somebody else's file isn't cut");
}

#[test]
fn any_flip_ends_the_log_before_it() {
    let mut log = Log::new();
    log.random_batches(1, &[5]);
    let start = log.writer.n_bytes() as usize;
    log.random_batches(2, &[2]);
    let whole = fs::read(log.path()).unwrap();
    for at in start..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(log.path(), &flipped).unwrap();
        assert_eq!(recover(&log.path()).unwrap().unwrap().len, start as u64, "{at}");
    }
}

/// A disk that fails in the middle of a batch: what was half written is written again, whole.
#[test]
fn a_write_goes_on_after_a_failure() {
    let mut log = Log::new();
    log.random_batches(1, &[4]);
    log.writer.sync().unwrap();
    log.random_batches(2, &[4]);
    // As if the kernel had dropped the second batch's pages.
    let kept = log.writer.n_bytes() - log.writer.unsynced() as u64;
    let file = fs::OpenOptions::new().write(true).open(log.path()).unwrap();
    file.set_len(kept + 10).unwrap();
    assert!(log.writer.or_rewind(Err(std::io::Error::other("EIO"))).is_err());
    log.random_batches(3, &[1]);
    log.writer.sync().unwrap();
    assert!(read(&mut Reader::open(&log.path()).unwrap()) == log.rows);
    assert_eq!(recover(&log.path()).unwrap().unwrap().commit, log.writer.commit());
}

#[test]
fn garbage_behind_the_log_is_no_batch() {
    let mut log = Log::new();
    log.random_batches(1, &[4]);
    let mut file = fs::OpenOptions::new().append(true).open(log.path()).unwrap();
    for garbage in [&[0; 200][..], &[0xff; 200], &fs::read(log.path()).unwrap()] {
        file.write_all(garbage).unwrap();
        assert!(read(&mut Reader::open(&log.path()).unwrap()) == log.rows);
        assert_eq!(recover(&log.path()).unwrap().unwrap().len, log.writer.n_bytes());
    }
}

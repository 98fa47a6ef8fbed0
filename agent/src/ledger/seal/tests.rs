//! A sealed file holds the log's rows, by time, and its root is over them.

use std::fs::{self, File};

use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};

use super::{SealedSegment, seal};
use crate::{
    event::{Entry, Record, WallTime},
    ledger::{
        canonical::{self, Groups, Literals},
        columns::RowReader,
        encoder::Encoder,
        layout::{Layout, SegmentFile},
        log::{Header, LogWriter},
        merkle,
        samples::{self, Entries},
        schema,
    },
};

struct Ledger {
    _folder: tempfile::TempDir,
    layout: Layout,
}

impl Ledger {
    /// With one log, of which each of `batches` was written at once.
    fn with_log(batches: &[Vec<Entry>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        fs::create_dir(layout.open_dir()).unwrap();
        fs::create_dir(layout.segment_dir()).unwrap();
        let header = Header {
            schema_version: schema::VERSION,
            segment: 3,
            time: WallTime(0),
            previous: [0; 32],
            host: "db-1".to_owned(),
        };
        let mut writer = LogWriter::create(&layout.log(3), &header).unwrap();
        let mut encoder = Encoder::new(Literals::Kept);
        for batch in batches {
            batch.iter().for_each(|entry| encoder.push(entry).unwrap());
            writer.add(&encoder.take(Vec::new()), WallTime(1));
        }
        writer.sync().unwrap();
        Self { _folder: folder, layout }
    }

    fn seal(&self) -> SealedSegment {
        seal(&self.layout, 3, WallTime(77)).unwrap()
    }
}

fn read(segment: &SealedSegment) -> Vec<Groups> {
    let file = File::open(&segment.path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let rows = |batch: RecordBatch| {
        assert_eq!(batch.schema().fields(), schema::schema().fields());
        let reader = RowReader::new(&batch).unwrap();
        let row = |row| {
            let mut groups = Groups::default();
            reader.read(row, &mut groups).unwrap();
            groups
        };
        (0..batch.num_rows()).map(row).collect::<Vec<_>>()
    };
    reader.flat_map(|batch| rows(batch.unwrap())).collect()
}

#[test]
fn a_sealed_file_is_the_log_by_time() {
    for (seed, lens) in [(1, vec![0]), (2, vec![1]), (3, vec![40, 0, 3]), (4, vec![4_000, 5_000])] {
        let mut entries = Entries::new(seed);
        let batches: Vec<Vec<Entry>> =
            lens.iter().map(|&len| (0..len).map(|_| entries.entry()).collect()).collect();
        let ledger = Ledger::with_log(&batches);
        let segment = ledger.seal();

        let mut entries = batches.concat();
        entries.sort_by_key(Entry::time);
        let expected: Vec<Groups> =
            entries.iter().map(|entry| canonical::tests::groups(entry, Literals::Kept)).collect();
        let found = read(&segment);
        assert_eq!(found.len(), expected.len());
        assert!(found == expected, "seed {seed}");

        let leaves: Vec<merkle::Hash> = found
            .iter()
            .map(|row| {
                let mut bytes = Vec::new();
                row.row_bytes(&mut bytes);
                merkle::leaf_hash(&bytes)
            })
            .collect();
        assert_eq!(segment.root, merkle::root(&leaves));
        assert_eq!(segment.n_rows, leaves.len() as u64);
        let bytes = fs::read(&segment.path).unwrap();
        assert_eq!(segment.file_size, bytes.len() as u64);
        assert_eq!(segment.file_sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        let times = entries.first().map_or(WallTime(77), Entry::time)
            ..=entries.last().map_or(WallTime(77), Entry::time);
        assert_eq!(segment.first_time..=segment.last_time, times);
        let named = SegmentFile::parse(&segment.path).unwrap();
        assert_eq!(
            (named.number, named.first_time, named.last_time),
            (3, *times.start(), *times.end())
        );
        assert!(ledger.layout.unfinished().unwrap().is_empty());
    }
}

/// One row may be seconds older than the rows around it: a statement is appended when it ends.
#[test]
fn late_rows_stand_where_they_began() {
    let record = |time: i64| {
        let text = format!("statement {time}: {}", "x".repeat(300));
        Entry::Statement(Record {
            time: WallTime(time),
            text: Some(text.into()),
            ..samples::full_record()
        })
    };
    let mut times: Vec<i64> = (0..9_000).collect();
    for from in (0..9_000).step_by(700) {
        let late = times.remove(from);
        times.insert((from + 4_000).min(8_999), late);
    }
    let ledger = Ledger::with_log(&[times.iter().copied().map(record).collect()]);
    let expected: Vec<Groups> =
        (0..9_000).map(|time| canonical::tests::groups(&record(time), Literals::Kept)).collect();
    assert!(read(&ledger.seal()) == expected);
}

#[test]
fn the_file_says_what_it_is() {
    let ledger = Ledger::with_log(&[vec![Entry::Statement(samples::full_record())]]);
    let segment = ledger.seal();
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(&segment.path).unwrap()).unwrap();
    let metadata = reader.metadata();
    let said = metadata.file_metadata().key_value_metadata().unwrap();
    let said = |key: &str| {
        let pair = said.iter().find(|pair| pair.key == format!("dbwarden.{key}"));
        pair.and_then(|pair| pair.value.clone()).unwrap()
    };
    let root: String = segment.root.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(said("schema_version"), schema::VERSION.to_string());
    assert_eq!(said("segment"), "3");
    assert_eq!(said("host"), "db-1");
    assert_eq!(said("merkle_root"), root);
    let has_bloom_filter = |name: &str| {
        let column = metadata
            .row_group(0)
            .columns()
            .iter()
            .find(|column| column.column_path().string() == name);
        column.unwrap().bloom_filter_offset().is_some()
    };
    assert!(has_bloom_filter("connection") && has_bloom_filter("keys.list.element"));
    assert!(!has_bloom_filter("time"));
}

#[test]
fn a_log_that_makes_no_sense_leaves_nothing_behind() {
    let ledger = Ledger::with_log(&[]);
    fs::write(ledger.layout.log(3), b"garbage").unwrap();
    assert!(seal(&ledger.layout, 3, WallTime(0)).is_err());
    assert!(ledger.layout.unfinished().unwrap().is_empty());
    assert_eq!(ledger.layout.segments().unwrap(), []);
}

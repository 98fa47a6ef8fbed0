//! Files as each version of the schema wrote them: every later version must read them.

use std::{fs, fs::File};

use arrow_array::RecordBatch;
use base64::{Engine, engine::general_purpose::STANDARD};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{
    canonical::{self, Groups, Literals},
    columns::RowReader,
    log::{Reader, recover},
    merkle, samples,
};
use crate::event::Entry;

/// What version 1 was given: the fullest record, the emptiest, and an occurrence.
fn version_1() -> Vec<Groups> {
    let entries = [
        Entry::Statement(samples::full_record()),
        Entry::Statement(samples::empty_record()),
        Entry::Occurrence(samples::occurrence()),
    ];
    entries.iter().map(|entry| canonical::tests::groups(entry, Literals::Kept)).collect()
}

fn decoded(base64: &str) -> Vec<u8> {
    STANDARD.decode(base64.split_whitespace().collect::<String>()).unwrap()
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

#[test]
fn a_log_of_version_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, decoded(include_str!("version-1.log.base64"))).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader.next_batch().unwrap().unwrap()), version_1());
    let recovered = recover(&path).unwrap().unwrap();
    assert_eq!((recovered.header.schema_version, recovered.commit.rows), (1, 3));
    assert_eq!(recovered.torn, None);
}

#[test]
fn a_segment_of_version_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("segment");
    fs::write(&path, decoded(include_str!("version-1.parquet.base64"))).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
    let pairs = builder.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let found: Vec<Groups> =
        builder.build().unwrap().flat_map(|batch| rows(&batch.unwrap())).collect();
    // By time: the emptiest comes first.
    let [full, empty, occurrence]: [Groups; 3] = version_1().try_into().unwrap();
    let expected = [empty, full, occurrence];
    assert_eq!(found, expected);
    let leaf = |row: &Groups| {
        let mut bytes = Vec::new();
        row.row_bytes(&mut bytes);
        merkle::leaf_hash(&bytes)
    };
    let root: String = merkle::root(&expected.each_ref().map(leaf))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let said = pairs.iter().find(|pair| pair.key == "dbwarden.merkle_root").unwrap();
    assert_eq!(said.value.as_deref(), Some(root.as_str()));
}

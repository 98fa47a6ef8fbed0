//! Entry → bytes → Arrow → bytes is the identity.

use arrow_array::{Array, RecordBatch, StringArray};

use super::{BatchBuilder, RowReader};
use crate::{
    event::Entry,
    ledger::{
        canonical::{self, Groups, Literals},
        samples::{self, Entries},
        schema,
    },
};

fn batch(rows: &[Groups]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for row in rows {
        let origin = builder.origin(&row.origin).unwrap();
        let facts = builder.facts(&row.facts).unwrap();
        builder.row(origin, facts, &row.row).unwrap();
    }
    assert_eq!(builder.n_rows(), rows.len());
    builder.finish().unwrap()
}

fn read(batch: &RecordBatch) -> Vec<Groups> {
    let reader = RowReader::new(batch).unwrap();
    let read = |row| {
        let mut groups = Groups::default();
        reader.read(row, &mut groups).unwrap();
        groups
    };
    (0..batch.num_rows()).map(read).collect()
}

#[test]
fn there_and_back_is_the_identity() {
    for seed in 0..40 {
        let mut entries = Entries::new(seed);
        let literals = [Literals::Redacted, Literals::Kept][seed as usize % 2];
        let rows: Vec<Groups> = (0..entries.below(60))
            .map(|_| canonical::tests::groups(&entries.entry(), literals))
            .collect();
        let batch = batch(&rows);
        assert_eq!(batch.schema(), schema::schema());
        assert_eq!(read(&batch), rows, "seed {seed}");
    }
}

#[test]
fn a_builder_serves_again() {
    let rows =
        [canonical::tests::groups(&Entry::Statement(samples::full_record()), Literals::Redacted)];
    let mut builder = BatchBuilder::new();
    for _ in 0..2 {
        let origin = builder.origin(&rows[0].origin).unwrap();
        let facts = builder.facts(&rows[0].facts).unwrap();
        builder.row(origin, facts, &rows[0].row).unwrap();
        assert_eq!(read(&builder.finish().unwrap()), rows);
    }
    assert!(builder.row(0, 0, &rows[0].row).is_err(), "its definitions are gone");
}

#[test]
fn columns_hold_what_they_are_named_for() {
    let batch = batch(&[canonical::tests::groups(
        &Entry::Statement(samples::full_record()),
        Literals::Redacted,
    )]);
    for (column, expected) in [
        ("record", "statement"),
        ("host", "db-1"),
        ("connection", "67ab000000000001"),
        ("fingerprint", "0123456789abcdef"),
        ("text", "DELETE FROM songs WHERE id = ? AND title = ?"),
        ("analysis", "complete"),
        ("transaction", "failed"),
    ] {
        let texts = batch.column_by_name(column).unwrap();
        let texts = texts.as_any().downcast_ref::<StringArray>().unwrap();
        assert_eq!(texts.value(0), expected, "{column}");
    }
    for column in ["parameters", "principal", "counts"] {
        assert!(batch.column_by_name(column).unwrap().is_null(0), "{column}");
    }
}

/// A file of an earlier version lacks the columns that came later.
#[test]
fn a_missing_column_is_null_and_an_unknown_one_is_refused() {
    let rows =
        [canonical::tests::groups(&Entry::Statement(samples::full_record()), Literals::Redacted)];
    let batch = batch(&rows);
    let without: Vec<usize> = (0..batch.num_columns() - 3).collect();
    assert_eq!(read(&batch.project(&without).unwrap()), rows);
    let renamed = RecordBatch::try_from_iter([("surprise", batch.column(0).clone())]).unwrap();
    assert!(RowReader::new(&renamed).is_err());
}

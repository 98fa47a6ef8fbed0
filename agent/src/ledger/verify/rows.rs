//! The leaf hashes of a sealed file's rows, from what stands in it.

use std::fs::File;

use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::ledger::{
    canonical::{self, GroupHash, Groups},
    columns::{Mismatch, RowReader},
    merkle::{self, Hash},
};

#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error(transparent)]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error(transparent)]
    Columns(#[from] Mismatch),
    #[error("it makes the reader of Parquet files fail")]
    Panicked,
}

/// Hashes rows; what neighbours have in common is hashed once.
#[derive(Debug, Default)]
pub struct LeafHasher {
    groups: Groups,
    origin: (Vec<u8>, Option<GroupHash>),
    facts: (Vec<u8>, Option<GroupHash>),
    row: Vec<u8>,
}

impl LeafHasher {
    /// Hands the leaf hash of each row of a batch to `leaf`, in order, with what it is a hash of.
    pub fn hash(
        &mut self,
        batch: &RecordBatch,
        leaf: &mut dyn FnMut(Hash, &Groups),
    ) -> Result<(), Mismatch> {
        let reader = RowReader::new(batch)?;
        for row in 0..batch.num_rows() {
            reader.read(row, &mut self.groups)?;
            let origin = group_hash(&mut self.origin, &self.groups.origin);
            let facts = group_hash(&mut self.facts, &self.groups.facts);
            canonical::row_bytes(&origin, &facts, &self.groups.row, &mut self.row);
            leaf(merkle::leaf_hash(&self.row), &self.groups);
        }
        Ok(())
    }
}

fn group_hash(last: &mut (Vec<u8>, Option<GroupHash>), group: &[u8]) -> GroupHash {
    match last {
        (bytes, Some(hash)) if bytes == group => *hash,
        (bytes, known) => {
            bytes.clear();
            bytes.extend_from_slice(group);
            *known.insert(canonical::group_hash(group))
        }
    }
}

/// Hands the leaf hashes of a file's rows to `leaf`, with the rows, until it says that it has enough.
pub(in crate::ledger) fn of_file(
    file: File,
    leaf: &mut dyn FnMut(Hash, &Groups) -> bool,
) -> Result<(), RowsError> {
    let batches = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    let (mut hasher, mut wants_more) = (LeafHasher::default(), true);
    for batch in batches {
        hasher.hash(&batch?, &mut |hash, row| wants_more = leaf(hash, row))?;
        if !wants_more {
            break;
        }
    }
    Ok(())
}

//! The Parquet file of a sealed segment: how its columns are coded, and what it says of itself.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use arrow_array::RecordBatch;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use sha2::{Digest, Sha256};

use crate::ledger::{
    log::Header,
    merkle::Hash,
    schema::{self, COLUMNS},
};

const MAX_ROW_GROUP_ROWS: usize = 128 * 1024;
/// What a row group may take up in memory before it is written out.
const MAX_ROW_GROUP_BYTES: usize = 24 << 20;

/// Numbers that differ from row to row by little, or by nothing that a dictionary could hold.
const DELTA_CODED: &[&str] = &["time", "duration_us", "first_byte_us", "sequence"];
/// What somebody looks for by its exact value, where a row group's least and greatest say nothing.
const POINT_SEARCHED: &[&[&str]] =
    &[&["connection"], &["fingerprint"], &["pid"], &["trace_id"], &["keys", "list", "element"]];

/// What is searched for what it contains, or not at all: least and greatest would only cost time.
const UNORDERED: &[&[&str]] = &[
    &["text"],
    &["exe"],
    &["command"],
    &["cgroup"],
    &["parents", "list", "element", "pid"],
    &["parents", "list", "element", "comm"],
    &["tables", "list", "element", "access"],
    &["columns", "list", "element"],
    &["effects", "list", "element"],
    &["functions", "list", "element"],
];

pub struct SegmentWriter {
    writer: ArrowWriter<HashedFile>,
}

/// What became of the file.
pub struct Written {
    pub size: u64,
    pub sha256: Hash,
}

impl SegmentWriter {
    pub fn create(path: &Path, header: &Header) -> Result<Self, ParquetError> {
        let file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        let file = HashedFile { file, sha256: Sha256::new(), size: 0 };
        let schema = schema::schema();
        let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties()?))?;
        for (key, value) in [
            ("dbwarden.schema_version", header.schema_version.to_string()),
            ("dbwarden.segment", header.segment.to_string()),
            ("dbwarden.host", header.host.clone()),
        ] {
            writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        Ok(Self { writer })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.writer.write(batch)?;
        if self.writer.memory_size() > MAX_ROW_GROUP_BYTES {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Makes the file durable.
    pub fn finish(mut self, root: Hash) -> Result<Written, ParquetError> {
        let root: String = root.iter().map(|byte| format!("{byte:02x}")).collect();
        self.writer
            .append_key_value_metadata(KeyValue::new("dbwarden.merkle_root".to_owned(), root));
        let file = self.writer.into_inner()?;
        file.file.sync_all()?;
        Ok(Written { size: file.size, sha256: file.sha256.finalize().into() })
    }
}

fn properties() -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("dbwarden ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(MAX_ROW_GROUP_ROWS));
    let by_time = COLUMNS.iter().position(|column| column.name == "time");
    properties = properties.set_sorting_columns(by_time.map(|at| {
        vec![SortingColumn { column_idx: at as i32, descending: false, nulls_first: false }]
    }));
    for name in DELTA_CODED {
        let path = ColumnPath::from(*name);
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    for path in UNORDERED {
        properties =
            properties.set_column_statistics_enabled(column_path(path), EnabledStatistics::None);
    }
    for path in POINT_SEARCHED {
        let path = column_path(path);
        // Made for as many values as there can be, then folded to as many as there are.
        properties = properties
            .set_column_bloom_filter_fpp(path.clone(), 0.01)
            .set_column_bloom_filter_max_ndv(path, MAX_ROW_GROUP_ROWS as u64);
    }
    Ok(properties.build())
}

fn column_path(parts: &[&str]) -> ColumnPath {
    let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
    ColumnPath::from(parts)
}

/// A file whose hash is known as soon as it is written.
struct HashedFile {
    file: File,
    sha256: Sha256,
    size: u64,
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.sha256.update(bytes.get(..len).unwrap_or_default());
        self.size += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

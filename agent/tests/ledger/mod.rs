//! Ledgers made of a few rows that tests write down, and questions to them.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod served;

use std::{fs, io::Cursor, path::Path, sync::Arc};

use datafusion::arrow::{
    array::RecordBatch,
    compute::{SortColumn, lexsort_to_indices, take_record_batch},
    json::ReaderBuilder,
};
use dbwarden::{
    event::WallTime,
    ledger::{
        canonical::Groups,
        columns::RowReader,
        layout::Layout,
        log::{Header, LogWriter, Piece, Rows},
        schema::{VERSION, schema},
        seal::SegmentWriter,
    },
    search::{Options, Place, work},
};
use serde_json::{Value, json};

/// 2026-11-23 14:00 UTC.
const BEGIN_US: i64 = 1_795_442_400_000_000;

/// A ledger in a temporary folder.
pub struct Made {
    folder: tempfile::TempDir,
    layout: Layout,
}

/// A row with number and second `n`: what all have, over it `origin`, over that `changes`. Tables are
/// written `[name, access]`.
pub fn row(n: u64, origin: &Value, changes: Value) -> Value {
    let mut row = json!({
        "record": "statement", "sequence": n, "time": time(n), "host": "db1", "server": "main",
        "connection": "0000000000000001", "text_known": true,
    });
    for part in [origin, &changes] {
        row.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    }
    if let Some(tables) = row.get_mut("tables").and_then(Value::as_array_mut) {
        for table in tables {
            *table = json!({"name": table[0], "access": table[1]});
        }
    }
    row
}

fn time(n: u64) -> String {
    WallTime(BEGIN_US + n as i64 * 1_000_000).to_string()
}

/// One sealed segment with these rows.
pub fn ledger_of(rows: &[Value]) -> Made {
    let made = Made::new();
    made.seal(1, rows);
    made
}

impl Made {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        fs::create_dir(layout.open_dir()).unwrap();
        fs::create_dir(layout.segment_dir()).unwrap();
        Self { folder, layout }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The time of row `n`.
    pub fn time(&self, n: u64) -> String {
        time(n)
    }

    pub fn seal(&self, number: u64, rows: &[Value]) {
        let batch = sorted(&batch(rows));
        let unfinished = self.layout.unfinished_segment(number);
        let mut writer = SegmentWriter::create(&unfinished, &header(number)).unwrap();
        writer.write(&batch).unwrap();
        writer.finish([0; 32]).unwrap();
        let mut times: Vec<i64> = rows.iter().map(micros).collect();
        times.sort_unstable();
        let (first, last) = (WallTime(times[0]), WallTime(times[times.len() - 1]));
        fs::rename(unfinished, self.layout.segment(number, first, last)).unwrap();
    }

    pub fn open(&self, number: u64, rows: &[Value]) {
        let batch = batch(rows);
        let reader = RowReader::new(&batch).unwrap();
        let mut log = LogWriter::create(&self.layout.log(number), &header(number)).unwrap();
        for (at, row) in rows.iter().enumerate() {
            let mut groups = Groups::default();
            reader.read(at, &mut groups).unwrap();
            let n = at as u32;
            let mut payload = Vec::new();
            Piece::Origin { number: n, group: &groups.origin }.encode(&mut payload);
            Piece::Facts { number: n, group: &groups.facts }.encode(&mut payload);
            Piece::Row { origin: n, facts: n, group: &groups.row }.encode(&mut payload);
            let time = WallTime(micros(row));
            log.add(&Rows { payload, n_rows: 1, times: Some((time, time)) }, time);
        }
        log.sync().unwrap();
    }
}

fn micros(row: &Value) -> i64 {
    serde_json::from_value::<WallTime>(row["time"].clone()).unwrap().0
}

fn header(number: u64) -> Header {
    Header {
        schema_version: VERSION,
        segment: number,
        time: WallTime(BEGIN_US),
        previous: [0; 32],
        host: "db1".into(),
    }
}

fn batch(rows: &[Value]) -> RecordBatch {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let mut reader = ReaderBuilder::new(schema())
        .with_batch_size(rows.len())
        .with_strict_mode(true)
        .build(Cursor::new(lines.join("\n")))
        .unwrap();
    reader.next().unwrap().unwrap()
}

fn sorted(batch: &RecordBatch) -> RecordBatch {
    let time = Arc::clone(batch.column_by_name("time").unwrap());
    let order = lexsort_to_indices(&[SortColumn { values: time, options: None }], None).unwrap();
    take_record_batch(batch, &order).unwrap()
}

/// What a worker has answered.
#[derive(Debug)]
pub struct Asked {
    pub rows: Vec<Value>,
    pub end: Value,
    pub error: Option<String>,
}

pub fn ask(made: &Made, request: Value) -> Asked {
    let mut output = Vec::new();
    // What went wrong is in the answer too.
    let place = Place::Folder(made.path().to_owned());
    let _ = work(&place, &Options::default(), request.to_string().as_bytes(), &mut output);
    let mut asked = Asked { rows: Vec::new(), end: Value::Null, error: None };
    for line in String::from_utf8(output).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        match (line.get("@columns"), line.get("@end"), line.get("@error")) {
            (Some(_), ..) => {}
            (_, Some(end), _) => asked.end = end.clone(),
            (.., Some(words)) => asked.error = Some(words.as_str().unwrap().to_owned()),
            _ => asked.rows.push(line),
        }
    }
    asked
}

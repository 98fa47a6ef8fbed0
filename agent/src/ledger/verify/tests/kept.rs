//! A ledger as the service keeps it, without the service; and ways to change it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::{concat::concat_batches, take::take_record_batch};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

use crate::{
    event::{Entry, WallTime},
    ledger::{
        SealedSegment, Witness,
        canonical::Literals,
        checkpoint::OpenSegment,
        encoder::Encoder,
        keys::Keys,
        layout::Layout,
        log::{Header, LogWriter},
        merkle::Hash,
        root_log::RootLog,
        samples::{self, Entries},
        schema,
        seal::seal,
        verify::{Options, Report, verify},
    },
};

/// A ledger as the service keeps it, without the service.
pub struct Ledger {
    place: tempfile::TempDir,
    root_log: Option<RootLog>,
    pub writer: Option<LogWriter>,
    pub encoder: Encoder,
    pub entries: Entries,
    previous: Hash,
    now: i64,
}

impl Ledger {
    pub fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut ledger = Self {
            place,
            root_log: None,
            writer: None,
            encoder: Encoder::new(Literals::Redacted),
            entries: Entries::new(1),
            previous: [0; 32],
            now: 1_795_000_000_000_000,
        };
        ledger.start();
        for folder in ["open", "segments"] {
            fs::create_dir(ledger.path(folder)).unwrap();
        }
        ledger.begin(1);
        ledger
    }

    /// Two sealed segments of 1500 and 5 rows, the third open with 7 signed rows.
    pub fn of_three_segments() -> Self {
        let mut ledger = Self::new();
        ledger.commit(1_000);
        ledger.commit(500);
        ledger.seal();
        ledger.commit(5);
        ledger.seal();
        ledger.commit(3);
        ledger.commit(4);
        ledger.stop();
        ledger
    }

    pub fn root(&self) -> PathBuf {
        self.place.path().join("ledger")
    }

    pub fn keys(&self) -> PathBuf {
        self.place.path().join("keys")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.root())
    }

    pub fn start(&mut self) {
        let keys = Keys::open_or_create(&self.keys(), "db1").unwrap();
        self.root_log = Some(RootLog::open(&self.root(), keys, self.tick()).unwrap());
    }

    pub fn stop(&mut self) {
        self.root_log = None;
    }

    pub fn log(&mut self) -> &mut RootLog {
        self.root_log.as_mut().unwrap()
    }

    pub fn tick(&mut self) -> WallTime {
        self.now += 1_000_000;
        WallTime(self.now)
    }

    pub fn begin(&mut self, segment: u64) {
        let header = Header {
            schema_version: schema::VERSION,
            segment,
            time: self.tick(),
            previous: self.previous,
            host: "db1".to_owned(),
        };
        self.writer = Some(LogWriter::create(&self.layout().log(segment), &header).unwrap());
        self.encoder.begin_log(0, 0);
    }

    /// Appends rows to the open log, without a signature.
    pub fn append(&mut self, n_rows: usize) -> OpenSegment {
        let now = self.tick();
        for i in 0..n_rows {
            let mut record = samples::full_record();
            record.time = WallTime(now.0 + i as i64);
            record.bytes_in = self.entries.draw();
            self.encoder.push(&Entry::Statement(record)).unwrap();
        }
        let writer = self.writer.as_mut().unwrap();
        writer.add(&self.encoder.take(Vec::new()), now);
        writer.sync().unwrap();
        OpenSegment { number: writer.segment(), commit: writer.commit() }
    }

    pub fn commit(&mut self, n_rows: usize) {
        let (open, now) = (self.append(n_rows), self.tick());
        self.log().committed(&[open], now).unwrap();
    }

    /// Writes the file of the open segment.
    pub fn write_segment(&mut self) -> SealedSegment {
        let (number, now) = (self.writer.as_ref().unwrap().segment(), self.tick());
        seal(&self.layout(), number, now).unwrap()
    }

    pub fn seal(&mut self) {
        let (sealed, now) = (self.write_segment(), self.tick());
        self.log().sealed(&sealed, now).unwrap();
        fs::remove_file(self.layout().log(sealed.number)).unwrap();
        self.previous = sealed.chain;
        self.begin(sealed.number + 1);
    }

    /// The file of a sealed segment.
    pub fn segment(&self, number: u64) -> PathBuf {
        let segments = self.layout().segments().unwrap();
        segments.into_iter().find(|segment| segment.number == number).unwrap().path
    }

    pub fn options(&self) -> Options<'static> {
        // Tests are short.
        let leaked = |path: PathBuf| Box::leak(path.into_boxed_path());
        Options {
            ledger: leaked(self.root()),
            keys: leaked(self.keys()),
            key: None,
            checkpoint: None,
            since: None,
        }
    }

    pub fn verify(&self) -> Report {
        verify(&self.options(), &mut |_| {}).unwrap()
    }

    pub fn check(&self, expected: &[(&str, Option<u64>, Option<u64>)]) {
        assert_findings(&self.verify(), expected);
    }

    pub fn twin(&self) -> Self {
        let mut twin = Self { root_log: None, writer: None, ..Self::new() };
        twin.previous = self.previous;
        twin.now = self.now;
        fs::remove_dir_all(twin.place.path().join("ledger")).unwrap();
        fs::remove_dir_all(twin.place.path().join("keys")).unwrap();
        copy(self.place.path(), twin.place.path());
        twin
    }
}

pub fn assert_findings(report: &Report, expected: &[(&str, Option<u64>, Option<u64>)]) {
    let found: Vec<_> = report.findings.iter().map(|f| (f.code, f.segment, f.row)).collect();
    assert_eq!(found, expected, "{:#?}", report.findings);
}

pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            fs::set_permissions(&target, entry.metadata().unwrap().permissions()).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn file_rows(path: &Path) -> RecordBatch {
    let file = File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

pub fn write_rows(path: &Path, rows: &RecordBatch) {
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

/// Writes the file anew with these of its rows.
pub fn rearrange(path: &Path, places: &[u32]) {
    let rows = file_rows(path);
    let rows = take_record_batch(&rows, &UInt32Array::from(places.to_vec())).unwrap();
    write_rows(path, &rows);
}

//! The ledger when its process is killed and when its disk is full: nothing that was kept is lost.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use arrow_array::{RecordBatch, UInt64Array, cast::AsArray, types::UInt64Type};
use dbwarden::{
    event::{Entry, Origin, Parameter, Record, StatementKind, WallTime},
    ledger::{
        Appended, Ledger, Literals, Options, Removal, SealedSegment, Witness, WitnessError,
        canonical::{Fields, Value},
        checkpoint::OpenSegment,
        layout::Layout,
        log::{Payload, Piece, Reader, ScanError, Scanner, Trust},
        schema::{COLUMNS, Group},
    },
};
use dbwarden_tests::{need_root, pattern::Numbers, said};
use nix::sys::signal::{Signal, kill};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

const KILLS: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(60);
/// Set for the process that writes until it is killed: the ledger's directory.
const WRITER: &str = "DBWARDEN_TEST_LEDGER_WRITER";

/// Tells on standard output what is durable, and remembers across kills what was sealed.
struct Notes {
    directory: PathBuf,
    sealed_rows: BTreeMap<u64, u64>,
}

impl Notes {
    fn open(directory: &Path) -> Result<Self> {
        let noted = fs::read_to_string(directory.with_extension("notes")).unwrap_or_default();
        let mut sealed_rows = BTreeMap::new();
        for line in noted.lines() {
            let (number, rows) = line.split_once(' ').context("a note without rows")?;
            sealed_rows.insert(number.parse()?, rows.parse()?);
        }
        Ok(Self { directory: directory.to_owned(), sealed_rows })
    }
}

impl Witness for Notes {
    fn committed(&mut self, open: &[OpenSegment], _: WallTime) -> Result<(), WitnessError> {
        let open = open.iter().map(|open| open.commit.rows).sum::<u64>();
        println!("durable {}", self.sealed_rows.values().sum::<u64>() + open);
        Ok(())
    }

    fn sealed(&mut self, segment: &SealedSegment, _: WallTime) -> Result<(), WitnessError> {
        let mut notes = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.with_extension("notes"))?;
        notes.write_all(format!("{} {}\n", segment.number, segment.n_rows).as_bytes())?;
        self.sealed_rows.insert(segment.number, segment.n_rows);
        Ok(())
    }

    fn is_sealed(&self, number: u64) -> bool {
        self.sealed_rows.contains_key(&number)
    }

    fn removed(&mut self, _: &Removal, _: WallTime) -> Result<(), WitnessError> {
        Ok(())
    }
}

fn now() -> WallTime {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    WallTime(since.as_micros() as i64)
}

fn options(directory: &Path) -> Options {
    Options {
        commit_interval: Duration::from_millis(20),
        seal_bytes: 256 << 10,
        min_free_bytes: 0,
        literals: Literals::Kept,
        ..Options::new(directory)
    }
}

fn open(directory: &Path) -> Result<Ledger> {
    let notes = Box::new(Notes::open(directory)?);
    Ok(Ledger::open(options(directory), "db-1", notes, now())?)
}

fn statement(sequence: u64, origin: &Arc<Origin>) -> Entry {
    Entry::Statement(Record {
        time: now(),
        duration_us: Some(sequence % 777),
        first_byte_us: None,
        origin: origin.clone(),
        sequence,
        claims: None,
        text: Some("SELECT 1".into()),
        standard_conforming_strings: Some(true),
        parameters: Vec::new(),
        kind: StatementKind::Simple,
        facts: None,
        keys: Vec::new(),
        rows: Some(1),
        bytes_in: 20,
        bytes_out: 60,
        error_code: None,
        error_message: None,
        redacted_error: None,
        transaction: Some("idle"),
        judgement: None,
        approval: None,
        masked: Arc::default(),
        truncated_bytes: 0,
        lost_bytes: 0,
        joined_midstream: false,
    })
}

/// What the killed process does; for itself it is no test.
#[test]
fn writes_until_it_is_killed() -> Result<()> {
    let Some(directory) = env::var_os(WRITER) else { return Ok(()) };
    let directory = PathBuf::from(directory);
    let mut ledger = open(&directory)?;
    let origin = Arc::new(Origin { host: "db-1".into(), ..Origin::default() });
    let mut sequence = Rows::default().follow(&directory)?;
    loop {
        for _ in 0..100 {
            match ledger.append(&statement(sequence + 1, &origin)) {
                Appended::Accepted => sequence += 1,
                Appended::Full => thread::yield_now(),
                Appended::TooLarge => bail!("a small row is too large"),
            }
        }
        ledger.tick(now());
    }
}

/// Rows by sequence, which starts at 1: what has been looked at of sealed segments, once.
#[derive(Default)]
struct Rows {
    sealed: BTreeMap<u64, Found>,
    /// Rows by which the ledger itself tells that it was full, when it was last looked at.
    others: u64,
}

/// Of one log or segment.
#[derive(Clone, Default)]
struct Found {
    rows: Range<u64>,
    others: u64,
}

impl Rows {
    /// The last row, once it is known that all before it are there, in order, each once.
    fn follow(&mut self, directory: &Path) -> Result<u64> {
        let layout = Layout::new(directory);
        // The logs first: one that is gone by the time that it is opened is among the segments then.
        let mut found = BTreeMap::new();
        for log in layout.logs()? {
            if !self.sealed.contains_key(&log.number)
                && let Some(sequences) = open_sequences(&log.path)?
            {
                found.insert(log.number, Found::of(&sequences)?);
            }
        }
        for segment in layout.segments()? {
            if let std::collections::btree_map::Entry::Vacant(entry) =
                self.sealed.entry(segment.number)
            {
                entry.insert(Found::of(&sealed_sequences(&segment.path)?)?);
            }
        }
        found.extend(self.sealed.clone());
        self.others = found.values().map(|found| found.others).sum();
        let rows = found.into_iter().map(|(number, found)| (number, found.rows));
        let mut next = 1;
        for (number, rows) in rows.filter(|(_, rows)| !rows.is_empty()) {
            ensure!(rows.start == next, "segment {number} has {rows:?}, but {next} is missing");
            next = rows.end;
        }
        Ok(next - 1)
    }
}

impl Found {
    /// Of rows that are no statements there is no number.
    fn of(sequences: &[Option<u64>]) -> Result<Self> {
        let numbered: Vec<u64> = sequences.iter().copied().flatten().collect();
        let others = (sequences.len() - numbered.len()) as u64;
        let (Some(&first), Some(&last)) = (numbered.first(), numbered.last()) else {
            return Ok(Self { rows: 0..0, others });
        };
        let gap = numbered.windows(2).find(|pair| pair[1] != pair[0] + 1);
        ensure!(gap.is_none(), "rows follow each other as {gap:?}");
        Ok(Self { rows: first..last + 1, others })
    }
}

fn sequences(batch: &RecordBatch) -> Vec<Option<u64>> {
    let column = batch.column_by_name("sequence").map(|column| column.as_primitive::<UInt64Type>());
    column.into_iter().flat_map(UInt64Array::iter).collect()
}

fn sealed_sequences(path: &Path) -> Result<Vec<Option<u64>>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["sequence"]);
    let reader = builder.with_projection(mask).build()?;
    let mut found = Vec::new();
    for batch in reader {
        found.extend(sequences(&batch?));
    }
    found.sort_unstable();
    Ok(found)
}

/// Read as a search does, but for the columns: a log that is checked again and again isn't made into
/// Arrow each time. `None` if the log is gone, or so new that it has no header yet.
fn open_sequences(path: &Path) -> Result<Option<Vec<Option<u64>>>> {
    let mut scanner = match Scanner::open(path, Trust::Nothing) {
        Err(ScanError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(ScanError::Header(_)) => return Ok(None),
        scanner => scanner?,
    };
    let mut found = Vec::new();
    while let Some((batch, _)) = scanner.next_batch()? {
        for (_, piece) in Payload::new(batch.payload) {
            if let Piece::Row { group, .. } = piece {
                found.push(sequence(group)?);
            }
        }
    }
    Ok(Some(found))
}

/// Of a row's canonical bytes; rows that are no statements have none.
fn sequence(group: &[u8]) -> Result<Option<u64>> {
    for field in Fields::new(Group::Row, group) {
        if let (index, Value::U64(value)) = field?
            && COLUMNS[index].name == "sequence"
        {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// At fifty random moments under full load. What the witness was told is durable, and what somebody saw
/// in the log, is there afterwards.
#[test]
fn kill_9_loses_nothing_that_was_durable_or_seen() -> Result<()> {
    // A kill leaves the kernel's pages alone, so that memory does for a disk where there is any.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let directory = folder.path().join("ledger");
    let mut numbers = Numbers(now().0 as u64);
    let mut rows = Rows::default();
    let (mut kept, mut lost_tails) = (0, 0);
    for round in 0..KILLS {
        let mut writer = Command::new(env::current_exe()?)
            .args(["--exact", "writes_until_it_is_killed", "--nocapture"])
            .env(WRITER, &directory)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(writer.stdout.take().context("no standard output")?).lines();
        // Until something is durable, a kill would only test the start.
        let mut durable = durable(&mut lines)?.context("the writer ended by itself")?;
        let deadline = Instant::now() + Duration::from_micros(numbers.below(150_000));
        let mut seen = kept;
        while Instant::now() < deadline {
            seen = seen.max(rows.follow(&directory)?);
        }
        kill(nix::unistd::Pid::from_raw(writer.id() as i32), Signal::SIGKILL)?;
        while let Some(later) = self::durable(&mut lines)? {
            durable = durable.max(later);
        }
        writer.wait()?;
        let before = rows.follow(&directory)?;
        // Recovery cuts what isn't whole, finishes what was begun, and keeps the rest.
        let mut ledger = open(&directory)?;
        // Each kill leaves a segment half sealed, and now and then all are sealed again.
        while round % 5 == 4 && ledger.status().unsealed_segments > 0 {
            ledger.tick(now());
            thread::park_timeout(Duration::from_millis(5));
        }
        ledger.close()?;
        let after = rows.follow(&directory)?;
        let all = after + rows.others;
        ensure!(all >= durable, "round {round}: {durable} rows were durable, {all} are there");
        ensure!(after >= seen, "round {round}: {seen} rows were seen, {after} are there");
        ensure!(after == before, "round {round}: {before} rows before recovery, {after} after");
        lost_tails += u64::from(after > durable);
        kept = after;
    }
    println!("{kept} rows over {KILLS} kills; {lost_tails} times more was kept than was durable");
    ensure!(rows.sealed.len() > 5, "only {} segments were sealed", rows.sealed.len());
    Ok(())
}

/// The next number of durable rows; `None` at the end.
fn durable(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Result<Option<u64>> {
    for line in lines {
        if let Some(rows) = line?.strip_prefix("durable ") {
            return Ok(Some(rows.parse()?));
        }
    }
    Ok(None)
}

/// A small filesystem in memory, gone when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(mib: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let size = format!("size={mib}m,mode=700");
        said(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()))?;
        Ok(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the room that is left.
    fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.path().join("ballast"))?;
        let block = vec![0; 4096];
        while ballast.write_all(&block).is_ok() {}
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.path().join("ballast"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path()).status();
    }
}

/// ENOSPC in the middle of a write, and again while a segment is being sealed or begun.
#[test]
fn a_full_disk_pauses_the_ledger_and_it_goes_on_by_itself() -> Result<()> {
    need_root!();
    let disk = SmallDisk::mount(48)?;
    let directory = disk.path().join("ledger");
    let mut ledger = open(&directory)?;
    let origin = Arc::new(Origin { host: "db-1".into(), ..Origin::default() });
    // Large rows, so that what the ledger may keep in memory is soon full.
    let parameter = Parameter::Text("x".repeat(8192));
    let statement = |sequence| match statement(sequence, &origin) {
        Entry::Statement(record) => {
            Entry::Statement(Record { parameters: vec![parameter.clone()], ..record })
        }
        other => other,
    };
    let mut accepted = 0;
    let mut refused = 0;
    for round in 1..=3 {
        disk.fill()?;
        let deadline = Instant::now() + PATIENCE;
        let refused_before = refused;
        while refused < refused_before + 1000 || ledger.status().paused.is_none() {
            ensure!(Instant::now() < deadline, "never full: {:?}", ledger.status());
            match ledger.append(&statement(accepted + 1)) {
                Appended::Accepted => accepted += 1,
                Appended::Full => refused += 1,
                Appended::TooLarge => bail!("a small row is too large"),
            }
            if accepted % 100 == 0 {
                ledger.tick(now());
            }
        }
        let status = ledger.status();
        let paused = status.paused.context("refused without being paused")?;
        // It may have fallen behind before it found the disk full.
        ensure!(paused.contains("No space left on device"), "{paused}");
        ensure!(status.missed_rows == refused, "{} of {refused} counted", status.missed_rows);
        disk.make_room()?;
        while {
            ledger.tick(now());
            let status = ledger.status();
            status.paused.is_some() || status.unsealed_segments > 0
        } {
            ensure!(Instant::now() < deadline, "round {round}: {:?}", ledger.status());
            thread::park_timeout(Duration::from_millis(5));
        }
    }
    ledger.close()?;
    let kept = Rows::default().follow(&directory)?;
    ensure!(kept == accepted, "{accepted} rows were accepted, {kept} are there");
    let gaps = gaps(&directory)?;
    ensure!(gaps.iter().sum::<u64>() == refused, "{refused} were refused, the rows say {gaps:?}");
    Ok(())
}

/// The `lost_rows` of each gap row.
fn gaps(directory: &Path) -> Result<Vec<u64>> {
    let layout = Layout::new(directory);
    let mut batches = Vec::new();
    for segment in layout.segments()? {
        let file = File::open(&segment.path)?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
            batches.push(batch?);
        }
    }
    for log in layout.logs()? {
        let mut reader = Reader::open(&log.path)?;
        while let Some(batch) = reader.next_batch()? {
            batches.push(batch);
        }
    }
    let mut gaps = Vec::new();
    for batch in &batches {
        let column = |name: &str| batch.column_by_name(name).context("a column is missing");
        let (records, counts) = (column("record")?.as_string::<i32>(), column("counts")?.as_map());
        for row in (0..batch.num_rows()).filter(|&row| records.value(row) == "gap") {
            let entries = counts.value(row);
            let (names, values) = (entries.column(0), entries.column(1));
            let (names, values) = (names.as_string::<i32>(), values.as_primitive::<UInt64Type>());
            let lost = names.iter().position(|name| name == Some("lost_rows"));
            gaps.push(values.value(lost.context("a gap without rows")?));
        }
    }
    Ok(gaps)
}

//! Ledgers that can't be opened: which of them end the start, and what becomes of the others.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{Configuration, Keeping, Mistake};
use crate::{
    config::{LedgerCopy, Settings, Size, Span},
    control::LedgerStatus,
    event::{Entry, Occurrence, OccurrenceKind, Origin, WallTime},
};

fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::defaults("db1");
    settings.ledger.directory = folder.join("ledger");
    settings.ledger.keys = folder.join("keys");
    settings.ledger.keep_free = Size(0);
    settings
}

fn start(settings: &Settings) -> Result<Keeping, Mistake> {
    let host = Arc::new(Origin { host: "db1".into(), ..Origin::default() });
    let configuration = Configuration::new(settings, None).unwrap();
    Keeping::start(&settings.ledger, host, configuration, WallTime(1))
}

fn row(at: i64) -> Entry {
    Entry::Occurrence(Occurrence {
        time: WallTime(at),
        kind: OccurrenceKind::Service,
        action: "test",
        origin: Arc::default(),
        message: None,
        counts: Vec::new(),
    })
}

/// All bytes of the open log, in which texts stand as they are.
fn log(settings: &Settings) -> String {
    let open: PathBuf = settings.ledger.directory.join("open/0000000001.log");
    String::from_utf8_lossy(&fs::read(open).unwrap()).into_owned()
}

#[test]
fn what_its_author_must_mend_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    start(&settings).unwrap().close();
    let ledger = &settings.ledger.directory;
    for path in [ledger, &settings.ledger.keys] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        let refused = start(&settings).err().unwrap().to_string();
        assert!(refused.starts_with("can't "), "{refused}");
        fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    }
    fs::remove_dir_all(ledger).unwrap();
    fs::write(ledger, "").unwrap();
    assert!(start(&settings).is_err());
    fs::remove_file(ledger).unwrap();
    start(&settings).unwrap().close();
}

#[test]
fn one_that_is_broken_is_tried_again_and_what_is_missing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    start(&settings).unwrap().close();
    let entries = settings.ledger.directory.join("log/entries.jsonl");
    let signed = fs::read(&entries).unwrap();
    fs::write(&entries, "").unwrap();

    let mut keeping = start(&settings).unwrap();
    for at in 5..8 {
        keeping.append(&row(at));
    }
    keeping.tick(WallTime(9));
    let LedgerStatus { missed_rows, troubles, .. } = keeping.status();
    assert_eq!(missed_rows, 3);
    assert!(troubles.len() == 1 && troubles[0].contains("can't be continued"), "{troubles:?}");
    let alerts = keeping.alerts();
    assert!(alerts.len() == 1 && !alerts[0].is_over, "{alerts:?}");
    assert_eq!(keeping.alerts(), [], "told once");

    fs::write(&entries, signed).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !keeping.status().troubles.is_empty() {
        assert!(Instant::now() < until, "{:?}", keeping.status());
        keeping.tick(WallTime(10));
        thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(keeping.alerts().iter().filter(|alert| alert.is_over).count(), 1);
    keeping.append(&row(11));
    assert_eq!(keeping.status().missed_rows, 3);
    keeping.close();
    let log = log(&settings);
    assert!(log.contains("The ledger could not be opened: ") && log.contains("lost_rows"), "{log}");
}

#[test]
fn a_place_for_copies_that_is_away_disturbs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    // Where the folder should be is a file.
    let away = folder.path().join("away");
    fs::write(&away, "").unwrap();
    let url = format!("file://{}/copies", away.display());
    let interval = Span(Duration::from_secs(1));
    settings.ledger.copy = Some(LedgerCopy { url, interval });
    let mut keeping = start(&settings).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while keeping.status().copies.is_none_or(|copies| copies.trouble.is_none()) {
        assert!(Instant::now() < until, "{:?}", keeping.status());
        thread::park_timeout(Duration::from_millis(10));
    }
    keeping.append(&row(2));
    keeping.tick(WallTime(3));
    assert!(keeping.status().troubles.is_empty() && keeping.alerts().is_empty());
    keeping.close();
    assert!(log(&settings).contains("test"));
}

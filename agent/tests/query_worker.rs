//! What a query worker may take, and what the service does with one that goes beyond it or is left alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what the tests share may fail as they may"
)]

mod ledger;

use std::{collections::HashSet, fs, path::Path, time::Duration};

use dbwarden::control::QueryWorker;
use dbwarden_tests::await_until;
use ledger::{
    ledger_of, row,
    served::{Served, read},
};
use serde_json::json;
use tempfile::TempDir;

/// Time enough for what doesn't wait for its end.
const LONG: Duration = Duration::from_secs(600);
/// Workers at a time.
const PLACES: usize = 4;

/// A service whose workers are the script.
struct Scripted {
    served: Served,
    ledger: TempDir,
}

impl Scripted {
    fn new(time_limit: Duration) -> Self {
        let ledger = tempfile::tempdir().unwrap();
        fs::create_dir(ledger.path().join("workers")).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ledger/worker.sh");
        let served = Served::start(ledger.path(), QueryWorker { program, time_limit });
        Self { served, ledger }
    }

    /// Those that have begun, ended or not.
    fn begun(&self) -> HashSet<u32> {
        let names = fs::read_dir(self.ledger.path().join("workers")).unwrap();
        names.map(|name| name.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    }

    fn await_begun(&self, n: usize) -> HashSet<u32> {
        let begun = || Ok(Some(self.begun()).filter(|begun| begun.len() >= n));
        await_until("the workers", begun).unwrap()
    }

    /// The answer to `question` once there is a place for it.
    fn answer_when_there_is_room(&self, question: &str) -> String {
        await_until("a place", || {
            let answer = self.served.answer(question);
            Ok((!answer.contains("try again in a moment")).then_some(answer))
        })
        .unwrap()
    }
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn await_end(pids: &HashSet<u32>) {
    let ended = || Ok((!pids.iter().any(|pid| lives(*pid))).then_some(()));
    await_until("the end of the workers", ended).unwrap();
}

#[test]
fn a_query_that_would_remember_too_much_is_answered_with_words() {
    let rows: Vec<_> = (1..=10).map(|n| row(n, &json!({}), json!({"text": "x"}))).collect();
    let made = ledger_of(&rows);
    let program = env!("CARGO_BIN_EXE_dbwarden").into();
    let served = Served::start(made.path(), QueryWorker { program, time_limit: LONG });
    let sql = |query: &str| json!({ "sql": { "query": query } }).to_string();
    // A hundred thousand rows of two kilobytes, of which the last is the first.
    let words = served.answer(&sql(
        "SELECT repeat('x', 2000) || a.sequence || b.sequence || c.sequence || d.sequence AS t \
         FROM rows a, rows b, rows c, rows d, rows e ORDER BY t DESC",
    ));
    assert!(words.contains("remembers more than it may"), "{words}");
    let words = served.answer(&sql("SELECT count(*) AS n FROM rows"));
    assert!(words.contains("{\"n\":10}"), "{words}");
}

#[test]
fn a_worker_that_takes_too_long_is_ended() {
    let scripted = Scripted::new(Duration::from_secs(1));
    let words = scripted.served.answer("\"wait\"");
    assert!(words.contains("this took longer than 1 s: ask about less time"), "{words}");
    let begun = scripted.begun();
    assert_eq!(begun.len(), 1);
    await_end(&begun);
}

#[test]
fn a_worker_that_is_killed_is_no_end_of_an_answer() {
    let scripted = Scripted::new(LONG);
    let words = scripted.served.answer("\"die\"");
    assert!(words.contains("{\"n\":1}"), "{words}");
    assert!(words.contains("the query worker has ended early (signal: 9"), "{words}");
    // Its place is free again.
    for _ in 0..PLACES {
        scripted.answer_when_there_is_room("\"die\"");
    }
}

#[test]
fn several_run_at_once_and_one_too_many_is_told_to_wait() {
    let scripted = Scripted::new(LONG);
    let mut waiting: Vec<_> = (0..PLACES).map(|_| scripted.served.ask("\"wait\"")).collect();
    let begun = scripted.await_begun(PLACES);
    let words = scripted.served.answer("\"die\"");
    assert!(words.starts_with("HTTP/1.1 503"), "{words}");
    assert!(words.contains("4 searches run already: try again in a moment"), "{words}");
    assert!(begun.iter().all(|pid| lives(*pid)));
    // Who goes makes room.
    waiting.pop();
    let words = scripted.answer_when_there_is_room("\"die\"");
    assert!(words.contains("{\"n\":1}"), "{words}");
    waiting.clear();
    await_end(&begun);
}

#[test]
fn a_client_that_goes_away_ends_its_worker() {
    let scripted = Scripted::new(LONG);
    for question in ["\"wait\"", "\"flood\""] {
        let before = scripted.begun();
        let client = scripted.served.ask(question);
        let begun = scripted.await_begun(before.len() + 1);
        drop(client);
        await_end(&begun);
    }
}

/// Who doesn't read stops the worker, not the service, and keeps its place no longer than it may.
#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    /// What the socket, the pipe and the service between them hold.
    const UNREAD_BYTES: u64 = 2 << 20;
    let scripted = Scripted::new(Duration::from_secs(3));
    let clients: Vec<_> = (0..PLACES).map(|_| scripted.served.ask("\"flood\"")).collect();
    for pid in scripted.await_begun(PLACES) {
        let written = await_until("a worker that waits", || Ok(written_while_asleep(pid))).unwrap();
        assert!(written < UNREAD_BYTES, "{written} bytes were taken that nobody reads");
    }
    scripted.answer_when_there_is_room("\"die\"");
    await_end(&scripted.begun());
    // They are told when they read after all.
    for client in clients {
        let words = read(client);
        assert!(words.contains("this took longer than 3 s"), "{} bytes", words.len());
    }
}

/// What a process that writes has written, if it waits until it can write more.
fn written_while_asleep(pid: u32) -> Option<u64> {
    let wait = fs::read_to_string(format!("/proc/{pid}/wchan")).ok()?;
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse().ok()?;
    (wait.contains("pipe_write") && written > 0).then_some(written)
}

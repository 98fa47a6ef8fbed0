//! What is kept of answers, for how long, and who waits for the next one.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    Ask, Catalogs, Database, Expected, Job, PATIENCE, Planned, Question, Relation, Rows, Snapshot,
    snapshot::Kind,
};
use crate::protocol::postgres::FIRST_OWN_OID;

/// A catalog without the thread that asks.
fn catalogs() -> (Catalogs, UnboundedReceiver<Ask>) {
    let (asks, inbox) = unbounded_channel();
    let (databases, inherited, n_heirs) = (Arc::default(), Arc::default(), Arc::default());
    (Catalogs { databases, inherited, n_heirs, asks }, inbox)
}

fn rows(table: &str) -> Rows {
    let relation = Relation {
        oid: FIRST_OWN_OID,
        schema: "public".to_owned(),
        name: table.to_owned(),
        kind: Kind::Table,
        rows: None,
        definition: None,
    };
    Rows { relations: vec![relation], ..Rows::default() }
}

fn see(database: &Database, table: &str) {
    let began = (Instant::now(), database.begin());
    let rows = rows(table);
    let print = rows.print();
    database.seen(Arc::new(Snapshot::new("app", rows)), print, began);
}

fn n_looks(inbox: &mut UnboundedReceiver<Ask>) -> usize {
    let mut n = 0;
    while let Ok(ask) = inbox.try_recv() {
        n += usize::from(matches!(ask, Ask::Of(_, Job::Look)));
    }
    n
}

#[test]
fn a_look_is_used_until_something_changes() {
    let (catalogs, mut inbox) = catalogs();
    let database = catalogs.database(0, "app").unwrap();
    assert!(Arc::ptr_eq(&database, &catalogs.database(0, "app").unwrap()));
    see(&database, "a");
    let first = catalogs.snapshot(&database, PATIENCE).unwrap();
    assert_eq!(n_looks(&mut inbox), 0, "it is fresh");

    // Something was defined: it is looked at again, and nobody waits for that.
    let earlier = Instant::now().checked_sub(PATIENCE);
    super::lock(&database.known).looked = earlier.map(|at| (at, Duration::from_millis(1)));
    database.has_news();
    let begun = Instant::now();
    assert!(Arc::ptr_eq(&first, &catalogs.snapshot(&database, PATIENCE).unwrap()));
    assert!(begun.elapsed() < PATIENCE / 2);
    assert_eq!(n_looks(&mut inbox), 1);
    see(&database, "a");
    assert!(Arc::ptr_eq(&first, &catalogs.snapshot(&database, PATIENCE).unwrap()), "nothing new");

    // Code has changed: the next one waits for the next look.
    database.changed();
    let looking = database.clone();
    let looker = thread::spawn(move || see(&looking, "b"));
    let second = catalogs.snapshot(&database, Duration::from_secs(30)).unwrap();
    looker.join().unwrap();
    assert!(second.relations("b").next().is_some() && second.relations("a").next().is_none());
}

#[test]
fn a_change_while_it_looks_makes_it_look_again() {
    let (catalogs, _inbox) = catalogs();
    let database = catalogs.database(0, "app").unwrap();
    let began = (Instant::now(), database.begin());
    database.changed();
    database.seen(Arc::new(Snapshot::new("app", rows("a"))), 1, began);
    assert_eq!(super::lock(&database.known).age(Instant::now()), super::Age::Spent);
}

#[test]
fn whoever_waits_in_vain_is_the_last_to_wait() {
    let (catalogs, mut inbox) = catalogs();
    let database = catalogs.database(0, "app").unwrap();
    let waited = |what: &mut dyn FnMut()| {
        let begun = Instant::now();
        what();
        begun.elapsed()
    };
    let first = waited(&mut || assert!(catalogs.snapshot(&database, PATIENCE).is_none()));
    assert!(first >= PATIENCE && first < PATIENCE * 5, "{first:?}");
    let question = || Question {
        prelude: None,
        text: "DELETE FROM a WHERE b".to_owned(),
        types: Vec::new(),
        values: Vec::new(),
        counts: Vec::new(),
        paths: vec![Vec::new()],
    };
    for _ in 0..20 {
        let next = waited(&mut || {
            assert!(catalogs.snapshot(&database, PATIENCE).is_none());
            assert!(catalogs.plan(&database, question()).is_none());
            assert!(catalogs.name(&database, 20_000).is_none());
        });
        assert!(next < PATIENCE / 2, "{next:?}");
    }
    assert_eq!(n_looks(&mut inbox), 1, "one is under way");

    // A failure is not tried again at once.
    database.failed();
    assert!(catalogs.snapshot(&database, PATIENCE).is_none());
    assert_eq!(n_looks(&mut inbox), 0);
    database.forgive();
    assert!(catalogs.snapshot(&database, Duration::ZERO).is_none());
    assert_eq!(n_looks(&mut inbox), 1);
}

#[test]
fn an_estimate_is_asked_for_once_an_execution() {
    let (catalogs, mut inbox) = catalogs();
    let database = catalogs.database(0, "app").unwrap();
    let planned = vec![Planned { schema: "s".into(), relation: "a".into(), rows: 7 }];
    let expected = Expected { planned, sampled: Vec::new() };
    let answer = expected.clone();
    let answering = thread::spawn(move || {
        let mut n = 0;
        while let Some(ask) = inbox.blocking_recv() {
            let Ask::Of(_, Job::Plan(_, reply)) = ask else { continue };
            n += 1;
            reply.send(Some(answer.clone())).unwrap();
        }
        n
    });
    let question = |value: &str| Question {
        prelude: None,
        text: "DELETE FROM a WHERE b > $1".to_owned(),
        types: Vec::new(),
        values: vec![super::Value::Text(value.to_owned())],
        counts: Vec::new(),
        paths: vec![Vec::new()],
    };
    for value in ["1", "1", "2", "1"] {
        assert_eq!(catalogs.plan(&database, question(value)), Some(expected.clone()));
    }
    drop(catalogs);
    assert_eq!(answering.join().unwrap(), 2);
}

#[test]
fn a_name_that_is_not_there_is_looked_for_once() {
    let (catalogs, mut inbox) = catalogs();
    let database = catalogs.database(0, "app").unwrap();
    see(&database, "a");
    let mut seek = |names: &[&str]| {
        let begun = Instant::now();
        let lacking = |_: &Snapshot| names.iter().map(|name| Arc::from(*name)).collect();
        assert!(catalogs.snapshot_with(&database, PATIENCE / 4, lacking).is_some());
        (n_looks(&mut inbox), begun.elapsed() >= PATIENCE / 4)
    };
    assert_eq!(seek(&[]), (0, false));
    assert_eq!(seek(&["b"]), (1, true));
    // Nothing new has come of it.
    see(&database, "a");
    super::lock(&database.known).sought.allow();
    assert_eq!(seek(&["b"]), (0, false));
    assert_eq!(seek(&["b", "c"]), (1, true));
    see(&database, "a");
    // Too soon.
    assert_eq!(seek(&["d"]), (0, false));
    see(&database, "e");
    super::lock(&database.known).sought.allow();
    assert_eq!(seek(&["b"]), (1, true), "something has changed");
}

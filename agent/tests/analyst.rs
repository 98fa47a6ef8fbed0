//! The process that parses, as a real child: what it answers, how it is confined, what becomes of it when
//! it is killed, hangs or lies.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use dbwarden::{
    analyst::{Analyst, Bounds},
    event::Analysis,
    statement::Lexing,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const LEXING: Lexing = Lexing { standard_conforming_strings: true };

fn bounds() -> Bounds {
    Bounds { program: env!("CARGO_BIN_EXE_dbwarden").into(), ..Bounds::default() }
}

fn analyst() -> Analyst {
    Analyst::new(bounds())
}

fn ask(analyst: &mut Analyst, text: &str) -> Analysis {
    analyst.facts(text, LEXING).analysis
}

fn child(analyst: &Analyst) -> anyhow::Result<Pid> {
    let pid = analyst.child().context("no child runs")?;
    Ok(Pid::from_raw(pid.try_into()?))
}

/// Stops a process, and waits until all its threads have.
fn stop(pid: Pid) -> anyhow::Result<()> {
    kill(pid, Signal::SIGSTOP)?;
    loop {
        let mut all_stopped = true;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            all_stopped &= stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"));
        }
        if all_stopped {
            return Ok(());
        }
        std::thread::yield_now();
    }
}

/// Asks for new texts until one is answered, as a busy service does; at most ten seconds.
fn until_answered(analyst: &mut Analyst) {
    let begun = Instant::now();
    for n in 0.. {
        if ask(analyst, &format!("SELECT a{n} FROM t")) == Analysis::Complete {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no new child answers");
        std::thread::yield_now();
    }
}

#[test]
fn texts_are_parsed_once() {
    let mut analyst = analyst();
    let first = analyst.facts("SELECT a FROM t WHERE id = 1", LEXING);
    assert_eq!(first.summary.as_ref(), "SELECT t");
    assert_eq!(first.text.as_ref(), "SELECT a FROM t WHERE id = ?");
    // Another literal, and again; a comment doesn't matter.
    for text in ["SELECT a FROM t WHERE id = 22", "SELECT a FROM t WHERE id = 1"] {
        assert_eq!(analyst.facts(text, LEXING), first, "{text}");
    }
    let prepared = "SELECT a FROM t WHERE id = $1";
    for _ in 0..3 {
        ask(&mut analyst, prepared);
    }
    let counters = analyst.counters();
    assert_eq!(counters.misses, 2);
    assert_eq!((counters.template_hits, counters.text_hits), (3, 1));
    assert_eq!((counters.starts, counters.timeouts, counters.failures), (1, 0, 0));
}

#[test]
fn what_hangs_on_literals_is_known_by_text() {
    let mut analyst = analyst();
    for (text, restricted) in [
        ("DELETE FROM t WHERE 1 = 1", Some(false)),
        ("DELETE FROM t WHERE 1 = 2", Some(true)),
        ("DELETE FROM t WHERE 1 = 1", Some(false)),
        ("EXPLAIN (ANALYZE 0) DELETE FROM t", None),
        ("EXPLAIN (ANALYZE 1) DELETE FROM t", Some(false)),
        ("DELETE FROM t WHERE a = E'\\x41'", Some(true)),
    ] {
        assert_eq!(analyst.facts(text, LEXING).restricted, restricted, "{text}");
    }
    assert_eq!((analyst.counters().misses, analyst.counters().text_hits), (5, 1));
    // An invalid text doesn't spoil a valid one of the same template.
    assert_eq!(ask(&mut analyst, "SELECT a FROM t WHERE b = E'\\u12'"), Analysis::SyntaxError);
    assert_eq!(ask(&mut analyst, "SELECT a FROM t WHERE b = E'\\u0012'"), Analysis::Complete);
}

#[test]
fn strings_that_do_not_conform_are_another_text() {
    let mut analyst = analyst();
    let text = r"SELECT 'a\'; DELETE FROM t; --'";
    let off = Lexing { standard_conforming_strings: false };
    for _ in 0..2 {
        assert_eq!(&*analyst.facts(text, LEXING).summary, "SELECT; DELETE t");
        assert_eq!(&*analyst.facts(text, off).summary, "SELECT");
    }
}

#[test]
fn long_texts_are_redacted_and_not_parsed() {
    let mut analyst = Analyst::new(Bounds { text_bytes: 100, ..bounds() });
    let text = format!("SELECT 'secret {}'", "é".repeat(100));
    let facts = analyst.facts(&text, LEXING);
    assert_eq!((facts.analysis, facts.text.as_ref()), (Analysis::TooLong, "SELECT ?"));
    assert_eq!((analyst.counters().too_long, analyst.counters().starts), (1, 0));
}

#[test]
fn a_text_with_too_many_statements_is_too_long() {
    let mut analyst = analyst();
    assert_eq!(ask(&mut analyst, &"SELECT 1;".repeat(7000)), Analysis::TooLong);
    assert_eq!(ask(&mut analyst, &"(".repeat(60_000)), Analysis::TooDeep);
    assert_eq!(analyst.counters().starts, 1);
}

#[test]
fn the_child_has_no_rights() {
    let mut analyst = analyst();
    ask(&mut analyst, "SELECT 1");
    let status = fs::read_to_string(format!("/proc/{}/status", child(&analyst).unwrap())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    if nix::unistd::geteuid().is_root() {
        assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
        assert_eq!(field("Gid:"), "65534\t65534\t65534\t65534");
        assert_eq!(field("Groups:"), "");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", child(&analyst).unwrap())).unwrap();
    for line in ["Max file size 0 0", "Max core file size 0 0", "Max open files 16 16"] {
        let limits = limits.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(limits.contains(line), "{line}: {limits}");
    }
}

#[test]
fn a_killed_child_is_replaced() {
    let mut analyst = analyst();
    ask(&mut analyst, "SELECT 1");
    kill(child(&analyst).unwrap(), Signal::SIGKILL).unwrap();
    let facts = analyst.facts("DELETE FROM t WHERE a = 'secret'", LEXING);
    assert_eq!(facts.analysis, Analysis::Unavailable);
    assert_eq!(facts.text.as_ref(), "DELETE FROM t WHERE a = ?");
    // What was known stays known meanwhile.
    assert_eq!(ask(&mut analyst, "SELECT 2"), Analysis::Complete);
    until_answered(&mut analyst);
    assert_eq!((analyst.counters().failures, analyst.counters().starts), (1, 2));
}

#[test]
fn a_child_that_hangs_is_given_up_and_its_text_is_left_alone() {
    let mut analyst = Analyst::new(Bounds { time_limit: Duration::from_millis(50), ..bounds() });
    ask(&mut analyst, "SELECT 1");
    let stopped = child(&analyst).unwrap();
    stop(stopped).unwrap();
    let begun = Instant::now();
    assert_eq!(ask(&mut analyst, "SELECT a FROM hangs"), Analysis::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(!Path::new(&format!("/proc/{stopped}")).exists(), "the child is waited for");
    until_answered(&mut analyst);
    // The text is not tried again at once.
    let before = analyst.counters();
    assert_eq!(ask(&mut analyst, "SELECT a FROM hangs"), Analysis::Unavailable);
    let after = analyst.counters();
    assert_eq!((after.misses, after.timeouts), (before.misses, 1));
    assert_eq!(after.unavailable, before.unavailable + 1);
}

#[test]
fn a_program_that_is_no_analyst_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let script = |name: &str, body: &str| -> PathBuf {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    };
    for (name, program) in [
        ("ends", script("ends", "exit 0")),
        ("floods", script("floods", "yes >&0")),
        ("lies about its length", script("lies", r"printf '\377\377\377\377' >&0; read x")),
        ("answers no facts", script("no_facts", r"printf '\004\000\000\000null' >&0; read x")),
        ("stops half way", script("half", r"printf '\004\000\000\000nu' >&0")),
        ("is absent", PathBuf::from("/nonexistent")),
    ] {
        let mut analyst = Analyst::new(Bounds { program, ..bounds() });
        for text in ["SELECT a FROM t", "SELECT b FROM t"] {
            assert_eq!(ask(&mut analyst, text), Analysis::Unavailable, "{name}");
        }
        let counters = analyst.counters();
        assert_eq!(counters.failures + counters.unavailable, 2, "{name}: {counters:?}");
    }
}

#[test]
fn the_cache_is_bounded() {
    let mut analyst = Analyst::new(Bounds { cache_entries: 80, cache_bytes: 1 << 20, ..bounds() });
    for n in 0..200 {
        ask(&mut analyst, &format!("SELECT a FROM t{n} WHERE b = 1"));
    }
    let counters = analyst.counters();
    assert_eq!((counters.misses, counters.evictions), (200, 160));
}

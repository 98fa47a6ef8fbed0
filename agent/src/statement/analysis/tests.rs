//! What statements do: one table of texts and facts, and what must hold for any text.

use std::thread;

use super::{STACK_BYTES, analyse};
use crate::{event::Facts, statement::Lexing};

/// Runs on the stack that the analysis wants.
fn on_large_stack(test: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(test).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn facts(text: &str) -> Facts {
    (*analyse(text, Lexing::default()).whole).clone()
}

/// Effects, tables, restriction, analysis and summary in one line.
fn line(facts: &Facts) -> String {
    let effects: Vec<&str> = facts.effects.iter().map(|effect| effect.name()).collect();
    let tables: Vec<String> =
        facts.tables.iter().map(|table| format!("{}:{}", table.name, table.access.name())).collect();
    let restricted = match facts.restricted {
        None => "-",
        Some(true) => "restricted",
        Some(false) => "unrestricted",
    };
    format!(
        "{} | {} | {restricted} | {} | {}",
        effects.join(" "),
        tables.join(" "),
        facts.analysis.name(),
        facts.summary
    )
}

#[test]
fn statements_do_what_they_do() {
    on_large_stack(|| {
        let mut wrong = String::new();
        for (text, expected) in table() {
            let found = line(&facts(text));
            if found != expected {
                wrong.push_str(&format!("{text}\n    {found}\n"));
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

/// `text`, then indented what it does.
fn table() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("tests/statements.txt").lines();
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    std::iter::from_fn(move || Some((lines.next()?, lines.next()?.trim_start())))
}

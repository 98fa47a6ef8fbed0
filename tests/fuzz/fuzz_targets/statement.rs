//! Arbitrary text, judged by the grammar.
#![no_main]

use std::thread;

use dbwarden::{
    event::{Effect, Facts},
    statement::{Lexing, STACK_BYTES, analyse, key_values, uses},
};

libfuzzer_sys::fuzz_target!(|data: (bool, &str)| {
    let (standard_conforming_strings, text) = data;
    thread::scope(|scope| {
        let judging = thread::Builder::new().stack_size(STACK_BYTES);
        let judge = || judge(text, Lexing { standard_conforming_strings });
        judging.spawn_scoped(scope, judge).unwrap().join().unwrap();
    });
});

fn judge(text: &str, lexing: Lexing) {
    let analysed = analyse(text, lexing);
    let whole = &analysed.whole;
    let is_known = |facts: &Facts| !facts.effects.contains(Effect::Unknown);
    // What one statement does, all do.
    assert!(!is_known(whole) || analysed.statements.iter().all(|facts| is_known(facts)));
    key_values(whole, text, lexing, &[]).for_each(drop);
    for uses in uses(text, lexing) {
        // Whoever follows a statement begins at queries that are there.
        assert!(!uses.is_whole || uses.top.iter().all(|(place, _)| *place < uses.queries.len()));
    }
}

//! Arbitrary text, judged by the grammar.
#![no_main]

use dbwarden::{
    event::Effect,
    statement::{Lexing, analyse, key_values},
};

libfuzzer_sys::fuzz_target!(|data: (bool, &str)| {
    let (standard_conforming_strings, text) = data;
    let lexing = Lexing { standard_conforming_strings };
    let analysed = analyse(text, lexing);
    let whole = &analysed.whole;
    let is_known = |facts: &dbwarden::event::Facts| !facts.effects.contains(Effect::Unknown);
    // What one statement does, all do.
    assert!(!is_known(whole) || analysed.statements.iter().all(|facts| is_known(facts)));
    key_values(whole, text, lexing, &[]).for_each(drop);
});

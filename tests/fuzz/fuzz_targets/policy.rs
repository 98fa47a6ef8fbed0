//! Arbitrary text, loaded as policies and asked about a statement.
#![no_main]

use std::{sync::Arc, thread};

use dbwarden::{
    event::{Origin, Verdict},
    policy::{Caller, Case, Circumstances, Set, Source, World},
    statement::{Lexing, analyse},
};

/// What the service gives the thread that loads policies.
const STACK_BYTES: usize = 8 << 20;

libfuzzer_sys::fuzz_target!(|text: &str| {
    thread::scope(|scope| {
        let loading = thread::Builder::new().stack_size(STACK_BYTES);
        loading.spawn_scoped(scope, || load(text)).unwrap().join().unwrap();
    });
});

fn load(text: &str) {
    let source = Source { name: "fuzz.cedar".into(), text: text.into() };
    let set = match Set::load(&[source], false, World::default()) {
        Ok(set) => set,
        Err(complaints) => {
            assert!(!complaints.to_string().is_empty(), "a refusal says why");
            return;
        }
    };
    let origin = Origin { host: Arc::from("db1"), ..Origin::default() };
    let facts = analyse("DROP TABLE orders", Lexing::default()).whole;
    let judgement = set.decide(&Case {
        caller: &Caller::new(&origin, set.world()),
        facts: Some(&facts),
        circumstances: Circumstances::default(),
    });
    // Whatever isn't simply allowed, some rule of the set said.
    assert!(judgement.verdict == Verdict::Allow || judgement.rule.is_some());
}

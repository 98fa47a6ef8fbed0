//! Arbitrary text, loaded as policies and asked about a statement and a connection.
#![no_main]

use std::{sync::Arc, thread};

use dbwarden::{
    event::{Destination, Origin, Remote, Verdict},
    policy::{Caller, Case, Circumstances, Set, Source, Subject, World},
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
    let destination = Destination {
        to: Remote::Ip([10, 0, 0, 1].into(), 443),
        region: Some("us-east-1".into()),
        server: None,
        program: None,
        by_server: false,
    };
    for subject in [Subject::Statement(Some(&facts)), Subject::Outbound(&destination)] {
        let judgement = set.decide(&Case {
            caller: &Caller::new(&origin, set.world()),
            subject,
            circumstances: Circumstances::default(),
        });
        // Whatever isn't simply allowed, some rule of the set said.
        assert!(judgement.verdict == Verdict::Allow || judgement.rule.is_some());
    }
}

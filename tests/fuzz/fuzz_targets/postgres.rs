//! Arbitrary bytes and gaps, both directions, for a PostgreSQL session.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbwarden_tests::drive::fuzz_postgres(data));

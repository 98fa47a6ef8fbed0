//! Arbitrary bytes and gaps, both directions, for a PostgreSQL session.
#![no_main]

#[path = "../../tests/postgres_transcripts/drive.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod drive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::fuzz_postgres(data));

//! Arbitrary chunks for an assembler.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbwarden_tests::drive::fuzz_stream(data));

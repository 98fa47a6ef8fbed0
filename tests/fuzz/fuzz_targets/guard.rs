//! Arbitrary bytes from either side for a session of the guard: what is denied never gets to the server.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbwarden::guard::hostile::fuzz(data));

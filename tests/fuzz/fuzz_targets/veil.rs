//! Any conversation of a masked client with a server that shows values: none that is hidden gets to the client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbwarden::guard::hostile::veiled::fuzz(data));

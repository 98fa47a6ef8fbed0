//! Arbitrary text and application names, read for claims.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: (&str, &str)| {
    let (text, application) = data;
    let Some(claims) = dbwarden::principal::claims::read(Some(text), Some(application)) else {
        return;
    };
    assert!(claims.tags.len() <= 32);
    assert!(claims.tags.windows(2).all(|pair| pair[0].name < pair[1].name));
    assert!(claims.tags.iter().all(|tag| tag.value.len() <= 256 + '…'.len_utf8()));
    assert!(claims.held_bytes() <= 16 << 10);
});

//! Arbitrary text, cut into tokens and redacted.
#![no_main]

use dbwarden::statement::{
    Lexer, Lexing, Template, fingerprint, redact, redact_ambiguous, redact_ambiguous_secrets,
    redact_error, redact_secrets,
};

libfuzzer_sys::fuzz_target!(|data: (bool, &str)| {
    let (standard_conforming_strings, text) = data;
    let lexing = Lexing { standard_conforming_strings };
    let joined: String = Lexer::new(text, lexing).map(|token| token.text(text)).collect();
    assert_eq!(joined, text);
    // Code in a string comes out as `$$…$$`, which may be longer than its quotes were.
    assert!(redact(text, lexing).len() <= 2 * text.len() + 4);
    assert!(redact_secrets(text, lexing).len() <= 2 * text.len() + 4);
    // Not known, nothing is shown that knowing would hide.
    let (ambiguous, sure) = (redact_ambiguous(text), redact(text, lexing));
    assert!(sure.starts_with(ambiguous.trim_end_matches('?')), "{ambiguous} of {sure}");
    redact_ambiguous_secrets(text);
    let mut template = Template::default();
    template.fill(text, lexing);
    assert!(template.key().len() <= text.len() + 1);
    fingerprint(text, lexing);
    redact_error(text);
});

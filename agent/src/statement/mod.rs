//! What a statement says and does: its tokens, its literals, its facts.
//!
//! `lexer` and what rests on it alone (`redact`, `secrets`, `fingerprint`, `template`) are Rust and run
//! anywhere. `analysis` calls PostgreSQL's parser, which is C: it belongs into a process that has nothing
//! to lose.

#![deny(unsafe_code)]

mod analysis;
mod complaint;
mod fingerprint;
mod keys;
mod lexer;
mod literal;
pub mod pieces;
mod reading;
mod redact;
mod secrets;
mod template;

pub use analysis::{
    Analysed, Body, MAX_TEXT_BYTES, Parameter, Parameters, Preparations, Prepared, STACK_BYTES,
    Said, Session, analyse, analyse_behind, analyse_in, only_computes, qualified, startup, uses,
};
pub use complaint::redact_error;
pub use fingerprint::fingerprint;
pub use keys::{KeyedValue, key_values};
pub use lexer::{Lexer, Lexing, LiteralKind, Token, TokenKind};
pub use reading::{lexing, redact_ambiguous, redact_ambiguous_secrets};
pub use redact::redact;
pub use secrets::redact_secrets;
pub use template::Template;

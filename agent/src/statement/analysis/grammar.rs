//! PostgreSQL's own parser: a text becomes a tree, or the reason why it doesn't.
//!
//! `pg_query::parse` would do, but for its decoding: prost either stops at 47 levels, which programs
//! reach, or recurses without end, with 40 KiB of stack for each level. So the C function is called here,
//! and what it gives is decoded once it is known how deep that is.

#![allow(unsafe_code, reason = "PostgreSQL's parser is C")]

use std::{
    borrow::Cow,
    ffi::{CStr, CString, c_char, c_int},
};

use pg_query::{ParserOptions, protobuf::ParseResult};
use prost::Message;

use super::depth;
use crate::{
    event::Analysis,
    statement::lexer::{Lexer, Lexing, TokenKind},
};

/// How much stack parsing may use: 2 MiB, the C parser's own limit; 21 KiB for each of [`MAX_MESSAGES`],
/// which is what prost's code for a node takes; and as much again for the walk through the tree.
pub const STACK_BYTES: usize = 64 << 20;

/// Longer texts are not parsed.
pub const MAX_TEXT_BYTES: usize = 256 << 10;

/// Messages within messages, of which a level of SQL makes two or more. PostgreSQL itself goes deeper;
/// what people and programs write doesn't come near.
const MAX_MESSAGES: usize = 1000;

/// An operator's name has at most 63 bytes; a run of them is longer where signs stand together.
const MAX_OPERATORS: usize = 256;

pub(super) fn parse(text: &str, lexing: Lexing) -> Result<ParseResult, Analysis> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Analysis::TooLong);
    }
    let text = CString::new(&*easy_to_scan(text, lexing)?).map_err(|_| Analysis::SyntaxError)?;
    let options = match lexing.standard_conforming_strings {
        true => ParserOptions::DEFAULT,
        false => ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS,
    };
    let parsed = Parsed::new(&text, options);
    if let Some(message) = parsed.error() {
        let bounds = ["stack depth limit", "memory exhausted", "nested too deeply"];
        return Err(match bounds.iter().any(|bound| message.contains(bound)) {
            true => Analysis::TooDeep,
            false => Analysis::SyntaxError,
        });
    }
    let bytes = parsed.bytes();
    if depth::exceeds(bytes, MAX_MESSAGES) {
        return Err(Analysis::TooDeep);
    }
    ParseResult::decode(bytes).map_err(|_| Analysis::UnknownSyntax)
}

/// The tree that PL/pgSQL's parser makes of a whole `CREATE FUNCTION`, as JSON.
pub(super) fn parse_plpgsql(text: &str) -> Result<serde_json::Value, Analysis> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Analysis::TooLong);
    }
    let text = CString::new(text).map_err(|_| Analysis::SyntaxError)?;
    let parsed = ParsedFunction::new(&text);
    let json = parsed.json().ok_or(Analysis::SyntaxError)?;
    serde_json::from_str(&mended(&json)).map_err(|_| Analysis::UnknownSyntax)
}

/// Variables that a trigger is given (`TG_OP`) come as `{}}` where `{}` is meant.
fn mended(json: &str) -> String {
    let mut mended = String::with_capacity(json.len());
    let (mut is_text, mut is_escaped, mut before) = (false, false, ' ');
    let mut rest = json.char_indices();
    while let Some((at, c)) = rest.next() {
        mended.push(c);
        match c {
            _ if std::mem::take(&mut is_escaped) => {}
            '\\' if is_text => is_escaped = true,
            '"' => is_text = !is_text,
            '{' if !is_text
                && matches!(before, ',' | '[')
                && json.get(at..).is_some_and(|rest| rest.starts_with("{}}")) =>
            {
                mended.push('}');
                rest.next();
                rest.next();
            }
            _ => {}
        }
        if !c.is_whitespace() {
            before = c;
        }
    }
    mended
}

/// The same to the parser, position by position, without what its scanner takes quadratic time for: nested
/// comments, and runs of operators.
fn easy_to_scan(text: &str, lexing: Lexing) -> Result<Cow<'_, str>, Analysis> {
    let mut easy = Cow::Borrowed(text);
    let mut run = 0..0;
    for token in Lexer::new(text, lexing) {
        match token.kind {
            TokenKind::Comment => {
                easy.to_mut().replace_range(token.range(), &" ".repeat(token.end - token.start));
            }
            TokenKind::Operator => {
                let start = if run.end == token.start { run.start } else { token.start };
                run = start..token.end;
                if run.len() > MAX_OPERATORS {
                    return Err(Analysis::TooDeep);
                }
            }
            _ => {}
        }
    }
    Ok(easy)
}

/// What `pg_query_parse_protobuf_opts` gives, freed when it is dropped.
struct Parsed(RawParsed);

impl Parsed {
    fn new(text: &CStr, options: ParserOptions) -> Self {
        // SAFETY: the text is a C string that outlives the call, which keeps nothing of it.
        Self(unsafe { pg_query_parse_protobuf_opts(text.as_ptr(), options.bits()) })
    }

    fn error(&self) -> Option<Cow<'_, str>> {
        // SAFETY: an error that is there is whole, and lives until it is freed with all the rest.
        let message = unsafe { self.0.error.as_ref() }?.message;
        if message.is_null() {
            return Some(Cow::Borrowed(""));
        }
        // SAFETY: it is a C string of the error's.
        Some(unsafe { CStr::from_ptr(message) }.to_string_lossy())
    }

    fn bytes(&self) -> &[u8] {
        match self.0.tree.data.is_null() {
            true => &[],
            // SAFETY: the tree has `len` bytes, which live until they are freed with all the rest.
            false => unsafe {
                std::slice::from_raw_parts(self.0.tree.data.cast::<u8>(), self.0.tree.len)
            },
        }
    }
}

impl Drop for Parsed {
    fn drop(&mut self) {
        // SAFETY: it came from the function whose results this one frees, and is not used afterwards.
        unsafe { pg_query_free_protobuf_parse_result(self.0) };
    }
}

/// What `pg_query_parse_plpgsql` gives, freed when it is dropped.
struct ParsedFunction(RawFunction);

impl ParsedFunction {
    fn new(text: &CStr) -> Self {
        // SAFETY: the text is a C string that outlives the call, which keeps nothing of it.
        Self(unsafe { pg_query_parse_plpgsql(text.as_ptr()) })
    }

    fn json(&self) -> Option<Cow<'_, str>> {
        if !self.0.error.is_null() || self.0.functions.is_null() {
            return None;
        }
        // SAFETY: it is a C string that lives until it is freed with all the rest.
        Some(unsafe { CStr::from_ptr(self.0.functions) }.to_string_lossy())
    }
}

impl Drop for ParsedFunction {
    fn drop(&mut self) {
        // SAFETY: it came from the function whose results this one frees, and is not used afterwards.
        unsafe { pg_query_free_plpgsql_parse_result(self.0) };
    }
}

/// `PgQueryPlpgsqlParseResult` of `pg_query.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawFunction {
    functions: *mut c_char,
    error: *mut RawError,
}

/// `PgQueryProtobufParseResult` of `pg_query.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawParsed {
    tree: RawTree,
    stderr: *mut c_char,
    error: *mut RawError,
}

/// `PgQueryProtobuf`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawTree {
    len: usize,
    data: *mut c_char,
}

/// `PgQueryError`, as far as it is read.
#[repr(C)]
struct RawError {
    message: *mut c_char,
}

// In the C library that the crate `pg_query` brings, and calls in the same way.
unsafe extern "C" {
    fn pg_query_parse_protobuf_opts(input: *const c_char, options: c_int) -> RawParsed;
    fn pg_query_free_protobuf_parse_result(result: RawParsed);
    fn pg_query_parse_plpgsql(input: *const c_char) -> RawFunction;
    fn pg_query_free_plpgsql_parse_result(result: RawFunction);
}

//! PostgreSQL's text cut into tokens, as its `scan.l` cuts it.
//!
//! Whatever has to be right even for a text that the grammar refuses (redaction above all) rests on this
//! alone. It takes any text, never fails, and looks at each byte a bounded number of times. The rules are
//! those of PostgreSQL 18; older servers differ in numbers only (`1_000`, `0x1F`).

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What of a session's settings decides how text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lexing {
    /// Off, a backslash escapes in plain `'…'` too.
    pub standard_conforming_strings: bool,
}

impl Default for Lexing {
    fn default() -> Self {
        Self { standard_conforming_strings: true }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Space,
    /// `-- …` or `/* … */`, nested ones included.
    Comment,
    /// A keyword or a plain name.
    Word,
    /// `"…"` or `U&"…"`.
    QuotedName,
    /// `$1`.
    Parameter,
    Literal(LiteralKind),
    Operator,
    /// One of `,()[].;:`, or `::`, `:=`, `..`.
    Punctuation,
    /// What begins no token, and a number that runs into a name.
    Junk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteralKind {
    /// `'…'` without escapes by backslash.
    Plain,
    /// `E'…'`, and `'…'` where strings don't conform.
    Escaped,
    /// `U&'…'`.
    Unicode,
    /// `$$…$$` or `$tag$…$tag$`.
    Dollar,
    /// `B'…'`.
    Bits,
    /// `X'…'`.
    Hex,
    /// A number that fits 32 bits: the grammar takes no other for a position or a length.
    Integer,
    /// Any other number.
    Float,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }

    pub fn text(self, whole: &str) -> &str {
        whole.get(self.range()).unwrap_or_default()
    }

    /// Whether it says something, unlike space and comments.
    pub fn is_significant(self) -> bool {
        !matches!(self.kind, TokenKind::Space | TokenKind::Comment)
    }

    pub fn is_literal(self) -> bool {
        matches!(self.kind, TokenKind::Literal(_))
    }

    /// Whether it is this keyword, in any case.
    pub fn is_word(self, whole: &str, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text(whole).eq_ignore_ascii_case(word)
    }

    /// Whether it is this operator or punctuation.
    pub fn is_sign(self, whole: &str, sign: &str) -> bool {
        matches!(self.kind, TokenKind::Operator | TokenKind::Punctuation)
            && self.text(whole) == sign
    }
}

/// Yields tokens without a gap: together they are the text.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
    lexing: Lexing,
    /// Up to here there are only `+` and `-`, left over from an operator: each stands for itself. Without
    /// this, a run of them would be looked through anew for each.
    signs_until: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, lexing: Lexing) -> Self {
        Self { bytes: text.as_bytes(), at: 0, lexing, signs_until: 0 }
    }

    fn byte(&self, at: usize) -> u8 {
        // No rule begins or continues with a NUL, so that the end needs no case of its own.
        self.bytes.get(at).copied().unwrap_or(0)
    }

    fn end_of(&self, mut at: usize, belongs: impl Fn(u8) -> bool) -> usize {
        while self.bytes.get(at).is_some_and(|byte| belongs(*byte)) {
            at += 1;
        }
        at
    }

    /// The kind of the token at `start`, and where it ends.
    fn cut(&mut self, start: usize) -> (TokenKind, usize) {
        let (first, second) = (self.byte(start), self.byte(start + 1));
        match first {
            b if is_space(b) => (TokenKind::Space, self.end_of(start + 1, is_space)),
            b'\'' if self.lexing.standard_conforming_strings => {
                self.string(LiteralKind::Plain, start + 1)
            }
            b'\'' => self.string(LiteralKind::Escaped, start + 1),
            b'e' | b'E' if second == b'\'' => self.string(LiteralKind::Escaped, start + 2),
            b'b' | b'B' if second == b'\'' => self.string(LiteralKind::Bits, start + 2),
            b'x' | b'X' if second == b'\'' => self.string(LiteralKind::Hex, start + 2),
            b'u' | b'U' if second == b'&' && self.byte(start + 2) == b'\'' => {
                self.string(LiteralKind::Unicode, start + 3)
            }
            b'u' | b'U' if second == b'&' && self.byte(start + 2) == b'"' => {
                (TokenKind::QuotedName, self.after_quotes(start + 3, b'"'))
            }
            b'"' => (TokenKind::QuotedName, self.after_quotes(start + 1, b'"')),
            b'$' => self.dollar(start),
            b'-' if second == b'-' => (TokenKind::Comment, self.end_of(start, |b| !is_newline(b))),
            b'/' if second == b'*' => (TokenKind::Comment, self.after_comment(start)),
            b'0'..=b'9' => self.number(start),
            b'.' if second.is_ascii_digit() => self.number(start),
            b':' if second == b':' || second == b'=' => (TokenKind::Punctuation, start + 2),
            b'.' if second == b'.' => (TokenKind::Punctuation, start + 2),
            b',' | b'(' | b')' | b'[' | b']' | b'.' | b';' | b':' => {
                (TokenKind::Punctuation, start + 1)
            }
            b'+' | b'-' if start < self.signs_until => (TokenKind::Operator, start + 1),
            b if is_operator(b) => (TokenKind::Operator, self.after_operator(start)),
            b if is_name_start(b) => (TokenKind::Word, self.end_of(start + 1, is_name)),
            _ => (TokenKind::Junk, start + 1),
        }
    }

    /// A string whose inside begins at `inside`, with what continues it on further lines.
    fn string(&self, kind: LiteralKind, inside: usize) -> (TokenKind, usize) {
        let mut at = inside;
        loop {
            at = match kind {
                LiteralKind::Escaped => self.after_escaped(at),
                // Two quotes end one bit string and begin another string.
                LiteralKind::Bits | LiteralKind::Hex => self.end_of(at, |b| b != b'\'') + 1,
                _ => self.after_quotes(at, b'\''),
            };
            match self.continuation(at) {
                Some(next) => at = next,
                None => return (TokenKind::Literal(kind), at.min(self.bytes.len())),
            }
        }
    }

    /// Past the closing `quote`; two of them stand for one.
    fn after_quotes(&self, mut at: usize, quote: u8) -> usize {
        while let Some(byte) = self.bytes.get(at) {
            at += 1;
            if *byte == quote {
                if self.byte(at) != quote {
                    return at;
                }
                at += 1;
            }
        }
        self.bytes.len()
    }

    fn after_escaped(&self, mut at: usize) -> usize {
        while let Some(byte) = self.bytes.get(at) {
            at += 1;
            match byte {
                b'\\' => at += 1,
                b'\'' if self.byte(at) == b'\'' => at += 1,
                b'\'' => return at,
                _ => {}
            }
        }
        self.bytes.len()
    }

    /// Where a string goes on that was closed before `at`: after space with a newline in it, line
    /// comments allowed, comes another quote.
    fn continuation(&self, mut at: usize) -> Option<usize> {
        let mut has_newline = false;
        loop {
            match self.byte(at) {
                b if is_newline(b) => {
                    has_newline = true;
                    at += 1;
                }
                b if is_space(b) => at += 1,
                b'-' if self.byte(at + 1) == b'-' => at = self.end_of(at, |b| !is_newline(b)),
                b'\'' if has_newline => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// A parameter, a dollar-quoted string, or a stray `$`.
    fn dollar(&self, start: usize) -> (TokenKind, usize) {
        if self.byte(start + 1).is_ascii_digit() {
            // `$1or` is two tokens before PostgreSQL 15, and refused since.
            return (TokenKind::Parameter, self.end_of(start + 1, |b| b.is_ascii_digit()));
        }
        let tag_end = match is_name_start(self.byte(start + 1)) {
            true => self.end_of(start + 2, |b| is_name(b) && b != b'$'),
            false => start + 1,
        };
        if self.byte(tag_end) != b'$' {
            return (TokenKind::Junk, start + 1);
        }
        let tag = self.bytes.get(start..=tag_end).unwrap_or_default();
        let mut at = tag_end + 1;
        loop {
            // A tag can only begin with a dollar, and a dollar inside of one can't begin another: so this
            // looks at no byte more than twice.
            at = self.end_of(at, |b| b != b'$');
            let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) else {
                return (TokenKind::Literal(LiteralKind::Dollar), self.bytes.len());
            };
            if rest.starts_with(tag) {
                return (TokenKind::Literal(LiteralKind::Dollar), at + tag.len());
            }
            at += 1;
        }
    }

    /// Past the `*/` that closes the `/*` at `start`.
    fn after_comment(&self, start: usize) -> usize {
        let (mut at, mut depth) = (start + 2, 1_u32);
        while at < self.bytes.len() {
            match (self.byte(at), self.byte(at + 1)) {
                (b'*', b'/') if depth == 1 => return at + 2,
                (b'*', b'/') => {
                    depth -= 1;
                    at += 2;
                }
                (b'/', b'*') => {
                    depth += 1;
                    at += 2;
                }
                _ => at += 1,
            }
        }
        self.bytes.len()
    }

    fn after_operator(&mut self, start: usize) -> usize {
        let mut end = self.end_of(start, is_operator);
        // A comment may begin inside.
        let comment = (start + 1..end)
            .find(|at| matches!((self.byte(*at), self.byte(at + 1)), (b'/', b'*') | (b'-', b'-')));
        if let Some(comment) = comment {
            end = comment;
        }
        // `=-` is `=` and `-`, so that `a=-1` can be written; `@-` is one.
        let may_end_in_sign = self.bytes.get(start..end).unwrap_or_default().iter().any(|byte| {
            matches!(byte, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%')
        });
        if !may_end_in_sign {
            self.signs_until = end;
            while end > start + 1 && matches!(self.byte(end - 1), b'+' | b'-') {
                end -= 1;
            }
        }
        end
    }

    fn number(&self, start: usize) -> (TokenKind, usize) {
        let radix = match (self.byte(start), self.byte(start + 1)) {
            (b'0', b'x' | b'X') => 16,
            (b'0', b'o' | b'O') => 8,
            (b'0', b'b' | b'B') => 2,
            _ => 10,
        };
        let mut is_float = false;
        let mut end = match radix {
            10 => self.after_digits(start, 10),
            _ => self.after_digits(start + 2, radix),
        };
        if radix == 10 {
            // `1..10` is a range of PL/pgSQL.
            if self.byte(end) == b'.' && self.byte(end + 1) != b'.' {
                is_float = true;
                end = self.after_digits(end + 1, 10);
            }
            if matches!(self.byte(end), b'e' | b'E') {
                let sign = usize::from(matches!(self.byte(end + 1), b'+' | b'-'));
                if self.byte(end + 1 + sign).is_ascii_digit() {
                    is_float = true;
                    end = self.after_digits(end + 1 + sign, 10);
                }
            }
        }
        if is_name_start(self.byte(end)) || radix != 10 && end == start + 2 {
            return (TokenKind::Junk, self.end_of(end, is_name));
        }
        let digits = self.bytes.get(start..end).unwrap_or_default();
        let kind = match is_float || !fits_32_bits(digits, radix) {
            true => LiteralKind::Float,
            false => LiteralKind::Integer,
        };
        (TokenKind::Literal(kind), end)
    }

    /// Past digits that single underscores may part.
    fn after_digits(&self, mut at: usize, radix: u32) -> usize {
        let is_digit = |at: usize| char::from(self.byte(at)).is_digit(radix);
        loop {
            if is_digit(at) {
                at += 1;
            } else if self.byte(at) == b'_' && is_digit(at + 1) {
                at += 2;
            } else {
                return at;
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let start = self.at;
        if start >= self.bytes.len() {
            return None;
        }
        let (kind, end) = self.cut(start);
        self.at = end.clamp(start + 1, self.bytes.len());
        Some(Token { kind, start, end: self.at })
    }
}

fn fits_32_bits(digits: &[u8], radix: u32) -> bool {
    if digits.len() < 10 && radix == 10 {
        return true;
    }
    let skipped = if radix == 10 { 0 } else { 2 };
    let digits = digits.iter().skip(skipped).filter(|byte| **byte != b'_');
    let value = digits.fold(0_u64, |value, byte| {
        let digit = char::from(*byte).to_digit(radix).unwrap_or_default();
        value.saturating_mul(u64::from(radix)).saturating_add(u64::from(digit))
    });
    value <= i32::MAX as u64
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_name(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

#[cfg(test)]
mod tests {
    use super::{Lexer, Lexing, LiteralKind, TokenKind};

    /// Each significant token with a letter for its kind.
    fn tokens(text: &str, lexing: Lexing) -> Vec<String> {
        let letter = |kind| match kind {
            TokenKind::Space => "_",
            TokenKind::Comment => "c",
            TokenKind::Word => "w",
            TokenKind::QuotedName => "q",
            TokenKind::Parameter => "p",
            TokenKind::Operator => "o",
            TokenKind::Punctuation => ".",
            TokenKind::Junk => "j",
            TokenKind::Literal(LiteralKind::Integer) => "i",
            TokenKind::Literal(LiteralKind::Float) => "f",
            TokenKind::Literal(_) => "s",
        };
        Lexer::new(text, lexing)
            .filter(|token| token.kind != TokenKind::Space)
            .map(|token| format!("{}{}", letter(token.kind), token.text(text)))
            .collect()
    }

    #[test]
    fn texts_are_cut_as_postgres_cuts_them() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(tokens(text, Lexing::default()), expected, "{text}");
        };
        check("a=-1", &["wa", "o=", "o-", "i1"]);
        check("a@-1", &["wa", "o@-", "i1"]);
        check("a<>--b\n1", &["wa", "o<>", "c--b", "i1"]);
        check("a*/*x*/b", &["wa", "o*", "c/*x*/", "wb"]);
        check("/*a/*b*/c*/d", &["c/*a/*b*/c*/", "wd"]);
        check("/*a/*b*/c", &["c/*a/*b*/c"]);
        check("'it''s' x", &["s'it''s'", "wx"]);
        check(r"'a\' c'", &[r"s'a\'", "wc", "s'"]);
        check(r"e'a\' b' c", &[r"se'a\' b'", "wc"]);
        check(r"E'\\' c", &[r"sE'\\'", "wc"]);
        check("'a'\n 'b' c", &["s'a'\n 'b'", "wc"]);
        check("'a' -- x'\n--y\n'b'", &["s'a' -- x'\n--y\n'b'"]);
        check("'a' 'b'", &["s'a'", "s'b'"]);
        check("'a' /*\n*/ 'b'", &["s'a'", "c/*\n*/", "s'b'"]);
        check(r"E'a'\n", &["sE'a'", r"j\", "wn"]);
        check("E'a\\'b'\n'c\\'d'", &["sE'a\\'b'\n'c\\'d'"]);
        check("b'01''10'", &["sb'01'", "s'10'"]);
        check("x'1F' X'a'\n'b'", &["sx'1F'", "sX'a'\n'b'"]);
        check("n'a'", &["wn", "s'a'"]);
        check("U&'d\\0061' uescape '!'", &["sU&'d\\0061'", "wuescape", "s'!'"]);
        check("u&\"d\"\"x\" u & 1", &["qu&\"d\"\"x\"", "wu", "o&", "i1"]);
        check("\"a'b\" 'c\"d'", &["q\"a'b\"", "s'c\"d'"]);
        check("$$a'b$$ $x$ $$ $y$ $x$z", &["s$$a'b$$", "s$x$ $$ $y$ $x$", "wz"]);
        check("a$$b$$", &["wa$$b$$"]);
        check("$1,$23 $4a $", &["p$1", ".,", "p$23", "p$4", "wa", "j$"]);
        check("$é$x$é$", &["s$é$x$é$"]);
        check("$a-b $", &["j$", "wa", "o-", "wb", "j$"]);
        check("a+++-+b=-+c", &["wa", "o+", "o+", "o+", "o-", "o+", "wb", "o=", "o-", "o+", "wc"]);
        check("*+-+/*x", &["o*", "o+", "o-", "o+", "c/*x"]);
        check("'open", &["s'open"]);
        check("\"open", &["q\"open"]);
        check("$$open$", &["s$$open$"]);
        check(
            "1 1.5 .5 1. 1e5 1e+5 1e 1.e",
            &["i1", "f1.5", "f.5", "f1.", "f1e5", "f1e+5", "j1e", "j1.e"],
        );
        check(
            "1_000 0x1F 0b1_0 0o17 1__0 0x",
            &["i1_000", "i0x1F", "i0b1_0", "i0o17", "j1__0", "j0x"],
        );
        check("2147483647 2147483648 0x80000000", &["i2147483647", "f2147483648", "f0x80000000"]);
        check("1..10", &["i1", "..", "i10"].map(|t| if t == ".." { "..." } else { t }));
        check(
            "a.b::c := d[1:2]",
            &["wa", "..", "wb", ".::", "wc", ".:=", "wd", ".[", "i1", ".:", "i2", ".]"],
        );
        check("größe€", &["wgröße€"]);
        check("a\u{a0}b", &["wa\u{a0}b"]);
        check("1;", &["i1", ".;"]);
        check("", &[]);
    }

    #[test]
    fn without_standard_strings_a_backslash_escapes() {
        let off = Lexing { standard_conforming_strings: false };
        let check = |text: &str, expected: &[&str]| assert_eq!(tokens(text, off), expected);
        check(r"'a\' b' c", &[r"s'a\' b'", "wc"]);
        check(r"$$a\$$ c", &[r"s$$a\$$", "wc"]);
        check(r"U&'a\' b", &[r"sU&'a\'", "wb"]);
    }

    #[test]
    fn tokens_are_the_text_whatever_it_is() {
        let pieces = [
            "'", "\"", "$", "$a$", "--", "/*", "*/", "\n", "e'", "\\", "0x", "1", ".", "é", "=",
            "U&",
        ];
        let mut state = 7_usize;
        for _ in 0..2000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(state >> 33) % pieces.len()]);
            }
            let lexer = Lexer::new(&text, Lexing::default());
            let joined: String = lexer.map(|token| token.text(&text)).collect();
            assert_eq!(joined, text);
        }
    }
}

//! What a literal means: its value without quotes, escapes and spelling.

use super::lexer::LiteralKind;

/// The value of a literal token, as in `it's` of `'it''s'` or `31` of `0x1F`.
///
/// An invalid escape stays as it stands: the server refuses such a text anyway.
pub fn value(kind: LiteralKind, text: &str) -> String {
    match kind {
        LiteralKind::Integer | LiteralKind::Float => number(text),
        LiteralKind::Dollar => dollar_body(text).to_owned(),
        _ => quoted(kind, text),
    }
}

/// What stands between the tags; without a closing one, up to the end.
pub fn dollar_body(text: &str) -> &str {
    let tag_len = text.get(1..).and_then(|rest| rest.find('$')).map_or(text.len(), |at| at + 2);
    let (tag, rest) = text.split_at(tag_len.min(text.len()));
    rest.strip_suffix(tag).unwrap_or(rest)
}

/// In plain decimal digits where it is a whole number, so that `5`, `05` and `0x5` are one value.
fn number(text: &str) -> String {
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    let whole = match plain.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => u128::from_str_radix(plain.get(2..).unwrap_or_default(), 16),
        Some("0o") => u128::from_str_radix(plain.get(2..).unwrap_or_default(), 8),
        Some("0b") => u128::from_str_radix(plain.get(2..).unwrap_or_default(), 2),
        _ => plain.parse(),
    };
    whole.map_or(plain, |value| value.to_string())
}

/// All pieces of a string, which may continue over lines.
fn quoted(kind: LiteralKind, text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars().skip_while(|c| *c != '\'').skip(1).peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            // Closed: what follows in the token can only be space, line comments and the next piece.
            '\'' => {
                while let Some(c) = chars.next() {
                    match c {
                        '-' => while chars.next_if(|c| !matches!(c, '\n' | '\r')).is_some() {},
                        '\'' => break,
                        _ => {}
                    }
                }
            }
            '\\' if kind == LiteralKind::Escaped => value.extend(escaped(&mut chars)),
            '\\' if kind == LiteralKind::Unicode => value.extend(unicode(&mut chars)),
            c => value.push(c),
        }
    }
    value
}

/// After a backslash of `E'…'`.
fn escaped(chars: &mut std::iter::Peekable<impl Iterator<Item = char>>) -> Option<char> {
    match chars.next()? {
        'b' => Some('\u{8}'),
        'f' => Some('\u{c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'x' => coded(chars, 2, 16),
        'u' => coded(chars, 4, 16),
        'U' => coded(chars, 8, 16),
        c @ '0'..='7' => {
            let first = c.to_digit(8)?;
            let mut code = first;
            for _ in 0..2 {
                match chars.next_if(|c| c.is_digit(8)).and_then(|c| c.to_digit(8)) {
                    Some(digit) => code = code * 8 + digit,
                    None => break,
                }
            }
            char::from_u32(code & 0xff)
        }
        c => Some(c),
    }
}

/// After a backslash of `U&'…'`.
fn unicode(chars: &mut std::iter::Peekable<impl Iterator<Item = char>>) -> Option<char> {
    match chars.peek()? {
        '\\' => chars.next(),
        '+' => {
            chars.next();
            coded(chars, 6, 16)
        }
        _ => coded(chars, 4, 16),
    }
}

fn coded(
    chars: &mut std::iter::Peekable<impl Iterator<Item = char>>,
    n_digits: usize,
    radix: u32,
) -> Option<char> {
    let mut code = 0_u32;
    for _ in 0..n_digits {
        let digit = chars.next_if(|c| c.is_digit(radix)).and_then(|c| c.to_digit(radix));
        match digit {
            Some(digit) => code = code.wrapping_mul(radix).wrapping_add(digit),
            None => break,
        }
    }
    char::from_u32(code)
}

#[cfg(test)]
mod tests {
    use super::value;
    use crate::statement::lexer::{Lexer, Lexing, TokenKind};

    #[test]
    fn values() {
        let check = |text: &str, expected: &str| {
            let token = Lexer::new(text, Lexing::default()).next().unwrap();
            assert_eq!(token.end, text.len(), "{text}");
            let TokenKind::Literal(kind) = token.kind else { panic!("{text} is no literal") };
            assert_eq!(value(kind, text), expected, "{text}");
        };
        check("'it''s'", "it's");
        check("'a'\n'b'", "ab");
        check("'a' -- it's\n 'b'", "ab");
        check(r"'a\n'", r"a\n");
        check(r"E'a\n\x41\u00e9\101\q'", "a\nAéAq");
        check(r"U&'d\0061t\+000061\\'", r"data\");
        check("$$a'b$$", "a'b");
        check("$x$a$$b$x$", "a$$b");
        check("$x$open", "open");
        check("'open", "open");
        check("x'1F'", "1F");
        check("007", "7");
        check("0x1F", "31");
        check("1_000", "1000");
        check("1.50", "1.50");
    }
}

//! One number for all texts that differ only in literals and in how they are written.

use sha2::{Digest, Sha256};

use super::lexer::{Lexer, Lexing, TokenKind};

/// The first eight bytes of a SHA-256 over the tokens: the same on every host and in every version.
///
/// Literals and parameters count as one thing, and so do lists of them (`IN (1, 2, 3)`, the rows of
/// `VALUES`), which programs make in all lengths. Words are compared without case, as PostgreSQL does.
pub fn fingerprint(text: &str, lexing: Lexing) -> u64 {
    let digest = Sha256::digest(shape(text, lexing));
    let mut first = [0; 8];
    first.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    u64::from_be_bytes(first)
}

/// The tokens in lower case with one byte between them.
fn shape(text: &str, lexing: Lexing) -> Vec<u8> {
    let mut shape = Vec::with_capacity(text.len());
    for token in Lexer::new(text, lexing).filter(|token| token.is_significant()) {
        let written = token.text(text);
        let is_value = matches!(token.kind, TokenKind::Literal(_) | TokenKind::Parameter)
            || token.kind == TokenKind::Word && is_in_list(&shape) && is_constant(written);
        match token.kind {
            _ if is_value => {
                drop_sign(&mut shape);
                shape.extend_from_slice(b"? ");
                collapse(&mut shape, b"? , ? ", b"? ");
            }
            TokenKind::Word => {
                shape.extend(written.bytes().map(|byte| byte.to_ascii_lowercase()));
                shape.push(b' ');
            }
            _ => {
                shape.extend_from_slice(written.as_bytes());
                shape.push(b' ');
                collapse(&mut shape, b"( ? ) , ( ? ) ", b"( ? ) ");
            }
        }
    }
    while shape.ends_with(b"; ") {
        shape.truncate(shape.len() - 2);
    }
    shape
}

fn is_in_list(shape: &[u8]) -> bool {
    shape.ends_with(b"( ") || shape.ends_with(b", ")
}

/// What stands in a list of values like a literal.
fn is_constant(word: &str) -> bool {
    ["null", "true", "false", "default"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// `-5` in a list or in a comparison is a value like `5`.
fn drop_sign(shape: &mut Vec<u8>) {
    if [b"( - ".as_slice(), b", - ", b"= - ", b"< - ", b"> - "]
        .iter()
        .any(|end| shape.ends_with(end))
    {
        shape.truncate(shape.len() - 2);
    }
}

fn collapse(shape: &mut Vec<u8>, long: &[u8], short: &[u8]) {
    if shape.ends_with(long) {
        shape.truncate(shape.len() - (long.len() - short.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::{fingerprint, shape};
    use crate::statement::lexer::Lexing;

    #[test]
    fn what_counts_and_what_does_not() {
        let check = |text: &str, expected: &str| {
            let shape = String::from_utf8(shape(text, Lexing::default())).unwrap();
            assert_eq!(shape.trim_end(), expected, "{text}");
        };
        check("SELECT a FROM t WHERE b = 1;", "select a from t where b = ?");
        check("select A\nfrom T -- x\nwhere b='y'", "select a from t where b = ?");
        check("SELECT a FROM t WHERE b = $1", "select a from t where b = ?");
        check("SELECT a FROM t WHERE b = -1", "select a from t where b = ?");
        check("SELECT a - 1", "select a - ?");
        check("SELECT a FROM t WHERE b IN (1,2,-3)", "select a from t where b in ( ? )");
        check(
            "INSERT INTO t VALUES (1, NULL), (2, 'x'),(DEFAULT, 3)",
            "insert into t values ( ? )",
        );
        check("SELECT \"A\" FROM t", "select \"A\" from t");
        check("SELECT a FROM t WHERE b IS NULL", "select a from t where b is null");
    }

    #[test]
    fn it_is_the_same_for_ever() {
        assert_eq!(fingerprint("SELECT 1", Lexing::default()), 1_999_052_153_349_712_385);
    }
}

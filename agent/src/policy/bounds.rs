//! How deep a policy may be: Cedar's parser and validator recurse, and a stack that overflows ends the process.

use super::{Complaint, Source};

/// Of one policy: brackets inside of brackets.
const MAX_NESTING: usize = 48;
/// Of one policy: signs that make one expression a part of another, as in `a && b && c`.
const MAX_SIGNS: usize = 600;

/// The first policy of a source that is deeper than anybody means it.
pub(super) fn too_deep(source: &Source) -> Option<Complaint> {
    let complaint = |offset, message: String| {
        let help = "write several policies; a list is a set, as in [\"a\", \"b\"].contains(…)";
        Some(Complaint::at(source, offset, message).with_help(help))
    };
    let (mut nesting, mut signs) = (0_usize, 0);
    let mut place = Place::Code;
    let mut chars = source.text.char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        match (place, c) {
            (Place::Text, '\\') => drop(chars.next()),
            (Place::Text, '"') => place = Place::Code,
            (Place::Comment, '\n') => place = Place::Code,
            (Place::Text | Place::Comment, _) => {}
            (Place::Code, '"') => place = Place::Text,
            (Place::Code, '/') if chars.peek().is_some_and(|(_, next)| *next == '/') => {
                place = Place::Comment;
            }
            (Place::Code, '(' | '[' | '{') => {
                nesting += 1;
                if nesting > MAX_NESTING {
                    let words = format!("nested deeper than {MAX_NESTING} brackets");
                    return complaint(offset, words);
                }
            }
            (Place::Code, ')' | ']' | '}') => nesting = nesting.saturating_sub(1),
            (Place::Code, ';') => (nesting, signs) = (0, 0),
            (Place::Code, '&' | '|' | '!' | '-' | '+' | '*' | '.' | '=' | '<' | '>') => {
                signs += 1;
                if signs > MAX_SIGNS {
                    let words = "a policy with so many operators is more than can be checked";
                    return complaint(offset, words.to_owned());
                }
            }
            (Place::Code, _) => {
                // `if a then b else if …` needs no sign.
                if c == 'i' && source.text.get(offset..offset + 3) == Some("if ") {
                    signs += 1;
                }
            }
        }
    }
    None
}

#[derive(Clone, Copy)]
enum Place {
    Code,
    Text,
    Comment,
}

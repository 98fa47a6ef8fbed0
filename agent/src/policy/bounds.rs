//! How deep a policy may be: Cedar's parser and validator recurse, and a stack that overflows ends the process.

use super::{Complaint, Source};

/// Of one policy: brackets inside of brackets, and each `if`. Built without optimisation, a level takes the
/// parser 50 KiB of stack, and a thread has 2 MiB.
const MAX_NESTING: usize = 16;
/// Of one policy: operators, each of which may make one expression a part of another, as in `a && b && c`.
/// A level takes 13 KiB.
const MAX_OPERATORS: usize = 100;

/// For the thread that loads a set: the bounds above are chosen with less than this in mind.
pub const STACK_BYTES: usize = 8 << 20;

/// The first policy of a source that is deeper than anybody means it.
pub(super) fn too_deep(source: &Source) -> Option<Complaint> {
    let complaint = |offset, message: String| {
        let help = "write several policies; a list is a set, as in [\"a\", \"b\"].contains(…)";
        Some(Complaint::at(source, offset, message).with_help(help))
    };
    let (mut nesting, mut n_ifs, mut n_operators) = (0_usize, 0, 0);
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
                if nesting + n_ifs > MAX_NESTING {
                    return complaint(offset, format!("nested deeper than {MAX_NESTING} levels"));
                }
            }
            (Place::Code, ')' | ']' | '}') => nesting = nesting.saturating_sub(1),
            (Place::Code, ';') => (nesting, n_ifs, n_operators) = (0, 0, 0),
            (Place::Code, '&' | '|' | '!' | '-' | '+' | '*' | '.' | '=' | '<' | '>') => {
                // `&&`, `==`, `<=` are one each.
                chars.next_if(|(_, next)| matches!(next, '&' | '|' | '='));
                n_operators += 1;
                if n_operators > MAX_OPERATORS {
                    return complaint(offset, format!("more than {MAX_OPERATORS} operators"));
                }
            }
            (Place::Code, _) => {
                // `if a then b else if …` needs no bracket.
                if c == 'i' && source.text.get(offset..offset + 2) == Some("if") {
                    n_ifs += 1;
                    if nesting + n_ifs > MAX_NESTING {
                        let words = format!("nested deeper than {MAX_NESTING} levels");
                        return complaint(offset, words);
                    }
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

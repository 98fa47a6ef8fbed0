//! Rust source as far as import rules read it: code without comments and literals, and its paths.

/// The code with comments, string and character literals blanked out.
pub fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' if starts_word(&code) => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// The code before its inline test module, which stands last.
pub fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]").next().unwrap_or(code)
}

/// Every path in the code, with the trees of `use` written out: `use a::{b, c::d}` gives `a::b` and
/// `a::c::d`.
pub fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let length = path_length(rest);
        let (path, after) = rest.split_at(length);
        rest = after;
        if path == "use" {
            let end = rest.find(';').unwrap_or(rest.len());
            tree(&rest[..end], "", &mut paths);
            rest = &rest[end..];
        } else {
            paths.push(path.to_owned());
        }
    }
    paths
}

/// Writes out one `use` tree below `prefix`.
fn tree(text: &str, prefix: &str, paths: &mut Vec<String>) {
    let text = text.trim();
    let Some(open) = text.find('{') else {
        let name = text.split_whitespace().next().unwrap_or_default();
        if !name.is_empty() {
            paths.push(format!("{prefix}{name}"));
        }
        return;
    };
    let prefix = format!("{prefix}{}", text[..open].trim());
    let inside = text[open + 1..].trim_end().strip_suffix('}').unwrap_or(&text[open + 1..]);
    let (mut depth, mut start) = (0_u32, 0);
    for (at, character) in inside.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                tree(&inside[start..at], &prefix, paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    tree(&inside[start..], &prefix, paths);
}

fn path_length(text: &str) -> usize {
    let mut length = 0;
    loop {
        length += text[length..].find(|c| !is_word(c)).unwrap_or(text.len() - length);
        let Some(after) = text[length..].strip_prefix("::") else { return length };
        if !after.starts_with(is_word) {
            return length;
        }
        length += 2;
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn starts_word(before: &str) -> bool {
    !before.ends_with(is_word)
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`; 0 where it is a name that begins with r.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|&byte| byte == b'#').count();
    let body = 1 + hashes;
    if !text[body..].starts_with('"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    text[body + 1..].find(&close).map_or(text.len(), |at| body + 1 + at + close.len())
}

/// A character literal; 0 where it is a lifetime.
fn character(text: &str) -> usize {
    let mut rest = text.char_indices().skip(1);
    match rest.next() {
        Some((_, '\\')) => {
            text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 3)
        }
        Some(_) => match rest.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{code, paths};

    #[test]
    fn comments_and_literals_are_no_code() {
        let cases = [
            ("a // b\nc", "a  \nc"),
            ("a /* b /* c */ d */ e", "a   e"),
            (r#"f("x \" y")"#, "f( )"),
            (r##"f(r#"x " y"#, raw)"##, "f( , raw)"),
            ("f('\"', '\\'', '\\u{7f}', b'x')", "f( ,  ,  , b )"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ];
        for (text, expected) in cases {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn use_trees_are_written_out() {
        let cases = [
            ("use a::b;", vec!["a::b"]),
            ("use a::{b, c::{d, e as f}, g::*};", vec!["a::b", "a::c::d", "a::c::e", "a::g::*"]),
            ("use {a::b,\n  c};", vec!["a::b", "c"]),
            ("pub(crate) use a;", vec!["pub", "crate", "a"]),
            ("x = a::b::<T>();", vec!["x", "a::b", "T"]),
        ];
        for (text, expected) in cases {
            assert_eq!(paths(text), expected, "{text}");
        }
    }
}

//! Text from the ledger as HTML: what strangers wrote can be read, and can do nothing.

use std::fmt::Write;

/// Nothing in it ends an element or an attribute; characters that are invisible, control a terminal or
/// reorder text stand there by their number.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(c),
            _ if is_hidden(c) => {
                // Writing to a string can't fail.
                let _ = write!(html, "<span class=\"u\">U+{:04X}</span>", u32::from(c));
            }
            _ => html.push(c),
        }
    }
    html
}

/// At most so many characters of it, and how many more there are.
pub(super) fn escaped_start(text: &str, most: usize) -> (String, usize) {
    match text.char_indices().nth(most) {
        None => (escaped(text), 0),
        Some((end, _)) => {
            let (start, rest) = text.split_at(end);
            (escaped(start), rest.chars().count())
        }
    }
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::{escaped, escaped_start};

    #[test]
    fn what_strangers_wrote_can_do_nothing() {
        for (text, expected) in [
            ("SELECT 1", "SELECT 1"),
            ("a\n\tb", "a\n\tb"),
            (
                "</pre><script>alert(1)</script>",
                "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;",
            ),
            ("\" onload='x' &amp;", "&quot; onload=&#39;x&#39; &amp;amp;"),
            (
                "\u{202e}drop\u{2066}",
                "<span class=\"u\">U+202E</span>drop<span class=\"u\">U+2066</span>",
            ),
            (
                "a\u{0}\u{1b}[2J\r",
                "a<span class=\"u\">U+0000</span><span class=\"u\">U+001B</span>[2J<span class=\"u\">U+000D</span>",
            ),
            ("sel\u{200b}ect", "sel<span class=\"u\">U+200B</span>ect"),
            ("\u{e0041}", "<span class=\"u\">U+E0041</span>"),
            ("Größe 表 🙂", "Größe 表 🙂"),
        ] {
            assert_eq!(escaped(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_text_says_how_long_it_is() {
        assert_eq!(escaped_start("äöü", 3), ("äöü".to_owned(), 0));
        assert_eq!(escaped_start("äö<>", 3), ("äö&lt;".to_owned(), 1));
    }
}

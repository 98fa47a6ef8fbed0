//! Words with `*` in them.

/// `*` stands for any run of letters, in names and paths for one without `/`; there `**` stands for
/// any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    parts: Vec<Part>,
    /// The longest run of letters in it. What lacks that can't match, and that is soon seen.
    run: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Char(char),
    /// Anything but `/`.
    Segment,
    Anything,
}

impl Pattern {
    /// Of a name or a path.
    pub fn path(text: &str) -> Self {
        Self::new(text, Part::Segment)
    }

    /// Of a text in which `/` is a letter like others.
    pub fn text(text: &str) -> Self {
        Self::new(text, Part::Anything)
    }

    fn new(text: &str, star: Part) -> Self {
        let mut parts = Vec::new();
        for c in text.chars() {
            match (c, parts.last_mut()) {
                ('*', Some(last)) if !matches!(last, Part::Char(_)) => *last = Part::Anything,
                ('*', _) => parts.push(star),
                _ => parts.push(Part::Char(c)),
            }
        }
        let run = text.split('*').max_by_key(|run| run.len()).unwrap_or_default();
        Self { text: text.into(), parts, run: run.into() }
    }

    /// As it was written.
    pub fn as_written(&self) -> &str {
        &self.text
    }

    /// Whether it says nothing at all.
    pub fn is_open(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Char(_)))
    }

    pub fn begins_openly(&self) -> bool {
        !matches!(self.parts.first(), Some(Part::Char(_)))
    }

    /// The whole of `text`. Takes at most the product of both lengths.
    pub fn matches(&self, text: &str) -> bool {
        if !text.contains(&*self.run) {
            return false;
        }
        let mut chars = text.chars();
        let mut at = 0;
        // Where to go on from, a letter further, when it doesn't fit: after the last `*`, and, where
        // that can't take a `/`, after the last `**`.
        let mut segment = None;
        let mut anything = None;
        loop {
            match self.parts.get(at) {
                Some(Part::Segment) => {
                    at += 1;
                    segment = Some((at, chars.clone()));
                    continue;
                }
                Some(Part::Anything) => {
                    at += 1;
                    anything = Some((at, chars.clone()));
                    segment = None;
                    continue;
                }
                part => {
                    let mut rest = chars.clone();
                    let next = rest.next();
                    match (part, next) {
                        (None, None) => return true,
                        (Some(Part::Char(wanted)), Some(c)) if *wanted == c => {
                            chars = rest;
                            at += 1;
                            continue;
                        }
                        _ => {}
                    }
                }
            }
            if let Some((from, begun)) = &mut segment
                && begun.next().is_some_and(|c| c != '/')
            {
                (at, chars) = (*from, begun.clone());
            } else if let Some((from, begun)) = &mut anything
                && begun.next().is_some()
            {
                (at, chars) = (*from, begun.clone());
                segment = None;
            } else {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn stars_stand_for_what_they_say() {
        for (pattern, text, path, as_text) in [
            ("", "", true, true),
            ("", "a", false, false),
            ("a", "a", true, true),
            ("a", "ab", false, false),
            ("*", "", true, true),
            ("*", "abc", true, true),
            ("*", "a/c", false, true),
            ("**", "a/c", true, true),
            ("mcp-*", "mcp-server", true, true),
            ("*-mcp", "a-mcp-mcp", true, true),
            ("*-mcp", "a-mcp-x", false, false),
            ("/opt/*/bin", "/opt/a/bin", true, true),
            ("/opt/*/bin", "/opt/a/b/bin", false, true),
            ("/opt/**/bin", "/opt/a/b/bin", true, true),
            ("**/x/*", "/a/x/b/x/c", true, true),
            ("**/x/*", "/a/x/b/c", false, true),
            ("a*b**c*d", "a1b2/3c4d", true, true),
            ("a*b**c*d", "a1/b2c4d", false, true),
            ("a***b", "a/b", true, true),
            ("ä*ß", "äöüß", true, true),
        ] {
            assert_eq!(Pattern::path(pattern).matches(text), path, "{pattern} {text}");
            assert_eq!(Pattern::text(pattern).matches(text), as_text, "{pattern} {text} as text");
        }
        // Not exponential.
        assert!(
            !Pattern::path(&"a*".repeat(60)).matches(&"a".repeat(4_000).replace("aaaa", "aa/b"))
        );
    }
}

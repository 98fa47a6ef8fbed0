//! Servers that ask their clients for certificates: those don't survive the guard, so nobody is led to it.

use std::path::Path;

use super::{Target, files::Reader, server_settings::Settings};

/// An included file may include another.
const MAX_DEPTH: usize = 8;

/// Where, in words, the server asks for a client's certificate.
///
/// # Errors
/// Which file can't be read.
pub(super) fn asked(
    reader: &mut Reader,
    target: &Target,
    settings: &Settings,
) -> Result<Option<String>, String> {
    let data = &target.data_directory;
    let file = data.join(settings.get("hba_file").map_or("pg_hba.conf", String::as_str));
    let mut read = |path: &Path, is_optional: bool| match is_optional {
        true => reader.read_if_any(target.pid, path),
        false => reader.read(target.pid, path).map(Some),
    };
    let at = asked_in(&file, MAX_DEPTH, false, &mut read)?;
    Ok(at.map(|at| {
        format!(
            "{at} asks for a client certificate, which can't be shown to the server by a guard in between"
        )
    }))
}

/// The text of a file; none of one that may be absent and is.
type Read<'a> = &'a mut dyn FnMut(&Path, bool) -> Result<Option<String>, String>;

/// Folders that it includes aren't followed.
fn asked_in(
    file: &Path,
    depth: usize,
    is_optional: bool,
    read: Read<'_>,
) -> Result<Option<String>, String> {
    let Some(text) = read(file, is_optional)? else { return Ok(None) };
    for (number, line) in text.replace("\\\n", " ").lines().enumerate() {
        let words = words(line);
        let Some((first, rest)) = words.split_first() else { continue };
        match (first.as_str(), file.parent(), rest.first()) {
            (kind @ ("include" | "include_if_exists"), Some(folder), Some(name)) if depth > 0 => {
                let included = folder.join(name);
                let at = asked_in(&included, depth - 1, kind == "include_if_exists", read)?;
                if at.is_some() {
                    return Ok(at);
                }
            }
            ("host" | "hostssl", ..) if rest.iter().skip(3).any(|word| asks(word)) => {
                return Ok(Some(format!("{} line {}", file.display(), number + 1)));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn asks(word: &str) -> bool {
    word == "cert" || word.starts_with("clientcert=") && !word.ends_with("=0")
}

/// Without quotes, up to a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut is_quoted, mut has_word) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => (is_quoted, has_word) = (!is_quoted, true),
            '#' if !is_quoted => break,
            c if c.is_whitespace() && !is_quoted => {
                if std::mem::take(&mut has_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                has_word = true;
                word.push(c);
            }
        }
    }
    if has_word {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{asked_in, words};

    #[test]
    fn a_line_that_asks_for_a_certificate_is_found() {
        let asked = |text: &str| {
            let mut read = |path: &Path, is_optional: bool| match path.to_str() {
                Some("/data/pg_hba.conf") => Ok(Some(text.to_owned())),
                Some("/data/more.conf") => Ok(Some("\nhostssl all all all cert".to_owned())),
                Some("/data/round") => Ok(Some("include round".to_owned())),
                _ if is_optional => Ok(None),
                _ => Err("unreadable".to_owned()),
            };
            match asked_in(Path::new("/data/pg_hba.conf"), 2, false, &mut read) {
                Ok(at) => at,
                Err(why) => Some(why),
            }
        };
        for (text, expected) in [
            ("hostssl all all 0.0.0.0/0 cert", Some("/data/pg_hba.conf line 1")),
            (
                "# x\nhost all all all scram-sha-256 clientcert=verify-full",
                Some("/data/pg_hba.conf line 2"),
            ),
            (
                "hostssl all \"a b\" 10.0.0.0 255.0.0.0 scram-sha-256 clientcert=1 # y",
                Some("/data/pg_hba.conf line 1"),
            ),
            ("host all all all \\\n md5 clientcert=verify-ca", Some("/data/pg_hba.conf line 1")),
            ("include more.conf", Some("/data/more.conf line 2")),
            ("include round", None),
            ("include_if_exists absent", None),
            ("include absent\nhostssl all all all cert", Some("unreadable")),
            ("host all cert all trust", None),
            ("host cert all all trust", None),
            ("host all all all md5 # clientcert=verify-ca", None),
            ("#hostssl all all all cert", None),
            ("local all all peer map=cert", None),
            ("host all all all md5 clientcert=0", None),
            ("", None),
        ] {
            assert_eq!(asked(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("a \"b c\"d\t\"\" # e"), ["a", "b cd", ""]);
    }
}

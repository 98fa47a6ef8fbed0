//! Servers that ask their clients for certificates: those don't survive the guard, so nobody is led to it.

use std::path::Path;

use super::{Gate, State, Target, certificate};

/// An included file may include another.
const MAX_DEPTH: usize = 8;

/// Looks again at what the servers ask for.
pub(super) fn look(gate: &Gate) {
    let targets = gate.state().targets.clone();
    let unfit: Vec<Option<String>> =
        targets.iter().map(|target| asked(target.as_ref().ok()?)).collect();
    let State { unfit: known, .. } = &mut *gate.state();
    if *known != unfit {
        for why in unfit.iter().flatten() {
            tracing::error!("not guardable, clients go straight to their server: {why}");
        }
        *known = unfit;
    }
}

/// Where, in words, the server asks for a client's certificate.
fn asked(target: &Target) -> Option<String> {
    let settings = certificate::settings(target);
    let data = &target.data_directory;
    let file = data.join(settings.get("hba_file").map_or("pg_hba.conf", String::as_str));
    let at = asked_in(&file, MAX_DEPTH, &|path| certificate::read(target.pid, path).ok())?;
    Some(format!(
        "{at} asks for a client certificate, which can't be shown to the server by a guard in between"
    ))
}

/// Folders that it includes aren't followed.
fn asked_in(file: &Path, depth: usize, read: &impl Fn(&Path) -> Option<String>) -> Option<String> {
    let text = read(file)?.replace("\\\n", " ");
    text.lines().enumerate().find_map(|(number, line)| {
        let words = words(line);
        let (first, rest) = words.split_first()?;
        match first.as_str() {
            "include" | "include_if_exists" if depth > 0 => {
                let included = file.parent()?.join(rest.first()?);
                asked_in(&included, depth - 1, read)
            }
            "host" | "hostssl" => rest
                .iter()
                .skip(3)
                .any(|word| {
                    word == "cert" || word.starts_with("clientcert=") && !word.ends_with("=0")
                })
                .then(|| format!("{} line {}", file.display(), number + 1)),
            _ => None,
        }
    })
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
            asked_in(Path::new("/data/pg_hba.conf"), 2, &|path| match path.to_str()? {
                "/data/pg_hba.conf" => Some(text.to_owned()),
                "/data/more.conf" => Some("\nhostssl all all all cert".to_owned()),
                "/data/round" => Some("include round".to_owned()),
                _ => None,
            })
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

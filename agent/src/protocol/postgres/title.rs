//! What a server process's title says of its session, for sessions whose start nobody saw.

/// User and database of a session, as its server process shows them in its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Title {
    pub user: String,
    pub database: String,
    /// The client's port; `None` for a unix socket.
    pub client_port: Option<u16>,
}

/// The `cluster_name` in a title: the checkpointer's own name is a fixed one, so what stands before it
/// is certain. `None` if this is no checkpointer, `Some("")` where no name is set.
pub fn cluster_name(title: &[u8]) -> Option<&str> {
    let before =
        text(title)?.strip_prefix("postgres: ")?.trim_end().strip_suffix("checkpointer")?;
    if before.is_empty() {
        return Some("");
    }
    before.strip_suffix(": ").filter(|name| !name.is_empty())
}

impl Title {
    /// Reads `postgres: [CLUSTER: ]USER DATABASE HOST(PORT) ACTIVITY`, with `[local]` for a unix socket.
    ///
    /// Names may hold anything, spaces and `[local]` too. A title that can be read in two ways is read in
    /// none: `None` is better than somebody else's name.
    pub fn parse(title: &[u8], cluster_name: &str) -> Option<Title> {
        let mut rest = text(title)?.strip_prefix("postgres: ")?;
        if !cluster_name.is_empty() {
            rest = rest.strip_prefix(cluster_name)?.strip_prefix(": ")?;
        }
        let words: Vec<&str> = rest.split(' ').collect();
        let mut hosts = words.iter().enumerate().filter_map(|(at, word)| Some((at, host(word)?)));
        let (Some((2, client_port)), None) = (hosts.next(), hosts.next()) else { return None };
        let name = |at: usize| words.get(at).filter(|name| !name.is_empty());
        // A physical replication connection has no database: `walsender USER HOST(PORT)`.
        let user = name(0).filter(|user| **user != "walsender")?;
        Some(Title { user: (*user).to_owned(), database: (*name(1)?).to_owned(), client_port })
    }
}

/// A title ends at its first NUL; the rest of its memory is padding.
fn text(title: &[u8]) -> Option<&str> {
    std::str::from_utf8(title.split(|b| *b == 0).next()?).ok()
}

/// The port in a word that can be a client's address.
fn host(word: &str) -> Option<Option<u16>> {
    if word == "[local]" {
        return Some(None);
    }
    let (host, port) = word.strip_suffix(')')?.rsplit_once('(')?;
    let plain = !host.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if plain { port.parse().ok().map(Some) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        let some = |user: &str, database: &str, client_port| {
            Some(Title { user: user.into(), database: database.into(), client_port })
        };
        for (title, cluster, expected) in [
            ("postgres: ana shop [local] idle", "", some("ana", "shop", None)),
            ("postgres: ana shop 127.0.0.1(4711) idle", "", some("ana", "shop", Some(4711))),
            ("postgres: ana shop ::1(4711) SELECT", "", some("ana", "shop", Some(4711))),
            ("postgres: ana shop db.example(1) COPY waiting", "", some("ana", "shop", Some(1))),
            ("postgres: ana shop [local]\0\0\0", "", some("ana", "shop", None)),
            ("postgres: jürgen büro [local] idle  \0x", "", some("jürgen", "büro", None)),
            ("postgres: main: ana shop [local] idle", "main", some("ana", "shop", None)),
            ("postgres: a b: c: ana shop [local] idle", "a b: c", some("ana", "shop", None)),
            // A cluster's name is known or it is not: never guessed.
            ("postgres: main: ana shop [local] idle", "", None),
            ("postgres: ana shop [local] idle", "main", None),
            // Spaces in names.
            ("postgres: ana b shop [local] idle", "", None),
            ("postgres: ana  shop [local] idle", "", None),
            ("postgres: ana  [local] idle", "", None),
            // Names that look like a host.
            ("postgres: ana x [local] [local] idle", "", None),
            ("postgres: ana x 10.0.0.1(7) 127.0.0.1(4711) idle", "", None),
            ("postgres: u(1) shop [local] idle", "", None),
            // Not a client's.
            ("postgres: walsender ana [local] streaming", "", None),
            ("postgres: walsender ana shop [local] START_REPLICATION", "", None),
            ("postgres: checkpointer ", "", None),
            ("postgres: autovacuum worker shop", "", None),
            ("postgres: parallel worker for PID 12 ", "", None),
            ("postgres: ana shop (4711) idle", "", None),
            ("postgres: ana shop h(70000) idle", "", None),
            ("postgres: ana shop h(+1)", "", None),
            ("/usr/lib/postgresql/15/bin/postgres\0-D\0/data\0", "", None),
            ("postgres: ", "", None),
            ("", "", None),
        ] {
            assert_eq!(Title::parse(title.as_bytes(), cluster), expected, "{title:?}");
        }
        assert_eq!(Title::parse(b"postgres: \xff shop [local] idle", ""), None);
    }

    #[test]
    fn cluster_names() {
        for (title, expected) in [
            ("postgres: checkpointer ", Some("")),
            ("postgres: checkpointer\0\0", Some("")),
            ("postgres: main: checkpointer ", Some("main")),
            ("postgres: a: b: checkpointer ", Some("a: b")),
            ("postgres: : checkpointer", None),
            ("postgres: main:checkpointer", None),
            ("postgres: ana checkpointer [local] idle", None),
            ("postgres: ana shop [local] idle", None),
            ("checkpointer", None),
            ("", None),
        ] {
            assert_eq!(cluster_name(title.as_bytes()), expected, "{title:?}");
        }
    }
}

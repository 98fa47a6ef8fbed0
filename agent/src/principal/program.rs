//! What a process runs, by the names that people have for programs.

use std::collections::HashSet;

use super::pattern::Pattern;
use crate::event::{Process, Strength};

/// Programs by name (`claude`, `mcp-server-*`) or, where there is a `/`, by path
/// (`**/node_modules/@openai/codex/**`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    /// Names without a `*`: most are.
    plain: HashSet<Box<str>>,
    names: Vec<Pattern>,
    paths: Vec<Pattern>,
}

/// A process that runs one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit<'a> {
    pub pid: u32,
    /// As it is called.
    pub name: &'a str,
    /// By what it is known.
    pub told_by: &'a str,
    pub strength: Strength,
}

/// What runs scripts, so that its own name says nothing; without a version at its end.
const INTERPRETERS: [&str; 12] = [
    "bash", "bun", "dash", "deno", "java", "node", "nodejs", "perl", "php", "python", "ruby", "sh",
];
/// What fetches a package and runs it: which one stands among the first words.
const LAUNCHERS: [&str; 8] = ["bunx", "npm", "npx", "pipx", "pnpm", "uv", "uvx", "yarn"];
const LAUNCHER_WORDS: usize = 4;
/// Options of interpreters with a word behind them that is no script.
const WITH_VALUE: [&str; 9] =
    ["--import", "--loader", "--require", "-W", "-X", "-classpath", "-cp", "-o", "-r"];
/// What scripts end in.
const ENDINGS: [&str; 9] = [".cjs", ".jar", ".js", ".mjs", ".php", ".py", ".rb", ".sh", ".ts"];

impl Programs {
    pub fn new(words: &[String]) -> Self {
        let mut programs = Self::default();
        for word in words {
            match (word.contains('/'), word.contains('*')) {
                (true, _) => programs.paths.push(Pattern::path(word)),
                (false, true) => programs.names.push(Pattern::path(word)),
                (false, false) => {
                    programs.plain.insert(word.as_str().into());
                }
            }
        }
        programs
    }

    /// The nearest of the process (unless only its ancestors count) and its ancestors.
    pub fn find<'a>(&self, process: &'a Process, ancestors_only: bool) -> Option<Hit<'a>> {
        let own = (!ancestors_only).then(|| {
            (process.pid, process.exe.as_deref(), process.command.as_deref(), &*process.comm)
        });
        let ancestors = process.parents.iter().enumerate().map(|(at, parent)| {
            let program = process.programs.get(at);
            let exe = program.and_then(|program| program.exe.as_deref());
            let command = program.and_then(|program| program.command.as_deref());
            (parent.pid, exe, command, &*parent.comm)
        });
        own.into_iter()
            .chain(ancestors)
            .find_map(|(pid, exe, command, comm)| self.hit(pid, exe, command, comm))
    }

    fn hit<'a>(
        &self,
        pid: u32,
        exe: Option<&'a str>,
        command: Option<&'a str>,
        comm: &'a str,
    ) -> Option<Hit<'a>> {
        let by = |path: &'a str, strength| {
            let name = self.names_it(path)?;
            Some(Hit { pid, name, told_by: path, strength })
        };
        let script = || {
            let mut words = command?.split(' ');
            let first = words.next()?;
            let n_words = match LAUNCHERS.contains(&base(first)) {
                true => LAUNCHER_WORDS,
                false if exe.is_some_and(|exe| is_interpreter(base(exe))) => 1,
                false => 0,
            };
            // The first word is what it calls itself.
            std::iter::once(first)
                .chain(scripts(words).take(n_words))
                .find_map(|word| by(word, Strength::Claim))
        };
        // A file can be copied under another name, and stand at any path of a mount namespace.
        exe.and_then(|exe| by(exe, Strength::Weak))
            .or_else(script)
            .or_else(|| by(comm, Strength::Claim))
    }

    /// What the program at this path is called, if it is meant.
    fn names_it<'a>(&self, path: &'a str) -> Option<&'a str> {
        let name = base(path);
        let name = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        let by_name = self.plain.contains(name)
            || self.plain.contains(path)
            || self.names.iter().any(|pattern| pattern.matches(name));
        let by_path = path.contains('/') && self.paths.iter().any(|pattern| pattern.matches(path));
        (by_name || by_path).then_some(name)
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The words that are no options.
fn scripts<'a>(words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let mut is_value = false;
    words.filter(move |word| {
        let was_value = std::mem::replace(&mut is_value, WITH_VALUE.contains(word));
        !was_value && !word.is_empty() && !word.starts_with('-')
    })
}

fn is_interpreter(name: &str) -> bool {
    INTERPRETERS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::Programs;
    use crate::event::{Process, Strength};

    #[test]
    fn programs_are_known_by_file_script_module_and_title() {
        let words =
            ["claude", "mcp-server-*", "mcp_server_*", "**/@openai/codex/**", "@mcp/server-*"];
        let programs = Programs::new(&words.map(str::to_owned));
        let some = |name, strength| Some((name, strength));
        for (exe, command, comm, expected) in [
            ("/usr/bin/claude", "claude", "claude", some("claude", Strength::Weak)),
            ("/usr/bin/psql", "psql", "psql", None),
            ("/usr/bin/psql", "psql claude", "psql", None),
            ("/tmp/x", "x", "claude", some("claude", Strength::Claim)),
            ("/tmp/x", "claude", "x", some("claude", Strength::Claim)),
            ("/usr/bin/node", "node --foo /opt/claude.js", "node", some("claude", Strength::Claim)),
            ("/usr/bin/node", "node /opt/claude.js/x", "node", None),
            ("/bin/sh", "sh deploy.sh claude", "sh", None),
            ("/usr/bin/vi", "vi /opt/claude", "vi", None),
            ("/usr/bin/node", "node -r x.js claude.mjs", "", some("claude", Strength::Claim)),
            (
                "/usr/bin/python3.11",
                "python3 -m mcp_server_postgres --dsn x",
                "python3",
                some("mcp_server_postgres", Strength::Claim),
            ),
            (
                "/usr/bin/node",
                "npm exec @mcp/server-postgres postgres://db",
                "npm exec",
                some("server-postgres", Strength::Claim),
            ),
            (
                "/usr/bin/node",
                "node /usr/lib/node_modules/@openai/codex/bin/run.js",
                "node",
                some("run", Strength::Claim),
            ),
            ("/opt/@openai/codex/bin/codex", "", "", some("codex", Strength::Weak)),
            ("/opt/mcp-server-x", "", "", some("mcp-server-x", Strength::Weak)),
            ("", "", "", None),
        ] {
            let process = Process {
                exe: Some(exe.into()),
                command: Some(command.into()),
                comm: comm.into(),
                ..Process::default()
            };
            let found = programs.find(&process, false).map(|hit| (hit.name, hit.strength));
            assert_eq!(found, expected, "{exe} {command}");
            assert_eq!(programs.find(&process, true), None);
        }
    }
}

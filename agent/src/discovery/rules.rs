//! `[[server]]` settings applied to what was found: names, exclusions, and what is missing.

use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc};

use super::{FileId, Server, ServerKind};

/// Names remembered of servers that have gone, so that they come back under them.
const MAX_REMEMBERED: usize = 1024;

/// One `[[server]]` of the configuration. A server matches if *all* that is given fits it; a rule
/// that gives nothing matches nothing. Paths are as the server's mount namespace has them. A port
/// alone is whoever got it first: where people can log in, give the data directory too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerRule {
    pub name: Option<String>,
    pub port: Option<u16>,
    pub data_directory: Option<PathBuf>,
    /// Also adds: a server may be called anything. In the agent's own mount namespace it may then
    /// belong to the account that runs it, even to a person's.
    pub executable: Option<PathBuf>,
    pub unix_socket: Option<PathBuf>,
    /// Matching servers are not observed.
    pub exclude: bool,
}

impl ServerRule {
    pub fn matches(&self, server: &Server) -> bool {
        let given = [
            self.port.map(|port| server.listens_on(port)),
            self.data_directory.as_ref().map(|path| *path == server.data_directory),
            self.executable.as_ref().map(|path| *path == server.exe),
            self.unix_socket.as_ref().map(|path| server.listens_at(path)),
        ];
        given.iter().any(Option::is_some) && !given.contains(&Some(false))
    }
}

/// Whether the operator wants this server left alone.
pub fn excluded(rules: &[ServerRule], server: &Server) -> bool {
    rules.iter().any(|rule| rule.exclude && rule.matches(server))
}

/// A configured server that was not found. A warning: it may start later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub rule: ServerRule,
    /// The servers that were looked through.
    pub n_servers: usize,
}

/// The rules that no server of `servers` matches, except those that exclude.
pub fn missing(rules: &[ServerRule], servers: &[Server]) -> Vec<Missing> {
    rules
        .iter()
        .filter(|rule| !rule.exclude && !servers.iter().any(|server| rule.matches(server)))
        .map(|rule| Missing { rule: rule.clone(), n_servers: servers.len() })
        .collect()
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |what, path: &Option<PathBuf>| {
            path.as_ref().map(|path| format!("{what} = {:?}", path.display().to_string()))
        };
        let rule = &self.rule;
        let looked_for: Vec<String> = [
            rule.port.map(|port| format!("port = {port}")),
            path("data_directory", &rule.data_directory),
            path("executable", &rule.executable),
            path("unix_socket", &rule.unix_socket),
        ]
        .into_iter()
        .flatten()
        .collect();
        match &rule.name {
            Some(name) => write!(f, "the configured server {name:?} is not running")?,
            None => write!(f, "a configured server is not running")?,
        }
        if looked_for.is_empty() {
            return write!(
                f,
                ": its [[server]] gives nothing to find it by; give port, data_directory, \
                 executable or unix_socket"
            );
        }
        write!(
            f,
            ": looked for {} among {} running; it is taken up when it starts",
            looked_for.join(" and "),
            self.n_servers
        )
    }
}

/// The names that servers go by.
///
/// * A configured name goes only to a verified server, so that nobody can put his own under it.
/// * Else `pg-<port>`, or `pgbouncer-<port>` for a pooler, in the agent's own network namespace.
/// * Where that is taken, or in another network namespace (each container has its 5432), the name
///   ends in eight digits made of the cluster's identifier and its data directory: the same after
///   every restart of server or agent, however many there are.
/// * An unverified server is `unverified-<port>-<digits>`.
#[derive(Debug)]
pub struct Names {
    own_net_namespace: u64,
    given: HashMap<Key, Given>,
}

/// What makes a server the same after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    cluster: Option<u64>,
    data_directory: PathBuf,
    data_file: FileId,
    verified: bool,
    /// Of a pooler: it has no data, and several may run the same program.
    port: Option<u16>,
}

#[derive(Debug)]
struct Given {
    name: Arc<str>,
    running: bool,
}

impl Names {
    /// `own_net_namespace` is the inode of the agent's own.
    pub fn new(own_net_namespace: u64) -> Names {
        Names { own_net_namespace, given: HashMap::new() }
    }

    /// The name of a server that runs; no other running server has it.
    pub fn assign(&mut self, server: &Server, rules: &[ServerRule]) -> Arc<str> {
        let verified = server.is_verified();
        let key = Key {
            cluster: server.cluster,
            data_directory: server.data_directory.clone(),
            data_file: server.data_file,
            verified,
            port: server.port().filter(|_| server.kind == ServerKind::Pooler),
        };
        if let Some(given) = self.given.get_mut(&key) {
            given.running = true;
            return given.name.clone();
        }
        if self.given.len() >= MAX_REMEMBERED {
            self.given.retain(|_, given| given.running);
        }

        let digits = digits(&key);
        let port = server.port().map_or("unix".to_owned(), |port| port.to_string());
        let configured = rules
            .iter()
            .filter(|rule| verified && !rule.exclude && rule.matches(server))
            .find_map(|rule| rule.name.clone());
        let (base, bare) = match configured {
            Some(name) => (name, true),
            None if verified => (
                format!("{}-{port}", kind(server)),
                server.namespaces.net == self.own_net_namespace,
            ),
            None => (format!("unverified-{port}"), false),
        };
        let name = std::iter::once(base.clone())
            .filter(|_| bare)
            .chain(std::iter::once(format!("{base}-{digits:08x}")))
            .chain((2..).map(|n: u64| format!("{base}-{digits:08x}-{n}")))
            .find(|name| self.given.values().all(|given| *given.name != **name))
            .unwrap_or(base);
        let name: Arc<str> = name.into();
        self.given.insert(key, Given { name: name.clone(), running: true });
        name
    }

    /// The server of this name has stopped.
    pub fn release(&mut self, name: &str) {
        for given in self.given.values_mut().filter(|given| *given.name == *name) {
            given.running = false;
        }
    }
}

/// What a server's name begins with.
fn kind(server: &Server) -> &'static str {
    match server.kind {
        ServerKind::Postgresql => "pg",
        ServerKind::Pooler => "pgbouncer",
    }
}

/// FNV-1a over what stays the same on this host. The device number is left out: it may change with
/// each boot.
fn digits(key: &Key) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let cluster = key.cluster.unwrap_or_default().to_le_bytes();
    let path = key.data_directory.as_os_str().as_encoded_bytes();
    for byte in cluster.iter().chain(path).chain(&key.data_file.inode.to_le_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash >> 32) as u32 ^ hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discovery::{Doubt, Listener, Namespaces, ServerKind, Trust},
        event::BootTime,
    };

    fn server(port: u16, data: &str, net: u64, trust: Trust) -> Server {
        Server {
            kind: ServerKind::Postgresql,
            pid: 7,
            start: BootTime(0),
            exe: "/usr/lib/postgresql/15/bin/postgres".into(),
            exe_file: FileId { device: 1, inode: 1 },
            version: "15".into(),
            data_directory: data.into(),
            data_file: FileId { device: 1, inode: 2 },
            cluster: Some(3),
            uid: 101,
            namespaces: Namespaces { net, mount: 1, user: 1 },
            listeners: vec![
                Listener::Tcp { address: ([127, 0, 0, 1], port).into(), inode: 1 },
                Listener::Unix { path: format!("/run/.s.PGSQL.{port}").into(), inode: 2 },
            ],
            tls: Vec::new(),
            seccomp: false,
            descendants: Vec::new(),
            trust,
        }
    }

    fn doubtful() -> Trust {
        Trust::Unverified(vec![Doubt::UserNamespace])
    }

    #[test]
    fn names_are_unique_and_stay() {
        let rules = [ServerRule {
            name: Some("billing".into()),
            port: Some(5433),
            ..ServerRule::default()
        }];
        let mut names = Names::new(1);
        let pooler = |port| server(port, "/usr/sbin/pgbouncer", 1, Trust::Verified);
        let cases = [
            (Server { kind: ServerKind::Pooler, ..pooler(6432) }, "pgbouncer-6432"),
            (Server { kind: ServerKind::Pooler, ..pooler(6433) }, "pgbouncer-6433"),
            (server(5432, "/a", 1, Trust::Verified), "pg-5432"),
            (server(5432, "/b", 1, Trust::Verified), "pg-5432-********"),
            (server(5432, "/c", 2, Trust::Verified), "pg-5432-********"),
            (server(5440, "/d", 2, Trust::Verified), "pg-5440-********"),
            (server(5433, "/e", 1, doubtful()), "unverified-5433-********"),
            (server(5433, "/f", 2, Trust::Verified), "billing"),
            (server(5433, "/g", 1, Trust::Verified), "billing-********"),
        ];
        let mut given = Vec::new();
        for (server, expected) in &cases {
            let name = names.assign(server, &rules);
            let fits = match expected.strip_suffix("********") {
                Some(head) => name.strip_prefix(head).is_some_and(|digits| digits.len() == 8),
                None => *name == **expected,
            };
            assert!(fits, "{name} for {expected}");
            assert!(!given.contains(&name), "{name} twice");
            given.push(name);
        }
        // After a restart, in whatever order.
        given.iter().for_each(|name| names.release(name));
        for ((server, _), name) in cases.iter().zip(&given).rev() {
            assert_eq!(names.assign(server, &rules), *name);
        }
    }

    #[test]
    fn remembered_names_are_bounded() {
        let mut names = Names::new(1);
        for n in 0..5000 {
            let name = names.assign(&server(5432, &format!("/{n}"), 2, doubtful()), &[]);
            names.release(&name);
        }
        assert!(names.given.len() <= MAX_REMEMBERED);
    }

    #[test]
    fn rules_match_if_all_they_give_fits() {
        let server = server(5432, "/data", 1, Trust::Verified);
        let rule = ServerRule::default;
        for (rule, expected) in [
            (rule(), false),
            (ServerRule { port: Some(5432), ..rule() }, true),
            (ServerRule { port: Some(5433), ..rule() }, false),
            (ServerRule { data_directory: Some("/data".into()), ..rule() }, true),
            (
                ServerRule { port: Some(5433), data_directory: Some("/data".into()), ..rule() },
                false,
            ),
            (
                ServerRule {
                    executable: Some("/usr/lib/postgresql/15/bin/postgres".into()),
                    ..rule()
                },
                true,
            ),
            (ServerRule { unix_socket: Some("/run/.s.PGSQL.5432".into()), ..rule() }, true),
            (ServerRule { unix_socket: Some("/run/.s.PGSQL.5433".into()), ..rule() }, false),
        ] {
            assert_eq!(rule.matches(&server), expected, "{rule:?}");
            let exclude = ServerRule { exclude: true, ..rule.clone() };
            assert_eq!(excluded(&[exclude], &server), expected);
            assert!(!excluded(std::slice::from_ref(&rule), &server));
            assert_eq!(missing(&[rule], std::slice::from_ref(&server)).is_empty(), expected);
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let rules = [
            ServerRule {
                name: Some("billing".into()),
                port: Some(5433),
                data_directory: Some("/srv/pg".into()),
                ..ServerRule::default()
            },
            ServerRule { exclude: true, port: Some(1), ..ServerRule::default() },
        ];
        let messages: Vec<String> =
            missing(&rules, &[]).iter().map(|missing| missing.to_string()).collect();
        assert_eq!(
            messages,
            ["the configured server \"billing\" is not running: looked for port = 5433 and \
                 data_directory = \"/srv/pg\" among 0 running; it is taken up when it starts"]
        );
    }
}

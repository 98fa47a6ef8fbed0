//! A throwaway PostgreSQL: its own folder, port and certificates, gone when dropped.

use std::{
    fs::{self, File},
    net::{IpAddr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::Signal,
    unistd::{Gid, Uid, User},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Certificates, Running, await_until, children::open_to_all, is_root, notify::Notify, said,
};

/// The superuser and first database of every throwaway server.
pub(crate) const NAME: &str = "postgres";

/// Which way a client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Unix,
    /// IPv4 on loopback, in the clear.
    Tcp,
    /// IPv6 on loopback, in the clear.
    Tcp6,
    /// IPv4 on loopback, encrypted, certificate checked.
    Tls,
    /// Through the guard, to a server that is [`PostgresBuilder::guarded`]; in the clear, or encrypted.
    Guard,
    GuardTls,
    /// By the guard's unix socket in the server's place; see [`Postgres::front_dir`].
    Front,
    /// By the server's own unix socket under a path that no guard knows, so that nobody is led.
    Past,
    /// To an address of the host's, in the clear: from a [`crate::Netns`].
    Network(IpAddr),
}

/// How a throwaway server shall be.
#[derive(Default)]
pub struct PostgresBuilder {
    settings: Vec<(String, String)>,
    preload: Vec<String>,
    tls: bool,
    password: Option<String>,
    everywhere: bool,
    hosts: Option<String>,
    account: Option<String>,
    program: Option<PathBuf>,
    wrapper: Vec<String>,
    guarded: bool,
}

impl PostgresBuilder {
    /// Speaks TLS with a certificate of its own authority.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Logs every statement (and nothing that clients don't cause), to be read by
    /// [`Postgres::logged`].
    pub fn log_statements(self) -> Self {
        self.setting("log_statement", "all").setting("log_parameter_max_length", "-1")
    }

    /// Loads a library at start, as in `pg_stat_statements` or `pgaudit`.
    pub fn preload(mut self, library: &str) -> Self {
        self.preload.push(library.to_owned());
        self
    }

    /// Has a port for a guard, for which [`Postgres::guarded`] is the agent's configuration.
    pub fn guarded(mut self) -> Self {
        self.guarded = true;
        self
    }

    pub fn max_connections(self, n: u32) -> Self {
        self.setting("max_connections", &n.to_string())
    }

    /// Asks every client for the superuser's password by SCRAM; otherwise all are trusted.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Listens on every address of the host, for clients in a [`crate::Netns`].
    pub fn everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// Whom it trusts, and who is rejected: `pg_hba.conf` from its first line to its last.
    pub fn hosts(mut self, rules: &str) -> Self {
        self.hosts = Some(rules.to_owned());
        self
    }

    /// Runs as this account instead of `postgres`.
    pub fn account(mut self, name: &str) -> Self {
        self.account = Some(name.to_owned());
        self
    }

    /// Runs this copy of the server's program.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// Runs the server by way of this command, which starts as root and must end in an exec of what
    /// follows it: `unshare --net`, `env A=b`.
    pub fn by_way_of(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Any setting of `postgresql.conf`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the cluster, starts the server and waits until it takes connections.
    pub fn start(self) -> Result<Postgres> {
        let binaries = binaries()?;
        let owner = Owner::find(self.account.as_deref().unwrap_or(NAME))?;
        let folder = tempfile::Builder::new().prefix("dbwarden-postgres-").tempdir()?;
        open_to_all(folder.path())?;
        let at = |name: &str| folder.path().join(name);
        for name in ["data", "socket", "front", "log"] {
            fs::create_dir(at(name))?;
            owner.give(&at(name))?;
        }

        let mut initdb = Command::new(binaries.join("initdb"));
        initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--username", NAME]);
        initdb.arg("--pgdata").arg(at("data"));
        match &self.password {
            None => initdb.arg("--auth=trust"),
            Some(password) => {
                fs::write(at("password"), password)?;
                owner.give(&at("password"))?;
                initdb.arg("--auth=scram-sha-256").arg("--pwfile").arg(at("password"))
            }
        };
        said(owner.run(&mut initdb))?;

        let certificates = if self.tls {
            let made = Certificates::create(folder.path())?;
            owner.give(&made.key)?;
            Some(made)
        } else {
            None
        };
        let port = free_port()?;
        let configuration = self.configuration(folder.path(), port, certificates.as_ref());
        fs::write(at("data/postgresql.auto.conf"), configuration)?;
        if self.everywhere {
            let method = if self.password.is_some() { "scram-sha-256" } else { "trust" };
            let file = at("data/pg_hba.conf");
            let rules = fs::read_to_string(&file)?;
            fs::write(&file, format!("{rules}host all all all {method}\n"))?;
        }
        if let Some(rules) = &self.hosts {
            fs::write(at("data/pg_hba.conf"), rules)?;
        }

        let mut postgres = Postgres {
            server: None,
            binaries,
            owner,
            port,
            certificates,
            password: self.password,
            server_program: self.program,
            wrapper: self.wrapper,
            guard_port: if self.guarded { Some(free_port()?) } else { None },
            everywhere: self.everywhere,
            folder,
        };
        postgres.start()?;
        Ok(postgres)
    }

    fn configuration(&self, folder: &Path, port: u16, tls: Option<&Certificates>) -> String {
        let at = |name: &str| folder.join(name).display().to_string();
        let addresses = if self.everywhere { "*" } else { "127.0.0.1,::1" };
        let mut settings = vec![
            ("listen_addresses", addresses.to_owned()),
            ("port", port.to_string()),
            ("unix_socket_directories", at("socket")),
            // A throwaway has nothing to lose.
            ("fsync", "off".to_owned()),
            ("shared_preload_libraries", self.preload.join(",")),
            ("logging_collector", "on".to_owned()),
            ("log_destination", "jsonlog".to_owned()),
            ("log_directory", at("log")),
            ("log_filename", "server.log".to_owned()),
            ("log_rotation_age", "0".to_owned()),
            ("log_rotation_size", "0".to_owned()),
        ];
        if self.preload.iter().any(|library| library == "pg_stat_statements") {
            settings.push(("pg_stat_statements.max", "10000".to_owned()));
        }
        if let Some(tls) = tls {
            settings.push(("ssl", "on".to_owned()));
            settings.push(("ssl_cert_file", tls.certificate.display().to_string()));
            settings.push(("ssl_key_file", tls.key.display().to_string()));
        }
        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let lines = settings.into_iter().chain(own);
        lines.map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect()
    }
}

/// A running throwaway server.
pub struct Postgres {
    // First: it must be stopped before its folder goes.
    server: Option<Running>,
    binaries: PathBuf,
    owner: Owner,
    port: u16,
    certificates: Option<Certificates>,
    password: Option<String>,
    server_program: Option<PathBuf>,
    wrapper: Vec<String>,
    guard_port: Option<u16>,
    everywhere: bool,
    folder: TempDir,
}

/// One statement as the server's own log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub text: String,
    pub user: String,
    pub database: String,
    pub application: String,
    /// The server process of the connection.
    pub pid: u64,
    /// By `Execute` of the extended protocol.
    pub extended: bool,
}

impl Postgres {
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What dbwarden calls it where its configuration has no name for it.
    pub fn name(&self) -> String {
        format!("pg-{}", self.port)
    }

    /// Of the postmaster.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.server.as_ref().context("the server is stopped")?.pid())
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Where clients look for a server that has moved to [`Self::socket_dir`].
    pub fn front_dir(&self) -> PathBuf {
        self.folder.path().join("front")
    }

    /// The guard's socket there.
    pub fn front(&self) -> PathBuf {
        self.front_dir().join(format!(".s.PGSQL.{}", self.port))
    }

    /// The file that the server's standard error goes to.
    pub fn output(&self) -> PathBuf {
        self.folder.path().join("log/start")
    }

    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Starts a stopped server again, on the same port.
    pub fn start(&mut self) -> Result<()> {
        let ready = tempfile::tempdir_in(self.folder.path())?;
        open_to_all(ready.path())?;
        let notify = Notify::listen(ready.path())?;
        let output = self.output();
        let stderr = File::options().create(true).append(true).open(&output)?;
        let program = match &self.server_program {
            Some(program) => Command::new(program),
            None => self.program("postgres"),
        };
        let mut command = match self.wrapper.split_first() {
            None => program,
            Some((first, rest)) => {
                let mut wrapper = Command::new(first);
                wrapper.args(rest).args(self.owner.step_down());
                wrapper.arg(program.get_program());
                wrapper
            }
        };
        if self.wrapper.is_empty() {
            self.owner.run(&mut command);
        }
        command
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .env("NOTIFY_SOCKET", notify.path())
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr);
        // SIGINT is PostgreSQL's "fast": it doesn't wait for clients to leave.
        let mut server = Running::start("PostgreSQL", &mut command, Signal::SIGINT)?;
        notify.await_ready(&mut server, "PostgreSQL").with_context(|| {
            let log = self.folder.path().join("log/server.json");
            [output, log].map(|file| fs::read_to_string(file).unwrap_or_default()).concat()
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// Stops the server; its folder stays for [`Self::start`] and [`Self::logged`].
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let status = server.stop()?;
        if !status.success() {
            bail!("PostgreSQL ended with {status}");
        }
        Ok(())
    }

    /// The connection string of a client that comes that way, as the superuser.
    pub fn conninfo(&self, via: Via) -> String {
        self.conninfo_as(via, NAME, NAME)
    }

    /// Likewise, as another user of another database.
    pub fn conninfo_as(&self, via: Via, user: &str, database: &str) -> String {
        let way = match (via, &self.certificates) {
            (Via::Unix, _) => format!("host={}", self.socket_dir().display()),
            (Via::Front, _) => format!("host={}", self.front_dir().display()),
            (Via::Past, _) => format!("host={}/../socket", self.front_dir().display()),
            (Via::Tcp, _) => "host=127.0.0.1 sslmode=disable".to_owned(),
            (Via::Tcp6, _) => "host=::1 sslmode=disable".to_owned(),
            (Via::Tls, Some(tls)) => format!(
                "host=127.0.0.1 sslmode=verify-full sslrootcert={}",
                tls.authority.display()
            ),
            (Via::Guard, _) => "host=127.0.0.1 sslmode=disable".to_owned(),
            (Via::GuardTls, Some(tls)) => format!(
                "host=127.0.0.1 sslmode=verify-full sslrootcert={}",
                tls.authority.display()
            ),
            (Via::Network(host), _) => format!("host={host} sslmode=disable"),
            // The server has no TLS: libpq says so better than a panic here would.
            (Via::Tls | Via::GuardTls, None) => "host=127.0.0.1 sslmode=require".to_owned(),
        };
        let escaped = |word: &String| word.replace('\\', r"\\").replace('\'', r"\'");
        let password = self.password.as_ref().map(|word| format!(" password='{}'", escaped(word)));
        let password = password.unwrap_or_default();
        let port = match via {
            Via::Guard | Via::GuardTls => self.guard_port.unwrap_or_default(),
            _ => self.port,
        };
        format!("{way} port={port} user={user} dbname={database}{password}")
    }

    /// The agent's configuration for a guard in front of this server; `more` belongs to the server.
    pub fn guarded(&self, more: &str) -> String {
        self.in_lane("guard", more)
    }

    /// Likewise, of this server's lane.
    pub fn in_lane(&self, lane: &str, more: &str) -> String {
        let (name, port) = (self.name(), self.port);
        let guard = self.guard_port.unwrap_or_default();
        // As the server itself.
        let host = if self.everywhere { "0.0.0.0" } else { "127.0.0.1" };
        let server =
            format!("[[server]]\nname = \"{name}\"\nport = {port}\nlane = \"{lane}\"\n{more}\n");
        match lane {
            "observe" => server,
            _ => format!("{server}[guard]\nlisten = \"{host}:{guard}\"\n"),
        }
    }

    /// A role by which a guard may ask this server; gives what the configuration says of it in a `[[server]]`.
    pub fn catalog_role(&self, password_file: Option<&Path>) -> Result<String> {
        self.psql(
            Via::Tcp,
            "CREATE ROLE dbwarden LOGIN PASSWORD 'asks';
             GRANT pg_read_all_data, pg_write_all_data TO dbwarden",
        )?;
        let file = password_file.map(|path| format!(", password_file = {path:?}"));
        Ok(format!("catalog = {{ user = \"dbwarden\"{} }}", file.unwrap_or_default()))
    }

    pub fn guard_port(&self) -> Option<u16> {
        self.guard_port
    }

    /// One of the programs that belong to this server's version, as in `psql`.
    pub fn program(&self, name: &str) -> Command {
        Command::new(self.binaries.join(name))
    }

    /// `psql` without a user's own settings, unaligned, rows only; it stops at the first error.
    pub fn psql_command(&self, via: Via) -> Command {
        let mut command = self.program("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d"]);
        command.arg(self.conninfo(via));
        command
    }

    /// Runs one `-c` and returns what it prints.
    pub fn psql(&self, via: Via, sql: &str) -> Result<String> {
        Ok(said(self.psql_command(via).args(["-c", sql]))?.trim_end().to_owned())
    }

    /// `pgbench` with these arguments.
    pub fn pgbench_command(&self, via: Via, arguments: &[&str]) -> Command {
        let mut command = self.program("pgbench");
        // The connection string takes the place of the database's name.
        command.args(arguments).arg(self.conninfo(via));
        command
    }

    /// Runs `pgbench` and returns its report.
    pub fn pgbench(&self, via: Via, arguments: &[&str]) -> Result<String> {
        said(&mut self.pgbench_command(via, arguments))
    }

    /// Runs a Python script with the drivers at hand; `sys.argv[1]` is the connection string.
    pub fn python(&self, via: Via, script: &str) -> Result<String> {
        said(crate::python()?.args(["-c", script]).arg(self.conninfo(via)))
    }

    /// Whether a line of `watch` is about this server.
    pub fn owns(&self, record: &Value) -> bool {
        let path = self.socket_dir().display().to_string();
        let at_path = |address: &str| address.starts_with(&path);
        record["server_port"].as_u64() == Some(u64::from(self.port))
            || record["server_address"].as_str().is_some_and(at_path)
    }

    /// Every statement that the log has, in its order; complete for clients that are done.
    pub fn logged(&mut self) -> Result<Vec<Logged>> {
        Ok(self.log()?.iter().filter_map(logged_statement).collect())
    }

    /// Every entry of the log, as `jsonlog` has it; complete for clients that are done.
    pub fn log(&mut self) -> Result<Vec<Value>> {
        let file = self.folder.path().join("log/server.json");
        if let Some(server) = &mut self.server {
            // Lines go through a pipe to the log's writer: one that the server writes now comes
            // after all of theirs.
            let reloads = |text: &str| text.matches("received SIGHUP").count();
            let before = reloads(&fs::read_to_string(&file)?);
            server.signal(Signal::SIGHUP)?;
            await_until("the log's end", || {
                if let Some(status) = server.ended()? {
                    bail!("PostgreSQL has ended with {status}");
                }
                Ok((reloads(&fs::read_to_string(&file)?) > before).then_some(()))
            })?;
        }
        let text = fs::read_to_string(&file)
            .with_context(|| format!("reading the server's log {}", file.display()))?;
        let entry = |line: &str| {
            serde_json::from_str(line)
                .with_context(|| format!("a line of the server's log: {line}"))
        };
        text.lines().map(entry).collect()
    }
}

/// The log's messages are `statement: TEXT` and `execute NAME: TEXT`.
fn logged_statement(entry: &Value) -> Option<Logged> {
    let field = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    if entry["error_severity"] != "LOG" {
        return None;
    }
    let message = entry["message"].as_str()?;
    let (text, extended) = match message.strip_prefix("statement: ") {
        Some(text) => (text, false),
        // `execute NAME: TEXT`, `execute fetch from NAME: TEXT`; names of drivers have no `: `.
        None => (message.strip_prefix("execute ")?.split_once(": ")?.1, true),
    };
    Some(Logged {
        text: text.to_owned(),
        user: field("user"),
        database: field("dbname"),
        application: field("application_name"),
        pid: entry["pid"].as_u64()?,
        extended,
    })
}

/// PostgreSQL refuses to run as root: then it is the system user `postgres`.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    other: Option<(Uid, Gid)>,
}

impl Owner {
    pub(crate) fn find(name: &str) -> Result<Owner> {
        if !is_root() {
            return Ok(Owner { other: None });
        }
        let user = User::from_name(name)?.with_context(|| {
            format!("there is no user `{name}`; Debian's packages bring it: cargo xtask setup")
        })?;
        Ok(Owner { other: Some((user.uid, user.gid)) })
    }

    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.other else { return Ok(()) };
        chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
            .with_context(|| format!("giving {} to postgres", path.display()))
    }

    /// What root runs before a command so that it runs as this user.
    fn step_down(&self) -> Vec<String> {
        let Some((uid, gid)) = self.other else { return Vec::new() };
        let words = [format!("--reuid={uid}"), format!("--regid={gid}")];
        let head = ["setpriv".to_owned(), "--clear-groups".to_owned()];
        head.into_iter().chain(words).collect()
    }

    pub(crate) fn run<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match self.other {
            Some((uid, gid)) => command.uid(uid.as_raw()).gid(gid.as_raw()).current_dir("/"),
            None => command,
        }
    }
}

/// Debian keeps each version's programs in a folder of its own; the newest wins.
pub fn binaries() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            folder.join("initdb").is_file().then_some((version, folder))
        })
        .max()
        .map(|(_, folder)| folder)
        .context("there is no PostgreSQL server in /usr/lib/postgresql: cargo xtask setup")
}

pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("asking for a free port")?;
    Ok(listener.local_addr()?.port())
}

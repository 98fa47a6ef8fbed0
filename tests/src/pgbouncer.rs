//! A throwaway PgBouncer in front of a throwaway PostgreSQL, gone when dropped.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    Postgres, Running, Via, await_until,
    children::open_to_all,
    postgres::{NAME, Owner, free_port},
};

/// How a throwaway pooler shall be.
pub struct PgBouncerBuilder {
    back: Via,
    account: String,
    settings: String,
}

impl PgBouncerBuilder {
    /// Which way it goes to the database; in the clear.
    pub fn back(mut self, via: Via) -> Self {
        self.back = via;
        self
    }

    /// Runs as this account instead of `postgres`.
    pub fn account(mut self, name: &str) -> Self {
        self.account = name.to_owned();
        self
    }

    /// Any setting of `pgbouncer.ini`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings += &format!("{name} = {value}\n");
        self
    }

    /// Starts it and waits until it takes connections.
    pub fn start(self, postgres: &Postgres) -> Result<PgBouncer> {
        let owner = Owner::find(&self.account)?;
        let folder = tempfile::Builder::new().prefix("dbwarden-pgbouncer-").tempdir()?;
        open_to_all(folder.path())?;
        let socket = folder.path().join("socket");
        fs::create_dir(&socket)?;
        owner.give(&socket)?;
        let port = free_port()?;
        let host = match self.back {
            Via::Unix => postgres.socket_dir().display().to_string(),
            _ => "127.0.0.1".to_owned(),
        };
        let users = folder.path().join("users");
        fs::write(&users, format!("\"{NAME}\" \"\"\n"))?;
        let mut configuration = format!(
            "[databases]\n* = host={host} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir = {}\nauth_type = trust\nauth_file = {}\n\
             admin_users = {NAME}\nquery_wait_timeout = 0\nmax_client_conn = 1000\n{}",
            postgres.port(),
            socket.display(),
            users.display(),
            self.settings,
        );
        if let Some(tls) = postgres.certificates() {
            configuration += &format!(
                "client_tls_sslmode = allow\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
                tls.certificate.display(),
                tls.key.display()
            );
        }
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, configuration)?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new("/usr/sbin/pgbouncer");
        command.arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Running::start("PgBouncer", owner.run(&mut command), Signal::SIGTERM)
            .context("cargo xtask setup installs it")?;
        let log = folder.path().join("log");
        await_until("PgBouncer", || {
            if let Some(status) = process.ended()? {
                anyhow::bail!("it ended with {status}: {}", fs::read_to_string(&log)?);
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        let authority = postgres.certificates().map(|tls| tls.authority.clone());
        Ok(PgBouncer { process, port, socket, authority, _folder: folder })
    }
}

/// A running throwaway pooler.
pub struct PgBouncer {
    // First: it must be stopped before its folder goes.
    process: Running,
    port: u16,
    socket: PathBuf,
    authority: Option<PathBuf>,
    _folder: TempDir,
}

impl PgBouncer {
    pub fn builder() -> PgBouncerBuilder {
        let settings = String::new();
        PgBouncerBuilder { back: Via::Tcp, account: NAME.to_owned(), settings }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What dbwarden calls it.
    pub fn name(&self) -> String {
        format!("pgbouncer-{}", self.port)
    }

    /// The connection string of a client that comes that way, as the superuser.
    pub fn conninfo(&self, via: Via) -> String {
        self.conninfo_to(via, NAME)
    }

    /// Likewise, to another database; `pgbouncer` is its own console.
    pub fn conninfo_to(&self, via: Via, database: &str) -> String {
        let way = match (via, &self.authority) {
            (Via::Unix, _) => format!("host={}", self.socket.display()),
            (Via::Tls, Some(authority)) => {
                format!("host=127.0.0.1 sslmode=verify-full sslrootcert={}", authority.display())
            }
            _ => "host=127.0.0.1 sslmode=disable".to_owned(),
        };
        format!("{way} port={} user={NAME} dbname={database}", self.port)
    }
}

//! A throwaway HAProxy in TCP mode in front of a throwaway PostgreSQL, gone when dropped.

use std::{
    fs::{self, File},
    net::TcpStream,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{Postgres, Running, await_until, postgres::free_port};

pub struct Haproxy {
    // First: it must be stopped before its folder goes.
    process: Running,
    port: u16,
    _folder: TempDir,
}

impl Haproxy {
    /// Starts it and waits until it takes connections.
    pub fn start(postgres: &Postgres) -> Result<Haproxy> {
        let folder = tempfile::Builder::new().prefix("dbwarden-haproxy-").tempdir()?;
        let port = free_port()?;
        let file = folder.path().join("haproxy.cfg");
        let configuration = format!(
            "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
             timeout client 1h\n  timeout server 1h\nlisten postgres\n  \
             bind 127.0.0.1:{port}\n  server one 127.0.0.1:{}\n",
            postgres.port()
        );
        fs::write(&file, configuration)?;
        let log = folder.path().join("log");
        let output = File::create(&log)?;
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(&file);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // SIGUSR1 would wait for its clients.
        let mut process = Running::start("HAProxy", &mut command, Signal::SIGTERM)
            .context("cargo xtask setup installs it")?;
        await_until("HAProxy", || {
            if let Some(status) = process.ended()? {
                bail!("it ended with {status}: {}", fs::read_to_string(&log)?);
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(Haproxy { process, port, _folder: folder })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

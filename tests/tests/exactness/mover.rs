//! A server that does what it is told, system call by system call.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    connection::Connection,
    watched::{SERVER, Watched},
};

/// A running `mover`.
pub struct Mover {
    pub child: Child,
    pub commands: ChildStdin,
    pub answers: BufReader<ChildStdout>,
}

impl Mover {
    pub fn start() -> Result<Mover> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mover"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut mover = Mover { child, commands, answers };
        // Once it answers, its heir is there.
        mover.ask("dup 0")?;
        Ok(mover)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.commands.write_all(format!("{command}\n").as_bytes())?;
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the mover ended at `{command}`");
        Ok(line.trim_end().to_owned())
    }

    pub fn number(&mut self, command: &str) -> Result<u64> {
        let said = self.ask(command)?;
        said.parse().with_context(|| format!("`{command}` was answered with `{said}`"))
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A mover that listens, tracked.
pub struct Service {
    pub mover: Mover,
    pub listener: u64,
    pub port: u16,
    pub path: Option<PathBuf>,
    pub folder: tempfile::TempDir,
    pub n_streams: u64,
}

impl Service {
    pub fn start(watched: &mut Watched, kind: &str) -> Result<Service> {
        let mut mover = Mover::start()?;
        watched.track(mover.pid())?;
        let folder = tempfile::tempdir()?;
        let path = (kind == "unix").then(|| folder.path().join("socket"));
        let at = path.as_ref().map_or(kind.to_owned(), |path| path.display().to_string());
        let said = mover.ask(&format!("listen {at}"))?;
        let (listener, port) = said.split_once(' ').context("no port")?;
        let (listener, port) = (listener.parse()?, port.parse()?);
        if path.is_none() {
            watched.capture.listen(netns()?, port, SERVER)?;
        }
        Ok(Service { mover, listener, port, path, folder, n_streams: 0 })
    }

    pub fn connect(&mut self) -> Result<Connection> {
        let (socket, port): (OwnedFd, u16) = match &self.path {
            Some(path) => (UnixStream::connect(path)?.into(), 0),
            None => {
                let stream = TcpStream::connect(("localhost", self.port))
                    .or_else(|_| TcpStream::connect(("::1", self.port)))?;
                let port = stream.local_addr()?.port();
                (stream.into(), port)
            }
        };
        let fd = self.mover.number(&format!("accept {}", self.listener))?;
        self.n_streams += 2;
        Connection::new(socket, port, fd, self.n_streams)
    }
}

pub fn netns() -> Result<u32> {
    Ok(u32::try_from(std::fs::metadata("/proc/self/ns/net")?.ino())?)
}

//! A bare PostgreSQL client that counts every byte it sends and gets.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    net::TcpStream,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{Shutdown, shutdown};

use crate::{Postgres, postgres::NAME};

/// A server that says nothing for so long has hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// One connection. It doesn't say good-bye when dropped.
pub struct Wire {
    /// A socket of either family.
    stream: BufReader<File>,
    sent: u64,
    received: u64,
}

/// How the server answered one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub rows: u64,
    /// SQLSTATE of the last error.
    pub error: Option<String>,
}

impl Wire {
    /// A socket on which nothing was said yet.
    pub fn open(postgres: &Postgres) -> Result<Wire> {
        let path: PathBuf = postgres.socket_dir().join(format!(".s.PGSQL.{}", postgres.port()));
        let stream = UnixStream::connect(&path)
            .with_context(|| format!("connecting to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire::on(stream.into()))
    }

    fn on(socket: OwnedFd) -> Wire {
        Wire { stream: BufReader::new(socket.into()), sent: 0, received: 0 }
    }

    /// A session of the superuser.
    pub fn connect(postgres: &Postgres, application: &str) -> Result<Wire> {
        Wire::open(postgres)?.log_in(application)
    }

    /// Likewise, by whatever listens on this port of the host.
    pub fn connect_at(port: u16, application: &str) -> Result<Wire> {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .with_context(|| format!("connecting to port {port}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Wire::on(stream.into()).log_in(application)
    }

    fn log_in(mut self, application: &str) -> Result<Wire> {
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for word in ["user", NAME, "database", NAME, "application_name", application, ""] {
            body.extend_from_slice(word.as_bytes());
            body.push(0);
        }
        let mut packet = length(&body)?.to_be_bytes().to_vec();
        packet.extend_from_slice(&body);
        self.send(&packet)?;
        let answer = self.answer()?;
        match answer.error {
            Some(code) => bail!("the server refused the connection: {code}"),
            None => Ok(self),
        }
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    /// Any bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("sending")?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    /// `Query`.
    pub fn send_query(&mut self, text: &str) -> Result<()> {
        self.send(&message(b'Q', &[text.as_bytes(), b"\0"].concat())?)
    }

    /// `Parse`, `Bind`, `Describe`, `Execute`, `Sync` in one write, unnamed.
    pub fn send_extended(&mut self, text: &str) -> Result<()> {
        let parts = [
            message(b'P', &[b"\0", text.as_bytes(), b"\0\0\0"].concat())?,
            message(b'B', &[0; 8])?,
            message(b'D', b"P\0")?,
            message(b'E', &[0; 5])?,
            message(b'S', b"")?,
        ];
        self.send(&parts.concat())
    }

    pub fn query(&mut self, text: &str) -> Result<Answer> {
        self.send_query(text)?;
        self.answer()
    }

    /// Reads up to `ReadyForQuery`, or up to the error that ends the connection.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut answer = Answer::default();
        let mut body = Vec::new();
        loop {
            let mut header = [0; 5];
            self.stream.read_exact(&mut header).context("waiting for an answer")?;
            let [tag, length @ ..] = header;
            let len = u32::from_be_bytes(length).saturating_sub(4) as usize;
            body.resize(len, 0);
            self.stream.read_exact(&mut body).context("in the middle of an answer")?;
            self.received += (header.len() + len) as u64;
            match tag {
                b'D' => answer.rows += 1,
                b'E' => answer.error = Some(field(&body, b'C')),
                b'Z' => return Ok(answer),
                _ => {}
            }
        }
    }

    /// Reads until the server closes; how many bytes came.
    pub fn read_to_end(&mut self) -> Result<u64> {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = self.stream.read_to_end(&mut rest);
        self.received += rest.len() as u64;
        Ok(rest.len() as u64)
    }

    /// No more will be sent.
    pub fn finish_sending(&mut self) -> Result<()> {
        Ok(shutdown(self.stream.get_ref().as_raw_fd(), Shutdown::Write)?)
    }
}

/// Of a body with the length itself.
pub fn length(body: &[u8]) -> Result<u32> {
    Ok(u32::try_from(body.len() + 4)?)
}

/// A message of the protocol.
pub fn message(tag: u8, body: &[u8]) -> Result<Vec<u8>> {
    let mut message = vec![tag];
    message.extend_from_slice(&length(body)?.to_be_bytes());
    message.extend_from_slice(body);
    Ok(message)
}

/// One field of an `ErrorResponse`.
pub fn field(body: &[u8], wanted: u8) -> String {
    let mut fields = body.split(|byte| *byte == 0);
    let found = fields.find_map(|field| field.strip_prefix(&[wanted]));
    String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
}

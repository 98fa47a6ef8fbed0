//! A bare PostgreSQL client, over TCP or a unix socket, that says what it is told in either protocol, and what came back.

use std::{
    io::{BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use dbwarden_tests::wire::{field, length, message};

/// A server that says nothing for so long has hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// An error that the other side has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: String,
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.message)
    }
}

/// What came up to `ReadyForQuery`.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// `NULL` is an empty text.
    pub rows: Vec<Vec<String>>,
    pub failure: Option<Failure>,
    /// Every byte of it.
    pub heard: Vec<u8>,
}

pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// A host that is a path is a folder with a socket, as for libpq.
fn stream(host: &str, port: u16) -> std::io::Result<Box<dyn Stream>> {
    if host.starts_with('/') {
        let stream = UnixStream::connect(format!("{host}/.s.PGSQL.{port}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        return Ok(Box::new(stream));
    }
    let stream = TcpStream::connect((host, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Box::new(stream))
}

impl Client {
    pub fn connect(
        host: &str,
        port: u16,
        user: &str,
        database: &str,
        application: &str,
    ) -> Result<Client> {
        let stream = stream(host, port).with_context(|| format!("connecting to {host}:{port}"))?;
        let mut client = Client { stream: BufReader::new(stream) };
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for word in ["user", user, "database", database, "application_name", application] {
            text(&mut body, word);
        }
        body.push(0);
        let mut packet = length(&body)?.to_be_bytes().to_vec();
        packet.extend_from_slice(&body);
        client.send(&packet)?;
        match client.answer()?.failure {
            Some(failure) => bail!("refused as {user} of {database}: {failure}"),
            None => Ok(client),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("sending")
    }

    pub fn query(&mut self, sql: &str) -> Result<Answer> {
        let mut body = Vec::new();
        text(&mut body, sql);
        self.send(&message(b'Q', &body)?)?;
        self.answer()
    }

    /// Parse (where there is a text), Bind, Execute, Sync; values as text.
    pub fn prepared(&mut self, name: &str, sql: Option<&str>, values: &[String]) -> Result<Answer> {
        let mut bytes = Vec::new();
        if let Some(sql) = sql {
            bytes.extend(parse(name, sql)?);
        }
        bytes.extend(bind(name, values)?);
        bytes.extend(message(b'E', &[0; 5])?);
        bytes.extend(message(b'S', b"")?);
        self.send(&bytes)?;
        self.answer()
    }

    /// All of them before one Sync, in one write.
    pub fn pipeline(&mut self, all: &[String]) -> Result<Answer> {
        let mut bytes = Vec::new();
        for sql in all {
            bytes.extend(parse("", sql)?);
            bytes.extend(bind("", &[])?);
            bytes.extend(message(b'E', &[0; 5])?);
        }
        bytes.extend(message(b'S', b"")?);
        self.send(&bytes)?;
        self.answer()
    }

    /// FunctionCall, arguments as text.
    pub fn call(&mut self, oid: u32, arguments: &[String]) -> Result<Answer> {
        let mut body = oid.to_be_bytes().to_vec();
        body.extend(0_u16.to_be_bytes());
        values_of(&mut body, arguments)?;
        body.extend(0_u16.to_be_bytes());
        self.send(&message(b'F', &body)?)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let mut header = [0; 5];
            self.stream.read_exact(&mut header).context("waiting for an answer")?;
            let [tag, len @ ..] = header;
            let mut body = vec![0; u32::from_be_bytes(len).saturating_sub(4) as usize];
            self.stream.read_exact(&mut body).context("in the middle of an answer")?;
            answer.heard.extend_from_slice(&header);
            answer.heard.extend_from_slice(&body);
            match tag {
                b'D' => answer.rows.push(row(&body)),
                b'E' => {
                    let failure = Failure { code: field(&body, b'C'), message: field(&body, b'M') };
                    if field(&body, b'V') == "FATAL" {
                        bail!("{failure}");
                    }
                    answer.failure.get_or_insert(failure);
                }
                b'G' => self.send(&message(b'f', b"nothing to copy\0")?)?,
                b'Z' => return Ok(answer),
                _ => {}
            }
        }
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(text.as_bytes());
    body.push(0);
}

fn parse(name: &str, sql: &str) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    text(&mut body, name);
    text(&mut body, sql);
    body.extend(0_u16.to_be_bytes());
    message(b'P', &body)
}

fn bind(name: &str, values: &[String]) -> Result<Vec<u8>> {
    let mut body = vec![0];
    text(&mut body, name);
    body.extend(0_u16.to_be_bytes());
    values_of(&mut body, values)?;
    body.extend(0_u16.to_be_bytes());
    message(b'B', &body)
}

fn values_of(body: &mut Vec<u8>, values: &[String]) -> Result<()> {
    body.extend(u16::try_from(values.len())?.to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len())?.to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    Ok(())
}

fn row(body: &[u8]) -> Vec<String> {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut values = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(i32::from_be_bytes(*len)).unwrap_or(0);
        let (value, after) = after.split_at(len.min(after.len()));
        values.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    values
}

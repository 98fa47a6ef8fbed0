//! A stand-in for a server or a guard: it says who it is.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::Dial;

const PATIENCE: Duration = Duration::from_secs(10);

/// Answers each byte with its name and the client's address, until the client leaves. Ends with the test.
pub struct Greeter {
    pub at: SocketAddr,
    pub listener: TcpListener,
}

impl Greeter {
    pub fn start(name: &'static str, at: impl Into<SocketAddr>) -> Result<Greeter> {
        let listener = TcpListener::bind(at.into())?;
        let at = listener.local_addr()?;
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((mut client, from)) = accepting.accept() {
                thread::spawn(move || {
                    let mut byte = [0];
                    while client.read_exact(&mut byte).is_ok() {
                        let _ = writeln!(client, "{name} {}", from.ip());
                    }
                });
            }
        });
        Ok(Greeter { at, listener })
    }

    /// Nobody listens any more.
    pub fn stop(self) {
        // Wakes its thread as well.
        // SAFETY: no pointers; a socket of ours.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

/// Who answers a connection's byte, and the client's address that they see.
pub fn heard(stream: &TcpStream) -> Result<(String, IpAddr)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let (name, from) = line.trim().split_once(' ').with_context(|| format!("heard {line:?}"))?;
    Ok((name.to_owned(), from.parse::<IpAddr>()?.to_canonical()))
}

/// Who answers a connection to this address.
pub fn answers(to: impl Into<SocketAddr>) -> Result<String> {
    Ok(heard(&Dial::Connect.dial(to.into())?)?.0)
}

/// Whether a connection to this address is refused, as where nobody listens.
pub fn is_refused(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, PATIENCE)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// A server and its guard on each of the loopback addresses: ports 5432 and 6543.
pub fn server_and_guard() -> Result<[(Greeter, Greeter); 2]> {
    let [four, six] = [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].map(|ip| {
        let server = Greeter::start("server", (ip, 5432))?;
        anyhow::Ok((server, Greeter::start("guard", (ip, 6543))?))
    });
    Ok([four?, six?])
}

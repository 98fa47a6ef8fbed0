//! A connection to a client or to the server, encrypted or not.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    pin::Pin,
    task::{Context, Poll},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, sockopt::socket_domain},
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsStream;

pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// The other side has hung up, though what it had said before may not be read yet.
    pub(super) fn has_left(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        };
        let socket = match socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok()
            && polled.iter().any(|one| one.revents().intersects(gone))
    }

    /// What the other side has shown of itself.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().cloned(),
        }
    }
}

impl Socket {
    /// A socket that another process has connected or accepted.
    pub(super) fn given(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(match socket_domain(socket.as_fd())? {
            AddressFamily::UNIX => Self::Unix(UnixStream::from_std(StdUnixStream::from(socket))?),
            _ => {
                let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
        })
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// The first byte, left where it is.
    pub(super) async fn first_byte(&self) -> io::Result<u8> {
        let mut byte = [0];
        let n = match self {
            Self::Tcp(stream) => stream.peek(&mut byte).await?,
            // Nobody begins with TLS on a unix socket.
            Self::Unix(_) => return Ok(0),
        };
        match n {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(byte[0]),
        }
    }
}

/// Calls a method of whichever stream it is.
macro_rules! either {
    ($self:ident, $a:ident | $b:ident: $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::$a($stream) => $call,
            Self::$b($stream) => $call,
        }
    };
}

macro_rules! delegate {
    ($name:ident, $a:ident | $b:ident) => {
        impl AsyncRead for $name {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                either!(self, $a | $b: stream => Pin::new(stream).poll_read(cx, buffer))
            }
        }

        impl AsyncWrite for $name {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                either!(self, $a | $b: stream => Pin::new(stream).poll_write(cx, bytes))
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                either!(self, $a | $b: stream => Pin::new(stream).poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                either!(self, $a | $b: stream => Pin::new(stream).poll_shutdown(cx))
            }
        }
    };
}

delegate!(Socket, Tcp | Unix);
delegate!(Stream, Plain | Tls);

//! A connection to a client or to the server, encrypted or not.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg,
        shutdown,
        sockopt::{set_tcp_nodelay, socket_domain},
    },
};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::reactor::{Reactor, Registered};

/// A socket of a worker's.
pub(super) struct Socket {
    place: Registered,
    fd: OwnedFd,
    is_unix: bool,
}

pub(super) enum Stream<S = Socket> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

impl Stream {
    /// The other side has hung up, though what it had said before may not be read yet.
    pub(super) fn has_left(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::from_borrowed_fd(socket.fd.as_fd(), PollFlags::RDHUP)];
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
    pub(super) fn given(fd: OwnedFd, reactor: &Reactor) -> io::Result<Self> {
        let is_unix = prepare(&fd)?;
        Ok(Self { place: Registered::new(reactor, fd.as_fd())?, fd, is_unix })
    }

    pub fn is_unix(&self) -> bool {
        self.is_unix
    }

    /// The first byte, left where it is.
    pub(super) async fn first_byte(&self) -> io::Result<u8> {
        if self.is_unix {
            // Nobody begins with TLS there.
            return Ok(0);
        }
        let mut byte = [0];
        let n = poll_fn(|_| self.place.peek(|| self.receive(&mut byte, RecvFlags::PEEK))).await?;
        match n {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(byte[0]),
        }
    }

    fn receive(&self, bytes: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        let (n, _whole) = recv(&self.fd, bytes, flags)?;
        Ok(n)
    }
}

/// Nobody waits for it any more, nor does what is written; whether it is a unix socket.
pub(super) fn prepare(fd: &OwnedFd) -> io::Result<bool> {
    ioctl_fionbio(fd, true)?;
    let is_unix = socket_domain(fd)? == AddressFamily::UNIX;
    if !is_unix {
        set_tcp_nodelay(fd, true)?;
    }
    Ok(is_unix)
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.place.leave(self.fd.as_fd());
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let free = buffer.initialize_unfilled();
        let most = free.len();
        let read = self.place.read(most, || self.receive(free, RecvFlags::empty()));
        read.map_ok(|n| buffer.advance(n))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.place.write(|| Ok(send(&self.fd, bytes, SendFlags::NOSIGNAL)?))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.place.write(|| {
            let mut nothing = SendAncillaryBuffer::default();
            Ok(sendmsg(&self.fd, parts, &mut nothing, SendFlags::NOSIGNAL)?)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(&self.fd, Shutdown::Write)?))
    }
}

/// Calls a method of whichever stream it is.
macro_rules! either {
    ($self:ident: $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($stream) => $call,
            Self::Tls($stream) => $call,
        }
    };
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self: stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self: stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self: stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self: stream => Pin::new(stream).poll_shutdown(cx))
    }
}

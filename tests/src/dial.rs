//! The ways in which a program can open a TCP connection.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    Connect,
    /// Not waited for by `connect` itself.
    NonBlocking,
    /// By an IPv6 socket, also to an IPv4 address.
    Mapped,
    Mptcp,
    /// `sendto` with `MSG_FASTOPEN`: no connect at all.
    FastOpenSend,
    /// `TCP_FASTOPEN_CONNECT`: nothing is sent before the first write.
    FastOpenConnect,
    IoUring,
    /// io_uring by a kernel thread, without a system call of the program's.
    IoUringPolled,
}

impl Dial {
    pub const ALL: [Dial; 8] = [
        Dial::Connect,
        Dial::NonBlocking,
        Dial::Mapped,
        Dial::Mptcp,
        Dial::FastOpenSend,
        Dial::FastOpenConnect,
        Dial::IoUring,
        Dial::IoUringPolled,
    ];

    /// A socket that can dial this address.
    pub fn socket(self, to: SocketAddr) -> Result<OwnedFd> {
        let is_ipv4 = to.is_ipv4() && self != Dial::Mapped;
        let family = if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 };
        let protocol = if self == Dial::Mptcp { libc::IPPROTO_MPTCP } else { libc::IPPROTO_TCP };
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol) };
        owned(fd).with_context(|| format!("a socket for {self:?}"))
    }

    /// Connects a socket of its own, and sends one byte.
    pub fn dial(self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self.socket(to).and_then(|socket| self.open(socket, to, b"?"));
        stream.with_context(|| format!("{self:?} to {to}"))
    }

    /// Connects, and sends `first`.
    pub fn open(self, socket: OwnedFd, to: SocketAddr, first: &[u8]) -> Result<TcpStream> {
        let fd = socket.as_raw_fd();
        let to = match (self, to) {
            (Dial::Mapped, SocketAddr::V4(to)) => (to.ip().to_ipv6_mapped(), to.port()).into(),
            _ => to,
        };
        let (address, len) = raw(to);
        let at = (&raw const address).cast();
        let sent = match self {
            Dial::FastOpenSend => {
                // SAFETY: buffers of the lengths that are said.
                let sent = unsafe {
                    let flags = libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL;
                    libc::sendto(fd, first.as_ptr().cast(), first.len(), flags, at, len)
                };
                check(sent as i32)?;
                true
            }
            Dial::IoUring | Dial::IoUringPolled => {
                check(uring_connect(fd, at, len, self == Dial::IoUringPolled)?)?;
                false
            }
            _ => {
                if self == Dial::FastOpenConnect {
                    set(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
                }
                let stream_flags = if self == Dial::NonBlocking { libc::O_NONBLOCK } else { 0 };
                // SAFETY: a socket of ours, and a buffer of the length that is said.
                let connected = unsafe {
                    libc::fcntl(fd, libc::F_SETFL, stream_flags);
                    libc::connect(fd, at, len)
                };
                match check(connected) {
                    Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => await_end(fd)?,
                    other => other?,
                }
                false
            }
        };
        let mut stream = TcpStream::from(socket);
        stream.set_nonblocking(false)?;
        if !sent {
            io::Write::write_all(&mut stream, first)?;
        }
        Ok(stream)
    }
}

/// The kernel's name for a socket.
pub fn socket_cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let (mut cookie, mut len) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let (at, len) = ((&raw mut cookie).cast(), &raw mut len);
    // SAFETY: a buffer of the length that is said.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, at, len)
    })?;
    Ok(cookie)
}

fn await_end(fd: RawFd) -> io::Result<()> {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    let (mut error, mut len) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: buffers of the lengths that are said.
    unsafe {
        check(libc::poll(&raw mut poll, 1, 10_000))?;
        let at = (&raw mut error).cast();
        check(libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, at, &raw mut len))?;
    }
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn set(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: a buffer of the length that is said.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) })
}

fn check(answer: libc::c_int) -> io::Result<()> {
    match answer {
        // io_uring gives the error itself.
        -1 => Err(io::Error::last_os_error()),
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        _ => Ok(()),
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(to: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: integers only.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let at = &raw mut storage;
    let len = match to {
        SocketAddr::V4(to) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage has room for each of the families.
            unsafe { at.cast::<libc::sockaddr_in>().write(address) };
            size_of_val(&address)
        }
        SocketAddr::V6(to) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                sin6_scope_id: to.scope_id(),
            };
            // SAFETY: as above.
            unsafe { at.cast::<libc::sockaddr_in6>().write(address) };
            size_of_val(&address)
        }
    };
    (storage, len as libc::socklen_t)
}

/// `struct io_uring_params`: 10 words, then the offsets of the two rings.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    others: [u32; 7],
    /// head, tail, ring_mask, ring_entries, flags, dropped, array, …
    sq: [u32; 10],
    /// head, tail, ring_mask, ring_entries, overflow, cqes, …
    cq: [u32; 10],
}

/// One connect by an io_uring of its own: what the kernel answers.
fn uring_connect(
    socket: RawFd,
    address: *const libc::sockaddr,
    len: libc::socklen_t,
    polled: bool,
) -> Result<libc::c_int> {
    const OP_CONNECT: u8 = 16;
    const SETUP_SQPOLL: u32 = 2;
    const ENTER_GETEVENTS: u32 = 1;
    const ENTER_SQ_WAKEUP: u32 = 2;
    const MAP_SQES: libc::off_t = 0x1000_0000;
    const PAGE: usize = 4096;

    let flags = if polled { SETUP_SQPOLL } else { 0 };
    let mut params = Params { flags, ..Params::default() };
    // SAFETY: the kernel reads and fills `params`; the mappings are checked, live until the end of this
    // process, and are read and written inside of what the kernel says of them.
    unsafe {
        let ring = owned(libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut params) as RawFd)
            .context("io_uring_setup")?;
        let map = |offset| {
            let (rights, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            let at = libc::mmap(ptr::null_mut(), PAGE, rights, how, ring.as_raw_fd(), offset);
            ensure!(at != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
            Ok(at.cast::<u8>())
        };
        // Both rings of one entry are in one page.
        let (rings, sqe) = (map(0)?, map(MAP_SQES)?);
        let word = |offset: u32| &*rings.add(offset as usize).cast::<AtomicU32>();
        sqe.write_bytes(0, 64);
        sqe.write(OP_CONNECT);
        sqe.add(4).cast::<i32>().write(socket);
        sqe.add(8).cast::<u64>().write(u64::from(len));
        sqe.add(16).cast::<u64>().write(address as u64);
        word(params.sq[6]).store(0, Ordering::Relaxed);
        word(params.sq[1]).store(1, Ordering::Release);
        let flags = ENTER_GETEVENTS | if polled { ENTER_SQ_WAKEUP } else { 0 };
        let (none, zero) = (ptr::null::<u8>(), 0_usize);
        let fd = ring.as_raw_fd();
        let entered = libc::syscall(libc::SYS_io_uring_enter, fd, 1, 1, flags, none, zero);
        check(entered as libc::c_int).context("io_uring_enter")?;
        ensure!(word(params.cq[1]).load(Ordering::Acquire) == 1, "io_uring has not answered");
        Ok(rings.add(params.cq[5] as usize + 8).cast::<i32>().read())
    }
}

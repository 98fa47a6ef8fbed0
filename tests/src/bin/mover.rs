//! A server without a database: it moves bytes over its sockets with whichever system call a test names,
//! and says how many it moved. One command a line on standard input, one answer a line.

use std::{
    fs::File,
    io::{self, Write as _},
    mem::{size_of, zeroed},
    net::TcpListener,
    os::{
        fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd},
        unix::net::UnixListener,
    },
    process::Command,
    ptr::{null, null_mut},
};

use anyhow::{Context, Result, bail, ensure};
use dbwarden_tests::pattern::{self, Numbers};

fn main() -> Result<()> {
    // A program that a server runs: it only reaches out.
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() > 1 {
        connect(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        return Ok(());
    }
    let (ours, theirs) = socket_pair()?;
    // Forked before any connection exists: what it gets of them, it gets by SCM_RIGHTS.
    if fork()? == 0 {
        close(ours);
        while let Some(fd) = receive_fd(theirs)? {
            commands(None, Some(fd))?;
            write(theirs, b"d")?;
        }
        return Ok(());
    }
    close(theirs);
    commands(Some(ours), None)
}

/// Answers commands until `end`. `heir` is the way to the process that sockets are passed to.
fn commands(heir: Option<RawFd>, mut passed: Option<RawFd>) -> Result<()> {
    if passed.is_some() {
        answer(&std::process::id().to_string())?;
    }
    loop {
        let line = command()?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| -> Result<u64> {
            let word = words.get(at).with_context(|| format!("`{line}` lacks a number"))?;
            word.parse().with_context(|| format!("`{word}` in `{line}`"))
        };
        let fd = |at| -> Result<RawFd> { Ok(number(at)? as RawFd) };
        let said = match words.first().copied() {
            None => return Ok(()),
            Some("end") => return answer("0"),
            Some("listen") => listen(words.get(1).copied().unwrap_or_default())?,
            Some("accept") => checked(unsafe { libc::accept(fd(1)?, null_mut(), null_mut()) })?,
            Some("passed") => passed.take().context("nothing was passed")?.to_string(),
            Some("dup") => checked(unsafe { libc::dup(fd(1)?) })?,
            Some("dup2") => checked(unsafe { libc::dup2(fd(1)?, fd(2)?) })?,
            Some("close") => {
                close(fd(1)?);
                "0".to_owned()
            }
            Some("nonblocking") => {
                checked(unsafe { libc::fcntl(fd(1)?, libc::F_SETFL, libc::O_NONBLOCK) })?
            }
            Some("move") => {
                let call = words.get(2).copied().unwrap_or_default();
                let what = What {
                    fd: fd(1)?,
                    stream: number(3)?,
                    position: number(4)?,
                    len: number(5)? as usize,
                    n_vectors: number(6)? as usize,
                    flags: number(7)? as i32,
                };
                let moved = what.by(call)?;
                // Also if the number of bytes is none: that is what the test asked about.
                if moved < 0 {
                    format!("{}", io::Error::last_os_error().kind())
                } else {
                    moved.to_string()
                }
            }
            Some("duplex") => duplex(fd(1)?, number(2)?, number(3)? as usize)?,
            Some("writers") => writers(fd(1)?, number(2)?, number(3)?)?,
            Some("fork") => {
                let child = fork()?;
                if child == 0 {
                    answer(&std::process::id().to_string())?;
                    commands(None, None)?;
                    std::process::exit(0);
                }
                checked(unsafe { libc::waitpid(child, null_mut(), 0) })?;
                continue; // the child has answered
            }
            Some("pass") => {
                let heir = heir.context("the heir has no heir")?;
                send_fd(heir, fd(1)?)?;
                let mut done = [0u8];
                checked(unsafe { libc::read(heir, done.as_mut_ptr().cast(), 1) as i32 })?;
                continue; // the heir has answered
            }
            Some("connect") => connect(&words)?,
            Some("run") => {
                let (program, arguments) = words[1..].split_first().context("no program")?;
                Command::new(program).args(arguments).status()?.to_string()
            }
            Some(other) => bail!("there is no command `{other}`"),
        };
        answer(&said)?;
    }
}

/// One line: the test waits for its answer before it sends another.
fn command() -> Result<String> {
    let mut line = vec![0u8; 4096];
    let n = unsafe { libc::read(0, line.as_mut_ptr().cast(), line.len()) };
    ensure!(n >= 0, "reading a command: {}", io::Error::last_os_error());
    line.truncate(n as usize);
    Ok(String::from_utf8(line)?)
}

fn answer(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// One call on a socket.
struct What {
    fd: RawFd,
    stream: u64,
    position: u64,
    len: usize,
    n_vectors: usize,
    flags: i32,
}

impl What {
    fn by(&self, call: &str) -> Result<isize> {
        let (fd, flags) = (self.fd, self.flags);
        let mut parts = self.parts();
        let whole = || pattern::bytes(self.stream, self.position, self.len);
        // SAFETY: buffers and vectors outlive the calls.
        unsafe {
            let mut vectors: Vec<libc::iovec> = parts
                .iter_mut()
                .map(|p| libc::iovec { iov_base: p.as_mut_ptr().cast(), iov_len: p.len() })
                .collect();
            let (at, n) = (vectors.as_mut_ptr(), vectors.len() as i32);
            let mut message: libc::msghdr = zeroed();
            message.msg_iov = at;
            message.msg_iovlen = vectors.len();
            // Two messages: the first vector, then the others.
            let mut first: libc::msghdr = zeroed();
            first.msg_iov = at;
            first.msg_iovlen = 1;
            let mut second: libc::msghdr = zeroed();
            second.msg_iov = at.add(1.min(vectors.len()));
            second.msg_iovlen = vectors.len() - 1;
            let mut many = [
                libc::mmsghdr { msg_hdr: first, msg_len: 0 },
                libc::mmsghdr { msg_hdr: second, msg_len: 0 },
            ];
            let n_many = if vectors.len() > 1 { 2 } else { 1 };
            let mut buffer = whole();
            let (data, len) = (buffer.as_mut_ptr().cast::<libc::c_void>(), self.len);
            let moved = match call {
                "read" => libc::read(fd, data, len),
                "recv" => libc::recv(fd, data, len, flags),
                "recvfrom" => {
                    let mut from: libc::sockaddr_storage = zeroed();
                    let mut from_len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                    libc::recvfrom(fd, data, len, flags, (&raw mut from).cast(), &mut from_len)
                }
                "readv" => libc::readv(fd, at, n),
                "preadv2" => libc::preadv2(fd, at, n, -1, 0),
                "recvmsg" => libc::recvmsg(fd, &mut message, flags),
                "recvmmsg" => {
                    let wait = flags | libc::MSG_WAITFORONE;
                    let n = libc::recvmmsg(fd, many.as_mut_ptr(), n_many, wait, null_mut());
                    sum(n, &many)
                }
                "write" => libc::write(fd, data, len),
                "send" => libc::send(fd, data, len, flags),
                "sendto" => libc::sendto(fd, data, len, flags, null(), 0),
                "writev" => libc::writev(fd, at, n),
                "pwritev2" => libc::pwritev2(fd, at, n, -1, 0),
                "sendmsg" => libc::sendmsg(fd, &message, flags),
                "sendmmsg" => sum(libc::sendmmsg(fd, many.as_mut_ptr(), n_many, flags), &many),
                "sendfile" => {
                    let mut file = File::from_raw_fd(libc::memfd_create(c"moved".as_ptr(), 0));
                    file.write_all(&buffer)?;
                    let mut offset = 0;
                    libc::sendfile(fd, file.as_raw_fd(), &mut offset, len)
                }
                "splice" => {
                    let mut ends = [0; 2];
                    libc::pipe(ends.as_mut_ptr());
                    // A pipe holds 64 KiB.
                    let put = libc::write(ends[1], data, len.min(32 << 10));
                    let moved = libc::splice(ends[0], null_mut(), fd, null_mut(), put as usize, 0);
                    close(ends[0]);
                    close(ends[1]);
                    moved
                }
                "uring_send" => uring::transfer(fd, uring::SEND, data, len)?,
                "uring_recv" => uring::transfer(fd, uring::RECV, data, len)?,
                other => bail!("there is no call `{other}`"),
            };
            Ok(moved)
        }
    }

    /// The bytes in as many vectors as were asked for, about every fourth of them empty.
    fn parts(&self) -> Vec<Vec<u8>> {
        let mut numbers = Numbers(self.position ^ self.len as u64);
        let bytes = pattern::bytes(self.stream, self.position, self.len);
        let n = self.n_vectors.max(1);
        let mut parts = Vec::new();
        let mut rest = bytes.as_slice();
        for left in (1..=n).rev() {
            let most = (2 * rest.len() / left) as u64;
            let size = match numbers.below(4) {
                _ if left == 1 => rest.len(),
                0 => 0,
                _ => numbers.below(most + 1).min(rest.len() as u64) as usize,
            };
            let (part, after) = rest.split_at(size);
            parts.push(part.to_vec());
            rest = after;
        }
        parts
    }
}

fn sum(n: i32, messages: &[libc::mmsghdr]) -> isize {
    if n < 0 { -1 } else { messages.iter().take(n as usize).map(|m| m.msg_len as isize).sum() }
}

/// Reads and writes `len` bytes at the same time, a thread for each direction.
fn duplex(fd: RawFd, stream: u64, len: usize) -> Result<String> {
    let reader = std::thread::spawn(move || {
        let mut numbers = Numbers(stream);
        let mut left = len;
        while left > 0 {
            let mut buffer = vec![0u8; left.min(1 + numbers.below(30_000) as usize)];
            let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
            if n <= 0 {
                return;
            }
            left -= n as usize;
        }
    });
    let mut numbers = Numbers(stream + 1);
    let mut at = 0;
    while at < len {
        let n = (len - at).min(1 + numbers.below(30_000) as usize);
        write_all(fd, &pattern::bytes(stream + 1, at as u64, n))?;
        at += n;
    }
    ensure!(reader.join().is_ok(), "the reader panicked");
    Ok(len.to_string())
}

/// Two threads write `n_calls` messages of `WRITER_LEN` bytes each to one socket: the stream's number, then
/// what belongs to that place in it.
fn writers(fd: RawFd, stream: u64, n_calls: u64) -> Result<String> {
    let threads = [0, 1].map(|writer| {
        std::thread::spawn(move || -> Result<()> {
            let stream = stream + writer;
            for call in 0..n_calls {
                write_all(fd, &pattern::message(stream, call))?;
            }
            Ok(())
        })
    });
    for thread in threads {
        thread.join().ok().context("a writer panicked")??;
    }
    Ok("0".to_owned())
}

fn write_all(fd: RawFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        ensure!(n > 0, "write: {}", io::Error::last_os_error());
        bytes = &bytes[n as usize..];
    }
    Ok(())
}

fn write(fd: RawFd, bytes: &[u8]) -> Result<()> {
    write_all(fd, bytes)
}

/// Answers with the descriptor and the port.
fn listen(kind: &str) -> Result<String> {
    Ok(match kind {
        "tcp" | "tcp6" => {
            let address = if kind == "tcp" { "127.0.0.1:0" } else { "[::1]:0" };
            let listener = TcpListener::bind(address)?;
            let port = listener.local_addr()?.port();
            format!("{} {port}", listener.into_raw_fd())
        }
        path => format!("{} 0", UnixListener::bind(path)?.into_raw_fd()),
    })
}

/// `connect tcp PORT` or `connect unix PATH`: a connection of the server's own, with a few bytes.
fn connect(words: &[&str]) -> Result<String> {
    use std::{net::TcpStream, os::unix::net::UnixStream};
    match words {
        [_, "tcp", port] => {
            let mut stream = TcpStream::connect(("127.0.0.1", port.parse()?))?;
            stream.write_all(b"out")?;
        }
        [_, "unix", path] => UnixStream::connect(path)?.write_all(b"out")?,
        _ => bail!("connect what?"),
    }
    Ok("0".to_owned())
}

fn checked(result: i32) -> Result<String> {
    ensure!(result >= 0, "{}", io::Error::last_os_error());
    Ok(result.to_string())
}

fn close(fd: RawFd) {
    // SAFETY: a descriptor of ours that nobody uses any more.
    unsafe { libc::close(fd) };
}

fn fork() -> Result<i32> {
    // SAFETY: only ever called while no other thread runs.
    let child = unsafe { libc::fork() };
    ensure!(child >= 0, "fork: {}", io::Error::last_os_error());
    Ok(child)
}

fn socket_pair() -> Result<(RawFd, RawFd)> {
    let (one, other) = std::os::unix::net::UnixStream::pair()?;
    Ok((one.into_raw_fd(), other.into_raw_fd()))
}

fn send_fd(over: RawFd, fd: RawFd) -> Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let io = [io::IoSlice::new(b"f")];
    let rights = [fd];
    let rights = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(over, &io, &rights, MsgFlags::empty(), None)?;
    Ok(())
}

fn receive_fd(over: RawFd) -> Result<Option<RawFd>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0u8];
    let mut io = [io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(over, &mut io, Some(&mut space), MsgFlags::empty())?;
    if message.bytes == 0 {
        return Ok(None);
    }
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            return Ok(fds.first().copied());
        }
    }
    bail!("a message without a descriptor")
}

/// As little of io_uring as one send or receive takes.
mod uring {
    use super::*;

    pub const SEND: u8 = 26;
    pub const RECV: u8 = 27;

    /// A ring of one entry, used once.
    pub fn transfer(
        fd: RawFd,
        operation: u8,
        data: *mut libc::c_void,
        len: usize,
    ) -> Result<isize> {
        // `struct io_uring_params`: 10 words, then the offsets of both queues, 10 words each.
        let mut params = [0u32; 30];
        // SAFETY: the layouts are the kernel's ABI; the queues stay mapped until the ring is closed.
        unsafe {
            let ring = libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) as RawFd;
            ensure!(ring >= 0, "io_uring_setup: {}", io::Error::last_os_error());
            let map = |size: usize, offset: i64| {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
                libc::mmap(null_mut(), size, access, flags, ring, offset).cast::<u8>()
            };
            let queues = map(4096, 0); // IORING_FEAT_SINGLE_MMAP: both in one
            let entries = map(4096, 0x1000_0000);
            ensure!(queues as isize != -1 && entries as isize != -1, "mapping the ring");
            let (tail, array, completions) = (params[11], params[16], params[25]);
            entries.write_bytes(0, 64);
            entries.write(operation);
            entries.add(4).cast::<i32>().write(fd);
            entries.add(16).cast::<u64>().write(data as u64);
            entries.add(24).cast::<u32>().write(len as u32);
            queues.add(array as usize).cast::<u32>().write(0);
            let tail = &*queues.add(tail as usize).cast::<std::sync::atomic::AtomicU32>();
            tail.fetch_add(1, std::sync::atomic::Ordering::Release);
            const GETEVENTS: u32 = 1;
            let n = libc::syscall(libc::SYS_io_uring_enter, ring, 1, 1, GETEVENTS, null::<u8>(), 0);
            ensure!(n == 1, "io_uring_enter: {}", io::Error::last_os_error());
            let result = queues.add(completions as usize + 8).cast::<i32>().read();
            libc::munmap(queues.cast(), 4096);
            libc::munmap(entries.cast(), 4096);
            // The ring itself stays open: only so this thread goes on to count as one that uses it.
            ensure!(result >= 0, "io_uring: {}", io::Error::from_raw_os_error(-result));
            Ok(result as isize)
        }
    }
}

//! A unix connection ends by `shutdown` of the server's end, taken from the server's process.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    net::{Shutdown, shutdown, sockopt::socket_cookie},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::EnforceError;
use crate::event::{ServerSocket, SocketName};

/// Whether it was there.
pub fn end(socket: &ServerSocket) -> Result<bool, EnforceError> {
    let Some(fd) = take(socket)? else { return Ok(false) };
    match shutdown(&fd, Shutdown::Both) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOTCONN) => Ok(false),
        Err(error) => Err(EnforceError::Refused { source: error.into() }),
    }
}

/// A descriptor of our own for the server's socket; `None` where its process or the socket has gone.
pub fn take(socket: &ServerSocket) -> Result<Option<OwnedFd>, EnforceError> {
    let pid = socket.pid;
    let unreadable = |source: io::Error| EnforceError::Process { pid, source };
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let process = match pidfd_open(id, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(unreadable(error.into())),
    };
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    for entry in entries {
        // It may end or close while it is looked through.
        let Ok(entry) = entry else { continue };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok())
        else {
            continue;
        };
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let Some(inode) = link.to_str().and_then(inode) else { continue };
        if matches!(socket.name, SocketName::Inode(wanted) if wanted != inode) {
            continue;
        }
        match pidfd_getfd(process.as_fd(), fd, PidfdGetfdFlags::empty()) {
            // Whatever has come to stand at that number by now: it is asked itself who it is.
            Ok(taken) if is_it(taken.as_fd(), socket.name)? => return Ok(Some(taken)),
            Ok(_) | Err(rustix::io::Errno::BADF | rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(EnforceError::Take { pid, source: error.into() }),
        }
    }
    Ok(None)
}

/// Of `socket:[4711]`.
fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn is_it(fd: BorrowedFd<'_>, name: SocketName) -> Result<bool, EnforceError> {
    let failed = |error: rustix::io::Errno| EnforceError::Refused { source: error.into() };
    match name {
        SocketName::Cookie(cookie) => match socket_cookie(fd) {
            Ok(own) => Ok(own == cookie),
            Err(rustix::io::Errno::NOTSOCK) => Ok(false),
            Err(error) => Err(failed(error)),
        },
        SocketName::Inode(inode) => Ok(rustix::fs::fstat(fd).map_err(failed)?.st_ino == inode),
    }
}

/// On a pair of our own.
pub fn trial() -> Result<(), EnforceError> {
    let failed = |source: io::Error| EnforceError::Refused { source };
    let (ours, other) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    let cookie = socket_cookie(&ours).map_err(|error| failed(error.into()))?;
    let pid = std::process::id();
    let socket = ServerSocket { name: SocketName::Cookie(cookie), pid, netns: 0, ends: None };
    let there = end(&socket)?;
    drop(other);
    match there {
        true => Ok(()),
        false => Err(failed(io::ErrorKind::NotFound.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream};

    use rustix::{fs::fstat, net::sockopt::socket_cookie};

    use super::{end, inode, trial};
    use crate::event::{ServerSocket, SocketName};

    #[test]
    fn links_of_sockets() {
        for (link, expected) in [
            ("socket:[4711]", Some(4711)),
            ("pipe:[4711]", None),
            ("/tmp/socket:[4711]", None),
            ("socket:[]", None),
            ("socket:[47", None),
        ] {
            assert_eq!(inode(link), expected, "{link}");
        }
    }

    /// By its cookie or its inode, and by nothing that another socket has.
    #[test]
    fn only_the_very_socket_ends() {
        trial().unwrap();
        let socket = |name| ServerSocket { name, pid: std::process::id(), netns: 0, ends: None };
        let (server, mut client) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        let cookie = socket_cookie(&server).unwrap();
        assert!(!end(&socket(SocketName::Cookie(cookie + (1 << 40)))).unwrap());
        assert!(client.read(&mut [0]).is_err(), "another cookie, and it has ended");
        assert!(end(&socket(SocketName::Cookie(cookie))).unwrap());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);

        let (server, mut client) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        let inode = fstat(&server).unwrap().st_ino;
        assert!(end(&socket(SocketName::Inode(inode))).unwrap());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(server);
        assert!(!end(&socket(SocketName::Inode(inode))).unwrap());
    }
}

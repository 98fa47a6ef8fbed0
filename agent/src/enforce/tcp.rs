//! A TCP connection ends by `SOCK_DESTROY`: the kernel resets it, for both sides, if it has the cookie.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    thread,
};

use rustix::{
    net::{netlink::SOCK_DIAG, sockopt::socket_cookie},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{EnforceError, unix};
use crate::{
    event::{ServerSocket, SocketName},
    netlink::Netlink,
};

const SOCK_DESTROY: u16 = 21;
const IPPROTO_TCP: u8 = 6;
/// `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 56;

type End = (IpAddr, u16);

/// Whether it was there.
pub fn end(socket: &ServerSocket, server: End, client: End) -> Result<bool, EnforceError> {
    let cookie = match socket.name {
        SocketName::Cookie(cookie) => cookie,
        SocketName::Inode(_) => match unix::take(socket)? {
            Some(fd) => socket_cookie(&fd)
                .map_err(|error| EnforceError::Refused { source: error.into() })?,
            None => return Ok(false),
        },
    };
    let request = request(server, client, cookie);
    let pid = socket.pid;
    let failed = |source| EnforceError::Namespace { pid, source };
    let own = fs::metadata("/proc/self/ns/net").map_err(failed)?.ino();
    if own == u64::from(socket.netns) {
        return destroy(&request);
    }
    let place = match File::open(format!("/proc/{pid}/ns/net")) {
        Ok(place) => place,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    if place.metadata().map_err(failed)?.ino() != u64::from(socket.netns) {
        // Its pid is somebody else's by now.
        return Ok(false);
    }
    // A namespace is a thread's: this one ends with it.
    let there = thread::Builder::new().name("namespace".into()).spawn(move || {
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&place),
            Some(LinkNameSpaceType::Network),
        )
        .map_err(|error| EnforceError::Namespace { pid, source: error.into() })?;
        destroy(&request)
    });
    let panicked = || failed(io::Error::other("the thread that entered it ended early"));
    there.map_err(failed)?.join().map_err(|_| panicked())?
}

/// The server's socket is the one that is named: its own address first.
fn request(server: End, client: End, cookie: u64) -> [u8; REQUEST_BYTES] {
    let (server_address, client_address) = (server.0.to_canonical(), client.0.to_canonical());
    let mut bytes = [0; REQUEST_BYTES];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + part.len()) {
            place.copy_from_slice(part);
        }
        at += part.len();
    };
    let family = if server_address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    put(&[family as u8, IPPROTO_TCP, 0, 0]);
    put(&u32::MAX.to_ne_bytes()); // in any state
    put(&server.1.to_be_bytes());
    put(&client.1.to_be_bytes());
    put(&address(server_address));
    put(&address(client_address));
    put(&0_u32.to_ne_bytes()); // by any interface
    put(&(cookie as u32).to_ne_bytes());
    put(&((cookie >> 32) as u32).to_ne_bytes());
    bytes
}

fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            let mut bytes = [0; 16];
            (bytes[0], bytes[1], bytes[2], bytes[3]) = (a, b, c, d);
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn destroy(request: &[u8]) -> Result<bool, EnforceError> {
    let asked =
        Netlink::open(Some(SOCK_DIAG)).and_then(|kernel| kernel.ask(SOCK_DESTROY, 0, request));
    match asked {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(source) => Err(EnforceError::Refused { source }),
    }
}

/// On a connection of our own over the loopback interface.
pub fn trial() -> Result<(), EnforceError> {
    let failed = |source: io::Error| EnforceError::Refused { source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let client = TcpStream::connect(listener.local_addr().map_err(failed)?).map_err(failed)?;
    let (server, _) = listener.accept().map_err(failed)?;
    let cookie = socket_cookie(&server).map_err(|error| failed(error.into()))?;
    let end = |address: std::net::SocketAddr| (address.ip(), address.port());
    let ends =
        [end(server.local_addr().map_err(failed)?), end(client.local_addr().map_err(failed)?)];
    match destroy(&request(ends[0], ends[1], cookie))? {
        true => Ok(()),
        false => Err(failed(io::ErrorKind::NotFound.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use rustix::net::sockopt::socket_cookie;

    use super::{destroy, request};

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let server = ("::ffff:10.0.0.1".parse().unwrap(), 5_432);
        let bytes = request(server, ("10.0.0.2".parse().unwrap(), 0x1234), 0x1122_3344_5566_7788);
        let mut expected = vec![2, 6, 0, 0, 255, 255, 255, 255, 0x15, 0x38, 0x12, 0x34];
        expected.extend([10, 0, 0, 1].into_iter().chain([0; 12]));
        expected.extend([10, 0, 0, 2].into_iter().chain([0; 12]));
        expected.extend([0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(bytes.as_slice(), expected);
        let bytes = request(("::1".parse().unwrap(), 1), ("::1".parse().unwrap(), 2), 0);
        assert_eq!((bytes[0], bytes[27], bytes[43]), (10, 1, 1));
    }

    /// The same ends and another cookie are another connection.
    #[test]
    fn only_the_very_connection_ends() {
        if !nix::unistd::getuid().is_root() {
            eprintln!("skipped: it takes root");
            return;
        }
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let cookie = socket_cookie(&server).unwrap();
            let end = |address: std::net::SocketAddr| (address.ip(), address.port());
            let (at, from) = (end(server.local_addr().unwrap()), end(client.local_addr().unwrap()));
            assert!(!destroy(&request(at, from, cookie + (1 << 40))).unwrap());
            client.set_nonblocking(true).unwrap();
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            assert!(destroy(&request(at, from, cookie)).unwrap());
            assert!(server.read(&mut [0]).is_err());
            assert!(!destroy(&request(at, from, cookie)).unwrap());
        }
    }
}

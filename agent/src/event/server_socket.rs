//! The server's end of a connection, as whoever would end it must know it.

use std::net::IpAddr;

/// The very socket, so that nothing else is ever meant: an address and a pid are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSocket {
    pub name: SocketName,
    /// The server's process that serves it.
    pub pid: u32,
    /// Inode of its network namespace; 0 where that isn't known.
    pub netns: u32,
    /// Of a TCP connection: the server's address and port, the client's.
    pub ends: Option<[(IpAddr, u16); 2]>,
}

/// How the kernel tells it from all others, of now and of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketName {
    /// `SO_COOKIE`: never given twice.
    Cookie(u64),
    /// Of `socket:[…]`, where the hooks can't ask for the cookie.
    Inode(u64),
}

//! Sockets that speak in the name of a client from the network, so that the server sees who really calls.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt::set_socket_reuseaddr,
};

/// A socket with the client's own address and, if nobody here has it, its port; to be connected to a loopback
/// address. Without [`super::return_way`] no answer comes back to it.
///
/// # Errors
/// It takes CAP_NET_ADMIN; or the port is somebody else's.
pub(super) fn socket_of(client: SocketAddr) -> io::Result<OwnedFd> {
    let family = if client.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    let (level, name) = match client {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let on: libc::c_int = 1;
    // SAFETY: a socket of ours, and a value of the length that is said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // The client's own connection to the guard has the same address and port.
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &client)?;
    Ok(socket)
}

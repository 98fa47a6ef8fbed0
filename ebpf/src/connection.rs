//! Sockets that became known: what each is, and the records of its beginning and its end.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use dbwarden_common::{
    CLOSE, Close, Connection, ControlHeader, INBOUND, ListenerKey, OPEN, OUTBOUND, Open, PATH_LEN,
    TRACKED_PROGRAM, Tuple,
};

use crate::{
    atomic, emit,
    kernel::{self, AF_INET, AF_INET6, AF_UNIX, field, now, offset},
    maps::{CONNECTIONS, LISTENERS},
    socket::Transfer,
    tcp::TCP_CLOSE,
};

/// The cookie of a TCP socket that a tracked process connects: its bytes are never looked at, and it is
/// forgotten when it ends, so it needs no real one.
pub const CONNECTED: u64 = 0;

/// A stale entry that somebody replaces at this moment.
const CLAIMED: u64 = u64::MAX;

const SOCK_STREAM: u16 = 1;

/// A connection of which no byte has moved.
#[inline(always)]
pub fn unmoved(cookie: u64, server: u32, role: u8) -> Connection {
    Connection {
        cookie,
        position: [[0; 2]; 2],
        dropped: [[0; 2]; 2],
        server,
        role,
        tls: 0,
        ended: 0,
        reserved: 0,
    }
}

/// Takes away what is known of an earlier socket at the same address. False if another thread, which
/// uses the new socket too, does it at this moment.
#[inline(always)]
pub fn make_room(sock: u64, stale: Option<*mut Connection>) -> bool {
    let Some(connection) = stale else { return true };
    // SAFETY: a map value.
    let claimed = unsafe {
        let cookie = (*connection).cookie;
        cookie != CLAIMED && atomic::replace(&raw mut (*connection).cookie, cookie, CLAIMED)
    };
    if !claimed {
        return false;
    }
    let _ = CONNECTIONS.remove(sock);
    true
}

/// Finds out what a socket is, and remembers and reports it if it is a database connection. False if
/// there is nothing to remember, or another thread was faster.
#[inline(always)]
pub fn open(seen: &Transfer) -> bool {
    let sock = seen.sock;
    let family: u16 = field(sock, offset!(sock_family)).unwrap_or(0);
    let kind: u16 = field(sock, offset!(sock_type)).unwrap_or(0);
    let state: u8 = field(sock, offset!(sock_state)).unwrap_or(0);
    // A call can return after its socket's end was reported. One that was reset may still have bytes.
    if state as i32 == TCP_CLOSE && seen.len == 0 {
        return false;
    }
    let mut role = 0;
    if kind == SOCK_STREAM {
        if family == AF_UNIX {
            // An accepted socket shares its listener's address; one that connected has none, and
            // the two of a pair have neither.
            let address: u64 = field(sock, offset!(unix_addr)).unwrap_or(0);
            let peer: u64 = field(sock, offset!(unix_peer)).unwrap_or(0);
            let of_peer: u64 = field(peer, offset!(unix_addr)).unwrap_or(0);
            if address != 0 {
                role = INBOUND;
            } else if of_peer != 0 {
                role = OUTBOUND;
            }
        } else if family == AF_INET || family == AF_INET6 {
            // A socket that was reset has lost `skc_num`, but not this.
            let port = field::<u16>(sock, offset!(inet_sport)).unwrap_or(0).swap_bytes();
            let key = ListenerKey { netns: kernel::netns_of(sock), port: port as u32 };
            // SAFETY: only its presence is looked at.
            role = if unsafe { LISTENERS.get(key) }.is_some() { INBOUND } else { OUTBOUND };
        }
    }
    // TCP sockets are told when they connect. A client's socket that a program has inherited is the server's.
    let is_program = seen.tracked.flags & TRACKED_PROGRAM != 0;
    if is_program && (role != OUTBOUND || family != AF_UNIX) {
        return false;
    }
    let connection = unmoved(seen.cookie, seen.tracked.server, role);
    const BPF_NOEXIST: u64 = 1;
    if CONNECTIONS.insert(sock, connection, BPF_NOEXIST).is_err() {
        return CONNECTIONS.get_ptr_mut(sock).is_none();
    }
    if role != 0 {
        report_open(seen, role, family);
    }
    true
}

#[inline(always)]
pub fn report_open(seen: &Transfer, role: u8, family: u16) {
    let sock = seen.sock;
    let Some(mut entry) = emit::control::<Open>() else { return };
    let open = entry.as_mut_ptr();
    // SAFETY: `open` is a reservation of this size; every field is written.
    unsafe {
        (*open).header =
            ControlHeader { time: now(), kind: OPEN, tgid: (seen.pid_tgid >> 32) as u32 };
        (*open).sock = sock;
        (*open).cookie = seen.cookie;
        (*open).server = seen.tracked.server;
        (*open).peer = 0;
        (*open).peer_key = 0;
        (*open).peer_uid = u32::MAX;
        (*open).peer_gid = u32::MAX;
        (*open).peer_cookie = 0;
        (*open).role = role;
        (*open).program = (seen.tracked.flags & TRACKED_PROGRAM != 0) as u8;
        (*open).reserved = [0; 2];
        (*open).reserved2 = 0;
        (*open).path_len = 0;
        if family == AF_UNIX {
            (*open).tuple = Tuple {
                local: [0; 16],
                remote: [0; 16],
                local_port: 0,
                remote_port: 0,
                family: AF_UNIX as u32,
                netns: kernel::netns_of(sock),
                reserved: 0,
            };
            describe_unix(sock, role, open);
        } else {
            kernel::tuple_of(sock, family, &raw mut (*open).tuple);
        }
    }
    entry.submit(emit::wakeup());
}

/// Path and peer of a unix socket. The kernel noted both ends' processes when they connected.
///
/// # Safety
/// `open` must be valid for writes.
#[inline(always)]
unsafe fn describe_unix(sock: u64, role: u8, open: *mut Open) {
    const PATH_AT: u32 = 2; // sun_path follows sun_family
    let pid: u64 = field(sock, offset!(sock_peer_pid)).unwrap_or(0);
    let cred: u64 = field(sock, offset!(sock_peer_cred)).unwrap_or(0);
    let peer: u64 = field(sock, offset!(unix_peer)).unwrap_or(0);
    // Outbound: the path is the other end's.
    let named = if role == INBOUND { sock } else { peer };
    let address: u64 = field(named, offset!(unix_addr)).unwrap_or(0);
    let len: u32 = field(address, offset!(unix_address_len)).unwrap_or(0);
    let len = len.saturating_sub(PATH_AT);
    // SAFETY: the caller's `open`; the helper checks the source.
    unsafe {
        (*open).peer = field(pid, offset!(pid_numbers)).unwrap_or(0);
        (*open).peer_key = pid;
        (*open).peer_uid = field(cred, offset!(cred_euid)).unwrap_or(u32::MAX);
        (*open).peer_gid = field(cred, offset!(cred_egid)).unwrap_or(u32::MAX);
        (*open).peer_cookie = field(peer, offset!(sock_cookie)).unwrap_or(0);
        let path = address + (offset!(unix_address_name) + PATH_AT) as u64;
        if len > 0
            && bpf_probe_read_kernel(
                (&raw mut (*open).path).cast(),
                PATH_LEN as u32,
                kernel::as_ptr(path),
            ) == 0
        {
            (*open).path_len = if len > PATH_LEN as u32 { PATH_LEN as u32 } else { len };
        }
    }
}

#[inline(always)]
pub fn close(sock: u64, connection: *const Connection, tgid: u32, reason: u32) {
    let Some(mut entry) = emit::control::<Close>() else { return };
    let close = entry.as_mut_ptr();
    // SAFETY: a reservation of this size, and a map value.
    unsafe {
        close.write(Close {
            header: ControlHeader { time: now(), kind: CLOSE, tgid },
            sock,
            cookie: (*connection).cookie,
            position: (*connection).position,
            dropped: (*connection).dropped,
            server: (*connection).server,
            reason,
        });
    }
    entry.submit(emit::wakeup());
}

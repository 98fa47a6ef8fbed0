//! What the databases' processes read from and write to their sockets.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_socket_cookie},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use dbwarden_common::{
    Drop, END_OF_STREAM, INBOUND, REQUEST, RESPONSE, SOCKET_LAYER, TRACKED_PROGRAM, TRACKED_TLS,
    Tracked,
};

use crate::{
    connection::{CONNECTED, close, make_room, open},
    emit::{self, Call, Source},
    kernel::{self, field, now, offset},
    maps::{CONNECTIONS, TLS_CALLS, TLS_SOCKETS, TRACKED, TlsKey, TlsSocket, count},
    syscall::source_of,
};

pub const MSG_OOB: u64 = 0x1;
pub const MSG_PEEK: u64 = 0x2;
pub const MSG_TRUNC: u64 = 0x20;
pub const MSG_ERRQUEUE: u64 = 0x2000;
const RCV_SHUTDOWN: u8 = 1;

/// The preferred hooks (kernels from 6.3): they see the socket itself and nothing but sockets.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    let len: i32 = ctx.arg(1);
    let flags: i32 = ctx.arg(2);
    if len >= 0 && flags as u64 & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE) == 0 {
        // Without a buffer to read: TCP throws the bytes away.
        let discarded = flags as u64 & MSG_TRUNC != 0;
        with_cookie(&ctx, sock, len as u64, REQUEST, discarded);
    }
    0
}

#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    let len: i32 = ctx.arg(1);
    if len > 0 {
        with_cookie(&ctx, sock, len as u64, RESPONSE, false);
    }
    0
}

#[inline(always)]
fn with_cookie(ctx: &BtfTracePointContext, sock: u64, len: u64, direction: u8, discarded: bool) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let Some(tracked) = tracked(pid_tgid) else { return };
    // SAFETY: `sock` is the tracepoint's own typed argument.
    let cookie = unsafe { bpf_get_socket_cookie(kernel::as_ptr(sock)) };
    let regs = kernel::syscall_regs();
    let mut source = if discarded { Source::UNREADABLE } else { source_of(&regs, direction) };
    // io_uring completes receives on the way out of whatever call the thread was in: only the
    // descriptor can tell whose buffer the registers name.
    let named = || kernel::socket_of_fd(regs.args[0]).map(|(named, _)| named);
    if regs.stack == 0 || (kernel::uses_io_uring() && named() != Some(sock)) {
        source = Source::UNREADABLE;
    }
    let seen = Transfer { pid_tgid, tracked, sock, cookie, len, direction, stack: regs.stack };
    if transfer(&seen, source) {
        debug!(ctx, "a socket of process {} is new", pid_tgid >> 32);
    }
}

/// The server that the current process belongs to.
#[inline(always)]
pub fn tracked(pid_tgid: u64) -> Option<Tracked> {
    let tgid = (pid_tgid >> 32) as u32;
    // SAFETY: the value is copied at once.
    unsafe { TRACKED.get(tgid) }.copied()
}

pub struct Transfer {
    pub pid_tgid: u64,
    pub tracked: Tracked,
    pub sock: u64,
    pub cookie: u64,
    pub len: u64,
    pub direction: u8,
    pub stack: u64,
}

/// Bytes moved on a socket of a tracked process. True if the socket was seen for the first time.
#[inline(always)]
pub fn transfer(seen: &Transfer, source: Source) -> bool {
    let mut known = CONNECTIONS.get_ptr_mut(seen.sock);
    let mut first = false;
    // SAFETY: map values, valid for this program's run.
    let cookie = known.map(|connection| unsafe { (*connection).cookie });
    if cookie == Some(CONNECTED) {
        return false;
    }
    if cookie != Some(seen.cookie) {
        first = make_room(seen.sock, known) && open(seen);
        known = CONNECTIONS.get_ptr_mut(seen.sock);
    }
    // Of a program that the server has started, only what it connects to counts.
    if seen.tracked.flags & TRACKED_PROGRAM != 0 {
        return first;
    }
    // SAFETY: as above.
    let ready = known.filter(|connection| unsafe { (**connection).cookie } == seen.cookie);
    let Some(connection) = ready else {
        if seen.len > 0 {
            count(Drop::TableFull, seen.len);
        }
        return first;
    };
    // SAFETY: as above.
    let (role, tls, ended) =
        unsafe { ((*connection).role, (*connection).tls, (*connection).ended) };
    if role != INBOUND {
        return first;
    }
    if seen.len == 0 {
        if ended == 0 && at_end(seen) {
            // SAFETY: as above.
            unsafe { (*connection).ended = 1 };
            close(seen.sock, connection, (seen.pid_tgid >> 32) as u32, END_OF_STREAM);
        }
        return first;
    }
    if seen.tracked.flags & TRACKED_TLS != 0 && inside_tls(seen) {
        // SAFETY: as above.
        unsafe { (*connection).tls = 1 };
        return first;
    }
    if tls != 0 {
        return first; // handshake, alerts, shutdown: no statement travels outside the library's calls
    }
    let call = Call {
        time: now(),
        sock: seen.sock,
        cookie: seen.cookie,
        len: seen.len,
        tgid: (seen.pid_tgid >> 32) as u32,
        server: seen.tracked.server,
        direction: seen.direction,
        layer: SOCKET_LAYER,
    };
    emit::call(&call, source, connection, seen.tracked);
    first
}

/// Reading nothing is the end of the stream only where no buffer could have been filled: a call can ask
/// for no bytes.
#[inline(always)]
fn at_end(seen: &Transfer) -> bool {
    let shut: u8 = field(seen.sock, offset!(sock_shutdown)).unwrap_or(0);
    let queued: u32 = field(seen.sock, offset!(sock_receive_queue_len)).unwrap_or(0);
    shut & RCV_SHUTDOWN != 0 && queued == 0
}

/// Is this thread inside a call of the TLS library? Then the library's `SSL *` belongs to this socket.
#[inline(always)]
fn inside_tls(seen: &Transfer) -> bool {
    let Some(call) = TLS_CALLS.get_ptr_mut(seen.pid_tgid) else { return false };
    // SAFETY: a map value of this thread's own.
    let call = unsafe { &mut *call };
    // A return probe can be lost; a system call made after that return has a higher stack pointer.
    if seen.stack > call.stack {
        let _ = TLS_CALLS.remove(seen.pid_tgid);
        return false;
    }
    if call.sock != seen.sock || call.cookie != seen.cookie {
        call.sock = seen.sock;
        call.cookie = seen.cookie;
        let key = TlsKey { ssl: call.ssl, tgid: seen.pid_tgid >> 32 };
        let socket = TlsSocket { sock: seen.sock, cookie: seen.cookie };
        if TLS_SOCKETS.insert(key, socket, 0).is_err() {
            count(Drop::TableFull, 0);
        }
    }
    true
}

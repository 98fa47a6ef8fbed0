//! What the databases' processes read from and write to their sockets, and the lives of those sockets.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{
            bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_loop, bpf_probe_read_kernel,
        },
    },
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use aya_log_ebpf::debug;
use dbwarden_common::{
    CLIENT, CLOSE, CLOSED, Client, Close, Connection, ControlHeader, Drop, END_OF_STREAM, INBOUND,
    LISTEN, Listen, ListenerKey, OPEN, OUTBOUND, Open, PATH_LEN, REQUEST, RESPONSE, SOCKET_LAYER,
    TRACKED_PROGRAM, TRACKED_TLS, Tracked, Tuple,
};

use crate::{
    atomic,
    emit::{self, Call, Source},
    kernel::{self, AF_INET, AF_INET6, AF_UNIX, SyscallRegs, field, offset},
    maps::{
        CONNECTIONS, CONNECTS, Connect, LISTENERS, TLS_CALLS, TLS_SOCKETS, TRACKED, TlsKey,
        TlsSocket, count,
    },
};

/// The cookie of a TCP socket that a tracked process connects: its bytes are never looked at, and it is
/// forgotten when it ends, so it needs no real one.
const CONNECTED: u64 = 0;

/// A stale entry that somebody replaces at this moment.
const CLAIMED: u64 = u64::MAX;

const MSG_OOB: u64 = 0x1;
const MSG_PEEK: u64 = 0x2;
const MSG_TRUNC: u64 = 0x20;
const MSG_ERRQUEUE: u64 = 0x2000;

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

/// The fallback: exits of the system calls that read from a socket.
#[tracepoint]
pub fn syscall_exit_read(ctx: TracePointContext) -> u32 {
    let Some(exit) = Exit::of(&ctx) else { return 0 };
    let flags = match exit.regs.number {
        RECVFROM => exit.regs.flags,
        RECVMSG => exit.regs.args[2],
        _ => 0,
    };
    // `splice` is not followed, only counted.
    let discarded = flags & MSG_TRUNC != 0 || exit.regs.number == SPLICE;
    if flags & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE) == 0 {
        let first = exit.transfer(REQUEST, exit.regs.args[0], discarded);
        if first {
            debug!(&ctx, "a socket of process {} is new", exit.pid_tgid >> 32);
        }
    }
    0
}

/// The fallback: exits of the system calls that write to a socket.
#[tracepoint]
pub fn syscall_exit_write(ctx: TracePointContext) -> u32 {
    let Some(exit) = Exit::of(&ctx) else { return 0 };
    if exit.result > 0 {
        // `splice` writes to its third argument, all others to their first.
        let fd = if exit.regs.number == SPLICE { exit.regs.args[2] } else { exit.regs.args[0] };
        let first = exit.transfer(RESPONSE, fd, false);
        if first {
            debug!(&ctx, "a socket of process {} is new", exit.pid_tgid >> 32);
        }
    }
    0
}

/// The fallback for calls that move several messages: their memory is not followed, only counted.
#[tracepoint]
pub fn syscall_exit_many(ctx: TracePointContext) -> u32 {
    let Some(mut exit) = Exit::of(&ctx) else { return 0 };
    let receives = exit.regs.number == RECVMMSG;
    if receives && exit.regs.flags & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE) != 0 {
        return 0;
    }
    let mut messages = Messages { at: exit.regs.args[1], len: 0 };
    // SAFETY: `add_message` gets the messages, which outlive the loop.
    unsafe {
        bpf_loop(exit.result as u32, add_message as *mut c_void, (&raw mut messages).cast(), 0)
    };
    exit.result = messages.len;
    if messages.len > 0 {
        let direction = if receives { REQUEST } else { RESPONSE };
        exit.transfer(direction, exit.regs.args[0], true);
    }
    0
}

struct Messages {
    /// An array of `struct mmsghdr` in user memory.
    at: u64,
    /// Bytes that they moved together.
    len: u64,
}

/// A `struct mmsghdr` is a `msghdr` of 56 bytes and the length that the kernel left there.
unsafe extern "C" fn add_message(index: u64, messages: *mut Messages) -> u64 {
    // SAFETY: called by `bpf_loop` with the messages of `syscall_exit_many`.
    let messages = unsafe { &mut *messages };
    messages.len += kernel::user::<u32>(messages.at + index * 64 + 56).unwrap_or(0) as u64;
    0
}

/// A system call of a tracked process that ends without an error.
struct Exit {
    pid_tgid: u64,
    tracked: Tracked,
    result: u64,
    regs: SyscallRegs,
}

impl Exit {
    #[inline(always)]
    fn of(ctx: &TracePointContext) -> Option<Self> {
        // SAFETY: the offset is from the tracepoint's format file.
        let result = unsafe { ctx.read_at::<i64>(offset!(syscall_ret) as usize) }.ok()?;
        if result < 0 {
            return None;
        }
        let pid_tgid = bpf_get_current_pid_tgid();
        let tracked = tracked(pid_tgid)?;
        Some(Self { pid_tgid, tracked, result: result as u64, regs: kernel::syscall_regs() })
    }

    #[inline(always)]
    fn transfer(&self, direction: u8, fd: u64, unreadable: bool) -> bool {
        let Some((sock, inode)) = kernel::socket_of_fd(fd) else { return false };
        let source = if unreadable { Source::UNREADABLE } else { source_of(&self.regs, direction) };
        let seen = Transfer {
            pid_tgid: self.pid_tgid,
            tracked: self.tracked,
            sock,
            // Nobody asked for a cookie here, so there is none: the inode's number tells two lives of
            // one address apart.
            cookie: inode | 1 << 63,
            len: self.result,
            direction,
            stack: self.regs.stack,
        };
        transfer(&seen, source)
    }
}

const READ: u64 = 0;
const WRITE: u64 = 1;
const READV: u64 = 19;
const WRITEV: u64 = 20;
const SENDTO: u64 = 44;
const RECVFROM: u64 = 45;
const SENDMSG: u64 = 46;
const RECVMSG: u64 = 47;
const SPLICE: u64 = 275;
const RECVMMSG: u64 = 299;
const PREADV2: u64 = 327;
const PWRITEV2: u64 = 328;

/// Where the system call's bytes are. The numbers are x86-64's; no 32-bit call that moves socket bytes has
/// one of them.
#[inline(always)]
fn source_of(regs: &SyscallRegs, direction: u8) -> Source {
    let at = regs.args[1];
    match (regs.number, direction) {
        (READ | RECVFROM, REQUEST) | (WRITE | SENDTO, RESPONSE) => Source::buffer(at),
        (READV | PREADV2, REQUEST) | (WRITEV | PWRITEV2, RESPONSE) => {
            Source::vector(at, regs.args[2])
        }
        // `struct msghdr`: name, its length, vectors, their number.
        (RECVMSG, REQUEST) | (SENDMSG, RESPONSE) => match kernel::user::<[u64; 2]>(at + 16) {
            Some([vectors, n_vectors]) => Source::vector(vectors, n_vectors),
            None => Source::UNREADABLE,
        },
        _ => Source::UNREADABLE,
    }
}

/// The server that the current process belongs to, if its data is wanted.
#[inline(always)]
fn tracked(pid_tgid: u64) -> Option<Tracked> {
    let tgid = (pid_tgid >> 32) as u32;
    // SAFETY: the value is copied at once.
    let tracked = unsafe { TRACKED.get(tgid) }.copied()?;
    (tracked.flags & TRACKED_PROGRAM == 0).then_some(tracked)
}

struct Transfer {
    pid_tgid: u64,
    tracked: Tracked,
    sock: u64,
    cookie: u64,
    len: u64,
    direction: u8,
    stack: u64,
}

/// Bytes moved on a socket of a tracked process. True if the socket was seen for the first time.
#[inline(always)]
fn transfer(seen: &Transfer, source: Source) -> bool {
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

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_LAST_ACK: i32 = 9;
const TCP_LISTEN: i32 = 10;
const SOCK_STREAM: u16 = 1;
const RCV_SHUTDOWN: u8 = 1;
const SHUTDOWN_MASK: u8 = 3;

/// Takes away what is known of an earlier socket at the same address. False if another thread, which
/// uses the new socket too, does it at this moment.
#[inline(always)]
fn make_room(sock: u64, stale: Option<*mut Connection>) -> bool {
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
fn open(seen: &Transfer) -> bool {
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
    let connection = Connection {
        cookie: seen.cookie,
        position: [[0; 2]; 2],
        dropped: [[0; 2]; 2],
        server: seen.tracked.server,
        role,
        tls: 0,
        ended: 0,
        reserved: 0,
    };
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
fn report_open(seen: &Transfer, role: u8, family: u16) {
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
        (*open).role = role;
        (*open).reserved = [0; 3];
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
    // Outbound: the path is the other end's.
    let named = if role == INBOUND { sock } else { field(sock, offset!(unix_peer)).unwrap_or(0) };
    let address: u64 = field(named, offset!(unix_addr)).unwrap_or(0);
    let len: u32 = field(address, offset!(unix_address_len)).unwrap_or(0);
    let len = len.saturating_sub(PATH_AT);
    // SAFETY: the caller's `open`; the helper checks the source.
    unsafe {
        (*open).peer = field(pid, offset!(pid_numbers)).unwrap_or(0);
        (*open).peer_key = pid;
        (*open).peer_uid = field(cred, offset!(cred_euid)).unwrap_or(u32::MAX);
        (*open).peer_gid = field(cred, offset!(cred_egid)).unwrap_or(u32::MAX);
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
fn close(sock: u64, connection: *const Connection, tgid: u32, reason: u32) {
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

/// Lives of TCP sockets: clients that connect, servers that listen or reach out, ends.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if new == TCP_SYN_SENT {
        connecting(sock);
    } else if old == TCP_SYN_SENT && new == TCP_ESTABLISHED {
        connected(sock);
    } else if new == TCP_LISTEN {
        listening(sock);
    } else if new == TCP_CLOSE || new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK {
        if old == TCP_SYN_SENT {
            let _ = CONNECTS.remove(sock);
        }
        // A half-closed socket still carries the other direction, and one that was shut down can be
        // read until its queue is empty. One that was reset ends when its process lets it go: calls on
        // it may be under way.
        let shut: u8 = field(sock, offset!(sock_shutdown)).unwrap_or(0);
        let queued: u32 = field(sock, offset!(sock_receive_queue_len)).unwrap_or(0);
        if new != TCP_CLOSE && shut & SHUTDOWN_MASK == SHUTDOWN_MASK && queued == 0 {
            ended(sock);
        }
    }
    0
}

/// The end of every TCP socket, if no change of state was it.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    ended(ctx.arg(0));
    0
}

#[inline(always)]
fn ended(sock: u64) {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sock) else { return };
    // SAFETY: a map value.
    if unsafe { (*connection).role } != 0 {
        close(sock, connection, 0, CLOSED);
    }
    let _ = CONNECTIONS.remove(sock);
}

/// In the connecting process: its source port is not chosen yet, so its name waits for the handshake.
#[inline(always)]
fn connecting(sock: u64) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let port = field::<u16>(sock, offset!(sock_dport)).unwrap_or(0).swap_bytes();
    let key = ListenerKey { netns: kernel::netns_of(sock), port: port as u32 };
    // SAFETY: only its presence is looked at.
    let to_database = unsafe { LISTENERS.get(key) }.is_some();
    // SAFETY: the value is copied at once.
    let from_database = unsafe { TRACKED.get((pid_tgid >> 32) as u32) }.copied();
    if to_database {
        let uid_gid = bpf_get_current_uid_gid();
        let leader: u64 = field(kernel::current_task(), offset!(task_group_leader)).unwrap_or(0);
        let connect = Connect {
            key: field(leader, offset!(task_thread_pid)).unwrap_or(0),
            tgid: (pid_tgid >> 32) as u32,
            uid: uid_gid as u32,
            gid: (uid_gid >> 32) as u32,
            reserved: 0,
        };
        if CONNECTS.insert(sock, connect, 0).is_err() {
            count(Drop::TableFull, 0);
        }
    }
    if let Some(tracked) = from_database {
        let connection = Connection {
            cookie: CONNECTED,
            position: [[0; 2]; 2],
            dropped: [[0; 2]; 2],
            server: tracked.server,
            role: OUTBOUND,
            tls: 0,
            ended: 0,
            reserved: 0,
        };
        if CONNECTIONS.insert(sock, connection, 0).is_err() {
            count(Drop::TableFull, 0);
        }
        let family: u16 = field(sock, offset!(sock_family)).unwrap_or(0);
        let seen = Transfer {
            pid_tgid,
            tracked,
            sock,
            cookie: CONNECTED,
            len: 0,
            direction: RESPONSE,
            stack: 0,
        };
        report_open(&seen, OUTBOUND, family);
    }
}

#[inline(always)]
fn connected(sock: u64) {
    // SAFETY: the value is copied at once.
    let Some(connect) = (unsafe { CONNECTS.get(sock) }).copied() else { return };
    let _ = CONNECTS.remove(sock);
    let family: u16 = field(sock, offset!(sock_family)).unwrap_or(0);
    let Some(mut entry) = emit::control::<Client>() else { return };
    let client = entry.as_mut_ptr();
    // SAFETY: a reservation of this size; every field is written.
    unsafe {
        (*client).header = ControlHeader { time: now(), kind: CLIENT, tgid: connect.tgid };
        (*client).key = connect.key;
        (*client).uid = connect.uid;
        (*client).gid = connect.gid;
        kernel::tuple_of(sock, family, &raw mut (*client).tuple);
    }
    entry.submit(emit::wakeup());
}

#[inline(always)]
fn listening(sock: u64) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let family: u16 = field(sock, offset!(sock_family)).unwrap_or(0);
    let Some(mut entry) = emit::control::<Listen>() else { return };
    let listen = entry.as_mut_ptr();
    // SAFETY: a reservation of this size; every field is written.
    unsafe {
        (*listen).header = ControlHeader { time: now(), kind: LISTEN, tgid };
        kernel::tuple_of(sock, family, &raw mut (*listen).tuple);
    }
    entry.submit(emit::wakeup());
}

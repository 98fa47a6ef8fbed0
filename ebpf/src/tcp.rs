//! Lives of TCP sockets: clients that connect, servers that listen or reach out, ends.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use dbwarden_common::{
    CLIENT, CLOSED, Client, ControlHeader, Drop, LISTEN, Listen, ListenerKey, OUTBOUND, RESPONSE,
};

use crate::{
    connection::{CONNECTED, close, report_open, unmoved},
    emit,
    kernel::{self, field, now, offset},
    maps::{CONNECTIONS, CONNECTS, Connect, LISTENERS, TRACKED, count},
    socket::Transfer,
};

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_FIN_WAIT1: i32 = 4;
pub const TCP_CLOSE: i32 = 7;
const TCP_LAST_ACK: i32 = 9;
const TCP_LISTEN: i32 = 10;
const SHUTDOWN_MASK: u8 = 3;

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
        let connection = unmoved(CONNECTED, tracked.server, OUTBOUND);
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

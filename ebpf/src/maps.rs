//! Every map, and what it is for.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use dbwarden_common::{Budget, Connection, Counter, Drop, ListenerKey, N_DROPS, Tracked};

use crate::atomic;

/// Bytes of the databases' connections. Sized by the loader.
#[map]
pub static DATA: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// Openings, ends, processes: apart from the data, so that load never hides them. Sized by the loader.
#[map]
pub static CONTROL: RingBuf = RingBuf::with_byte_size(4 * 1024 * 1024, 0);

/// Processes of the database servers, by thread group id. The agent names the first, forks add theirs.
#[map]
pub static TRACKED: HashMap<u32, Tracked> = HashMap::with_max_entries(32 * 1024, 0);

/// Ports that databases listen on, so that a client's connect is noticed.
#[map]
pub static LISTENERS: HashMap<ListenerKey, u32> = HashMap::with_max_entries(1024, 0);

/// Sockets of tracked processes, by the address of their `struct sock`.
#[map]
pub static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(64 * 1024, 0);

/// A TCP connect on its way to a database, by socket.
#[map]
pub static CONNECTS: LruHashMap<u64, Connect> = LruHashMap::with_max_entries(8 * 1024, 0);

/// The TLS library call that a thread is in, by thread.
#[map]
pub static TLS_CALLS: LruHashMap<u64, TlsCall> = LruHashMap::with_max_entries(16 * 1024, 0);

/// Which socket an `SSL *` of a process belongs to.
#[map]
pub static TLS_SOCKETS: LruHashMap<TlsKey, TlsSocket> = LruHashMap::with_max_entries(64 * 1024, 0);

/// Where a thread has its client's common name written, while it waits for that.
#[map]
pub static NAME_CALLS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// What could not be delivered, by `Drop` reason.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(N_DROPS as u32, 0);

/// Bytes that each unverified server may still have copied; refilled by the agent.
#[map]
pub static QUOTA: Array<u64> = Array::with_max_entries(256, 0);

/// How much of a call is copied, by direction.
#[map]
pub static BUDGETS: Array<Budget> = Array::with_max_entries(2, 0);

/// 1 while the agent sleeps: the next record wakes it. Otherwise it looks by itself, which is cheaper.
#[map]
pub static ASLEEP: Array<u32> = Array::with_max_entries(1, 0);

/// The connecting process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Connect {
    pub key: u64,
    pub tgid: u32,
    pub uid: u32,
    pub gid: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct TlsCall {
    pub ssl: u64,
    pub buffer: u64,
    /// Where `SSL_read_ex`/`SSL_write_ex` leave the length; 0 for the plain calls.
    pub length_at: u64,
    /// The stack pointer on entry: a system call made inside has a lower one.
    pub stack: u64,
    /// The socket that a nested system call used, once there was one.
    pub sock: u64,
    pub cookie: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct TlsKey {
    pub ssl: u64,
    pub tgid: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct TlsSocket {
    pub sock: u64,
    pub cookie: u64,
}

/// Adds to the counter of a reason.
#[inline(always)]
pub fn count(reason: Drop, bytes: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // Programs can be preempted: another may count in this CPU's slot in between.
        // SAFETY: a map value.
        unsafe {
            atomic::add(&raw mut (*counter).events, 1);
            atomic::add(&raw mut (*counter).bytes, bytes);
        }
    }
}

//! The BPF programs that lead connections to a guard: an object of its own, loaded where a server is
//! guarded.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)] // as in the other object

#[allow(dead_code)] // the other object uses all of it
mod atomic;
mod lookup;
mod object;

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_addr, bpf_sock_tuple},
    btf_maps::SkStorage,
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_sk_lookup_tcp,
        bpf_sk_release, bpf_sk_storage_get, bpf_skc_to_mptcp_sock,
    },
    macros::{btf_map, cgroup_sock_addr, map},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::SockAddrContext,
};
use dbwarden_common::{
    ANY_IPV4, ANY_IPV6, Address, LocalKey, N_STEER_COUNTS, Original, Pass, PassKey, Reign,
    SOME_ADDRESS, STEER_BY_POLICY, STEER_ELSE_DIRECT, SteerCount, SteerKey, Steered,
};

/// Where connects are led to. An entry is changed in one step, and so a server steered or released.
#[map]
static STEERED: HashMap<SteerKey, Steered> = HashMap::with_max_entries(4096, 0);

/// Addresses of a namespace: by which a server that listens on all of them can be reached, and from which
/// clients are none from the network.
#[map]
static LOCAL: LpmTrie<LocalKey, u32> = LpmTrie::with_max_entries(16 * 1024, BPF_F_NO_PREALLOC);

/// Sockets of the guards towards the servers, by cookie. Not an LRU: a forgotten one would be led to the
/// guard that it belongs to.
#[map]
static EXEMPT: HashMap<u64, u32> = HashMap::with_max_entries(64 * 1024, BPF_F_NO_PREALLOC);

/// Who goes straight on where policy decides. Whoever isn't in it is led: it may be a process that nobody has
/// looked at yet.
#[map]
static PASSES: HashMap<PassKey, Pass> = HashMap::with_max_entries(128 * 1024, BPF_F_NO_PREALLOC);

#[map]
static REIGN: Array<Reign> = Array::with_max_entries(1, 0);

/// What steered sockets remember. An entry goes with its socket.
#[btf_map]
static ORIGINALS: SkStorage<Original> = SkStorage::new();

#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(N_STEER_COUNTS as u32, 0);

/// Set by the loader where the kernel can name the MPTCP socket that a TCP socket is a path of (5.19).
#[unsafe(no_mangle)]
static FOLLOW_MPTCP: u32 = 0;

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_SK_STORAGE_GET_F_CREATE: u64 = 1;
const CURRENT_NETNS: u64 = u64::MAX;
const TCP_LISTEN: u32 = 10;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const LOOPBACK_IPV4: Address = [0, 0, 0x0000_ffff_u32.to_be(), 0x7f00_0001_u32.to_be()];
const LOOPBACK_IPV6: Address = [0, 0, 0, 1_u32.to_be()];

/// Answers of a connect program.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub fn steer_connect4(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    if !is_tcp(address) {
        return ALLOW;
    }
    // SAFETY: a field of the context, as all that are read and written below.
    let asked = mapped(unsafe { (&raw const (*address).user_ip4).read_volatile() });
    match connect(&ctx, asked) {
        Verdict::Allow => ALLOW,
        Verdict::Refuse => REFUSE,
        Verdict::Lead(guard, port) => {
            // SAFETY: as above.
            unsafe {
                (&raw mut (*address).user_ip4).write_volatile(guard[3]);
                (&raw mut (*address).user_port).write_volatile(port);
            }
            ALLOW
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub fn steer_connect6(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    if !is_tcp(address) {
        return ALLOW;
    }
    match connect(&ctx, read_ip6(address)) {
        Verdict::Allow => ALLOW,
        Verdict::Refuse => REFUSE,
        Verdict::Lead(guard, port) => {
            write_ip6(address, guard);
            // SAFETY: a field of the context.
            unsafe { (&raw mut (*address).user_port).write_volatile(port) };
            ALLOW
        }
    }
}

#[cgroup_sock_addr(getpeername4)]
pub fn steer_getpeername4(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    // SAFETY: a field of the context.
    let peer = mapped(unsafe { (&raw const (*address).user_ip4).read_volatile() });
    if let Some((original, port)) = original(&ctx, peer) {
        // SAFETY: as above.
        unsafe {
            (&raw mut (*address).user_ip4).write_volatile(original[3]);
            (&raw mut (*address).user_port).write_volatile(port);
        }
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub fn steer_getpeername6(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    if let Some((original, port)) = original(&ctx, read_ip6(address)) {
        write_ip6(address, original);
        // SAFETY: a field of the context.
        unsafe { (&raw mut (*address).user_port).write_volatile(port) };
    }
    ALLOW
}

enum Verdict {
    Allow,
    Refuse,
    /// The guard's address, and its port in network byte order.
    Lead(Address, u32),
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, asked: Address) -> Verdict {
    // SAFETY: the context of this program, as it came.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let port = port_of(ctx.sock_addr);
    let mut key =
        SteerKey { netns, address: asked, port: u32::from(u16::from_be(port as u16)), reserved: 0 };
    let is_ipv4 = is_mapped(&asked);
    let any = if is_ipv4 { ANY_IPV4 } else { ANY_IPV6 };
    let nowhere = asked == any;
    if nowhere {
        // The kernel takes it for the socket's own address, or this host.
        match own_address(ctx, is_ipv4) {
            Some(own) => key.address = own,
            None => {
                // It would take an address of the device that the socket is bound to.
                let wildcard = SteerKey { address: any, ..key };
                let some = SteerKey { address: SOME_ADDRESS, ..key };
                // SAFETY: only asked whether they are there.
                let unclear =
                    unsafe { STEERED.get(wildcard).is_none() && STEERED.get(some).is_some() };
                if unclear {
                    count(SteerCount::Refused);
                    return Verdict::Refuse;
                }
            }
        }
    }
    let destination = key.address;
    // SAFETY: copied at once.
    let exact = unsafe { STEERED.get(key) }.copied();
    let steered = match exact {
        Some(steered) => steered,
        None => {
            key.address = any;
            // SAFETY: copied at once.
            let Some(steered) = (unsafe { STEERED.get(key) }).copied() else {
                return Verdict::Allow;
            };
            if !nowhere && !is_local(netns, &destination) {
                return Verdict::Allow;
            }
            steered
        }
    };
    // SAFETY: the context of this program, as it came.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: only asked whether it is there.
    if unsafe { EXEMPT.get(cookie) }.is_some() {
        count(SteerCount::Exempt);
        return Verdict::Allow;
    }
    if steered.flags & STEER_BY_POLICY != 0 && has_pass(steered.server) {
        count(SteerCount::Passed);
        return Verdict::Allow;
    }
    let guard = if steered.address == any { destination } else { steered.address };
    let guard_port = u32::from((steered.port as u16).to_be());
    if steered.flags & STEER_ELSE_DIRECT != 0 && !listens(ctx, &guard, guard_port, is_ipv4) {
        count(SteerCount::Direct);
        return Verdict::Allow;
    }
    remember(ctx, &Original { address: destination, guard, port, guard_port });
    count(SteerCount::Steered);
    Verdict::Lead(guard, guard_port)
}

/// Is the process that connects still the one that policy lets go straight to that server? A pid may be another's
/// by now, and a process another user's or in another unit; what it executes is followed by whoever gives passes.
#[inline(always)]
fn has_pass(server: u32) -> bool {
    // SAFETY: helpers without arguments.
    let (tgid, uid, cgroup, now) = unsafe {
        (
            (bpf_get_current_pid_tgid() >> 32) as u32,
            bpf_get_current_uid_gid() as u32,
            bpf_get_current_cgroup_id(),
            bpf_ktime_get_boot_ns(),
        )
    };
    let Some(reign) = REIGN.get(0) else { return false };
    // SAFETY: copied at once.
    let Some(pass) = (unsafe { PASSES.get(PassKey { tgid, server }) }).copied() else {
        return false;
    };
    pass.reign == reign.number && now < reign.until && pass.uid == uid && pass.cgroup == cgroup
}

/// Where the kernel connects a socket that names no address; none if a device decides.
#[inline(always)]
fn own_address(ctx: &SockAddrContext, is_ipv4: bool) -> Option<Address> {
    let sock = sock(ctx);
    // SAFETY: the context's socket, whose fields the verifier knows.
    let (device, ipv4) = unsafe {
        (
            (&raw const (*sock).bound_dev_if).read_volatile(),
            (&raw const (*sock).src_ip4).read_volatile(),
        )
    };
    if !is_ipv4 {
        return Some(if source_is_mapped(sock) { LOOPBACK_IPV4 } else { LOOPBACK_IPV6 });
    }
    match (ipv4, device) {
        (0, 0) => Some(LOOPBACK_IPV4),
        (0, _) => None,
        (bound, _) => Some(mapped(bound)),
    }
}

#[inline(always)]
fn source_is_mapped(sock: *mut bpf_sock) -> bool {
    // SAFETY: as in `own_address`.
    unsafe {
        let family = (&raw const (*sock).family).read_volatile();
        family == AF_INET6
            && (&raw const (*sock).src_ip6[0]).read_volatile() == 0
            && (&raw const (*sock).src_ip6[1]).read_volatile() == 0
            && (&raw const (*sock).src_ip6[2]).read_volatile() == ANY_IPV4[2]
    }
}

const AF_INET6: u32 = 10;

/// Is this an address of the namespace itself? Another host's port of the same number is none of ours.
#[inline(always)]
fn is_local(netns: u64, address: &Address) -> bool {
    let mut bytes = [0; 16];
    for (i, word) in address.iter().enumerate() {
        bytes[i * 4..i * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    let key = LocalKey { netns: netns.to_ne_bytes(), address: bytes };
    LOCAL.get(Key::new(8 * size_of::<LocalKey>() as u32, key)).is_some()
}

/// Does somebody listen there? A connection that is made right now may still be refused.
#[inline(always)]
fn listens(ctx: &SockAddrContext, guard: &Address, port: u32, is_ipv4: bool) -> bool {
    // SAFETY: integers only.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if is_ipv4 {
        // SAFETY: the union's IPv4 side is what the size below says.
        unsafe {
            tuple.__bindgen_anon_1.ipv4.daddr = guard[3];
            tuple.__bindgen_anon_1.ipv4.dport = port as u16;
            size_of_val(&tuple.__bindgen_anon_1.ipv4)
        }
    } else {
        // SAFETY: likewise for IPv6.
        unsafe {
            tuple.__bindgen_anon_1.ipv6.daddr = *guard;
            tuple.__bindgen_anon_1.ipv6.dport = port as u16;
            size_of_val(&tuple.__bindgen_anon_1.ipv6)
        }
    };
    // SAFETY: the context, and a tuple of this size; what is found is given back.
    unsafe {
        let sock = bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size as u32, CURRENT_NETNS, 0);
        if sock.is_null() {
            return false;
        }
        let state = (&raw const (*sock).state).read_volatile();
        bpf_sk_release(sock.cast());
        state == TCP_LISTEN
    }
}

/// So that `getpeername` can answer as if nothing had happened.
#[inline(always)]
fn remember(ctx: &SockAddrContext, original: &Original) {
    let sock: *mut c_void = sock(ctx).cast();
    let mut told = remember_at(sock, original);
    // SAFETY: a constant of this program, which the loader replaces.
    if unsafe { (&raw const FOLLOW_MPTCP).read_volatile() } != 0 {
        // The program's own socket is another one: this is only its first path.
        // SAFETY: the context's socket.
        let whole = unsafe { bpf_skc_to_mptcp_sock(sock) };
        if !whole.is_null() {
            told = remember_at(whole.cast(), original);
        }
    }
    if !told {
        count(SteerCount::Untold);
    }
}

#[inline(always)]
fn remember_at(sock: *mut c_void, original: &Original) -> bool {
    let mut value = *original;
    // SAFETY: a socket that the verifier knows; what comes back is its storage or null.
    unsafe {
        let stored = bpf_sk_storage_get(
            originals(),
            sock,
            (&raw mut value).cast(),
            BPF_SK_STORAGE_GET_F_CREATE,
        )
        .cast::<Original>();
        if stored.is_null() {
            return false;
        }
        // It may be from an earlier connect of this socket.
        *stored = *original;
    }
    true
}

/// What the client asked for, if `peer` is the guard that it was led to.
#[inline(always)]
fn original(ctx: &SockAddrContext, peer: Address) -> Option<(Address, u32)> {
    // SAFETY: the context's socket; its storage is copied.
    let original = unsafe {
        let stored = bpf_sk_storage_get(originals(), sock(ctx).cast(), core::ptr::null_mut(), 0);
        if stored.is_null() {
            return None;
        }
        *stored.cast::<Original>()
    };
    let same = original.guard == peer && original.guard_port == port_of(ctx.sock_addr);
    same.then_some((original.address, original.port))
}

#[inline(always)]
fn originals() -> *mut c_void {
    (&raw const ORIGINALS).cast_mut().cast()
}

#[inline(always)]
fn sock(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: a field of the context.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// UDP connects, too, pass by here.
#[inline(always)]
fn is_tcp(address: *mut bpf_sock_addr) -> bool {
    // SAFETY: fields of the context.
    let (kind, protocol) = unsafe {
        (
            (&raw const (*address).type_).read_volatile(),
            (&raw const (*address).protocol).read_volatile(),
        )
    };
    kind == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
}

#[inline(always)]
fn port_of(address: *mut bpf_sock_addr) -> u32 {
    // SAFETY: a field of the context.
    unsafe { (&raw const (*address).user_port).read_volatile() }
}

#[inline(always)]
fn read_ip6(address: *mut bpf_sock_addr) -> Address {
    // SAFETY: fields of the context; one by one, because it has no other way in.
    unsafe {
        [
            (&raw const (*address).user_ip6[0]).read_volatile(),
            (&raw const (*address).user_ip6[1]).read_volatile(),
            (&raw const (*address).user_ip6[2]).read_volatile(),
            (&raw const (*address).user_ip6[3]).read_volatile(),
        ]
    }
}

#[inline(always)]
fn write_ip6(address: *mut bpf_sock_addr, to: Address) {
    // SAFETY: as in `read_ip6`.
    unsafe {
        (&raw mut (*address).user_ip6[0]).write_volatile(to[0]);
        (&raw mut (*address).user_ip6[1]).write_volatile(to[1]);
        (&raw mut (*address).user_ip6[2]).write_volatile(to[2]);
        (&raw mut (*address).user_ip6[3]).write_volatile(to[3]);
    }
}

#[inline(always)]
fn mapped(ipv4: u32) -> Address {
    [0, 0, ANY_IPV4[2], ipv4]
}

#[inline(always)]
fn is_mapped(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == ANY_IPV4[2]
}

#[inline(always)]
fn count(what: SteerCount) {
    if let Some(counter) = COUNTS.get_ptr_mut(what as u32) {
        // Programs can be preempted: another may count in this CPU's slot in between.
        // SAFETY: a map value.
        unsafe { atomic::add(counter, 1) };
    }
}

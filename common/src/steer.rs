//! The kernel ABI of steering: which addresses lead to a guard, and what a steered socket remembers.

use crate::plain;

/// Changes with every type below: maps that an earlier dbwarden has pinned are taken over only if theirs is
/// the same.
pub const STEER_ABI: u32 = 2;

/// An IP address in network byte order; IPv4 as `::ffff:a.b.c.d`, as it comes in a socket of both families.
pub type Address = [u32; 4];

/// `0.0.0.0`: any IPv4 address.
pub const ANY_IPV4: Address = [0, 0, 0x0000_ffff_u32.to_be(), 0];
/// `::`: any IPv6 address.
pub const ANY_IPV6: Address = [0; 4];
/// Says that something on this port is steered, whatever its address.
pub const SOME_ADDRESS: Address = [u32::MAX; 4];

/// Where a client connects to.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SteerKey {
    /// Cookie of the network namespace; 0 where a program sees only one.
    pub netns: u64,
    pub address: Address,
    /// Host byte order.
    pub port: u32,
    pub reserved: u32,
}

/// Where it arrives.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steered {
    /// `ANY_IPV4` or `ANY_IPV6`: the address stays, only the port is another one.
    pub address: Address,
    /// Host byte order.
    pub port: u32,
    pub flags: u32,
    /// With `STEER_BY_POLICY`, which server it is in a [`PassKey`].
    pub server: u32,
    pub reserved: u32,
}

/// Where no guard listens, the connection goes straight on.
pub const STEER_ELSE_DIRECT: u32 = 1;
/// Whoever has a [`Pass`] goes straight on.
pub const STEER_BY_POLICY: u32 = 2;

/// A process, by its thread group, and a server.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PassKey {
    pub tgid: u32,
    pub server: u32,
}

/// Policy lets a process go straight to a server, as long as it is what it was when that was decided.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Of the [`Reign`] that it was given in; in another one it counts for nothing.
    pub reign: u64,
    /// Its cgroup of version 2.
    pub cgroup: u64,
    pub uid: u32,
    pub reserved: u32,
}

/// Which passes count. There is one, and without it none does.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// Other rules have another number.
    pub number: u64,
    /// On the boot clock, in nanoseconds: whoever takes passes back is alive until then.
    pub until: u64,
}

/// Addresses of a namespace, for servers that listen on all of them: data of a longest-prefix trie.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalKey {
    pub netns: [u8; 8],
    pub address: [u8; 16],
}

/// What a steered socket remembers as long as it lives.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Original {
    /// What the client asked for.
    pub address: Address,
    /// The guard that it has instead.
    pub guard: Address,
    /// Both in network byte order.
    pub port: u32,
    pub guard_port: u32,
}

/// Which socket of the map takes the connections to an address from the network.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub index: u32,
    pub flags: u32,
}

/// What is counted: indices of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SteerCount {
    /// Connects led to a guard.
    Steered = 0,
    /// Connects of the guards' own sockets.
    Exempt = 1,
    /// Connects that went straight on, because no guard listened.
    Direct = 2,
    /// Connects refused, because nobody can say which guard they belong to.
    Refused = 3,
    /// Sockets that are steered, but whose `getpeername` will name the guard.
    Untold = 4,
    /// Connects that went straight on, because policy says so.
    Passed = 5,
}

pub const N_STEER_COUNTS: usize = 6;

plain!(SteerKey, Steered, LocalKey, Original, Listener, PassKey, Pass, Reign);

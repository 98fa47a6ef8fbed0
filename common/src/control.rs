//! Records of the control ring: openings and ends of connections, lives of processes.

use crate::plain;

pub const FORK: u32 = 1;
pub const EXEC: u32 = 2;
pub const EXIT: u32 = 3;
pub const OPEN: u32 = 4;
pub const CLOSE: u32 = 5;
pub const CLIENT: u32 = 6;
pub const LISTEN: u32 = 7;
pub const CERTIFICATE: u32 = 8;

/// Every control record begins with this.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct ControlHeader {
    /// Boot clock, nanoseconds.
    pub time: u64,
    /// `FORK`, `EXEC`, …: which of the types below this is.
    pub kind: u32,
    /// The process that it is about.
    pub tgid: u32,
}

/// A process made another one. Threads are not reported.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Fork {
    pub header: ControlHeader,
    /// The child's `struct pid` address.
    pub child_key: u64,
    /// The child's start, boot clock.
    pub child_start: u64,
    pub child: u32,
    pub reserved: u32,
}

pub const FILENAME_LEN: usize = 256;
pub const ARGS_LEN: usize = 512;
pub const TTY_LEN: usize = 32;
/// Levels of the cgroup tree that are read, from the leaf up.
pub const CGROUP_LEVELS: usize = 8;
pub const CGROUP_NAME_LEN: usize = 96;

/// A process runs another program now.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    pub header: ControlHeader,
    pub key: u64,
    pub start: u64,
    pub cgroup_id: u64,
    pub parent: u32,
    pub uid: u32,
    pub gid: u32,
    /// `u32::MAX` when unset.
    pub login_uid: u32,
    pub session: u32,
    /// Bytes of `args` that are filled.
    pub args_len: u32,
    pub comm: [u8; 16],
    /// NUL-terminated strings from here on.
    pub tty: [u8; TTY_LEN],
    pub filename: [u8; FILENAME_LEN],
    pub args: [u8; ARGS_LEN],
    /// Names of the unified hierarchy's cgroup, leaf first; empty from the root on.
    pub cgroup: [[u8; CGROUP_NAME_LEN]; CGROUP_LEVELS],
}

/// The last thread of a process ended.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub header: ControlHeader,
    pub key: u64,
}

/// IPv4 addresses stand in the first four bytes.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub local: [u8; 16],
    pub remote: [u8; 16],
    /// Host byte order.
    pub local_port: u16,
    pub remote_port: u16,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: u32,
    /// Inode of the network namespace.
    pub netns: u32,
    pub reserved: u32,
}

/// A client reached the server.
pub const INBOUND: u8 = 1;
/// The server's own process reaches out.
pub const OUTBOUND: u8 = 2;

pub const PATH_LEN: usize = 108;

/// The first bytes of a socket of a tracked process, or the start of an outbound connection.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Open {
    pub header: ControlHeader,
    pub sock: u64,
    pub cookie: u64,
    pub server: u32,
    /// The process at the other end of a unix socket, at the time of its `connect`; 0 if unknown.
    pub peer: u32,
    /// Its `struct pid` address.
    pub peer_key: u64,
    pub peer_uid: u32,
    pub peer_gid: u32,
    /// The cookie of the other end of a unix socket; 0 where nobody has asked for it.
    pub peer_cookie: u64,
    pub tuple: Tuple,
    pub role: u8,
    /// 1 where the process runs another program than the server.
    pub program: u8,
    pub reserved: [u8; 2],
    /// Bytes of `path` that are filled; abstract names begin with NUL.
    pub path_len: u32,
    pub path: [u8; PATH_LEN],
    pub reserved2: u32,
}

/// Both sides closed, or the socket is gone.
pub const CLOSED: u32 = 1;
/// The client will send no more.
pub const END_OF_STREAM: u32 = 2;

/// The end of a connection. Arrays are indexed by direction, then layer.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Close {
    pub header: ControlHeader,
    pub sock: u64,
    pub cookie: u64,
    pub position: [[u64; 2]; 2],
    pub dropped: [[u64; 2]; 2],
    pub server: u32,
    pub reason: u32,
}

/// A process of this host finished a TCP connect to a port that a database listens on.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub header: ControlHeader,
    pub key: u64,
    pub uid: u32,
    pub gid: u32,
    /// As the client's socket has it: `remote` is the server.
    pub tuple: Tuple,
}

/// A tracked process listens on a port.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub header: ControlHeader,
    pub tuple: Tuple,
}

pub const COMMON_NAME_LEN: usize = 128;

/// A tracked process has read the common name of its client's TLS certificate.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Certificate {
    pub header: ControlHeader,
    /// NUL-terminated, also where it was longer.
    pub common_name: [u8; COMMON_NAME_LEN],
}

plain!(ControlHeader, Fork, Exec, Exit, Tuple, Open, Close, Client, Listen, Certificate);

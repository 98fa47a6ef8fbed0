//! Keys and values of the maps that the agent and the BPF programs both touch.

use crate::plain;

/// A process that belongs to a database server, by thread group id.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Tracked {
    /// The agent's number of the server.
    pub server: u32,
    /// `TRACKED_*` bits.
    pub flags: u32,
}

/// Has called the TLS library: its socket calls may be nested in one.
pub const TRACKED_TLS: u32 = 1;
/// Runs another program than the server (`COPY … PROGRAM`): only its outbound connections count.
pub const TRACKED_PROGRAM: u32 = 2;
/// The server is unverified: what is copied for it is bounded by `QUOTA`.
pub const TRACKED_LIMITED: u32 = 4;

/// What stands for a socket's cookie where the hooks can't ask for it is the number of its inode, with this.
pub const COOKIE_IS_INODE: u64 = 1 << 63;

/// A port that a database listens on.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// Inode of the network namespace.
    pub netns: u32,
    /// Host byte order.
    pub port: u32,
}

/// What the programs know of a socket of a tracked process. Arrays are indexed by direction, then layer.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub cookie: u64,
    pub position: [[u64; 2]; 2],
    pub dropped: [[u64; 2]; 2],
    pub server: u32,
    /// `INBOUND`, `OUTBOUND`, or 0 for a socket that is none of ours.
    pub role: u8,
    /// The TLS library was seen on this socket: socket bytes are ciphertext.
    pub tls: u8,
    /// An end of stream was reported.
    pub ended: u8,
    pub reserved: u8,
}

/// Why bytes were not delivered. Indexes `COUNTERS` in pairs: events, then bytes.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// The data ring had no room.
    RingFull = 0,
    /// The control ring had no room (bytes: 0).
    ControlRingFull = 1,
    /// The server's memory was not there when it was read.
    PageFault = 2,
    /// A call whose memory cannot be found: `sendmmsg`, `recvmmsg`, `splice`, `sendfile`, io_uring, 32-bit.
    UnsupportedCall = 3,
    /// An unverified server used up its quota.
    Quota = 4,
    /// TLS plaintext on a connection that was never tied to a socket.
    TlsUnmapped = 5,
    /// `iovec`s that are too many to follow, or not there.
    TooManyIovecs = 6,
    /// A table of connections, calls or clients was full.
    TableFull = 7,
}

pub const N_DROPS: usize = 8;

impl Drop {
    pub const ALL: [Drop; N_DROPS] = [
        Drop::RingFull,
        Drop::ControlRingFull,
        Drop::PageFault,
        Drop::UnsupportedCall,
        Drop::Quota,
        Drop::TlsUnmapped,
        Drop::TooManyIovecs,
        Drop::TableFull,
    ];

    /// The word for it in `status` and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Drop::RingFull => "ring_full",
            Drop::ControlRingFull => "control_ring_full",
            Drop::PageFault => "page_fault",
            Drop::UnsupportedCall => "unsupported_call",
            Drop::Quota => "quota",
            Drop::TlsUnmapped => "tls_unmapped",
            Drop::TooManyIovecs => "too_many_iovecs",
            Drop::TableFull => "table_full",
        }
    }
}

/// What one drop reason has counted on one CPU.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    pub events: u64,
    pub bytes: u64,
}

plain!(Tracked, ListenerKey, Connection, Counter);

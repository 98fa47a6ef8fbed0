//! Records of the data ring: the bytes of one read or write, in parts.

use crate::plain;

/// Most payload bytes one record holds; a TLS record's plaintext fits.
pub const MAX_PAYLOAD: usize = 16 * 1024;
/// Most steps over the memory of one call: one for each `iovec` and one for each record; 1024 vectors are
/// the most that the kernel takes. What they don't reach counts as lost.
pub const MAX_ROUNDS: u32 = 4096;

/// Client to server.
pub const REQUEST: u8 = 0;
/// Server to client.
pub const RESPONSE: u8 = 1;

/// Bytes as the socket call moved them.
pub const SOCKET_LAYER: u8 = 0;
/// Plaintext as the TLS library handed it over or took it.
pub const TLS_LAYER: u8 = 1;

/// Head of a data record; `captured` payload bytes follow, then padding that means nothing.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct DataHeader {
    /// Boot clock, nanoseconds, when the call returned.
    pub time: u64,
    /// Address of the `struct sock`.
    pub sock: u64,
    /// Its cookie, or the stand-in of the fallback hooks.
    pub cookie: u64,
    /// Position of the first payload byte in this direction and layer.
    pub position: u64,
    /// Bytes of this direction and layer that could not be delivered so far, this record not counted.
    pub dropped: u64,
    /// Bytes that the whole call moved.
    pub call_len: u32,
    /// Where in the call the payload starts.
    pub call_offset: u32,
    /// Payload bytes that follow; 0 when the call's memory could not be read.
    pub captured: u32,
    /// The process that made the call.
    pub tgid: u32,
    /// Which server, as the agent numbered it.
    pub server: u32,
    pub direction: u8,
    pub layer: u8,
    pub reserved: [u8; 2],
}

plain!(DataHeader);

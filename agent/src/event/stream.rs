//! Captured bytes: chunks as the kernel reported them, pieces as a protocol session reads them.

use super::BootTime;

/// Which way bytes went, seen from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Client to server.
    Request,
    /// Server to client.
    Response,
}

/// Where the bytes were taken: from the socket call, or from the TLS library above it.
///
/// Each layer of a direction has positions of its own, starting at 0. Once a direction shows TLS
/// plaintext, its socket layer carries only ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    Socket,
    Tls,
}

/// One captured part of one read or write of the server.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    pub time: BootTime,
    pub direction: Direction,
    pub layer: Layer,
    /// Position of the first byte of `bytes` in this direction and layer of the connection.
    pub position: u64,
    pub bytes: &'a [u8],
    /// How many bytes the whole call moved.
    pub call_len: u32,
    /// Where in the call `bytes` starts.
    pub call_offset: u32,
    /// Bytes of this direction and layer that the kernel side had to drop so far (ring full, page
    /// fault, a call whose memory can't be read), cumulative over the connection. A gap beyond it is
    /// truncation by budget.
    pub dropped_total: u64,
}

/// How far one direction of one layer has come, as the kernel side counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Where the next byte would stand.
    pub position: u64,
    /// Bytes before it that could not be delivered.
    pub dropped: u64,
}

/// How far a connection has come: by direction (request, response), then by layer (socket, TLS).
pub type Extent = [[Reach; 2]; 2];

/// What a protocol session is fed, in order and without overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Bytes(&'a [u8]),
    Gap {
        /// Bytes that are missing here.
        len: u64,
        /// How many of them were lost; the rest were left out by budget.
        lost: u64,
    },
}

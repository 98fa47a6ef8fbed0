//! The open log: rows that aren't sealed yet, in batches that are checked and chained.
//!
//! ```text
//! header   magic, version, schema version, segment, time, previous chain head, host, crc32c
//! batch    length, crc32c, first row, rows, when committed, earliest and latest row, payload, chain
//! batch    …
//! ```
//!
//! A batch is whole if its checksum, its place and its link of the chain are right. The first one that
//! isn't, and all after it, is the tail that a crash tore, or that is being written now.

mod batch;
mod header;
mod payload;
mod read;
mod recover;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use batch::{Batch, BatchHead, CHAIN_LEN, HEAD_LEN, MAX_PAYLOAD};
pub use header::{Header, HeaderError};
pub use payload::{NO_FACTS, Payload, Piece};
pub use read::{ALL_TIMES, ReadError, Reader};
pub use recover::{Recovered, Torn, recover, set_aside};
pub use scan::{ScanError, Scanner, Trust};
pub use write::{LogWriter, Rows};

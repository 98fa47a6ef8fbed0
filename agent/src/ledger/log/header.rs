//! The start of a log file.

use thiserror::Error;

use crate::{event::WallTime, ledger::merkle::Hash};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"dbwlog\r\n";
const VERSION: u32 = 1;
/// Of everything before the host's name.
const FIXED_LEN: usize = 8 + 4 + 4 + 8 + 8 + 32 + 4;
/// Longer than any host's name.
const MAX_HOST: usize = 4096;

/// All integers little-endian: magic (8 bytes), version (u32), schema version (u32), segment (u64), time
/// (i64), the previous segment's chain head (32 bytes), length of the host's name (u32), the name,
/// crc32c of all before (u32).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub schema_version: u32,
    pub segment: u64,
    /// When the log was begun.
    pub time: WallTime,
    /// Where the chain of the segment before ended; zeroes in the first.
    pub previous: Hash,
    pub host: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    #[error("it ends within its header")]
    Short,
    #[error("it is no log of the ledger")]
    Magic,
    #[error("it is of version {0}, which this version of dbwarden can't read")]
    Version(u32),
    #[error("its header is damaged")]
    Damaged,
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let host = self.host.as_bytes();
        let host = &host[..host.len().min(MAX_HOST)];
        let mut bytes = Vec::with_capacity(FIXED_LEN + host.len() + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.schema_version.to_le_bytes());
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.time.0.to_le_bytes());
        bytes.extend_from_slice(&self.previous);
        bytes.extend_from_slice(&(host.len() as u32).to_le_bytes());
        bytes.extend_from_slice(host);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The most that must be read of a file to have its header whole.
    pub const MAX_LEN: usize = FIXED_LEN + MAX_HOST + 4;

    /// The header at the start of `bytes`, its length, and where the chain starts.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize, Hash), HeaderError> {
        let mut rest = bytes;
        if take::<8>(&mut rest)? != *MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = u32::from_le_bytes(take(&mut rest)?);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let schema_version = u32::from_le_bytes(take(&mut rest)?);
        let segment = u64::from_le_bytes(take(&mut rest)?);
        let time = WallTime(i64::from_le_bytes(take(&mut rest)?));
        let previous = take(&mut rest)?;
        let host_len = u32::from_le_bytes(take(&mut rest)?) as usize;
        if host_len > MAX_HOST {
            return Err(HeaderError::Damaged);
        }
        let (host, mut rest) = rest.split_at_checked(host_len).ok_or(HeaderError::Short)?;
        let checked = &bytes[..FIXED_LEN + host_len];
        if u32::from_le_bytes(take(&mut rest)?) != crc32c::crc32c(checked) {
            return Err(HeaderError::Damaged);
        }
        let host = String::from_utf8_lossy(host).into_owned();
        let len = FIXED_LEN + host_len + 4;
        let chain = Sha256::digest(&bytes[..len]).into();
        Ok((Self { schema_version, segment, time, previous, host }, len, chain))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], HeaderError> {
    let (value, rest) = bytes.split_first_chunk().ok_or(HeaderError::Short)?;
    *bytes = rest;
    Ok(*value)
}

#[cfg(test)]
mod tests {
    use super::{Header, HeaderError};
    use crate::event::WallTime;

    fn header() -> Header {
        Header {
            schema_version: 1,
            segment: 7,
            time: WallTime(1_764_000_000_000_000),
            previous: [9; 32],
            host: "db-1".to_owned(),
        }
    }

    #[test]
    fn there_and_back() {
        let bytes = header().encode();
        let (decoded, len, _) = Header::decode(&[&bytes[..], b"rest"].concat()).unwrap();
        assert_eq!((decoded, len), (header(), bytes.len()));
    }

    #[test]
    fn every_cut_and_every_flip_is_noticed() {
        let bytes = header().encode();
        for end in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..end]), Err(HeaderError::Short), "{end}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Header::decode(&flipped).is_err(), "{at}");
        }
    }
}

//! What a sealed segment leaves beside its file: the commits of its log, and the sums over its rows.
//!
//! `log/NNNNNNNNNN.trail`, whose SHA-256 is in the root log:
//!
//! | bytes, integers little-endian | |
//! |---|---|
//! | 8 | `dbwtrail` |
//! | u32 | version, 1 |
//! | u32 | number of commits |
//! | u32 | number of blocks |
//! | 40 each | commits: u64 rows so far, 32 bytes of chain head |
//! | 120 each | [blocks](super::blocks): 32 bytes of root, 11 sums of u64 |
//!
//! The commits are for a checkpoint that was taken while the segment was open and comes back after it
//! was sealed: the point that it names must be among them, or the segment isn't the one it saw.

use std::path::{Path, PathBuf};

use super::{
    blocks::{BLOCK_BYTES, Block},
    checkpoint::Commit,
};

const MAGIC: &[u8; 8] = b"dbwtrail";
const VERSION: u32 = 1;
const COMMIT_BYTES: usize = 40;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// Each point up to which the log was durable, in order.
    pub commits: Vec<Commit>,
    pub blocks: Vec<Block>,
}

impl Trail {
    /// Where a segment's trail is, in the folder of the root log.
    pub fn path(log_folder: &Path, segment: u64) -> PathBuf {
        log_folder.join(format!("{segment:010}.trail"))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [VERSION, self.commits.len() as u32, self.blocks.len() as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for Commit { rows, chain } in &self.commits {
            bytes.extend_from_slice(&rows.to_le_bytes());
            bytes.extend_from_slice(chain);
        }
        self.blocks.iter().for_each(|block| block.encode(&mut bytes));
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.strip_prefix(MAGIC)?;
        let version = number(&mut bytes)?;
        let (n_commits, n_blocks) = (number(&mut bytes)?, number(&mut bytes)?);
        let commits_end = (n_commits as usize).checked_mul(COMMIT_BYTES)?;
        let (commits, blocks) = bytes.split_at_checked(commits_end)?;
        let (blocks, rest) = blocks.as_chunks::<BLOCK_BYTES>();
        if version != VERSION || blocks.len() != n_blocks as usize || !rest.is_empty() {
            return None;
        }
        let commits = commits.as_chunks::<COMMIT_BYTES>().0.iter().filter_map(|bytes| {
            let (rows, chain) = bytes.split_first_chunk()?;
            Some(Commit { rows: u64::from_le_bytes(*rows), chain: chain.try_into().ok()? })
        });
        Some(Self {
            commits: commits.collect(),
            blocks: blocks.iter().map(Block::decode).collect(),
        })
    }
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::{Commit, Trail};
    use crate::ledger::{blocks::RowHasher, merkle};

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let mut rows = RowHasher::default();
        (0..1_500_u32).for_each(|n| rows.push(merkle::leaf_hash(&n.to_le_bytes())));
        let commits =
            vec![Commit { rows: 700, chain: [1; 32] }, Commit { rows: 1_500, chain: [2; 32] }];
        let trail = Trail { commits, blocks: rows.finish().blocks };
        let bytes = trail.encode();
        assert_eq!(bytes.len(), 20 + 2 * 40 + 2 * 120);
        assert_eq!(Trail::decode(&bytes), Some(trail));
        for len in 0..bytes.len() {
            assert_eq!(Trail::decode(&bytes[..len]), None, "{len} bytes");
        }
        assert_eq!(Trail::decode(&[&bytes[..], &[0]].concat()), None);
        for at in 0..20 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(Trail::decode(&bytes), None, "byte {at}");
        }
        let empty = Trail::default();
        assert_eq!(Trail::decode(&empty.encode()), Some(empty));
    }
}

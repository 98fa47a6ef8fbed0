//! Sums over the rows of a segment, from which verification can name the row that was changed.
//!
//! A Merkle root tells that something differs, not what. Keeping the hash of each row would cost more
//! than the rows do. So for each block of [`BLOCK_ROWS`] rows there is the block's own root, and eleven
//! sums (XOR) over the first eight bytes of leaf hashes: one over all rows of the block, and one for
//! each bit of a row's place, over the rows whose place has that bit. A row that changed alone changes
//! exactly the sums of its own place; 120 bytes a block then name it.
//!
//! Sums prove nothing: they only say where to look, after a root has said that something is wrong.

use super::merkle::{Hash, RootHasher};

pub const BLOCK_ROWS: usize = 1 << PLACE_BITS;
const PLACE_BITS: usize = 10;
const N_SUMS: usize = 1 + PLACE_BITS;
/// Of a block's encoding.
pub const BLOCK_BYTES: usize = 32 + 8 * N_SUMS;

type Sums = [u64; N_SUMS];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub root: Hash,
    sums: Sums,
}

/// Takes the leaf hashes of a segment's rows in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct RowHasher {
    all: RootHasher,
    block: RootHasher,
    sums: Sums,
    blocks: Vec<Block>,
}

/// What a segment's rows hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowHashes {
    pub rows: u64,
    pub root: Hash,
    pub blocks: Vec<Block>,
}

impl RowHasher {
    pub fn push(&mut self, leaf: Hash) {
        self.all.push(leaf);
        add(&mut self.sums, self.block.n_leaves() as usize, summand(&leaf));
        self.block.push(leaf);
        if self.block.n_leaves() as usize == BLOCK_ROWS {
            self.end_block();
        }
    }

    pub fn finish(mut self) -> RowHashes {
        if self.block.n_leaves() > 0 {
            self.end_block();
        }
        RowHashes { rows: self.all.n_leaves(), root: self.all.root(), blocks: self.blocks }
    }

    fn end_block(&mut self) {
        let sums = std::mem::take(&mut self.sums);
        self.blocks.push(Block { root: std::mem::take(&mut self.block).root(), sums });
    }
}

impl Block {
    fn of(leaves: &[Hash]) -> Self {
        let mut hasher = RowHasher::default();
        leaves.iter().take(BLOCK_ROWS).for_each(|leaf| hasher.push(*leaf));
        let block = hasher.finish().blocks.pop();
        block.unwrap_or(Self { root: RootHasher::default().root(), sums: Sums::default() })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.root);
        self.sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
    }

    pub fn decode(bytes: &[u8; BLOCK_BYTES]) -> Self {
        let (root, rest) = bytes.split_at(32);
        let (mut block, mut sums) = (Self { root: [0; 32], sums: [0; N_SUMS] }, rest.as_chunks().0);
        block.root.copy_from_slice(root);
        for sum in &mut block.sums {
            let Some((first, rest)) = sums.split_first() else { break };
            (*sum, sums) = (u64::from_le_bytes(*first), rest);
        }
        block
    }
}

/// What was done to the rows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One row says something else.
    Altered { row: u64 },
    /// One row that was sealed is gone; it was this one.
    Missing { row: u64 },
    /// One row is there that was not sealed.
    Added { row: u64 },
    /// One row is there twice.
    Duplicated { row: u64 },
    /// Two rows have changed places.
    Swapped { row: u64, other: u64 },
    /// More than can be told apart, from this row on (and in this block, `until` exclusive).
    Several { row: u64, until: u64 },
}

/// Finds the first thing that was done to rows that were sealed as `blocks` say, `rows` in number;
/// `found` are the leaf hashes now. `None` if they are the same.
pub fn first_change(rows: u64, blocks: &[Block], found: &[Hash]) -> Option<Change> {
    let n_rows = usize::try_from(rows).unwrap_or(usize::MAX);
    for (index, block) in blocks.iter().enumerate() {
        let start = index * BLOCK_ROWS;
        let end = (start + BLOCK_ROWS).min(n_rows);
        let here = found.get(start..).unwrap_or_default();
        let same_place = &here[..here.len().min(end - start)];
        if same_place.len() == end - start && Block::of(same_place).root == block.root {
            continue;
        }
        let change = if found.len() == n_rows {
            in_place(block, same_place)
        } else if found.len().checked_add(1) == Some(n_rows) {
            missing(block, &here[..here.len().min(end - start - 1)])
        } else if found.len() == n_rows.saturating_add(1) {
            added(block, &here[..here.len().min(end - start + 1)], found)
        } else {
            None
        };
        let several = Change::Several { row: start as u64, until: end as u64 };
        return Some(change.unwrap_or(several).shifted(start as u64));
    }
    match found.get(n_rows..) {
        Some([one]) if found[..n_rows].contains(one) => Some(Change::Duplicated { row: rows }),
        Some([_]) => Some(Change::Added { row: rows }),
        Some([_, _, ..]) => Some(Change::Several { row: rows, until: found.len() as u64 }),
        _ => None,
    }
}

impl Change {
    /// Where it is, or where it begins.
    pub fn row(self) -> u64 {
        match self {
            Self::Altered { row }
            | Self::Missing { row }
            | Self::Added { row }
            | Self::Duplicated { row }
            | Self::Swapped { row, .. }
            | Self::Several { row, .. } => row,
        }
    }

    /// Rows were counted from the beginning of a block that begins with row `start`.
    fn shifted(self, start: u64) -> Self {
        match self {
            Self::Altered { row } => Self::Altered { row: row + start },
            Self::Missing { row } => Self::Missing { row: row + start },
            Self::Added { row } => Self::Added { row: row + start },
            Self::Duplicated { row } => Self::Duplicated { row: row + start },
            Self::Swapped { row, other } => {
                Self::Swapped { row: row + start, other: other + start }
            }
            // It is only made with whole places.
            Self::Several { .. } => self,
        }
    }
}

/// As many rows as before: one altered, or two swapped?
fn in_place(block: &Block, found: &[Hash]) -> Option<Change> {
    let [all, bits @ ..] = difference(block.sums, Block::of(found).sums);
    if all != 0 {
        let row = place(all, &bits).filter(|row| *row < found.len())?;
        return Some(Change::Altered { row: row as u64 });
    }
    let summands: Vec<u64> = found.iter().map(summand).collect();
    for (row, a) in summands.iter().enumerate() {
        for (other, b) in summands.iter().enumerate().skip(row + 1) {
            let differing = row ^ other;
            let fits = |(bit, sum): (usize, &u64)| {
                *sum == if differing >> bit & 1 == 1 { a ^ b } else { 0 }
            };
            if a != b && bits.iter().enumerate().all(fits) {
                return Some(Change::Swapped { row: row as u64, other: other as u64 });
            }
        }
    }
    None
}

/// Where a row would have to have been that makes the sums right again.
fn missing(block: &Block, found: &[Hash]) -> Option<Change> {
    // All rows are at the places behind their own until the gap is reached.
    let mut sums = Sums::default();
    found.iter().enumerate().for_each(|(i, leaf)| add(&mut sums, i + 1, summand(leaf)));
    for row in 0..=found.len() {
        let [all, bits @ ..] = difference(block.sums, sums);
        if place(all, &bits) == Some(row) {
            return Some(Change::Missing { row: row as u64 });
        }
        let Some(leaf) = found.get(row) else { break };
        add(&mut sums, row + 1, summand(leaf));
        add(&mut sums, row, summand(leaf));
    }
    None
}

/// Which row makes the sums right again by going; `all` are those of the whole segment.
fn added(block: &Block, found: &[Hash], all: &[Hash]) -> Option<Change> {
    let mut sums = Sums::default();
    found.iter().skip(1).enumerate().for_each(|(i, leaf)| add(&mut sums, i, summand(leaf)));
    for (row, leaf) in found.iter().enumerate() {
        if difference(block.sums, sums) == Sums::default() {
            let row = row as u64;
            let is_twice = all.iter().filter(|other| *other == leaf).count() > 1;
            return Some(if is_twice { Change::Duplicated { row } } else { Change::Added { row } });
        }
        let Some(next) = found.get(row + 1) else { break };
        add(&mut sums, row, summand(next));
        add(&mut sums, row, summand(leaf));
    }
    None
}

/// The only place whose row can have changed all these sums, if there is one.
fn place(all: u64, bits: &[u64]) -> Option<usize> {
    let mut place = 0;
    for (bit, sum) in bits.iter().enumerate() {
        match *sum {
            0 => {}
            sum if sum == all => place |= 1 << bit,
            _ => return None,
        }
    }
    (all != 0).then_some(place)
}

fn summand(leaf: &Hash) -> u64 {
    leaf.first_chunk().copied().map_or(0, u64::from_le_bytes)
}

fn add(sums: &mut Sums, place: usize, summand: u64) {
    for (bit, sum) in sums.iter_mut().enumerate() {
        if bit == 0 || place >> (bit - 1) & 1 == 1 {
            *sum ^= summand;
        }
    }
}

fn difference(a: Sums, b: Sums) -> Sums {
    std::array::from_fn(|i| a[i] ^ b[i])
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, BLOCK_ROWS, Block, Change, RowHasher, RowHashes, first_change};
    use crate::ledger::merkle::{self, Hash};

    const N: usize = 2 * BLOCK_ROWS + 300;

    fn leaf(n: usize) -> Hash {
        merkle::leaf_hash(&n.to_le_bytes())
    }

    fn hashed(leaves: &[Hash]) -> RowHashes {
        let mut hasher = RowHasher::default();
        leaves.iter().for_each(|leaf| hasher.push(*leaf));
        hasher.finish()
    }

    fn check(change: impl FnOnce(&mut Vec<Hash>), expected: Option<Change>) {
        let mut leaves: Vec<Hash> = (0..N).map(leaf).collect();
        let sealed = hashed(&leaves);
        change(&mut leaves);
        assert_eq!(first_change(sealed.rows, &sealed.blocks, &leaves), expected);
    }

    #[test]
    fn the_root_is_that_of_all_rows() {
        for n in [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, N] {
            let leaves: Vec<Hash> = (0..n).map(leaf).collect();
            let hashed = hashed(&leaves);
            assert_eq!((hashed.rows, hashed.root), (n as u64, merkle::root(&leaves)));
            assert_eq!(hashed.blocks.len(), n.div_ceil(BLOCK_ROWS));
            for block in hashed.blocks {
                let mut bytes = Vec::new();
                block.encode(&mut bytes);
                let bytes: [u8; BLOCK_BYTES] = bytes.try_into().unwrap();
                assert_eq!(Block::decode(&bytes), block);
            }
        }
    }

    #[test]
    fn one_change_is_named_wherever_it_is() {
        check(|_| {}, None);
        for row in [0, 1, 511, 1_023, 1_024, 1_500, 2_047, 2_048, N - 1] {
            let n = row as u64;
            check(|rows| rows[row] = leaf(9_999), Some(Change::Altered { row: n }));
            check(|rows| drop(rows.drain(row..=row)), Some(Change::Missing { row: n }));
            check(|rows| rows.insert(row, leaf(9_999)), Some(Change::Added { row: n }));
        }
        // At the end of a block (or of all) it is the second one that is too many.
        for (row, n) in [(0, 0), (500, 500), (1_023, 1_024), (1_024, 1_024), (N - 1, N as u64)] {
            check(|rows| rows.insert(row, leaf(row)), Some(Change::Duplicated { row: n }));
        }
        check(|rows| rows.insert(1_500, leaf(7)), Some(Change::Duplicated { row: 1_500 }));
        check(|rows| rows.push(leaf(9_999)), Some(Change::Added { row: N as u64 }));
        check(|rows| rows.push(leaf(3)), Some(Change::Duplicated { row: N as u64 }));
        for (row, other) in [(0, 1), (3, 1_000), (1_030, 1_029 + 900), (2_048, N - 1)] {
            let (a, b) = (row as u64, other as u64);
            check(|rows| rows.swap(row, other), Some(Change::Swapped { row: a, other: b }));
        }
    }

    #[test]
    fn many_changes_are_narrowed_to_a_block() {
        let second = Change::Several { row: 1_024, until: 2_048 };
        check(|rows| rows[1_030..1_050].reverse(), Some(second));
        check(|rows| rows[1_030..1_050].fill(leaf(9_999)), Some(second));
        check(|rows| drop(rows.drain(1_030..1_040)), Some(second));
        check(Vec::clear, Some(Change::Several { row: 0, until: 1_024 }));
        check(|rows| rows.truncate(1_024), Some(second));
        let beyond = Change::Several { row: N as u64, until: N as u64 + 2 };
        check(|rows| rows.extend([leaf(1), leaf(2)]), Some(beyond));
    }
}

//! Merkle trees as RFC 6962 hashes them: roots, and proofs that a leaf or an older tree is inside.

use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

/// What a tree has at the bottom: the first byte keeps a leaf from passing for a node.
pub fn leaf_hash(content: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(content).finalize().into()
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root over any number of leaves, in memory that grows with the logarithm of that number.
#[derive(Clone, Debug, Default)]
pub struct RootHasher {
    n_leaves: u64,
    /// Of the complete subtrees from left to right: one for each bit that is set in `n_leaves`.
    subtrees: Vec<Hash>,
}

impl RootHasher {
    pub fn push(&mut self, leaf: Hash) {
        let mut subtree = leaf;
        for _ in 0..self.n_leaves.trailing_ones() {
            let Some(left) = self.subtrees.pop() else { break };
            subtree = node_hash(&left, &subtree);
        }
        self.subtrees.push(subtree);
        self.n_leaves += 1;
    }

    pub fn n_leaves(&self) -> u64 {
        self.n_leaves
    }

    /// Of the leaves so far; more may follow.
    pub fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev();
        match subtrees.next() {
            None => Sha256::digest([]).into(),
            Some(&last) => subtrees.fold(last, |right, left| node_hash(left, &right)),
        }
    }
}

impl Extend<Hash> for RootHasher {
    fn extend<T: IntoIterator<Item = Hash>>(&mut self, leaves: T) {
        leaves.into_iter().for_each(|leaf| self.push(leaf));
    }
}

pub fn root(leaves: &[Hash]) -> Hash {
    let mut hasher = RootHasher::default();
    hasher.extend(leaves.iter().copied());
    hasher.root()
}

/// The hashes beside the way from leaf `index` up to the root, lowest first (`PATH` of RFC 6962,
/// 2.1.1); `None` if there is no such leaf.
pub fn inclusion_path(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut tree, mut index) = (leaves, index);
    while tree.len() > 1 {
        let (left, right) = tree.split_at(split(tree.len()));
        let beside;
        (tree, beside) = if index < left.len() { (left, right) } else { (right, left) };
        index %= left.len();
        path.push(root(beside));
    }
    path.reverse();
    Some(path)
}

/// The root of a tree of `size` leaves whose leaf `index` is `leaf`, as `path` says: the leaf is in a
/// tree if this is the tree's root. `None` if a tree of that size has no such path.
pub fn root_by_inclusion(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    // RFC 9162, 2.1.3.2.
    let (mut node, mut last) = (index, size - 1);
    let mut hash = leaf;
    for beside in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(beside, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, beside);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// What shows that the first `old_size` leaves are still the same (`PROOF` of RFC 6962, 2.1.2);
/// `None` if there were never as many.
pub fn consistency_path(leaves: &[Hash], old_size: usize) -> Option<Vec<Hash>> {
    if old_size > leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    if old_size == 0 {
        return Some(path);
    }
    let (mut tree, mut old_size) = (leaves, old_size);
    // The old tree's own root is known to whoever asks.
    let mut is_old_root = true;
    while old_size < tree.len() {
        let (left, right) = tree.split_at(split(tree.len()));
        if old_size <= left.len() {
            path.push(root(right));
            tree = left;
        } else {
            path.push(root(left));
            old_size -= left.len();
            tree = right;
            is_old_root = false;
        }
    }
    if !is_old_root {
        path.push(root(tree));
    }
    path.reverse();
    Some(path)
}

/// Whether `path` shows that the tree of `size` leaves begins with the tree of `old_size` leaves.
pub fn is_consistent(
    (old_size, old_root): (u64, Hash),
    (size, root): (u64, Hash),
    path: &[Hash],
) -> bool {
    if old_size == 0 || old_size == size {
        return path.is_empty() && old_size <= size && (old_size == 0 || old_root == root);
    }
    if old_size > size {
        return false;
    }
    // RFC 9162, 2.1.4.2.
    let own = [old_root];
    let path = if old_size.is_power_of_two() { [&own, path].concat() } else { path.to_vec() };
    let Some((&first, rest)) = path.split_first() else { return false };
    let mut node = old_size - 1;
    let mut last = size - 1;
    let shift = node.trailing_ones();
    node >>= shift;
    last >>= shift;
    let (mut old_hash, mut hash) = (first, first);
    for beside in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(beside, &old_hash);
            hash = node_hash(beside, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, beside);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == old_root && hash == root
}

/// How many leaves are left of the root: the largest power of two below `size`, which is above 1.
fn split(size: usize) -> usize {
    1 << (size - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::{
        Hash, RootHasher, consistency_path, inclusion_path, is_consistent, leaf_hash, root,
        root_by_inclusion,
    };

    /// The tree that implementations of Certificate Transparency test themselves with.
    const LEAVES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    /// Its roots at each size from 0.
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaves() -> Vec<Hash> {
        LEAVES.iter().map(|content| leaf_hash(content)).collect()
    }

    fn hex(hash: &Hash) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let mut hasher = RootHasher::default();
        for (n, expected) in ROOTS.iter().enumerate() {
            assert_eq!(hasher.n_leaves(), n as u64);
            assert_eq!(hex(&hasher.root()), *expected, "{n} leaves");
            hasher.extend(leaves().get(n).copied());
        }
    }

    #[test]
    fn inclusion_paths_are_those_of_certificate_transparency() {
        for (index, size, expected) in [
            (0, 1, &[][..]),
            (
                0,
                8,
                &[
                    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
                ],
            ),
            (
                5,
                8,
                &[
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                ],
            ),
            (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
            (
                1,
                5,
                &[
                    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                ],
            ),
        ] {
            let path = inclusion_path(&leaves()[..size], index).unwrap();
            assert_eq!(path.iter().map(hex).collect::<Vec<_>>(), expected, "{index} of {size}");
        }
    }

    #[test]
    fn consistency_paths_are_those_of_certificate_transparency() {
        for (old_size, size, expected) in [
            (1, 1, &[][..]),
            (
                1,
                8,
                &[
                    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
                ],
            ),
            (
                6,
                8,
                &[
                    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                ],
            ),
            (
                2,
                5,
                &[
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                ],
            ),
        ] {
            let path = consistency_path(&leaves()[..size], old_size).unwrap();
            assert_eq!(path.iter().map(hex).collect::<Vec<_>>(), expected, "{old_size} in {size}");
        }
    }

    /// Every way to change a path, a position or a size.
    fn variants(path: &[Hash]) -> Vec<Vec<Hash>> {
        let mut variants = vec![[path, &[[7; 32]]].concat(), [&[[7; 32]], path].concat()];
        for i in 0..path.len() {
            let mut changed = path.to_vec();
            changed[i][i % 32] ^= 1;
            variants.push(changed);
            let mut shorter = path.to_vec();
            shorter.remove(i);
            variants.push(shorter);
        }
        variants
    }

    #[test]
    fn every_leaf_of_every_tree_is_proven_and_nothing_else_is() {
        let all: Vec<Hash> = (0..40_u8).map(|n| leaf_hash(&[n])).collect();
        for size in 0..=all.len() {
            let (tree, n) = (&all[..size], size as u64);
            let expected = Some(root(tree));
            assert_eq!(inclusion_path(tree, size), None);
            for (index, &leaf) in tree.iter().enumerate() {
                let (path, i) = (inclusion_path(tree, index).unwrap(), index as u64);
                let proven = |index, size, leaf, path: &[Hash]| {
                    root_by_inclusion(index, size, leaf, path) == expected
                };
                assert!(proven(i, n, leaf, &path), "{index} of {size}");
                assert!(!proven(i, n, [9; 32], &path));
                assert!(!proven(n, n, leaf, &path));
                assert!(variants(&path).iter().all(|path| !proven(i, n, leaf, path)));
                assert!((0..n).filter(|&other| other != i).all(|i| !proven(i, n, leaf, &path)));
            }
        }
    }

    #[test]
    fn every_older_tree_is_proven_and_nothing_else_is() {
        let all: Vec<Hash> = (0..40_u8).map(|n| leaf_hash(&[n])).collect();
        for size in 0..=all.len() {
            let (tree, n) = (&all[..size], size as u64);
            assert_eq!(consistency_path(tree, size + 1), None);
            for old in 0..=size {
                let path = consistency_path(tree, old).unwrap();
                let (old, new) = ((old as u64, root(&all[..old])), (n, root(tree)));
                assert!(is_consistent(old, new, &path), "{old:?} in {n}");
                assert!(variants(&path).iter().all(|path| !is_consistent(old, new, path)));
                assert!(!is_consistent((n + 1, old.1), new, &path));
                if old.0 > 0 {
                    assert!(!is_consistent((old.0, [9; 32]), new, &path));
                    assert!(!is_consistent(old, (n, [9; 32]), &path));
                }
            }
        }
    }
}

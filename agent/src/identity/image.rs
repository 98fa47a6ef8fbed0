//! What a process became by an exec: raw strings in one allocation, made cheaply and read rarely.

use std::sync::Arc;

use super::procfs::Snapshot;

/// The parts of an [`Image`], in the order in which its bytes hold them.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Comm,
    /// The path executed.
    Exe,
    /// Separated by NUL.
    Args,
    Tty,
    Cgroup,
}

/// Longest part of each kind; kernel records are shorter.
const MAX: [usize; 5] = [16, 1024, 512, 32, 1024];

/// One program in one process, shared with the children that have not executed anything yet.
#[derive(Debug)]
pub(super) struct Image {
    pub uid: Option<u32>,
    pub login_uid: Option<u32>,
    pub session: Option<u32>,
    ends: [u16; 5],
    bytes: Box<[u8]>,
}

impl Image {
    pub fn new([uid, login_uid, session]: [Option<u32>; 3], parts: [&[u8]; 5]) -> Arc<Image> {
        let cut = |index: usize| {
            let part = parts[index];
            &part[..part.len().min(MAX[index])]
        };
        let mut bytes = Vec::with_capacity((0..5).map(|index| cut(index).len()).sum());
        let mut ends = [0; 5];
        for (index, end) in ends.iter_mut().enumerate() {
            bytes.extend_from_slice(cut(index));
            *end = bytes.len() as u16; // MAX adds up to less
        }
        Arc::new(Image { uid, login_uid, session, ends, bytes: bytes.into() })
    }

    pub fn of_snapshot(snapshot: &Snapshot, args: &[u8]) -> Arc<Image> {
        Image::new(
            [snapshot.uid, snapshot.login_uid, snapshot.session],
            [
                &snapshot.comm,
                &snapshot.exe,
                args,
                snapshot.tty.as_bytes(),
                snapshot.cgroup.as_bytes(),
            ],
        )
    }

    pub fn part(&self, part: Part) -> &[u8] {
        let index = part as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[usize::from(start)..usize::from(self.ends[index])]
    }
}

//! The roots that processes of this host have: what a path means to whoever says it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx},
    io::Errno,
};

use super::seat::{FileId, file_of};

const MAX_ROOTS: usize = 1_024;
/// One look in so many is at every process: one may have got another root. The others are at new ones.
const WHOLE_LOOK: u32 = 15;
/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): the mount's number, which no other ever has.
const MOUNT_NUMBER: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A mount that is the root of some process.
pub(super) struct Root {
    pub number: u64,
    folder: OwnedFd,
}

impl Root {
    /// What stands at a path in there.
    pub fn file(&self, path: &Path) -> Option<FileId> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        file_of(openat2(&self.folder, path, flags, Mode::empty(), resolve).ok()?).ok()
    }
}

/// What is remembered between two looks: who was looked at. Nothing of theirs is kept open, which would keep a root
/// alive that has gone.
#[derive(Default)]
pub(super) struct Roots {
    looked: BTreeSet<u32>,
    /// A process that has it, by the mount's number.
    of: BTreeMap<u64, u32>,
    looks: u32,
}

impl Roots {
    /// Those of all processes, as far as they are the whole of a mount.
    pub fn look(&mut self) -> Vec<Root> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids: BTreeSet<u32> =
            processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let have = |(number, pid): (&u64, &u32)| matches!(root(*pid), Ok(Some((now, _))) if now == *number);
        if self.looks.is_multiple_of(WHOLE_LOOK) || !self.of.iter().all(have) {
            *self = Self { looks: self.looks, ..Self::default() };
        }
        self.looks = self.looks.wrapping_add(1);
        for pid in pids.difference(&self.looked) {
            // It may be gone meanwhile.
            if let Ok(Some((number, _))) = root(*pid)
                && self.of.len() < MAX_ROOTS
            {
                self.of.entry(number).or_insert(*pid);
            }
        }
        self.looked = pids;
        let roots = self.of.iter().filter_map(|(number, pid)| {
            let (now, folder) = root(*pid).ok()??;
            (now == *number).then_some(Root { number: now, folder })
        });
        roots.collect()
    }
}

fn root(pid: u32) -> Result<Option<(u64, OwnedFd)>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = format!("/proc/{pid}/root");
    let folder = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::empty())?;
    let known = statx(&folder, "", AtFlags::EMPTY_PATH, MOUNT_NUMBER)?;
    let has_number = known.stx_mask & MOUNT_NUMBER.bits() != 0;
    let is_whole = known.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok((has_number && is_whole).then_some((known.stx_mnt_id, folder)))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

    use super::Roots;

    #[test]
    fn a_path_is_found_under_its_root() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        let mut roots = Roots::default();
        for _ in 0..3 {
            let seen = roots.look();
            let found = seen.iter().filter_map(|root| root.file(&file)).any(|f| f.inode == inode);
            // Kernels before 6.8 don't number their mounts.
            assert!(found || seen.is_empty());
            assert!(seen.iter().all(|root| root.file(Path::new("/not/there")).is_none()));
        }
    }
}

//! The roots that processes of this host have: what a path means to whoever says it.

use std::{collections::BTreeMap, fs, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx},
    io::Errno,
};

use super::seat::{FileId, file_of};

/// Looked at in one go.
const MAX_ROOTS: usize = 1_024;
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

/// Those of all processes. One that is locked into a folder of its mount has none of these.
pub(super) fn roots() -> Vec<Root> {
    let mut roots = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        if roots.len() >= MAX_ROOTS {
            break;
        }
        // It may be gone meanwhile.
        if let Ok(Some((number, folder))) = root(pid) {
            roots.entry(number).or_insert(folder);
        }
    }
    roots.into_iter().map(|(number, folder)| Root { number, folder }).collect()
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

    use super::roots;

    #[test]
    fn a_path_is_found_under_its_root() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        let found = roots().iter().filter_map(|root| root.file(&file)).any(|f| f.inode == inode);
        // Kernels before 6.8 don't number their mounts.
        assert!(found || roots().is_empty());
        assert!(roots().iter().all(|root| root.file(Path::new("/not/there")).is_none()));
    }
}

//! Steering that outlives its process: maps and links in a folder of a BPF file system.
//!
//! The maps are taken over by the next process, so its programs decide as the old ones did from the moment
//! they are attached; then its links take the names of the old ones, which ends those.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use dbwarden_common::STEER_ABI;

use super::SteerError;

const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;
/// Folders of all versions begin so; the file system doesn't like dots.
const PREFIX: &str = "steer-";
const NETWORK: &str = "network-";

/// The folder of this version's maps and links.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    root: PathBuf,
    folder: PathBuf,
}

impl Pins {
    pub(super) fn open(root: &Path) -> Result<Self, SteerError> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let system = rustix::fs::statfs(existing)
            .map_err(|error| SteerError::pin(existing)(error.into()))?;
        if system.f_type != BPF_FS_MAGIC {
            return Err(SteerError::NoBpffs { path: root.to_owned() });
        }
        let folder = root.join(format!("{PREFIX}{STEER_ABI}"));
        fs::create_dir_all(&folder).map_err(SteerError::pin(&folder))?;
        Ok(Self { root: root.to_owned(), folder })
    }

    /// Whether a map of this version's is there.
    pub(super) fn has(root: &Path, map: &str) -> bool {
        root.join(format!("{PREFIX}{STEER_ABI}")).join(map).exists()
    }

    /// The pins of one namespace's `sk_lookup`.
    pub(super) fn network(&self, netns: u64) -> Result<Self, SteerError> {
        let folder = self.folder.join(format!("{NETWORK}{netns}"));
        fs::create_dir_all(&folder).map_err(SteerError::pin(&folder))?;
        Ok(Self { root: self.root.clone(), folder })
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The link stays when this process ends, in the place of the one that had its name.
    pub(super) fn keep(
        &self,
        name: &'static str,
        pin: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), SteerError> {
        let (fresh, settled) = (self.folder.join(format!("{name}-next")), self.folder.join(name));
        // Left by a process that was killed at this very place.
        remove_file(&fresh)?;
        pin(&fresh).map_err(SteerError::pin(&fresh))?;
        fs::rename(&fresh, &settled).map_err(SteerError::pin(&settled))
    }

    /// Removes what belongs to other versions, and to namespaces that are none of these.
    pub(super) fn settle(&self, networks: impl Iterator<Item = u64>) -> Result<(), SteerError> {
        let ours: Vec<PathBuf> =
            networks.map(|netns| self.folder.join(format!("{NETWORK}{netns}"))).collect();
        for folder in folders(&self.folder, NETWORK)? {
            if !ours.contains(&folder) {
                remove_folder(&folder)?;
            }
        }
        for folder in folders(&self.root, PREFIX)? {
            if folder != self.folder {
                remove_folder(&folder)?;
            }
        }
        Ok(())
    }

    /// Removes all of them.
    pub(super) fn remove(&self) -> Result<(), SteerError> {
        remove_pins(&self.root)
    }
}

/// Takes off what any process has pinned in this folder: for a start that steers nothing, or nothing that
/// outlives it. The kernel detaches it a moment later.
///
/// # Errors
/// A pin can't be removed.
pub fn remove_pins(root: &Path) -> Result<(), SteerError> {
    match root.is_dir() {
        true => folders(root, PREFIX)?.iter().try_for_each(|folder| remove_folder(folder)),
        false => Ok(()),
    }
}

fn folders(of: &Path, prefix: &str) -> Result<Vec<PathBuf>, SteerError> {
    let entries = fs::read_dir(of).map_err(SteerError::pin(of))?;
    let ours = entries.filter_map(Result::ok).filter(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix))
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
    });
    Ok(ours.map(|entry| entry.path()).collect())
}

/// Links go before maps: what is attached always has the maps that the next process would take over.
fn remove_folder(folder: &Path) -> Result<(), SteerError> {
    for inner in folders(folder, NETWORK)? {
        remove_folder(&inner)?;
    }
    let entries = fs::read_dir(folder).map_err(SteerError::pin(folder))?;
    let mut files: Vec<PathBuf> =
        entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    // Maps are named in capitals.
    let is_map = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().first() < Some(&b'a'))
    };
    files.sort_by_key(is_map);
    files.iter().try_for_each(|file| remove_file(file))?;
    fs::remove_dir(folder).map_err(SteerError::pin(folder))
}

fn remove_file(path: &Path) -> Result<(), SteerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SteerError::pin(path)(error)),
        _ => Ok(()),
    }
}

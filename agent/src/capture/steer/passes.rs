//! Which processes go straight to a server whose lane policy decides: told to the kernel side before they connect.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use dbwarden_common::{Pass, PassKey, Reign};

use super::{SteerError, object};
use crate::event::BootTime;

/// The kernel side's passes; whoever has none is led to the guard.
pub struct Passes {
    passes: HashMap<MapData, PassKey, Pass>,
    reign: Array<MapData, Reign>,
    /// Where the cgroup v2 tree is mounted.
    cgroups: PathBuf,
}

impl Passes {
    /// Without those of an earlier process.
    pub(super) fn take(ebpf: &mut Ebpf, cgroups: &Path) -> Result<Self, SteerError> {
        let mut passes = Self {
            passes: object::take(ebpf, "PASSES", HashMap::try_from)?,
            reign: object::take(ebpf, "REIGN", Array::try_from)?,
            cgroups: cgroups.to_owned(),
        };
        passes.renew(0, BootTime(0))?;
        passes.take_all_back()?;
        Ok(passes)
    }

    /// From now until then the passes of this reign count, and no others.
    ///
    /// # Errors
    /// The map can't be changed.
    pub fn renew(&mut self, number: u64, until: BootTime) -> Result<(), SteerError> {
        let reign = Reign { number, until: until.0 };
        self.reign.set(0, reign, 0).map_err(SteerError::map("REIGN"))
    }

    /// A process goes straight to a server, as this user and in the cgroup that it is in now.
    ///
    /// # Errors
    /// A full map.
    pub fn give(&mut self, reign: u64, pid: u32, server: u32, uid: u32) -> Result<(), SteerError> {
        // One that has just ended needs no pass.
        let Some(cgroup) = self.cgroup_of(pid) else { return Ok(()) };
        let pass = Pass { reign, cgroup, uid, reserved: 0 };
        let given = self.passes.insert(PassKey { tgid: pid, server }, pass, 0);
        given.map_err(SteerError::map("PASSES"))
    }

    /// It is led from now on, whatever it was told before.
    ///
    /// # Errors
    /// The map can't be changed.
    pub fn take_back(&mut self, pid: u32, server: u32) -> Result<(), SteerError> {
        let taken = self.passes.remove(&PassKey { tgid: pid, server });
        crate::capture::ignore_missing(taken).map_err(SteerError::map("PASSES"))
    }

    /// # Errors
    /// The map can't be changed.
    pub fn take_all_back(&mut self) -> Result<(), SteerError> {
        let keys: Vec<PassKey> = self.passes.keys().filter_map(Result::ok).collect();
        keys.iter().try_for_each(|key| self.take_back(key.tgid, key.server))
    }

    /// The kernel's number of the cgroup, which is the inode of its folder.
    fn cgroup_of(&self, pid: u32) -> Option<u64> {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(fs::metadata(self.cgroups.join(path)).ok()?.ino())
    }
}

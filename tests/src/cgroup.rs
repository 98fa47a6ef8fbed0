//! A place in the host's tree of cgroups, as systemd or a container engine would make it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::await_until;

/// A path in the unified hierarchy, removed when dropped as far as it was made.
pub struct Cgroup {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Cgroup {
    /// `below` is relative to the root, as in `system.slice/cron.service`.
    pub fn create(below: &str) -> Result<Cgroup> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let unified = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let root = unified.and_then(|line| line.split(' ').nth(4)).context("no cgroup2 mount")?;
        let mut group = Cgroup { path: root.into(), made: Vec::new() };
        for part in Path::new(below) {
            group.path.push(part);
            if !group.path.exists() {
                fs::create_dir(&group.path)?;
                group.made.push(group.path.clone());
            }
        }
        Ok(group)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // Its last process may be on its way out.
            let removed = await_until("an empty cgroup", || Ok(fs::remove_dir(path).ok()));
            if let Err(error) = removed {
                eprintln!("{}: {error:#}", path.display());
            }
        }
    }
}

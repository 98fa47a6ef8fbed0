//! Ancestors of a process, as they were when they forked, kept after they are gone.

use std::sync::{Arc, OnceLock};

use super::{
    command::command_line,
    image::{Image, Part},
};
use crate::event::{BootTime, Parent, Program};

/// Longest chain kept. A longer one keeps its two ends, as both tell: near, who started it; far,
/// which session or service it all began in. So a process that forks itself on and on can neither
/// grow the agent nor push its origin out of sight unmarked.
const MAX_DEPTH: u16 = 32;
const KEEP_NEAR: usize = 12;
const KEEP_FAR: usize = 12;

/// One ancestor with its own ancestors; shared by all who descend from it.
#[derive(Debug)]
pub(super) struct Ancestor {
    /// 0 stands for those left out of a chain that grew too long.
    pub pid: u32,
    pub start: BootTime,
    pub comm: Arc<str>,
    /// What it ran when it forked.
    image: Option<Arc<Image>>,
    /// The same for people, made when somebody asks.
    program: OnceLock<Arc<Program>>,
    parent: Option<Arc<Ancestor>>,
    depth: u16,
}

impl Ancestor {
    pub fn new(
        pid: u32,
        start: BootTime,
        image: Option<Arc<Image>>,
        parent: Option<Arc<Ancestor>>,
    ) -> Arc<Self> {
        let comm = image.as_ref().map_or(&[][..], |image| image.part(Part::Comm));
        let comm = String::from_utf8_lossy(comm).into();
        let parent = match parent {
            Some(parent) if parent.depth >= MAX_DEPTH => shorten(&parent),
            parent => parent,
        };
        link(pid, start, comm, image, parent)
    }

    /// This ancestor, then its parent, up to the first.
    pub fn chain(&self) -> impl Iterator<Item = &Ancestor> {
        std::iter::successors(Some(self), |ancestor| ancestor.parent.as_deref())
    }

    fn program(&self) -> Arc<Program> {
        let made = || {
            let part = |part| self.image.as_ref().map_or(&[][..], |image| image.part(part));
            let exe = Some(part(Part::Exe)).filter(|exe| !exe.is_empty());
            Arc::new(Program {
                exe: exe.map(|exe| String::from_utf8_lossy(exe).into()),
                command: command_line(part(Part::Args)),
            })
        };
        self.program.get_or_init(made).clone()
    }
}

/// The parents that a process shows.
pub(super) fn parents(lineage: Option<&Arc<Ancestor>>) -> Arc<[Parent]> {
    lineage
        .into_iter()
        .flat_map(|nearest| nearest.chain())
        .map(|ancestor| Parent { pid: ancestor.pid, comm: ancestor.comm.clone() })
        .collect()
}

/// What each of the parents ran, in the order of [`parents`].
pub(super) fn programs(lineage: Option<&Arc<Ancestor>>) -> Arc<[Arc<Program>]> {
    lineage.into_iter().flat_map(|nearest| nearest.chain()).map(Ancestor::program).collect()
}

fn link(
    pid: u32,
    start: BootTime,
    comm: Arc<str>,
    image: Option<Arc<Image>>,
    parent: Option<Arc<Ancestor>>,
) -> Arc<Ancestor> {
    let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
    Arc::new(Ancestor { pid, start, comm, image, program: OnceLock::new(), parent, depth })
}

fn copy(of: &Ancestor, parent: Option<Arc<Ancestor>>) -> Arc<Ancestor> {
    link(of.pid, of.start, of.comm.clone(), of.image.clone(), parent)
}

fn shorten(nearest: &Ancestor) -> Option<Arc<Ancestor>> {
    let chain: Vec<&Ancestor> = nearest.chain().collect();
    let near = chain.iter().take(KEEP_NEAR);
    let far = chain.iter().skip(chain.len().saturating_sub(KEEP_FAR)).filter(|a| a.pid != 0);
    let mut shorter = None;
    for ancestor in far.rev() {
        shorter = Some(copy(ancestor, shorter));
    }
    shorter = Some(link(0, BootTime(0), "…".into(), None, shorter));
    for ancestor in near.rev() {
        shorter = Some(copy(ancestor, shorter));
    }
    shorter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_without_end_keeps_both_ends() {
        let shell = Image::new([None; 3], [b"sh", b"/bin/sh", b"sh\0-c", b"", b""]);
        let mut nearest = None;
        for pid in 1..=100_000 {
            let image = Some(shell.clone());
            nearest = Some(Ancestor::new(pid, BootTime(pid.into()), image, nearest));
        }
        let pids: Vec<u32> = parents(nearest.as_ref()).iter().map(|parent| parent.pid).collect();
        assert!(pids.len() <= usize::from(MAX_DEPTH) + 2, "{}", pids.len());
        let near: Vec<u32> = (0..12).map(|n| 100_000 - n).collect();
        assert_eq!(pids[..12], near);
        assert_eq!(pids.iter().filter(|pid| **pid == 0).count(), 1);
        let far: Vec<u32> = (1..=12).rev().collect();
        assert_eq!(pids[pids.len() - 12..], far);
        let programs = programs(nearest.as_ref());
        assert_eq!(programs.len(), pids.len());
        assert_eq!(programs[0].exe.as_deref(), Some("/bin/sh"));
        assert_eq!(programs[13].command.as_deref(), Some("sh -c"));
    }
}

//! One holder of a pid: what it ran, whence it came, and what was made of it for people.

use std::sync::Arc;

use super::super::{image::Image, lineage::Ancestor, procfs::TICK_NS};
use crate::event::{BootTime, Process};

/// One holder of a pid.
#[derive(Debug)]
pub(super) struct Life {
    pub pid: u32,
    /// 0 until a record or a peer tells it.
    pub key: u64,
    pub start: BootTime,
    pub exit: Option<BootTime>,
    /// The pid's holder before.
    pub older: Option<usize>,
    pub lineage: Option<Arc<Ancestor>>,
    /// This process as its children's ancestor, made at its first fork after an exec.
    pub ancestor: Option<Arc<Ancestor>>,
    pub current: Generation,
    /// What it ran before its last exec, for a connection that it made then.
    pub previous: Option<Generation>,
    /// From procfs, where the kernel's path says nothing.
    pub cgroup: Option<Arc<str>>,
}

/// What a process was between two execs.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub since: BootTime,
    /// Nothing is known of a process whose records were all lost.
    pub image: Option<Arc<Image>>,
    /// The image is the parent's: there was no exec in this life yet.
    pub inherited: bool,
    pub memo: Option<Memo>,
}

#[derive(Clone, Debug)]
pub(super) struct Memo {
    pub process: Arc<Process>,
    /// Where a name was not known yet: how many answers the name service had given.
    pub names_pending: Option<u64>,
}

impl Generation {
    pub fn new(since: BootTime, image: Option<Arc<Image>>, inherited: bool) -> Generation {
        Generation { since, image, inherited, memo: None }
    }
}

impl Life {
    /// A life that has just begun, or of which nothing more is known yet.
    pub fn new(
        pid: u32,
        key: u64,
        start: BootTime,
        lineage: Option<Arc<Ancestor>>,
        current: Generation,
    ) -> Life {
        Life {
            pid,
            key,
            start,
            exit: None,
            older: None,
            lineage,
            ancestor: None,
            current,
            previous: None,
            cgroup: None,
        }
    }

    /// Fills a place that nobody holds.
    pub fn vacant() -> Life {
        Life::new(0, 0, BootTime(0), None, Generation::new(BootTime(0), None, false))
    }

    pub fn starts_in_tick_of(&self, start: BootTime) -> bool {
        self.start.0 / TICK_NS == start.0 / TICK_NS
    }

    /// Whether a record about `(start, key)` is about this life.
    pub fn is(&self, start: BootTime, key: u64) -> bool {
        self.starts_in_tick_of(start) && (self.key == 0 || key == 0 || self.key == key)
    }

    /// What it ran at a time; `None` if that is no longer known.
    pub fn generation(&mut self, at: BootTime) -> Option<&mut Generation> {
        [Some(&mut self.current), self.previous.as_mut()]
            .into_iter()
            .flatten()
            .find(|generation| generation.since <= at)
    }

    /// This life as the ancestor of its children.
    pub fn as_ancestor(&mut self) -> Arc<Ancestor> {
        let make = || {
            Ancestor::new(self.pid, self.start, self.current.image.clone(), self.lineage.clone())
        };
        self.ancestor.get_or_insert_with(make).clone()
    }
}

//! The lives of all pids, bounded: each pid's holders in a chain, the newest first.

use std::{
    collections::{HashMap, VecDeque},
    ops::{Index, IndexMut},
};

use super::{Limits, life::Life};
use crate::event::BootTime;

#[derive(Debug)]
pub(super) struct Lives {
    limits: Limits,
    lives: Vec<Life>,
    free: Vec<usize>,
    /// The newest life of each pid.
    newest: HashMap<u32, usize>,
    /// In the order of their exits.
    exited: VecDeque<usize>,
    live: usize,
    /// See [`Counters`](super::Counters).
    pub evicted: u64,
    pub refused: u64,
    pub missed_exits: u64,
}

impl Index<usize> for Lives {
    type Output = Life;

    fn index(&self, index: usize) -> &Life {
        &self.lives[index]
    }
}

impl IndexMut<usize> for Lives {
    fn index_mut(&mut self, index: usize) -> &mut Life {
        &mut self.lives[index]
    }
}

impl Lives {
    pub fn new(limits: Limits) -> Lives {
        Lives {
            limits,
            lives: Vec::new(),
            free: Vec::new(),
            newest: HashMap::new(),
            exited: VecDeque::new(),
            live: 0,
            evicted: 0,
            refused: 0,
            missed_exits: 0,
        }
    }

    /// Running and exited processes.
    pub fn len(&self) -> (usize, usize) {
        (self.live, self.exited.len())
    }

    pub fn has_room(&self) -> bool {
        self.live < self.limits.live
    }

    /// The newest life of a pid, exited or not.
    pub fn newest(&self, pid: u32) -> Option<usize> {
        self.newest.get(&pid).copied()
    }

    /// The pid's holder of now.
    pub fn current(&self, pid: u32) -> Option<usize> {
        self.newest(pid).filter(|&index| self[index].exit.is_none())
    }

    /// All running processes, with their indices.
    pub fn running(&self) -> impl Iterator<Item = (usize, &Life)> {
        // A vacant place has pid 0, which no process has.
        self.lives.iter().enumerate().filter(|(_, life)| life.pid != 0 && life.exit.is_none())
    }

    pub fn insert(&mut self, mut life: Life) -> Option<usize> {
        if !self.has_room() {
            self.refused += 1;
            return None;
        }
        let pid = life.pid;
        life.older = self.newest.get(&pid).copied();
        let index = match self.free.pop() {
            Some(index) => {
                self.lives[index] = life;
                index
            }
            None => {
                self.lives.push(life);
                self.lives.len() - 1
            }
        };
        self.newest.insert(pid, index);
        self.live += 1;
        Some(index)
    }

    pub fn end_unseen(&mut self, index: usize, time: BootTime) {
        self.missed_exits += 1;
        self.end(index, time);
    }

    pub fn end(&mut self, index: usize, time: BootTime) {
        self.lives[index].exit = Some(time);
        self.live -= 1;
        self.exited.push_back(index);
        while self.exited.len() > self.limits.exited
            && let Some(oldest) = self.exited.pop_front()
        {
            self.evicted += 1;
            self.forget(oldest);
        }
    }

    /// Takes a life out of its pid's chain, where it is the last: a pid's lives end in their order.
    fn forget(&mut self, index: usize) {
        let life = std::mem::replace(&mut self.lives[index], Life::vacant());
        self.free.push(index);
        let mut next = self.newest.get(&life.pid).copied();
        if next == Some(index) {
            match life.older {
                Some(older) => self.newest.insert(life.pid, older),
                None => self.newest.remove(&life.pid),
            };
            return;
        }
        while let Some(newer) = next {
            next = self.lives[newer].older;
            if next == Some(index) {
                self.lives[newer].older = life.older;
                return;
            }
        }
    }
}

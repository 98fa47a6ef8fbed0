//! What a session remembers by name: prepared statements and portals, both bounded.

use std::{collections::HashMap, sync::Arc};

use crate::{
    event::{Parameter, RequestPrint, Statement},
    protocol::{Limits, Stats},
};

/// A prepared statement. Never changed: a new description makes a new one.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub name: Arc<str>,
    pub text: Arc<str>,
    /// The session's setting when the server read the text, if it is known.
    pub standard_conforming_strings: Option<bool>,
    /// Object ids of the parameters' types, as far as known (0: unspecified).
    pub types: Box<[u32]>,
    /// Bytes of the text that were left out by budget, and that were lost.
    pub truncated: u64,
    pub lost: u64,
}

/// The prepared statements by name.
#[derive(Debug, Default)]
pub(super) struct PreparedTable {
    unnamed: Option<Arc<Prepared>>,
    named: HashMap<Box<[u8]>, (u64, Arc<Prepared>)>,
    text_bytes: usize,
    age: u64,
}

impl PreparedTable {
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        match name {
            [] => self.unnamed.as_ref(),
            name => self.named.get(name).map(|(_, prepared)| prepared),
        }
    }

    /// Defines `name` and gives what it meant before.
    pub(super) fn define(
        &mut self,
        name: &[u8],
        prepared: Arc<Prepared>,
        limits: &Limits,
        stats: &mut Stats,
    ) -> Option<Arc<Prepared>> {
        if name.is_empty() {
            return self.unnamed.replace(prepared);
        }
        let previous = self.remove(name);
        self.text_bytes += prepared.text.len();
        self.age += 1;
        self.named.insert(name.into(), (self.age, prepared));
        while self.named.len() > limits.prepared
            || (self.text_bytes > limits.prepared_bytes && self.named.len() > 1)
        {
            let oldest = self.named.iter().min_by_key(|(_, (age, _))| *age);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            self.remove(&oldest);
            stats.prepared_evicted += 1;
        }
        previous
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<Prepared>> {
        if name.is_empty() {
            return self.unnamed.take();
        }
        let (_, prepared) = self.named.remove(name)?;
        self.text_bytes = self.text_bytes.saturating_sub(prepared.text.len());
        Some(prepared)
    }

    pub(super) fn clear(&mut self) {
        *self = PreparedTable::default();
    }
}

/// A portal: a prepared statement with its parameters, ready to run.
#[derive(Debug)]
pub(super) struct Portal {
    pub name: Box<[u8]>,
    /// Tells this portal from an earlier one of the same name.
    pub serial: u64,
    /// The stretch between two `Sync`s in which it was bound.
    pub segment: u64,
    pub prepared: Option<Arc<Prepared>>,
    /// Of what it runs, where somebody wants to know.
    pub print: RequestPrint,
    /// Taken by the first `Execute`.
    pub parameters: Vec<Parameter>,
    /// An `Execute` with a row limit is in flight.
    pub limited: bool,
    /// Its statement, between two `Execute`s with a row limit.
    pub suspended: Option<Box<Statement>>,
}

/// The portals, oldest first.
#[derive(Debug, Default)]
pub(super) struct Portals {
    open: Vec<Portal>,
}

impl Portals {
    pub(super) fn find(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.open.iter_mut().rev().find(|portal| *portal.name == *name)
    }

    pub(super) fn by_serial(&mut self, serial: u64) -> Option<&mut Portal> {
        self.open.iter_mut().rev().find(|portal| portal.serial == serial)
    }

    /// Adds a portal; gives the one that had to go for it.
    pub(super) fn add(
        &mut self,
        portal: Portal,
        limits: &Limits,
        stats: &mut Stats,
    ) -> Option<Portal> {
        let mut evicted = None;
        if self.open.len() >= limits.portals.max(1) {
            evicted = Some(self.open.remove(0));
            stats.portals_evicted += 1;
        }
        self.open.push(portal);
        evicted
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Portal> {
        let at = self.open.iter().position(|portal| *portal.name == *name)?;
        Some(self.open.remove(at))
    }

    pub(super) fn remove_serial(&mut self, serial: u64) -> Option<Portal> {
        let at = self.open.iter().position(|portal| portal.serial == serial)?;
        Some(self.open.remove(at))
    }

    /// Removes and gives a portal that was bound in `segment` or earlier: its transaction is over.
    pub(super) fn pop_until(&mut self, segment: u64) -> Option<Portal> {
        let at = self.open.iter().position(|portal| portal.segment <= segment)?;
        Some(self.open.remove(at))
    }
}

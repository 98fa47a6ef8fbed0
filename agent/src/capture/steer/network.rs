//! Clients from the network, in one namespace: which listener takes what arrives for which address.

use std::{
    collections::BTreeSet,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
};

use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, MapData, PerCpuArray, SockMap},
    programs::links::FdLink,
};
use dbwarden_common::{Listener, SteerKey};

use super::{LocalMap, Prefix, SteerCounts, SteerError, object, pins::Pins};

/// The size of the kernel side's maps.
const MOST_LISTENERS: u32 = 256;

pub(super) struct Network {
    listeners: HashMap<MapData, SteerKey, Listener>,
    sockets: SockMap<MapData>,
    local: LocalMap,
    counts: PerCpuArray<MapData, u64>,
    /// What this process has asked for.
    wanted: Vec<SteerKey>,
    /// None where it is pinned.
    _link: Option<FdLink>,
    _ebpf: Ebpf,
}

impl Network {
    pub(super) fn attach(netns: BorrowedFd<'_>, pins: Option<Pins>) -> Result<Self, SteerError> {
        let mut ebpf = object::for_network(pins.as_ref())?;
        let program = object::network_program(&mut ebpf)?;
        let id = program.attach(netns).map_err(object::network_failed)?;
        let link = FdLink::from(program.take_link(id).map_err(object::network_failed)?);
        let link = match pins {
            Some(pins) => pins.keep("sk_lookup", |at| object::pinned(link, at)).map(|()| None)?,
            None => Some(link),
        };
        Ok(Self {
            listeners: object::take(&mut ebpf, "LISTENERS", HashMap::try_from)?,
            sockets: object::take(&mut ebpf, "SOCKETS", SockMap::try_from)?,
            local: object::take(&mut ebpf, "LOCAL", LpmTrie::try_from)?,
            counts: object::take(&mut ebpf, "COUNTS", PerCpuArray::try_from)?,
            wanted: Vec::new(),
            _link: link,
            _ebpf: ebpf,
        })
    }

    pub(super) fn set_local(&mut self, prefixes: &[Prefix]) -> Result<(), SteerError> {
        super::set_local(&mut self.local, 0, prefixes)
    }

    pub(super) fn lead(
        &mut self,
        key: SteerKey,
        listener: BorrowedFd<'_>,
        flags: u32,
    ) -> Result<(), SteerError> {
        let index = match self.listeners.get(&key, 0) {
            Ok(known) => known.index,
            Err(_) => self.free_index()?,
        };
        // The socket first: an entry never points to a stranger's.
        self.sockets
            .set(index, &Fd(listener.as_raw_fd()), 0)
            .map_err(SteerError::map("SOCKETS"))?;
        self.listeners
            .insert(key, Listener { index, flags }, 0)
            .map_err(SteerError::map("LISTENERS"))?;
        if !self.wanted.contains(&key) {
            self.wanted.push(key);
        }
        Ok(())
    }

    fn free_index(&self) -> Result<u32, SteerError> {
        let taken: BTreeSet<u32> =
            self.listeners.iter().filter_map(Result::ok).map(|(_, known)| known.index).collect();
        (0..MOST_LISTENERS)
            .find(|index| !taken.contains(index))
            .ok_or(SteerError::TooManyListeners { most: MOST_LISTENERS })
    }

    pub(super) fn release(&mut self, key: &SteerKey) -> Result<(), SteerError> {
        self.wanted.retain(|wanted| wanted != key);
        let Ok(known) = self.listeners.get(key, 0) else { return Ok(()) };
        crate::capture::ignore_missing(self.listeners.remove(key))
            .map_err(SteerError::map("LISTENERS"))?;
        // Gone by itself where the socket is closed.
        let _ = self.sockets.clear_index(&known.index);
        Ok(())
    }

    /// Lets go of what an earlier process has left.
    pub(super) fn settle(&mut self) -> Result<(), SteerError> {
        for key in self.listeners.keys().filter_map(Result::ok).collect::<Vec<_>>() {
            if !self.wanted.contains(&key) {
                self.release(&key)?;
            }
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) -> Result<(), SteerError> {
        self.wanted.clear();
        self.settle()
    }

    pub(super) fn counts(&self) -> SteerCounts {
        super::counts(&self.counts)
    }
}

/// aya takes a socket by this trait, which borrowed descriptors don't have.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

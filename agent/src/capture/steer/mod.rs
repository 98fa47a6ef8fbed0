//! Leads connections of a guarded server's clients to the guard's listener; nobody changes a client.
//!
//! Clients on this host are led when they connect (`cgroup/connect4|6` at the root of the tree), so nothing
//! is ever half steered: one map entry decides for each new connection, and those that there are go on.
//! Clients from the network are led when their first packet looks for a socket (`sk_lookup`).

mod error;
mod local;
mod network;
mod object;
mod passes;
mod pins;
mod unix;

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::links::FdLink,
};
use dbwarden_common::{
    Address, LocalKey, SOME_ADDRESS, STEER_BY_POLICY, STEER_ELSE_DIRECT, SteerCount, SteerKey,
    Steered,
};

use self::{network::Network, pins::Pins};

pub use self::{
    error::SteerError,
    local::{Prefix, local_prefixes, netns_cookie, own_netns_cookie},
    object::{SteerTrial, trial},
    passes::Passes,
    pins::remove_pins,
    unix::{UnixPaths, UnixSteering},
};

/// What becomes of a new connection while no guard listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardDown {
    /// It goes to the server. The kernel looks for the guard's listener at each connect, so nobody has to
    /// notice that it is gone.
    Direct,
    /// The client is told that nobody listens.
    Refuse,
}

impl GuardDown {
    fn flags(self) -> u32 {
        match self {
            GuardDown::Direct => STEER_ELSE_DIRECT,
            GuardDown::Refuse => 0,
        }
    }
}

/// What a steering is attached with.
#[derive(Clone, Debug, Default)]
pub struct SteerOptions {
    /// The root of the cgroup v2 tree; found by itself if absent.
    pub cgroup: Option<PathBuf>,
    /// A folder on a BPF file system. With it, steering outlives this process, and the next one takes it
    /// over without a gap; without, it ends with this process, however that ends.
    pub pins: Option<PathBuf>,
}

impl SteerOptions {
    /// The root of the cgroup v2 tree.
    fn cgroups(&self) -> Result<PathBuf, SteerError> {
        match &self.cgroup {
            Some(path) => Ok(path.clone()),
            None => local::cgroup_root(Path::new("/proc/self/mountinfo")),
        }
    }
}

/// How often the kernel side has decided what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounts {
    /// Connections that were led to a guard.
    pub steered: u64,
    /// Connections of the guards' own sockets.
    pub exempt: u64,
    /// Connections that went straight on, because no guard listened.
    pub direct: u64,
    /// Connections that were refused: nobody listened, or nobody could say who should.
    pub refused: u64,
    /// Steered sockets whose `getpeername` names the guard.
    pub untold: u64,
    /// Connections that went straight on, because policy says so.
    pub passed: u64,
}

/// The steering of this host. Dropping it detaches what isn't pinned.
pub struct Steering {
    steered: HashMap<MapData, SteerKey, Steered>,
    local: LocalMap,
    exempt: HashMap<MapData, u64, u32>,
    /// Until somebody has taken them.
    passes: Option<Passes>,
    counts: PerCpuArray<MapData, u64>,
    networks: BTreeMap<u64, Network>,
    /// Of namespaces, by cookie.
    addresses: BTreeMap<u64, Vec<Prefix>>,
    /// What this process has asked for, unlike what it has found.
    wanted: HashSet<SteerKey>,
    pins: Option<Pins>,
    /// Those that end with this process.
    _links: Vec<FdLink>,
    /// Holds the programs.
    _ebpf: Ebpf,
}

impl Steering {
    /// Attaches the programs for this host's own clients. What an earlier process has pinned goes on as it
    /// is, until [`Steering::settle`].
    ///
    /// # Errors
    /// Why this host can't be steered, and what to do about it.
    pub fn attach(options: &SteerOptions) -> Result<Self, SteerError> {
        let cgroups = options.cgroups()?;
        let cgroup = local::open_root(&cgroups)?;
        let pins = options.pins.as_deref().map(Pins::open).transpose()?;
        let mut ebpf = object::for_connects(pins.as_ref())?;
        let mut steering = Self {
            steered: object::take(&mut ebpf, "STEERED", HashMap::try_from)?,
            local: object::take(&mut ebpf, "LOCAL", LpmTrie::try_from)?,
            exempt: object::take(&mut ebpf, "EXEMPT", HashMap::try_from)?,
            // Before anything is attached: what an earlier process has said of anybody counts no more.
            passes: Some(Passes::take(&mut ebpf, &cgroups)?),
            counts: object::take(&mut ebpf, "COUNTS", PerCpuArray::try_from)?,
            networks: BTreeMap::new(),
            addresses: BTreeMap::new(),
            wanted: HashSet::new(),
            _links: object::attach_connects(&mut ebpf, &cgroup, pins.as_ref())?,
            pins,
            _ebpf: ebpf,
        };
        // A guard of before has made its connections; cookies don't come back.
        let exempt: Vec<u64> = steering.exempt.keys().filter_map(Result::ok).collect();
        exempt.into_iter().try_for_each(|cookie| steering.forget(cookie))?;
        Ok(steering)
    }

    /// From now on new connections of this namespace to `original` arrive at `guard`. May be said again,
    /// also with another guard.
    ///
    /// A server that listens on all addresses is steered as `0.0.0.0` and as `::`; its clients are led from
    /// the addresses that [`Steering::set_local`] names. A guard without an address listens on all of them:
    /// then only the port changes, and the client's own address stays true.
    ///
    /// # Errors
    /// An IPv4 server and an IPv6 guard, or the reverse; a full map.
    pub fn steer(
        &mut self,
        netns: u64,
        original: SocketAddr,
        guard: SocketAddr,
        down: GuardDown,
    ) -> Result<(), SteerError> {
        self.lead(netns, original, guard, down.flags(), 0)
    }

    /// The same, but whoever has a pass for the server of this number in [`Passes`] goes straight on.
    ///
    /// # Errors
    /// As above.
    pub fn steer_by_policy(
        &mut self,
        netns: u64,
        original: SocketAddr,
        guard: SocketAddr,
        down: GuardDown,
        server: u32,
    ) -> Result<(), SteerError> {
        self.lead(netns, original, guard, down.flags() | STEER_BY_POLICY, server)
    }

    fn lead(
        &mut self,
        netns: u64,
        original: SocketAddr,
        guard: SocketAddr,
        flags: u32,
        server: u32,
    ) -> Result<(), SteerError> {
        if original.is_ipv4() != guard.is_ipv4() || original.port() == 0 || guard.port() == 0 {
            return Err(SteerError::Mismatch { original, guard });
        }
        let (address, port) = (address(guard.ip()), guard.port().into());
        let steered = Steered { address, port, flags, server, reserved: 0 };
        let key = key(netns, original);
        let some = SteerKey { address: SOME_ADDRESS, ..key };
        for key in [some, key] {
            self.steered.insert(key, steered, 0).map_err(SteerError::map("STEERED"))?;
        }
        self.wanted.insert(key);
        Ok(())
    }

    /// New connections go straight on. Those that there are stay as they are.
    ///
    /// # Errors
    /// The map can't be changed.
    pub fn release(&mut self, netns: u64, original: SocketAddr) -> Result<(), SteerError> {
        let key = key(netns, original);
        self.wanted.remove(&key);
        self.remove(key)
    }

    /// For whoever says which processes need no guard.
    pub fn take_passes(&mut self) -> Option<Passes> {
        self.passes.take()
    }

    fn remove(&mut self, key: SteerKey) -> Result<(), SteerError> {
        let failed = SteerError::map("STEERED");
        super::ignore_missing(self.steered.remove(&key)).map_err(failed)?;
        let some = SteerKey { address: SOME_ADDRESS, ..key };
        let is_last = !self
            .keys()
            .iter()
            .any(|other| (other.netns, other.port) == (key.netns, key.port) && *other != some);
        if is_last {
            super::ignore_missing(self.steered.remove(&some)).map_err(failed)?;
        }
        Ok(())
    }

    fn keys(&self) -> Vec<SteerKey> {
        self.steered.keys().filter_map(Result::ok).collect()
    }

    /// All that this start wants steered has been said: what is left of an earlier one is taken off.
    ///
    /// # Errors
    /// The maps or the pins can't be changed.
    pub fn settle(&mut self) -> Result<(), SteerError> {
        for key in self.keys() {
            if key.address != SOME_ADDRESS && !self.wanted.contains(&key) {
                self.remove(key)?;
            }
        }
        for network in self.networks.values_mut() {
            network.settle()?;
        }
        match &self.pins {
            Some(pins) => pins.settle(self.networks.keys().copied()),
            None => Ok(()),
        }
    }

    /// Takes everything off, pins included; new connections go straight on.
    ///
    /// # Errors
    /// A map or a pin can't be changed.
    pub fn stop(mut self) -> Result<(), SteerError> {
        // The kernel detaches what was pinned a moment later, and the rest when no child that is just being
        // started has a copy of the link. Empty maps lead nobody.
        self.wanted.clear();
        for key in self.keys() {
            self.remove(key)?;
        }
        self.networks.values_mut().try_for_each(Network::clear)?;
        self.pins.as_ref().map_or(Ok(()), Pins::remove)
    }

    /// The addresses of a namespace (see [`local_prefixes`]); those that were named before are forgotten.
    ///
    /// # Errors
    /// A full map.
    pub fn set_local(&mut self, netns: u64, prefixes: &[Prefix]) -> Result<(), SteerError> {
        self.addresses.insert(netns, prefixes.to_vec());
        set_local(&mut self.local, netns, prefixes)?;
        match self.networks.get_mut(&netns) {
            Some(network) => network.set_local(prefixes),
            None => Ok(()),
        }
    }

    /// The socket with this cookie (`SO_COOKIE`) is a guard's own: its connects are left alone.
    ///
    /// # Errors
    /// A full map: then its connect would come back to the guard, and must not be tried.
    pub fn exempt(&mut self, cookie: u64) -> Result<(), SteerError> {
        self.exempt.insert(cookie, 1, 0).map_err(SteerError::map("EXEMPT"))
    }

    /// The socket has connected or is closed.
    ///
    /// # Errors
    /// The map can't be changed.
    pub fn forget(&mut self, cookie: u64) -> Result<(), SteerError> {
        super::ignore_missing(self.exempt.remove(&cookie)).map_err(SteerError::map("EXEMPT"))
    }

    /// From now on new connections that come to `original` from the network, in the namespace `netns`,
    /// arrive at `listener`: a listening socket of that namespace. It sees both ends' true addresses.
    /// Clients of this host are not touched: whatever comes by `lo`, or from an address that
    /// [`Steering::set_local`] names.
    ///
    /// # Errors
    /// Why this kernel can't do it.
    pub fn attach_network(
        &mut self,
        netns: BorrowedFd<'_>,
        original: SocketAddr,
        listener: BorrowedFd<'_>,
        down: GuardDown,
    ) -> Result<(), SteerError> {
        let cookie = netns_cookie(netns)?;
        let network = match self.networks.entry(cookie) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let pins = self.pins.as_ref().map(|pins| pins.network(cookie)).transpose()?;
                let network = place.insert(Network::attach(netns, pins)?);
                let addresses = self.addresses.get(&cookie).map_or(&[][..], Vec::as_slice);
                network.set_local(addresses)?;
                network
            }
        };
        network.lead(key(0, original), listener, down.flags())
    }

    /// New connections from the network go straight on.
    ///
    /// # Errors
    /// The map can't be changed.
    pub fn release_network(&mut self, netns: u64, original: SocketAddr) -> Result<(), SteerError> {
        match self.networks.get_mut(&netns) {
            Some(network) => network.release(&key(0, original)),
            None => Ok(()),
        }
    }

    /// Since the programs were first attached.
    pub fn counts(&self) -> SteerCounts {
        let mut counts = counts(&self.counts);
        for network in self.networks.values() {
            let more = network.counts();
            counts.steered += more.steered;
            counts.direct += more.direct;
            counts.refused += more.refused;
        }
        counts
    }
}

type LocalMap = LpmTrie<MapData, LocalKey, u32>;

fn set_local(map: &mut LocalMap, netns: u64, prefixes: &[Prefix]) -> Result<(), SteerError> {
    let failed = SteerError::map("LOCAL");
    let now: HashSet<(u32, LocalKey)> =
        prefixes.iter().map(|prefix| local_key(netns, *prefix)).collect();
    let known: HashSet<(u32, LocalKey)> = map
        .keys()
        .filter_map(Result::ok)
        .map(|key| (key.prefix_len(), key.data()))
        .filter(|(_, key)| key.netns == netns.to_ne_bytes())
        .collect();
    for (len, key) in now.difference(&known) {
        map.insert(&Key::new(*len, *key), 1, 0).map_err(failed)?;
    }
    for (len, key) in known.difference(&now) {
        super::ignore_missing(map.remove(&Key::new(*len, *key))).map_err(failed)?;
    }
    Ok(())
}

fn counts(map: &PerCpuArray<MapData, u64>) -> SteerCounts {
    let sum = |what: SteerCount| map.get(&(what as u32), 0).map_or(0, |values| values.iter().sum());
    SteerCounts {
        steered: sum(SteerCount::Steered),
        exempt: sum(SteerCount::Exempt),
        direct: sum(SteerCount::Direct),
        refused: sum(SteerCount::Refused),
        untold: sum(SteerCount::Untold),
        passed: sum(SteerCount::Passed),
    }
}

/// IPv4 in its IPv6 form: a socket of both families asks for the same server in either.
fn address(ip: IpAddr) -> Address {
    let octets = octets(ip);
    std::array::from_fn(|i| u32::from_ne_bytes(std::array::from_fn(|j| octets[i * 4 + j])))
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn key(netns: u64, original: SocketAddr) -> SteerKey {
    SteerKey { netns, address: address(original.ip()), port: original.port().into(), reserved: 0 }
}

fn local_key(netns: u64, (ip, len): Prefix) -> (u32, LocalKey) {
    let before = if ip.is_ipv4() { 96 } else { 0 };
    let bits = 64 + before + u32::from(len);
    (bits, LocalKey { netns: netns.to_ne_bytes(), address: octets(ip) })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use dbwarden_common::{ANY_IPV4, ANY_IPV6};

    use super::{address, local_key, octets};

    #[test]
    fn an_address_has_one_form_in_the_kernel() {
        for (text, expected) in [
            ("0.0.0.0:1", ANY_IPV4),
            ("[::]:1", ANY_IPV6),
            ("[::ffff:0.0.0.0]:1", ANY_IPV4),
            ("127.0.0.1:1", [0, 0, ANY_IPV4[2], 0x7f00_0001_u32.to_be()]),
            ("[::ffff:127.0.0.1]:1", [0, 0, ANY_IPV4[2], 0x7f00_0001_u32.to_be()]),
            ("[::1]:1", [0, 0, 0, 1_u32.to_be()]),
        ] {
            let socket: SocketAddr = text.parse().unwrap();
            assert_eq!(address(socket.ip()), expected, "{text}");
        }
    }

    #[test]
    fn a_prefix_counts_the_namespace_and_the_form() {
        for (ip, len, expected) in
            [("127.0.0.0", 8, 168), ("10.0.0.1", 32, 192), ("::1", 128, 192), ("fd00::", 64, 128)]
        {
            let ip = ip.parse().unwrap();
            let (bits, key) = local_key(7, (ip, len));
            assert_eq!((bits, key.address), (expected, octets(ip)), "{ip}/{len}");
        }
    }
}

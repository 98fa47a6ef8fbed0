//! The object of steering: loaded where a server is guarded, and apart from what observes.

use std::{fs::File, io, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapError},
    programs::{CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SkLookup, links::FdLink},
    util::KernelVersion,
};

use super::{SteerError, local, pins::Pins, unix};

/// The object that `cargo xtask build` made; empty where the BPF toolchain is absent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("DBWARDEN_STEER_OBJECT"));

/// Maps of the programs for connects, and of those for clients from the network. Each loading of the object
/// makes all of them; the others' are as small as can be.
const CONNECT_MAPS: [&str; 7] =
    ["STEERED", "LOCAL", "EXEMPT", "ORIGINALS", "COUNTS", "PASSES", "REIGN"];
const NETWORK_MAPS: [&str; 4] = ["LISTENERS", "SOCKETS", "LOCAL", "COUNTS"];

/// What answers for a connection is attached before what makes it: names of programs and of their links.
const CONNECTS: [(&str, &str); 4] = [
    ("steer_getpeername4", "getpeername4"),
    ("steer_getpeername6", "getpeername6"),
    ("steer_connect4", "connect4"),
    ("steer_connect6", "connect6"),
];
const NETWORK: &str = "steer_network";

/// Whether this host can be steered.
#[derive(Debug)]
pub struct SteerTrial {
    /// Clients on this host.
    pub local: Result<(), SteerError>,
    /// Clients from the network.
    pub network: Result<(), SteerError>,
    /// Clients of unix sockets.
    pub unix: Result<(), SteerError>,
}

/// Loads every program and attaches none.
pub fn trial() -> SteerTrial {
    let local = local::cgroup_root(Path::new("/proc/self/mountinfo"))
        .and_then(|root| local::open_root(&root))
        .and_then(|_| for_connects(None).map(drop));
    SteerTrial { local, network: for_network(None).map(drop), unix: unix::trial() }
}

/// Loads the object and its programs for connects.
pub(super) fn for_connects(pins: Option<&Pins>) -> Result<Ebpf, SteerError> {
    at_least(KernelVersion::new(5, 14, 0), "local clients", "5.14")?;
    // MPTCP can be followed from 5.19 on; the verifier knows.
    match loaded_for_connects(pins, true) {
        Err(SteerError::Program { .. }) => loaded_for_connects(pins, false),
        other => other,
    }
}

fn loaded_for_connects(pins: Option<&Pins>, follow_mptcp: bool) -> Result<Ebpf, SteerError> {
    let mut ebpf = object(&CONNECT_MAPS, pins, follow_mptcp)?;
    for (name, _) in CONNECTS {
        let program: &mut CgroupSockAddr = program(&mut ebpf, name)?;
        program.load().map_err(|error| SteerError::program(name, error))?;
    }
    Ok(ebpf)
}

/// Attaches them at the root of the tree, beside those that others have there.
pub(super) fn attach_connects(
    ebpf: &mut Ebpf,
    cgroup: &File,
    pins: Option<&Pins>,
) -> Result<Vec<FdLink>, SteerError> {
    let mut links = Vec::new();
    for (name, link_name) in CONNECTS {
        let failed = |error| SteerError::program(name, error);
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        // The mode is one of older kernels: links stand beside each other always.
        let attached = program.attach(cgroup, CgroupAttachMode::Single);
        let id = attached.map_err(|error| SteerError::at_cgroup(name, link_name, error))?;
        let link = program.take_link(id).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|source| SteerError::Link { name, source })?;
        match pins {
            Some(pins) => pins.keep(link_name, |at| pinned(link, at))?,
            None => links.push(link),
        }
    }
    Ok(links)
}

pub(super) fn pinned(link: FdLink, at: &Path) -> io::Result<()> {
    link.pin(at).map(drop).map_err(io::Error::other)
}

/// Loads the object and its program for clients from the network.
pub(super) fn for_network(pins: Option<&Pins>) -> Result<Ebpf, SteerError> {
    at_least(KernelVersion::new(5, 17, 0), "clients from the network", "5.17")?;
    let mut ebpf = object(&NETWORK_MAPS, pins, false)?;
    network_program(&mut ebpf)?.load().map_err(|error| SteerError::program(NETWORK, error))?;
    Ok(ebpf)
}

pub(super) fn network_program(ebpf: &mut Ebpf) -> Result<&mut SkLookup, SteerError> {
    program(ebpf, NETWORK)
}

pub(super) fn network_failed(error: ProgramError) -> SteerError {
    SteerError::program(NETWORK, error)
}

fn at_least(
    version: KernelVersion,
    what: &'static str,
    needs: &'static str,
) -> Result<(), SteerError> {
    match KernelVersion::current() {
        Ok(current) if current < version => Err(SteerError::OldKernel { what, needs }),
        _ => Ok(()),
    }
}

fn object(maps: &[&str], pins: Option<&Pins>, follow_mptcp: bool) -> Result<Ebpf, SteerError> {
    if OBJECT.is_empty() {
        return Err(SteerError::NoObject);
    }
    let follow_mptcp = u32::from(follow_mptcp);
    let mut loader = EbpfLoader::new();
    loader.override_global("FOLLOW_MPTCP", &follow_mptcp, true);
    for name in ["STEERED", "LOCAL", "EXEMPT", "LISTENERS", "SOCKETS", "PASSES"] {
        if !maps.contains(&name) {
            loader.map_max_entries(name, 1);
        }
    }
    if let Some(pins) = pins {
        for name in CONNECT_MAPS.into_iter().chain(NETWORK_MAPS) {
            if maps.contains(&name) {
                loader.map_pin_path(name, pins.map(name));
            }
        }
    }
    loader.load(OBJECT).map_err(SteerError::object)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, SteerError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(SteerError::Missing { kind: "program", name })?
        .try_into()
        .map_err(|error| SteerError::program(name, error))
}

pub(super) fn take<M>(
    ebpf: &mut Ebpf,
    name: &'static str,
    open: impl FnOnce(Map) -> Result<M, MapError>,
) -> Result<M, SteerError> {
    let map = ebpf.take_map(name).ok_or(SteerError::Missing { kind: "map", name })?;
    open(map).map_err(SteerError::map(name))
}

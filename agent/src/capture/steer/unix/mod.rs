//! Leads connections to a guarded server's unix socket to the guard's: by path, in the eyes of whoever connects.
//!
//! A path means a file only under a root: the key is the mount that is a process's root, by the number that no other
//! mount ever has. Only paths that userspace has looked up under that root are there; what isn't goes straight on.

mod call;
mod program;

use std::{
    collections::BTreeMap,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, Map, MapData};

use self::program::{At, program};
use super::{SteerError, SteerOptions, local, pins::Pins};
use crate::capture::offsets::{KernelTypes, UnixHook, VMLINUX};

/// Of a socket's path, with its closing zero.
const PATH_BYTES: usize = 108;
const MAX_PATHS: u32 = 16 * 1024;
const PATHS: &str = "UNIX";
/// What answers for a connection is attached before what makes it.
const HOOKS: [(At, &str); 2] =
    [(At::GetPeerName, "getpeername_unix"), (At::Connect, "connect_unix")];

/// A path as a process says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct PathKey {
    /// See [`UnixSteering::lead`]; 0 where a guard's path is to be called by what it stands for.
    root: u64,
    path: [u8; PATH_BYTES],
    reserved: u32,
}

/// What it is replaced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct PathTo {
    len: u32,
    path: [u8; PATH_BYTES],
}

// SAFETY: integers and arrays of them, without padding.
unsafe impl aya::Pod for PathKey {}
// SAFETY: likewise.
unsafe impl aya::Pod for PathTo {}

type Paths = HashMap<MapData, PathKey, PathTo>;

/// Where clients are led: by root and path.
pub type UnixPaths = BTreeMap<(u64, PathBuf), PathBuf>;

/// The steering of this host's unix sockets. Dropping it detaches what isn't pinned.
pub struct UnixSteering {
    paths: Paths,
    pins: Option<Pins>,
    _links: Vec<OwnedFd>,
}

impl UnixSteering {
    /// Whether an earlier process has left one, which goes on by itself.
    pub fn is_left(options: &SteerOptions) -> bool {
        options.pins.as_deref().is_some_and(|root| Pins::has(root, PATHS))
    }

    /// What an earlier process has pinned goes on as it is, until [`UnixSteering::keep_only`].
    ///
    /// # Errors
    /// Why this host can't be steered so.
    pub fn attach(options: &SteerOptions) -> Result<Self, SteerError> {
        let cgroup = local::open_root(&options.cgroups()?)?;
        let pins = options.pins.as_deref().map(Pins::open).transpose()?;
        let (paths, map) = paths(pins.as_ref())?;
        let programs = programs(map.as_fd())?;
        let mut links = Vec::new();
        for ((at, name), program) in HOOKS.into_iter().zip(programs) {
            let failed = |source| SteerError::UnixProgram { name, source };
            let link = call::attach(at, program.as_fd(), cgroup.as_fd()).map_err(failed)?;
            match &pins {
                Some(pins) => pins.keep(name, |at| call::pin(link.as_fd(), at))?,
                None => links.push(link),
            }
        }
        Ok(Self { paths, pins, _links: links })
    }

    /// From now on a process that connects to `path` arrives at `to`, where the mount with the number `root`
    /// (`STATX_MNT_ID_UNIQUE`) is its root. Both must mean what they should there.
    ///
    /// # Errors
    /// A path that is no socket's; a full map.
    pub fn lead(&mut self, root: u64, path: &Path, to: &Path) -> Result<(), SteerError> {
        self.put(root, path, to)
    }

    /// Whoever asks for the name of a peer that listens at `guard` hears `original`.
    ///
    /// # Errors
    /// As above.
    pub fn call(&mut self, guard: &Path, original: &Path) -> Result<(), SteerError> {
        self.put(0, guard, original)
    }

    fn put(&mut self, root: u64, path: &Path, to: &Path) -> Result<(), SteerError> {
        let inserted = self.paths.insert(key(root, path)?, self::to(to)?, 0);
        inserted.map_err(SteerError::map(PATHS))
    }

    /// Whatever else was led goes straight on, except for what an earlier connection may still ask about.
    ///
    /// # Errors
    /// The map can't be changed.
    pub fn keep_only(&mut self, wanted: &UnixPaths) -> Result<(), SteerError> {
        let keys: Vec<PathKey> = self.paths.keys().filter_map(Result::ok).collect();
        let wanted: Vec<PathKey> =
            wanted.keys().map(|(root, path)| key(*root, path)).collect::<Result<_, _>>()?;
        for key in keys {
            if key.root != 0 && !wanted.contains(&key) {
                self.remove(&key)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &PathKey) -> Result<(), SteerError> {
        let removed = crate::capture::ignore_missing(self.paths.remove(key));
        removed.map_err(SteerError::map(PATHS))
    }

    /// Takes everything off, pins included; new connections go straight on.
    ///
    /// # Errors
    /// A map or a pin can't be changed.
    pub fn stop(mut self) -> Result<(), SteerError> {
        self.keep_only(&UnixPaths::new())?;
        self.pins.as_ref().map_or(Ok(()), Pins::remove)
    }
}

/// Loads the programs and attaches none.
pub(super) fn trial() -> Result<(), SteerError> {
    let (_, map) = paths(None)?;
    programs(map.as_fd()).map(drop)
}

/// The map, and what programs know it by.
fn paths(pins: Option<&Pins>) -> Result<(Paths, OwnedFd), SteerError> {
    let failed = SteerError::map(PATHS);
    let made = || {
        let map = call::hash_map(size_of::<PathKey>(), size_of::<PathTo>(), MAX_PATHS);
        MapData::from_fd(map.map_err(|source| SteerError::UnixProgram { name: PATHS, source })?)
            .map_err(failed)
    };
    let map = match pins.map(|pins| pins.map(PATHS)) {
        None => made()?,
        Some(at) if at.exists() => MapData::from_pin(&at).map_err(failed)?,
        Some(at) => {
            let map = made()?;
            call::pin(map.fd().as_fd(), &at).map_err(SteerError::pin(&at))?;
            map
        }
    };
    let known = map.fd().as_fd().try_clone_to_owned();
    let known = known.map_err(|source| SteerError::UnixProgram { name: PATHS, source })?;
    Ok((HashMap::try_from(Map::HashMap(map)).map_err(failed)?, known))
}

/// In the order of [`HOOKS`].
fn programs(paths: BorrowedFd<'_>) -> Result<[OwnedFd; HOOKS.len()], SteerError> {
    let hook: UnixHook = KernelTypes::read(Path::new(VMLINUX))
        .and_then(|types| types.unix_hook())
        .map_err(|source| SteerError::NoUnixHook { source })?;
    let [first, second] = HOOKS.map(|(at, name)| {
        let code = program(at, &hook, paths);
        call::load(at, &code).map_err(|source| SteerError::UnixProgram { name, source })
    });
    Ok([first?, second?])
}

fn key(root: u64, path: &Path) -> Result<PathKey, SteerError> {
    let PathTo { path, .. } = to(path)?;
    Ok(PathKey { root, path, reserved: 0 })
}

fn to(path: &Path) -> Result<PathTo, SteerError> {
    let bytes = path.as_os_str().as_bytes();
    // With the closing zero, as the kernel counts it where it names a peer.
    let mut to = PathTo { len: bytes.len() as u32 + 1, path: [0; PATH_BYTES] };
    match to.path.get_mut(..bytes.len()) {
        Some(place) if path.is_absolute() && bytes.len() < PATH_BYTES => {
            place.copy_from_slice(bytes);
            Ok(to)
        }
        _ => Err(SteerError::NoSocketPath { path: path.to_owned() }),
    }
}

//! Leads the clients of guarded servers' unix sockets to the guard, where nobody has moved a server.
//!
//! The guard listens in a folder of root's, so that nobody else ever takes its place. Who may use a server's socket
//! is still said by that one's file and folders: the guard comes by them in the client's name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::{
    account::Account,
    roots::{Root, Roots},
    seat::{BACKLOG, FileId, file_of, ignore_missing, socket_of, stands},
};
use crate::{
    capture::steer::{SteerError, SteerOptions, UnixPaths, UnixSteering},
    config::{OnGuardDown, Server},
    event::in_full,
    gate::{
        Gate, Target,
        listeners::{Accepting, Listening},
    },
    guard::wire::Channel,
};

/// Owned by the thread that makes the guard's sockets.
pub(in crate::gate) struct Led {
    folder: PathBuf,
    pins: PathBuf,
    /// Servers whose clients may go straight on without a guard, and those whose may not: what ends with this process
    /// and what outlives it.
    direct: Kind,
    refuse: Kind,
    /// By the servers' places in the settings.
    open: BTreeMap<usize, Door>,
    roots: Roots,
}

/// Where clients shall be led.
#[derive(Default)]
struct Wanted {
    led: UnixPaths,
    /// What the guard's sockets are to be called.
    names: BTreeMap<PathBuf, PathBuf>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Untried,
    /// Only once: what this host lacks it will lack in a second, too.
    Impossible(String),
    Attached(UnixSteering),
}

/// Where the guard takes in those who are led. Its file stays behind, and refuses those who are led there without a
/// guard.
struct Door {
    file: FileId,
    channel: Arc<Channel>,
    _accepting: Accepting,
}

impl Led {
    pub fn new(folder: &Path, pins: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            pins: pins.to_owned(),
            direct: Kind::default(),
            refuse: Kind::default(),
            open: BTreeMap::new(),
            roots: Roots::default(),
        }
    }

    /// Brings the kernel side up to date: where the servers and the guard are now, and in whose eyes.
    pub fn follow(&mut self, gate: &Arc<Gate>) {
        if !gate.steer {
            return;
        }
        let (targets, channel) = {
            let state = gate.state();
            (state.targets(), state.channel.clone().filter(|_| state.stands))
        };
        let mut told = vec![None; gate.servers.len()];
        let (mut direct, mut refuse) = (Wanted::default(), Wanted::default());
        let mut all_known = true;
        let mut seen = None;
        for (place, server) in gate.servers.iter().enumerate() {
            if server.lane.is_observe() {
                continue;
            }
            let Some(channel) = &channel else {
                self.open.remove(&place);
                all_known = false;
                continue;
            };
            let wanted = if may_be_missed(server) { &mut direct } else { &mut refuse };
            let outcome = match targets.get(place) {
                Some(Ok(Target { socket: None, .. })) => continue,
                Some(Ok(target)) => {
                    let seen = seen.get_or_insert_with(|| self.roots.look()).as_slice();
                    self.lead(gate, place, target, channel, seen, wanted)
                }
                _ if gate.state().unfit(place).is_some() => continue,
                _ => {
                    all_known = false;
                    continue;
                }
            };
            if let Some(told) = told.get_mut(place) {
                *told = Some(outcome);
            }
        }
        let options = SteerOptions { pins: Some(self.pins.clone()), ..SteerOptions::default() };
        let kinds = [
            (&mut self.direct, direct, SteerOptions::default(), true),
            (&mut self.refuse, refuse, options, all_known),
        ];
        for (kind, wanted, options, is_whole) in kinds {
            let is_missed = options.pins.is_none();
            if let Err(why) = kind.apply(&wanted, &options, is_whole) {
                for (server, told) in gate.servers.iter().zip(&mut told) {
                    if may_be_missed(server) == is_missed && told.is_some() {
                        *told = Some(Err(why.clone()));
                    }
                }
            }
        }
        let mut state = gate.state();
        if state.unix != told {
            for (server, outcome) in gate.servers.iter().zip(&told) {
                let server = server.name.as_deref().unwrap_or_default();
                match outcome {
                    Some(Ok(())) => {
                        tracing::info!(server, "clients of its unix socket are led to the guard")
                    }
                    Some(Err(why)) => {
                        tracing::error!(
                            server,
                            "clients of its unix socket go past the guard: {why}"
                        );
                    }
                    None => {}
                }
            }
            state.unix = told;
        }
    }

    fn lead(
        &mut self,
        gate: &Arc<Gate>,
        place: usize,
        target: &Target,
        channel: &Arc<Channel>,
        seen: &[Root],
        wanted: &mut Wanted,
    ) -> Result<(), String> {
        let Some(socket) = &target.socket else { return Ok(()) };
        let in_words = |error: io::Error| error.to_string();
        let file = file_of(socket_of(target.pid, socket).map_err(in_words)?).map_err(in_words)?;
        let at = self.folder.join(format!("{}.sock", target.name));
        let is_open = |door: &Door| Arc::ptr_eq(&door.channel, channel) && stands(&at, door.file);
        if !self.open.get(&place).is_some_and(is_open) {
            self.open.remove(&place);
            let account = Account::of_process(target.pid).map_err(in_words)?;
            let door = Door::open(gate, place, &at, &account, channel);
            let cannot = |error| format!("the guard can't listen at {}: {error}", at.display());
            self.open.insert(place, door.map_err(cannot)?);
        }
        let guard = self.open.get(&place).map(|door| door.file);
        let paths = spellings(socket);
        for root in seen {
            // What only looks like it in there is another server, or another guard.
            if root.file(&at) != guard {
                continue;
            }
            for path in paths.iter().filter(|path| root.file(path) == Some(file)) {
                wanted.led.insert((root.number, path.clone()), at.clone());
            }
        }
        wanted.names.insert(at, socket.clone());
        Ok(())
    }

    /// See [`super::super::steering::Lead::stop`].
    pub fn stop(self, gate: &Gate) {
        let guarded = |server: &&Server| !server.lane.is_observe();
        if gate.servers.iter().filter(guarded).all(may_be_missed) {
            for kind in [self.direct, self.refuse] {
                if let Kind::Attached(steering) = kind
                    && let Err(error) = steering.stop()
                {
                    tracing::error!("steering can't be taken off: {}", in_full(&error));
                }
            }
        }
    }
}

impl Kind {
    /// `is_whole`: what is not wanted is led no more.
    fn apply(
        &mut self,
        wanted: &Wanted,
        options: &SteerOptions,
        is_whole: bool,
    ) -> Result<(), String> {
        // What is left of before may lead clients of somebody else's by now.
        let is_due = || !wanted.led.is_empty() || is_whole && UnixSteering::is_left(options);
        if matches!(self, Kind::Untried) && is_due() {
            *self = match UnixSteering::attach(options) {
                Ok(steering) => Kind::Attached(steering),
                Err(error) => Kind::Impossible(in_full(&error)),
            };
        }
        let steering = match self {
            Kind::Untried => return Ok(()),
            Kind::Impossible(why) => return Err(why.clone()),
            Kind::Attached(steering) => steering,
        };
        let mut apply = || {
            for (guard, server) in &wanted.names {
                steering.call(guard, server)?;
            }
            for ((root, path), to) in &wanted.led {
                steering.lead(*root, path, to)?;
            }
            if is_whole {
                steering.keep_only(&wanted.led)?;
            }
            Ok(())
        };
        apply().map_err(|error: SteerError| in_full(&error))
    }
}

impl Door {
    fn open(
        gate: &Arc<Gate>,
        place: usize,
        at: &Path,
        account: &Account,
        channel: &Arc<Channel>,
    ) -> io::Result<Self> {
        let folder = at.parent().unwrap_or(Path::new("/"));
        let metadata = fs::metadata(folder)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            let words = format!("others could take its place in {}", folder.display());
            return Err(io::Error::other(words));
        }
        if fs::symlink_metadata(at).is_ok_and(|there| !there.file_type().is_socket()) {
            return Err(io::Error::other("something else is there"));
        }
        ignore_missing(fs::remove_file(at))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(at)?)?;
        // Whoever may not use the server's own socket won't get any further.
        fs::set_permissions(at, Permissions::from_mode(0o777))?;
        let file = file_of(rustix::fs::open(
            at,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?)?;
        account.run(|| Ok(listen(&socket, BACKLOG)?))?;
        let socket: UnixListener = socket.into();
        let listening = vec![Listening::led_to_socket(place, socket)];
        let accepting = Accepting::start(gate, channel.clone(), listening)?;
        Ok(Self { file, channel: channel.clone(), _accepting: accepting })
    }
}

fn may_be_missed(server: &Server) -> bool {
    server.on_guard_down == OnGuardDown::Direct
}

/// How clients may write the path: as the server does, without links, and by `/var/run` or `/run`.
fn spellings(socket: &Path) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::from([socket.to_owned()]);
    paths.extend(fs::canonicalize(socket));
    for path in paths.clone() {
        for (one, other) in [("/run", "/var/run"), ("/var/run", "/run")] {
            paths.extend(path.strip_prefix(one).map(|rest| Path::new(other).join(rest)));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::spellings;

    #[test]
    fn a_path_is_known_by_both_names_of_run() {
        for (path, expected) in [
            ("/run/pg/.s.PGSQL.1", vec!["/run/pg/.s.PGSQL.1", "/var/run/pg/.s.PGSQL.1"]),
            ("/var/run/pg/.s.PGSQL.1", vec!["/run/pg/.s.PGSQL.1", "/var/run/pg/.s.PGSQL.1"]),
            ("/srv/pg/.s.PGSQL.1", vec!["/srv/pg/.s.PGSQL.1"]),
        ] {
            assert!(spellings(Path::new(path)).iter().eq(expected.iter().map(Path::new)), "{path}");
        }
    }
}

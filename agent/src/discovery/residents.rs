//! What procfs says of connections that were open before their server was watched.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use super::{
    Listener, Server,
    sockets::{TcpRow, each_line, socket_inodes},
};
use crate::{
    event::BootTime,
    identity::{Procfs, ProcfsError},
};

/// Local clients of one server that are looked for; further ones stay nameless.
const MAX_CLIENTS: usize = 16_384;
/// Longest title read: PostgreSQL's has two names of 63 bytes, a host and an activity.
const MAX_TITLE: u64 = 512;

/// The sessions of one server.
#[derive(Clone, Debug, Default)]
pub struct Residents {
    /// Command lines of the server's own processes, which it writes itself, by pid.
    pub titles: Vec<(u32, Vec<u8>)>,
    pub clients: Vec<Resident>,
}

/// A local TCP connection's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub pid: u32,
    /// The client's end, in the server's network namespace.
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// A moment at which this process held the client's end. The kernel does not say who connected: of
    /// several holders this is the oldest.
    pub at: BootTime,
}

/// Reads the sessions of `server`. `now` is asked for the boot clock's time.
///
/// # Errors
/// The server is gone.
pub fn residents(
    procfs: &Procfs,
    server: &Server,
    now: impl Fn() -> BootTime,
) -> Result<Residents, ProcfsError> {
    let titles = server.descendants.iter().filter_map(|pid| {
        let process = procfs.open(*pid).ok()?;
        // What a backend runs with `COPY … PROGRAM` writes its own command line, and may never answer.
        let own = process.exe().ok()? == server.exe.as_os_str().as_encoded_bytes();
        own.then(|| process.read("cmdline", MAX_TITLE).ok()).flatten().map(|title| (*pid, title))
    });
    Ok(Residents { titles: titles.collect(), clients: clients(procfs, server, now)? })
}

fn clients(
    procfs: &Procfs,
    server: &Server,
    now: impl Fn() -> BootTime,
) -> Result<Vec<Resident>, ProcfsError> {
    let ports: HashSet<u16> = server
        .listeners
        .iter()
        .filter_map(|listener| match listener {
            Listener::Tcp { address, .. } => Some(address.port()),
            Listener::Unix { .. } => None,
        })
        .collect();
    let process = procfs.open(server.pid)?;
    let mut ends: HashMap<u64, (SocketAddr, SocketAddr)> = HashMap::new();
    for table in ["net/tcp", "net/tcp6"] {
        // Without IPv6 there is no such table.
        let Ok(file) = process.file(table) else { continue };
        each_line(file, |line| {
            if let Some(row) = std::str::from_utf8(line).ok().and_then(TcpRow::parse)
                && row.is_established()
                && ports.contains(&row.remote.port())
                && ends.len() < MAX_CLIENTS
            {
                let end = |address: SocketAddr| {
                    SocketAddr::new(address.ip().to_canonical(), address.port())
                };
                ends.insert(row.inode, (end(row.local), end(row.remote)));
            }
        });
    }
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let mut holders: HashMap<u64, (BootTime, Resident)> = HashMap::new();
    for pid in procfs.pids()? {
        // A process that is gone meanwhile holds nothing.
        let Ok(process) = procfs.open(pid) else { continue };
        let Ok(inodes) = socket_inodes(&process) else { continue };
        let at = now();
        let Ok(start) = process.stat().map(|stat| stat.start()) else { continue };
        for inode in inodes {
            let Some((client, server)) = ends.get(&inode).copied() else { continue };
            let resident = Resident { pid, client, server, at };
            let holder = holders.entry(inode).or_insert((start, resident));
            if start < holder.0 {
                *holder = (start, resident);
            }
        }
    }
    Ok(holders.into_values().map(|(_, resident)| resident).collect())
}

//! The sockets that a process listens on, from procfs.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};

use super::Listener;
use crate::identity::{ProcDir, ProcfsError};

/// Descriptors looked at, and bytes read of one table of sockets.
const MAX_DESCRIPTORS: usize = 65_536;
const MAX_TABLE: u64 = 256 * 1024 * 1024;
/// `__SO_ACCEPTCON`: the socket listens.
const ACCEPTS: u32 = 0x1_0000;
const TCP_ESTABLISHED: u8 = 1;
const TCP_LISTEN: u8 = 10;

/// The listening sockets that `process` of `uid` holds. `expected` is the unix path that its own data
/// names: where another socket's name makes the table ambiguous, it decides last.
pub(super) fn listening(
    process: &ProcDir,
    uid: u32,
    expected: Option<&PathBuf>,
) -> Result<Vec<Listener>, ProcfsError> {
    let own = socket_inodes(process)?;
    let mut listeners = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        // Without IPv6 there is no such table.
        let Ok(file) = process.file(table) else { continue };
        each_line(file, |line| {
            if let Some(row) = std::str::from_utf8(line).ok().and_then(TcpRow::parse)
                && row.state == TCP_LISTEN
                && own.contains(&row.inode)
            {
                listeners.push(Listener::Tcp { address: row.local, inode: row.inode });
            }
        });
    }
    let mut unix = UnixTable::default();
    each_line(process.file("net/unix")?, |line| unix.line(line, &own));
    unix.listeners(expected, |path| is_socket_of(process, uid, path), &mut listeners);
    Ok(listeners)
}

/// Whether a socket of this uid stands at `path` as the process sees it.
fn is_socket_of(process: &ProcDir, uid: u32, path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(process, "root", flags | OFlags::DIRECTORY, Mode::empty());
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let stat = root
        .and_then(|root| {
            rustix::fs::openat2(root, path, flags | OFlags::NOFOLLOW, Mode::empty(), resolve)
        })
        .and_then(rustix::fs::fstat);
    stat.is_ok_and(|stat| {
        stat.st_uid == uid && FileType::from_raw_mode(stat.st_mode) == FileType::Socket
    })
}

/// The sockets that a process holds, by inode.
pub(super) fn socket_inodes(process: &ProcDir) -> Result<HashSet<u64>, ProcfsError> {
    let failed = |error: rustix::io::Errno| ProcfsError::Read {
        pid: process.pid(),
        what: "the descriptors",
        source: error.into(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fds = rustix::fs::openat(process, "fd", flags, Mode::empty()).map_err(failed)?;
    let mut inodes = HashSet::new();
    for entry in Dir::read_from(&fds).map_err(failed)?.take(MAX_DESCRIPTORS) {
        // A descriptor may be closed meanwhile.
        let Ok(entry) = entry else { break };
        let Ok(target) = rustix::fs::readlinkat(&fds, entry.file_name(), Vec::new()) else {
            continue;
        };
        inodes.extend(bracketed(target.as_bytes(), "socket"));
    }
    Ok(inodes)
}

/// The number in `kind:[number]`, as links in procfs name sockets and namespaces.
pub(super) fn bracketed(link: &[u8], kind: &str) -> Option<u64> {
    let link = std::str::from_utf8(link).ok()?;
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// Calls `take` for every line; a table that is too long, or ends in the middle, ends there.
pub(super) fn each_line(file: impl Read, mut take: impl FnMut(&[u8])) {
    let mut lines = BufReader::new(file.take(MAX_TABLE));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        take(line.strip_suffix(b"\n").unwrap_or(&line));
        line.clear();
    }
}

/// A socket of `/proc/net/tcp` or `tcp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpRow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub inode: u64,
    state: u8,
}

impl TcpRow {
    pub fn parse(line: &str) -> Option<TcpRow> {
        let mut fields = line.split_ascii_whitespace();
        let local = parse_address(fields.nth(1)?)?;
        let remote = parse_address(fields.next()?)?;
        let state = u8::from_str_radix(fields.next()?, 16).ok()?;
        let inode = fields.nth(5)?.parse().ok()?;
        Some(TcpRow { local, remote, inode, state })
    }

    pub fn is_established(&self) -> bool {
        self.state == TCP_ESTABLISHED
    }
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        // The kernel prints the big-endian words as if they were the machine's.
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut octets = [0; 16];
            for (octet, byte) in octets.iter_mut().zip(words.as_flattened()) {
                *octet = *byte;
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

/// The listening sockets of `/proc/net/unix` by inode.
///
/// The kernel prints names as they are: one with a newline in it makes lines of its own, which may
/// give our server's inode another path. So all lines of an inode are kept, and compared.
#[derive(Default)]
struct UnixTable(BTreeMap<u64, HashSet<Vec<u8>>>);

impl UnixTable {
    fn line(&mut self, line: &[u8], own: &HashSet<u64>) {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut fields = line.splitn(2, |b| *b == b'/' || *b == b'@');
        let (Some(head), rest) = (fields.next(), fields.next()) else { return };
        let path = rest.map_or(&[][..], |_| line.get(head.len()..).unwrap_or_default());
        let Ok(head) = std::str::from_utf8(head) else { return };
        let mut fields = head.split_ascii_whitespace().skip(3);
        let flags = fields.next().and_then(|flags| u32::from_str_radix(flags, 16).ok());
        let inode = fields.nth(2).and_then(|inode| inode.parse().ok());
        if let (Some(flags), Some(inode)) = (flags, inode)
            && flags & ACCEPTS != 0
            && own.contains(&inode)
            && !path.is_empty()
        {
            let paths = self.0.entry(inode).or_default();
            if paths.len() < 8 {
                paths.insert(path.to_vec());
            }
        }
    }

    /// Adds those that are certain.
    fn listeners(
        self,
        expected: Option<&PathBuf>,
        is_genuine: impl Fn(&Path) -> bool,
        listeners: &mut Vec<Listener>,
    ) {
        for (inode, paths) in self.0 {
            let mut paths: Vec<PathBuf> =
                paths.into_iter().map(|path| PathBuf::from(OsString::from_vec(path))).collect();
            if paths.len() > 1 {
                paths.retain(|path| is_genuine(path));
            }
            if paths.len() > 1 {
                paths.retain(|path| Some(path) == expected);
            }
            listeners.extend(paths.into_iter().map(|path| Listener::Unix { path, inode }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_lines() {
        let rest = "00000000:00000000 00:00000000 00000000   101        0 4711 1 x";
        let row = |local: &str, remote: &str, state: &str| {
            TcpRow::parse(&format!("  0: {local} {remote} {state} {rest}"))
        };
        let some = |local: &str, remote: &str, state| {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            Some(TcpRow { local, remote, inode: 4711, state })
        };
        let any = "00000000:0000";
        for (found, expected) in [
            (row("0100007F:1538", any, "0A"), some("127.0.0.1:5432", "0.0.0.0:0", TCP_LISTEN)),
            (
                row("0100007F:1538", "0200007F:8000", "01"),
                some("127.0.0.1:5432", "127.0.0.2:32768", TCP_ESTABLISHED),
            ),
            (
                row("00000000000000000000000001000000:1538", any, "0A"),
                some("[::1]:5432", "0.0.0.0:0", TCP_LISTEN),
            ),
            (
                row("B80D01200000000067452301EFCDAB89:0001", any, "0A"),
                some("[2001:db8::123:4567:89ab:cdef]:1", "0.0.0.0:0", TCP_LISTEN),
            ),
            (row("0100007F", any, "0A"), None),
            (row("0100:1538", any, "0A"), None),
            (row("010000ä7:1538", any, "0A"), None),
            (row("0100007F:1538", any, "x"), None),
            (TcpRow::parse("  sl  local_address rem_address   st tx_queue"), None),
            (TcpRow::parse(""), None),
        ] {
            assert_eq!(found, expected);
        }
    }

    fn check(table: &str, expected_path: Option<&str>, paths: &[(&str, u64)]) {
        let own = HashSet::from([7, 8]);
        let mut unix = UnixTable::default();
        each_line(table.as_bytes(), |line| unix.line(line, &own));
        let mut found = Vec::new();
        let expected_path = expected_path.map(PathBuf::from);
        unix.listeners(expected_path.as_ref(), |path| path.starts_with("/run/pg"), &mut found);
        let expected: Vec<Listener> = paths
            .iter()
            .map(|(path, inode)| Listener::Unix { path: path.into(), inode: *inode })
            .collect();
        assert_eq!(found, expected, "{table}");
    }

    #[test]
    fn unix_tables() {
        let row = |flags: &str, inode: u64, path: &str| {
            format!("0000000000000000: 00000002 00000000 {flags} 0001 01 {inode} {path}\n")
        };
        let listening = |path: &str| row("00010000", 7, path);
        let (path, other) = ("/run/pg/.s.PGSQL.5432", "/run/pg/.s.PGSQL.5433");
        check("Num       RefCount Protocol Flags    Type St Inode Path\n", None, &[]);
        check(&listening(path), None, &[(path, 7)]);
        check(&listening("/a b/c"), None, &[("/a b/c", 7)]);
        check(&listening("@abstract"), None, &[("@abstract", 7)]);
        check(&listening(""), None, &[]);
        check(&row("00000000", 7, "/run/x"), None, &[]);
        check(&row("00010000", 9, "/run/x"), None, &[]);
        check("x\n\n0: 1 2 3\n", None, &[]);
        // Next to a socket called "/tmp/x\n0000…: … 7 /run/evil".
        check(&(listening(path) + &listening("/run/evil")), None, &[(path, 7)]);
        check(&(listening("/a") + &listening("/b")), Some("/a"), &[]);
        // It names another socket of the same account.
        check(&(listening(path) + &listening(other)), None, &[]);
        check(&(listening(path) + &listening(other)), Some(path), &[(path, 7)]);
    }
}

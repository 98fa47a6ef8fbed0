//! Is this process a PostgreSQL server or a pooler, and which?

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::{
    Doubt, FileId, Namespaces, Server, ServerKind, ServerRule, Trust,
    files::read_in,
    libraries::tls_libraries,
    sockets::{bracketed, listening},
};
use crate::identity::{ProcDir, Procfs, ProcfsError};

/// What the server's executable is called: upstream, before version 9.6, and by EnterpriseDB.
pub(super) const EXECUTABLES: [&str; 3] = ["postgres", "postmaster", "edb-postgres"];
/// What a pooler's is called.
pub(super) const POOLER: &str = "pgbouncer";
/// Uids that distributions give to services and not to people.
const SYSTEM_ACCOUNTS: std::ops::RangeInclusive<u32> = 1..=999;
const OTHERS_MAY_WRITE: u32 = 0o002;
const GROUP_MAY_WRITE: u32 = 0o020;

/// A process is no server, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the process cannot be read")]
    Unreadable(#[from] ProcfsError),
    #[error("its executable {} is neither a PostgreSQL server nor a pooler", .0.display())]
    OtherProgram(PathBuf),
    #[error("its working directory {} is no PostgreSQL data directory: no sound {file}", directory.display())]
    NoData { directory: PathBuf, file: &'static str, source: Option<io::Error> },
    #[error("it is a child of the server: postmaster.pid names process {postmaster}")]
    NotPostmaster { postmaster: i64 },
    #[error("it is starting: postmaster.pid names no state yet")]
    Starting,
    #[error("it listens on no socket")]
    NotListening,
    #[error("looking at it never came back: its files or its memory do not answer")]
    Hangs,
}

impl Refusal {
    /// Whether it makes sense to look again: a server is not one from its first moment.
    pub fn may_change(&self) -> bool {
        match self {
            Refusal::NoData { .. } | Refusal::Starting | Refusal::NotListening | Refusal::Hangs => {
                true
            }
            Refusal::Unreadable(_) | Refusal::OtherProgram(_) | Refusal::NotPostmaster { .. } => {
                false
            }
        }
    }
}

/// All processes of now that run what may be a server. Unlike [`inspect`], this touches nothing of
/// theirs that could hang.
pub fn candidates(procfs: &Procfs, rules: &[ServerRule]) -> Result<Vec<u32>, ProcfsError> {
    let runs =
        |pid: &u32| procfs.open(*pid).is_ok_and(|process| candidate(&process, rules).is_ok());
    Ok(procfs.pids()?.into_iter().filter(runs).collect())
}

/// All processes below `pid` that live now. Reads all of procfs.
pub fn descendants(procfs: &Procfs, pid: u32) -> Result<Vec<u32>, ProcfsError> {
    Ok(Family::read(procfs)?.below(pid))
}

/// Looks at one process, without its [`descendants`]: while a server starts, each millisecond counts.
/// Rules may name further executables.
pub fn inspect(procfs: &Procfs, pid: u32, rules: &[ServerRule]) -> Result<Server, Refusal> {
    let process = procfs.open(pid)?;
    let exe = candidate(&process, rules)?;
    let stat = process.stat()?;
    let status = process.status()?;
    let form = |what| ProcfsError::Form { pid, what };
    let uid = status.uid.ok_or(form("status"))?;
    let exe_stat = stat_of(&process, "exe")?;
    let kind = kind_of(&exe);
    let data = match kind {
        ServerKind::Postgresql => Data::read(&process)?,
        ServerKind::Pooler => Data::of_pooler(&exe, exe_stat),
    };
    if let Some(lock) = &data.lock {
        let own_pid = status.inner_pid.unwrap_or(pid);
        if lock.pid != i64::from(own_pid) {
            return Err(Refusal::NotPostmaster { postmaster: lock.pid });
        }
        if !lock.has_state && !data.version.contains('.') {
            return Err(Refusal::Starting);
        }
    }

    let expected = data.lock.as_ref().and_then(|lock| lock.socket.as_ref());
    let listeners = listening(&process, uid, expected)?;
    if listeners.is_empty() {
        return Err(Refusal::NotListening);
    }

    let namespaces = namespaces(&process)?;
    let own_namespaces = namespaces_of_agent(procfs)?;
    let accepted_by_rule = namespaces.mount == own_namespaces.mount
        && rules.iter().any(|rule| rule.executable.as_ref() == Some(&exe));
    let mut doubts = Vec::new();
    doubts.extend(executable_doubts(&exe_stat, uid, accepted_by_rule));
    match kind {
        ServerKind::Postgresql => doubts.extend(data_doubts(&data.stat, uid)),
        ServerKind::Pooler if accepted_by_rule || SYSTEM_ACCOUNTS.contains(&uid) => {}
        ServerKind::Pooler => doubts.push(Doubt::PoolerAccount { uid }),
    }
    if namespaces.user != own_namespaces.user {
        doubts.push(Doubt::UserNamespace);
    }
    Ok(Server {
        kind,
        pid,
        start: stat.start(),
        exe,
        exe_file: FileId::of(&exe_stat),
        version: data.version,
        data_directory: data.path,
        data_file: FileId::of(&data.stat),
        cluster: data.cluster,
        uid,
        namespaces,
        listeners,
        tls: tls_libraries(&process)?,
        seccomp: status.seccomp.is_some_and(|mode| mode != 0),
        descendants: Vec::new(),
        trust: if doubts.is_empty() { Trust::Verified } else { Trust::Unverified(doubts) },
    })
}

fn candidate(process: &ProcDir, rules: &[ServerRule]) -> Result<PathBuf, Refusal> {
    let exe = PathBuf::from(OsString::from_vec(process.exe()?));
    let named = exe
        .file_name()
        .is_some_and(|name| name == POOLER || EXECUTABLES.iter().any(|known| name == *known));
    let configured = rules.iter().any(|rule| rule.executable.as_ref() == Some(&exe));
    if named || configured { Ok(exe) } else { Err(Refusal::OtherProgram(exe)) }
}

fn kind_of(exe: &Path) -> ServerKind {
    match exe.file_name().is_some_and(|name| name == POOLER) {
        true => ServerKind::Pooler,
        false => ServerKind::Postgresql,
    }
}

fn executable_doubts(stat: &Stat, uid: u32, accepted_by_rule: bool) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let own = stat.st_uid == uid && (SYSTEM_ACCOUNTS.contains(&uid) || accepted_by_rule);
    if stat.st_uid != 0 && !own {
        doubts.push(Doubt::ExecutableOwner { owner: stat.st_uid, server: uid });
    }
    let group = if stat.st_gid == 0 { 0 } else { GROUP_MAY_WRITE };
    if stat.st_mode & (OTHERS_MAY_WRITE | group) != 0 {
        doubts.push(Doubt::ExecutableWritable { mode: stat.st_mode & 0o7777 });
    }
    doubts
}

fn data_doubts(stat: &Stat, uid: u32) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    if stat.st_uid != uid {
        doubts.push(Doubt::DataOwner { owner: stat.st_uid, server: uid });
    }
    if stat.st_mode & (OTHERS_MAY_WRITE | GROUP_MAY_WRITE) != 0 {
        doubts.push(Doubt::DataWritable { mode: stat.st_mode & 0o7777 });
    }
    doubts
}

/// A postmaster's working directory is its data directory, whatever its arguments and environment
/// claim.
struct Data {
    path: PathBuf,
    stat: Stat,
    version: String,
    /// A pooler has none.
    lock: Option<LockFile>,
    cluster: Option<u64>,
}

impl Data {
    fn read(process: &ProcDir) -> Result<Data, Refusal> {
        let path = PathBuf::from(OsString::from_vec(process.link("cwd")?));
        let directory = open_path(process, "cwd", OFlags::DIRECTORY)?;
        let read = |file: &'static str, max| {
            read_in(&directory, file, max).map_err(|source| Refusal::NoData {
                directory: path.clone(),
                file,
                source: Some(source),
            })
        };
        let unsound = |file| Refusal::NoData { directory: path.clone(), file, source: None };
        let version = parse_version(&read("PG_VERSION", 16)?).ok_or(unsound("PG_VERSION"))?;
        let lock = read("postmaster.pid", 4096)?;
        let lock = LockFile::parse(&lock).ok_or(unsound("postmaster.pid"))?;
        // `system_identifier` opens the control file.
        let control = read_in(&directory, "global/pg_control", 8).ok();
        let cluster = control.and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
        let stat = rustix::fs::fstat(&directory).map_err(|error| failed(process, "cwd", error))?;
        Ok(Data { path, stat, version, lock: Some(lock), cluster })
    }

    /// A pooler keeps nothing: its executable stands for it.
    fn of_pooler(exe: &Path, stat: Stat) -> Data {
        Data { path: exe.to_owned(), stat, version: String::new(), lock: None, cluster: None }
    }
}

/// `15`, `9.6`.
fn parse_version(content: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content).ok()?.trim_end();
    let number = |part: &str| part.len() <= 3 && part.parse::<u8>().is_ok();
    text.split('.').all(number).then(|| text.to_owned())
}

/// `postmaster.pid`: pid, data directory, start, port, socket directory, listen address, shared
/// memory, state. A single-user server writes its pid negative.
#[derive(Debug, PartialEq, Eq)]
struct LockFile {
    pid: i64,
    socket: Option<PathBuf>,
    /// Written when all sockets are open (from version 10 on).
    has_state: bool,
}

impl LockFile {
    fn parse(content: &[u8]) -> Option<LockFile> {
        let lines: Vec<&[u8]> = content.split(|b| *b == b'\n').collect();
        let text = |index: usize| Some(std::str::from_utf8(lines.get(index)?).ok()?.trim());
        let pid = text(0)?.parse().ok()?;
        let port: Option<u16> = text(3).and_then(|port| port.parse().ok());
        let directory = lines.get(4).filter(|directory| !directory.is_empty());
        let socket = port.zip(directory).map(|(port, directory)| {
            Path::new(&OsString::from_vec(directory.to_vec())).join(format!(".s.PGSQL.{port}"))
        });
        Some(LockFile { pid, socket, has_state: text(7).is_some_and(|state| !state.is_empty()) })
    }
}

fn namespaces(process: &ProcDir) -> Result<Namespaces, ProcfsError> {
    let inode = |name, kind| {
        let form = ProcfsError::Form { pid: process.pid(), what: name };
        bracketed(&process.link(name)?, kind).ok_or(form)
    };
    Ok(Namespaces {
        net: inode("ns/net", "net")?,
        mount: inode("ns/mnt", "mnt")?,
        user: inode("ns/user", "user")?,
    })
}

/// The namespaces of this process, which servers are compared with.
pub fn namespaces_of_agent(procfs: &Procfs) -> Result<Namespaces, ProcfsError> {
    namespaces(&procfs.open(std::process::id())?)
}

/// Follows a link of procfs to the thing itself, without opening it.
fn open_path(process: &ProcDir, name: &'static str, more: OFlags) -> Result<OwnedFd, ProcfsError> {
    rustix::fs::openat(process, name, OFlags::PATH | OFlags::CLOEXEC | more, Mode::empty())
        .map_err(|error| failed(process, name, error))
}

fn stat_of(process: &ProcDir, name: &'static str) -> Result<Stat, ProcfsError> {
    let place = open_path(process, name, OFlags::empty())?;
    let stat = rustix::fs::fstat(&place).map_err(|error| failed(process, name, error))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat),
        _ => Err(ProcfsError::Form { pid: process.pid(), what: name }),
    }
}

fn failed(process: &ProcDir, what: &'static str, error: rustix::io::Errno) -> ProcfsError {
    ProcfsError::Read { pid: process.pid(), what, source: error.into() }
}

/// Who is whose child, at one time.
struct Family(HashMap<u32, Vec<u32>>);

impl Family {
    fn read(procfs: &Procfs) -> Result<Family, ProcfsError> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for pid in procfs.pids()? {
            // A process that is gone meanwhile is nobody's child.
            if let Ok(stat) = procfs.open(pid).and_then(|process| process.stat()) {
                children.entry(stat.parent).or_default().push(pid);
            }
        }
        Ok(Family(children))
    }

    fn below(&self, pid: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = Some(pid);
        let mut read = 0;
        // Each pid has one parent, so this ends.
        while let Some(parent) = next {
            found.extend(self.0.get(&parent).into_iter().flatten().filter(|child| **child != pid));
            next = found.get(read).copied();
            read += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_files() {
        for (content, expected) in [
            ("15\n", Some("15")),
            ("9.6\n", Some("9.6")),
            ("15", Some("15")),
            ("", None),
            ("\n", None),
            ("15 rc", None),
            ("-1", None),
            ("1000", None),
            ("9.6.", None),
        ] {
            assert_eq!(parse_version(content.as_bytes()).as_deref(), expected, "{content:?}");
        }
    }

    #[test]
    fn lock_files() {
        let lock = |pid, socket: Option<&str>, has_state| {
            Some(LockFile { pid, socket: socket.map(PathBuf::from), has_state })
        };
        let whole = "42\n/data\n1700000000\n5433\n/run/pg\n*\n  1 2\nready   \n";
        let path = Some("/run/pg/.s.PGSQL.5433");
        for (content, expected) in [
            (whole, lock(42, path, true)),
            ("42\n/data\n1700000000\n5433\n\n*\n", lock(42, None, false)),
            ("42\n/data\n1\n5433\n/run/pg\n", lock(42, path, false)),
            ("-42\n/data\n", lock(-42, None, false)),
            ("42", lock(42, None, false)),
            ("x\n/data\n", None),
            ("", None),
        ] {
            assert_eq!(LockFile::parse(content.as_bytes()), expected, "{content:?}");
        }
    }

    #[test]
    fn a_family_with_a_false_circle_ends() {
        let family = Family(HashMap::from([(1, vec![2, 3]), (3, vec![4]), (4, vec![1])]));
        assert_eq!(family.below(1), [2, 3, 4]);
        assert!(family.below(2).is_empty());
    }
}

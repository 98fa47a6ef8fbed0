//! The bounded reader of `/proc`: one process at a time, held by its directory.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::event::BootTime;

/// One clock tick as procfs counts it (`USER_HZ` is 100 on every architecture that Linux still has
/// BPF on), in nanoseconds.
pub const TICK_NS: u64 = 10_000_000;

/// Longest content read from any one file.
const MAX_FILE: u64 = 64 * 1024;

/// A process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcfsError {
    /// Mostly: it is gone.
    #[error("cannot read {what} of process {pid}")]
    Read { pid: u32, what: &'static str, source: io::Error },
    #[error("{what} of process {pid} has no form that this kernel interface is known to have")]
    Form { pid: u32, what: &'static str },
    #[error("cannot list the processes in {}", root.display())]
    List { root: PathBuf, source: io::Error },
}

/// A mounted procfs.
#[derive(Clone, Debug)]
pub struct Procfs {
    root: PathBuf,
}

impl Default for Procfs {
    fn default() -> Self {
        Procfs::at("/proc")
    }
}

impl Procfs {
    pub fn at(root: impl Into<PathBuf>) -> Procfs {
        Procfs { root: root.into() }
    }

    /// All processes of now.
    pub fn pids(&self) -> Result<Vec<u32>, ProcfsError> {
        let failed = |source| ProcfsError::List { root: self.root.clone(), source };
        let mut pids = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        Ok(pids)
    }

    /// Holds one process: everything read through the result is of this life of the pid, or fails.
    pub fn open(&self, pid: u32) -> Result<ProcDir, ProcfsError> {
        let path = self.root.join(pid.to_string());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(dir) => Ok(ProcDir { path, dir, pid }),
            Err(error) => {
                Err(ProcfsError::Read { pid, what: "the directory", source: error.into() })
            }
        }
    }

    /// Whether cgroups are version 1, alone or beside version 2: the kernel's version 2 path then
    /// says nothing about systemd's units.
    pub fn cgroups_are_v1(&self) -> bool {
        std::fs::read_to_string(self.root.join("self/cgroup"))
            .is_ok_and(|text| text.lines().any(|line| !line.starts_with("0::")))
    }
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub comm: Vec<u8>,
    /// `R`, `S`, `Z`, …
    pub state: u8,
    pub parent: u32,
    /// Start since boot, in clock ticks.
    pub start_ticks: u64,
    tty: u32,
}

impl Stat {
    /// The start, rounded down to a tick.
    pub fn start(&self) -> BootTime {
        BootTime(self.start_ticks.saturating_mul(TICK_NS))
    }
}

/// What `/proc/PID/status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The real uid, in the initial user namespace.
    pub uid: Option<u32>,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u8>,
    /// The pid in the process's own pid namespace.
    pub inner_pid: Option<u32>,
}

/// Everything that identity wants of a process that no kernel record told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub parent: u32,
    pub start_ticks: u64,
    pub comm: Vec<u8>,
    pub uid: Option<u32>,
    pub login_uid: Option<u32>,
    pub session: Option<u32>,
    pub tty: String,
    pub exe: Vec<u8>,
    pub cgroup: String,
}

/// One process, held by its directory: the kernel refuses reads when it is gone, even if its pid has
/// been given to another.
#[derive(Debug)]
pub struct ProcDir {
    path: PathBuf,
    dir: OwnedFd,
    pid: u32,
}

impl AsFd for ProcDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl ProcDir {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// `/proc/PID`, for those who need a name to hand on.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the kernel's making below the process's directory.
    pub fn file(&self, name: &'static str) -> Result<File, ProcfsError> {
        rustix::fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
            .map_err(|error| self.failed(name, error.into()))
    }

    /// At most `max` bytes of it.
    pub fn read(&self, name: &'static str, max: u64) -> Result<Vec<u8>, ProcfsError> {
        let mut content = Vec::new();
        self.file(name)?
            .take(max)
            .read_to_end(&mut content)
            .map_err(|error| self.failed(name, error))?;
        Ok(content)
    }

    /// Where a symbolic link leads, as the kernel writes it.
    pub fn link(&self, name: &'static str) -> Result<Vec<u8>, ProcfsError> {
        rustix::fs::readlinkat(&self.dir, name, Vec::new())
            .map(|target| target.into_bytes())
            .map_err(|error| self.failed(name, error.into()))
    }

    pub fn stat(&self) -> Result<Stat, ProcfsError> {
        let content = self.read("stat", MAX_FILE)?;
        parse_stat(&content).ok_or(ProcfsError::Form { pid: self.pid, what: "stat" })
    }

    pub fn status(&self) -> Result<Status, ProcfsError> {
        Ok(parse_status(&String::from_utf8_lossy(&self.read("status", MAX_FILE)?)))
    }

    /// The executable's path as the process's mount namespace has it, without the kernel's remark
    /// that it has been deleted.
    pub fn exe(&self) -> Result<Vec<u8>, ProcfsError> {
        let mut path = self.link("exe")?;
        if path.ends_with(b" (deleted)") {
            path.truncate(path.len() - b" (deleted)".len());
        }
        Ok(path)
    }

    /// The cgroup to go by; empty if there is none.
    pub fn cgroup(&self) -> Result<String, ProcfsError> {
        let content = self.read("cgroup", MAX_FILE)?;
        let text = String::from_utf8_lossy(&content);
        Ok(super::cgroup::of_procfs(&text).unwrap_or_default().to_owned())
    }

    /// Everything at once, except the command line, which may hang. Only `stat` must be there: kernel
    /// threads have no executable, and a kernel without audit has no login uid.
    pub fn snapshot(&self) -> Result<Snapshot, ProcfsError> {
        let stat = self.stat()?;
        let status = self.status().unwrap_or_default();
        let number = |name| {
            let content = self.read(name, 32).ok()?;
            let number: u32 = std::str::from_utf8(&content).ok()?.trim().parse().ok()?;
            (number != u32::MAX).then_some(number)
        };
        Ok(Snapshot {
            parent: stat.parent,
            start_ticks: stat.start_ticks,
            tty: tty_name(stat.tty),
            comm: stat.comm,
            uid: status.uid,
            login_uid: number("loginuid"),
            session: number("sessionid"),
            exe: self.exe().unwrap_or_default(),
            cgroup: self.cgroup().unwrap_or_default(),
        })
    }

    fn failed(&self, what: &'static str, source: io::Error) -> ProcfsError {
        ProcfsError::Read { pid: self.pid, what, source }
    }
}

/// The name may hold anything, `)` and newlines too, so it ends at the last `)`.
fn parse_stat(content: &[u8]) -> Option<Stat> {
    let open = content.iter().position(|b| *b == b'(')?;
    let close = content.iter().rposition(|b| *b == b')')?;
    let comm = content.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(content.get(close + 1..)?).ok()?;
    // Fields by their number in proc_pid_stat(5), of which `rest` begins with the third.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        comm,
        state: *field(3)?.as_bytes().first()?,
        parent: field(4)?.parse().ok()?,
        tty: field(7)?.parse::<i32>().ok()?.cast_unsigned(),
        start_ticks: field(22)?.parse().ok()?,
    })
}

fn parse_status(text: &str) -> Status {
    let first = |rest: &str| rest.split_ascii_whitespace().next()?.parse().ok();
    let mut status = Status::default();
    for line in text.lines() {
        match line.split_once(':') {
            Some(("Uid", rest)) => status.uid = first(rest),
            Some(("Seccomp", rest)) => status.seccomp = rest.trim().parse().ok(),
            Some(("NSpid", rest)) => {
                status.inner_pid =
                    rest.split_ascii_whitespace().next_back().and_then(|pid| pid.parse().ok());
            }
            _ => {}
        }
    }
    status
}

/// The terminal's name below `/dev`, from its device number; empty if there is none.
fn tty_name(device: u32) -> String {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    match (major, minor) {
        (0, 0) => String::new(),
        (136..=143, minor) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 0..=63) => format!("tty{minor}"),
        (4, minor) => format!("ttyS{}", minor - 64),
        (major, minor) => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stat: &str, expected: Option<(&str, u32, u64, &str)>) {
        let stat = parse_stat(stat.as_bytes());
        let found = stat.as_ref().map(|stat| {
            let comm = std::str::from_utf8(&stat.comm).unwrap();
            (comm, stat.parent, stat.start_ticks, tty_name(stat.tty))
        });
        let expected = expected.map(|(comm, parent, start, tty)| (comm, parent, start, tty.into()));
        assert_eq!(found, expected);
    }

    #[test]
    fn stat_lines() {
        let rest = "S 7 1 1 34817 1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        check(&format!("12 (psql) {rest}"), Some(("psql", 7, 4711, "pts/1")));
        check(&format!("12 (a) S 1 (b) {rest}"), Some(("a) S 1 (b", 7, 4711, "pts/1")));
        check(&format!("12 () {rest}"), Some(("", 7, 4711, "pts/1")));
        check(&format!("12 (\n) {}", rest.replace("34817", "0")), Some(("\n", 7, 4711, "")));
        check("12 (psql) S 7 1", None);
        check("12 psql", None);
        check("12 )(", None);
        check("", None);
    }

    #[test]
    fn terminals() {
        for (device, name) in [
            (0, ""),
            (0x0401, "tty1"),
            (0x0440, "ttyS0"),
            (0x8800, "pts/0"),
            (0x8902, "pts/258"),
            (0x0010_8801, "pts/257"),
            (0x0501, "5:1"),
        ] {
            assert_eq!(tty_name(device), name, "{device:#x}");
        }
    }

    #[test]
    fn status_lines() {
        let text = "Name:\tx\nUid:\t5\t6\t6\t6\nGid:\t7\t7\t7\t7\nNSpid:\t90\t1\nSeccomp:\t2\n";
        let expected = Status { uid: Some(5), seccomp: Some(2), inner_pid: Some(1) };
        assert_eq!(parse_status(text), expected);
        assert_eq!(parse_status("Uid:\nSeccomp: x\nNSpid:"), Status::default());
    }

    #[test]
    fn this_process() {
        let procfs = Procfs::default();
        let me = procfs.open(std::process::id()).unwrap();
        let snapshot = me.snapshot().unwrap();
        assert_eq!(snapshot.parent, std::os::unix::process::parent_id());
        assert_eq!(snapshot.uid, Some(nix::unistd::getuid().as_raw()));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(snapshot.exe, exe.as_os_str().as_encoded_bytes());
        assert!(procfs.pids().unwrap().contains(&std::process::id()));
    }

    #[test]
    fn a_process_that_is_gone_is_not_read() {
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let dir = Procfs::default().open(child.id()).unwrap();
        assert!(dir.stat().is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(dir.stat(), Err(ProcfsError::Read { what: "stat", .. })));
    }
}

//! The facts of a host that decide what capture can do on it, and reading them without side effects.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    str::FromStr,
};

use crate::{
    capture::steer::{self, SteerTrial},
    enforce,
    event::in_full,
};

/// Everything that the verdicts look at. `None` is what could not be looked at.
#[derive(Clone, Debug)]
pub struct Host {
    pub kernel: Option<Kernel>,
    /// As `uname -r` says it.
    pub release: String,
    pub root: bool,
    /// Size of `/sys/kernel/btf/vmlinux`; 0 where it is absent.
    pub btf_bytes: u64,
    /// Whether BTF names the tracepoints `sock_send_length` and `sock_recv_length`.
    pub socket_length_tracepoints: Option<bool>,
    pub tracefs: Tracefs,
    pub lockdown: Option<Lockdown>,
    /// The effective set, a bit for each capability.
    pub capabilities: Option<u64>,
    pub unprivileged_bpf_disabled: Option<i32>,
    pub perf_event_paranoid: Option<i32>,
    /// Soft limit in bytes; `u64::MAX` is unlimited.
    pub memlock_bytes: Option<u64>,
    pub cgroups: Option<CgroupLayout>,
    /// Memory that can be had without swapping.
    pub available_bytes: Option<u64>,
    pub audit_login_uid: bool,
    /// Whether this process sees the processes of the whole host.
    pub host_pid_namespace: Option<bool>,
    /// Whether a connection can be ended, tried on two of our own; else why not.
    pub ends_connections: Result<(), String>,
    /// Whether clients on this host can be led to a guard, tried; else why not.
    pub leads_local: Result<(), String>,
    /// The same of clients from the network.
    pub leads_network: Result<(), String>,
    /// Likewise for clients of unix sockets.
    pub leads_unix: Result<(), String>,
    /// Whether a BPF file system is where steering is kept by default.
    pub bpffs: bool,
    /// Size of the BPF object in the binary; 0 when it was built without.
    pub object_bytes: usize,
}

/// A kernel's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32, pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracefs {
    /// At `/sys/kernel/tracing`, or below debugfs.
    Mounted,
    NotMounted,
    /// The kernel was built without it.
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    None,
    Integrity,
    Confidentiality,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupLayout {
    V1,
    V2,
    /// Version 1 with a version 2 tree beside it.
    Hybrid,
}

const BTF: &str = "/sys/kernel/btf/vmlinux";
const TRACEFS_MAGIC: u64 = 0x7472_6163;
const SECURITYFS_MAGIC: u64 = 0x7363_6673;
const CGROUP2_MAGIC: u64 = 0x6367_7270;
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// `PROC_PID_INIT_INO`: the inode of the first pid namespace.
const HOST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// No kernel's BTF is near it.
const BTF_MAX_BYTES: u64 = 256 << 20;

impl Host {
    pub fn of_this_machine(object_bytes: usize) -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let SteerTrial { local, network, unix } = steer::trial();
        Self {
            kernel: release.parse().ok(),
            release,
            root: rustix::process::geteuid().is_root(),
            btf_bytes: fs::metadata(BTF).map_or(0, |metadata| metadata.len()),
            socket_length_tracepoints: btf_names_both_tracepoints(),
            tracefs: tracefs(),
            lockdown: this_lockdown(),
            capabilities: word("/proc/self/status").and_then(|text| capabilities(&text)),
            unprivileged_bpf_disabled: number("/proc/sys/kernel/unprivileged_bpf_disabled"),
            perf_event_paranoid: number("/proc/sys/kernel/perf_event_paranoid"),
            memlock_bytes: Some(memlock_bytes()),
            cgroups: cgroups(),
            available_bytes: word("/proc/meminfo").and_then(|text| available_bytes(&text)),
            audit_login_uid: Path::new("/proc/self/loginuid").exists(),
            host_pid_namespace: fs::metadata("/proc/self/ns/pid")
                .ok()
                .map(|metadata| metadata.ino() == HOST_PID_NAMESPACE),
            ends_connections: enforce::trial().map_err(|error| in_full(&error)),
            leads_local: local.map_err(|error| in_full(&error)),
            leads_network: network.map_err(|error| in_full(&error)),
            leads_unix: unix.map_err(|error| in_full(&error)),
            bpffs: file_system("/sys/fs/bpf") == Some(BPF_FS_MAGIC),
            object_bytes,
        }
    }
}

/// From `uname -r`: `6.1.0-18-amd64`, `6.12-rc3`, `5.10.214`.
impl FromStr for Kernel {
    type Err = ();

    fn from_str(release: &str) -> Result<Self, ()> {
        let numbers = release.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or("");
        let mut parts = numbers.split('.').filter_map(|part| part.parse().ok());
        let (major, minor) = (parts.next().ok_or(())?, parts.next().ok_or(())?);
        Ok(Self(major, minor, parts.next().unwrap_or(0)))
    }
}

/// A small file's text.
fn word(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(path: &str) -> Option<i32> {
    word(path)?.trim().parse().ok()
}

/// Where securityfs is mounted and has no such file, the kernel knows no lockdown.
fn this_lockdown() -> Option<Lockdown> {
    match word("/sys/kernel/security/lockdown") {
        Some(text) => lockdown(&text),
        None if file_system("/sys/kernel/security") == Some(SECURITYFS_MAGIC)
            && !Path::new("/sys/kernel/security/lockdown").exists() =>
        {
            Some(Lockdown::None)
        }
        None => None,
    }
}

fn lockdown(text: &str) -> Option<Lockdown> {
    let chosen = text.split_once('[')?.1.split_once(']')?.0;
    match chosen {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1_024)
}

fn memlock_bytes() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current.unwrap_or(u64::MAX)
}

fn file_system(path: &str) -> Option<u64> {
    rustix::fs::statfs(path).ok().and_then(|stat| u64::try_from(stat.f_type).ok())
}

fn tracefs() -> Tracefs {
    let mounted = |path| file_system(path) == Some(TRACEFS_MAGIC);
    if mounted("/sys/kernel/tracing") || mounted("/sys/kernel/debug/tracing") {
        Tracefs::Mounted
    } else if Path::new("/sys/kernel/tracing").exists() {
        Tracefs::NotMounted
    } else {
        Tracefs::Absent
    }
}

fn cgroups() -> Option<CgroupLayout> {
    let is_v2 = |path| file_system(path).map(|kind| kind == CGROUP2_MAGIC);
    Some(match (is_v2("/sys/fs/cgroup")?, is_v2("/sys/fs/cgroup/unified")) {
        (true, _) => CgroupLayout::V2,
        (false, Some(true)) => CgroupLayout::Hybrid,
        (false, _) => CgroupLayout::V1,
    })
}

/// Looks for the names only: whether the programs load is a check of its own.
fn btf_names_both_tracepoints() -> Option<bool> {
    let mut btf = Vec::new();
    File::open(BTF).ok()?.take(BTF_MAX_BYTES).read_to_end(&mut btf).ok()?;
    // Names in BTF are between zeros.
    let names = |wanted: &[u8]| btf.split(|&byte| byte == 0).any(|name| name == wanted);
    Some(names(b"btf_trace_sock_send_length") && names(b"btf_trace_sock_recv_length"))
}

#[cfg(test)]
mod tests {
    use super::{Kernel, Lockdown, available_bytes, capabilities, lockdown};

    #[test]
    fn releases_are_read() {
        for (release, expected) in [
            ("6.1.0-18-amd64", Ok(Kernel(6, 1, 0))),
            ("6.12-rc3", Ok(Kernel(6, 12, 0))),
            ("5.14.0-427.13.1.el9_4.x86_64", Ok(Kernel(5, 14, 0))),
            ("6.18.44", Ok(Kernel(6, 18, 44))),
            ("linux", Err(())),
            ("", Err(())),
            ("99999999999.1", Err(())),
        ] {
            assert_eq!(release.parse::<Kernel>(), expected, "{release}");
        }
    }

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(lockdown("none [integrity] confidentiality\n"), Some(Lockdown::Integrity));
        assert_eq!(lockdown("[none] integrity confidentiality\n"), Some(Lockdown::None));
        assert_eq!(lockdown(""), None);
        assert_eq!(capabilities("CapPrm:\t00\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(capabilities("nothing"), None);
        assert_eq!(available_bytes("MemFree: 1 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available_bytes("MemAvailable: x kB"), None);
    }
}

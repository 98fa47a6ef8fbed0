//! A process of this host, as far as it is known.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BootTime, WallTime};

/// What one process was when it connected. Shared by all its connections; never changed afterwards.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Start on the boot clock: with `pid` it names a process for ever.
    pub start: BootTime,
    pub process_start: WallTime,
    /// Path of the executable, as the process's mount namespace has it.
    pub exe: Option<Arc<str>>,
    /// The command line, arguments joined by spaces, cut at a few hundred bytes. A claim.
    pub command: Option<Arc<str>>,
    /// The kernel's name of the main thread (15 bytes). A claim.
    pub comm: Arc<str>,
    pub uid: Option<u32>,
    pub os_user: Option<Arc<str>>,
    /// The audit login uid; how far to believe it is `login_strength`.
    pub login_uid: Option<u32>,
    pub login_user: Option<Arc<str>>,
    pub login_strength: LoginStrength,
    /// The audit session id.
    pub session: Option<u32>,
    pub tty: Option<Arc<str>>,
    /// Parent first, up to init.
    pub parents: Arc<[Parent]>,
    /// What each of `parents` ran when it forked, in their order.
    pub programs: Arc<[Arc<Program>]>,
    pub cgroup: Option<Arc<str>>,
    pub unit: Option<Arc<str>>,
    pub container: Option<Arc<str>>,
    pub pod: Option<Arc<str>>,
}

/// One ancestor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub pid: u32,
    pub comm: Arc<str>,
}

/// What a process ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The path that was executed.
    pub exe: Option<Arc<str>>,
    /// The command line as in [`Process`]. A claim.
    pub command: Option<Arc<str>>,
}

/// How much a login uid proves: an unprivileged process whose login uid is unset may set it to
/// anybody's, so it counts only with an agreeing login session in the cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoginStrength {
    /// No login uid is set.
    #[default]
    Unset,
    /// Set, but no login session scope of that user stands in the cgroup.
    Weak,
    /// Set, and the cgroup is a session scope of the same user.
    Strong,
}

/// What the kernel says happened to a process. Strings are raw bytes as the kernel has them.
///
/// `pid` is the thread group's id in the initial pid namespace; threads give no events. `key` is the
/// address of the process's `struct pid`: whoever holds a reference to it (a socket's peer
/// credentials do) keeps `(pid, key)` from being given to another process. 0 is "not known".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEvent<'a> {
    /// `parent` made `child`; `start` and `key` are the child's.
    Fork { time: BootTime, parent: u32, child: u32, start: BootTime, key: u64 },
    /// `pid` runs another program from now on.
    Exec {
        time: BootTime,
        pid: u32,
        /// The parent at the time of the exec; lineage comes from forks where they were seen.
        parent: u32,
        start: BootTime,
        key: u64,
        uid: u32,
        gid: u32,
        /// The audit login uid, if one is set.
        login_uid: Option<u32>,
        /// The audit session id, if one is set.
        session: Option<u32>,
        comm: &'a [u8],
        /// The path that was executed.
        filename: &'a [u8],
        /// Arguments separated by NUL, cut at 512 bytes.
        args: &'a [u8],
        /// The controlling terminal's name as the kernel has it (`pts0`), or empty.
        tty: &'a [u8],
        /// The cgroup v2 path from the root; empty or `/` where the host's cgroups are version 1.
        cgroup: &'a [u8],
        cgroup_id: u64,
    },
    /// The last thread of `pid` is gone.
    Exit { time: BootTime, pid: u32, key: u64 },
}

//! A process of this host, as far as it is known.

use std::sync::Arc;

use serde::Serialize;

use super::{BootTime, WallTime};

/// What one process was when it connected. Shared by all its connections; never changed afterwards.
#[derive(Clone, Debug, Default)]
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
    pub cgroup: Option<Arc<str>>,
    pub unit: Option<Arc<str>>,
    pub container: Option<Arc<str>>,
    pub pod: Option<Arc<str>>,
}

/// One ancestor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parent {
    pub pid: u32,
    pub comm: Arc<str>,
}

/// How much a login uid proves: an unprivileged process whose login uid is unset may set it to
/// anybody's, so it counts only with an agreeing login session in the cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

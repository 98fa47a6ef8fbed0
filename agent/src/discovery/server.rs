//! What is known of a database server that was found.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::libraries::TlsLibrary;
use crate::event::BootTime;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerKind {
    Postgresql,
    /// PgBouncer: clients reach a database through it.
    Pooler,
}

/// A PostgreSQL postmaster, or a pooler. `(pid, start)` names it.
#[derive(Clone, Debug)]
pub struct Server {
    pub kind: ServerKind,
    pub pid: u32,
    /// Rounded down to a clock tick.
    pub start: BootTime,
    /// As the server's mount namespace has it.
    pub exe: PathBuf,
    pub exe_file: FileId,
    /// As `PG_VERSION` says: `15`, `9.6`. A pooler's is empty.
    pub version: String,
    /// Its working directory, as its mount namespace has it; of a pooler the path of its executable.
    pub data_directory: PathBuf,
    pub data_file: FileId,
    /// The identifier that `initdb` gave the cluster; a physical replica has its primary's.
    pub cluster: Option<u64>,
    pub uid: u32,
    pub namespaces: Namespaces,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// Without any, it cannot speak TLS through a shared library: it speaks none, or is static.
    pub tls: Vec<TlsLibrary>,
    /// A seccomp filter is in force: return probes could kill it where the filter denies their call.
    pub seccomp: bool,
    /// All processes below it that lived when they were asked for: backends, workers, and what these had
    /// started.
    pub descendants: Vec<u32>,
    pub trust: Trust,
}

impl Server {
    /// The port it is known by: that of a TCP socket, else the number in a unix socket's name.
    pub fn port(&self) -> Option<u16> {
        let tcp = self.listeners.iter().find_map(|listener| match listener {
            Listener::Tcp { address, .. } => Some(address.port()),
            Listener::Unix { .. } => None,
        });
        tcp.or_else(|| {
            self.listeners.iter().find_map(|listener| match listener {
                Listener::Unix { path, .. } => {
                    path.file_name()?.to_str()?.strip_prefix(".s.PGSQL.")?.parse().ok()
                }
                Listener::Tcp { .. } => None,
            })
        })
    }

    pub fn is_verified(&self) -> bool {
        self.trust == Trust::Verified
    }

    pub(super) fn listens_on(&self, port: u16) -> bool {
        self.port() == Some(port)
            || self.listeners.iter().any(
                |listener| matches!(listener, Listener::Tcp { address, .. } if address.port() == port),
            )
    }

    pub(super) fn listens_at(&self, socket: &Path) -> bool {
        self.listeners
            .iter()
            .any(|listener| matches!(listener, Listener::Unix { path, .. } if path == socket))
    }
}

/// A file's device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// The inodes of a process's namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces {
    pub net: u64,
    pub mount: u64,
    pub user: u64,
}

/// A socket that a server listens on, in its own network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    Tcp {
        address: SocketAddr,
        inode: u64,
    },
    /// Abstract names start with `@`.
    Unix {
        path: PathBuf,
        inode: u64,
    },
}

/// Whether a server is what it seems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Program and data belong to root or to the service account, and nobody else can change them.
    Verified,
    /// Observed under a quota, never steered, no key of its loaded.
    Unverified(Vec<Doubt>),
}

/// Why a server is not taken for what it seems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// An executable of somebody else's, or of an account that is a person's.
    ExecutableOwner {
        owner: u32,
        server: u32,
    },
    /// An executable that its group or others may change.
    ExecutableWritable {
        mode: u32,
    },
    DataOwner {
        owner: u32,
        server: u32,
    },
    DataWritable {
        mode: u32,
    },
    /// A pooler of an account that is a person's can say whatever he likes about its clients.
    PoolerAccount {
        uid: u32,
    },
    /// In a user namespace anybody can mount what he likes where he likes.
    UserNamespace,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::ExecutableOwner { owner, server } if owner == server => write!(
                f,
                "its executable belongs to uid {owner}, which runs it and is no system account; \
                 name the executable in a [[server]] to accept it"
            ),
            Doubt::ExecutableOwner { owner, server } => {
                write!(f, "its executable belongs to uid {owner}, but uid {server} runs it")
            }
            Doubt::ExecutableWritable { mode } => {
                write!(f, "its executable can be changed by others (mode {mode:03o})")
            }
            Doubt::DataOwner { owner, server } => {
                write!(f, "its data directory belongs to uid {owner}, but uid {server} runs it")
            }
            Doubt::DataWritable { mode } => {
                write!(f, "its data directory can be changed by others (mode {mode:03o})")
            }
            Doubt::PoolerAccount { uid } => write!(
                f,
                "it runs as uid {uid}, which is no system account and could pass anything on as \
                 anybody's; name the executable in a [[server]] to accept it"
            ),
            Doubt::UserNamespace => {
                write!(f, "it runs in a user namespace of its own, where files may be anybody's")
            }
        }
    }
}

//! One connection to a database: its identity and its two ends.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Process;

/// The kernel's name for a socket: the address of its `struct sock` with the cookie (or, on the
/// fallback hooks, a generation) that tells two lives of one address apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    pub sock: u64,
    pub cookie: u64,
}

/// Names a connection uniquely on this host for ever: the second it was first seen in, then a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnectionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(de::Error::custom)
    }
}

/// One end of a connection as the kernel addresses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    Ip {
        address: IpAddr,
        port: u16,
    },
    /// A unix socket's path; abstract names start with `@`, unnamed ends have none.
    Unix {
        path: Option<Arc<str>>,
    },
}

/// Who is at the client's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Client {
    /// A process of this host, known from kernel records.
    Local(Arc<Process>),
    /// A process of this host that could not be found any more.
    LocalUnknown,
    /// Somebody on the network.
    Remote { address: IpAddr, port: u16 },
}

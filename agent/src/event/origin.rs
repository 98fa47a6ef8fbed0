//! The connection's half of a record: where a statement came in and who is known to have sent it.

use std::sync::Arc;

use serde::Serialize;

use super::{ConnectionId, LoginStrength, Parent, PrincipalKind, ServerSocket, WallTime};

/// Made once, when something of it becomes known or changes, and shared by all records until then.
///
/// What has no connection (the start of the service, the coverage of a server) leaves the fields
/// null that it has no answer to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    pub host: Arc<str>,
    pub environment: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
    pub server: Option<Arc<str>>,
    pub engine: Option<Engine>,
    /// An address, or the path of the unix socket.
    pub server_address: Option<Arc<str>>,
    pub server_port: Option<u16>,
    pub transport: Option<Transport>,
    pub lane: Option<Lane>,

    pub connection: Option<ConnectionId>,
    pub database: Option<Arc<str>>,
    pub db_user: Option<Arc<str>>,
    /// A claim.
    pub application: Option<Arc<str>>,
    pub client_address: Option<Arc<str>>,
    pub client_port: Option<u16>,

    /// Who it is, by which rule, and of an AI who launched it: see [`Principal`](super::Principal).
    pub principal: Option<Arc<str>>,
    pub principal_kind: Option<PrincipalKind>,
    pub principal_rule: Option<Arc<str>>,
    pub initiator: Option<Arc<str>>,
    /// For policies; no row has them.
    #[serde(skip)]
    pub groups: Arc<[Arc<str>]>,
    /// The server is guarded, and the client came past the guard. For policies; no row has it.
    #[serde(skip)]
    pub past_guard: bool,
    /// For whoever ends it; no row has it.
    #[serde(skip)]
    pub socket: Option<ServerSocket>,

    pub pid: Option<u32>,
    pub process_start: Option<WallTime>,
    pub exe: Option<Arc<str>>,
    pub command: Option<Arc<str>>,
    pub uid: Option<u32>,
    pub os_user: Option<Arc<str>>,
    pub login_uid: Option<u32>,
    pub login_user: Option<Arc<str>>,
    pub login_strength: Option<LoginStrength>,
    pub session: Option<u32>,
    pub tty: Option<Arc<str>>,
    pub parents: Arc<[Parent]>,
    pub cgroup: Option<Arc<str>>,
    pub unit: Option<Arc<str>>,
    pub container: Option<Arc<str>>,
    pub pod: Option<Arc<str>>,

    /// The pooler that it came through, by the name that it is watched under.
    pub pooler: Option<Arc<str>>,
    /// Of what came through a pooler: how sure it is whom the fields above name.
    pub client_certainty: Option<Certainty>,
}

/// Names as they are written out: `postgresql`, `unix+tls`, …
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$about])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}
pub(super) use named;

named! {
    /// How sure it is who stands behind a pooler.
    #[derive(Hash)]
    Certainty {
        /// Nobody else can have sent it.
        Exact = "exact",
        /// One of several clients, all of the same principal: what they have in common is said.
        Shared = "shared",
        /// It can't be told: the client is the pooler's own process.
        Unknown = "unknown",
    }
}

named! {
    #[derive(Hash)]
    Engine { Postgresql = "postgresql" }
}

named! {
    #[derive(Hash)]
    Transport { Tcp = "tcp", Tls = "tls", Unix = "unix", UnixTls = "unix+tls" }
}

named! {
    /// How a statement was seen.
    #[derive(Hash)]
    Lane {
        Observed = "observed",
        /// It came through the guard, which could stop it.
        Guarded = "guarded",
    }
}

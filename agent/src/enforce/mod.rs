//! Ends connections, and keeps whose next ones shall end: all that the observed lane can do about somebody.
//!
//! A connection ends at its socket, which is named by the kernel's cookie; no process is ever sent a
//! signal. What the server was doing for that client, it may still finish.

mod quarantine;
mod tcp;
mod unix;

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel},
    thread,
};

pub use quarantine::{Change, Detainee, Quarantine, QuarantineError, Who};

use crate::event::ServerSocket;

/// Connections that wait to be ended.
const QUEUE: usize = 64;

/// What became of a connection that was to be ended.
#[derive(Debug)]
pub enum Outcome {
    Ended,
    /// It was over before.
    Gone,
    Failed(EnforceError),
}

/// Why a connection goes on.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    #[error(
        "its socket is not known: it was open before it was watched, or others use it through a pooler"
    )]
    Unknown,
    #[error("too many others wait to be ended")]
    Busy,
    #[error("the server's process {pid} can't be read")]
    Process { pid: u32, source: io::Error },
    #[error(
        "the socket can't be taken from the server's process {pid}, which takes CAP_SYS_PTRACE"
    )]
    Take { pid: u32, source: io::Error },
    #[error("the network namespace of process {pid} can't be entered, which takes CAP_SYS_ADMIN")]
    Namespace { pid: u32, source: io::Error },
    #[error("the kernel doesn't end it: {}", why(source))]
    Refused { source: io::Error },
}

fn why(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "that takes CAP_NET_ADMIN",
        Some(libc::EOPNOTSUPP) => "it was built without CONFIG_INET_DIAG_DESTROY",
        _ => "it gives another reason",
    }
}

/// The thread that ends connections: entering a namespace or looking through a process takes a while.
pub struct Enforcer<T> {
    orders: SyncSender<(ServerSocket, T)>,
    outcomes: Receiver<(T, Outcome)>,
}

impl<T: Send + 'static> Enforcer<T> {
    pub fn start() -> io::Result<Self> {
        let (orders, ordered) = sync_channel::<(ServerSocket, T)>(QUEUE);
        let (done, outcomes) = channel();
        thread::Builder::new().name("enforcer".into()).spawn(move || {
            for (socket, ticket) in ordered {
                if done.send((ticket, end(&socket))).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { orders, outcomes })
    }

    /// Has a connection ended. Never waits.
    ///
    /// # Errors
    /// The ticket comes back where it can't be had.
    pub fn order(&self, socket: ServerSocket, ticket: T) -> Result<(), T> {
        self.orders.try_send((socket, ticket)).map_err(|error| match error {
            TrySendError::Full((_, ticket)) | TrySendError::Disconnected((_, ticket)) => ticket,
        })
    }

    /// What has become of some, by their tickets.
    pub fn outcomes(&self) -> impl Iterator<Item = (T, Outcome)> {
        self.outcomes.try_iter()
    }
}

/// Ends one connection, or nothing.
pub fn end(socket: &ServerSocket) -> Outcome {
    let ended = match socket.ends {
        Some([server, client]) => tcp::end(socket, server, client),
        None => unix::end(socket),
    };
    match ended {
        Ok(true) => Outcome::Ended,
        Ok(false) => Outcome::Gone,
        Err(error) => Outcome::Failed(error),
    }
}

/// Whether this host lets connections be ended, tried on one of our own.
///
/// # Errors
/// Why not.
pub fn trial() -> Result<(), EnforceError> {
    tcp::trial()?;
    unix::trial()
}

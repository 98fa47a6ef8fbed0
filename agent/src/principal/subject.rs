//! What is known of one client, as the rules see it.

use crate::event::{Claims, Client, Process};

/// Verified facts and claims, each under its own name.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub client: &'a Client,
    pub db_user: Option<&'a str>,
    /// The server has made the client prove that it is `db_user` (a password, a ticket). `trust`, `peer`
    /// and certificates alone look the same on the wire, so they don't count.
    pub db_user_proven: bool,
    /// A claim.
    pub application: Option<&'a str>,
    /// Subject of the client's TLS certificate, as far as it was seen: `CN=…`.
    pub certificate: Option<&'a str>,
    pub claims: Option<&'a Claims>,
}

impl<'a> Subject<'a> {
    /// Somebody of whom nothing else is known.
    pub fn of_client(client: &'a Client) -> Self {
        Self {
            client,
            db_user: None,
            db_user_proven: false,
            application: None,
            certificate: None,
            claims: None,
        }
    }

    /// The client's process, if it is known.
    pub fn process(&self) -> Option<&'a Process> {
        match self.client {
            Client::Local(process) => Some(process),
            Client::LocalUnknown | Client::Remote { .. } => None,
        }
    }
}

/// The uid of the user whose own service manager this unit belongs to. He chose what it is called, and
/// which containers are in it.
pub(super) fn owner(unit: &str) -> Option<u32> {
    let (manager, _) = unit.strip_prefix("user@")?.split_once(".service")?;
    manager.parse().ok()
}

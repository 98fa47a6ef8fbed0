//! What is known of one connection, and its half of the records made from that.

use std::{rc::Rc, sync::Arc};

use super::servers::ServerFacts;
use crate::{
    event::{Client, ConnectionId, Endpoint, Lane, Origin, Process, Transport},
    protocol::postgres::Title,
};

/// Grows as the connection speaks. Whatever changes it makes a new [`Origin`] due.
pub struct Profile {
    pub id: ConnectionId,
    pub server: Rc<ServerFacts>,
    pub local: Endpoint,
    pub remote: Endpoint,
    client: Client,
    database: Option<Arc<str>>,
    db_user: Option<Arc<str>>,
    application: Option<Arc<str>>,
    encrypted: bool,
    origin: Option<Arc<Origin>>,
}

impl Profile {
    pub fn new(
        id: ConnectionId,
        server: Rc<ServerFacts>,
        local: Endpoint,
        remote: Endpoint,
        client: Client,
    ) -> Self {
        Self {
            id,
            server,
            local,
            remote,
            client,
            database: None,
            db_user: None,
            application: None,
            encrypted: false,
            origin: None,
        }
    }

    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// A process of this host is at the other end, and nobody knows which.
    pub fn lacks_client(&self) -> bool {
        matches!(self.client, Client::LocalUnknown)
    }

    pub fn client_found(&mut self, process: Arc<Process>) {
        self.client = Client::Local(process);
        self.origin = None;
    }

    /// Names the session after its server process's title, if that speaks of this connection and
    /// nothing better is known. A start-up message, should one come after all, says it again.
    pub fn entitle(&mut self, title: &Title) {
        let client_port = match self.remote {
            Endpoint::Ip { port, .. } => Some(port),
            Endpoint::Unix { .. } => None,
        };
        if self.db_user.is_none() && title.client_port == client_port {
            self.db_user = Some(title.user.as_str().into());
            self.database = Some(title.database.as_str().into());
            self.origin = None;
        }
    }

    pub fn started(&mut self, user: &str, database: &str, application: &str) {
        self.db_user = known(user);
        self.database = known(database);
        self.application = known(application);
        self.origin = None;
    }

    pub fn calls_itself(&mut self, application: &str) {
        self.application = known(application);
        self.origin = None;
    }

    pub fn encryption_started(&mut self) {
        if !self.encrypted {
            self.encrypted = true;
            self.origin = None;
        }
    }

    /// The connection's half of its records, as of now.
    pub fn origin(&mut self, host: &Origin) -> Arc<Origin> {
        if let Some(origin) = &self.origin {
            return origin.clone();
        }
        let origin = Arc::new(self.make_origin(host));
        self.origin = Some(origin.clone());
        origin
    }

    fn make_origin(&self, host: &Origin) -> Origin {
        let process = match &self.client {
            Client::Local(process) => Some(process.as_ref()),
            Client::LocalUnknown | Client::Remote { .. } => None,
        };
        let (server_address, server_port) = address(&self.local);
        let (client_address, client_port) = address(&self.remote);
        let identity =
            |field: fn(&Process) -> &Option<Arc<str>>| process.and_then(|p| field(p).clone());
        let place = &self.server.place;
        Origin {
            environment: place.environment.as_ref().or(host.environment.as_ref()).cloned(),
            region: place.region.as_ref().or(host.region.as_ref()).cloned(),
            server: Some(self.server.name.clone()),
            engine: Some(self.server.engine),
            server_address,
            server_port,
            transport: Some(match (&self.local, self.encrypted) {
                (Endpoint::Ip { .. }, false) => Transport::Tcp,
                (Endpoint::Ip { .. }, true) => Transport::Tls,
                (Endpoint::Unix { .. }, false) => Transport::Unix,
                (Endpoint::Unix { .. }, true) => Transport::UnixTls,
            }),
            lane: Some(Lane::Observed),

            connection: Some(self.id),
            database: self.database.clone(),
            db_user: self.db_user.clone(),
            application: self.application.clone(),
            client_address,
            client_port,

            pid: process.map(|p| p.pid),
            process_start: process.map(|p| p.process_start),
            exe: identity(|p| &p.exe),
            command: identity(|p| &p.command),
            uid: process.and_then(|p| p.uid),
            os_user: identity(|p| &p.os_user),
            login_uid: process.and_then(|p| p.login_uid),
            login_user: identity(|p| &p.login_user),
            login_strength: process.map(|p| p.login_strength),
            session: process.and_then(|p| p.session),
            tty: identity(|p| &p.tty),
            parents: process.map(|p| p.parents.clone()).unwrap_or_default(),
            cgroup: identity(|p| &p.cgroup),
            unit: identity(|p| &p.unit),
            container: identity(|p| &p.container),
            pod: identity(|p| &p.pod),
            ..host.clone()
        }
    }
}

fn known(name: &str) -> Option<Arc<str>> {
    (!name.is_empty()).then(|| name.into())
}

fn address(end: &Endpoint) -> (Option<Arc<str>>, Option<u16>) {
    match end {
        Endpoint::Ip { address, port } => (Some(address.to_string().into()), Some(*port)),
        Endpoint::Unix { path } => (path.clone(), None),
    }
}

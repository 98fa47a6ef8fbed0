//! What is known of one connection, and its half of the records made from that.

mod through;

use std::{collections::VecDeque, rc::Rc, sync::Arc};

use super::{behind::Sender, servers::ServerFacts};
use crate::{
    config::LaneChoice,
    event::{
        BootTime, ClaimTag, Claims, Client, ConnectionId, Endpoint, Lane, Origin, Principal,
        Process, ServerSocket, Transport,
    },
    principal::{Rules, Subject, claims},
    protocol::postgres::Title,
};

/// Grows as the connection speaks. Whatever changes it makes a new [`Origin`] due.
pub struct Profile {
    pub id: ConnectionId,
    pub server: Rc<ServerFacts>,
    pub local: Endpoint,
    pub remote: Endpoint,
    client: Client,
    socket: Option<ServerSocket>,
    lane: Lane,
    /// It was to come through the guard, and did not.
    past_guard: bool,
    database: Option<Arc<str>>,
    db_user: Option<Arc<str>>,
    application: Option<Arc<str>>,
    /// Its application's name may claim something.
    claims_by_name: bool,
    /// The server has made sure that it is `db_user`.
    user_proven: bool,
    /// When its log-in began.
    began: Option<BootTime>,
    /// Subject of the client's TLS certificate, which the server has verified.
    certificate: Option<Box<str>>,
    encrypted: bool,
    origin: Option<Arc<Origin>>,
    /// The same for the last statement that claimed something about who sent it, and what that was.
    claimed: Option<(Vec<ClaimTag>, Arc<Origin>)>,
    /// The same for those who sent the last statements that came through a pooler.
    senders: VecDeque<(Rc<Sender>, Vec<ClaimTag>, Arc<Origin>)>,
    /// The same for a statement that came through a pooler, nobody knows from whom, and of what it is
    /// made.
    unsent: Option<(Arc<Origin>, Arc<Origin>)>,
}

/// Clients of a pooler whose origins are kept ready.
const MAX_SENDERS: usize = 16;

impl Profile {
    pub fn new(
        id: ConnectionId,
        server: Rc<ServerFacts>,
        local: Endpoint,
        remote: Endpoint,
        client: Client,
        socket: Option<ServerSocket>,
    ) -> Self {
        Self {
            id,
            past_guard: server.lane == LaneChoice::Guard,
            server,
            local,
            remote,
            client,
            socket,
            lane: Lane::Observed,
            database: None,
            db_user: None,
            application: None,
            claims_by_name: false,
            user_proven: false,
            began: None,
            certificate: None,
            encrypted: false,
            origin: None,
            claimed: None,
            senders: VecDeque::new(),
            unsent: None,
        }
    }

    /// The same for a connection that comes through the guard.
    pub fn guarded(self) -> Self {
        Self { lane: Lane::Guarded, past_guard: false, ..self }
    }

    /// The same for one that comes straight to its server, as policy says that it may or may not.
    pub fn straight(self, is_allowed: bool) -> Self {
        Self { past_guard: !is_allowed, ..self }
    }

    pub fn is_guarded(&self) -> bool {
        self.lane == Lane::Guarded
    }

    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// A process of this host is at the other end, and nobody knows which.
    pub fn lacks_client(&self) -> bool {
        matches!(self.client, Client::LocalUnknown)
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn client_found(&mut self, process: Arc<Process>) {
        self.client = Client::Local(process);
        self.changed();
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
            self.changed();
        }
    }

    /// Its server has verified a certificate with this common name. A server's process may read others
    /// on its client's behalf later, so only what was read before the log-in counts.
    pub fn certified(&mut self, common_name: &str, at: BootTime) {
        if self.certificate.is_none() && self.began.is_none_or(|began| at < began) {
            self.certificate = Some(format!("CN={common_name}").into());
            self.changed();
        }
    }

    pub fn started(&mut self, at: BootTime, user: &str, database: &str, application: &str) {
        self.began = self.began.or(Some(at));
        self.db_user = known(user);
        self.database = known(database);
        self.user_proven = false;
        self.calls_itself(application);
    }

    /// The server has let it in. Without a question it may have trusted anybody.
    pub fn authenticated(&mut self, method: &str) {
        self.user_proven = method != "trust";
        self.changed();
    }

    pub fn calls_itself(&mut self, application: &str) {
        self.application = known(application);
        self.claims_by_name = claims::may_claim(application);
        self.changed();
    }

    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    pub fn application(&self) -> Option<&str> {
        self.application.as_deref()
    }

    /// What is claimed in a text from here, and by its application's name.
    pub fn claims(&self, text: Option<&str>) -> Option<Claims> {
        let application = self.application.as_deref().filter(|_| self.claims_by_name);
        claims::read(text, application)
    }

    pub fn encryption_started(&mut self) {
        if !self.encrypted {
            self.encrypted = true;
            self.changed();
        }
    }

    fn changed(&mut self) {
        self.origin = None;
        self.claimed = None;
        self.senders.clear();
    }

    /// The database user, where the server has made sure that it is.
    pub fn proven_user(&self) -> Option<Arc<str>> {
        self.db_user.clone().filter(|_| self.user_proven)
    }

    /// The connection's half of its records, as of now.
    pub fn origin(&mut self, host: &Origin, rules: &Rules) -> Arc<Origin> {
        if let Some(origin) = &self.origin {
            return origin.clone();
        }
        let principal = self.principal(rules);
        let origin = Arc::new(self.make_origin(host, &principal, &self.client, &self.remote));
        self.origin = Some(origin.clone());
        origin
    }

    /// Likewise for a statement that claims something, which may make the client less trusted.
    pub fn origin_claiming(
        &mut self,
        host: &Origin,
        rules: &Rules,
        claims: Option<&Claims>,
    ) -> Arc<Origin> {
        let plain = self.origin(host, rules);
        let telling = claims.map(|claims| rules.telling(claims)).unwrap_or_default();
        if telling.is_empty() {
            return plain;
        }
        if let Some((tags, origin)) = &self.claimed
            && *tags == telling
        {
            return origin.clone();
        }
        let principal = self.decide(rules, claims);
        let last = self.claimed.take().map(|(_, origin)| origin);
        let origin = [Some(plain), last]
            .into_iter()
            .flatten()
            .find(|origin| says(origin, &principal))
            .unwrap_or_else(|| {
                Arc::new(self.make_origin(host, &principal, &self.client, &self.remote))
            });
        self.claimed = Some((telling, origin.clone()));
        origin
    }

    /// Who it is, as of now.
    pub fn principal(&self, rules: &Rules) -> Principal {
        let claims = self.claims(None);
        self.decide(rules, claims.as_ref())
    }

    fn decide(&self, rules: &Rules, claims: Option<&Claims>) -> Principal {
        rules.decide(&Subject {
            client: &self.client,
            db_user: self.db_user.as_deref(),
            db_user_proven: self.user_proven,
            application: self.application.as_deref(),
            certificate: self.certificate.as_deref(),
            claims,
        })
    }

    fn make_origin(
        &self,
        host: &Origin,
        principal: &Principal,
        client: &Client,
        remote: &Endpoint,
    ) -> Origin {
        let process = match client {
            Client::Local(process) => Some(process.as_ref()),
            Client::LocalUnknown | Client::Remote { .. } => None,
        };
        let (server_address, server_port) = address(&self.local);
        let (client_address, client_port) = address(remote);
        let (environment, region) = self.server.places.of(self.database.as_deref(), host);
        Origin {
            environment,
            region,
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
            lane: Some(self.lane),
            past_guard: self.past_guard,

            connection: Some(self.id),
            database: self.database.clone(),
            db_user: self.db_user.clone(),
            application: self.application.clone(),
            client_address,
            client_port,
            socket: self.socket,
            ..who(host, process, principal)
        }
    }
}

/// Whether this is what an origin says of that principal.
fn says(origin: &Origin, principal: &Principal) -> bool {
    let initiator = principal.initiator.as_deref().map(|initiator| &initiator.name);
    origin.principal.as_ref() == Some(&principal.name)
        && origin.principal_kind == Some(principal.kind)
        && origin.principal_rule.as_ref() == Some(&principal.rule)
        && origin.initiator.as_ref() == initiator
}

/// What is said of a process that has no connection.
pub fn unconnected(host: &Origin, process: &Process, principal: &Principal) -> Origin {
    who(host, Some(process), principal)
}

/// The part of an origin that says who it is.
fn who(host: &Origin, process: Option<&Process>, principal: &Principal) -> Origin {
    let identity =
        |field: fn(&Process) -> &Option<Arc<str>>| process.and_then(|p| field(p).clone());
    Origin {
        principal: Some(principal.name.clone()),
        principal_kind: Some(principal.kind),
        principal_rule: Some(principal.rule.clone()),
        initiator: principal.initiator.as_ref().map(|initiator| initiator.name.clone()),
        groups: principal.groups.clone(),

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

fn known(name: &str) -> Option<Arc<str>> {
    (!name.is_empty()).then(|| name.into())
}

fn address(end: &Endpoint) -> (Option<Arc<str>>, Option<u16>) {
    match end {
        Endpoint::Ip { address, port } => (Some(address.to_string().into()), Some(*port)),
        Endpoint::Unix { path } => (path.clone(), None),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::Profile;
    use crate::{
        config::LaneChoice,
        event::{BootTime, Client, ConnectionId, Endpoint, Engine, Origin},
        pipeline::servers::ServerFacts,
        principal::{Rules, Written},
    };

    /// A server's process may verify other certificates once its client has a say in what it does.
    #[test]
    fn only_a_certificate_from_before_the_log_in_counts() {
        let rule = r#"kind = "service"
            name = "reporter"
            certificate = "CN=report"
            "#;
        let rules = Rules::new(&[toml::from_str::<Written>(rule).unwrap()]).unwrap();
        let kind = |profile: &mut Profile| {
            profile.origin(&Origin::default(), &rules).principal.as_deref().map(str::to_owned)
        };
        let profile = || {
            let server = ServerFacts {
                name: "pg".into(),
                engine: Engine::Postgresql,
                places: Default::default(),
                coverage: Default::default(),
                is_verified: true,
                lane: LaneChoice::Observe,
                place: None,
                pooler: None,
            };
            let end = Endpoint::Unix { path: None };
            let client = Client::LocalUnknown;
            Profile::new(ConnectionId(1), Rc::new(server), end.clone(), end, client, None)
        };
        let mut early = profile();
        early.certified("report", BootTime(1));
        early.certified("somebody else", BootTime(2));
        early.started(BootTime(3), "app", "app", "");
        assert_eq!(kind(&mut early).as_deref(), Some("reporter"));

        // Told late, but read in time.
        let mut told_late = profile();
        told_late.started(BootTime(3), "app", "app", "");
        told_late.certified("report", BootTime(2));
        assert_eq!(kind(&mut told_late).as_deref(), Some("reporter"));

        let mut late = profile();
        late.started(BootTime(3), "app", "app", "");
        late.certified("report", BootTime(4));
        assert_ne!(kind(&mut late).as_deref(), Some("reporter"));
    }
}

//! Who asks and from where: what policies can see of a connection, and nothing that tells two alike apart.

use std::{net::IpAddr, sync::Arc};

use super::world::{Whereabouts, World};
use crate::event::{Engine, Lane, LoginStrength, Origin, PrincipalKind, Transport};

/// Connections of one program to one database are one caller, however many they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub kind: PrincipalKind,
    pub name: Arc<str>,
    pub groups: Arc<[Arc<str>]>,
    pub initiator: Option<Arc<str>>,
    pub os_user: Option<Arc<str>>,
    /// Only where a login session proves it.
    pub login_user: Option<Arc<str>>,
    pub exe: Option<Arc<str>>,
    pub unit: Option<Arc<str>>,
    pub container: Option<Arc<str>>,
    pub pod: Option<Arc<str>>,

    pub server: Option<Arc<str>>,
    pub engine: Option<Engine>,
    pub environment: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
    pub transport: Option<Transport>,
    pub lane: Lane,
    pub past_guard: bool,
    pub database: Option<Arc<str>>,
    pub db_user: Option<Arc<str>>,
    pub client_address: Option<IpAddr>,
    pub client_region: Option<Arc<str>>,
    pub pooler: Option<Arc<str>>,
    /// A claim.
    pub application: Option<Arc<str>>,
}

impl Caller {
    pub fn new(origin: &Origin, world: &World) -> Self {
        let address: Option<IpAddr> =
            origin.client_address.as_deref().and_then(|address| address.parse().ok());
        let client = Whereabouts {
            address,
            unit: origin.unit.as_deref(),
            container: origin.container.as_deref(),
            // A pooler's unix socket says nothing of those behind it.
            is_local: origin.pid.is_some()
                || origin.pooler.is_none()
                    && matches!(origin.transport, Some(Transport::Unix | Transport::UnixTls))
                || address.is_some_and(|address| address.is_loopback()),
        };
        let proven = origin.login_strength == Some(LoginStrength::Strong);
        Self {
            kind: origin.principal_kind.unwrap_or(PrincipalKind::Unknown),
            name: origin.principal.clone().unwrap_or_else(|| unknown_name(origin)),
            groups: origin.groups.clone(),
            initiator: origin.initiator.clone(),
            os_user: origin.os_user.clone(),
            login_user: origin.login_user.clone().filter(|_| proven),
            exe: origin.exe.clone(),
            unit: origin.unit.clone(),
            container: origin.container.clone(),
            pod: origin.pod.clone(),

            server: origin.server.clone(),
            engine: origin.engine,
            environment: origin.environment.clone(),
            region: origin.region.clone(),
            transport: origin.transport,
            lane: origin.lane.unwrap_or(Lane::Observed),
            past_guard: origin.past_guard,
            database: origin.database.clone(),
            db_user: origin.db_user.clone(),
            client_address: address,
            client_region: world.region_of(client, origin.region.as_ref()),
            pooler: origin.pooler.clone(),
            application: origin.application.clone(),
        }
    }
}

/// The best that is verified of somebody whom no rule names.
fn unknown_name(origin: &Origin) -> Arc<str> {
    let names = [&origin.unit, &origin.container, &origin.os_user, &origin.client_address];
    names.into_iter().flatten().next().cloned().unwrap_or_else(|| "?".into())
}

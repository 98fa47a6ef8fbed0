//! A statement by somebody somewhere, or a connection that he or a database makes, as it is written in a table of cases or
//! on a command line.

use std::{net::SocketAddr, sync::Arc};

use serde::Deserialize;

use crate::{
    analyst::Analyst,
    config::Settings,
    event::{
        ClaimTag, Destination, Facts, Lane, LoginStrength, Origin, PrincipalKind, Remote, WallTime,
    },
    policy::{Caller, Case, Circumstances, Subject, Whereabouts, World},
    statement::Lexing,
};

/// What is not said of the caller is what the configuration says of this host.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    /// Who sends it: human:alice, service:shop.service, ai:codex or unknown
    #[arg(long = "as", value_name = "KIND:NAME", default_value = "unknown")]
    principal: String,
    /// A group of theirs
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// Who launched an AI
    #[arg(long, value_name = "NAME")]
    initiator: Option<String>,
    #[arg(long, value_name = "NAME")]
    os_user: Option<String>,
    /// The human behind sudo or su
    #[arg(long, value_name = "NAME")]
    login_user: Option<String>,
    #[arg(long, value_name = "PATH")]
    exe: Option<String>,
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Database user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// Where the server is
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Where a client on the network is; without one it is a process of this host
    #[arg(long, value_name = "ADDRESS")]
    client_address: Option<String>,
    /// It comes through the guard, which can stop it
    #[arg(long)]
    guarded: bool,
    /// Read or changed
    #[arg(long, value_name = "N")]
    rows: Option<u64>,
    /// When; now, or in a table of cases 1970
    #[arg(long, value_name = "TIME", value_parser = time)]
    time: Option<WallTime>,
    /// What the client says of itself
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    #[serde(deserialize_with = "claims")]
    claims: Vec<(String, String)>,
}

/// Where a process of the database connects to.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectOut {
    /// Instead of a statement: a process of the database connects to this ADDRESS:PORT or path
    #[arg(long = "connect-out", value_name = "TO")]
    to: Option<String>,
    /// Where that is; by default what the configuration says of the address
    #[arg(id = "destination_region", long = "destination-region", value_name = "NAME")]
    #[serde(default)]
    region: Option<String>,
    /// The watched server that it is
    #[arg(id = "destination_server", long = "destination-server", value_name = "NAME")]
    #[serde(default)]
    server: Option<String>,
    /// The program that connects, which the database has started; by default the server's own process does
    #[arg(long, value_name = "PATH")]
    #[serde(default)]
    program: Option<String>,
}

/// What is asked about.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    Statement(&'a str),
    ConnectOut(&'a ConnectOut),
    /// The caller's own connection.
    Connect,
}

impl<'a> Asked<'a> {
    /// Exactly one of them.
    pub(super) fn new(
        statement: Option<&'a str>,
        connection: Option<&'a ConnectOut>,
        connects: bool,
    ) -> Result<Self, String> {
        match (statement, connection.filter(|connection| connection.to.is_some()), connects) {
            (Some(statement), None, false) => Ok(Self::Statement(statement)),
            (None, Some(connection), false) => Ok(Self::ConnectOut(connection)),
            (None, None, true) => Ok(Self::Connect),
            _ => Err("write either a statement, connect or connect-out".to_owned()),
        }
    }

    /// For people.
    pub(super) fn shown(self) -> String {
        match self {
            Self::Statement(text) => text.to_owned(),
            Self::ConnectOut(connection) => {
                format!("connect-out {}", connection.to.as_deref().unwrap_or_default())
            }
            Self::Connect => "connect".to_owned(),
        }
    }
}

/// Everything that a case borrows.
pub(super) struct Made {
    caller: Caller,
    what: What,
    time: WallTime,
    rows: Option<u64>,
    claims: Vec<ClaimTag>,
}

pub(super) enum What {
    Statement(Arc<Facts>),
    Outbound(Destination),
    Connect,
}

impl Made {
    pub(super) fn case(&self) -> Case<'_> {
        Case {
            caller: &self.caller,
            subject: match &self.what {
                What::Statement(facts) => Subject::Statement(Some(facts)),
                What::Outbound(destination) => Subject::Outbound(destination),
                What::Connect => Subject::Connect,
            },
            circumstances: Circumstances {
                time: self.time,
                rows: self.rows,
                claims: &self.claims,
                estimate: None,
            },
        }
    }

    pub(super) fn what(&self) -> &What {
        &self.what
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl Written {
    /// `now` counts where no time is written.
    pub(super) fn make(
        &self,
        asked: Asked<'_>,
        settings: &Settings,
        world: &World,
        analyst: &mut Analyst,
        now: WallTime,
    ) -> Result<Made, String> {
        let known = |text: &Option<String>| text.as_deref().map(Arc::<str>::from);
        let or = |text: &Option<String>, default: &Option<String>| known(text).or(known(default));
        let origin = Origin {
            host: settings.host.name.as_str().into(),
            environment: or(&self.environment, &settings.host.environment),
            region: or(&self.region, &settings.host.region),
            server: known(&self.server),
            lane: Some(if self.guarded { Lane::Guarded } else { Lane::Observed }),
            database: known(&self.database),
            db_user: known(&self.user),
            application: known(&self.application),
            client_address: known(&self.client_address),
            pid: self.client_address.is_none().then_some(1),
            exe: known(&self.exe),
            os_user: known(&self.os_user),
            login_user: known(&self.login_user),
            login_strength: self.login_user.as_ref().map(|_| LoginStrength::Strong),
            unit: known(&self.unit),
            container: known(&self.container),
            ..Origin::default()
        };
        if let Some(address) = &self.client_address
            && address.parse::<std::net::IpAddr>().is_err()
        {
            return Err(format!("client_address: {address:?} is no address"));
        }
        let mut caller = Caller::new(&origin, world);
        let (kind, name) = match self.principal.split_once(':') {
            Some((kind, name)) => (kind, Some(name)),
            None if self.principal.is_empty() => ("unknown", None),
            None => (self.principal.as_str(), None),
        };
        caller.kind =
            PrincipalKind::ALL.iter().copied().find(|one| one.name() == kind).ok_or_else(|| {
                let wanted = "human:alice, service:shop.service, ai:codex or unknown";
                format!("principal: {:?} is nobody: write {wanted}", self.principal)
            })?;
        if let Some(name) = name {
            caller.name = name.into();
        }
        caller.initiator = known(&self.initiator);
        caller.groups = self.groups.iter().map(|group| group.as_str().into()).collect();
        Ok(Made {
            caller,
            what: match asked {
                Asked::Statement(text) => What::Statement(analyst.facts(text, Lexing::default())),
                Asked::ConnectOut(connection) => {
                    What::Outbound(connection.destination(&origin, world)?)
                }
                Asked::Connect => What::Connect,
            },
            time: self.time.unwrap_or(now),
            rows: self.rows,
            claims: self
                .claims
                .iter()
                .map(|(name, value)| ClaimTag {
                    name: name.as_str().into(),
                    value: value.as_str().into(),
                })
                .collect(),
        })
    }
}

impl ConnectOut {
    fn destination(&self, origin: &Origin, world: &World) -> Result<Destination, String> {
        let known = |text: &Option<String>| text.as_deref().map(Arc::<str>::from);
        let to = match self.to.as_deref().unwrap_or_default() {
            path if path.starts_with(['/', '@']) => Remote::Unix(Some(path.into())),
            text => {
                let to: SocketAddr = text.parse().map_err(|_| {
                    format!("connect-out: {text:?}: write 10.0.0.1:5432, [::1]:5432 or a path")
                })?;
                Remote::Ip(to.ip(), to.port())
            }
        };
        let address = match &to {
            Remote::Ip(address, _) => Some(*address),
            Remote::Unix(_) => None,
        };
        let is_local = address.is_none_or(|address| address.is_loopback());
        let place = Whereabouts { address, is_local, ..Whereabouts::default() };
        Ok(Destination {
            to,
            region: known(&self.region).or_else(|| world.region_of(place, origin.region.as_ref())),
            server: known(&self.server),
            program: known(&self.program),
            by_server: self.program.is_none(),
        })
    }
}

fn time(text: &str) -> Result<WallTime, String> {
    let text = serde_json::Value::String(text.to_owned());
    WallTime::deserialize(text).map_err(|_| "write 2026-11-25T03:00:00Z".to_owned())
}

fn claim(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// A table of names and values.
fn claims<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(String, String)>, D::Error> {
    let table = std::collections::BTreeMap::<String, String>::deserialize(deserializer)?;
    Ok(table.into_iter().collect())
}

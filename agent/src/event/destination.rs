//! Connections that a database's own processes open: data leaves that way too.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{EpisodeAction, Judgement, Origin, WallTime};

/// Where such a connection leads, and what opened it. Two that are the same make one burst.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    pub to: Remote,
    /// Where that is.
    pub region: Option<Arc<str>>,
    /// Which watched server of this host it is.
    pub server: Option<Arc<str>>,
    /// The executable that connects.
    pub program: Option<Arc<str>>,
    /// The server's own process connects; else a program that it has started does.
    pub by_server: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    Ip(IpAddr, u16),
    /// The path of a unix socket, `@…` of an abstract one; `None` where it has no name.
    Unix(Option<Arc<str>>),
}

/// One connection, or an end of a burst of them: a row when it begins, and one when it is over.
#[derive(Clone, Debug)]
pub struct Outbound {
    pub time: WallTime,
    pub action: EpisodeAction,
    /// Of the client that the process works for, where that is known; else of the server alone.
    pub origin: Arc<Origin>,
    /// Of the process that connects.
    pub pid: u32,
    pub destination: Arc<Destination>,
    /// What policy makes of it; `None` until it has been judged.
    pub judgement: Option<Arc<Judgement>>,
    /// Of a burst that is over.
    pub connections: Option<u64>,
}

impl Outbound {
    /// For people: who connects where.
    pub fn message(&self) -> String {
        let Destination { program, by_server, .. } = &*self.destination;
        let exe = program.as_ref().map(|exe| format!(" ({exe})")).unwrap_or_default();
        let whose = if *by_server { "of the database itself" } else { "started by the database" };
        format!("process {}{exe} {whose} connects to {}", self.pid, self.destination)
    }
}

impl Destination {
    /// An address, or the path of a unix socket.
    pub fn address(&self) -> Option<String> {
        match &self.to {
            Remote::Ip(address, _) => Some(address.to_string()),
            Remote::Unix(path) => path.as_ref().map(ToString::to_string),
        }
    }

    pub fn port(&self) -> Option<u16> {
        match self.to {
            Remote::Ip(_, port) => Some(port),
            Remote::Unix(_) => None,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Remote::Ip(address, port) => write!(f, "{address} port {port}")?,
            Remote::Unix(Some(path)) => f.write_str(path)?,
            Remote::Unix(None) => f.write_str("a unix socket without a name")?,
        }
        if let Some(region) = &self.region {
            write!(f, ", region {region}")?;
        }
        if let Some(server) = &self.server {
            write!(f, ", server {server}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Destination, Outbound, Remote};
    use crate::event::{EpisodeAction, Origin, WallTime};

    #[test]
    fn a_message_says_who_and_where() {
        let message = |to, by_server, server: Option<&str>| {
            let destination = Destination {
                to,
                region: Some("us".into()),
                server: server.map(Into::into),
                program: Some("/usr/bin/curl".into()),
                by_server,
            };
            let outbound = Outbound {
                time: WallTime(0),
                action: EpisodeAction::Began,
                origin: Arc::new(Origin::default()),
                pid: 7,
                destination: Arc::new(destination),
                judgement: None,
                connections: None,
            };
            outbound.message()
        };
        assert_eq!(
            message(Remote::Ip([10, 0, 0, 1].into(), 443), false, None),
            "process 7 (/usr/bin/curl) started by the database connects to 10.0.0.1 port 443, \
             region us"
        );
        assert_eq!(
            message(Remote::Unix(Some("/run/x".into())), true, Some("orders")),
            "process 7 (/usr/bin/curl) of the database itself connects to /run/x, region us, \
             server orders"
        );
    }
}

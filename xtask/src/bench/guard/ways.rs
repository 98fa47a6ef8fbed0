//! The ways to the server that are compared, and what stands on them.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use dbwarden_tests::{Agent, Haproxy, PgBouncer, Postgres};

use super::super::{cost, pinned::Pinned};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Direct,
    Haproxy,
    PgBouncer,
    Guard,
}

pub const WAYS: [Way; 4] = [Way::Direct, Way::Haproxy, Way::PgBouncer, Way::Guard];

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "HAProxy",
            Self::PgBouncer => "PgBouncer",
            Self::Guard => "guard",
        }
    }
}

/// The server and the proxies in front of it; those without a client cost next to nothing.
pub struct Ways {
    program: std::path::PathBuf,
    pub postgres: Postgres,
    haproxy: Haproxy,
    pgbouncer: PgBouncer,
}

impl Ways {
    pub fn start(program: &Path, postgres: Postgres) -> Result<Self> {
        let haproxy = Haproxy::start(&postgres)?;
        // Sessions, each with a connection of its own: as it is between a client and the others.
        let pgbouncer = PgBouncer::builder()
            .setting("pool_mode", "session")
            .setting("default_pool_size", "100")
            .start(&postgres)?;
        Ok(Self { program: program.to_owned(), postgres, haproxy, pgbouncer })
    }

    /// The agent with its guard, where this is the way.
    pub fn guard(&self, way: Way) -> Result<Option<Guard>> {
        (way == Way::Guard).then(|| Guard::start(&self.program, &self.postgres)).transpose()
    }

    pub fn port(&self, way: Way) -> Result<u16> {
        Ok(match way {
            Way::Direct => self.postgres.port(),
            Way::Haproxy => self.haproxy.port(),
            Way::PgBouncer => self.pgbouncer.port(),
            Way::Guard => self.postgres.guard_port().context("the server has no guard")?,
        })
    }

    pub fn conninfo(&self, way: Way) -> Result<String> {
        let port = self.port(way)?;
        Ok(format!("host=127.0.0.1 port={port} sslmode=disable user=postgres dbname=postgres"))
    }

    /// Processor time that was spent so far.
    pub fn spent(&self, way: Way, guard: Option<&Guard>) -> Result<Spent> {
        let proxy_us = match (way, guard) {
            (Way::Haproxy, _) => cost::threads_us(self.haproxy.pid())?,
            (Way::PgBouncer, _) => cost::threads_us(self.pgbouncer.pid())?,
            (Way::Guard, Some(guard)) => guard.own_us()?,
            (Way::Direct | Way::Guard, _) => 0.0,
        };
        let agent_us = guard.map(|guard| cost::threads_us(guard.agent.pid())).transpose()?;
        Ok(Spent {
            proxy_us,
            agent_us: agent_us.unwrap_or_default(),
            server_us: cost::tree_us(self.postgres.pid()?)?,
        })
    }
}

/// In microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// By whatever stands between client and server.
    pub proxy_us: f64,
    /// By the agent beside its guard: it observes, and keeps what it sees.
    pub agent_us: f64,
    /// By the server, and by BPF programs in its time.
    pub server_us: f64,
}

impl Spent {
    pub fn since(self, before: Self) -> Self {
        Self {
            proxy_us: self.proxy_us - before.proxy_us,
            agent_us: self.agent_us - before.agent_us,
            server_us: self.server_us - before.server_us,
        }
    }
}

/// Runs a program in a session of its own, as a service manager does. The kernel's scheduler shares processors out between
/// sessions (`sched_autogroup_enabled`): in the load's own, what the agent does on another processor takes from the
/// load's share on this one, and that decides whether proxies meet their clients one by one or many at a time.
const APART: &str = "setsid";

/// An agent as it is installed, with its guard in front of one server.
pub struct Guard {
    agent: Agent,
    pid: u32,
}

impl Guard {
    /// The guard is on the processor of the load, where every proxy is; the agent is not.
    pub fn start(program: &Path, postgres: &Postgres) -> Result<Self> {
        let agent = {
            let _off_it = Pinned::off_it()?;
            Agent::builder()
                .program(program)
                .under(&[APART])
                .configuration(&postgres.guarded("environment = \"production\""))
                .start()?
        };
        agent.await_server(postgres.port())?;
        agent.await_guard()?;
        let is_guard = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0guard\0"))
        };
        let pid = cost::children(agent.pid())?.into_iter().find(is_guard);
        let pid = pid.context("the agent has no guard")?;
        Pinned::process_to_one(pid)?;
        Ok(Self { agent, pid })
    }

    /// The guard's own time and that of its analysts.
    fn own_us(&self) -> Result<f64> {
        let mut total = cost::threads_us(self.pid)?;
        for analyst in cost::children(self.pid)? {
            total += cost::threads_us(analyst).unwrap_or_default();
        }
        Ok(total)
    }

    /// Memory of the guard itself.
    pub fn kib(&self) -> Result<u64> {
        cost::proportional_kib(self.pid)
    }
}

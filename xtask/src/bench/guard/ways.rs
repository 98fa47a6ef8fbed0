//! The ways to the server that are compared, and what stands on them.

use std::{fs, path::Path, thread::sleep, time::Duration};

use anyhow::{Context, Result};
use dbwarden_tests::{Agent, Haproxy, PgBouncer, Postgres};
use tempfile::TempDir;

use super::super::{cost, pinned::Pinned};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Direct,
    Haproxy,
    PgBouncer,
    /// Nothing stands between; the agent observes.
    Observed,
    /// What is observed goes through the guard.
    Guard,
    /// It asks the server itself.
    Catalog,
    /// Likewise, and masks values for others than those who come.
    Labelled,
    /// Likewise, for those who come: two columns.
    Masking,
}

pub const WAYS: [Way; 8] = [
    Way::Direct,
    Way::Haproxy,
    Way::PgBouncer,
    Way::Observed,
    Way::Guard,
    Way::Catalog,
    Way::Labelled,
    Way::Masking,
];

/// Between a guard's start and the load: by then it has judged by its final rules for a while.
const SETTLE: Duration = Duration::from_millis(300);

/// What is hidden, and a rule that hides it.
const LABELS: &str = r#"
[[label]]
name = "bench"
on = ["*.public.pgbench_accounts.bid", "*.public.pgbench_accounts.filler"]
"#;
const RULE: &str = r#"@id("bench") @verdict("mask") @mask("hash") @message("bench")"#;
const FOR_ALL: &str =
    r#"forbid (principal, action, resource) when { resource.labels.contains("bench") };"#;
const FOR_OTHERS: &str = r#"forbid (principal is Human, action, resource)
    when { principal.name == "nobody" && resource.labels.contains("bench") };"#;

impl Way {
    /// What a client has where nothing of it is in use.
    pub fn without(self) -> Self {
        if self.has_agent() { Self::Observed } else { Self::Direct }
    }

    fn has_agent(self) -> bool {
        !matches!(self, Self::Direct | Self::Haproxy | Self::PgBouncer)
    }

    /// Whether transactions are measured on it.
    pub fn has_transactions(self) -> bool {
        self != Self::Masking
    }

    /// Whether large results are.
    pub fn has_rows(self) -> bool {
        !matches!(self, Self::Observed | Self::Catalog | Self::Labelled)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "HAProxy",
            Self::PgBouncer => "PgBouncer",
            Self::Observed => "observed",
            Self::Guard => "guard",
            Self::Catalog => "guard, catalog",
            Self::Labelled => "guard, labels",
            Self::Masking => "guard, masking",
        }
    }
}

/// The server and the proxies in front of it; those without a client cost next to nothing.
pub struct Ways {
    program: std::path::PathBuf,
    pub postgres: Postgres,
    haproxy: Haproxy,
    pgbouncer: PgBouncer,
    /// What the configuration of a server says of who asks it.
    catalog: String,
}

impl Ways {
    pub fn start(program: &Path, postgres: Postgres) -> Result<Self> {
        let haproxy = Haproxy::start(&postgres)?;
        // Sessions, each with a connection of its own: as it is between a client and the others.
        let pgbouncer = PgBouncer::builder()
            .setting("pool_mode", "session")
            .setting("default_pool_size", "100")
            .start(&postgres)?;
        let catalog = postgres.catalog_role(None)?;
        Ok(Self { program: program.to_owned(), postgres, haproxy, pgbouncer, catalog })
    }

    /// The agent, where it has to do with this way.
    pub fn agent(&self, way: Way) -> Result<Option<Watching>> {
        if !way.has_agent() {
            return Ok(None);
        }
        let agent = self.start_agent(way)?;
        sleep(SETTLE);
        Ok(Some(agent))
    }

    fn start_agent(&self, way: Way) -> Result<Watching> {
        let rule = match way {
            Way::Labelled => Some(FOR_OTHERS),
            Way::Masking => Some(FOR_ALL),
            _ => None,
        };
        let (lane, catalog) = match way {
            Way::Observed => ("observe", ""),
            Way::Guard => ("guard", ""),
            _ => ("guard", &*self.catalog),
        };
        Watching::start(&self.program, &self.postgres, lane, catalog, rule)
    }

    pub fn port(&self, way: Way) -> Result<u16> {
        Ok(match way {
            Way::Direct | Way::Observed => self.postgres.port(),
            Way::Haproxy => self.haproxy.port(),
            Way::PgBouncer => self.pgbouncer.port(),
            Way::Guard | Way::Catalog | Way::Labelled | Way::Masking => {
                self.postgres.guard_port().context("the server has no guard")?
            }
        })
    }

    pub fn conninfo(&self, way: Way) -> Result<String> {
        let port = self.port(way)?;
        Ok(format!("host=127.0.0.1 port={port} sslmode=disable user=postgres dbname=postgres"))
    }

    /// Processor time that was spent so far.
    pub fn spent(&self, way: Way, agent: Option<&Watching>) -> Result<Spent> {
        let proxy_us = match (way, agent) {
            (Way::Haproxy, _) => cost::threads_us(self.haproxy.pid())?,
            (Way::PgBouncer, _) => cost::threads_us(self.pgbouncer.pid())?,
            (_, Some(agent)) => agent.guard_us()?,
            (_, None) => 0.0,
        };
        let agent_us = agent.map(|agent| cost::threads_us(agent.agent.pid())).transpose()?;
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

/// An agent as it is installed, with one server.
pub struct Watching {
    agent: Agent,
    /// Where the server is in its lane.
    guard: Option<u32>,
    _policies: TempDir,
}

impl Watching {
    /// The guard is on the processor of the load, where every proxy is; the agent is not.
    pub fn start(
        program: &Path,
        postgres: &Postgres,
        lane: &str,
        catalog: &str,
        rule: Option<&str>,
    ) -> Result<Self> {
        let policies = tempfile::tempdir()?;
        let mut labels = "";
        if let Some(rule) = rule {
            labels = LABELS;
            fs::write(policies.path().join("bench.cedar"), format!("{RULE}\n{rule}"))?;
        }
        let directory = policies.path().display();
        let policy = format!("{labels}[policy]\ndirectory = \"{directory}\"");
        let of_server = format!("environment = \"production\"\n{catalog}");
        let agent = {
            let _off_it = Pinned::off_it()?;
            Agent::builder()
                .program(program)
                .under(&[APART])
                .configuration(&policy)
                .configuration(&postgres.in_lane(lane, &of_server))
                .start()?
        };
        agent.await_server(postgres.port())?;
        if lane == "observe" {
            return Ok(Self { agent, guard: None, _policies: policies });
        }
        agent.await_guard()?;
        agent.await_catalog()?;
        let is_guard = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0guard\0"))
        };
        let pid = cost::children(agent.pid())?.into_iter().find(is_guard);
        let pid = pid.context("the agent has no guard")?;
        Pinned::process_to_one(pid)?;
        Ok(Self { agent, guard: Some(pid), _policies: policies })
    }

    /// The guard's own time and that of its analysts.
    fn guard_us(&self) -> Result<f64> {
        let Some(pid) = self.guard else { return Ok(0.0) };
        let mut total = cost::threads_us(pid)?;
        for analyst in cost::children(pid)? {
            total += cost::threads_us(analyst).unwrap_or_default();
        }
        Ok(total)
    }

    /// Memory of the guard itself.
    pub fn kib(&self) -> Result<u64> {
        cost::proportional_kib(self.guard.context("the agent has no guard")?)
    }
}

//! A server with a guard in front of it, and the agent that both belong to.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{Agent, AgentBuilder, Bpffs, FailingDisk, Postgres, PostgresBuilder, Via, await_until};

/// Denies nothing that comes through a guard.
const PERMISSIVE: &str = r#"@id("none") @verdict("deny") @severity("low") @message("not in this lane")
    forbid (principal, action == Action::"drop", resource) when { context.lane == "observed" };"#;

/// Nothing is dropped through a guard, and everything else passes.
pub const NO_DROP: &str = r#"@id("no-drop") @verdict("deny") @severity("high") @message("nothing is dropped here")
    forbid (principal, action in [Action::"drop", Action::"truncate"], resource)
    when { context.lane == "guarded" };"#;

/// For Python: a cancel request finds its session, and no other.
pub const CANCELLED: &str = r#"
import psycopg, sys, threading
with psycopg.connect(sys.argv[1], autocommit=True) as c:
    def cancel():
        with psycopg.connect(sys.argv[1], autocommit=True) as other:
            pid = c.info.backend_pid
            while other.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone() != ("PgSleep",):
                pass
        c.cancel()
    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        c.execute("SELECT pg_sleep(60)")
        sys.exit("not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    thread.join()
    assert c.execute("SELECT 1").fetchone() == (1,)
"#;

/// Waits until a guard is gone: whoever comes this way to the table `precious` goes straight on or is refused.
pub fn await_its_end(postgres: &Postgres, via: Via, on_guard_down: &str) -> Result<()> {
    await_until("the guard's end", || {
        let told = postgres.psql(via, "SELECT n FROM precious");
        Ok(match on_guard_down {
            "direct" => told.is_ok_and(|n| n == "1").then_some(()),
            _ => told.is_err_and(|e| e.to_string().contains("refused")).then_some(()),
        })
    })
}

/// Both end when dropped.
pub struct Guarded {
    pub postgres: Postgres,
    pub agent: Agent,
    pub policies: TempDir,
    // The last: the agent has it open.
    _pins: Bpffs,
}

impl Guarded {
    /// By these rules alone; clients come to the guard by themselves.
    pub fn start(server: PostgresBuilder, rules: &str) -> Result<Self> {
        Self::start_with(Agent::builder(), server, rules, "guard", "steer = false", "")
    }

    /// Likewise, by an agent whose ledger is on this disk.
    pub fn start_on(disk: &FailingDisk, server: PostgresBuilder, rules: &str) -> Result<Self> {
        let [preload, switch] = disk.environment();
        let agent = Agent::builder().under(&["env", &preload, &switch]);
        Self::start_with(agent, server, rules, "guard", "steer = false", "")
    }

    /// Those are led to the guard who connect to the server itself.
    pub fn start_led(server: PostgresBuilder, rules: &str, on_guard_down: &str) -> Result<Self> {
        let of_server = format!("on_guard_down = \"{on_guard_down}\"");
        let agent = Agent::builder();
        Self::led(Self::start_with(agent, server, rules, "guard", "steer = true", &of_server)?)
    }

    /// Likewise, with more of the server's configuration.
    pub fn start_with_more(server: PostgresBuilder, rules: &str, of_server: &str) -> Result<Self> {
        let agent = Agent::builder();
        Self::led(Self::start_with(agent, server, rules, "guard", "steer = true", of_server)?)
    }

    /// The rules say who of them is.
    pub fn start_by_policy(server: PostgresBuilder, rules: &str) -> Result<Self> {
        let agent = Agent::builder();
        Self::led(Self::start_with(agent, server, rules, "policy", "steer = true", "")?)
    }

    /// Likewise, by this agent.
    pub fn start_by(
        agent: AgentBuilder,
        server: PostgresBuilder,
        rules: &str,
        of_server: impl Fn(&Postgres) -> String,
    ) -> Result<Self> {
        Self::start_as(agent, server, rules, "guard", "steer = false", |postgres| {
            Ok(of_server(postgres))
        })
    }

    fn led(guarded: Self) -> Result<Self> {
        guarded.agent.await_steering()?;
        Ok(guarded)
    }

    /// Other rules apply from now on.
    pub fn judge_by(&self, rules: &str) -> Result<()> {
        let in_force = || self.agent.rows("SELECT 1 FROM rows WHERE action = 'policies_loaded'");
        let before = in_force()?.len();
        fs::write(self.policies.path().join("own.cedar"), rules)?;
        await_until("the new rules", || Ok((in_force()?.len() > before).then_some(())))
    }

    /// The guard stands in the place of the server's unix socket; nobody is led.
    pub fn start_in_front(
        server: PostgresBuilder,
        rules: &str,
        on_guard_down: &str,
    ) -> Result<Self> {
        let in_front = |postgres: &Postgres| {
            let front = postgres.front();
            Ok(format!("on_guard_down = \"{on_guard_down}\"\nguard_socket = {front:?}"))
        };
        let agent = Agent::builder();
        let guarded = Self::start_as(agent, server, rules, "guard", "steer = false", in_front)?;
        guarded.agent.await_front()?;
        Ok(guarded)
    }

    fn start_with(
        agent: AgentBuilder,
        server: PostgresBuilder,
        rules: &str,
        lane: &str,
        of_guard: &str,
        of_server: &str,
    ) -> Result<Self> {
        Self::start_as(agent, server, rules, lane, of_guard, |_| Ok(of_server.to_owned()))
    }

    fn start_as(
        agent: AgentBuilder,
        server: PostgresBuilder,
        rules: &str,
        lane: &str,
        of_guard: &str,
        of_server: impl Fn(&Postgres) -> Result<String>,
    ) -> Result<Self> {
        let pins = Bpffs::mount()?;
        let postgres = server.guarded().start()?;
        let of_server = of_server(&postgres)?;
        let policies = tempfile::tempdir()?;
        fs::write(policies.path().join("own.cedar"), rules)?;
        let agent = agent
            .configuration(&format!(
                "[policy]\ndirectory = \"{}\"\nstarter_pack = false",
                policies.path().display()
            ))
            .configuration(&format!(
                "{}{of_guard}\npins = {:?}",
                postgres.in_lane(lane, &format!("environment = \"production\"\n{of_server}")),
                pins.folder()
            ))
            .start()?;
        agent.await_server(postgres.port())?;
        agent.await_guard()?;
        Ok(Self { postgres, agent, policies, _pins: pins })
    }

    /// The guard asks the server itself, after `sql` has run there; `more` is what else is configured.
    pub fn start_asking(
        server: PostgresBuilder,
        sql: &str,
        rules: &str,
        more: &str,
        of_guard: &str,
    ) -> Result<Self> {
        let agent = Agent::builder().configuration(more);
        let of_guard = format!("steer = false\n{of_guard}");
        let asks = |postgres: &Postgres| {
            postgres.psql(Via::Tcp, sql)?;
            postgres.catalog_role(None)
        };
        let guarded = Self::start_as(agent, server, rules, "guard", &of_guard, asks)?;
        guarded.agent.await_catalog()?;
        Ok(guarded)
    }

    /// Everything passes.
    pub fn permissive(server: PostgresBuilder) -> Result<Self> {
        Self::start(server, PERMISSIVE)
    }

    /// What a command says on both outputs, and how it ended; what differs by the way that a client comes is left
    /// out: the port.
    pub fn transcript(&self, command: &mut Command) -> Result<String> {
        let output = command.output().with_context(|| format!("starting {command:?}"))?;
        let words = [output.stdout, output.stderr, output.status.to_string().into_bytes()].concat();
        let words = String::from_utf8_lossy(&words).into_owned();
        let guard = self.postgres.guard_port().context("it is not guarded")?.to_string();
        Ok(words.replace(&guard, &self.postgres.port().to_string()))
    }

    /// The guard's process.
    pub fn guard_pid(&self) -> Result<u32> {
        let mut children = String::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.agent.pid()))? {
            children += &fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        }
        let mut guards = children.split_whitespace().filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0guard\0"))
        });
        guards.next().context("there is no guard")?.parse().context("a pid")
    }
}

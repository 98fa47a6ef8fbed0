//! Clients from the network go through the guard, and the server sees who they are.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{
    Agent, Bpffs, NO_DROP, Netns, Postgres, PostgresBuilder, Session, Via, await_until,
    greeter::is_refused, need_root, said,
};
use serde_json::Value;
use tempfile::TempDir;

/// A guarded server on all addresses, and somebody on the network.
struct Guarded {
    // First: whoever steers ends before its network goes.
    agent: Agent,
    postgres: Postgres,
    network: Netns,
    _policies: TempDir,
    _bpffs: Bpffs,
}

/// What is there before the agent comes.
struct Host {
    postgres: Postgres,
    network: Netns,
}

impl Host {
    fn start(server: PostgresBuilder) -> Result<Self> {
        Ok(Self { postgres: server.everywhere().guarded().start()?, network: Netns::create()? })
    }

    fn guard(self, more: &str) -> Result<Guarded> {
        let Self { postgres, network } = self;
        let policies = tempfile::tempdir()?;
        fs::write(policies.path().join("own.cedar"), NO_DROP)?;
        let bpffs = Bpffs::mount()?;
        let agent = Agent::builder()
            .configuration(&format!(
                "[policy]\ndirectory = \"{}\"\nstarter_pack = false",
                policies.path().display()
            ))
            // The configuration of the guard stands last.
            .configuration(&format!(
                "{}\npins = \"{}\"",
                postgres.guarded(more),
                bpffs.folder().display()
            ))
            .start()?;
        agent.await_server(postgres.port())?;
        Ok(Guarded { agent, postgres, network, _policies: policies, _bpffs: bpffs })
    }
}

impl Guarded {
    fn await_led(&self) -> Result<()> {
        self.agent.await_guard()?;
        let network = self.network.outside();
        let look = || {
            let server = &self.agent.status()?["guard"]["servers"][0];
            ensure!(server["network"].is_null(), "{server}");
            let led = self.ask(network.into(), "DROP TABLE IF EXISTS nothing");
            let told = led.err().map(|error| error.to_string()).unwrap_or_default();
            Ok(told.contains("nothing is dropped").then_some(()))
        };
        await_until("clients from the network are led", look)
            .with_context(|| format!("what dbwarden said:\n{}", self.agent.log()))
    }

    /// From the host's address to that of the client.
    fn ways(&self) -> [(IpAddr, IpAddr); 2] {
        let network = &self.network;
        [
            (network.outside().into(), network.inside().into()),
            (network.outside6().into(), network.inside6().into()),
        ]
    }

    /// What the server answers somebody on the network.
    fn ask(&self, host: IpAddr, sql: &str) -> Result<String> {
        self.ask_at(SocketAddr::new(host, self.postgres.port()), sql)
    }

    fn ask_at(&self, at: SocketAddr, sql: &str) -> Result<String> {
        let mut psql = psql(&self.network, &self.postgres, at);
        Ok(said(psql.args(["-v", "VERBOSITY=verbose", "-c", sql]))?.trim_end().to_owned())
    }

    /// Why somebody on the network doesn't get what he asks for.
    fn is_told(&self, at: SocketAddr, sql: &str) -> Result<String> {
        match self.ask_at(at, sql) {
            Err(error) => Ok(error.to_string()),
            Ok(answer) => anyhow::bail!("{sql} at {at}: {answer}"),
        }
    }
}

/// A client on the network.
fn psql(network: &Netns, postgres: &Postgres, at: SocketAddr) -> Command {
    let mut command = network.command(&postgres.psql_command(Via::Network(at.ip())));
    command.env("PGCONNECT_TIMEOUT", "10");
    // The last word on a port counts.
    let port = at.port();
    command.args(["-d", &format!("{} port={port}", postgres.conninfo(Via::Network(at.ip())))]);
    command
}

/// The rules for the way back, IPv4 and IPv6.
fn rules() -> Result<[usize; 2]> {
    let count = |family: &str| -> Result<usize> {
        let rules = said(Command::new("ip").args([family, "rule", "show"]))?;
        Ok(rules.lines().filter(|line| line.contains("lookup 1684174593")).count())
    };
    Ok([count("-4")?, count("-6")?])
}

#[test]
fn the_server_sees_them_as_they_are() -> Result<()> {
    need_root!();
    let host = Host::start(Postgres::builder().setting("log_connections", "on"))?;
    host.postgres.psql(Via::Unix, "CREATE TABLE precious AS SELECT 1 AS n")?;
    let at = SocketAddr::new(host.network.outside().into(), host.postgres.port());
    let mut early = Session::start(&mut psql(&host.network, &host.postgres, at))?;
    let mut guarded = host.guard("")?;
    guarded.await_led()?;
    for (host, client) in guarded.ways() {
        let seen = guarded.ask(
            host,
            "SELECT inet_client_addr(), client_addr, client_port FROM pg_stat_activity \
             WHERE pid = pg_backend_pid()",
        )?;
        let port = seen.rsplit('|').next().unwrap_or_default().to_owned();
        ensure!(seen == format!("{client}|{client}|{port}"), "{host}: {seen}");
        let told = guarded
            .is_told(SocketAddr::new(host, guarded.postgres.port()), "DROP TABLE precious")?;
        ensure!(told.contains("42501: dbwarden: nothing is dropped here"), "{host}: {told}");
        // By the listener that clients can be pointed at.
        let own = SocketAddr::new(host, guarded.postgres.guard_port().context("no guard")?);
        if host.is_ipv4() {
            let seen = guarded.ask_at(own, "SELECT inet_client_addr()")?;
            ensure!(seen == client.to_string(), "{own}: {seen}");
            let told = guarded.is_told(own, "DROP TABLE precious")?;
            ensure!(told.contains("nothing is dropped here"), "{own}: {told}");
        }
        let rows = guarded.agent.await_rows(
            1,
            &format!(
                "SELECT client_address, client_port, lane, exe, pid FROM statements WHERE text LIKE \
                 '%FROM pg_stat_activity%' AND client_address = '{client}'"
            ),
        )?;
        let [row] = rows.as_slice() else { unreachable!() };
        ensure!(row["client_port"] == port.parse::<u64>()? && row["lane"] == "guarded", "{row}");
        ensure!(row["exe"].is_null() && row["pid"].is_null(), "{row}");
    }
    // A connection of before goes on, past the guard.
    ensure!(early.ask("SELECT inet_server_addr()")? == guarded.network.outside().to_string());
    early.ask("DROP TABLE precious")?;

    // Local clients, whose way the rule must not touch.
    for (via, local) in [(Via::Tcp, "127.0.0.1"), (Via::Tcp6, "::1")] {
        let seen = guarded.postgres.psql(via, "SELECT inet_client_addr(), inet_server_addr()")?;
        ensure!(seen == format!("{local}|{local}"), "{via:?}: {seen}");
    }
    let denied = "SELECT client_address FROM statements WHERE verdict = 'deny' AND text LIKE \
                  'DROP TABLE precious' ORDER BY client_address";
    guarded.agent.await_rows(3, denied)?;
    let from: Vec<String> = guarded.ways().iter().map(|(_, client)| client.to_string()).collect();
    let log = guarded.postgres.log()?;
    for client in from {
        let is_it = |entry: &&Value| entry["remote_host"] == client.as_str();
        ensure!(log.iter().filter(is_it).count() > 0, "{client} is not in the server's log");
    }
    Ok(())
}

/// Where the guard listens, of all kinds.
fn listening(pid: u32) -> Result<Vec<u16>> {
    let mut sockets = Vec::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd"))? {
        sockets
            .extend(fs::read_link(fd?.path()).ok().and_then(|to| to.to_str().map(str::to_owned)));
    }
    let mut ports = Vec::new();
    for table in ["tcp", "tcp6"] {
        for line in fs::read_to_string(format!("/proc/{pid}/net/{table}"))?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields.as_slice() else { continue };
            if sockets.contains(&format!("socket:[{inode}]")) {
                let port = local.rsplit(':').next().context("an address without a port")?;
                ports.push(u16::from_str_radix(port, 16)?);
            }
        }
    }
    Ok(ports)
}

#[test]
fn nobody_gains_a_line_that_trusts_the_loopback_address() -> Result<()> {
    need_root!();
    let server = Postgres::builder().hosts(
        "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n\
         host all all all reject\n",
    );
    let guarded = Host::start(server)?.guard("")?;
    guarded.agent.await_guard()?;
    await_until("clients are led", || {
        let server = &guarded.agent.status()?["guard"]["servers"][0];
        Ok((server["steering"] == "its clients are led to the guard").then_some(()))
    })?;
    let ports = listening(guarded.agent.pid())?;
    ensure!(ports.len() >= 3, "{ports:?}");
    for (host, client) in guarded.ways() {
        let taken_in = || anyhow::Ok(guarded.agent.status()?["guard"]["clients"].as_u64());
        let before = taken_in()?;
        let told = guarded.is_told(SocketAddr::new(host, guarded.postgres.port()), "SELECT 1")?;
        ensure!(taken_in()? > before, "{host}: past the guard");
        let rejected = format!("pg_hba.conf rejects connection for host \"{client}\"");
        ensure!(told.contains(&rejected), "{host}: {told}");
        for port in &ports {
            let at = SocketAddr::new(host, *port);
            let told = guarded.is_told(at, "SELECT 1")?;
            let expected = [&*rejected, "takes no clients from the network", "refused"];
            ensure!(expected.iter().any(|words| told.contains(words)), "{at}: {told}");
        }
    }
    Ok(())
}

#[test]
fn a_killed_agent_leaves_them_with_the_server_or_refused() -> Result<()> {
    need_root!();
    for down in ["direct", "refuse"] {
        let more = format!("on_guard_down = \"{down}\"");
        let mut guarded = Host::start(Postgres::builder())?.guard(&more)?;
        guarded.await_led()?;
        let port = guarded.postgres.port();
        ensure!(rules()? == [1, 1], "{down}: {:?}", rules()?);
        guarded.agent.kill()?;
        for (host, _) in guarded.ways() {
            match down {
                // The guard's own process ends a moment after.
                "direct" => {
                    await_until("a server without steering", || {
                        Ok(guarded.ask(host, "DROP TABLE IF EXISTS nothing").ok())
                    })?;
                }
                _ => {
                    let at = SocketAddr::new(host, port);
                    await_until("a refusal", || {
                        Ok(guarded.network.run(|| Ok(is_refused(at)))?.then_some(()))
                    })?;
                }
            }
        }
        // What a crash has left is taken over, not doubled.
        guarded.agent.start_again()?;
        guarded.await_led()?;
        ensure!(rules()? == [1, 1], "{down}: {:?}", rules()?);
        ensure!(guarded.agent.stop()?.success());
        ensure!(rules()? == [0, 0], "{down}: {:?}", rules()?);
        let at = SocketAddr::new(guarded.network.outside().into(), port);
        let is_reached = guarded
            .network
            .run(|| Ok(TcpStream::connect_timeout(&at, Duration::from_secs(5)).is_ok()))?;
        ensure!(is_reached == (down == "direct"), "{down}");
    }
    Ok(())
}

/// A client that shows a certificate could not show it to the server.
#[test]
fn servers_that_ask_for_client_certificates_are_left_alone() -> Result<()> {
    need_root!();
    let rules = "local all all trust\nhost all all all trust\n\
                 hostssl all all all scram-sha-256 clientcert=verify-full\n";
    let Guarded { agent, postgres, network, .. } =
        &Host::start(Postgres::builder().tls().hosts(rules))?.guard("")?;
    let problem = await_until("a reason", || {
        let problem = &agent.status()?["guard"]["servers"][0]["problem"];
        Ok(problem.as_str().filter(|why| why.contains("certificate")).map(str::to_owned))
    })?;
    ensure!(problem.contains("pg_hba.conf line 3 asks for a client certificate"), "{problem}");
    ensure!(postgres.psql(Via::Tcp, "SELECT 1")? == "1");
    let at = SocketAddr::new(network.outside().into(), postgres.port());
    ensure!(said(psql(network, postgres, at).args(["-c", "SELECT 1"]))?.trim() == "1");
    Ok(())
}

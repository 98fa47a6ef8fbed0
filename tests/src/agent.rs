//! A dbwarden under test: started with a configuration of its own, asked through its own commands.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Postgres, Running, await_until, children::open_to_all, notify::Notify, place, said};

const PATIENCE: Duration = Duration::from_secs(60);

/// How the agent shall run.
#[derive(Default)]
pub struct AgentBuilder {
    program: Option<PathBuf>,
    ledger: String,
    control: String,
    configuration: String,
    arguments: Vec<String>,
    under: Vec<String>,
}

impl AgentBuilder {
    /// Another program than the one built beside the tests; `DBWARDEN_BIN` in the environment wins.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// More of the configuration's `[ledger]`, in TOML; it is kept in the agent's folder.
    pub fn ledger(mut self, toml: &str) -> Self {
        self.ledger.push_str(toml);
        self.ledger.push('\n');
        self
    }

    /// More of the configuration's `[control]`, in TOML.
    pub fn control(mut self, toml: &str) -> Self {
        self.control.push_str(toml);
        self.control.push('\n');
        self
    }

    /// More of the configuration file, in TOML; `[control]` and `[ledger]` are there already.
    pub fn configuration(mut self, toml: &str) -> Self {
        self.configuration.push_str(toml);
        self.configuration.push('\n');
        self
    }

    /// One more argument of `dbwarden run`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it by a command that becomes it, as `prlimit` does: its words come before the program's.
    pub fn under(mut self, command: &[&str]) -> Self {
        self.under.extend(command.iter().map(|&word| word.to_owned()));
        self
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(self) -> Result<Agent> {
        let program = match (std::env::var_os("DBWARDEN_BIN"), self.program) {
            (Some(program), _) => program.into(),
            (None, Some(program)) => program,
            (None, None) => place::profile_dir()?.join("dbwarden"),
        };
        if !program.is_file() {
            bail!("{} is not there: cargo xtask build", program.display());
        }
        let folder = tempfile::Builder::new().prefix("dbwarden-agent-").tempdir()?;
        open_to_all(folder.path())?;
        let control = folder.path().join("control.sock");
        let file = folder.path().join("config.toml");
        let configuration = format!(
            "[control]\nsocket = \"{}\"\n{}[ledger]\ndirectory = \"{at}/ledger\"\nkeys = \"{at}/keys\"\n{}{}",
            control.display(),
            self.control,
            self.ledger,
            self.configuration,
            at = folder.path().display(),
        );
        fs::write(&file, configuration)?;

        let mut start = self.under;
        start.push(program.display().to_string());
        let (process, ready) = launch(&start, folder.path(), &self.arguments)?;
        let arguments = self.arguments;
        let agent = Agent { process, program, start, arguments, control, folder };
        ready.with_context(|| format!("what dbwarden said:\n{}", agent.log()))?;
        Ok(agent)
    }
}

/// Starts it in its folder; with it, whether it has become ready.
fn launch(start: &[String], folder: &Path, arguments: &[String]) -> Result<(Running, Result<()>)> {
    let (first, rest) = start.split_first().context("nothing to start")?;
    let notify = Notify::listen(folder)?;
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    let mut command = Command::new(first);
    command
        .args(rest)
        .args(["run", "--config"])
        .arg(folder.join("config.toml"))
        .args(arguments)
        .env("NOTIFY_SOCKET", notify.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut process = Running::start("dbwarden", &mut command, Signal::SIGTERM)?;
    let ready = notify.await_ready(&mut process, "dbwarden");
    // For the next start.
    fs::remove_file(notify.path())?;
    Ok((process, ready))
}

/// A running agent; stopped when dropped.
pub struct Agent {
    process: Running,
    program: PathBuf,
    /// The program, after what it is started under.
    start: Vec<String>,
    arguments: Vec<String>,
    control: PathBuf,
    folder: TempDir,
}

impl Agent {
    pub fn builder() -> AgentBuilder {
        AgentBuilder::default()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Its configuration, which the next start reads again.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// The folder of its ledger.
    pub fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger")
    }

    /// Its own log so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// `dbwarden --control … ARGUMENTS`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--control").arg(&self.control).args(arguments);
        command
    }

    /// What `dbwarden status` says.
    pub fn status(&self) -> Result<Value> {
        let text = said(&mut self.command(&["status", "--format", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("the answer of status: {text}"))
    }

    /// What `dbwarden sql` answers, by the names of the columns.
    pub fn rows(&self, query: &str) -> Result<Vec<Value>> {
        let text = said(&mut self.command(&["sql", "--format", "json", query]))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Waits until a query has so many rows.
    pub fn await_rows(&self, n: usize, query: &str) -> Result<Vec<Value>> {
        await_until(query, || Ok(Some(self.rows(query)?).filter(|rows| rows.len() == n)))
    }

    /// Waits until `n` are watching.
    pub fn await_watchers(&self, n: u64) -> Result<()> {
        await_until(&format!("watcher {n}"), || Ok((self.watchers()? >= n).then_some(())))
    }

    fn watchers(&self) -> Result<u64> {
        self.status()?["agent"]["watchers"].as_u64().context("status names no watchers")
    }

    /// Starts to watch: what happens from now on is seen.
    pub fn watch(&self) -> Result<Watch> {
        self.watch_only(&[])
    }

    /// Likewise, but one server alone: others of the host may be busy.
    pub fn watch_server(&self, postgres: &Postgres) -> Result<Watch> {
        self.watch_only(&["--server", &postgres.name()])
    }

    /// Likewise, with filters.
    pub fn watch_only(&self, filters: &[&str]) -> Result<Watch> {
        let before = self.watchers()?;
        let mut command = self.command(&["watch", "--literals", "--format", "json"]);
        command.args(filters);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Running::start("dbwarden watch", &mut command, Signal::SIGTERM)?;
        let stdout = process.child().stdout.take().context("watch has no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        self.await_watchers(before + 1)?;
        Ok(Watch { lines, _process: process })
    }

    /// Waits until it has found the server with this port.
    pub fn await_server(&self, port: u16) -> Result<()> {
        let ending = format!(":{port}");
        await_until(&format!("the server on port {port}"), || {
            let status = self.status()?;
            let servers = status["servers"].as_array().context("status lists no servers")?;
            let listens = servers.iter().filter_map(|server| server["listens"].as_array());
            let found = listens.flatten().filter_map(Value::as_str).any(|at| at.ends_with(&ending));
            Ok(found.then_some(()))
        })
    }

    /// Waits until the guard takes clients in for every server that is guarded.
    pub fn await_guard(&self) -> Result<()> {
        await_until("the guard", || {
            let guard = &self.status()?["guard"];
            let servers = guard["servers"].as_array().context("no server is guarded")?;
            let ready = servers.iter().all(|server| server["problem"].is_null());
            Ok((guard["stands"] == true && ready).then_some(()))
        })
    }

    /// Waits until the guard asks every server that has a `catalog`.
    pub fn await_catalog(&self) -> Result<()> {
        await_until("the catalog", || {
            let servers = &self.status()?["guard"]["servers"];
            let servers = servers.as_array().context("no server is guarded")?;
            let is_asked =
                |server: &Value| server["catalog"].is_null() || server["catalog"]["Ok"].is_string();
            Ok(servers.iter().all(is_asked).then_some(()))
        })
    }

    /// Waits until clients of guarded servers are led to the guard, by IP and by unix sockets: the ones may be a
    /// while before the others.
    pub fn await_steering(&self) -> Result<()> {
        self.await_each("steering", |server| {
            let is_led =
                |how: &str| server[how].as_str().is_some_and(|how| how.contains("are led"));
            is_led("steering") && is_led("unix")
        })
    }

    /// Waits until the guard listens in the place of every server that has one for it.
    pub fn await_front(&self) -> Result<()> {
        self.await_each("the guard's sockets", |server| {
            server["socket"].is_string() && server["socket_problem"].is_null()
        })
    }

    fn await_each(&self, what: &str, is_ready: impl Fn(&Value) -> bool) -> Result<()> {
        await_until(what, || {
            let servers = &self.status()?["guard"]["servers"];
            let servers = servers.as_array().context("no server is guarded")?;
            Ok(servers.iter().all(&is_ready).then_some(()))
        })
    }

    /// SIGTERM, and its exit status.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop()
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts it anew where it was, after [`Self::stop`] or [`Self::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        let (process, ready) = launch(&self.start, self.folder.path(), &self.arguments)?;
        self.process = process;
        ready.with_context(|| format!("what dbwarden said:\n{}", self.log()))
    }

    /// SIGSTOP: it sees nothing until [`Self::resume`].
    pub fn pause(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }
}

/// The lines of `dbwarden watch --format json`.
pub struct Watch {
    lines: Receiver<String>,
    _process: Running,
}

impl Watch {
    /// The next line, statement or notice, within `patience`; `None` if there is none.
    pub fn next(&self, patience: Duration) -> Result<Option<Value>> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                let value = serde_json::from_str(&line)
                    .with_context(|| format!("a line of watch: {line}"))?;
                Ok(Some(value))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("dbwarden watch has ended"),
        }
    }

    /// Collects statements (not notices) that `wanted` until there are `n`; an error names how many
    /// came.
    pub fn statements(&self, n: usize, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let until = Instant::now() + PATIENCE;
        let mut found = Vec::new();
        while found.len() < n {
            let left = until.saturating_duration_since(Instant::now());
            let Some(line) = self.next(left)? else {
                bail!("{} of {n} statements came within {} s", found.len(), PATIENCE.as_secs());
            };
            if line.get("notice").is_none() && wanted(&line) {
                found.push(line);
            }
        }
        Ok(found)
    }

    /// Everything that `wanted` until the first statement that is `last`, with it.
    pub fn until(
        &self,
        wanted: impl Fn(&Value) -> bool,
        last: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>> {
        let until = Instant::now() + PATIENCE;
        let mut found = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(line) = self.next(left)? else {
                bail!("the last statement did not come; {} others did", found.len());
            };
            if line.get("notice").is_some() {
                continue;
            }
            let done = last(&line);
            if done || wanted(&line) {
                found.push(line);
            }
            if done {
                return Ok(found);
            }
        }
    }
}

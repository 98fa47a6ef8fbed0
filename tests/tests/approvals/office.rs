//! A guarded server, and the people who send statements to it and decide about others'.

use std::{
    io::{BufRead as _, BufReader},
    process::{ChildStderr, Command, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use dbwarden_tests::{
    Agent, Cgroup, Guarded, Postgres, Running, Via, await_until,
    sender::{placed, wrapped},
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Deletes wait, and what changes otherwise needs a ticket.
pub const RULES: &str = r#"
@id("hold-deletes") @verdict("hold") @severity("medium") @approvers("dba") @message("deletes are looked at first")
forbid (principal, action == Action::"delete", resource) when { context.lane == "guarded" };
@id("ticket-updates") @verdict("ticket") @severity("high") @approvers("dba") @message("updates need a ticket")
forbid (principal, action == Action::"update", resource) when { context.lane == "guarded" };
@id("two-for-grants") @verdict("ticket") @severity("high") @approvers("dba") @approvals("2") @ttl("1m")
@message("two people look at grants")
forbid (principal, action == Action::"grant", resource) when { context.lane == "guarded" };
@id("short-inserts") @verdict("ticket") @severity("low") @approvers("dba") @ttl("1s") @message("be quick")
forbid (principal, action == Action::"insert", resource) when { context.lane == "guarded" };
@id("hold-numbers") @verdict("hold") @severity("medium") @approvers("dba") @message("numbers are looked at first")
forbid (principal, action == Action::"read", resource) when { resource has labels && resource.labels.contains("held") };
@id("hide-numbers") @verdict("mask") @mask("hash") @flow("null") @severity("low") @message("numbers are hidden")
forbid (principal, action == Action::"read", resource) when { resource has labels && resource.labels.contains("hidden") };
"#;

const PRINCIPALS: &str = r#"
[[principal]]
kind = "human"
name = "alice"
login_uid = 1
groups = ["dba", "oncall"]
[[principal]]
kind = "human"
name = "bob"
login_uid = 2
groups = ["dba"]
[[principal]]
kind = "human"
name = "carol"
login_uid = 3
groups = ["dba"]
[[principal]]
kind = "human"
name = "eve"
login_uid = 5
groups = ["oncall"]
[approvals]
ttl = "10m"
hold = "5m"
break_glass = "oncall"
"#;

/// Somebody who has logged in: an account that every Debian has, and the number of the login session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    pub uid: u32,
    session: u32,
}

pub const ALICE: Person = Person { uid: 1, session: 81 };
/// She has two terminals.
pub const ALICE_AGAIN: Person = Person { uid: 1, session: 82 };
pub const BOB: Person = Person { uid: 2, session: 83 };
pub const CAROL: Person = Person { uid: 3, session: 84 };
/// Is on call.
pub const EVE: Person = Person { uid: 5, session: 85 };

pub struct Office {
    pub guarded: Guarded,
    /// Of the login sessions.
    groups: Vec<(Person, Cgroup)>,
}

impl Office {
    pub fn open() -> Result<Self> {
        Self::open_with("")
    }

    /// With more of the configuration.
    pub fn open_with(configuration: &str) -> Result<Self> {
        let agent = Agent::builder()
            .control("group = \"games\"")
            .configuration(PRINCIPALS)
            .configuration(configuration);
        let guarded = Guarded::start_by(agent, Postgres::builder(), RULES, |postgres| {
            let made = postgres.psql(
                Via::Tcp,
                "CREATE TABLE customers (id int PRIMARY KEY, name text);
                 INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 100) n;
                 CREATE ROLE app LOGIN; CREATE ROLE other; GRANT other TO app;
                 GRANT ALL ON customers TO app, other; ANALYZE",
            );
            made.and_then(|_| postgres.catalog_role(None)).unwrap_or_default()
        })?;
        guarded.agent.await_catalog()?;
        let mut groups = Vec::new();
        for person in [ALICE, ALICE_AGAIN, BOB, CAROL, EVE] {
            let Person { uid, session } = person;
            let path = format!("user.slice/user-{uid}.slice/session-{session}.scope");
            groups.push((person, Cgroup::create(&path)?));
        }
        Ok(Self { guarded, groups })
    }

    pub fn postgres(&self) -> &Postgres {
        &self.guarded.postgres
    }

    pub fn agent(&self) -> &Agent {
        &self.guarded.agent
    }

    /// A command of somebody's, in their login session; as their own account where it isn't root's.
    pub fn by(&self, person: Person, command: &Command) -> Command {
        self.run_by(person, person.uid, command)
    }

    /// Likewise by way of sudo.
    pub fn by_as_root(&self, person: Person, command: &Command) -> Command {
        self.run_by(person, 0, command)
    }

    fn run_by(&self, person: Person, uid: u32, command: &Command) -> Command {
        let uid = uid.to_string();
        // `games` may use the control socket.
        let account = ["setpriv", "--reuid", &uid, "--regid", &uid, "--groups", "60"];
        let group = self.groups.iter().find(|(known, _)| *known == person);
        let group = group.map(|(_, group)| group);
        let mut whole = placed(group, &person.uid.to_string(), &wrapped(&account, command));
        whole.current_dir("/");
        whole
    }

    /// What psql says to a person's statements, each by itself; as `app`.
    pub fn psql(&self, person: Person, statements: &[&str]) -> Result<Output> {
        let mut command = self.psql_command(person, statements);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    pub fn psql_command(&self, person: Person, statements: &[&str]) -> Command {
        let postgres = self.postgres();
        let mut psql = postgres.program("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "VERBOSITY=verbose",
            "-v",
            "ON_ERROR_STOP=0",
            "-d",
        ]);
        psql.arg(postgres.conninfo_as(Via::Guard, "app", "postgres"));
        for statement in statements {
            psql.args(["-c", statement]);
        }
        self.by(person, &psql)
    }

    /// `dbwarden approvals …`
    pub fn approvals(&self, person: Person, arguments: &[&str]) -> Result<Output> {
        let command = self.agent().command(&[&["approvals", "--json"], arguments].concat());
        Ok(self.by(person, &command).stdin(Stdio::null()).output()?)
    }

    /// Somebody approves, which goes well.
    pub fn approved(&self, person: Person, id: &str) -> Result<Value> {
        self.decided(person, &["approve", id])
    }

    pub fn decided(&self, person: Person, arguments: &[&str]) -> Result<Value> {
        let output = self.approvals(person, arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", words(&output));
        serde_json::from_slice(&output.stdout).with_context(|| words(&output))
    }

    /// Somebody tries to decide, and may not; what they are told.
    pub fn refused(&self, person: Person, arguments: &[&str]) -> Result<String> {
        let output = self.approvals(person, arguments)?;
        ensure!(output.status.code() == Some(1), "{arguments:?}: {}", words(&output));
        Ok(words(&output))
    }

    /// The ticket that a statement gets.
    pub fn ticket(&self, person: Person, statements: &[&str]) -> Result<String> {
        let output = self.psql(person, statements)?;
        let words = words(&output);
        ensure!(words.contains("WA001"), "{words}");
        id(&words)
    }

    /// Rows of an approval in the ledger, in their order, once there are as many.
    pub fn rows(&self, id: &str, actions: &[&str]) -> Result<Vec<Value>> {
        let query = format!(
            "SELECT * FROM rows WHERE approval = '{id}' AND record = 'approval' ORDER BY time"
        );
        let rows = await_until(&format!("{actions:?} of {id}"), || {
            let rows = self.agent().rows(&query)?;
            let found: Vec<&str> = rows.iter().filter_map(|row| row["action"].as_str()).collect();
            if found.len() > actions.len() {
                bail!("{id}: {found:?}, expected {actions:?}: {rows:#?}");
            }
            Ok((found == actions).then_some(rows.clone()))
        })?;
        Ok(rows)
    }

    /// How many customers there are.
    pub fn customers(&self) -> Result<String> {
        self.postgres().psql(Via::Tcp, "SELECT count(*) FROM customers")
    }
}

/// A psql whose statement waits.
pub struct Waiting {
    pub psql: Running,
    stderr: BufReader<ChildStderr>,
    pub id: String,
    /// What it said at once.
    pub notice: String,
}

impl Waiting {
    /// Starts it, and waits until it has been told to wait.
    pub fn start(office: &Office, person: Person, statements: &[&str]) -> Result<Self> {
        let mut command = office.psql_command(person, statements);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut psql = Running::start("psql", &mut command, Signal::SIGINT)?;
        let stderr = psql.errors().context("psql has no standard error")?;
        let mut stderr = BufReader::new(stderr);
        let mut notice = String::new();
        while !notice.contains("HINT:") {
            ensure!(stderr.read_line(&mut notice)? > 0, "psql has ended: {notice}");
        }
        ensure!(notice.contains("NOTICE:"), "{notice}");
        Ok(Self { psql, stderr, id: id(&notice)?, notice })
    }

    /// How it ended, and what else it said.
    pub fn end(mut self) -> Result<(bool, String)> {
        let status = self.psql.wait()?;
        let mut rest = String::new();
        while self.stderr.read_line(&mut rest)? > 0 {}
        Ok((status.success(), rest))
    }
}

pub fn words(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The first one that is named.
pub fn id(words: &str) -> Result<String> {
    let at = words.find("apr-").with_context(|| format!("no approval is named: {words}"))?;
    Ok(words[at..].chars().take("apr-".len() + 8).collect())
}

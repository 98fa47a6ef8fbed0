//! A case is run: in a database of its own, by way of any endpoint, with an eye on what became of it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::User;
use tempfile::TempDir;

use super::{
    cases::{Case, Step, base},
    client::{Answer, Client, Failure},
};

/// What takes effect in another process, as a signal does.
const PATIENCE: Duration = Duration::from_secs(3);

/// The guard's own role, whose connection is no case's.
const ASKS: &str = "dbwarden";

/// Each case begins with these as they were.
const ROLES: &str = "
    DROP ROLE IF EXISTS mallory;
    ALTER ROLE app NOSUPERUSER NOCREATEDB NOCREATEROLE LOGIN PASSWORD NULL;
    ALTER ROLE app RESET ALL;
    REVOKE pg_execute_server_program, pg_read_server_files, pg_write_server_files FROM app";

/// Where a server, or what stands before it, listens.
#[derive(Clone, Debug)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port }
    }

    fn connect(&self, user: &str, database: &str, application: &str) -> Result<Client> {
        Client::connect(&self.host, self.port, user, database, application)
    }
}

/// What became of a case.
#[derive(Debug)]
pub struct Report {
    pub before: String,
    pub after: String,
    /// Errors by the number of the step.
    pub failures: Vec<(usize, Failure)>,
}

impl Report {
    pub fn is_damage(&self) -> bool {
        self.before != self.after
    }

    /// Whether the next case finds all as it was: making databases is most of the work.
    fn is_nothing(&self, case: &Case) -> bool {
        let failure = |n: usize| self.failures.iter().find(|(step, _)| *step == n);
        let mut steps = 0..case.steps.len();
        case.leaves_nothing()
            && !self.is_damage()
            && steps.all(|n| is_denied(failure(n).map(|(_, failure)| failure)))
    }
}

fn is_denied(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| failure.code == "42501")
}

impl Case {
    /// What it does is all in its steps.
    fn leaves_nothing(&self) -> bool {
        self.setup.is_empty() && self.cleanup.is_empty()
    }
}

/// Runs cases of the corpus, one after the other.
pub struct Bench {
    direct: Endpoint,
    through: Endpoint,
    /// Whose steps they are, where a case doesn't say.
    user: &'static str,
    admin: Client,
    n_made: usize,
    /// A database in which nothing has happened.
    spare: Option<String>,
}

impl Bench {
    /// Steps go `through` an endpoint to the server that is asked and prepared `direct`ly.
    pub fn new(direct: &Endpoint, through: &Endpoint) -> Result<Bench> {
        Self::with(direct, through, "base", "postgres")
    }

    /// Likewise, in databases that another text makes, as another role.
    pub fn with(
        direct: &Endpoint,
        through: &Endpoint,
        made_by: &str,
        user: &'static str,
    ) -> Result<Bench> {
        let mut admin = direct.connect("postgres", "postgres", "bench")?;
        run(&mut admin, "CREATE ROLE app LOGIN")?;
        run(&mut admin, "CREATE ROLE nobody")?;
        run(&mut admin, "CREATE DATABASE corpus")?;
        run(&mut direct.connect("postgres", "corpus", "bench")?, &base(made_by)?)?;
        let (direct, through) = (direct.clone(), through.clone());
        Ok(Bench { direct, through, user, admin, n_made: 0, spare: None })
    }

    pub fn run(&mut self, case: &Case) -> Result<Report> {
        let run = |bench: &Self, database: &str, folder: &TempDir| {
            bench.in_database(case, database, folder)
        };
        self.in_own(case, run, |report| report.is_nothing(case))
    }

    /// What each step is answered, by way of this endpoint.
    pub fn answers(&mut self, case: &Case, by: &Endpoint) -> Result<Vec<Answer>> {
        let run = |bench: &Self, database: &str, folder: &TempDir| {
            let fill = |text: &str| bench.fill(text, database, folder);
            bench.set_up(case, database, &fill)?;
            let mut session = by.connect(bench.user(case), database, "mallory")?;
            let steps = case.steps.iter();
            steps.map(|step| bench.step(&mut session, step, database, &fill)).collect()
        };
        self.in_own(case, run, |answers: &Vec<Answer>| {
            case.leaves_nothing() && answers.iter().all(|answer| is_denied(answer.failure.as_ref()))
        })
    }

    /// Something in a database that no other case has changed; the next one gets it too where it `is_nothing`.
    fn in_own<T>(
        &mut self,
        case: &Case,
        what: impl FnOnce(&Self, &str, &TempDir) -> Result<T>,
        is_nothing: impl FnOnce(&T) -> bool,
    ) -> Result<T> {
        run(&mut self.admin, ROLES)?;
        // What is prepared directly, the guard finds when it looks into a database for the first time.
        let spare = self.spare.take_if(|_| case.setup.is_empty());
        let database = match spare {
            Some(spare) => self.left(spare)?,
            None => self.make()?,
        };
        let folder = tempfile::Builder::new().prefix("corpus-").tempdir()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
        let owner = User::from_name("postgres")?.context("there is no user postgres")?;
        chown(folder.path(), Some(owner.uid.as_raw()), None)?;
        let outcome = what(self, &database, &folder);
        let outcome = outcome.with_context(|| format!("the case {}", case.id));
        if outcome.as_ref().is_ok_and(is_nothing) {
            self.spare = Some(database);
            return outcome;
        }
        let gone = self.clean(case, &database, &folder);
        let outcome = outcome?;
        gone.with_context(|| format!("cleaning up after {}", case.id))?;
        Ok(outcome)
    }

    /// A database as each case finds it.
    fn make(&mut self) -> Result<String> {
        self.n_made += 1;
        let database = format!("case_{}", self.n_made);
        run(&mut self.admin, &format!("CREATE DATABASE {database} TEMPLATE corpus"))?;
        Ok(database)
    }

    /// Once those of the case before are gone.
    fn left(&mut self, database: String) -> Result<String> {
        let there = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND usename <> '{ASKS}'"
        );
        let start = Instant::now();
        while shown(&mut self.admin, &there)? != "[]" {
            ensure!(start.elapsed() < PATIENCE, "somebody stays in {database}");
            std::thread::yield_now();
        }
        Ok(database)
    }

    fn user<'a>(&self, case: &'a Case) -> &'a str {
        case.user.as_deref().unwrap_or(self.user)
    }

    fn set_up(
        &self,
        case: &Case,
        database: &str,
        fill: &impl Fn(&str) -> String,
    ) -> Result<Client> {
        let mut owner = self.direct.connect("postgres", database, "setup")?;
        for text in &case.setup {
            run(&mut owner, &fill(text))?;
        }
        Ok(owner)
    }

    fn in_database(&self, case: &Case, database: &str, folder: &TempDir) -> Result<Report> {
        let fill = |text: &str| self.fill(text, database, folder);
        let mut owner = self.set_up(case, database, &fill)?;
        let _bystander = self.direct.connect("postgres", database, "bystander")?;
        let mut session = self.through.connect(self.user(case), database, "mallory")?;
        let probe = fill(case.inside.as_deref().unwrap_or(&case.probe));
        let mut ask = |session: &mut Client| match case.inside {
            Some(_) => shown(session, &probe),
            None => shown(&mut owner, &probe),
        };
        let before = ask(&mut session)?;
        let mut failures = Vec::new();
        for (n, step) in case.steps.iter().enumerate() {
            let answer = self.step(&mut session, step, database, &fill)?;
            failures.extend(answer.failure.map(|failure| (n, failure)));
        }
        let mut after = ask(&mut session)?;
        let start = Instant::now();
        // A signal may be on its way; where there was an error, nothing is.
        let may_come = failures.is_empty() && probe.contains("pg_stat_activity");
        while may_come && after == before && start.elapsed() < PATIENCE {
            std::thread::yield_now();
            after = ask(&mut session)?;
        }
        Ok(Report { before, after, failures })
    }

    fn step(
        &self,
        session: &mut Client,
        step: &Step,
        database: &str,
        fill: &impl Fn(&str) -> String,
    ) -> Result<Answer> {
        match step {
            Step::Text(text) => session.query(&fill(text)),
            Step::Pipeline { pipeline } => {
                session.pipeline(&pipeline.iter().map(|text| fill(text)).collect::<Vec<_>>())
            }
            Step::Prepared { name, text, values } => {
                let values: Vec<String> = values.iter().map(|value| fill(value)).collect();
                let text = text.as_deref().map(fill);
                session.prepared(name.as_deref().unwrap_or_default(), text.as_deref(), &values)
            }
            Step::Function { function, arguments } => {
                let sql = format!(
                    "SELECT oid FROM pg_proc WHERE pronamespace::regnamespace || '.' || proname = \
                     '{function}' AND pronargs = {} ORDER BY oid",
                    arguments.len()
                );
                let mut catalog = self.direct.connect("postgres", database, "oid")?;
                let answer = catalog.query(&sql)?;
                let oid = answer.rows.first().and_then(|row| row.first());
                let oid = oid.with_context(|| format!("{function}: {:?}", answer.failure))?;
                let arguments: Vec<String> = arguments
                    .iter()
                    .map(|value| match value {
                        toml::Value::String(text) => fill(text),
                        other => other.to_string(),
                    })
                    .collect();
                session.call(oid.parse()?, &arguments)
            }
        }
    }

    fn clean(&mut self, case: &Case, database: &str, folder: &TempDir) -> Result<()> {
        if !case.cleanup.is_empty() {
            // What can't be undone because it was not done is as well.
            if let Ok(mut owner) = self.direct.connect("postgres", database, "cleanup") {
                for text in &case.cleanup {
                    owner.query(&self.fill(text, database, folder))?;
                }
            }
            for text in &case.cleanup {
                let text = self.fill(text, database, folder);
                self.admin.query(&text)?;
            }
        }
        run(&mut self.admin, &format!("ALTER DATABASE {database} CONNECTION LIMIT -1"))?;
        run(&mut self.admin, &format!("DROP DATABASE {database} WITH (FORCE)"))?;
        self.admin.query("CREATE ROLE nobody")?;
        Ok(())
    }

    fn fill(&self, text: &str, database: &str, folder: &TempDir) -> String {
        text.replace("{long}", &format!("/*{}*/", "-".repeat(20_000)))
            .replace("{database}", database)
            .replace("{dir}", &folder.path().display().to_string())
            .replace("{port}", &self.direct.port.to_string())
    }
}

/// What must work.
fn run(client: &mut Client, text: &str) -> Result<()> {
    let answer = client.query(text)?;
    ensure!(answer.failure.is_none(), "{text}: {:?}", answer.failure);
    Ok(())
}

/// An answer, or the error that is one too; whatever transaction has failed before.
fn shown(client: &mut Client, probe: &str) -> Result<String> {
    let mut answer = client.query(probe)?;
    if answer.failure.as_ref().is_some_and(|failure| failure.code == "25P02") {
        client.query("ROLLBACK")?;
        answer = client.query(probe)?;
    }
    Ok(match answer.failure {
        Some(failure) => failure.code,
        None => format!("{:?}", answer.rows),
    })
}

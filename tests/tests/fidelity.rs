//! The clients that people use, once directly and once through the guard: what they say must be the same.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Guarded, Postgres, Via, need_root, place, said};

const RICH: &str = include_str!("clients/rich.sql");
const SESSION: &str = include_str!("clients/session.psql");
const DRIVERS: &str = include_str!("clients/drivers.py");

/// psql's commands that ask the server something, but for those in [`SESSION`].
const DESCRIBE: &str = "d da dA dAc dAf dAo dAp db dc dC dconfig dd dD ddp dE des det deu dew df dfa dfn dfp dft \
                        dfw dF dFd dFp dFt dg di dl dL dm dn do dO dp dP dPi dPt drds dRp dRs ds dt dT du dv dx dX \
                        dy l z";
const PATTERNS: [&str; 4] = ["", " shop.*", " *", " shop.customers"];

fn same(what: &str, direct: &str, guarded: &str) -> Result<()> {
    let lines = direct.lines().zip(guarded.lines()).enumerate();
    for (n, (one, other)) in lines {
        ensure!(one == other, "{what}, line {n}:\ndirectly:  {one}\nguarded:   {other}");
    }
    ensure!(direct == guarded, "{what}: one has more lines:\n{direct}\n----\n{guarded}");
    Ok(())
}

fn rich(server: dbwarden_tests::PostgresBuilder) -> Result<Guarded> {
    let guarded = Guarded::permissive(server.setting("wal_level", "logical"))?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), RICH)?;
    said(guarded.postgres.psql_command(Via::Unix).arg("-f").arg(file.path()))?;
    Ok(guarded)
}

fn psql(guarded: &Guarded, via: Via, arguments: &[&str], script: &Path) -> Result<String> {
    let mut command = guarded.postgres.program("psql");
    command.args(["-X", "-a", "-d"]).arg(guarded.postgres.conninfo(via)).args(arguments);
    guarded.transcript(command.arg("-f").arg(script))
}

#[test]
fn psql_shows_the_same_by_every_command() -> Result<()> {
    need_root!();
    let guarded = rich(Postgres::builder())?;
    let mut script = String::from("SET client_min_messages = notice;\n");
    for command in DESCRIBE.split_whitespace() {
        for pattern in PATTERNS {
            for more in ["", "+", "S", "S+"] {
                // Everything of the system is long: once is enough.
                if more.starts_with('S') && pattern != " shop.*" {
                    continue;
                }
                writeln!(script, "\\{command}{more}{pattern}")?;
            }
        }
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("describe.psql");
    fs::write(&file, &script)?;
    let direct = psql(&guarded, Via::Tcp, &[], &file)?;
    ensure!(direct.matches("shop").count() > 500, "{direct}");
    same("describe", &direct, &psql(&guarded, Via::Guard, &[], &file)?)?;

    let file = folder.path().join("session.psql");
    fs::write(&file, SESSION)?;
    for format in [&[][..], &["-A", "-t"], &["--csv"], &["-1"]] {
        // It changes what it finds: both begin with the same.
        let again = |via| -> Result<String> {
            let reset = "TRUNCATE shop.scratch; DELETE FROM ONLY shop.customers WHERE id > 50; \
                         ALTER TABLE shop.customers ALTER id RESTART WITH 51; CHECKPOINT";
            guarded.postgres.psql(Via::Unix, reset)?;
            Ok(numberless(&psql(&guarded, via, format, &file)?))
        };
        let (direct, through) = (again(Via::Tcp)?, again(Via::Guard)?);
        ensure!(direct.contains("a word"), "{direct}");
        same(&format!("session {format:?}"), &direct, &through)?;
    }
    let denied = &guarded.agent.status()?["guard"]["denied"];
    ensure!(*denied == 0, "{denied} were denied");
    Ok(())
}

/// Without the numbers that a server never gives twice: of its processes, of new large objects.
fn numberless(words: &str) -> String {
    let mut lines = String::new();
    for line in words.lines() {
        let is_numbered = ["server process with PID", "lo_import ", "lo_unlink "].iter();
        match is_numbered.filter(|word| line.contains(**word)).count() {
            0 => lines += line,
            _ => lines.extend(line.chars().filter(|c| !c.is_ascii_digit())),
        }
        lines.push('\n');
    }
    lines
}

#[test]
fn a_dump_and_what_is_restored_from_it_are_the_same() -> Result<()> {
    need_root!();
    let guarded = rich(Postgres::builder())?;
    let postgres = &guarded.postgres;
    let folder = tempfile::tempdir()?;
    let dump = |via, database: &str, arguments: &[&str], to: &Path| -> Result<()> {
        let mut command = postgres.program("pg_dump");
        command.args(arguments).arg("-f").arg(to);
        said(command.args(["-d", &postgres.conninfo_as(via, "postgres", database)])).map(drop)
    };
    let plain = |via, database: &str| -> Result<String> {
        let file = folder.path().join("plain.sql");
        dump(via, database, &["--inserts"], &file)?;
        let text = fs::read_to_string(&file)?;
        // Each dump has a random key against what it restores.
        let is_key = |line: &&str| !line.contains("restrict ");
        Ok(text.lines().filter(is_key).collect::<Vec<_>>().join("\n"))
    };
    let original = plain(Via::Tcp, "postgres")?;
    ensure!(original.contains("CREATE PUBLICATION told"), "{original}");
    same("plain", &original, &plain(Via::Guard, "postgres")?)?;
    for (n, arguments) in [&["-Fc"][..], &["-Fd", "-j", "2"], &["-Ft"]].into_iter().enumerate() {
        let archive = folder.path().join(format!("archive{n}"));
        dump(Via::Guard, "postgres", arguments, &archive)?;
        let database = format!("restored{n}");
        postgres.psql(Via::Unix, &format!("CREATE DATABASE {database}"))?;
        let mut restore = postgres.program("pg_restore");
        let jobs = if arguments.contains(&"-Ft") { "1" } else { "2" };
        restore.args(["--exit-on-error", "-j", jobs, "-d"]);
        restore.arg(postgres.conninfo_as(Via::Guard, "postgres", &database)).arg(&archive);
        said(&mut restore)?;
        // A subscription's slot belongs to one of them alone.
        same(&format!("{arguments:?}"), &original, &plain(Via::Tcp, &database)?)?;
        postgres.psql(Via::Unix, &format!("DROP SUBSCRIPTION IF EXISTS heard_{n}"))?;
    }
    Ok(())
}

#[test]
fn drivers_for_python_get_the_same() -> Result<()> {
    need_root!();
    let guarded = rich(Postgres::builder().tls())?;
    for (direct, through) in [(Via::Tcp, Via::Guard), (Via::Tls, Via::GuardTls)] {
        let run = |via| -> Result<String> {
            let mut python = dbwarden_tests::python()?;
            let said = guarded
                .transcript(python.args(["-c", DRIVERS]).arg(guarded.postgres.conninfo(via)))?;
            ensure!(said.ends_with("exit status: 0"), "{via:?}: {said}");
            Ok(said)
        };
        same("drivers", &run(direct)?, &run(through)?)?;
    }
    Ok(())
}

/// The file of a client's program, with the driver that it needs; `None`, in words, where that isn't here.
fn client(name: &str, driver: &Path) -> Option<PathBuf> {
    if driver.exists() {
        let folder = place::workspace().join("tests/tests/clients");
        return Some(folder.join(name));
    }
    println!("skipped: {name} because {} is not there: cargo xtask setup", driver.display());
    None
}

#[test]
fn pgjdbc_gets_the_same() -> Result<()> {
    need_root!();
    let jar = place::jdbc()?;
    let Some(program) = client("Jdbc.java", &jar) else { return Ok(()) };
    let guarded = rich(Postgres::builder().tls())?;
    let postgres = &guarded.postgres;
    let guard = postgres.guard_port().context("no guard")?;
    let authority = &postgres.certificates().context("no TLS")?.authority;
    for tls in [
        "?sslmode=disable".to_owned(),
        format!("?sslmode=verify-full&sslrootcert={}", authority.display()),
    ] {
        let run = |port: u16| -> Result<String> {
            let mut java = Command::new("java");
            java.arg("-cp").arg(&jar).arg(&program);
            let said = guarded.transcript(
                java.arg(format!("jdbc:postgresql://127.0.0.1:{port}/postgres{tls}")),
            )?;
            ensure!(said.ends_with("exit status: 0"), "{said}");
            Ok(said)
        };
        same("pgjdbc", &run(postgres.port())?, &run(guard)?)?;
    }
    Ok(())
}

#[test]
fn node_postgres_gets_the_same() -> Result<()> {
    need_root!();
    let modules = place::node_modules()?;
    let Some(program) = client("node.js", &modules) else { return Ok(()) };
    let guarded = rich(Postgres::builder())?;
    let run = |port: u16| -> Result<String> {
        let mut node = Command::new("node");
        node.env("NODE_PATH", &modules).arg(&program).args(["127.0.0.1", &port.to_string()]);
        let said = guarded.transcript(&mut node)?;
        ensure!(said.ends_with("exit status: 0"), "{said}");
        Ok(said)
    };
    let guard = guarded.postgres.guard_port().context("no guard")?;
    same("node-postgres", &run(guarded.postgres.port())?, &run(guard)?)
}

const PIPELINE: &str = "\\set n random(1, 100)\n\\startpipeline\nSELECT :n;\nSELECT abalance FROM pgbench_accounts \
                        WHERE aid = :n;\nUPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1;\n\
                        \\endpipeline\n";

#[test]
fn pgbench_does_all_of_its_work_in_every_mode() -> Result<()> {
    need_root!();
    let guarded = Guarded::permissive(Postgres::builder())?;
    let postgres = &guarded.postgres;
    postgres.pgbench(Via::Guard, &["-i", "-q", "-s", "1", "-F", "90"])?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), PIPELINE)?;
    let pipeline = format!("--file={}", file.path().display());
    for mode in ["simple", "extended", "prepared"] {
        for work in ["-b tpcb-like", "-N", "-S", &pipeline] {
            if work == pipeline && mode == "simple" {
                continue;
            }
            let mut arguments = vec!["-n", "-M", mode, "-c", "4", "-t", "100"];
            arguments.extend(work.split(' '));
            let report = postgres.pgbench(Via::Guard, &arguments)?;
            ensure!(
                report.contains("number of transactions actually processed: 400/400"),
                "{report}"
            );
            ensure!(report.contains("number of failed transactions: 0"), "{report}");
        }
    }
    let connecting = postgres.pgbench(Via::Guard, &["-n", "-S", "-C", "-c", "4", "-t", "20"])?;
    ensure!(connecting.contains("processed: 80/80"), "{connecting}");
    // The sum of TPC-B's parts agrees, but for what the pipelines did.
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history), \
                (SELECT sum(tbalance) FROM pgbench_tellers) - (SELECT sum(bbalance) FROM pgbench_branches)";
    let sums = postgres.psql(Via::Tcp, sums)?;
    ensure!(sums == "t|800", "{sums}");
    Ok(())
}

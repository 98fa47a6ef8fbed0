//! Where data goes out: connections that a database's own processes open, and places of single databases.

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Via, need_root};

const DESTINATIONS: &str = "SELECT message, server, db_user, principal, action FROM rows \
     WHERE record = 'destination' AND action = 'began' ORDER BY time";

fn reaches(hooks: &str) -> Result<()> {
    let (from, to) = (Postgres::builder().start()?, Postgres::builder().start()?);
    let agent = Agent::builder()
        .configuration(&format!("[capture]\nhooks = \"{hooks}\""))
        .configuration("[[region]]\nname = \"us\"\nnetworks = [\"127.0.0.1/32\"]")
        .start()?;
    agent.await_server(from.port())?;
    agent.await_server(to.port())?;

    // A client's own connection is none of the database's.
    to.psql(Via::Tcp, "SELECT 1")?;
    from.psql(Via::Unix, "CREATE EXTENSION dblink")?;
    let there = to.conninfo(Via::Tcp).replace('\'', "''");
    from.psql(Via::Unix, &format!("SELECT * FROM dblink('{there}', 'SELECT 1') AS t (n int)"))?;
    let program = format!("bash -c \"exec 3<>/dev/tcp/127.0.0.1/{}\"", to.port());
    from.psql(Via::Unix, &format!("COPY (SELECT 1) TO PROGRAM '{program}'"))?;

    let rows = agent.await_rows(2, DESTINATIONS)?;
    let target =
        format!("connects to 127.0.0.1 port {}, region us, server {}", to.port(), to.name());
    for (row, exe) in rows.iter().zip(["postgres)", "bash)"]) {
        let message = row["message"].as_str().context("no message")?;
        ensure!(message.contains(&target) && message.contains(exe), "{hooks}: {row}");
        ensure!(row["server"] == *from.name() && row["db_user"].is_string(), "{hooks}: {row}");
        ensure!(row["principal"].is_string(), "{hooks}: {row}");
    }
    Ok(())
}

#[test]
fn what_a_database_connects_to_is_a_row_of_whom_it_works_for() -> Result<()> {
    need_root!();
    for hooks in ["auto", "syscalls"] {
        reaches(hooks)?;
    }
    Ok(())
}

#[test]
fn a_database_may_be_in_another_environment_than_its_server() -> Result<()> {
    need_root!();
    for (server, database, expected) in [("staging", "production", 1), ("production", "staging", 0)]
    {
        let postgres = Postgres::builder().start()?;
        let agent = Agent::builder()
            .configuration(&format!(
                "[[server]]\nname = \"main\"\nport = {}\nenvironment = \"{server}\"\n\
                 [[server.database]]\nname = \"postgres\"\nenvironment = \"{database}\"",
                postgres.port()
            ))
            .start()?;
        agent.await_server(postgres.port())?;
        postgres.psql(Via::Unix, "CREATE TABLE gone (n int)")?;
        postgres.psql(Via::Unix, "DROP TABLE gone")?;
        let dropped = "SELECT environment FROM statements WHERE text = 'DROP TABLE gone'";
        let rows = agent.await_rows(1, dropped)?;
        ensure!(rows[0]["environment"] == database, "{rows:?}");
        let found = "SELECT time FROM findings WHERE rule = 'builtin:drop-in-production'";
        agent.await_rows(expected, found)?;
    }
    Ok(())
}

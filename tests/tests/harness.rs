//! The harness itself: the servers it starts answer every way, log what they are asked, and are gone.

use anyhow::Result;
use dbwarden_tests::{Netns, Postgres, Via, need_root, said};

#[test]
fn a_postgres_answers_every_way_and_logs_it() -> Result<()> {
    need_root!();
    let mut postgres =
        Postgres::builder().tls().log_statements().preload("pg_stat_statements").start()?;
    let pid = postgres.pid()?;
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for (via, expected) in [(Via::Unix, "f"), (Via::Tcp, "f"), (Via::Tcp6, "f"), (Via::Tls, "t")] {
        assert_eq!(postgres.psql(via, encrypted)?, expected, "{via:?}");
    }
    let script = "import psycopg, sys\n\
                  with psycopg.connect(sys.argv[1]) as c: print(c.execute('SELECT %s::int', [7]).fetchone())";
    assert_eq!(postgres.python(Via::Tcp, script)?.trim(), "(7,)");
    postgres.pgbench(Via::Unix, &["-i", "-q", "-s", "1"])?;
    let report = postgres.pgbench(Via::Tcp, &["-n", "-S", "-M", "prepared", "-t", "10"])?;
    assert!(report.contains("number of transactions actually processed: 10/10"), "{report}");

    let logged = postgres.logged()?;
    let count = |text: &str| logged.iter().filter(|statement| statement.text == text).count();
    assert_eq!(count(encrypted), 4);
    assert_eq!(count("SELECT $1::int"), 1);
    let selects = |logged: &dbwarden_tests::Logged| logged.text.starts_with("SELECT abalance");
    assert_eq!(logged.iter().filter(|s| selects(s) && s.extended).count(), 10);
    postgres.stop()?;
    assert_eq!(postgres.logged()?, logged);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

#[test]
fn a_client_in_a_namespace_comes_from_its_own_address() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().everywhere().password("o'pen").start()?;
    let namespace = Netns::create()?;
    let mut psql = postgres.psql_command(Via::Network(namespace.outside().into()));
    psql.args(["-c", "SELECT host(inet_client_addr())"]);
    assert_eq!(said(&mut namespace.command(&psql))?.trim(), namespace.inside().to_string());
    Ok(())
}

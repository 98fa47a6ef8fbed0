//! A connection of the guard's own to a database.

use std::{
    io,
    net::TcpStream as StdTcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    task::{JoinHandle, spawn_local},
    time::timeout,
};
use tokio_postgres::{Client, NoTls, error::SqlState};
use tokio_util::either::Either;

use crate::{
    event::in_full,
    guard::{
        entry, stream,
        tls::Tls,
        wire::{Account, CatalogRights},
    },
};

/// For the server to let it in.
const LOG_IN: Duration = Duration::from_secs(3);
/// How the server's own views and rows call it.
pub(in crate::guard) const NAME: &str = "dbwarden catalog";
/// Longer than this (milliseconds) no statement takes …
pub(super) const STATEMENT_MS: u32 = 2_000;
/// … which writes nothing, and waits for no lock that a client holds.
const OPTIONS: &str = "-c default_transaction_read_only=on -c lock_timeout=30 -c client_min_messages=error -c jit=off";

#[derive(Debug, thiserror::Error)]
pub(super) enum Unreached {
    #[error("{0}")]
    Socket(String),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{}", words(.0))]
    Refused(#[from] tokio_postgres::Error),
    #[error("it does not let anybody in within {LOG_IN:?}")]
    Silent,
}

impl Unreached {
    /// The server is there, and lets others in elsewhere.
    pub(super) fn is_of_database(&self) -> bool {
        let Self::Refused(error) = self else { return false };
        let own = [
            SqlState::INVALID_CATALOG_NAME,
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            SqlState::ADMIN_SHUTDOWN,
        ];
        error.code().is_some_and(|code| own.contains(code))
    }
}

/// The server's own words, which name no secret.
fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => in_full(error),
    }
}

pub(super) struct Connection {
    pub client: Client,
    /// Ends with the connection.
    pub driver: JoinHandle<()>,
    pub rights: CatalogRights,
}

pub(super) async fn connect(
    socket: OwnedFd,
    tls: Option<&Tls>,
    account: &Account,
    database: &str,
) -> Result<Connection, Unreached> {
    let logged_in = async {
        let stream = entry::secure(connected(socket)?, tls.map(|tls| (tls, None))).await?;
        let mut config = tokio_postgres::Config::new();
        config.user(&account.user).dbname(database).application_name(NAME);
        config.options(format!("{OPTIONS} -c statement_timeout={STATEMENT_MS}"));
        if let Some(password) = &account.password {
            config.password(password);
        }
        // Where the server speaks TLS, the stream does already.
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        let driver = spawn_local(async move {
            // Why, whoever asks is told.
            let _ = connection.await;
        });
        let rights = rights(&client).await?;
        Ok(Connection { client, driver, rights })
    };
    timeout(LOG_IN, logged_in).await.unwrap_or(Err(Unreached::Silent))
}

fn connected(socket: OwnedFd) -> io::Result<Either<TcpStream, UnixStream>> {
    Ok(match stream::prepare(&socket)? {
        true => Either::Right(UnixStream::from_std(StdUnixStream::from(socket))?),
        false => Either::Left(TcpStream::from_std(StdTcpStream::from(socket))?),
    })
}

/// What the role may, as far as `EXPLAIN` wants it.
async fn rights(client: &Client) -> Result<CatalogRights, tokio_postgres::Error> {
    const RIGHTS: &str = "
        SELECT coalesce(bool_or(rolname = 'pg_read_all_data' AND pg_has_role(oid, 'USAGE')), false),
            coalesce(bool_or(rolname = 'pg_write_all_data' AND pg_has_role(oid, 'USAGE')), false),
            current_setting('is_superuser') = 'on'
        FROM pg_catalog.pg_roles WHERE rolname IN ('pg_read_all_data', 'pg_write_all_data')";
    let row = client.query_one(RIGHTS, &[]).await?;
    let is_superuser = row.try_get(2)?;
    Ok(CatalogRights { reads: row.try_get(0)?, writes: row.try_get(1)?, is_superuser })
}

//! Certificates of a guarded server that can't be read, and of clients that the server knows by theirs.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Certificates, Guarded, Postgres, Via, await_until, need_root};
use serde_json::Value;
use tempfile::TempDir;

const NO_DROP: &str = r#"@id("no-drop") @verdict("deny") @severity("high") @message("nothing is dropped here")
    forbid (principal, action == Action::"drop", resource)
    when { context.lane == "guarded" };"#;

fn authority(name: &str) -> Result<(TempDir, Certificates)> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let made = Certificates::create_by(name, folder.path())?;
    Ok((folder, made))
}

/// What psql says, with a certificate or without; whether it got what it wanted.
fn ask(
    postgres: &Postgres,
    shown: Option<&(PathBuf, PathBuf)>,
    text: &str,
) -> Result<(bool, String)> {
    let mut command: Command = postgres.psql_command(Via::Tls);
    if let Some((certificate, key)) = shown {
        command.env("PGSSLCERT", certificate).env("PGSSLKEY", key);
    }
    let output = command.args(["-c", text]).output()?;
    let words = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(words)?.trim_end().to_owned()))
}

fn of_server(guarded: &Guarded) -> Result<Value> {
    Ok(guarded.agent.status()?["guard"]["servers"][0].clone())
}

/// Without its key the guard could but decline TLS, and who doesn't insist on it would go on in the clear.
#[test]
fn who_would_get_no_tls_from_the_guard_goes_to_the_server() -> Result<()> {
    need_root!();
    let server = Postgres::builder().tls().password("secret");
    let mut guarded = Guarded::start_with_more(server, NO_DROP, "")?;
    let key = guarded.postgres.certificates().context("no TLS")?.key.clone();
    let away = key.with_extension("away");
    // Whether it is TLS to the server, and whether somebody stands between.
    let prefer = |guarded: &Guarded| -> Result<(String, bool)> {
        let conninfo = guarded.postgres.conninfo(Via::Tcp).replace("=disable", "=prefer");
        let ask = |text: &str| {
            let mut psql = guarded.postgres.program("psql");
            psql.args(["-X", "-A", "-t", "-q", "-d", &conninfo, "-c", text]).output()
        };
        let tls = ask("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")?;
        let dropped = ask("DROP TABLE IF EXISTS nothing")?;
        let words = String::from_utf8_lossy(&[tls.stdout, tls.stderr].concat()).into_owned();
        Ok((words.trim_end().to_owned(), !dropped.status.success()))
    };
    ensure!(prefer(&guarded)? == ("t".to_owned(), true));

    // What is known from before is still true.
    fs::rename(&key, &away)?;
    await_until("the certificate's trouble", || {
        Ok(of_server(&guarded)?["certificate"]
            .as_str()
            .filter(|why| why.contains("server.key"))
            .map(drop))
    })?;
    ensure!(prefer(&guarded)? == ("t".to_owned(), true));

    ensure!(guarded.agent.stop()?.success());
    guarded.agent.start_again()?;
    await_until("the server's problem", || {
        let problem = of_server(&guarded)?["problem"].clone();
        Ok(problem.as_str().filter(|why| why.contains("TLS can't be answered")).map(drop))
    })?;
    let doctor = guarded.agent.command(&["doctor"]).output()?;
    let doctor =
        String::from_utf8_lossy(&doctor.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(doctor.contains("not guardable: TLS can't be answered in its place"), "{doctor}");
    await_until("the way past the guard", || {
        Ok((prefer(&guarded)? == ("t".to_owned(), false)).then_some(()))
    })?;

    fs::rename(&away, &key)?;
    await_until("the guard", || Ok((prefer(&guarded)? == ("t".to_owned(), true)).then_some(())))?;
    ensure!(of_server(&guarded)?["problem"].is_null(), "{}", of_server(&guarded)?);
    Ok(())
}

#[test]
fn a_certificate_that_the_server_would_take_is_taken_through_the_guard() -> Result<()> {
    need_root!();
    let (folder, clients) = authority("clients")?;
    let (_own, own) = authority("guard")?;
    let (_foreign, foreign) = authority("clients")?;
    let believed = folder.path().join("believed.crt");
    let both = [fs::read(&clients.authority)?, fs::read(&own.authority)?].concat();
    fs::write(&believed, both)?;
    let mine = clients.client("postgres")?;
    let former = clients.client("former")?;
    let revoked = folder.path().join("revoked.pem");
    let lists = [clients.revoked(&[&former.0])?, own.revoked(&[])?].concat();
    fs::write(&revoked, lists)?;
    let server = Postgres::builder()
        .tls()
        .hosts("local all all trust\nhostssl all all all cert\n")
        .setting("ssl_ca_file", believed.to_str().context("a path")?)
        .setting("ssl_crl_file", revoked.to_str().context("a path")?);
    let of_server = format!(
        "client_ca_certificate = {:?}\nclient_ca_key = {:?}",
        own.authority,
        own.authority.with_file_name("ca.key"),
    );
    let guarded = Guarded::start_with_more(server, NO_DROP, &of_server)?;
    let Guarded { postgres, agent, .. } = &guarded;
    postgres.psql(Via::Unix, "CREATE TABLE precious AS SELECT 1 AS n")?;

    let (passes, told) = ask(postgres, Some(&mine), "DROP TABLE precious")?;
    ensure!(!passes && told.contains("nothing is dropped here"), "{told}");
    let seen = "SELECT client_dn, issuer_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let (passes, told) = ask(postgres, Some(&mine), seen)?;
    ensure!(passes && told == "/O=dbwarden/CN=postgres|/CN=guard", "{told}");

    for (shown, expected) in [
        (None, "connection requires a valid client certificate"),
        (Some(clients.client("somebody")?), "certificate authentication failed for user"),
        (Some(foreign.client("postgres")?), "SSL error"),
        (Some(former), "SSL error"),
    ] {
        let (passes, told) = ask(postgres, shown.as_ref(), "SELECT 1")?;
        ensure!(!passes && told.contains(expected), "{expected}: {told}");
    }
    ensure!(agent.status()?["guard"]["servers"][0]["problem"].is_null(), "{}", agent.status()?);

    // Whoever the server believes no more the guard must not stand in for.
    fs::write(&believed, fs::read(&clients.authority)?)?;
    await_until("the guard's authority to be missed", || {
        let problem = agent.status()?["guard"]["problem"].clone();
        Ok(problem
            .as_str()
            .filter(|why| why.contains("is not in the server's ssl_ca_file"))
            .map(drop))
    })
}

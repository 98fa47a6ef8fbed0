//! A receiver whose certificate has run out gets nothing, and the trouble says why.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use dbwarden_tests::{Certificates, Running, said};
use nix::sys::signal::Signal;

use super::{await_that, otlp, start, statement, traces_to};
use crate::{
    config::{Otlp, Protocol},
    event::WallTime,
};

/// Signed by the authority of `own`, which is in `folder`, for the same key; over since yesterday.
fn expired(folder: &Path, own: &Certificates) -> PathBuf {
    let certificate = folder.join("expired.crt");
    let mut command = Command::new("openssl");
    command.args(["x509", "-req", "-days", "-1", "-CAcreateserial", "-in"]);
    command.arg(folder.join("server.csr")).arg("-CA").arg(&own.authority);
    command.arg("-CAkey").arg(folder.join("ca.key")).arg("-extfile").arg(folder.join("names"));
    said(command.arg("-out").arg(&certificate)).unwrap();
    certificate
}

/// Shakes hands, and needs to do no more; with its port.
fn server(folder: &Path, certificate: &Path, key: &Path) -> (Running, u16) {
    let output = folder.join("s_server");
    let mut command = Command::new("openssl");
    command.args(["s_server", "-www", "-accept", "127.0.0.1:0", "-alpn", "h2,http/1.1"]);
    command.arg("-cert").arg(certificate).arg("-key").arg(key);
    command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).stderr(Stdio::null());
    let running = Running::start("openssl s_server", &mut command, Signal::SIGTERM).unwrap();
    let port = || {
        let text = fs::read_to_string(&output).unwrap();
        let (line, _) = text.split_once("ACCEPT ")?.1.split_once('\n')?;
        line.rsplit_once(':')?.1.parse().ok()
    };
    await_that("its port", || port().is_some());
    (running, port().unwrap())
}

#[test]
fn a_certificate_that_has_run_out_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let own = Certificates::create(folder.path()).unwrap();
    let (_server, port) = server(folder.path(), &expired(folder.path(), &own), &own.key);
    for (protocol, path) in [(Protocol::Http, "/v1/traces"), (Protocol::Grpc, "")] {
        let mut feed = start(&traces_to(Otlp {
            protocol,
            certificate: Some(own.authority.clone()),
            ..otlp(format!("https://127.0.0.1:{port}{path}"))
        }));
        feed.statement(&statement("SELECT t"), WallTime(0));
        let status = || feed.shared().status().signals.remove(0);
        await_that("the trouble", || status().trouble.is_some());
        let trouble = status().trouble.unwrap();
        assert!(trouble.contains("xpired"), "{protocol:?}: {trouble}");
        assert_eq!((status().sent, status().waiting), (0, 1));
        feed.close();
    }
}

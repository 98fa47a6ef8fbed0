//! A certificate authority for one test, and a server certificate of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::said;

/// Files in PEM, valid for `localhost`, `127.0.0.1` and `::1` for two days.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in `folder`.
    pub fn create(folder: &Path) -> Result<Certificates> {
        let at = |name: &str| folder.join(name);
        let made = Certificates {
            authority: at("ca.crt"),
            certificate: at("server.crt"),
            key: at("server.key"),
        };
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        said(
            openssl(&["req", "-x509", "-days", "2", "-subj", "/CN=dbwarden test authority"])
                .args(curve)
                .arg("-keyout")
                .arg(at("ca.key"))
                .arg("-out")
                .arg(&made.authority),
        )?;
        said(
            openssl(&["req", "-subj", "/CN=localhost"])
                .args(curve)
                .arg("-keyout")
                .arg(&made.key)
                .arg("-out")
                .arg(at("server.csr")),
        )?;
        fs::write(at("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n")?;
        said(
            openssl(&["x509", "-req", "-days", "2", "-CAcreateserial"])
                .arg("-in")
                .arg(at("server.csr"))
                .arg("-CA")
                .arg(&made.authority)
                .arg("-CAkey")
                .arg(at("ca.key"))
                .arg("-extfile")
                .arg(at("names"))
                .arg("-out")
                .arg(&made.certificate),
        )?;
        Ok(made)
    }
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command
}

//! A certificate authority for one test, and certificates of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::said;

const CURVE: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

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
        Self::create_by("dbwarden test authority", folder)
    }

    /// Likewise, by an authority of this name.
    pub fn create_by(authority: &str, folder: &Path) -> Result<Certificates> {
        let at = |name: &str| folder.join(name);
        let made = Certificates {
            authority: at("ca.crt"),
            certificate: at("server.crt"),
            key: at("server.key"),
        };
        said(
            openssl(&["req", "-x509", "-days", "2", "-subj", &format!("/CN={authority}")])
                .args(CURVE)
                .arg("-keyout")
                .arg(at("ca.key"))
                .arg("-out")
                .arg(&made.authority),
        )?;
        fs::write(at("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n")?;
        signed(folder, "server", "localhost", &at("names"))?;
        Ok(made)
    }

    /// A client's certificate by the same authority, and its key.
    pub fn client(&self, common_name: &str) -> Result<(PathBuf, PathBuf)> {
        let folder = self.authority.parent().context("an authority without a folder")?;
        let at = |ending: &str| folder.join(format!("{common_name}.{ending}"));
        // With an extension it is of version 3: rustls refuses older ones.
        fs::write(at("use"), "extendedKeyUsage=clientAuth\n")?;
        signed(folder, common_name, common_name, &at("use"))?;
        Ok((at("crt"), at("key")))
    }
}

impl Certificates {
    /// The authority's list of what it has revoked: these certificates of its own.
    pub fn revoked(&self, certificates: &[&Path]) -> Result<Vec<u8>> {
        let folder = self.authority.parent().context("an authority without a folder")?;
        let at = |name: &str| folder.join(name);
        let settings = format!(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = {}\ncrlnumber = {}\ndefault_md = sha256\n",
            at("index").display(),
            at("number").display()
        );
        fs::write(at("ca.conf"), settings)?;
        fs::write(at("index"), "")?;
        fs::write(at("number"), "01\n")?;
        let ca = || {
            let mut command = openssl(&["ca", "-config"]);
            command.arg(at("ca.conf")).arg("-cert").arg(&self.authority);
            command.arg("-keyfile").arg(at("ca.key"));
            command
        };
        for certificate in certificates {
            said(ca().arg("-revoke").arg(certificate))?;
        }
        said(ca().args(["-gencrl", "-crldays", "2", "-out"]).arg(at("crl.pem")))?;
        Ok(fs::read(at("crl.pem"))?)
    }
}

/// Makes `NAME.key` and `NAME.crt` in the folder of `ca.crt` and `ca.key`.
fn signed(folder: &Path, name: &str, common_name: &str, extensions: &Path) -> Result<()> {
    let at = |ending: &str| folder.join(format!("{name}.{ending}"));
    said(
        openssl(&["req", "-subj", &format!("/O=dbwarden/CN={common_name}")])
            .args(CURVE)
            .arg("-keyout")
            .arg(at("key"))
            .arg("-out")
            .arg(at("csr")),
    )?;
    let mut sign = openssl(&["x509", "-req", "-days", "2", "-CAcreateserial"]);
    sign.arg("-in").arg(at("csr"));
    sign.arg("-CA").arg(folder.join("ca.crt")).arg("-CAkey").arg(folder.join("ca.key"));
    sign.arg("-extfile").arg(extensions);
    said(sign.arg("-out").arg(at("crt")))?;
    Ok(())
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command
}

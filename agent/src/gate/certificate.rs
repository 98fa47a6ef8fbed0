//! The certificate and key that a server answers TLS with: its own, or those that the configuration names.

use std::path::PathBuf;

use super::{
    Target,
    files::Reader,
    server_settings::{Settings, is_on},
};
use crate::{
    config::Server,
    guard::wire::{Certificate, Clients},
};

/// `None` where the server speaks no TLS.
///
/// # Errors
/// Which file can't be read.
pub(super) fn find(
    reader: &mut Reader,
    server: &Server,
    target: &Target,
    settings: &Settings,
) -> Result<Option<Certificate>, String> {
    let Some((pid, certificate, key)) = place(server, target, settings) else { return Ok(None) };
    let (chain, key) = (reader.read(pid, &certificate), reader.read(pid, &key));
    let clients = clients(reader, server, target, settings)?;
    Ok(Some(Certificate { chain: chain?, key: key?, clients }))
}

/// Whom the server believes, and how the guard is one of them; `None` where it has no authority for that.
fn clients(
    reader: &mut Reader,
    server: &Server,
    target: &Target,
    settings: &Settings,
) -> Result<Option<Clients>, String> {
    let (Some(certificate), Some(key)) = (&server.client_ca_certificate, &server.client_ca_key)
    else {
        return Ok(None);
    };
    let own = std::process::id();
    let (certificate, key) = (reader.read(own, certificate), reader.read(own, key));
    let file = |name: &str| {
        let path = settings.get(name).filter(|path| !path.is_empty());
        path.map(|path| target.data_directory.join(path))
    };
    if file("ssl_crl_dir").is_some() {
        return Err("what is revoked in ssl_crl_dir can't be followed, only ssl_crl_file".into());
    }
    let authorities = file("ssl_ca_file").ok_or(
        "there is a client_ca_certificate, and the server has no ssl_ca_file to believe it by",
    )?;
    let revoked = file("ssl_crl_file").map(|path| reader.read(target.pid, &path)).transpose()?;
    let authorities = reader.read(target.pid, &authorities)?;
    Ok(Some(Clients { authorities, revoked, ca_certificate: certificate?, ca_key: key? }))
}

/// Whose files they are, and which.
fn place(server: &Server, target: &Target, settings: &Settings) -> Option<(u32, PathBuf, PathBuf)> {
    if let (Some(certificate), Some(key)) = (&server.tls_certificate, &server.tls_key) {
        // Whoever wrote the configuration means the service's own files.
        return Some((std::process::id(), certificate.clone(), key.clone()));
    }
    let data = &target.data_directory;
    let path =
        |name: &str, default: &str| data.join(settings.get(name).map_or(default, String::as_str));
    is_on(settings, "ssl").then(|| {
        (target.pid, path("ssl_cert_file", "server.crt"), path("ssl_key_file", "server.key"))
    })
}

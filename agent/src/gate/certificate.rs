//! The certificate and key that a server answers TLS with: its own, or those that the configuration names.

use std::path::PathBuf;

use super::{
    Target,
    files::Reader,
    server_settings::{Settings, is_on},
};
use crate::{config::Server, guard::wire::Certificate};

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
    Ok(Some(Certificate { chain: chain?, key: key? }))
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

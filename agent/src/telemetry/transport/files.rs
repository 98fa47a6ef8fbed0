//! Certificates and keys, as files in PEM.

use std::{fs, path::Path};

use super::Failure;
use crate::config::Otlp;

/// A file that holds keys is no larger.
const FILE_BYTES: u64 = 1 << 20;

#[derive(Default)]
pub struct Files {
    /// Who signs the receiver's certificate.
    pub authority: Option<Vec<u8>>,
    pub client: Option<ClientFiles>,
}

pub struct ClientFiles {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Files {
    pub fn read(otlp: &Otlp) -> Result<Self, Failure> {
        let authority = otlp.certificate.as_deref().map(pem).transpose()?;
        let client = match (&otlp.client_certificate, &otlp.client_key) {
            (Some(certificate), Some(key)) => {
                Some(ClientFiles { certificate: pem(certificate)?, key: pem(key)? })
            }
            _ => None,
        };
        Ok(Self { authority, client })
    }
}

fn pem(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::passing(format!("can't use {}: {why}", path.display()))
    };
    let length = fs::metadata(path).map_err(|error| failed(&error))?.len();
    if length > FILE_BYTES {
        return Err(failed(&"it is too large for certificates"));
    }
    let bytes = fs::read(path).map_err(|error| failed(&error))?;
    match bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        true => Ok(bytes),
        false => Err(failed(&"it is not in PEM")),
    }
}

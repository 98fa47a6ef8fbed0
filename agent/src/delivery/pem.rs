//! Certificates and keys, as files in PEM.

use std::{fs, path::Path};

use super::Failure;

/// A file that holds keys is no larger.
const FILE_BYTES: u64 = 1 << 20;

/// The file as it is; what is in it shows when it is used.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
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

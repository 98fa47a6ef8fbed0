//! Files that hold what nobody else may know.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::delivery::Failure;

/// A key or a URL is no longer.
const FILE_BYTES: u64 = 4 << 10;

/// Its text; it is read anew for each message, so that another key needs no restart.
pub fn read(path: &Path) -> Result<String, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::passing(format!("can't use {}: {why}", path.display()))
    };
    let about = fs::metadata(path).map_err(|error| failed(&error))?;
    if !about.is_file() || about.len() > FILE_BYTES {
        return Err(failed(&format!("it is no file of at most {FILE_BYTES} bytes")));
    }
    if is_exposed(about.mode(), about.gid()) {
        return Err(failed(&"others may read or change it: chmod 600"));
    }
    fs::read_to_string(path).map_err(|error| failed(&error))
}

/// systemd's credentials may be read by the group of root, as `ls` shows what its access list allows.
fn is_exposed(mode: u32, group: u32) -> bool {
    let allowed = if group == 0 { 0o740 } else { 0o700 };
    mode & 0o777 & !allowed != 0
}

#[cfg(test)]
mod tests {
    use super::is_exposed;

    #[test]
    fn only_root_may_read() {
        for (mode, group, exposed) in [
            (0o100_600, 0, false),
            (0o100_400, 1_000, false),
            (0o100_440, 0, false),
            (0o100_440, 1_000, true),
            (0o100_660, 0, true),
            (0o100_644, 0, true),
        ] {
            assert_eq!(is_exposed(mode, group), exposed, "{mode:o} of group {group}");
        }
    }
}

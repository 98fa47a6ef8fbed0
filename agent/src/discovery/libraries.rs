//! The TLS libraries that a process has mapped, to be opened as exactly the file that it runs.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{
    FileId,
    files::{open_in_root, open_regular},
    sockets::each_line,
};
use crate::identity::{ProcDir, Procfs, ProcfsError};

const MAX_LIBRARIES: usize = 8;

/// A mapped libssl or libcrypto.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsLibrary {
    pub is_crypto: bool,
    /// As the process's mount namespace had it.
    pub path: PathBuf,
    /// An upgrade has replaced it on disk; the process still runs it.
    pub deleted: bool,
    /// The inode that the process has mapped. Its device is as `/proc/PID/maps` says, which on some
    /// file systems (btrfs, overlayfs) is not what `stat` says.
    pub file: FileId,
    pid: u32,
    range: (u64, u64),
}

/// A library could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("the process that has {} mapped can no longer be read", path.display())]
    Process { path: PathBuf, source: ProcfsError },
    #[error(
        "cannot open {} of process {pid}; a deleted one needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE",
        path.display()
    )]
    Open { pid: u32, path: PathBuf, source: io::Error },
    #[error("{} of process {pid} is another file by now", path.display())]
    Replaced { pid: u32, path: PathBuf },
}

impl TlsLibrary {
    /// Opens the very inode that is mapped, deleted or not, in whatever mount namespace. Probes can be
    /// attached by `/proc/self/fd/N` of the result.
    pub fn open(&self, procfs: &Procfs) -> Result<File, LibraryError> {
        let gone = |source| LibraryError::Process { path: self.path.clone(), source };
        let process = procfs.open(self.pid).map_err(gone)?;
        self.open_mapping(&process)
            .or_else(|error| if self.deleted { Err(error) } else { self.open_path(&process) })
            .map_err(|source| LibraryError::Open { pid: self.pid, path: self.path.clone(), source })
            .and_then(|(file, inode)| {
                if inode == self.file.inode {
                    return Ok(file);
                }
                Err(LibraryError::Replaced { pid: self.pid, path: self.path.clone() })
            })
    }

    fn open_mapping(&self, process: &ProcDir) -> io::Result<(File, u64)> {
        let name = format!("map_files/{:x}-{:x}", self.range.0, self.range.1);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let place = rustix::fs::openat(process, name, flags, Mode::empty())?;
        open_regular(&place).map(|(file, stat)| (file, stat.st_ino))
    }

    /// Without the right to follow `map_files`: by path, in the process's own tree.
    fn open_path(&self, process: &ProcDir) -> io::Result<(File, u64)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(process, "root", flags, Mode::empty())?;
        let file = open_in_root(&root, &self.path)?;
        let inode = rustix::fs::fstat(&file)?.st_ino;
        Ok((file, inode))
    }
}

/// The TLS libraries of `process`.
pub(super) fn tls_libraries(process: &ProcDir) -> Result<Vec<TlsLibrary>, ProcfsError> {
    let mut found: Vec<TlsLibrary> = Vec::new();
    each_line(process.file("maps")?, |line| {
        let Some(library) = parse_mapping(line, process.pid()) else { return };
        if found.len() < MAX_LIBRARIES && found.iter().all(|known| known.file != library.file) {
            found.push(library);
        }
    });
    Ok(found)
}

/// A line of `maps`, if it maps a libssl or libcrypto to be run.
fn parse_mapping(line: &[u8], pid: u32) -> Option<TlsLibrary> {
    let slash = line.iter().position(|b| *b == b'/')?;
    let (head, path) = line.split_at(slash);
    let mut fields = std::str::from_utf8(head).ok()?.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    if !fields.next()?.contains('x') {
        return None;
    }
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let device = rustix::fs::makedev(
        u32::from_str_radix(major, 16).ok()?,
        u32::from_str_radix(minor, 16).ok()?,
    );
    let left = path.strip_suffix(b" (deleted)");
    let path = PathBuf::from(OsString::from_vec(left.unwrap_or(path).to_vec()));
    let is_crypto = is_library(&path, "libcrypto");
    (is_crypto || is_library(&path, "libssl")).then_some(TlsLibrary {
        is_crypto,
        path,
        deleted: left.is_some(),
        file: FileId { device, inode },
        pid,
        range: (hex(from)?, hex(to)?),
    })
}

/// `libssl.so.3`, and `libssl-1a2b3c.so.1.1` as packaged with its users.
fn is_library(path: &Path, name: &str) -> bool {
    path.file_name()
        .and_then(|file| file.to_str()?.strip_prefix(name))
        .is_some_and(|rest| rest.starts_with(['.', '-']) && rest.contains(".so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(&str, bool, u64)>) {
        let found = parse_mapping(line.as_bytes(), 1);
        let found = found.as_ref().map(|l| (l.path.to_str().unwrap(), l.deleted, l.file.inode));
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn mappings() {
        let head = "7fa1f9773000-7fa1f97d1000 r-xp 0001e000 fe:01 1234 ";
        let line = |path: &str| format!("{head}                   {path}");
        check(&line("/lib/libssl.so.3"), Some(("/lib/libssl.so.3", false, 1234)));
        check(&line("/lib/libssl.so.3 (deleted)"), Some(("/lib/libssl.so.3", true, 1234)));
        check(&line("/a b/libssl-1a.so.1.1"), Some(("/a b/libssl-1a.so.1.1", false, 1234)));
        check(&line("/lib/libssl3.so"), None); // NSS
        check(&line("/lib/libcrypto.so.3"), Some(("/lib/libcrypto.so.3", false, 1234)));
        check(&line("/lib/libcryptosetup.so.3"), None);
        check(&line("/libssl.so.3/other"), None);
        check(&line("/lib/libssl.so.3").replace("r-xp", "r--p"), None);
        check("7fa1f9773000-7fa1f97d1000 r-xp 00000000 00:00 0", None);
        check("x-y r-xp 0 0:0 0 /lib/libssl.so.3", None);
        check("/lib/libssl.so.3", None);
        check("", None);
    }
}

//! Opening files in places that others control: no symlink out, no FIFO, no device, no surprise.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::FileId;

impl FileId {
    pub(super) fn of(stat: &Stat) -> FileId {
        FileId { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// Opens the regular file `name` directly in `directory`, following no symlink.
pub(super) fn open_in(directory: impl AsFd, name: &str) -> io::Result<File> {
    open_resolved(directory, Path::new(name), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Opens the regular file at `path` as a process with the root directory `root` would.
pub(super) fn open_in_root(root: impl AsFd, path: &Path) -> io::Result<File> {
    open_resolved(root, path, ResolveFlags::IN_ROOT)
}

/// Opens the regular file at `path` as that process would.
pub fn open_as(pid: u32, path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?;
    open_in_root(root, path)
}

/// At most `max` bytes of a regular file directly in `directory`.
pub(super) fn read_in(directory: impl AsFd, name: &str, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_in(directory, name)?.take(max).read_to_end(&mut content)?;
    Ok(content)
}

fn open_resolved(directory: impl AsFd, path: &Path, resolve: ResolveFlags) -> io::Result<File> {
    let place = rustix::fs::openat2(
        directory,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve | ResolveFlags::NO_MAGICLINKS,
    )?;
    open_regular(&place).map(|(file, _)| file)
}

/// Opens what an `O_PATH` descriptor stands for, if it is a regular file. Only then: to open a device
/// already does something to it, and to open a FIFO waits.
pub(super) fn open_regular(place: &OwnedFd) -> io::Result<(File, Stat)> {
    let stat = rustix::fs::fstat(place)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    Ok((rustix::fs::open(path, flags, Mode::empty())?.into(), stat))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, mknodat};

    use super::*;

    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        std::fs::create_dir(path.join("etc")).unwrap();
        std::fs::write(path.join("plain"), b"plain").unwrap();
        std::fs::write(path.join("etc/passwd"), b"inner").unwrap();
        symlink("plain", path.join("link")).unwrap();
        symlink("/etc/passwd", path.join("absolute")).unwrap();
        symlink("../../../../../../etc/passwd", path.join("climbing")).unwrap();
        symlink("/proc/self/exe", path.join("magic")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        let fifo = path.join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn only_plain_files_of_the_directory() {
        let (_dir, fd) = directory();
        let refused =
            ["link", "absolute", "climbing", "loop", "fifo", "etc", "../plain", "none", "."];
        for name in refused {
            assert!(read_in(&fd, name, 10).is_err(), "{name}");
        }
        assert_eq!(read_in(&fd, "plain", 10).unwrap(), b"plain");
        assert_eq!(read_in(&fd, "plain", 3).unwrap(), b"pla");
    }

    #[test]
    fn symlinks_stay_below_the_root_given() {
        let (_dir, fd) = directory();
        for (path, expected) in [
            ("/plain", Some("plain")),
            ("link", Some("plain")),
            ("absolute", Some("inner")),
            ("climbing", Some("inner")),
            ("/../../etc/passwd", Some("inner")),
            ("magic", None),
            ("loop", None),
            ("fifo", None),
        ] {
            let content = open_in_root(&fd, Path::new(path)).ok().map(|mut file| {
                let mut content = String::new();
                file.read_to_string(&mut content).unwrap();
                content
            });
            assert_eq!(content.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn devices_are_not_opened() {
        let place = rustix::fs::open("/dev/null", OFlags::PATH, Mode::empty()).unwrap();
        assert!(open_regular(&place).is_err());
    }
}

//! The guard's socket in a server's place: a file that is the server's in every way but whose it is to accept.

use std::{
    fs::{self, File, Metadata, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    },
};

use super::account::Account;
use crate::config::NEXT;

pub(super) const BACKLOG: i32 = 1_024;

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

#[derive(Debug, thiserror::Error)]
pub(in crate::gate) enum SeatError {
    #[error(
        "process {pid} listens at {}: move the server by its `unix_socket_directories`", at.display()
    )]
    Taken { at: PathBuf, pid: i32 },
    #[error("{}.lock says that process {pid} is about to listen there", at.display())]
    Locked { at: PathBuf, pid: u32 },
    #[error("what stands at {} is {what}, and stays", at.display())]
    Foreign { at: PathBuf, what: String },
    #[error("{} can't be the guard's socket", at.display())]
    Refused { at: PathBuf, source: io::Error },
}

/// Where clients look for a server that has moved.
#[derive(Clone, Debug)]
pub(in crate::gate) struct Seat {
    pub at: PathBuf,
    /// Where the server is now.
    pub moved_to: PathBuf,
    /// That of the server: its clients may ask who listens (`requirepeer`).
    pub account: Account,
}

impl Seat {
    /// Listens there as the server would, with the access that the server gives to its own socket (`like`). There is
    /// no moment in which nobody listens where somebody did.
    ///
    /// # Errors
    /// Somebody else does, or the server itself could not.
    pub fn take(&self, like: &Metadata) -> Result<(UnixListener, FileId), SeatError> {
        let (mode, group) = (like.mode() & 0o777, like.gid());
        let mut in_words = None;
        let taken = self.account.run(|| {
            let next = beside(&self.at);
            for path in [&self.at, &next] {
                if let Err(error) = self.is_free(path) {
                    in_words = Some(error);
                    return Err(io::ErrorKind::AddrInUse.into());
                }
            }
            ignore_missing(fs::remove_file(&next))?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            bind(&socket, &SocketAddrUnix::new(&next)?)?;
            let made = fs::symlink_metadata(&next)?;
            if made.gid() != group {
                std::os::unix::fs::lchown(&next, None, Some(group))?;
            }
            fs::set_permissions(&next, Permissions::from_mode(mode))?;
            // In the account's name: it is what the kernel answers clients with who ask.
            listen(&socket, BACKLOG)?;
            fs::rename(&next, &self.at)?;
            Ok((UnixListener::from(socket), FileId::of(&made)))
        });
        let refused = |source| SeatError::Refused { at: self.at.clone(), source };
        taken.map_err(|error| in_words.unwrap_or_else(|| refused(error)))
    }

    /// Nobody listens there or is about to, and nothing stands there that isn't the server's or the guard's own.
    fn is_free(&self, at: &Path) -> Result<(), SeatError> {
        let refused = |source| SeatError::Refused { at: at.to_owned(), source };
        if let Some(pid) = self.lock_holder(at) {
            return Err(SeatError::Locked { at: at.to_owned(), pid });
        }
        let foreign = |what: String| Err(SeatError::Foreign { at: at.to_owned(), what });
        let there = match fs::symlink_metadata(at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(refused)?,
        };
        if there.is_symlink() {
            let to = fs::read_link(at).map_err(refused)?;
            return match to == self.moved_to {
                true => Ok(()),
                false => foreign(format!("a link to {}", to.display())),
            };
        }
        if !there.file_type().is_socket() {
            return foreign("no socket".to_owned());
        }
        if there.uid() != self.account.uid() {
            return foreign(format!("a socket of uid {}", there.uid()));
        }
        match listener(at) {
            Ok(Some(pid)) => Err(SeatError::Taken { at: at.to_owned(), pid }),
            Ok(None) => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }

    /// Who holds PostgreSQL's lock of a socket, by PostgreSQL's own rule: a process of the same account. A lock of
    /// the guard's would protect nothing, since the service has another account.
    fn lock_holder(&self, at: &Path) -> Option<u32> {
        let text = fs::read_to_string(beside_with(at, ".lock")).ok()?;
        let pid = text.lines().next()?.trim().trim_start_matches('-').parse().ok()?;
        let holder = Account::of_process(pid).ok()?;
        (holder.uid() == self.account.uid()).then_some(pid)
    }

    /// Lets clients get to the server itself, if the guard's socket stands there still: by a link in its place.
    ///
    /// # Errors
    /// What the server itself could not do either.
    pub fn give_way(&self, ours: FileId) -> io::Result<()> {
        self.account.run(|| give_way(&self.at, ours, &self.moved_to))
    }
}

/// See [`Seat::give_way`].
pub(super) fn give_way(at: &Path, ours: FileId, to: &Path) -> io::Result<()> {
    if !stands(at, ours) {
        return Ok(());
    }
    let next = beside(at);
    ignore_missing(fs::remove_file(&next))?;
    symlink(to, &next)?;
    fs::rename(&next, at)
}

/// Whether that file has that name.
pub(super) fn stands(at: &Path, file: FileId) -> bool {
    fs::symlink_metadata(at).is_ok_and(|there| FileId::of(&there) == file)
}

/// What a descriptor stands for.
pub(super) fn file_of(descriptor: OwnedFd) -> io::Result<FileId> {
    Ok(FileId::of(&File::from(descriptor).metadata()?))
}

/// The socket file of a server, as the server sees the path: to be looked at, and to be connected to.
pub(in crate::gate) fn socket_of(pid: u32, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat2(
        CWD,
        format!("/proc/{pid}/root"),
        flags | OFlags::DIRECTORY,
        Mode::empty(),
        ResolveFlags::empty(),
    )?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// The process that listens at a path of the file system, if one does.
fn listener(at: &Path) -> io::Result<Option<i32>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(at)?) {
        Ok(()) => Ok(Some(listens(&socket)?)),
        // It has more clients waiting than it takes: it lives.
        Err(rustix::io::Errno::AGAIN) => Ok(Some(0)),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The process that has made the other end of a connected socket listen.
pub(in crate::gate) fn listens(socket: impl AsFd) -> io::Result<i32> {
    Ok(getsockopt(&socket, PeerCredentials)?.pid())
}

fn beside(at: &Path) -> PathBuf {
    beside_with(at, NEXT)
}

fn beside_with(at: &Path, ending: &str) -> PathBuf {
    let name = [at.as_os_str().as_bytes(), ending.as_bytes()].concat();
    PathBuf::from(std::ffi::OsStr::from_bytes(&name))
}

pub(super) fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
            net::{UnixListener, UnixStream},
        },
        path::Path,
    };

    use super::{Account, Seat, SeatError, stands};

    fn seat(folder: &Path) -> Seat {
        Seat {
            at: folder.join(".s.PGSQL.5432"),
            moved_to: folder.join("moved"),
            account: Account::of_process(std::process::id()).unwrap(),
        }
    }

    #[test]
    fn a_place_is_taken_from_nobody_who_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let seat = seat(folder.path());
        let own = std::process::id();
        let _server = UnixListener::bind(&seat.moved_to).unwrap();
        fs::set_permissions(&seat.moved_to, fs::Permissions::from_mode(0o751)).unwrap();
        let like = fs::symlink_metadata(&seat.moved_to).unwrap();
        let lock = folder.path().join(".s.PGSQL.5432.lock");

        type Prepare = fn(&Seat, &Path, u32);
        let cases: [(&str, Prepare, Result<(), &str>); 9] = [
            ("nothing", |_, _, _| {}, Ok(())),
            ("a socket of before", |seat, _, _| drop(UnixListener::bind(&seat.at)), Ok(())),
            ("our link", |seat, _, _| symlink(&seat.moved_to, &seat.at).unwrap(), Ok(())),
            ("a stale lock", |_, lock, _| fs::write(lock, "999999999\n/data\n").unwrap(), Ok(())),
            ("nonsense in a lock", |_, lock, _| fs::write(lock, "x").unwrap(), Ok(())),
            (
                "somebody's lock",
                |_, lock, own| fs::write(lock, format!("{own}\n/data\n")).unwrap(),
                Err("is about to listen"),
            ),
            ("a file", |seat, _, _| fs::write(&seat.at, "").unwrap(), Err("is no socket")),
            (
                "a link of somebody's",
                |seat, _, _| symlink("elsewhere", &seat.at).unwrap(),
                Err("a link to elsewhere"),
            ),
            (
                "a server",
                |seat, _, _| std::mem::forget(UnixListener::bind(&seat.at).unwrap()),
                Err("unix_socket_directories"),
            ),
        ];
        for (name, prepare, expected) in cases {
            let _ = (fs::remove_file(&seat.at), fs::remove_file(&lock));
            prepare(&seat, &lock, own);
            match (seat.take(&like), expected) {
                (Ok((listener, file)), Ok(())) => {
                    assert!(stands(&seat.at, file), "{name}");
                    let made = fs::symlink_metadata(&seat.at).unwrap();
                    assert_eq!(made.mode() & 0o777, 0o751, "{name}");
                    UnixStream::connect(&seat.at).unwrap();
                    drop(listener);
                }
                (Err(error), Err(words)) => {
                    let told = error.to_string();
                    assert!(told.contains(words), "{name}: {told}");
                    assert!(!matches!(error, SeatError::Refused { .. }), "{name}");
                }
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_link_takes_its_place_unless_somebody_has() {
        let folder = tempfile::tempdir().unwrap();
        let seat = seat(folder.path());
        let server = UnixListener::bind(&seat.moved_to).unwrap();
        let like = fs::symlink_metadata(&seat.moved_to).unwrap();
        let (listener, file) = seat.take(&like).unwrap();
        drop(listener);
        seat.give_way(file).unwrap();
        let _client = UnixStream::connect(&seat.at).unwrap();
        server.accept().unwrap();

        let (_listener, file) = seat.take(&like).unwrap();
        fs::remove_file(&seat.at).unwrap();
        let _other = UnixListener::bind(&seat.at).unwrap();
        seat.give_way(file).unwrap();
        assert!(fs::symlink_metadata(&seat.at).unwrap().file_type().is_socket());
    }
}

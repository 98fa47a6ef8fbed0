//! Creating the control socket's file without harming whatever stands in its place.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::Access;

/// Waiting clients that the kernel keeps; more are told to try again.
const BACKLOG: i32 = 64;

/// A listening control socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    pub(super) access: Access,
    path: PathBuf,
    /// Device and inode: only our own file is removed.
    file: (u64, u64),
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "another dbwarden is running (pid {pid}) and answers on {}: stop it, or give this one \
         another `socket` in [control]",
        path.display()
    )]
    Live { path: PathBuf, pid: i32 },
    #[error(
        "{} exists and is not a socket: it was left alone; move it away, or give another `socket` \
         in [control]",
        path.display()
    )]
    NotASocket { path: PathBuf },
    #[error("can't create the control socket {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Listener {
    /// Binds `path` (mode 0660, root and the group of `access`), replacing a socket that nobody
    /// answers on.
    pub fn bind(path: &Path, access: Access) -> Result<Self, BindError> {
        let failed = |source: io::Error| BindError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        }
        clear(path)?;
        let address = SocketAddrUnix::new(path).map_err(|errno| failed(errno.into()))?;
        let socket = unix_stream().map_err(failed)?;
        // Nobody can connect before `listen`, when owner and mode are in place.
        bind_for_group(&socket, &address).map_err(failed)?;
        if let Some(gid) = access.gid() {
            let gid = Some(Gid::from_raw(gid));
            rustix::fs::chownat(CWD, path, None, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| failed(errno.into()))?;
        }
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        rustix::net::listen(&socket, BACKLOG).map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            socket: UnixListener::from(socket),
            access,
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The mode (0660) comes with the file: a chmod afterwards would follow whatever stands there then.
///
/// It is the umask's business, and the process has one: a thread that parts from it keeps other threads'
/// files as they should be.
fn bind_for_group(socket: &OwnedFd, address: &SocketAddrUnix) -> io::Result<()> {
    let bind = || {
        unshare(CloneFlags::CLONE_FS)?;
        rustix::process::umask(Mode::from_raw_mode(0o117));
        Ok(rustix::net::bind(socket, address)?)
    };
    let bound = thread::scope(|scope| {
        Ok::<_, io::Error>(thread::Builder::new().spawn_scoped(scope, bind)?.join())
    });
    bound?.unwrap_or_else(|_| Err(io::Error::other("the thread that binds it panicked")))
}

/// Non-blocking, because connecting to a socket with a full backlog waits without end.
fn unix_stream() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Removes a socket that nobody listens on; anything else at `path` stays and is an error.
fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |source: io::Error| BindError::Io { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    let address = SocketAddrUnix::new(path).map_err(|errno| failed(errno.into()))?;
    let probe = unix_stream().map_err(failed)?;
    match rustix::net::connect(&probe, &address) {
        Ok(()) => {
            let pid = rustix::net::sockopt::socket_peercred(&probe)
                .map(|peer| peer.pid.as_raw_nonzero().get())
                .unwrap_or(0);
            Err(BindError::Live { path: path.to_owned(), pid })
        }
        Err(Errno::AGAIN) => Err(BindError::Live { path: path.to_owned(), pid: 0 }),
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        Err(errno) => Err(failed(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    use super::{Access, BindError, Listener};

    fn bind(path: &std::path::Path) -> Result<Listener, BindError> {
        Listener::bind(path, Access::new(None).unwrap())
    }

    #[test]
    fn the_file_is_for_owner_and_group_and_goes_with_the_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/control.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_agent_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _first = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        let expected = format!("another dbwarden is running (pid {})", std::process::id());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = bind(&path).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(listener);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(BindError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

        let link = directory.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(bind(&link), Err(BindError::NotASocket { .. })));
    }

    #[test]
    fn somebody_elses_new_file_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listener = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}

//! One agent a host: the lock that a second one finds taken.
//!
//! It is a file and not an abstract socket name, because any user may bind a name and so keep the
//! agent from starting, while only root can open this file. Agents with different control sockets
//! share it. A container that runs the agent for its host mounts the host's `/run/dbwarden`. The
//! file is never removed: whoever opened it before the removal would hold another lock than
//! whoever opens it after.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// An agent that was killed while it started a helper leaves the lock to that for a moment, until the
/// helper runs its own program or is ended.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// The lock's file.
pub const HOST_LOCK: &str = "/run/dbwarden/lock";

/// Held for as long as it lives; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another dbwarden is running on this host (pid {pid}): two would see every statement twice; \
         stop it first (systemctl stop dbwarden, or kill {pid})"
    )]
    Held { pid: u32 },
    #[error("another dbwarden is running on this host: it holds {}, which names no pid", path.display())]
    HeldBySomebody { path: PathBuf },
    #[error("can't take the host's lock {}: dbwarden runs as root", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl HostLock {
    /// Takes the lock in the file `path`, creating the file and its directory where they are absent.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(unusable)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(unusable)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(unusable(source)),
            }
            let mut text = String::new();
            let _ = file.rewind();
            let _ = (&mut file).take(16).read_to_string(&mut text);
            let Ok(pid) = text.trim().parse::<u32>() else {
                return Err(LockError::HeldBySomebody { path: path.to_owned() });
            };
            let is_gone = !Path::new("/proc").join(pid.to_string()).exists();
            if !is_gone || Instant::now() > until {
                return Err(LockError::Held { pid });
            }
            thread::sleep(POLL);
        }
        file.rewind().map_err(unusable)?;
        file.set_len(0).map_err(unusable)?;
        writeln!(file, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::{HostLock, LockError};

    #[test]
    fn the_second_is_refused_with_the_pid_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/lock");
        let first = HostLock::acquire(&path).unwrap();
        let refused = HostLock::acquire(&path).unwrap_err();
        assert!(
            matches!(refused, LockError::Held { pid } if pid == std::process::id()),
            "{refused}"
        );
        drop(first);
        HostLock::acquire(&path).unwrap();
    }

    #[test]
    fn a_file_left_by_a_dead_agent_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        std::fs::write(&path, "4194304999\n").unwrap();
        let _held = HostLock::acquire(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }

    /// As between the fork and the exec of a helper whose agent was killed.
    #[test]
    fn what_a_dead_agent_left_locked_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        std::fs::write(&path, "4194304999\n").unwrap();
        let inherited = std::fs::File::open(&path).unwrap();
        inherited.lock().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || {
                sender.send(()).unwrap();
                HostLock::acquire(&path)
            }
        });
        receiver.recv().unwrap();
        drop(inherited);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("lock"), directory.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(HostLock::acquire(&path), Err(LockError::Unusable { .. })));
        assert!(!target.exists());
    }
}

//! The service manager's side of `sd_notify`: waits for a child to say that it is ready.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::Running;

const PATIENCE: Duration = Duration::from_secs(60);

/// A notification socket that a child is told of in `NOTIFY_SOCKET`.
pub(crate) struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notify {
    /// Listens in `folder`; any user may send.
    pub(crate) fn listen(folder: &Path) -> Result<Notify> {
        let path = folder.join("notify.sock");
        let socket = UnixDatagram::bind(&path)
            .with_context(|| format!("listening on {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        // So that a child that ends instead is noticed.
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Notify { socket, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for `READY=1`; an error if the child ends first.
    pub(crate) fn await_ready(&self, child: &mut Running, name: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut datagram = [0; 4096];
        while Instant::now() < until {
            match self.socket.recv(&mut datagram) {
                Ok(n) => {
                    let text = String::from_utf8_lossy(&datagram[..n]);
                    if text.lines().any(|line| line == "READY=1") {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(status) = child.ended()? {
                        bail!("{name} ended with {status} before it was ready");
                    }
                }
                Err(error) => return Err(error).context("waiting for READY=1"),
            }
        }
        bail!("{name} was not ready within {} s", PATIENCE.as_secs())
    }
}

//! What outlives a service that is killed: a process that leads clients to the server in the guard's stead.
//!
//! A socket's file stays when whoever listened is gone, and refuses everybody. Where a server says
//! `on_guard_down = "direct"`, a process of the server's own account waits for the service's end and puts a link to
//! the server in its place.

use std::{
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::seat::{FileId, Seat, give_way};

/// One for each such server.
pub(super) struct Keeper {
    child: Child,
    /// Closed with the service, however that ends.
    life: UnixStream,
}

/// Said by a service that has done it by itself.
const DISMISSED: u8 = b'.';

impl Keeper {
    pub fn start(seat: &Seat, file: FileId) -> io::Result<Self> {
        let (life, theirs) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg("keeper")
            .args([&seat.at, &seat.moved_to])
            .args([file.device.to_string(), file.inode.to_string()])
            .uid(seat.account.uid())
            .gid(seat.account.gid())
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, life })
    }

    /// There is nothing to do for it any more.
    pub fn dismiss(mut self) {
        let said = io::Write::write_all(&mut self.life, &[DISMISSED]);
        drop(self.life);
        if said.is_err() {
            // It has ended already.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Waits for the end of whoever holds the other end of standard input, which is a socket.
///
/// # Errors
/// The link can't be made.
pub fn keep(at: &Path, to: &Path, ours: FileId) -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Whoever ends the service's processes one after the other ends this one too early.
    // SAFETY: nothing is run at a signal.
    unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGTERM,
            nix::sys::signal::SigHandler::SigIgn,
        )
    }?;
    let mut said = Vec::new();
    let _ = io::stdin().read_to_end(&mut said);
    match said.contains(&DISMISSED) {
        true => Ok(()),
        false => give_way(at, ours, to),
    }
}

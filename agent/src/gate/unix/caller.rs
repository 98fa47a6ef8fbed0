//! Who has connected to a unix socket of the guard's, as the kernel has noted it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::account::Account;

/// Groups of one account, as many as the kernel has.
const MAX_GROUPS: usize = 65_536;
/// Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// A process of this host.
#[derive(Clone, Debug)]
pub struct Caller {
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    pub accepted: Instant,
    groups: Vec<u32>,
    /// This very process, where the kernel hands it out.
    process: Option<Arc<OwnedFd>>,
}

impl Caller {
    /// Of an accepted socket: what it was when it connected.
    pub(in crate::gate) fn of(socket: impl AsFd) -> io::Result<Self> {
        let peer = getsockopt(&socket, PeerCredentials)?;
        let mut groups = vec![0_u32; 64];
        loop {
            match option(&socket, libc::SO_PEERGROUPS, &mut groups) {
                Ok(len) => break groups.truncate(len / size_of::<u32>()),
                Err(error)
                    if error.raw_os_error() == Some(libc::ERANGE) && groups.len() < MAX_GROUPS =>
                {
                    groups.resize(groups.len() * 4, 0);
                }
                Err(error) => return Err(error),
            }
        }
        let mut fd = [0_u32];
        let process = option(&socket, SO_PEERPIDFD, &mut fd).ok().map(|_| {
            let [fd] = fd;
            // SAFETY: the kernel has just made it for us.
            Arc::new(unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) })
        });
        Ok(Self {
            pid: u32::try_from(peer.pid()).unwrap_or_default(),
            uid: peer.uid(),
            gid: peer.gid(),
            accepted: Instant::now(),
            groups,
            process,
        })
    }

    /// Whether another process has its number by now.
    pub fn is_replaced(&self) -> bool {
        let has_ended = |process: &Arc<OwnedFd>| {
            let mut fds = [PollFd::new(process, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
        };
        self.process.as_ref().is_some_and(has_ended)
            && std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// # Errors
    /// It has none on this host.
    pub(in crate::gate) fn account(&self) -> io::Result<Account> {
        Account::new(self.uid, self.gid, self.groups.clone())
    }
}

/// The bytes that the kernel has filled.
fn option(socket: impl AsFd, name: libc::c_int, value: &mut [u32]) -> io::Result<usize> {
    let mut len = size_of_val(value) as libc::socklen_t;
    // SAFETY: a socket of ours, and a buffer of the length that is said.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if answer == 0 { Ok(len as usize) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::Caller;

    #[test]
    fn a_socket_says_who_is_at_its_other_end() {
        let (here, _there) = UnixStream::pair().unwrap();
        let caller = Caller::of(&here).unwrap();
        assert_eq!(caller.pid, std::process::id());
        assert_eq!(caller.uid, nix::unistd::geteuid().as_raw());
        assert!(!caller.is_replaced());
        assert!(caller.account().is_ok());
    }
}

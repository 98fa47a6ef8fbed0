//! Who may use the control socket: decided by the kernel's word about the peer, never by the peer's own.
//!
//! `SO_PEERCRED` and `SO_PEERGROUPS` tell what the peer was when it connected, so that nothing it
//! does afterwards (exec, setuid, exit and pid reuse) changes the answer. Who may decide about others'
//! statements is asked of its process as well, which `SO_PEERPIDFD` (from Linux 6.5 on) keeps by its number.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
};

use nix::unistd::{Gid, Group, Uid};

/// The uids and the group that are let in. Root always is.
#[derive(Clone, Debug)]
pub struct Access {
    own: Uid,
    group: Option<(String, Gid)>,
}

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(
        "the group `{name}` of [control] does not exist on this host: create it (groupadd --system \
         {name}) or remove the key"
    )]
    NoSuchGroup { name: String },
    #[error("can't look up the group `{name}` of [control]")]
    Lookup {
        name: String,
        #[source]
        source: nix::Error,
    },
}

impl Access {
    /// Root, the agent's own user, and the members of `group`.
    pub fn new(group: Option<&str>) -> Result<Self, AccessError> {
        let group = group
            .map(|name| match Group::from_name(name) {
                Ok(Some(group)) => Ok((name.to_owned(), group.gid)),
                Ok(None) => Err(AccessError::NoSuchGroup { name: name.to_owned() }),
                Err(source) => Err(AccessError::Lookup { name: name.to_owned(), source }),
            })
            .transpose()?;
        Ok(Self { own: Uid::effective(), group })
    }

    /// Owns the socket file next to root.
    pub(super) fn gid(&self) -> Option<u32> {
        self.group.as_ref().map(|(_, gid)| gid.as_raw())
    }

    /// `Err` says in words why not.
    pub(super) fn check(&self, peer: &Peer) -> Result<(), String> {
        let group = self.group.as_ref();
        if peer.uid == 0
            || peer.uid == self.own.as_raw()
            || group.is_some_and(|(_, gid)| peer.groups.contains(&gid.as_raw()))
        {
            return Ok(());
        }
        Err(match group {
            Some((name, _)) => format!(
                "uid {} may not ask this agent: only root and the group `{name}` may",
                peer.uid
            ),
            None => format!(
                "uid {} may not ask this agent: only root may; `group` in [control] of the \
                 configuration lets a group in",
                peer.uid
            ),
        })
    }
}

/// The process at the other end of a unix socket, as it was when it connected.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub uid: u32,
    /// Primary and supplementary groups.
    pub groups: Vec<u32>,
    /// `None` where the kernel has no number for it here.
    pub pid: Option<u32>,
    /// Stands for that very process.
    pub pidfd: Option<Arc<OwnedFd>>,
}

impl Peer {
    pub(super) fn of(socket: impl AsFd) -> io::Result<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(&socket)?;
        let mut groups = peer_groups(&socket)?;
        groups.push(credentials.gid.as_raw());
        let pid = u32::try_from(credentials.pid.as_raw_pid()).ok();
        let pidfd = peer_pidfd(&socket).or_else(|| opened(pid));
        let pidfd = pidfd.map(Arc::new);
        Ok(Self { uid: credentials.uid.as_raw(), groups, pid, pidfd })
    }
}

fn peer_pidfd(socket: impl AsFd) -> Option<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).ok()?;
    // SAFETY: the kernel writes one descriptor, as long as `len` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &mut len,
        )
    };
    // SAFETY: it has just been made for us.
    (result == 0 && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `asm-generic/socket.h`
const SO_PEERPIDFD: libc::c_int = 77;

/// On older kernels: whoever has that number now, a moment after it has connected.
fn opened(pid: Option<u32>) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid?).ok()?)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    // NGROUPS_MAX: no process has more, so one call is enough.
    let mut groups = vec![0u32; 65_536];
    let mut len = libc::socklen_t::try_from(groups.len() * size_of::<u32>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes to the vector's initialised memory, and says in
    // `len` how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(usize::try_from(len).unwrap_or(0) / size_of::<u32>());
    groups.shrink_to_fit();
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Gid, Uid};

    use super::{Access, Peer};

    #[test]
    fn root_the_own_user_and_the_group_come_in() {
        let open =
            Access { own: Uid::from_raw(990), group: Some(("dba".into(), Gid::from_raw(50))) };
        let closed = Access { own: Uid::from_raw(990), group: None };
        for (access, uid, groups, expected) in [
            (&closed, 0, vec![0], Ok(())),
            (&closed, 990, vec![990], Ok(())),
            (
                &closed,
                1_000,
                vec![1_000, 50],
                Err("uid 1000 may not ask this agent: only root may; `group` in [control] of the \
                     configuration lets a group in"),
            ),
            (&open, 1_000, vec![1_000, 50], Ok(())),
            (
                &open,
                1_000,
                vec![1_000, 51],
                Err("uid 1000 may not ask this agent: only root and the group `dba` may"),
            ),
        ] {
            let result = access.check(&Peer { uid, groups, pid: None, pidfd: None });
            assert_eq!(result, expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn the_kernel_names_the_peer() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.uid, Uid::effective().as_raw());
        assert!(peer.groups.contains(&Gid::effective().as_raw()));
        assert_eq!(peer.pid, Some(std::process::id()));
        assert!(peer.pidfd.is_some());
    }

    #[test]
    fn a_group_that_is_not_there_is_named() {
        let error = Access::new(Some("no-such-group-here")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the group `no-such-group-here` of [control] does not exist on this host: create it \
             (groupadd --system no-such-group-here) or remove the key"
        );
    }
}

//! How a process that reads what strangers wrote gives up what it doesn't need: rights, files, memory.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use rustix::{
    process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
        set_no_new_privs,
    },
};

/// The kernel's id for nobody.
const NOBODY: u32 = 65_534;

/// While this is the process's only thread. It ends with the thread that has started it.
pub fn give_up_rights(limits: &[(Resource, u64)]) -> io::Result<()> {
    close_inherited_files();
    if Uid::effective().is_root() {
        // Where a service is given fewer capabilities than the unit gives it, this can't be; without any
        // capability, and without a way to open a file, root is nobody too.
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        let _ = setgroups(&[])
            .and_then(|()| setresgid(group, group, group))
            .and_then(|()| setresuid(user, user, user));
    }
    // Kernels before 4.3 have none, and no ambient set either.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // After the change of user, which would undo it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for (resource, limit) in limits {
        setrlimit(*resource, *limit, *limit)?;
    }
    Ok(())
}

/// Whatever the service has open without a mark to close it on exec.
fn close_inherited_files() {
    // SAFETY: nothing in this process owns a descriptor from 3 on yet. Kernels before 5.9 don't know the
    // call; there the marks have to do.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// The stream that the service gave as standard input.
pub fn standard_input() -> io::Result<UnixStream> {
    let stream: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(UnixStream::from(stream))
}

//! Does one thing in another account's name, in a thread that does nothing else and ends with it.

use std::{fs, io, thread};

/// For a user or a group that stays as it is: nobody has this id.
const NO_ID: u32 = u32::MAX;
/// What the kernel calls those whom this user namespace has no name for.
const OVERFLOW: &str = "/proc/sys/kernel/overflowuid";
/// Of the first user namespace: everybody has a name.
const EVERYBODY: [u32; 3] = [0, 0, u32::MAX];

/// Effective user and groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gate) struct Account {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Account {
    /// # Errors
    /// Nobody on this host has such ids.
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>) -> io::Result<Self> {
        if [uid, gid].contains(&NO_ID) || uid == overflow() {
            return Err(io::Error::other(
                "its account has no id on this host: it is of another user namespace",
            ));
        }
        Ok(Self { uid, gid, groups })
    }

    /// That of a process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let (uid, gid, groups) = parse(&status)
            .ok_or_else(|| io::Error::other("the kernel does not say whose process it is"))?;
        Self::new(uid, gid, groups)
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Whatever the outcome, nothing else is ever done in that name: the thread that had it is gone.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let there =
                thread::Builder::new().name("gate-account".into()).spawn_scoped(scope, || {
                    self.take_on()?;
                    what()
                });
            let panicked = |_| io::Error::other("the thread of that account ended early");
            there?.join().map_err(panicked)?
        })
    }

    /// Of this thread alone: libc's functions of these names change all threads of a process, the kernel's do not.
    /// With the effective user its capabilities go, so that it may no more than the account.
    fn take_on(&self) -> io::Result<()> {
        let Self { uid, gid, groups } = self;
        // SAFETY: a list of the length that is said; the others have no memory to do with.
        let done = unsafe {
            [
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                libc::syscall(libc::SYS_setresgid, NO_ID, *gid, NO_ID),
                libc::syscall(libc::SYS_setresuid, NO_ID, *uid, NO_ID),
            ]
        };
        if done != [0; 3] {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no arguments; they always succeed.
        let now = unsafe { [libc::syscall(libc::SYS_geteuid), libc::syscall(libc::SYS_getegid)] };
        match now == [i64::from(*uid), i64::from(*gid)] {
            true => Ok(()),
            false => Err(io::Error::other("the account was not taken on")),
        }
    }
}

/// Nobody's id where everybody has one.
fn overflow() -> u32 {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers = map.split_whitespace().map_while(|word| word.parse::<u32>().ok());
    if numbers.eq(EVERYBODY) {
        return NO_ID;
    }
    let overflow = fs::read_to_string(OVERFLOW).ok();
    overflow.and_then(|id| id.trim().parse().ok()).unwrap_or(65_534)
}

/// Effective ids and groups of `/proc/<pid>/status`.
fn parse(status: &str) -> Option<(u32, u32, Vec<u32>)> {
    let numbers = |name: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().map(|word| word.parse().ok()).collect()
    };
    // Real, effective, saved, of the file system.
    let effective = |name: &str| numbers(name)?.get(1).copied();
    Some((effective("Uid")?, effective("Gid")?, numbers("Groups")?))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Account, NO_ID, parse};

    #[test]
    fn a_process_says_whose_it_is() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nVmPeak: 1 kB\n";
        for (status, expected) in [
            (status, Some((2, 6, vec![9, 10]))),
            ("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t\n", Some((2, 6, vec![]))),
            ("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n", None),
            ("Uid:\t1\nGid:\t5\t6\t7\t8\nGroups:\n", None),
            ("Uid:\tx\ty\nGid:\t5\t6\t7\t8\nGroups:\n", None),
        ] {
            assert_eq!(parse(status), expected, "{status}");
        }
    }

    /// The kernel takes it for "stays as it is", which would be root.
    #[test]
    fn nobody_is_taken_on_who_has_no_id() {
        for (uid, gid) in [(NO_ID, 1), (1, NO_ID)] {
            assert!(Account::new(uid, gid, Vec::new()).is_err());
        }
    }

    #[test]
    fn only_one_thread_has_it_and_only_for_a_while() {
        let own = || {
            // SAFETY: no arguments.
            unsafe { libc::syscall(libc::SYS_geteuid) }
        };
        let before = own();
        let mine = Account::of_process(std::process::id()).unwrap();
        assert_eq!(i64::from(mine.uid()), before);
        if before != 0 {
            return;
        }
        let other = Account::new(12_345, 23_456, vec![34_567]).unwrap();
        let groups = other.run(|| {
            let status = std::fs::read_to_string("/proc/thread-self/status")?;
            Ok((own(), parse(&status)))
        });
        assert_eq!(groups.unwrap(), (12_345, Some((12_345, 23_456, vec![34_567]))));
        assert_eq!(own(), before);
        let refused = other.run(|| std::fs::write("/etc/dbwarden-of-another-account", ""));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}

//! What the process that parses gives up beyond its rights: memory, time, system calls.

use std::{collections::BTreeMap, io};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter_all_threads,
};

use crate::confine;

/// Address space: the parser's stack (which is mostly never touched), the program itself, and what a
/// parse tree takes.
const MEMORY_BYTES: u64 = 1 << 30;

/// Descriptors: the stream, standard output and error, and the pipe that the C parser opens for each text.
const FILES: u64 = 16;

/// Seconds of processor time for one text, which is far beyond the service's patience: this is for a
/// service that stands still itself.
const SECONDS: u64 = 5;

/// While this is the process's only thread.
pub fn give_up_rights() -> io::Result<()> {
    confine::give_up_rights(&[
        (Resource::RLIMIT_AS, MEMORY_BYTES),
        (Resource::RLIMIT_NOFILE, FILES),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ])
}

/// From now on for the next text.
pub fn limit_time() -> io::Result<()> {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let used = used.user_time().tv_sec() + used.system_time().tv_sec();
    let (_, hard) = getrlimit(Resource::RLIMIT_CPU)?;
    let soft = u64::try_from(used).unwrap_or_default() + SECONDS;
    Ok(setrlimit(Resource::RLIMIT_CPU, soft.min(hard), hard)?)
}

/// Reading, writing, memory, and what the C library and the parser do for themselves; no file can be
/// opened, no process started, no socket made. For all threads, for good.
pub fn allow_only_parsing() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    apply_filter_all_threads(&filter).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, BackendError> {
    #[cfg(target_arch = "x86_64")]
    const OF_ARCHITECTURE: &[i64] = &[libc::SYS_pipe, libc::SYS_dup2, libc::SYS_poll];
    #[cfg(not(target_arch = "x86_64"))]
    const OF_ARCHITECTURE: &[i64] = &[];
    const ALLOWED: &[i64] = &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_close,
        libc::SYS_pipe2,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_ppoll,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        // The C parser asks how large its stack is, and the C library asks this on the way.
        libc::SYS_sched_getaffinity,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_getrusage,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(OF_ARCHITECTURE).map(|call| (*call, Vec::new())).collect();
    // Where the service can't change its user, the child has the uid of every other daemon: nothing may
    // reach them. A signal goes to the child itself, a limit is its own, and a descriptor's owner, who
    // would get signals too, can't be set.
    let only = |argument, value: u64| {
        let equal =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        SeccompRule::new(vec![equal])
    };
    allowed.insert(libc::SYS_tgkill, vec![only(0, u64::from(std::process::id()))?]);
    allowed.insert(libc::SYS_prlimit64, vec![only(0, 0)?]);
    let commands = [libc::F_GETFL, libc::F_SETFL].map(i32::unsigned_abs).map(u64::from);
    let commands = commands.into_iter().map(|command| only(1, command));
    allowed.insert(libc::SYS_fcntl, commands.collect::<Result<_, _>>()?);

    let here = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(allowed, refuse, SeccompAction::Allow, here)?.try_into()
}

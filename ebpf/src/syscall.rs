//! The fallback hooks: exits of the system calls that move bytes of sockets.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_loop},
    macros::tracepoint,
    programs::TracePointContext,
};
use aya_log_ebpf::debug;
use dbwarden_common::{COOKIE_IS_INODE, REQUEST, RESPONSE, Tracked};

use crate::{
    emit::Source,
    kernel::{self, SyscallRegs, offset},
    socket::{MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC, Transfer, tracked, transfer},
};

/// Those that read from a socket.
#[tracepoint]
pub fn syscall_exit_read(ctx: TracePointContext) -> u32 {
    let Some(exit) = Exit::of(&ctx) else { return 0 };
    let flags = match exit.regs.number {
        RECVFROM => exit.regs.flags,
        RECVMSG => exit.regs.args[2],
        _ => 0,
    };
    // `splice` is not followed, only counted.
    let discarded = flags & MSG_TRUNC != 0 || exit.regs.number == SPLICE;
    if flags & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE) == 0 {
        let first = exit.transfer(REQUEST, exit.regs.args[0], discarded);
        if first {
            debug!(&ctx, "a socket of process {} is new", exit.pid_tgid >> 32);
        }
    }
    0
}

/// Those that write to a socket.
#[tracepoint]
pub fn syscall_exit_write(ctx: TracePointContext) -> u32 {
    let Some(exit) = Exit::of(&ctx) else { return 0 };
    if exit.result > 0 {
        // `splice` writes to its third argument, all others to their first.
        let fd = if exit.regs.number == SPLICE { exit.regs.args[2] } else { exit.regs.args[0] };
        let first = exit.transfer(RESPONSE, fd, false);
        if first {
            debug!(&ctx, "a socket of process {} is new", exit.pid_tgid >> 32);
        }
    }
    0
}

/// Those that move several messages: their memory is not followed, only counted.
#[tracepoint]
pub fn syscall_exit_many(ctx: TracePointContext) -> u32 {
    let Some(mut exit) = Exit::of(&ctx) else { return 0 };
    let receives = exit.regs.number == RECVMMSG;
    if receives && exit.regs.flags & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE) != 0 {
        return 0;
    }
    let mut messages = Messages { at: exit.regs.args[1], len: 0 };
    // SAFETY: `add_message` gets the messages, which outlive the loop.
    unsafe {
        bpf_loop(exit.result as u32, add_message as *mut c_void, (&raw mut messages).cast(), 0)
    };
    exit.result = messages.len;
    if messages.len > 0 {
        let direction = if receives { REQUEST } else { RESPONSE };
        exit.transfer(direction, exit.regs.args[0], true);
    }
    0
}

struct Messages {
    /// An array of `struct mmsghdr` in user memory.
    at: u64,
    /// Bytes that they moved together.
    len: u64,
}

/// A `struct mmsghdr` is a `msghdr` of 56 bytes and the length that the kernel left there.
unsafe extern "C" fn add_message(index: u64, messages: *mut Messages) -> u64 {
    // SAFETY: called by `bpf_loop` with the messages of `syscall_exit_many`.
    let messages = unsafe { &mut *messages };
    messages.len += kernel::user::<u32>(messages.at + index * 64 + 56).unwrap_or(0) as u64;
    0
}

/// A system call of a tracked process that ends without an error.
struct Exit {
    pid_tgid: u64,
    tracked: Tracked,
    result: u64,
    regs: SyscallRegs,
}

impl Exit {
    #[inline(always)]
    fn of(ctx: &TracePointContext) -> Option<Self> {
        // SAFETY: the offset is from the tracepoint's format file.
        let result = unsafe { ctx.read_at::<i64>(offset!(syscall_ret) as usize) }.ok()?;
        if result < 0 {
            return None;
        }
        let pid_tgid = bpf_get_current_pid_tgid();
        let tracked = tracked(pid_tgid)?;
        Some(Self { pid_tgid, tracked, result: result as u64, regs: kernel::syscall_regs() })
    }

    #[inline(always)]
    fn transfer(&self, direction: u8, fd: u64, unreadable: bool) -> bool {
        let Some((sock, inode)) = kernel::socket_of_fd(fd) else { return false };
        let source = if unreadable { Source::UNREADABLE } else { source_of(&self.regs, direction) };
        let seen = Transfer {
            pid_tgid: self.pid_tgid,
            tracked: self.tracked,
            sock,
            // Nobody asked for a cookie here, so there is none: the inode's number tells two lives of
            // one address apart.
            cookie: inode | COOKIE_IS_INODE,
            len: self.result,
            direction,
            stack: self.regs.stack,
        };
        transfer(&seen, source)
    }
}

const READ: u64 = 0;
const WRITE: u64 = 1;
const READV: u64 = 19;
const WRITEV: u64 = 20;
const SENDTO: u64 = 44;
const RECVFROM: u64 = 45;
const SENDMSG: u64 = 46;
const RECVMSG: u64 = 47;
const SPLICE: u64 = 275;
const RECVMMSG: u64 = 299;
const PREADV2: u64 = 327;
const PWRITEV2: u64 = 328;

/// Where the system call's bytes are. The numbers are x86-64's; no 32-bit call that moves socket bytes has
/// one of them.
#[inline(always)]
pub fn source_of(regs: &SyscallRegs, direction: u8) -> Source {
    let at = regs.args[1];
    match (regs.number, direction) {
        (READ | RECVFROM, REQUEST) | (WRITE | SENDTO, RESPONSE) => Source::buffer(at),
        (READV | PREADV2, REQUEST) | (WRITEV | PWRITEV2, RESPONSE) => {
            Source::vector(at, regs.args[2])
        }
        // `struct msghdr`: name, its length, vectors, their number.
        (RECVMSG, REQUEST) | (SENDMSG, RESPONSE) => match kernel::user::<[u64; 2]>(at + 16) {
            Some([vectors, n_vectors]) => Source::vector(vectors, n_vectors),
            None => Source::UNREADABLE,
        },
        _ => Source::UNREADABLE,
    }
}

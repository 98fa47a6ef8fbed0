//! Reads fields of kernel structures at the offsets that the agent took from this kernel's BTF.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        self,
        generated::{
            bpf_get_current_task_btf, bpf_ktime_get_boot_ns, bpf_probe_read_kernel,
            bpf_task_pt_regs,
        },
    },
};
use dbwarden_common::{ABSENT, Offsets, Tuple};

/// Set by the loader. Constant once the map is frozen, so the verifier folds it.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = unsafe { core::mem::zeroed() };
/// Reads a constant of this program. Volatile, because the loader replaces its value.
#[inline(always)]
pub fn constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is always valid for reads.
    unsafe { core::ptr::read_volatile(value) }
}

/// The offset of one field.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::constant(&$crate::kernel::OFFSETS.$field)
    };
}
pub(crate) use offset;

/// Reads the field at `offset` of the structure at `base`.
#[inline(always)]
pub fn field<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address.
    unsafe { helpers::bpf_probe_read_kernel((base + offset as u64) as *const T) }.ok()
}

/// The same for what user memory holds.
#[inline(always)]
pub fn user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { helpers::bpf_probe_read_user(address as *const T) }.ok()
}

/// Nanoseconds since the boot.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

#[inline(always)]
pub fn current_task() -> u64 {
    // SAFETY: no arguments, cannot fail.
    unsafe { bpf_get_current_task_btf() as u64 }
}

/// Has the current task ever set up an io_uring?
#[inline(always)]
pub fn uses_io_uring() -> bool {
    let offset = offset!(task_io_uring);
    if offset == ABSENT {
        return false;
    }
    // SAFETY: a typed pointer to a task that is certainly there, and the offset of one of its fields; no
    // helper, because every call of a database pays for it.
    unsafe { *(bpf_get_current_task_btf() as *const u8).add(offset as usize).cast::<u64>() != 0 }
}

/// The registers with which the current task entered the kernel: number and arguments of its system call.
#[derive(Clone, Copy)]
pub struct SyscallRegs {
    pub number: u64,
    pub args: [u64; 3],
    pub flags: u64,
    /// 0 for a kernel thread of the process, as io_uring makes them: it is in no system call.
    pub stack: u64,
}

#[inline(always)]
pub fn syscall_regs() -> SyscallRegs {
    // SAFETY: the helper returns the saved registers of a task that is certainly there: the current one.
    unsafe {
        let regs = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs;
        SyscallRegs {
            number: (*regs).orig_rax,
            args: [(*regs).rdi, (*regs).rsi, (*regs).rdx],
            flags: (*regs).r10,
            stack: (*regs).rsp,
        }
    }
}

/// The socket behind a file descriptor of the current task, with its inode number.
#[inline(always)]
pub fn socket_of_fd(fd: u64) -> Option<(u64, u64)> {
    const S_IFMT: u16 = 0o170000;
    const S_IFSOCK: u16 = 0o140000;
    let files: u64 = field(current_task(), offset!(task_files))?;
    let table: u64 = field(files, offset!(files_fdt))?;
    let max: u32 = field(table, offset!(fdtable_max_fds))?;
    if fd >= max as u64 {
        return None;
    }
    let array: u64 = field(table, offset!(fdtable_fd))?;
    let file: u64 = field(array + fd * 8, 0)?;
    let inode: u64 = field(file, offset!(file_inode))?;
    let mode: u16 = field(inode, offset!(inode_mode))?;
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket: u64 = field(file, offset!(file_private_data))?;
    let sock: u64 = field(socket, offset!(socket_sk))?;
    let number: u64 = field(inode, offset!(inode_ino))?;
    (sock != 0).then_some((sock, number))
}

pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// Inode of the network namespace of a socket.
#[inline(always)]
pub fn netns_of(sock: u64) -> u32 {
    field::<u64>(sock, offset!(sock_net)).and_then(|net| field(net, offset!(net_inum))).unwrap_or(0)
}

/// Copies `len` bytes of the structure at `base` to `into`, or nothing.
///
/// # Safety
/// `into` must be valid for writes of `len` bytes.
#[inline(always)]
pub unsafe fn copy(base: u64, offset: u32, into: *mut c_void, len: u32) -> bool {
    // SAFETY: the caller's `into`; the helper checks the source.
    base != 0 && unsafe { bpf_probe_read_kernel(into, len, as_ptr(base + offset as u64)) } == 0
}

/// Addresses and ports of an IP socket.
///
/// # Safety
/// `into` must be valid for writes.
#[inline(always)]
pub unsafe fn tuple_of(sock: u64, family: u16, into: *mut Tuple) {
    // SAFETY: the caller's `into`.
    unsafe {
        (*into).local = [0; 16];
        (*into).remote = [0; 16];
        (*into).local_port = field(sock, offset!(sock_num)).unwrap_or(0);
        (*into).remote_port = field::<u16>(sock, offset!(sock_dport)).unwrap_or(0).swap_bytes();
        (*into).family = family as u32;
        (*into).netns = netns_of(sock);
        (*into).reserved = 0;
        let (local, remote) = ((&raw mut (*into).local).cast(), (&raw mut (*into).remote).cast());
        if family == AF_INET6 {
            copy(sock, offset!(sock_v6_rcv_saddr), local, 16);
            copy(sock, offset!(sock_v6_daddr), remote, 16);
        } else if family == AF_INET {
            copy(sock, offset!(sock_rcv_saddr), local, 4);
            copy(sock, offset!(sock_daddr), remote, 4);
        }
    }
}

#[inline(always)]
pub fn as_ptr(address: u64) -> *mut c_void {
    address as *mut c_void
}

//! What the agent tells the BPF programs before they are loaded: budgets, and where fields lie in this
//! kernel's structures.

use crate::plain;

/// How much of one call is copied, in bytes; one for each direction. In a map, not a constant: a verifier
/// that knows the numbers follows every round of the copying loop apart and gives up.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Copied at the start of the call …
    pub head: u64,
    /// … and at its end.
    pub tail: u64,
}

/// Offset that says: this kernel has no such field.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets of fields, from this kernel's BTF. Rust BPF programs have no CO-RE relocations.
#[repr(C)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    pub sock_family: u32,
    pub sock_state: u32,
    pub sock_num: u32,
    pub sock_dport: u32,
    pub sock_daddr: u32,
    pub sock_rcv_saddr: u32,
    pub sock_v6_daddr: u32,
    pub sock_v6_rcv_saddr: u32,
    pub sock_net: u32,
    pub sock_type: u32,
    pub sock_shutdown: u32,
    pub sock_receive_queue_len: u32,
    pub inet_sport: u32,
    pub sock_peer_pid: u32,
    pub sock_peer_cred: u32,
    pub sock_cookie: u32,
    pub unix_addr: u32,
    pub unix_peer: u32,
    pub unix_address_len: u32,
    pub unix_address_name: u32,
    pub net_inum: u32,
    pub task_tgid: u32,
    pub task_real_parent: u32,
    pub task_thread_pid: u32,
    pub task_start_boottime: u32,
    pub task_cred: u32,
    pub task_comm: u32,
    pub task_signal: u32,
    pub task_mm: u32,
    pub task_files: u32,
    pub task_group_leader: u32,
    pub task_cgroups: u32,
    pub task_loginuid: u32,
    pub task_sessionid: u32,
    pub task_io_uring: u32,
    pub cred_euid: u32,
    pub cred_egid: u32,
    pub cred_uid: u32,
    pub cred_gid: u32,
    pub signal_live: u32,
    pub signal_tty: u32,
    pub tty_name: u32,
    pub mm_arg_start: u32,
    pub mm_arg_end: u32,
    pub bprm_interp: u32,
    pub pid_numbers: u32,
    pub css_set_dfl_cgrp: u32,
    pub cgroup_kn: u32,
    pub kernfs_parent: u32,
    pub kernfs_name: u32,
    pub files_fdt: u32,
    pub fdtable_max_fds: u32,
    pub fdtable_fd: u32,
    pub file_inode: u32,
    pub file_private_data: u32,
    pub inode_mode: u32,
    pub inode_ino: u32,
    pub socket_sk: u32,
    /// Of `ret` in the `sys_exit_*` tracepoints' records, from their format file.
    pub syscall_ret: u32,
}

plain!(Budget, Offsets);

//! Where fields lie in this kernel's structures, from its BTF.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use btf_rs::{Backend, Btf, Type};
use dbwarden_common::{ABSENT, Offsets};
use rustix::fs::{MemfdFlags, memfd_create};

pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    #[error(
        "the kernel's type information {} cannot be read; run a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are, with /sys mounted",
        path.display()
    )]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "the kernel's type information {} is not in BTF's form; please report it with the kernel's version",
        path.display()
    )]
    Malformed { path: PathBuf, source: btf_rs::Error },
    #[error(
        "this kernel's `struct {structure}` has no field `{field}`: dbwarden does not know this kernel"
    )]
    NoField { structure: &'static str, field: &'static str },
    #[error("this kernel has no function `{name}` for BPF programs")]
    NoFunction { name: &'static str },
    #[error("the kernel's type information is damaged at `struct {structure}`")]
    Damaged { structure: &'static str, source: btf_rs::Error },
}

/// Byte offsets, and numbers of the kernel's own functions.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnixHook {
    pub task_fs: u32,
    pub fs_root: u32,
    pub mount_root: u32,
    /// From the mount that a path names.
    pub mount_id: i32,
    pub context_address: u32,
    pub context_length: u32,
    pub cast_to_kernel: u32,
    pub set_path: u32,
}

/// This kernel's types.
pub struct KernelTypes(Btf);

impl KernelTypes {
    pub fn read(path: &Path) -> Result<Self, OffsetsError> {
        let copy = in_memory(path)
            .map_err(|source| OffsetsError::Unreadable { path: path.to_owned(), source })?;
        // Mapped, the types are looked up where they lie. Parsed as a whole they take 40 MB and a quarter
        // of a second.
        let copy = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
        Btf::from_file_with_backend(copy, Backend::Mmap)
            .map(Self)
            .map_err(|source| OffsetsError::Malformed { path: path.to_owned(), source })
    }

    /// Does the kernel have this tracepoint for typed (`tp_btf`) programs?
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.0
            .resolve_types_by_name(&format!("btf_trace_{name}"))
            .is_ok_and(|types| types.iter().any(|t| matches!(t, Type::Typedef(_))))
    }

    /// All offsets that the BPF programs use.
    pub fn offsets(&self) -> Result<Offsets, OffsetsError> {
        let of = |structure, field| self.offset(structure, field);
        let either =
            |structure, first, second| of(structure, first).or_else(|_| of(structure, second));
        let optional = |structure, field| of(structure, field).unwrap_or(ABSENT);
        Ok(Offsets {
            sock_family: of("sock", "__sk_common.skc_family")?,
            sock_state: of("sock", "__sk_common.skc_state")?,
            sock_num: of("sock", "__sk_common.skc_num")?,
            sock_dport: of("sock", "__sk_common.skc_dport")?,
            sock_daddr: of("sock", "__sk_common.skc_daddr")?,
            sock_rcv_saddr: of("sock", "__sk_common.skc_rcv_saddr")?,
            sock_v6_daddr: of("sock", "__sk_common.skc_v6_daddr")?,
            sock_v6_rcv_saddr: of("sock", "__sk_common.skc_v6_rcv_saddr")?,
            sock_net: of("sock", "__sk_common.skc_net.net")?,
            sock_type: of("sock", "sk_type")?,
            sock_shutdown: of("sock", "sk_shutdown")?,
            sock_receive_queue_len: of("sock", "sk_receive_queue.qlen")?,
            inet_sport: of("inet_sock", "inet_sport")?,
            sock_peer_pid: of("sock", "sk_peer_pid")?,
            sock_peer_cred: of("sock", "sk_peer_cred")?,
            sock_cookie: of("sock", "__sk_common.skc_cookie")?,
            unix_addr: of("unix_sock", "addr")?,
            unix_peer: of("unix_sock", "peer")?,
            unix_address_len: of("unix_address", "len")?,
            unix_address_name: of("unix_address", "name")?,
            net_inum: either("net", "ns.inum", "proc_inum")?,
            task_tgid: of("task_struct", "tgid")?,
            task_real_parent: of("task_struct", "real_parent")?,
            task_thread_pid: of("task_struct", "thread_pid")?,
            task_start_boottime: either("task_struct", "start_boottime", "real_start_time")?,
            task_cred: of("task_struct", "cred")?,
            task_comm: of("task_struct", "comm")?,
            task_signal: of("task_struct", "signal")?,
            task_mm: of("task_struct", "mm")?,
            task_files: of("task_struct", "files")?,
            task_group_leader: of("task_struct", "group_leader")?,
            task_cgroups: of("task_struct", "cgroups")?,
            task_loginuid: optional("task_struct", "loginuid"),
            task_sessionid: optional("task_struct", "sessionid"),
            task_io_uring: optional("task_struct", "io_uring"),
            cred_euid: of("cred", "euid")?,
            cred_egid: of("cred", "egid")?,
            cred_uid: of("cred", "uid")?,
            cred_gid: of("cred", "gid")?,
            signal_live: of("signal_struct", "live")?,
            signal_tty: of("signal_struct", "tty")?,
            tty_name: of("tty_struct", "name")?,
            mm_arg_start: of("mm_struct", "arg_start")?,
            mm_arg_end: of("mm_struct", "arg_end")?,
            bprm_interp: of("linux_binprm", "interp")?,
            pid_numbers: of("pid", "numbers")?,
            css_set_dfl_cgrp: of("css_set", "dfl_cgrp")?,
            cgroup_kn: of("cgroup", "kn")?,
            kernfs_parent: either("kernfs_node", "__parent", "parent")?,
            kernfs_name: of("kernfs_node", "name")?,
            files_fdt: of("files_struct", "fdt")?,
            fdtable_max_fds: of("fdtable", "max_fds")?,
            fdtable_fd: of("fdtable", "fd")?,
            file_inode: of("file", "f_inode")?,
            file_private_data: of("file", "private_data")?,
            inode_mode: of("inode", "i_mode")?,
            inode_ino: of("inode", "i_ino")?,
            socket_sk: of("socket", "sk")?,
            syscall_ret: ABSENT,
        })
    }

    /// What steering of unix sockets needs of this kernel.
    pub fn unix_hook(&self) -> Result<UnixHook, OffsetsError> {
        let of = |structure, field| self.offset(structure, field);
        // The number stands in the structure around the one that a path names.
        let in_path = of("mount", "mnt")?.cast_signed();
        Ok(UnixHook {
            task_fs: of("task_struct", "fs")?,
            fs_root: of("fs_struct", "root")?,
            mount_root: of("vfsmount", "mnt_root")?,
            mount_id: of("mount", "mnt_id_unique")?.cast_signed() - in_path,
            context_address: of("bpf_sock_addr_kern", "uaddr")?,
            context_length: of("bpf_sock_addr_kern", "uaddrlen")?,
            cast_to_kernel: self.function("bpf_cast_to_kern_ctx")?,
            set_path: self.function("bpf_sock_addr_set_sun_path")?,
        })
    }

    /// The number of a function that programs may call.
    fn function(&self, name: &'static str) -> Result<u32, OffsetsError> {
        let ids = self.0.resolve_ids_by_name(name).unwrap_or_default();
        let is_function = |id: &u32| matches!(self.0.resolve_type_by_id(*id), Ok(Type::Func(_)));
        ids.into_iter().find(is_function).ok_or(OffsetsError::NoFunction { name })
    }

    /// Byte offset of a field given by its path, as in `__sk_common.skc_num`.
    fn offset(&self, structure: &'static str, field: &'static str) -> Result<u32, OffsetsError> {
        let damaged = |source| OffsetsError::Damaged { structure, source };
        let missing = || OffsetsError::NoField { structure, field };
        let mut current = self
            .0
            .resolve_types_by_name(structure)
            .map_err(|_| missing())?
            .into_iter()
            .find(|t| matches!(t, Type::Struct(_)))
            .ok_or_else(missing)?;
        let mut offset = 0;
        let mut parts = field.split('.').peekable();
        while let Some(part) = parts.next() {
            let (at, member) =
                self.member(&current, part, MAX_NESTING).map_err(damaged)?.ok_or_else(missing)?;
            offset += at;
            if parts.peek().is_some() {
                current = self.strip(member).map_err(damaged)?;
            }
        }
        Ok(offset)
    }

    /// Offset and type of a member, also of one inside anonymous structures and unions.
    fn member(
        &self,
        container: &Type,
        name: &str,
        nesting: u32,
    ) -> Result<Option<(u32, Type)>, btf_rs::Error> {
        let (Type::Struct(container) | Type::Union(container)) = container else { return Ok(None) };
        for member in &container.members {
            let member_name = self.0.resolve_name(member)?;
            let at = member.bit_offset() / 8;
            if member_name == name {
                return Ok(Some((at, self.0.resolve_chained_type(member)?)));
            }
            if member_name.is_empty() && nesting > 0 {
                let inner = self.0.resolve_chained_type(member)?;
                if let Some((below, found)) = self.member(&inner, name, nesting - 1)? {
                    return Ok(Some((at + below, found)));
                }
            }
        }
        Ok(None)
    }

    /// What stands behind typedefs and qualifiers.
    fn strip(&self, mut t: Type) -> Result<Type, btf_rs::Error> {
        for _ in 0..MAX_NESTING {
            t = match &t {
                Type::Typedef(inner) => self.0.resolve_chained_type(inner)?,
                Type::Const(inner) | Type::Volatile(inner) => self.0.resolve_chained_type(inner)?,
                _ => return Ok(t),
            };
        }
        Ok(t)
    }
}

/// A copy that can be mapped, which the original in sysfs can't before 6.16.
fn in_memory(path: &Path) -> io::Result<OwnedFd> {
    let mut original = fs::File::open(path)?;
    let mut copy = fs::File::from(memfd_create("btf", MemfdFlags::CLOEXEC)?);
    io::copy(&mut original, &mut copy)?;
    Ok(copy.into())
}

/// Kernel structures nest anonymous members a few levels deep.
const MAX_NESTING: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_the_running_kernel_are_plausible() {
        let path = Path::new(VMLINUX);
        if !path.exists() {
            eprintln!("skipped: this kernel has no {VMLINUX}");
            return;
        }
        let types = KernelTypes::read(path).unwrap();
        let offsets = types.offsets().unwrap();
        // The first fields of `struct sock_common` have not moved for ten years.
        assert_eq!((offsets.sock_daddr, offsets.sock_rcv_saddr), (0, 4));
        assert_eq!(offsets.sock_dport + 2, offsets.sock_num);
        assert_eq!(types.offset("task_struct", "pid").unwrap() + 4, offsets.task_tgid);
        assert!(types.has_tracepoint("sched_process_exec"));
        assert!(!types.has_tracepoint("sched_process_exec_of_another_kernel"));
        assert!(matches!(
            types.offset("sock", "no_such_field"),
            Err(OffsetsError::NoField { structure: "sock", .. })
        ));
    }
}

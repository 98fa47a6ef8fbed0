//! Which kernel hooks see the databases' bytes: chosen from what the kernel has and the operator wants.

use std::{fmt, fs, io, path::Path};

use super::LoadError;

/// What is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// Sees sockets only, and costs the rest of the host nothing.
    TpBtf,
    /// Puts some 50 ns on every system call of the host while attached.
    Syscalls { why: String },
}

impl Hooks {
    /// The word in `status` and in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Hooks::TpBtf => "tp_btf",
            Hooks::Syscalls { .. } => "syscalls",
        }
    }
}

impl fmt::Display for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hooks::TpBtf => f.write_str("tp_btf (sock_send_length, sock_recv_length)"),
            Hooks::Syscalls { why } => write!(f, "syscalls (exit tracepoints), because {why}"),
        }
    }
}

/// The tracepoints of the preferred hooks.
pub const TYPED: [&str; 2] = ["sock_recv_length", "sock_send_length"];

/// Process and socket lives; both hook sets need them.
pub const LIVES: [&str; 5] = [
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
    "inet_sock_set_state",
    "tcp_destroy_sock",
];

/// Programs on the exits of the system calls that move bytes on sockets.
pub const SYSCALLS: [(&str, &[&str]); 3] = [
    ("syscall_exit_read", &["read", "readv", "preadv2", "recvfrom", "recvmsg", "splice"]),
    (
        "syscall_exit_write",
        &["write", "writev", "pwritev2", "sendto", "sendmsg", "sendfile64", "splice"],
    ),
    ("syscall_exit_many", &["recvmmsg", "sendmmsg"]),
];

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Where tracefs is mounted.
///
/// # Errors
/// It is not mounted, or closed to this process.
fn tracefs() -> Result<&'static Path, LoadError> {
    let [usual, debugfs] = TRACEFS.map(Path::new);
    match fs::read_dir(usual.join("events")) {
        Ok(_) => Ok(usual),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(LoadError::ClosedTracefs { path: usual, source })
        }
        Err(_) if debugfs.join("events").is_dir() => Ok(debugfs),
        Err(_) => Err(LoadError::NoTracefs),
    }
}

/// Offset of `ret` in the records of the `sys_exit_*` tracepoints, from their format file: it differs
/// between kernels.
///
/// # Errors
/// The tracepoints of system calls are not there, or can't be looked at.
pub fn syscall_ret_offset() -> Result<u32, LoadError> {
    let format = tracefs()?.join("events/syscalls/sys_exit_read/format");
    let format = fs::read_to_string(format).map_err(|_| LoadError::NoSyscallTracepoints)?;
    ret_offset_in(&format).ok_or(LoadError::NoSyscallTracepoints)
}

fn ret_offset_in(format: &str) -> Option<u32> {
    let field = format.lines().map(str::trim).find(|line| {
        line.starts_with("field:")
            && line.split(';').next().is_some_and(|declaration| declaration.ends_with(" ret"))
    })?;
    field.split(';').find_map(|part| part.trim().strip_prefix("offset:"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ret_field_is_found_in_a_format_file() {
        let format = "name: sys_exit_read\nID: 700\nformat:\n\
            \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
            \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
            \tfield:long ret;\toffset:16;\tsize:8;\tsigned:1;\n";
        assert_eq!(ret_offset_in(format), Some(16));
        assert_eq!(ret_offset_in("field:long retry;\toffset:24;"), None);
        assert_eq!(ret_offset_in("field:long ret;\toffset:x;"), None);
    }
}

//! The calls to `bpf(2)` that aya has no words for.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::program::{At, Instruction};

const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_HASH: u32 = 1;
const BPF_F_NO_PREALLOC: u32 = 1;
const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
/// Functions of the kernel's own are for programs under its licence.
const LICENCE: &[u8] = b"Dual MIT/GPL\0";
const LOG_BYTES: usize = 1 << 20;
/// Of what the verifier says: its last words.
const LAST_WORDS: usize = 300;

impl At {
    /// `BPF_CGROUP_UNIX_CONNECT` and `BPF_CGROUP_UNIX_GETPEERNAME`
    fn attach_type(self) -> u32 {
        match self {
            At::Connect => 49,
            At::GetPeerName => 52,
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

pub(super) fn hash_map(
    key_bytes: usize,
    value_bytes: usize,
    max_entries: u32,
) -> io::Result<OwnedFd> {
    let attributes = MapCreate {
        map_type: MAP_TYPE_HASH,
        key_size: key_bytes as u32,
        value_size: value_bytes as u32,
        max_entries,
        map_flags: BPF_F_NO_PREALLOC,
    };
    // SAFETY: numbers only.
    unsafe { descriptor(MAP_CREATE, &attributes) }
}

/// With the verifier's last words, where it refuses.
pub(super) fn load(at: At, code: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = ProgLoad {
        prog_type: PROG_TYPE_CGROUP_SOCK_ADDR,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr().expose_provenance() as u64,
        license: LICENCE.as_ptr().expose_provenance() as u64,
        prog_name: *b"steer_unix\0\0\0\0\0\0",
        expected_attach_type: at.attach_type(),
        ..ProgLoad::default()
    };
    // SAFETY: what the attributes point to lives longer than the call.
    let error = match unsafe { descriptor(PROG_LOAD, &attributes) } {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        other => return other,
    };
    let mut log = vec![0_u8; LOG_BYTES];
    attributes.log_level = 1;
    attributes.log_size = log.len() as u32;
    attributes.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: as above, and the log is as long as is said.
    if let Ok(loaded) = unsafe { descriptor(PROG_LOAD, &attributes) } {
        return Ok(loaded);
    }
    let log = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
    let log = log.trim_end();
    let last = log.get(log.ceil_char_boundary(log.len().saturating_sub(LAST_WORDS))..);
    match last.filter(|words| !words.is_empty()) {
        Some(words) => Err(io::Error::new(error.kind(), format!("{error}: {words}"))),
        None => Err(error),
    }
}

/// Beside those that others have there.
pub(super) fn attach(
    at: At,
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type: at.attach_type(),
        flags: 0,
    };
    // SAFETY: numbers only.
    unsafe { descriptor(LINK_CREATE, &attributes) }
}

pub(super) fn pin(what: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjPin {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: what.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    // SAFETY: the path lives longer than the call.
    unsafe { call(OBJ_PIN, &attributes) }.map(drop)
}

/// # Safety
/// Of a command that makes a descriptor; see [`call`].
unsafe fn descriptor<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's; the kernel has just made the descriptor for us.
    unsafe { call(command, attributes).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// # Safety
/// The attributes are those of the command, without padding, and what they point to is there.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<i64> {
    // SAFETY: the caller's.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

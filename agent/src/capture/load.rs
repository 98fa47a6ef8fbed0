//! Loads and attaches the BPF programs, with a clear verdict on what is missing.

use std::{error::Error, io, path::Path};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, MapError, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, ProgramError, TracePoint},
};
use dbwarden_common::{Budget, REQUEST, RESPONSE};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::{
    Capture, CaptureSettings, ControlRing, Hooks,
    hooks::{self, LIVES, SYSCALLS, TYPED},
    offsets::{KernelTypes, OffsetsError, VMLINUX},
    tls,
};
use crate::config::HookChoice;

/// The object that `cargo xtask build` made; empty where the BPF toolchain is absent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("DBWARDEN_BPF_OBJECT"));

/// Size of the BPF object that this binary carries; 0 if it was built without.
pub fn object_bytes() -> usize {
    OBJECT.len()
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("this dbwarden was built without its BPF programs; build it with `cargo xtask build`")]
    NoObject,
    #[error("the kernel does not say how its structures are laid out")]
    Offsets(#[from] OffsetsError),
    #[error("the BPF object cannot be loaded{}", hint(.0.as_ref()))]
    Object(#[source] Box<EbpfError>),
    #[error("the BPF type information of the kernel cannot be used")]
    Btf(#[source] aya::BtfError),
    #[error("BPF program `{name}` cannot be loaded or attached{}", hint(.source.as_ref()))]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error(
        "the BPF object has no {kind} `{name}`: it and this dbwarden are of different versions"
    )]
    Missing { kind: &'static str, name: &'static str },
    #[error("BPF map `{name}` cannot be used")]
    Map { name: &'static str, source: MapError },
    #[error(
        "hooks = \"tp_btf\" is configured, but this kernel has no tracepoint `{0}` (it came with 6.3)"
    )]
    NoTypedHooks(&'static str),
    #[error("tracefs is not mounted; run `mount -t tracefs tracefs /sys/kernel/tracing`")]
    NoTracefs,
    #[error("the kernel has no system-call tracepoints (CONFIG_FTRACE_SYSCALLS)")]
    NoSyscallTracepoints,
}

/// What most often stands behind a refusal. `EPERM` is a right that lacks; `EACCES` is the verifier, which
/// does not follow a program.
fn hint(error: &(dyn Error + 'static)) -> &'static str {
    let mut next = Some(error);
    while let Some(error) = next {
        let os_error = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        match os_error {
            Some(libc::EPERM) => {
                return ": not permitted; it takes root, or CAP_BPF with CAP_PERFMON in the host's own \
                        namespaces, and no kernel lockdown in mode \"confidentiality\"";
            }
            Some(libc::EACCES) => {
                return ": this kernel's verifier does not accept it; please report its words below with \
                        the kernel's version";
            }
            _ => next = error.source(),
        }
    }
    ""
}

pub fn start(settings: &CaptureSettings) -> Result<Capture, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    let (mut offsets, hooks) = {
        let types = KernelTypes::read(Path::new(VMLINUX))?;
        (types.offsets()?, choose(settings.hooks, &types)?)
    };
    if let Hooks::Syscalls { .. } = hooks {
        let tracefs = hooks::tracefs().ok_or(LoadError::NoTracefs)?;
        offsets.syscall_ret =
            hooks::syscall_ret_offset(tracefs).ok_or(LoadError::NoSyscallTracepoints)?;
    }
    let log_level: u8 = if settings.bpf_log { LOG_DEBUG } else { LOG_OFF };

    // Needed below 5.11 only; later kernels account BPF memory to the cgroup and ignore the limit.
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is");
    }
    let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .map_max_entries("DATA", settings.ring_bytes)
        .map_max_entries("CONTROL", settings.control_ring_bytes)
        .load(OBJECT)
        .map_err(|error| LoadError::Object(Box::new(error)))?;
    let log = settings.bpf_log.then(|| aya_log::EbpfLogger::init(&mut ebpf).ok()).flatten();

    let mut budgets: Array<_, Budget> = take(&mut ebpf, "BUDGETS", Array::try_from)?;
    let request = Budget { head: settings.request_bytes.into(), tail: 0 };
    let response = Budget {
        head: settings.response_head_bytes.into(),
        tail: settings.response_tail_bytes.into(),
    };
    for (direction, budget) in [(REQUEST, request), (RESPONSE, response)] {
        budgets
            .set(direction.into(), budget, 0)
            .map_err(|source| LoadError::Map { name: "BUDGETS", source })?;
    }
    let capture = Capture {
        data: take(&mut ebpf, "DATA", RingBuf::try_from)?,
        control: ControlRing {
            ring: take(&mut ebpf, "CONTROL", RingBuf::try_from)?,
            scratch: Vec::new(),
        },
        tracked: take(&mut ebpf, "TRACKED", HashMap::try_from)?,
        listeners: take(&mut ebpf, "LISTENERS", HashMap::try_from)?,
        counters: take(&mut ebpf, "COUNTERS", PerCpuArray::try_from)?,
        quota: take(&mut ebpf, "QUOTA", Array::try_from)?,
        asleep: take(&mut ebpf, "ASLEEP", Array::try_from)?,
        tls: tls::Probes::default(),
        hooks: attach(&mut ebpf, &btf, hooks)?,
        ebpf,
        log,
    };
    Ok(capture)
}

/// `aya_log`'s levels: 0 lets nothing through.
const LOG_OFF: u8 = 0;
const LOG_DEBUG: u8 = 4;

fn choose(choice: HookChoice, types: &KernelTypes) -> Result<Hooks, LoadError> {
    let missing = TYPED.into_iter().find(|name| !types.has_tracepoint(name));
    match (choice, missing) {
        (HookChoice::Syscalls, _) => {
            Ok(Hooks::Syscalls { why: "the configuration says so".to_owned() })
        }
        (_, None) => Ok(Hooks::TpBtf),
        (HookChoice::TpBtf, Some(name)) => Err(LoadError::NoTypedHooks(name)),
        (HookChoice::Auto, Some(name)) => {
            Ok(Hooks::Syscalls { why: format!("this kernel has no tracepoint `{name}` (6.3)") })
        }
    }
}

fn attach(ebpf: &mut Ebpf, btf: &Btf, hooks: Hooks) -> Result<Hooks, LoadError> {
    // Lives first: no byte may come from a process whose birth was missed.
    for name in LIVES {
        typed(ebpf, btf, name)?;
    }
    match &hooks {
        Hooks::TpBtf => {
            for name in TYPED {
                typed(ebpf, btf, name)?;
            }
        }
        Hooks::Syscalls { .. } => {
            for (name, calls) in SYSCALLS {
                syscalls(ebpf, name, calls)?;
            }
        }
    }
    tls::load(ebpf)?;
    Ok(hooks)
}

fn typed(ebpf: &mut Ebpf, btf: &Btf, name: &'static str) -> Result<(), LoadError> {
    let failed = |source| LoadError::Program { name, source: Box::new(source) };
    let program: &mut BtfTracePoint = program(ebpf, name)?;
    program.load(name, btf).map_err(failed)?;
    program.attach().map_err(failed)?;
    Ok(())
}

fn syscalls(ebpf: &mut Ebpf, name: &'static str, calls: &[&str]) -> Result<(), LoadError> {
    let failed = |source| LoadError::Program { name, source: Box::new(source) };
    let program: &mut TracePoint = program(ebpf, name)?;
    program.load().map_err(failed)?;
    for call in calls {
        program.attach("syscalls", &format!("sys_exit_{call}")).map_err(failed)?;
    }
    Ok(())
}

pub fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing { kind: "program", name })?
        .try_into()
        .map_err(|source| LoadError::Program { name, source: Box::new(source) })
}

fn take<M>(
    ebpf: &mut Ebpf,
    name: &'static str,
    open: impl FnOnce(aya::maps::Map) -> Result<M, MapError>,
) -> Result<M, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Missing { kind: "map", name })?;
    open(map).map_err(|source| LoadError::Map { name, source })
}

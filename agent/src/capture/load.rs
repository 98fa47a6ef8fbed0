//! Loads and attaches the BPF programs, with a clear verdict on what is missing.

use std::{io, path::Path};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, MapError, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, ProgramError, TracePoint},
};
use dbwarden_common::{ABSENT, Budget, Offsets, REQUEST, RESPONSE};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::{
    Capture, CaptureSettings, ControlRing, Hooks,
    hooks::{self, LIVES, SYSCALLS, TYPED},
    offsets::{KernelTypes, OffsetsError, VMLINUX},
    refusal::{Refusal, explained},
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
    #[error("the BPF object cannot be loaded{why}")]
    Object { why: String, source: Box<EbpfError> },
    #[error("the BPF type information of the kernel cannot be used")]
    Btf(#[source] aya::BtfError),
    #[error("BPF program `{name}` cannot be loaded or attached{why}")]
    Program { name: &'static str, why: String, source: Box<ProgramError> },
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
    #[error(
        "tracefs at {} is closed to this process; run dbwarden as root, or give its unit \
         CAP_DAC_READ_SEARCH",
        path.display()
    )]
    ClosedTracefs { path: &'static Path, source: io::Error },
    #[error(
        "the kernel has no system-call tracepoints; run one built with CONFIG_FTRACE_SYSCALLS=y"
    )]
    NoSyscallTracepoints,
}

impl LoadError {
    pub(super) fn program(name: &'static str, source: ProgramError) -> Self {
        Self::Program { name, why: explained(&source), source: Box::new(source) }
    }

    fn object(source: EbpfError) -> Self {
        Self::Object { why: explained(&source), source: Box::new(source) }
    }

    /// The program that the verifier doesn't accept: no right lacks, and another program may do.
    fn unacceptable(&self) -> Option<(&'static str, Refusal)> {
        let Self::Program { name, source, .. } = self else { return None };
        let refusal = Refusal::of(source.as_ref());
        refusal.is_the_verifiers().then_some((name, refusal))
    }
}

/// What the programs are loaded with: this kernel's layout, and how large the rings are.
pub(super) struct Load<'a> {
    pub(super) btf: &'a Btf,
    pub(super) offsets: Offsets,
    /// `aya_log`'s level.
    pub(super) log_level: u8,
    /// Bytes of the rings for data and for control records.
    pub(super) rings: [u32; 2],
}

/// `aya_log`'s levels: 0 lets nothing through.
pub(super) const LOG_OFF: u8 = 0;
const LOG_DEBUG: u8 = 4;

impl Load<'_> {
    /// Makes the maps; the programs are loaded one by one.
    pub(super) fn object(&self) -> Result<Ebpf, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject);
        }
        // Needed below 5.11 only; later kernels account BPF memory to the cgroup and ignore the limit.
        if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
            tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is");
        }
        let [data, control] = self.rings;
        EbpfLoader::new()
            .btf(Some(self.btf))
            .override_global("OFFSETS", &self.offsets, true)
            .override_global("AYA_LOG_LEVEL", &self.log_level, false)
            .map_max_entries("DATA", data)
            .map_max_entries("CONTROL", control)
            .load(OBJECT)
            .map_err(LoadError::object)
    }
}

/// This kernel's types for aya, which wants them in a form of its own.
pub(super) fn kernel_btf() -> Result<Btf, LoadError> {
    Btf::from_sys_fs().map_err(LoadError::Btf)
}

pub fn start(settings: &CaptureSettings) -> Result<Capture, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    let (mut offsets, hooks) = {
        let types = KernelTypes::read(Path::new(VMLINUX))?;
        (types.offsets()?, choose(settings.hooks, &types)?)
    };
    match (hooks::syscall_ret_offset(), &hooks) {
        (Ok(offset), _) => offsets.syscall_ret = offset,
        (Err(error), Hooks::Syscalls { .. }) => return Err(error),
        // Then there is nothing to fall back to.
        (Err(_), Hooks::TpBtf) => {}
    }
    let may_fall_back = settings.hooks == HookChoice::Auto && offsets.syscall_ret != ABSENT;
    let btf = kernel_btf()?;
    let mut ebpf = Load {
        btf: &btf,
        offsets,
        log_level: if settings.bpf_log { LOG_DEBUG } else { LOG_OFF },
        rings: [settings.ring_bytes, settings.control_ring_bytes],
    }
    .object()?;
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
        connections: take(&mut ebpf, "CONNECTIONS", HashMap::try_from)?,
        counters: take(&mut ebpf, "COUNTERS", PerCpuArray::try_from)?,
        quota: take(&mut ebpf, "QUOTA", Array::try_from)?,
        asleep: take(&mut ebpf, "ASLEEP", Array::try_from)?,
        tls: tls::Probes::default(),
        hooks: attach(&mut ebpf, &btf, hooks, may_fall_back)?,
        ebpf,
        log,
    };
    Ok(capture)
}

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

fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    hooks: Hooks,
    may_fall_back: bool,
) -> Result<Hooks, LoadError> {
    // Lives first: no byte may come from a process whose birth was missed.
    for name in LIVES {
        typed(ebpf, btf, name)?;
    }
    let hooks = match hooks {
        Hooks::TpBtf => match TYPED.into_iter().try_for_each(|name| typed(ebpf, btf, name)) {
            Ok(()) => Hooks::TpBtf,
            Err(error) if may_fall_back => fall_back(ebpf, error)?,
            Err(error) => return Err(error),
        },
        syscalls => syscalls,
    };
    if let Hooks::Syscalls { .. } = hooks {
        for (name, calls) in SYSCALLS {
            syscalls(ebpf, name, calls)?;
        }
    }
    tls::load(ebpf)?;
    Ok(hooks)
}

/// Takes the preferred hooks off where this kernel's verifier has refused one of them.
fn fall_back(ebpf: &mut Ebpf, error: LoadError) -> Result<Hooks, LoadError> {
    let Some((refused, refusal)) = error.unacceptable() else { return Err(error) };
    let words = refusal.last_words().unwrap_or_default();
    tracing::warn!(program = refused, verifier = words, "the better hooks can't be had");
    for name in TYPED {
        // The one that was refused needs no unloading.
        let _ = program::<BtfTracePoint>(ebpf, name)?.unload();
    }
    Ok(Hooks::Syscalls { why: format!("this kernel's verifier refuses `{refused}`") })
}

fn typed(ebpf: &mut Ebpf, btf: &Btf, name: &'static str) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program: &mut BtfTracePoint = program(ebpf, name)?;
    program.load(name, btf).map_err(failed)?;
    program.attach().map_err(failed)?;
    Ok(())
}

fn syscalls(ebpf: &mut Ebpf, name: &'static str, calls: &[&str]) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program: &mut TracePoint = program(ebpf, name)?;
    program.load().map_err(failed)?;
    for call in calls {
        program.attach("syscalls", &format!("sys_exit_{call}")).map_err(failed)?;
    }
    Ok(())
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing { kind: "program", name })?
        .try_into()
        .map_err(|source| LoadError::program(name, source))
}

fn take<M>(
    ebpf: &mut Ebpf,
    name: &'static str,
    open: impl FnOnce(aya::maps::Map) -> Result<M, MapError>,
) -> Result<M, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Missing { kind: "map", name })?;
    open(map).map_err(|source| LoadError::Map { name, source })
}

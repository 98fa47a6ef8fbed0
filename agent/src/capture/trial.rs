//! The programs on trial: each is loaded, attached where that harms nobody, and taken off again.
//!
//! On a host where dbwarden runs already, nothing here touches what that one has loaded. No server is
//! tracked, so the programs have nothing to copy.

use std::{error::Error, fs, path::Path};

use aya::{
    Btf, Ebpf,
    programs::{Program, ProgramError, uprobe::UProbeScope},
};
use dbwarden_common::ABSENT;

use super::{
    LoadError,
    hooks::{self, LIVES, SYSCALLS, TYPED},
    load::{self, LOG_OFF, Load},
    offsets::{KernelTypes, VMLINUX},
    refusal::{Refusal, explained, probe_explained},
    tls,
};

/// A ring that nobody reads: one page.
const RING_BYTES: u32 = 4_096;

/// What a program is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramSet {
    /// Lives of processes and sockets, whatever the hooks are.
    Lives,
    TpBtf,
    Syscalls,
    Tls,
}

/// One program, and what this host makes of it.
#[derive(Clone, Debug)]
pub struct Tried {
    pub name: &'static str,
    pub set: ProgramSet,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    /// The verifier follows it.
    Accepted {
        /// How many it has followed; kernels from 5.16 tell.
        instructions: Option<u32>,
        attached: Attached,
    },
    Refused(Refused),
    /// Something that it needs is not there.
    NotTried(String),
}

#[derive(Clone, Debug)]
pub enum Attached {
    Yes,
    /// It would cost or endanger something: why.
    NotTried(&'static str),
    Refused(Refused),
}

/// Why the kernel did not take it, in one line.
#[derive(Clone, Debug)]
pub struct Refused {
    pub why: String,
    /// Somebody with more rights may see another outcome.
    pub for_lack_of_rights: bool,
}

impl Tried {
    /// It would do its work here.
    pub fn works(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Accepted { attached: Attached::Yes | Attached::NotTried(_), .. }
        )
    }
}

/// Tries every program. `return_probes`: whether they may be attached at all, be it to this very process.
///
/// # Errors
/// What keeps the object as a whole from being loaded.
pub fn trial(return_probes: bool) -> Result<Vec<Tried>, LoadError> {
    let types = KernelTypes::read(Path::new(VMLINUX))?;
    let mut offsets = types.offsets()?;
    let syscall_ret = hooks::syscall_ret_offset();
    offsets.syscall_ret = *syscall_ret.as_ref().unwrap_or(&ABSENT);
    let btf = load::kernel_btf()?;
    let load = Load { btf: &btf, offsets, log_level: LOG_OFF, rings: [RING_BYTES, RING_BYTES] };
    let mut ebpf = load.object()?;
    let mut tried = Vec::new();

    let lives = LIVES.map(|name| (ProgramSet::Lives, name));
    let typed = TYPED.map(|name| (ProgramSet::TpBtf, name));
    for (set, name) in lives.into_iter().chain(typed) {
        let outcome = match types.has_tracepoint(name) {
            true => try_one(&mut ebpf, &btf, name, Ok(Target::Itself)),
            false => Outcome::NotTried("this kernel has no such tracepoint".to_owned()),
        };
        tried.push(Tried { name, set, outcome });
    }
    // The fallback slows every process of the host down while it is attached.
    let needed = !tried.iter().all(Tried::works);
    for (name, calls) in SYSCALLS {
        let outcome = match (&syscall_ret, calls) {
            (Ok(_), [call, ..]) if needed => {
                try_one(&mut ebpf, &btf, name, Ok(Target::Return(call)))
            }
            (Ok(_), _) => try_one(&mut ebpf, &btf, name, Err("spare")),
            (Err(error @ LoadError::ClosedTracefs { .. }), _) => Outcome::Refused(Refused {
                why: without_advice(&error.to_string()),
                for_lack_of_rights: true,
            }),
            (Err(error), _) => Outcome::NotTried(without_advice(&error.to_string())),
        };
        tried.push(Tried { name, set: ProgramSet::Syscalls, outcome });
    }
    let own_code = own_code().ok_or("not attached: this program's own code can't be found");
    for name in tls::PROGRAMS {
        let target = match name.ends_with("_return") && !return_probes {
            true => Err("not attached: return probes are dangerous on this kernel"),
            false => own_code.map(Target::OwnCode),
        };
        let outcome = try_one(&mut ebpf, &btf, name, target);
        tried.push(Tried { name, set: ProgramSet::Tls, outcome });
    }
    Ok(tried)
}

/// What to do about it is said once, where the host is judged, and not for each program.
fn without_advice(words: &str) -> String {
    words.split_once(';').map_or(words, |(what, _)| what).to_owned()
}

/// What a program is attached to.
#[derive(Clone, Copy)]
enum Target<'a> {
    /// The tracepoint that has its name.
    Itself,
    /// The return of this system call.
    Return(&'a str),
    /// An offset in this very program, in this process only.
    OwnCode(u64),
}

fn try_one(
    ebpf: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    target: Result<Target<'_>, &'static str>,
) -> Outcome {
    let Some(program) = ebpf.program_mut(name) else {
        return Outcome::NotTried(LoadError::Missing { kind: "program", name }.to_string());
    };
    let loaded = match program {
        Program::BtfTracePoint(program) => program.load(name, btf),
        Program::TracePoint(program) => program.load(),
        Program::UProbe(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    if let Err(error) = loaded {
        return Outcome::Refused(Refused::of(&error, explained));
    }
    let info = program.info().ok();
    let attached = match target.map(|target| attach(program, target)) {
        Ok(Ok(())) => Attached::Yes,
        Ok(Err(error)) if matches!(target, Ok(Target::OwnCode(_))) => {
            Attached::Refused(Refused::of(&error, probe_explained))
        }
        Ok(Err(error)) => Attached::Refused(Refused::of(&error, explained)),
        Err(why) => Attached::NotTried(why),
    };
    Outcome::Accepted {
        instructions: info.and_then(|info| info.verified_instruction_count()),
        attached,
    }
}

/// Until the object is dropped.
fn attach(program: &mut Program, target: Target<'_>) -> Result<(), ProgramError> {
    match (program, target) {
        (Program::BtfTracePoint(program), Target::Itself) => program.attach().map(drop),
        (Program::TracePoint(program), Target::Return(call)) => {
            program.attach("syscalls", &format!("sys_exit_{call}")).map(drop)
        }
        (Program::UProbe(program), Target::OwnCode(offset)) => {
            program.attach(offset, "/proc/self/exe", UProbeScope::CallingProcess).map(drop)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Where in its file this program has code that isn't run again: the beginning of [`trial`].
fn own_code() -> Option<u64> {
    let address = trial as *const () as u64;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| offset_in_file(line, address))
}

/// From a line of `maps`, as in `55d0-55e0 r-xp 00002000 fe:00 1234 /usr/bin/dbwarden`.
fn offset_in_file(line: &str, address: u64) -> Option<u64> {
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let offset = hex(fields.nth(1)?)?;
    (hex(from)?..hex(to)?).contains(&address).then_some(())?;
    offset.checked_add(address.checked_sub(hex(from)?)?)
}

impl Refused {
    fn of(error: &ProgramError, explained: fn(&(dyn Error + 'static)) -> String) -> Self {
        let refusal = Refusal::of(error);
        let why = match refusal.last_words() {
            Some(words) if refusal.is_the_verifiers() => format!("the verifier says: {words}"),
            _ => match explained(error).strip_prefix(": ") {
                Some(why) => without_advice(why),
                None => error.to_string(),
            },
        };
        Self { why, for_lack_of_rights: refusal.is_about_rights() }
    }
}

#[cfg(test)]
mod tests {
    use super::{offset_in_file, own_code};

    #[test]
    fn an_address_is_found_in_its_file() {
        let line = "55d0a000-55d0c000 r-xp 00002000 fe:00 1234 /usr/bin/dbwarden";
        for (address, expected) in [
            (0x55d0_9fff, None),
            (0x55d0_a000, Some(0x2000)),
            (0x55d0_bfff, Some(0x3fff)),
            (0x55d0_c000, None),
        ] {
            assert_eq!(offset_in_file(line, address), expected, "{address:#x}");
        }
        for line in ["", "55d0", "55d0-x r-xp 0", "a-b r-xp"] {
            assert_eq!(offset_in_file(line, 0xa), None, "{line}");
        }
        assert!(own_code().is_some());
    }
}

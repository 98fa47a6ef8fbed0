//! What stands behind the kernel's refusal of a program, in words that say what to do.

use std::{error::Error, fs, io};

use aya::programs::ProgramError;
use rustix::thread::{CapabilitySet, capabilities};

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// A refusal as the kernel made it.
#[derive(Debug)]
pub(super) struct Refusal {
    os_error: Option<i32>,
    /// The verifier's words, which may be none; absent where it wasn't about loading a program.
    verifier: Option<String>,
}

/// What this process may do, as far as it explains a refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    bpf: bool,
    perfmon: bool,
    net_admin: bool,
    sys_admin: bool,
    /// The kernel's lockdown is in mode `confidentiality`.
    confidentiality: bool,
}

impl Refusal {
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut refusal = Self { os_error: None, verifier: None };
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ProgramError::LoadError { verifier_log, .. }) = error.downcast_ref() {
                refusal.verifier = Some(verifier_log.to_string());
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                refusal.os_error = refusal.os_error.or(error.raw_os_error());
            }
            next = error.source();
        }
        refusal
    }

    /// A right lacks. The verifier, too, says `EACCES`, of a program that it doesn't follow.
    pub(super) fn is_about_rights(&self) -> bool {
        match self.os_error {
            Some(libc::EPERM) => true,
            Some(libc::EACCES) => self.verifier.is_none(),
            _ => false,
        }
    }

    /// The program itself isn't accepted: another one may be.
    pub(super) fn is_the_verifiers(&self) -> bool {
        self.verifier.is_some() && !self.is_about_rights() && !self.is_about_kernel_memory()
    }

    /// Lockdown takes the reading of kernel memory away from programs: the verifier meets a function that
    /// it doesn't know.
    fn is_about_kernel_memory(&self) -> bool {
        self.verifier.as_deref().is_some_and(|words| {
            words.contains("bpf_probe_read")
                && (words.contains("unknown func") || words.contains("cannot use helper"))
        })
    }

    /// Why, and what to do; `None` where the error itself says as much.
    pub(super) fn explain(&self, rights: Rights) -> Option<String> {
        const INTEGRITY: &str = "boot with lockdown=integrity, or without lockdown";
        if self.is_about_kernel_memory() {
            let mode = if rights.confidentiality { "is in" } else { "seems to be in" };
            return Some(format!(
                "kernel lockdown {mode} mode \"confidentiality\", in which no program may read kernel \
                 memory; {INTEGRITY}"
            ));
        }
        if self.is_about_rights() {
            let lacking = rights.lacking();
            return Some(if !lacking.is_empty() {
                format!(
                    "not permitted, because this process lacks {}; run dbwarden as root, or give its \
                     unit these capabilities",
                    lacking.join(" and ")
                )
            } else if rights.confidentiality {
                format!(
                    "not permitted, because kernel lockdown is in mode \"confidentiality\"; {INTEGRITY}"
                )
            } else {
                "not permitted, although this process has CAP_BPF and CAP_PERFMON; in a container they \
                 must be the host's own, and its seccomp profile must let bpf() and \
                 perf_event_open() pass"
                    .to_owned()
            });
        }
        self.verifier.as_deref().filter(|words| !words.is_empty()).map(|_| {
            "this kernel's verifier does not accept it; please report its words below with the kernel's \
             version"
                .to_owned()
        })
    }

    /// What the verifier said last, without its statistics.
    pub(super) fn last_words(&self) -> Option<&str> {
        let statistics = ["processed ", "verification time ", "stack depth "];
        let mut lines = self.verifier.as_deref()?.lines().rev().map(str::trim);
        lines.find(|line| {
            !line.is_empty() && !statistics.iter().any(|statistic| line.starts_with(statistic))
        })
    }
}

impl Rights {
    pub(super) fn of_this_process() -> Self {
        let effective = capabilities(None)
            .map_or(CapabilitySet::empty(), |capabilities| capabilities.effective);
        let lockdown = fs::read_to_string(LOCKDOWN).unwrap_or_default();
        Self {
            bpf: effective.contains(CapabilitySet::BPF),
            perfmon: effective.contains(CapabilitySet::PERFMON),
            net_admin: effective.contains(CapabilitySet::NET_ADMIN),
            sys_admin: effective.contains(CapabilitySet::SYS_ADMIN),
            confidentiality: lockdown.contains("[confidentiality]"),
        }
    }

    fn may_steer(self) -> bool {
        self.net_admin || self.sys_admin
    }

    fn lacking(self) -> Vec<&'static str> {
        [("CAP_BPF", self.bpf), ("CAP_PERFMON", self.perfmon)]
            .into_iter()
            .filter(|(_, has)| !has && !self.sys_admin)
            .map(|(name, _)| name)
            .collect()
    }
}

/// The end of a message about a refusal: `: why; what to do`, or nothing.
pub(super) fn explained(error: &(dyn Error + 'static)) -> String {
    let why = Refusal::of(error).explain(Rights::of_this_process());
    why.map(|why| format!(": {why}")).unwrap_or_default()
}

/// Likewise for a probe on a user's code, for which a kernel may want more.
pub(super) fn probe_explained(error: &(dyn Error + 'static)) -> String {
    let (refusal, rights) = (Refusal::of(error), Rights::of_this_process());
    if refusal.is_about_rights() && rights.lacking().is_empty() && !rights.sys_admin {
        return ": not permitted, because this process lacks CAP_SYS_ADMIN, which kernels from 6.16 on, \
                and older ones with its fixes, want for it"
            .to_owned();
    }
    explained(error)
}

/// Likewise for a program that changes where connections go, which wants a right of its own.
pub(super) fn steering_explained(error: &(dyn Error + 'static)) -> String {
    let (refusal, rights) = (Refusal::of(error), Rights::of_this_process());
    if refusal.is_about_rights() && rights.lacking().is_empty() && !rights.may_steer() {
        return ": not permitted, because this process lacks CAP_NET_ADMIN; run dbwarden as root, or give \
                its unit this capability"
            .to_owned();
    }
    explained(error)
}

#[cfg(test)]
mod tests {
    use super::{Refusal, Rights};

    const ALL: Rights = Rights {
        bpf: true,
        perfmon: true,
        net_admin: true,
        sys_admin: false,
        confidentiality: false,
    };

    #[test]
    fn each_refusal_is_told_by_its_cause() {
        let none = Rights { bpf: false, perfmon: false, ..ALL };
        let bpf_only = Rights { perfmon: false, ..ALL };
        let admin = Rights { sys_admin: true, ..none };
        let locked = Rights { confidentiality: true, ..ALL };
        let (eperm, eacces, einval) = (Some(libc::EPERM), Some(libc::EACCES), Some(libc::EINVAL));
        let old =
            "12: (85) call bpf_probe_read_kernel#113\nunknown func bpf_probe_read_kernel#113\n";
        let new = "program of this type cannot use helper bpf_probe_read_kernel#113\n";
        let lost = "R2 invalid mem access 'scalar'\nprocessed 12 insns (limit 1000000)\n";
        for (os_error, verifier, rights, expected) in [
            (eperm, None, none, "this process lacks CAP_BPF and CAP_PERFMON; run dbwarden as root"),
            (eperm, Some(""), bpf_only, "this process lacks CAP_PERFMON; run"),
            (eacces, None, bpf_only, "this process lacks CAP_PERFMON; run"),
            (eperm, None, ALL, "although this process has CAP_BPF and CAP_PERFMON; in a container"),
            (eperm, None, admin, "although this process has"),
            (
                eperm,
                None,
                locked,
                "because kernel lockdown is in mode \"confidentiality\"; boot with",
            ),
            (einval, Some(old), locked, "kernel lockdown is in mode \"confidentiality\", in which"),
            (einval, Some(new), locked, "kernel lockdown is in mode \"confidentiality\", in which"),
            (einval, Some(new), ALL, "kernel lockdown seems to be in mode \"confidentiality\""),
            (eacces, Some(lost), ALL, "this kernel's verifier does not accept it; please report"),
            (einval, Some(lost), none, "this kernel's verifier does not accept it; please report"),
        ] {
            let refusal = Refusal { os_error, verifier: verifier.map(str::to_owned) };
            let why = refusal.explain(rights).unwrap();
            assert!(why.contains(expected), "{refusal:?} with {rights:?}: {why}");
        }
        let full = Refusal { os_error: Some(libc::ENOMEM), verifier: None };
        assert_eq!(full.explain(ALL), None);
    }

    #[test]
    fn the_verifiers_last_words_are_no_statistics() {
        let check = |words: &str, expected: Option<&str>| {
            let refusal = Refusal { os_error: None, verifier: Some(words.to_owned()) };
            assert_eq!(refusal.last_words(), expected, "{words}");
        };
        check("", None);
        check(
            "1: (79) r1 = *(u64 *)(r1 +0)\nR1 is bad \n\nverification time 9 usec\nstack depth 0\n\
             processed 2 insns (limit 1000000) max_states_per_insn 0\n",
            Some("R1 is bad"),
        );
    }
}

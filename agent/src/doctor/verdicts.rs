//! Judgements over a host's facts: what is there, what it costs, what to do.

use serde::Serialize;

use super::{
    CgroupLayout, Host, Kernel, Lockdown, Tracefs, guard,
    programs::{Trial, programs, works},
};
use crate::capture::ProgramSet;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub about: About,
    pub name: &'static str,
    pub verdict: Verdict,
    /// What is there.
    pub found: String,
    /// What it costs, or what is missed without it; may be empty.
    pub cost: String,
    /// What to do about it.
    pub todo: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum About {
    Host,
    /// One of the BPF programs, which was tried.
    Program,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Fine,
    /// Capture works, with less or at a price.
    Notable,
    /// Capture can't work without it.
    Lacking,
    /// Could not be looked at.
    Unknown,
}

impl Check {
    pub fn new(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        let found = found.into();
        Self { about: About::Host, name, verdict, found, cost: String::new(), todo: None }
    }

    #[must_use]
    pub fn of_programs(mut self) -> Self {
        self.about = About::Program;
        self
    }

    pub fn fine(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Fine, found)
    }

    pub fn notable(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Notable, found)
    }

    pub fn lacking(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Lacking, found)
    }

    pub fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Unknown, found)
    }

    #[must_use]
    pub fn costs(mut self, cost: impl Into<String>) -> Self {
        self.cost = cost.into();
        self
    }

    #[must_use]
    pub fn todo(mut self, todo: impl Into<String>) -> Self {
        self.todo = Some(todo.into());
        self
    }
}

/// All checks, what everything rests on first, the programs last.
pub fn verdicts(host: &Host, trial: &Trial) -> Vec<Check> {
    let typed = works(trial, ProgramSet::TpBtf);
    let syscalls = works(trial, ProgramSet::Syscalls);
    let proven = typed == Some(true) || syscalls == Some(true);
    let mut checks = vec![
        object(host),
        kernel(host, proven),
        btf(host),
        tracefs(host),
        lockdown(host),
        capabilities(host),
        socket_hooks(host, typed, proven),
        tls_probes(host),
        pid_namespace(host),
        login_uid(host),
        cutting(host),
        cgroups(host),
        memory(host),
        memlock(host),
        unprivileged_bpf(host),
        perf_events(host),
    ];
    checks.extend(guard::checks(host));
    checks.extend(programs(trial, host.root));
    checks
}

/// `bpf_loop`, by which the programs walk over a call's memory. Distributions bring it to older kernels:
/// where the programs were tried, that counts.
const OLDEST: Kernel = Kernel(5, 17, 0);
/// The tracepoints on `sock_send_length` and `sock_recv_length`.
const SOCKET_LENGTHS: Kernel = Kernel(6, 3, 0);
/// BPF memory is charged to the cgroup and no longer to `RLIMIT_MEMLOCK`.
const CGROUP_ACCOUNTING: Kernel = Kernel(5, 11, 0);
/// Both rings at their default size, mapped, and the tables.
const MEMORY_BYTES: u64 = 100 << 20;

fn object(host: &Host) -> Check {
    match host.object_bytes {
        0 => Check::lacking("BPF object", "this binary was built without its BPF programs")
            .todo("build with `cargo xtask build`, or install a package"),
        bytes => Check::fine("BPF object", format!("{} KiB in this binary", bytes.div_ceil(1_024))),
    }
}

/// `proven`: one set of the programs for sockets works.
fn kernel(host: &Host, proven: bool) -> Check {
    let name = "kernel";
    match host.kernel {
        None => {
            Check::unknown(name, format!("{:?} is no version that is understood", host.release))
        }
        Some(kernel) if kernel < OLDEST && !proven => Check::lacking(name, host.release.clone())
            .costs("the programs walk over a call's memory in a way that 5.17 brought")
            .todo("run a kernel from 5.17 on; one from 6.3 on is best"),
        Some(_) => Check::fine(name, host.release.clone()),
    }
}

fn btf(host: &Host) -> Check {
    let name = "BTF";
    match host.btf_bytes {
        0 => Check::lacking(name, "/sys/kernel/btf/vmlinux is absent")
            .costs("the programs learn from it where the kernel keeps what they read")
            .todo("run a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are"),
        bytes => Check::fine(name, format!("/sys/kernel/btf/vmlinux, {} KiB", bytes / 1_024)),
    }
}

fn tracefs(host: &Host) -> Check {
    let name = "tracefs";
    let (found, todo) = match host.tracefs {
        Tracefs::Mounted => return Check::fine(name, "mounted"),
        Tracefs::NotMounted => ("not mounted", "mount -t tracefs tracefs /sys/kernel/tracing"),
        Tracefs::Absent => (
            "this kernel has none",
            "run a kernel built with CONFIG_FTRACE=y and CONFIG_BPF_EVENTS=y",
        ),
    };
    let check = match host.socket_length_tracepoints {
        Some(true) => Check::notable(name, found)
            .costs("only the hooks on system calls, which this kernel does not need, want it"),
        _ => Check::lacking(name, found).costs("the hooks on system calls are attached through it"),
    };
    check.todo(todo)
}

fn lockdown(host: &Host) -> Check {
    let name = "lockdown";
    match host.lockdown {
        None => {
            Check::unknown(name, "the kernel does not say (securityfs is absent or not readable)")
                .costs("only the mode `confidentiality` would stand in the way")
                .todo("to look: mount -t securityfs securityfs /sys/kernel/security")
        }
        Some(Lockdown::None) => Check::fine(name, "none"),
        Some(Lockdown::Integrity) => {
            Check::fine(name, "integrity: reading is allowed, which is all that capture does")
        }
        Some(Lockdown::Confidentiality) => Check::lacking(name, "confidentiality")
            .costs("BPF programs may not read kernel memory in this mode")
            .todo("boot with lockdown=integrity"),
    }
}

const SYS_ADMIN: u32 = 21;
/// Name, bit, whether `CAP_SYS_ADMIN` stands for it, what it is for.
const NEEDED: [(&str, u32, bool, &str); 4] = [
    ("CAP_BPF", 39, true, "load programs"),
    ("CAP_PERFMON", 38, true, "attach them and read kernel memory"),
    ("CAP_SYS_PTRACE", 19, false, "see other users' executables and sockets in /proc"),
    ("CAP_DAC_READ_SEARCH", 2, false, "read tracefs and servers' files"),
];

fn capabilities(host: &Host) -> Check {
    let name = "capabilities";
    let Some(set) = host.capabilities else {
        return Check::unknown(name, "/proc/self/status does not tell");
    };
    let has = |bit: u32| set & (1 << bit) != 0;
    let lacking: Vec<String> = NEEDED
        .iter()
        .filter(|(_, bit, admin, _)| !(has(*bit) || (*admin && has(SYS_ADMIN))))
        .map(|(name, _, _, purpose)| format!("{name} ({purpose})"))
        .collect();
    if lacking.is_empty() {
        let names: Vec<&str> = NEEDED.iter().map(|(name, ..)| *name).collect();
        return Check::fine(name, names.join(", "));
    }
    // Somebody who only asks need not have them: the service must.
    let check = match host.root {
        true => Check::lacking(name, format!("this root has no {}", lacking.join(", ")))
            .todo("give them to the container, or to the unit by CapabilityBoundingSet="),
        false => Check::unknown(name, format!("you have no {}", lacking.join(", ")))
            .todo("the service must have them; ask again with sudo"),
    };
    check.costs("nothing can be captured without them")
}

/// `typed`: whether the better programs work, where that could be tried.
fn socket_hooks(host: &Host, typed: Option<bool>, proven: bool) -> Check {
    let name = "socket hooks";
    let on_fallback = "about 50 ns on every system call of the host, and more on databases'";
    match (host.socket_length_tracepoints, host.kernel) {
        (Some(true), _) if typed == Some(false) => {
            Check::notable(name, "system call exits: the better programs are refused, see below")
                .costs(on_fallback)
                .todo("please report the verifier's words with the kernel's version")
        }
        (Some(true), _) => Check::fine(name, "tp_btf on sock_send_length and sock_recv_length")
            .costs("costs nothing where no database is"),
        (_, Some(kernel)) if kernel < OLDEST && !proven => {
            Check::lacking(name, "neither set of hooks works on this kernel")
        }
        (Some(false), Some(kernel)) if kernel >= SOCKET_LENGTHS => {
            Check::notable(name, "system call exits: BTF does not name the better tracepoints")
                .costs(on_fallback)
                .todo("a kernel built with CONFIG_TRACEPOINTS=y and CONFIG_NET=y names them in BTF")
        }
        (Some(false), _) => {
            Check::notable(name, "system call exits: this kernel has nothing better")
                .costs(on_fallback)
                .todo("kernels from 6.3 on have tracepoints that cost the rest of the host nothing")
        }
        (None, _) => Check::unknown(name, "BTF can't be read"),
    }
}

fn tls_probes(host: &Host) -> Check {
    let name = "TLS probes";
    match host.kernel {
        Some(kernel) if kills_on_return_probes(kernel) => {
            Check::notable(name, format!("not attached on {}", host.release))
                .costs(
                    "this kernel kills a process whose seccomp filter does not know uretprobe(): \
                     TLS connections stay encrypted, not observable",
                )
                .todo("6.12.14, 6.13.3 and later kernels are safe")
        }
        Some(_) => Check::fine(name, "return probes are safe on this kernel"),
        None => Check::unknown(name, "the kernel's version is not understood"),
    }
}

/// From 6.11 on return probes use a system call that seccomp filters see, until they were told to
/// let it pass.
pub fn kills_on_return_probes(kernel: Kernel) -> bool {
    match kernel {
        Kernel(6, 11, _) => true,
        Kernel(6, 12, patch) => patch < 14,
        Kernel(6, 13, patch) => patch < 3,
        _ => false,
    }
}

fn pid_namespace(host: &Host) -> Check {
    let name = "processes";
    match host.host_pid_namespace {
        Some(true) => Check::fine(name, "of the whole host can be seen"),
        Some(false) => Check::lacking(name, "only those of this container can be seen")
            .costs("databases and clients are found by their processes")
            .todo("start the container with the host's pid namespace (--pid=host)"),
        None => Check::unknown(name, "/proc/self/ns/pid can't be read"),
    }
}

fn login_uid(host: &Host) -> Check {
    let name = "login uid";
    match host.audit_login_uid {
        true => Check::fine(name, "the kernel keeps who logged in"),
        false => Check::notable(name, "this kernel was built without CONFIG_AUDIT")
            .costs("the person behind sudo is known by the process's ancestry only"),
    }
}

fn cutting(host: &Host) -> Check {
    let name = "cutting off";
    match &host.ends_connections {
        Ok(()) => Check::fine(name, "connections can be ended, by TCP and by unix sockets"),
        Err(why) => Check::notable(name, why.clone())
            .costs("where a rule says cut, the connection goes on, and a row says so")
            .todo("nothing, unless a rule of yours cuts"),
    }
}

fn cgroups(host: &Host) -> Check {
    let name = "cgroups";
    match host.cgroups {
        Some(CgroupLayout::V2) => Check::fine(name, "version 2"),
        Some(CgroupLayout::Hybrid) => Check::fine(name, "hybrid: names come from systemd's tree"),
        Some(CgroupLayout::V1) => Check::notable(name, "version 1")
            .costs("units and containers are named from systemd's tree where there is one"),
        None => Check::notable(name, "/sys/fs/cgroup is not mounted")
            .costs("clients are shown without unit and container"),
    }
}

fn memory(host: &Host) -> Check {
    let name = "memory";
    match host.available_bytes.map(|bytes| (bytes, bytes >> 20)) {
        Some((bytes, mib)) if bytes < 2 * MEMORY_BYTES => {
            Check::notable(name, format!("{mib} MiB are available"))
                .costs("dbwarden takes up to 100 MiB, 20 of them for its default rings")
                .todo("set `ring_bytes` in [capture] lower: losses are counted and shown")
        }
        Some((_, mib)) => Check::fine(name, format!("{mib} MiB are available"))
            .costs("dbwarden takes up to 100 MiB, 20 of them for its default rings"),
        None => Check::unknown(name, "/proc/meminfo can't be read"),
    }
}

fn memlock(host: &Host) -> Check {
    let name = "RLIMIT_MEMLOCK";
    const SYS_RESOURCE: u32 = 24;
    let may_raise = host.capabilities.is_some_and(|set| set & (1 << SYS_RESOURCE) != 0);
    match (host.kernel, host.memlock_bytes) {
        (Some(kernel), _) if kernel >= CGROUP_ACCOUNTING => {
            Check::fine(name, "not needed: BPF memory is accounted to the cgroup since 5.11")
        }
        (_, Some(bytes)) if bytes >= MEMORY_BYTES => Check::fine(name, "high enough"),
        _ if may_raise => Check::fine(name, "can be raised"),
        (_, Some(bytes)) => Check::lacking(name, format!("{} KiB", bytes / 1_024))
            .todo("set LimitMEMLOCK=infinity, or grant CAP_SYS_RESOURCE"),
        (_, None) => Check::unknown(name, "not readable"),
    }
}

fn unprivileged_bpf(host: &Host) -> Check {
    let name = "unprivileged BPF";
    match host.unprivileged_bpf_disabled {
        Some(0) => Check::notable(name, "allowed to every user of this host")
            .costs("dbwarden does not need that, and attacks on the kernel often do")
            .todo("sysctl kernel.unprivileged_bpf_disabled=1"),
        Some(_) => Check::fine(name, "disabled, and not needed"),
        None => Check::unknown(name, "the kernel does not say"),
    }
}

fn perf_events(host: &Host) -> Check {
    let name = "perf events";
    match host.perf_event_paranoid {
        Some(level) => {
            Check::fine(name, format!("perf_event_paranoid is {level}; CAP_PERFMON is above it"))
        }
        None => Check::lacking(name, "this kernel was built without CONFIG_PERF_EVENTS")
            .costs("tracepoints and TLS probes are attached through them")
            .todo("run a kernel with CONFIG_PERF_EVENTS=y"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, verdicts};
    use crate::{
        capture::{Attached, LoadError, Outcome, ProgramSet, Refused, Tried},
        doctor::{CgroupLayout, Host, Kernel, Lockdown, Tracefs, Trial},
    };

    /// Debian 13 with everything in place.
    fn good() -> Host {
        Host {
            kernel: Some(Kernel(6, 12, 48)),
            release: "6.12.48+deb13-amd64".into(),
            root: true,
            btf_bytes: 5 << 20,
            socket_length_tracepoints: Some(true),
            tracefs: Tracefs::Mounted,
            lockdown: Some(Lockdown::None),
            capabilities: Some(u64::MAX),
            unprivileged_bpf_disabled: Some(2),
            perf_event_paranoid: Some(3),
            memlock_bytes: Some(8 << 20),
            cgroups: Some(CgroupLayout::V2),
            available_bytes: Some(8 << 30),
            audit_login_uid: true,
            host_pid_namespace: Some(true),
            ends_connections: Ok(()),
            leads_local: Ok(()),
            leads_network: Ok(()),
            leads_unix: Ok(()),
            bpffs: true,
            object_bytes: 200_000,
        }
    }

    /// Both sets of hooks and the TLS probes.
    fn good_trial() -> Trial {
        let accepted = |set| Tried {
            name: "probe",
            set,
            outcome: Outcome::Accepted { instructions: Some(800), attached: Attached::Yes },
        };
        Ok([ProgramSet::Lives, ProgramSet::TpBtf, ProgramSet::Syscalls, ProgramSet::Tls]
            .map(accepted)
            .into())
    }

    #[test]
    fn a_good_host_lacks_nothing() {
        for check in verdicts(&good(), &good_trial()) {
            assert_eq!(check.verdict, Verdict::Fine, "{check:?}");
            assert_eq!(check.todo, None, "{check:?}");
        }
    }

    #[test]
    fn each_fact_changes_its_own_check() {
        use Verdict::{Fine, Lacking, Notable, Unknown};
        fn only(bits: &[u32]) -> Option<u64> {
            Some(bits.iter().map(|bit| 1 << bit).sum())
        }
        type Change = fn(&mut Host);
        let cases: &[(Change, &str, Verdict, &str)] = &[
            (|h| h.object_bytes = 0, "BPF object", Lacking, "without its BPF programs"),
            (|h| h.kernel = Some(Kernel(5, 10, 0)), "kernel", Lacking, "6.12"),
            (|h| h.kernel = None, "kernel", Unknown, "no version"),
            (|h| h.btf_bytes = 0, "BTF", Lacking, "absent"),
            (|h| h.tracefs = Tracefs::NotMounted, "tracefs", Notable, "not mounted"),
            (|h| h.tracefs = Tracefs::Absent, "tracefs", Notable, "has none"),
            (
                |h| {
                    h.tracefs = Tracefs::NotMounted;
                    h.socket_length_tracepoints = Some(false);
                },
                "tracefs",
                Lacking,
                "not mounted",
            ),
            (|h| h.lockdown = Some(Lockdown::Integrity), "lockdown", Fine, "integrity"),
            (
                |h| h.lockdown = Some(Lockdown::Confidentiality),
                "lockdown",
                Lacking,
                "confidentiality",
            ),
            (|h| h.lockdown = None, "lockdown", Unknown, "does not say"),
            (|h| h.capabilities = only(&[39, 38, 19, 2]), "capabilities", Fine, "CAP_BPF"),
            (|h| h.capabilities = only(&[21, 19, 2]), "capabilities", Fine, "CAP_BPF"),
            (|h| h.capabilities = only(&[39, 38, 2]), "capabilities", Lacking, "CAP_SYS_PTRACE"),
            (
                |h| (h.root, h.capabilities) = (false, Some(0)),
                "capabilities",
                Unknown,
                "you have no CAP_BPF",
            ),
            (
                |h| h.socket_length_tracepoints = Some(false),
                "socket hooks",
                Notable,
                "BTF does not name",
            ),
            (
                |h| (h.kernel, h.socket_length_tracepoints) = (Some(Kernel(6, 1, 0)), Some(false)),
                "socket hooks",
                Notable,
                "nothing better",
            ),
            (
                |h| (h.kernel, h.socket_length_tracepoints) = (Some(Kernel(5, 10, 0)), Some(false)),
                "socket hooks",
                Lacking,
                "neither",
            ),
            (|h| h.socket_length_tracepoints = None, "socket hooks", Unknown, "can't be read"),
            (|h| h.kernel = Some(Kernel(6, 10, 14)), "TLS probes", Fine, "safe"),
            (|h| h.kernel = Some(Kernel(6, 11, 0)), "TLS probes", Notable, "not attached"),
            (|h| h.kernel = Some(Kernel(6, 12, 13)), "TLS probes", Notable, "not attached"),
            (|h| h.kernel = Some(Kernel(6, 12, 14)), "TLS probes", Fine, "safe"),
            (|h| h.kernel = Some(Kernel(6, 13, 2)), "TLS probes", Notable, "not attached"),
            (|h| h.kernel = Some(Kernel(6, 13, 3)), "TLS probes", Fine, "safe"),
            (
                |h| {
                    h.ends_connections =
                        Err("the kernel doesn't end it: that takes CAP_NET_ADMIN".into())
                },
                "cutting off",
                Notable,
                "CAP_NET_ADMIN",
            ),
            (
                |h| h.leads_local = Err("no cgroup v2 tree is mounted".into()),
                "guard: local",
                Notable,
                "not guardable: no cgroup v2",
            ),
            (
                |h| h.leads_network = Err("it needs Linux 5.17 or newer".into()),
                "guard: network",
                Notable,
                "not guardable: it needs",
            ),
            (
                |h| (h.root, h.leads_network) = (false, Err("it lacks CAP_BPF".into())),
                "guard: network",
                Unknown,
                "not tried: it lacks",
            ),
            (
                |h| h.leads_unix = Err("it needs Linux 6.8 or newer".into()),
                "guard: unix sockets",
                Notable,
                "not guardable where they are: it needs",
            ),
            (|h| h.bpffs = false, "guard: pins", Notable, "no BPF file system"),
            (
                |h| h.host_pid_namespace = Some(false),
                "processes",
                Lacking,
                "only those of this container",
            ),
            (|h| h.audit_login_uid = false, "login uid", Notable, "CONFIG_AUDIT"),
            (|h| h.cgroups = Some(CgroupLayout::V1), "cgroups", Notable, "version 1"),
            (|h| h.cgroups = Some(CgroupLayout::Hybrid), "cgroups", Fine, "hybrid"),
            (|h| h.available_bytes = Some(150 << 20), "memory", Notable, "150 MiB"),
            (
                |h| (h.kernel, h.capabilities) = (Some(Kernel(5, 10, 0)), Some(0)),
                "RLIMIT_MEMLOCK",
                Lacking,
                "8192 KiB",
            ),
            (|h| h.kernel = Some(Kernel(5, 10, 0)), "RLIMIT_MEMLOCK", Fine, "can be raised"),
            (|h| h.unprivileged_bpf_disabled = Some(0), "unprivileged BPF", Notable, "every user"),
            (|h| h.perf_event_paranoid = None, "perf events", Lacking, "CONFIG_PERF_EVENTS"),
        ];
        for (change, name, verdict, words) in cases {
            let mut host = good();
            change(&mut host);
            // Where nothing could be tried, the facts alone count.
            let checks = verdicts(&host, &Err(LoadError::NoObject));
            let check = checks.iter().find(|check| check.name == *name).unwrap();
            assert_eq!(check.verdict, *verdict, "{check:?}");
            assert!(check.found.contains(words), "{check:?}");
            if *verdict == Lacking && *name != "socket hooks" {
                assert!(check.todo.is_some(), "says what to do: {check:?}");
            }
        }
    }

    #[test]
    fn programs_that_work_count_more_than_the_kernels_age() {
        let mut host = good();
        host.kernel = Some(Kernel(5, 14, 0));
        host.socket_length_tracepoints = Some(false);
        for check in verdicts(&host, &good_trial()) {
            assert_ne!(check.verdict, Verdict::Lacking, "{check:?}");
        }
    }

    #[test]
    fn programs_that_are_refused_count_more_than_names_in_btf() {
        let mut trial = good_trial();
        for tried in trial.iter_mut().flatten().filter(|tried| tried.set == ProgramSet::TpBtf) {
            let why = "the verifier says: no".to_owned();
            tried.outcome = Outcome::Refused(Refused { why, for_lack_of_rights: false });
        }
        let checks = verdicts(&good(), &trial);
        let hooks = checks.iter().find(|check| check.name == "socket hooks").unwrap();
        assert_eq!(hooks.verdict, Verdict::Notable, "{hooks:?}");
        assert!(hooks.found.contains("system call exits"), "{hooks:?}");
    }

    #[test]
    fn this_machine_can_be_judged() {
        let checks = verdicts(&Host::of_this_machine(1), &good_trial());
        assert_eq!(checks.len(), verdicts(&good(), &good_trial()).len());
        assert!(
            checks.iter().any(|check| check.name == "kernel" && check.verdict != Verdict::Unknown)
        );
    }
}

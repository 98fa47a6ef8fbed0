//! Hosts on which something lacks: dbwarden says what and what to do, leaves nothing behind, and works
//! where it can.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, AgentBuilder, Postgres, Via, await_until, need_root, place};
use serde_json::Value;
use tempfile::TempDir;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

/// A host of one process: mounts that only it sees, and rights that were taken from it.
struct Host {
    /// Where the mounts come from.
    folder: TempDir,
    /// Shell commands, run as root inside.
    mounts: Vec<String>,
    /// The command that takes rights away; may be empty.
    rights: String,
}

impl Host {
    fn new() -> Result<Host> {
        let folder = tempfile::Builder::new().prefix("dbwarden-host-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(folder.path().join("empty"))?;
        // A place that every user can reach, unlike where it was built.
        let program = folder.path().join("dbwarden");
        fs::write(&program, "")?;
        let mount = format!("mount --bind {} {}", dbwarden()?.display(), program.display());
        Ok(Host { folder, mounts: vec![mount], rights: String::new() })
    }

    /// Nothing is there.
    fn without(mut self, path: &str) -> Host {
        if Path::new(path).is_dir() {
            self.mounts.push(format!("mount --bind {}/empty {path}", self.folder.path().display()));
        }
        self
    }

    fn without_tracefs(self) -> Host {
        self.without("/sys/kernel/tracing").without("/sys/kernel/debug")
    }

    fn with_tracefs(mut self) -> Host {
        let at = "/sys/kernel/tracing";
        self.mounts.push(format!("mountpoint -q {at} || mount -t tracefs tracefs {at}"));
        self
    }

    /// The kernel describes itself with these bytes.
    fn with_btf(mut self, bytes: &[u8]) -> Result<Host> {
        let file = self.folder.path().join("vmlinux");
        fs::write(&file, bytes)?;
        self.mounts.push(format!("mount --bind {} {VMLINUX}", file.display()));
        Ok(self)
    }

    /// For an unprivileged user with these capabilities (as setpriv names them), who may write where the
    /// agent must.
    fn with_only(mut self, capabilities: &[&str]) -> Host {
        self.rights = NOBODY.to_owned();
        if !capabilities.is_empty() {
            let list: Vec<String> = capabilities.iter().map(|name| format!("+{name}")).collect();
            let list = list.join(",");
            self.rights += &format!(" --inh-caps={list} --ambient-caps={list}");
        }
        self.mounts.push("mkdir -p /run/dbwarden".to_owned());
        self.mounts.push("mount -t tmpfs -o mode=777 tmpfs /run/dbwarden".to_owned());
        self
    }

    fn with_rights(mut self, command: &str) -> Host {
        self.rights = command.to_owned();
        self
    }

    /// The words that a program's are put behind.
    fn words(&self) -> [String; 6] {
        let Host { mounts, rights, .. } = self;
        // The agent's folder, where its configuration names one, must be the user's to write.
        let script = format!(
            "set -e; {}; [ \"$3\" != --config ] || chmod 777 \"$(dirname \"$4\")\"; exec {rights} \"$@\"",
            mounts.join("; ")
        );
        ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned)
    }

    /// `dbwarden` with these arguments, to its end.
    fn dbwarden(&self, arguments: &[&str]) -> Result<Output> {
        let [first, rest @ ..] = self.words();
        let mut command = Command::new(first);
        command
            .args(rest)
            .arg(self.folder.path().join("dbwarden"))
            .args(arguments)
            .stdin(Stdio::null())
            .current_dir("/");
        command.output().context("starting unshare")
    }

    /// `dbwarden run`, which must not come to run: what it says at the end, and its exit code.
    fn refused(&self, hooks: &str) -> Result<(String, Option<i32>)> {
        let folder = self.folder.path().join("agent");
        fs::create_dir_all(&folder)?;
        let file = folder.join("config.toml");
        let socket = folder.join("control.sock");
        fs::write(&file, format!("[control]\nsocket = \"{}\"\n", socket.display()))?;
        let file = file.display().to_string();
        let output = self.dbwarden(&["run", "--config", &file, "--hooks", hooks])?;
        ensure!(!socket.exists(), "the control socket is left behind");
        let said = String::from_utf8_lossy(&output.stderr);
        let words = said.lines().filter(|line| line.starts_with("dbwarden: ")).collect();
        Ok((words, output.status.code()))
    }

    /// An agent that runs on it.
    fn agent(&self) -> AgentBuilder {
        let words = self.words();
        Agent::builder().under(&words.each_ref().map(String::as_str))
    }

    /// What `dbwarden doctor` says, and its exit code.
    fn doctor(&self) -> Result<(Vec<Value>, Option<i32>)> {
        let output = self.dbwarden(&["doctor", "--format", "json"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let checks = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let said = String::from_utf8_lossy(&output.stderr);
        Ok((checks.with_context(|| format!("{text}\n{said}"))?, output.status.code()))
    }
}

fn dbwarden() -> Result<PathBuf> {
    match std::env::var_os("DBWARDEN_BIN") {
        Some(program) => Ok(program.into()),
        None => Ok(place::profile_dir()?.join("dbwarden")),
    }
}

/// This kernel's description of itself, with names in it exchanged for others of the same length.
fn btf_with(names: &[(&str, &str)]) -> Result<Vec<u8>> {
    let btf = fs::read(VMLINUX)?;
    let mut doctored = btf.clone();
    for (old, new) in names {
        ensure!(old.len() == new.len(), "{old} and {new} differ in length");
        let old = format!("\0{old}\0");
        let at = btf.windows(old.len()).position(|bytes| bytes == old.as_bytes());
        let at = at.with_context(|| format!("this kernel's BTF has no {old:?}"))? + 1;
        doctored[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    Ok(doctored)
}

/// A kernel from before 6.3.
fn btf_without_typed_hooks() -> Result<Vec<u8>> {
    btf_with(&[
        ("btf_trace_sock_send_length", "btf_trace_xxxx_xxxx_length"),
        ("btf_trace_sock_recv_length", "btf_trace_yyyy_yyyy_length"),
    ])
}

/// A kernel whose verifier does not follow the preferred programs: what has the name of their tracepoint
/// tells of no socket.
fn btf_with_another_typed_hook() -> Result<Vec<u8>> {
    btf_with(&[
        ("btf_trace_sock_send_length", "btf_trace_xxxx_xxxx_length"),
        ("btf_trace_sched_wakeup_new", "btf_trace_sock_send_length"),
    ])
}

/// The BPF programs of any dbwarden that the kernel has now, by name and id.
fn programs() -> Vec<(String, u32)> {
    const NAMES: [&str; 7] = [
        "sched_process_",
        "inet_sock_set_",
        "tcp_destroy_",
        "sock_recv_len",
        "sock_send_len",
        "syscall_exit_",
        "ssl_",
    ];
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter_map(|program| Some((program.name_as_str()?.to_owned(), program.id())))
        .filter(|(name, _)| NAMES.iter().any(|start| name.starts_with(start)))
        .collect()
}

fn await_no_programs() -> Result<()> {
    await_until("the end of all programs", || Ok(programs().is_empty().then_some(())))
}

#[test]
fn what_lacks_is_told_with_what_to_do() -> Result<()> {
    need_root!();
    await_no_programs()?;
    let no_typed = btf_without_typed_hooks()?;
    let lacks = |what: &'static str| ["not permitted, because this process lacks", what];
    let mount = ["tracefs is not mounted", "mount -t tracefs tracefs /sys/kernel/tracing"];
    let no_btf = ["/sys/kernel/btf/vmlinux cannot be read", "CONFIG_DEBUG_INFO_BTF=y"];
    let garbage = ["/sys/kernel/btf/vmlinux is not in BTF's form", "report it"];
    let old = ["hooks = \"tp_btf\" is configured", "no tracepoint `sock_recv_length`"];
    let closed = ["is closed to this process", "CAP_DAC_READ_SEARCH"];
    let host = Host::new;
    for (host, hooks, words) in [
        (host()?.without("/sys/kernel/btf"), "auto", no_btf),
        (host()?.with_btf(b"no kernel would say this")?, "auto", garbage),
        (host()?.with_btf(b"")?, "auto", garbage),
        (host()?.without_tracefs(), "syscalls", mount),
        (host()?.without_tracefs().with_btf(&no_typed)?, "auto", mount),
        (host()?.with_btf(&no_typed)?, "tp_btf", old),
        (host()?.with_only(&[]), "auto", lacks("CAP_BPF and CAP_PERFMON; run dbwarden as root")),
        (host()?.with_only(&["bpf"]), "auto", lacks("lacks CAP_PERFMON; run dbwarden as root")),
        (host()?.with_only(&["perfmon"]), "auto", lacks("lacks CAP_BPF; run dbwarden as root")),
        (host()?.with_tracefs().with_only(&["bpf", "perfmon"]), "syscalls", closed),
        (host()?.without_tracefs().with_only(&["bpf", "perfmon"]), "syscalls", mount),
    ] {
        let case = format!("{:?} {} with {hooks}", host.mounts, host.rights);
        let (said, code) = host.refused(hooks)?;
        assert_eq!(code, Some(1), "{case}: {said}");
        for word in words {
            ensure!(said.contains(word), "{case}: {word:?} is not in {said:?}");
        }
        await_no_programs().with_context(|| case)?;
    }
    Ok(())
}

/// Who is nobody at all doesn't even get so far.
#[test]
fn an_unprivileged_user_is_told_that_it_takes_root() -> Result<()> {
    need_root!();
    let (said, code) = Host::new()?.with_rights(NOBODY).refused("auto")?;
    assert_eq!(code, Some(2), "{said}");
    ensure!(said.contains("dbwarden runs as root"), "{said}");
    Ok(())
}

/// What isn't needed may lack.
#[test]
fn statements_are_seen_without_what_is_not_needed() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().tls().start()?;
    let host = Host::new;
    // It can't be raised again, but from 5.11 on BPF memory is not counted there.
    let no_memory = "prlimit --memlock=0:0 setpriv --bounding-set=-sys_resource";
    for (n, (host, hooks)) in [
        (host()?.without_tracefs(), "tp_btf"),
        (host()?.without("/sys/fs/bpf"), "tp_btf"),
        (host()?.with_rights(no_memory), "tp_btf"),
        (host()?.with_tracefs().with_btf(&btf_without_typed_hooks()?)?, "syscalls"),
        (host()?.with_tracefs().with_btf(&btf_with_another_typed_hook()?)?, "syscalls"),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("{:?} {}", host.mounts, host.rights);
        let agent = host.agent().start().with_context(|| case.clone())?;
        agent.await_server(postgres.port())?;
        let status = agent.status()?;
        assert_eq!(status["hooks"]["set"], hooks, "{case}: {status:#}");
        let watch = agent.watch()?;
        for (via, transport) in [(Via::Unix, "unix"), (Via::Tls, "tls")] {
            let text = format!("SELECT {n} AS {transport}");
            postgres.psql(via, &text)?;
            let seen = watch.statements(1, |record| record["text"] == text.as_str());
            let seen = seen.with_context(|| case.clone())?;
            assert_eq!(seen[0]["transport"], transport, "{case}: {}", seen[0]);
            assert_eq!(seen[0]["rows"], 1, "{case}: {}", seen[0]);
        }
    }
    Ok(())
}

/// The reason for the worse hooks is told, whatever it is.
#[test]
fn the_fallback_is_explained() -> Result<()> {
    need_root!();
    for (btf, why) in [
        (btf_without_typed_hooks()?, "this kernel has no tracepoint `sock_recv_length`"),
        (btf_with_another_typed_hook()?, "this kernel's verifier refuses `sock_send_length`"),
    ] {
        let agent = Host::new()?.with_tracefs().with_btf(&btf)?.agent().start()?;
        let status = agent.status()?;
        let told = status["hooks"]["why"].as_str().unwrap_or_default();
        ensure!(told.contains(why), "{why:?} is not in {told:?}");
    }
    Ok(())
}

/// The least rights with which something is seen; what they don't allow is told.
#[test]
fn four_capabilities_are_enough_for_what_is_not_encrypted() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().tls().start()?;
    let rights = ["bpf", "perfmon", "sys_ptrace", "dac_read_search"];
    let agent = Host::new()?.with_only(&rights).agent().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    postgres.psql(Via::Tcp, "SELECT 'few rights'")?;
    watch.statements(1, |record| record["text"] == "SELECT 'few rights'")?;
    let status = agent.status()?;
    let servers = status["servers"].as_array().context("status lists no servers")?;
    let name = format!("pg-{}", postgres.port());
    let server = servers.iter().find(|server| server["name"] == name.as_str());
    let tls = server.and_then(|server| server["tls"].as_str());
    let tls = tls.context("status doesn't tell of TLS")?;
    ensure!(tls == "observed" || tls.contains("lacks CAP_SYS_ADMIN"), "{tls}");
    Ok(())
}

/// The checks of one sort by name, with their verdicts and words.
fn of_programs(checks: &[Value]) -> Vec<(&str, &str, &str)> {
    checks
        .iter()
        .filter(|check| check["about"] == "program")
        .map(|check| {
            ["name", "verdict", "found"].map(|key| check[key].as_str().unwrap_or_default())
        })
        .map(|[name, verdict, found]| (name, verdict, found))
        .collect()
}

#[test]
fn doctor_tries_every_program_and_leaves_none() -> Result<()> {
    need_root!();
    await_no_programs()?;
    let (checks, code) = Host::new()?.with_tracefs().doctor()?;
    let tried = of_programs(&checks);
    assert_eq!(tried.len(), 17, "{tried:?}");
    for (name, verdict, found) in &tried {
        assert_eq!(*verdict, "fine", "{name}: {found}");
        ensure!(found.contains("accepted ("), "{name}: {found}");
        // The hooks that would cost every process something are loaded only.
        assert_eq!(found.ends_with("attached"), !name.starts_with("syscall"), "{name}: {found}");
    }
    let lacks = checks.iter().any(|check| check["verdict"] == "lacking");
    assert_eq!(code, Some(i32::from(lacks)), "{checks:?}");
    await_no_programs()
}

#[test]
fn doctor_says_what_becomes_of_each_program() -> Result<()> {
    need_root!();
    let host = Host::new;
    for (host, name, verdict, words) in [
        (
            host()?.with_tracefs().with_btf(&btf_without_typed_hooks()?)?,
            "sock_send_length",
            "notable",
            "this kernel has no such tracepoint",
        ),
        (
            host()?.with_tracefs().with_btf(&btf_with_another_typed_hook()?)?,
            "sock_send_length",
            "notable",
            "refused; the verifier says: ",
        ),
        (
            // Then the fallback is attached as well.
            host()?.with_tracefs().with_btf(&btf_with_another_typed_hook()?)?,
            "syscall_exit_write",
            "fine",
            "instructions), attached",
        ),
        (host()?.without_tracefs(), "syscall_exit_read", "notable", "tracefs is not mounted"),
        (host()?.without("/sys/kernel/btf"), "all", "unknown", "vmlinux cannot be read"),
        (host()?.with_only(&[]), "all", "unknown", "this process lacks CAP_BPF and CAP_PERFMON"),
        (host()?.with_only(&["bpf"]), "ssl_call", "unknown", "this process lacks CAP_PERFMON"),
        (
            host()?.with_tracefs().with_only(&["bpf", "perfmon"]),
            "syscall_exit_read",
            "unknown",
            "is closed to this process",
        ),
    ] {
        let case = format!("{:?} {}", host.mounts, host.rights);
        let (checks, _) = host.doctor()?;
        let tried = of_programs(&checks);
        let one = tried.iter().find(|(it, ..)| *it == name);
        let (_, given, found) = one.with_context(|| format!("{case}: no {name} in {tried:?}"))?;
        assert_eq!(*given, verdict, "{case}: {name}: {found}");
        ensure!(found.contains(words), "{case}: {name}: {words:?} is not in {found:?}");
    }
    await_no_programs()
}

/// A running agent is not disturbed.
#[test]
fn doctor_can_be_asked_while_the_agent_runs() -> Result<()> {
    need_root!();
    let postgres = Postgres::builder().start()?;
    let agent = Agent::builder().start()?;
    agent.await_server(postgres.port())?;
    let watch = agent.watch()?;
    postgres.psql(Via::Tcp, "SELECT 'before'")?;
    let (checks, _) = Host::new()?.doctor()?;
    ensure!(of_programs(&checks).iter().any(|(name, ..)| *name == "ssl_free"), "{checks:?}");
    postgres.psql(Via::Tcp, "SELECT 'after'")?;
    let seen = watch.statements(2, |record| postgres.owns(record))?;
    assert_eq!(
        (&seen[0]["text"], &seen[1]["text"]),
        (&"SELECT 'before'".into(), &"SELECT 'after'".into())
    );
    Ok(())
}

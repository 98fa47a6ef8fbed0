//! Builds the BPF objects on stable Rust, then the agent that carries them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::place;

use crate::{
    setup::{self, Toolchain},
    steps::Steps,
};

/// How many steps [`build`] takes.
pub const STEPS: usize = 2;

/// What the linker leaves, and the name that the agent's build looks for: what observes, and what steers.
const OBJECTS: [(&str, &str); 2] =
    [("dbwarden-bpf", "dbwarden.bpf.o"), ("dbwarden-steer", "steer.bpf.o")];

#[derive(clap::Args)]
pub struct Args {
    /// Optimise the agent (the BPF object always is)
    #[arg(long)]
    pub release: bool,
}

/// What a build leaves.
pub struct Built {
    pub agent: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::new(setup::TOOLCHAIN_STEPS + STEPS)?;
    let toolchain = setup::toolchain(&mut steps)?;
    let built = build(&mut steps, &toolchain, args.release)?;
    println!("the agent is {}", built.agent.display());
    Ok(())
}

/// Builds the objects and the agent.
pub fn build(steps: &mut Steps, toolchain: &Toolchain, release: bool) -> Result<Built> {
    let target = place::target_dir()?;
    steps.step("BPF objects", |step| {
        step.run(for_bpf(toolchain, "build")?.arg("--release"))?;
        let fresh = target.join("bpf/build/bpfel-unknown-none/release");
        let copied = OBJECTS.map(|(program, object)| {
            copy_if_changed(&fresh.join(program), &target.join("bpf").join(object))
        });
        let copied: Vec<String> = copied.into_iter().collect::<Result<_>>()?;
        Ok(copied.join(", "))
    })?;
    Ok(Built { agent: agent(steps, release)? })
}

/// Builds the agent around the object that is there, be it the empty stand-in.
pub fn agent(steps: &mut Steps, release: bool) -> Result<PathBuf> {
    let profile = if release { "release" } else { "debug" };
    steps.step(&format!("agent ({profile})"), |step| {
        let release = release.then_some("--release");
        step.run(cargo().args(["build", "--package", "dbwarden"]).args(release))?;
        Ok("built".to_owned())
    })?;
    Ok(place::target_dir()?.join(profile).join("dbwarden"))
}

/// The cargo that runs this program, for the workspace's folder and this build's output.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(place::workspace());
    // What `cargo run` says of this program is not for others: build scripts that ask for it would run
    // again, and all that stands on them, each time somebody changes between `cargo` and `cargo xtask`.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    if let Ok(target) = place::target_dir() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    cargo
}

/// Stable Rust builds `core` for the BPF target when it is told that unstable flags are meant.
pub fn for_bpf(toolchain: &Toolchain, subcommand: &str) -> Result<Command> {
    let mut cargo = cargo();
    cargo
        .args([subcommand, "--package", "dbwarden-ebpf"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .env("RUSTC_BOOTSTRAP", "1")
        // Apart from the host's build: another target, other flags, and no waiting for its lock.
        .env("CARGO_TARGET_DIR", place::target_dir()?.join("bpf/build"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.bpf_linker)
        // bpf-linker opens rustc's own LLVM, which it looks for here.
        .env("LD_LIBRARY_PATH", toolchain.sysroot.join("lib"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // The verifier's log and aya's relocations want BTF, which the linker makes of debug
        // information. v3 has 32-bit ALU instructions: shorter programs, kernels from 5.1.
        .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf -C target-cpu=v3");
    Ok(cargo)
}

/// Leaves an unchanged object alone: a newer file would make cargo build the agent again.
fn copy_if_changed(fresh: &Path, object: &Path) -> Result<String> {
    let bytes = fs::read(fresh).with_context(|| format!("reading {}", fresh.display()))?;
    ensure!(!bytes.is_empty(), "{} is empty", fresh.display());
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok("unchanged".to_owned());
    }
    fs::write(object, &bytes).with_context(|| format!("writing {}", object.display()))?;
    Ok(format!("{} KiB", bytes.len().div_ceil(1024)))
}

//! Installs what building and testing need, and says what it can't.

mod bpf_linker;
mod drivers;
mod packages;
mod promtool;
mod python;
mod rust_src;

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::steps::Steps;

/// How many steps [`all`] takes.
pub const STEPS: usize = 4 + TOOLCHAIN_STEPS;
/// How many steps [`toolchain`] takes.
pub const TOOLCHAIN_STEPS: usize = 2;

/// What builds BPF objects.
pub struct Toolchain {
    pub sysroot: PathBuf,
    pub bpf_linker: PathBuf,
}

/// The compiler that cargo uses here.
struct Rustc {
    sysroot: PathBuf,
    /// As in `1.95.0`.
    release: String,
    /// As in `22`.
    llvm: String,
}

pub fn run() -> Result<()> {
    all(&mut Steps::new(STEPS)?)?;
    Ok(())
}

/// Everything: packages, the BPF toolchain, client drivers.
pub fn all(steps: &mut Steps) -> Result<Toolchain> {
    let (toolchain, lacks) = attempt(steps);
    match toolchain {
        Some(toolchain) if lacks.is_empty() => Ok(toolchain),
        _ => bail!("set-up is not complete\n{}", lacks.join("\n")),
    }
}

/// As much of everything as can be had, and what is lacking.
pub fn attempt(steps: &mut Steps) -> (Option<Toolchain>, Vec<String>) {
    let mut lacks = Vec::new();
    let mut note = |error: anyhow::Error| lacks.push(format!("{error:#}"));
    let _ = steps.step("Debian packages", packages::install).map_err(&mut note);
    let toolchain = toolchain(steps).map_err(&mut note).ok();
    let _ = steps.step("Python with database drivers", python::install).map_err(&mut note);
    let _ = steps.step("promtool", promtool::install).map_err(&mut note);
    let _ = steps.step("drivers of Java and Node.js", drivers::install).map_err(&mut note);
    (toolchain, lacks)
}

/// What is needed to build the BPF object, and no more.
pub fn toolchain(steps: &mut Steps) -> Result<Toolchain> {
    let rustc = Rustc::find()?;
    steps.step(&format!("rust-src {}", rustc.release), |step| rust_src::install(step, &rustc))?;
    let bpf_linker = bpf_linker::path(&rustc)?;
    steps.step(&format!("bpf-linker {}", bpf_linker::VERSION), |step| {
        bpf_linker::install(step, &rustc)
    })?;
    Ok(Toolchain { sysroot: rustc.sysroot, bpf_linker })
}

impl Rustc {
    fn find() -> Result<Rustc> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = output(Command::new(&rustc).arg("-vV"))?;
        let field = |name: &str| {
            let line = version.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| format!("`rustc -vV` has no line `{name}`"))
        };
        let llvm = field("LLVM version:")?;
        Ok(Rustc {
            sysroot: output(Command::new(&rustc).args(["--print", "sysroot"]))?.trim().into(),
            release: field("release:")?.to_owned(),
            llvm: llvm.split('.').next().unwrap_or(llvm).to_owned(),
        })
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The path of a program that `PATH` or the system's own folders have.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps `ip` and `runuser` where an ordinary user's PATH doesn't look.
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// What a short command prints; an error has what it complained about.
fn output(command: &mut Command) -> Result<String> {
    let shown = crate::steps::shown(command);
    let output = command.output().with_context(|| format!("starting `{shown}`"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` ended with {}: {}", output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

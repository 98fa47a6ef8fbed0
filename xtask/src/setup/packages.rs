//! Debian packages: what is missing, and their installation where that is allowed.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{is_root, output, program};
use crate::steps::Step;

/// What proves that a package is there, whatever brought it.
enum Proof {
    Program(&'static str),
    File(PathBuf),
    Python(&'static str),
}

struct Package {
    name: String,
    /// What it is for, in a few words.
    why: &'static str,
    proof: Proof,
}

/// The PostgreSQL to test with: the newest that is installed, else the one that this Debian has.
fn postgres_version() -> u32 {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let installed = installed
        .filter(|entry| entry.path().join("bin/initdb").is_file())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .max();
    installed.unwrap_or_else(|| {
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if system.contains("VERSION_CODENAME=trixie") { 17 } else { 15 }
    })
}

fn wanted() -> Vec<Package> {
    use Proof::{File, Program, Python};
    let version = postgres_version();
    let postgres = PathBuf::from(format!("/usr/lib/postgresql/{version}"));
    let package = |name: &str, why, proof| Package { name: name.to_owned(), why, proof };
    vec![
        package("g++", "compiles libFuzzer", Program("c++")),
        package("clang", "headers for the bindings of PostgreSQL's parser", Program("clang")),
        package(
            &format!("postgresql-{version}"),
            "the database that tests watch",
            File(postgres.join("bin/initdb")),
        ),
        package(
            &format!("postgresql-{version}-pgaudit"),
            "the peer that benchmarks compare with",
            File(postgres.join("lib/pgaudit.so")),
        ),
        package("pgbouncer", "the pooler that tests watch", File("/usr/sbin/pgbouncer".into())),
        package(
            "haproxy",
            "a proxy that benchmarks compare with",
            File("/usr/sbin/haproxy".into()),
        ),
        package("sudo", "clients under another user's name", Program("sudo")),
        package("python3-venv", "Python database drivers", Python("import venv, ensurepip")),
        package("iproute2", "network namespaces", Program("ip")),
        package("openssl", "certificates for TLS tests", Program("openssl")),
        package("systemd", "checks the service's unit", Program("systemd-analyze")),
    ]
}

impl Package {
    fn is_there(&self) -> bool {
        match &self.proof {
            Proof::Program(name) => program(name).is_some(),
            Proof::File(path) => path.exists(),
            Proof::Python(line) => {
                output(Command::new("/usr/bin/python3").args(["-c", line])).is_ok()
            }
        }
    }
}

pub fn install(step: &mut Step) -> Result<String> {
    let missing: Vec<Package> = wanted().into_iter().filter(|wanted| !wanted.is_there()).collect();
    if missing.is_empty() {
        return Ok("already there".to_owned());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name.as_str()).collect();
    let names = names.join(" ");
    if !is_root() || program("apt-get").is_none() {
        let list: Vec<String> =
            missing.iter().map(|package| format!("  {} ({})", package.name, package.why)).collect();
        bail!(
            "missing:\n{}\nthey come with: sudo apt-get install --no-install-recommends {names}",
            list.join("\n")
        );
    }
    install_with_apt(step, &missing)
        .with_context(|| format!("apt-get could not install {names}"))?;
    match missing.iter().find(|package| !package.is_there()) {
        Some(absent) => bail!("{} was installed and still isn't usable", absent.name),
        None => Ok(format!("installed {names}")),
    }
}

fn install_with_apt(step: &mut Step, missing: &[Package]) -> Result<()> {
    // Lists that were never fetched, or are too old to name files that still exist.
    if !step.status(apt_install(missing).arg("--download-only"))?.success() {
        step.run(apt_get().arg("update"))?;
    }
    let _nothing_started = NoServices::begin()?;
    if !missing.iter().any(|package| package.name.starts_with("postgresql")) {
        return install_quietly(step, missing);
    }
    // Debian's package makes and starts a cluster named `main`. Nobody asked for a server here, so
    // that is switched off in its configuration, for this installation only.
    step.run(apt_get().args(INSTALL).arg("postgresql-common"))?;
    let _switched_off = NoMainCluster::begin()?;
    install_quietly(step, missing)
}

/// Packages whose services would run with each start of the machine. Nobody asked for that either.
const SERVICES: [&str; 2] = ["haproxy", "pgbouncer"];

fn install_quietly(step: &mut Step, missing: &[Package]) -> Result<()> {
    step.run(&mut apt_install(missing))?;
    for service in SERVICES {
        if missing.iter().any(|package| package.name == service) && program("systemctl").is_some() {
            step.run(Command::new("systemctl").args(["disable", service]))?;
        }
    }
    Ok(())
}

const INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "Dpkg::Options::=--force-confold"]);
    command
}

fn apt_install(packages: &[Package]) -> Command {
    let mut command = apt_get();
    command.args(INSTALL).args(packages.iter().map(|package| &package.name));
    command
}

/// While it lives, Debian's packages start no service when they are installed.
struct NoServices {
    /// The policy was this value's own to make.
    made: bool,
}

impl NoServices {
    const FILE: &str = "/usr/sbin/policy-rc.d";

    fn begin() -> Result<NoServices> {
        let file = Path::new(Self::FILE);
        if file.exists() {
            return Ok(NoServices { made: false });
        }
        fs::write(file, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(file, Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(NoServices { made: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = fs::remove_file(Self::FILE)
        {
            eprintln!("{} could not be removed ({error}): remove it", Self::FILE);
        }
    }
}

/// While it lives, Debian's PostgreSQL packages make no cluster when they are installed.
struct NoMainCluster {
    before: Vec<u8>,
}

impl NoMainCluster {
    const FILE: &str = "/etc/postgresql-common/createcluster.conf";

    fn begin() -> Result<NoMainCluster> {
        let file = Path::new(Self::FILE);
        let before = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let mut during = before.clone();
        during.extend_from_slice(b"\ncreate_main_cluster = false\n");
        fs::write(file, during).with_context(|| format!("writing {}", file.display()))?;
        Ok(NoMainCluster { before })
    }
}

impl Drop for NoMainCluster {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::FILE, &self.before) {
            eprintln!("{} could not be restored ({error}): remove its last line", Self::FILE);
        }
    }
}

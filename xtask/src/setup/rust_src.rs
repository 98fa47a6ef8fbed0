//! The standard library's source of exactly this rustc, which `-Z build-std` compiles for BPF.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::{Rustc, output, program};
use crate::steps::Step;

/// Where Debian carries newer compilers than its stable release does.
const DEBIAN_SUITES: [&str; 3] = ["trixie-backports", "trixie", "sid"];
const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian";
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

pub fn install(step: &mut Step, rustc: &Rustc) -> Result<String> {
    let library = rustc.sysroot.join("lib/rustlib/src/rust/library");
    let is_there = || library.join("core/src/lib.rs").is_file();
    if is_there() {
        return Ok("already there".to_owned());
    }
    if program("rustup").is_some()
        && step.status(Command::new("rustup").args(["component", "add", "rust-src"]))?.success()
        && is_there()
    {
        return Ok("added by rustup".to_owned());
    }
    let version = from_debian(step, rustc, &library).with_context(|| {
        format!(
            "no source of rustc {} could be had: `rustup component add rust-src` brings it where \
             rustup can download; else put the `library` folder of Debian's package rust-src of \
             that version at {}",
            rustc.release,
            library.display()
        )
    })?;
    Ok(format!("from Debian's rust-src {version}"))
}

/// Fetches the package with an apt of our own, which leaves the host's sources and lists alone.
fn from_debian(step: &mut Step, rustc: &Rustc, library: &Path) -> Result<String> {
    for needed in ["apt-get", "dpkg-deb", "tar"] {
        ensure!(program(needed).is_some(), "there is no {needed} here");
    }
    ensure!(Path::new(DEBIAN_KEYRING).is_file(), "{DEBIAN_KEYRING} is not there");
    for suite in DEBIAN_SUITES {
        let apt = Apt::new(suite)?;
        step.run(apt.get().arg("update"))?;
        let known = output(apt.cache().args(["madison", "rust-src"]))?;
        let Some(version) = matching_version(&known, &rustc.release) else { continue };
        step.run(apt.get().arg("download").arg(format!("rust-src={version}")))?;
        unpack(step, apt.folder.path(), &rustc.release, library)?;
        return Ok(version.to_owned());
    }
    bail!("Debian's {} have no rust-src {}", DEBIAN_SUITES.join(", "), rustc.release)
}

/// The first version in `apt-cache madison`'s lines (`name | version | source`) that is `release`.
fn matching_version<'a>(madison: &'a str, release: &str) -> Option<&'a str> {
    madison.lines().find_map(|line| {
        let version = line.split('|').nth(1)?.trim();
        let rest = version.strip_prefix(release)?;
        rest.starts_with(['+', '-', '~']).then_some(version)
    })
}

fn unpack(step: &mut Step, folder: &Path, release: &str, library: &Path) -> Result<()> {
    let package = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    let inside = format!("usr/src/rustc-{release}/library");
    let archive = folder.join("data.tar");
    let tar = fs::File::create(&archive)?;
    let status =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&package).stdout(tar).status()?;
    ensure!(status.success(), "dpkg-deb could not read {}", package.display());

    let home = library.parent().context("the library has no folder")?;
    fs::create_dir_all(home).with_context(|| format!("creating {}", home.display()))?;
    // On the same file system as its place, so that it appears there whole or not at all.
    let beside = tempfile::tempdir_in(home)
        .with_context(|| format!("{} can't be written to", home.display()))?;
    step.run(
        Command::new("tar")
            .arg("--extract")
            .arg("--no-same-owner")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(beside.path())
            .arg(format!("./{inside}")),
    )?;
    let _ = fs::remove_dir_all(library);
    fs::rename(beside.path().join(inside), library)
        .with_context(|| format!("moving the sources to {}", library.display()))
}

/// An apt with its own sources, lists and cache, in a temporary folder.
struct Apt {
    folder: tempfile::TempDir,
    options: Vec<String>,
}

impl Apt {
    fn new(suite: &str) -> Result<Apt> {
        let folder = tempfile::Builder::new().prefix("dbwarden-apt-").tempdir()?;
        let at = |name: &str| -> PathBuf { folder.path().join(name) };
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(at(directory))?;
        }
        let source = format!("deb [signed-by={DEBIAN_KEYRING}] {DEBIAN_MIRROR} {suite} main\n");
        fs::write(at("sources.list"), source)?;
        let options = [
            ("Dir::Etc::sourcelist", at("sources.list").display().to_string()),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State::lists", at("lists").display().to_string()),
            ("Dir::Cache", at("cache").display().to_string()),
            ("APT::Sandbox::User", "root".to_owned()),
        ];
        let options = options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Ok(Apt { folder, options })
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn cache(&self) -> Command {
        self.command("apt-cache")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path());
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::matching_version;

    #[test]
    fn a_version_matches_its_release_and_no_longer_one() {
        let madison = " rust-src | 1.95.10+dfsg1-1 | http://deb.debian.org/debian sid/main\n \
                       rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://deb.debian.org/debian x/main\n";
        for (release, expected) in [
            ("1.95.0", Some("1.95.0+dfsg1-2~bpo13+1")),
            ("1.95.10", Some("1.95.10+dfsg1-1")),
            ("1.95.1", None),
            ("1.96.0", None),
        ] {
            assert_eq!(matching_version(madison, release), expected, "{release}");
        }
    }
}

//! What `systemd/` installs: accepted by systemd's own tools, and the same as the built-in defaults.

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use dbwarden::config;
use dbwarden_tests::{Running, await_until, is_root, need_root, place, said};
use nix::sys::signal::Signal;

fn shipped(file: &str) -> PathBuf {
    place::workspace().join("systemd").join(file)
}

/// Runs a tool of systemd that must find nothing to say.
fn accepts(command: &mut Command) -> Result<()> {
    let output = command.output().context("systemd's tools are needed: apt-get install systemd")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && words.is_empty(), "{command:?} says:\n{words}");
    Ok(())
}

/// A root directory in which only what the unit names exists, so that nothing depends on whether
/// dbwarden is installed on the machine that tests.
fn fake_root() -> Result<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let units = root.path().join("etc/systemd/system");
    let binaries = root.path().join("usr/bin");
    fs::create_dir_all(&units)?;
    fs::create_dir_all(&binaries)?;
    fs::copy(shipped("dbwarden.service"), units.join("dbwarden.service"))?;
    // Any executable does: it is only looked at.
    fs::copy(std::env::current_exe()?, binaries.join("dbwarden"))?;
    // What the unit refers to and what systemd adds by itself.
    for unit in [
        "basic.target",
        "local-fs.target",
        "multi-user.target",
        "shutdown.target",
        "sysinit.target",
        "sys-kernel-tracing.mount",
        "system.slice",
        "-.mount",
        "-.slice",
    ] {
        let body = match unit {
            "sys-kernel-tracing.mount" => "[Mount]\nWhat=tracefs\nWhere=/sys/kernel/tracing\n",
            "-.mount" => "[Mount]\nWhat=/dev/root\nWhere=/\n",
            _ => "[Unit]\n",
        };
        fs::write(units.join(unit), body)?;
    }
    Ok(root)
}

#[test]
fn the_unit_is_verified() -> Result<()> {
    let root = fake_root()?;
    let verify = |root: &Path| {
        let mut command = Command::new("systemd-analyze");
        command
            .arg("verify")
            .arg("--man=no")
            .arg("--recursive-errors=no")
            .arg(format!("--root={}", root.display()));
        command.arg("dbwarden.service");
        accepts(&mut command)
    };
    verify(root.path())?;

    // The same check finds a mistake where there is one.
    let unit = root.path().join("etc/systemd/system/dbwarden.service");
    let broken = fs::read_to_string(&unit)?.replace("Restart=on-failure", "Restart=perhaps");
    fs::write(&unit, broken)?;
    ensure!(verify(root.path()).is_err(), "a broken unit is verified too");
    Ok(())
}

#[test]
fn users_and_directories_are_accepted() -> Result<()> {
    let root = tempfile::tempdir()?;
    let root_argument = format!("--root={}", root.path().display());
    let dry_run = Command::new("systemd-sysusers")
        .args(["--dry-run", &root_argument])
        .arg(shipped("dbwarden.sysusers"))
        .output()
        .context("systemd's tools are needed: apt-get install systemd")?;
    // It says what it would do where others keep their errors.
    let words = String::from_utf8_lossy(&dry_run.stderr);
    ensure!(dry_run.status.success() && words.contains("group 'dbwarden'"), "{words}");
    if is_root() {
        fs::create_dir_all(root.path().join("etc"))?;
        accepts(
            Command::new("systemd-tmpfiles")
                .args(["--create", &root_argument])
                .arg(shipped("dbwarden.tmpfiles")),
        )?;
        for directory in ["run/dbwarden", "var/lib/dbwarden", "etc/dbwarden"] {
            ensure!(root.path().join(directory).is_dir(), "{directory} was not made");
        }
    }
    Ok(())
}

#[test]
fn the_default_configuration_is_the_built_in_one() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let empty = directory.path().join("empty.toml");
    fs::write(&empty, "")?;
    assert_eq!(config::load(Some(&shipped("config.toml")))?, config::load(Some(&empty))?);
    Ok(())
}

/// Commented out must not mean forgotten: with the comments taken off, every key is read, and those
/// with a default have it.
#[test]
fn the_commented_keys_are_the_real_ones() -> Result<()> {
    let text = fs::read_to_string(shipped("config.toml"))?;
    let uncommented: String = text
        .lines()
        .map(|line| {
            let bare = line.trim_start_matches("# ");
            let is_key = bare
                .split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            format!("{}\n", if is_key || bare.starts_with('[') { bare } else { line })
        })
        .collect();
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("config.toml");
    fs::write(&path, &uncommented)?;
    let read = config::load(Some(&path))?;
    let defaults = config::load(Some(&shipped("config.toml")))?;
    assert_eq!(read.capture, defaults.capture);
    assert_eq!(read.log, defaults.log);
    assert_eq!(read.control.socket, defaults.control.socket);
    assert_eq!(read.servers.len(), 2);

    // Nothing that can be written is left out.
    for key in toml_keys(&toml::to_string(&read)?) {
        // In a line of its own, or in a table that stands in one line.
        let is_there =
            ["\n", "{ ", ", "].iter().any(|gap| uncommented.contains(&format!("{gap}{key} = ")));
        ensure!(is_there, "`{key}` is not in config.toml");
    }
    Ok(())
}

/// `setpriv` that leaves a command the unit's capabilities and nothing else.
fn as_the_unit() -> Result<Command> {
    let unit = fs::read_to_string(shipped("dbwarden.service"))?;
    let set = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .context("the unit bounds no capabilities")?;
    let kept = set.split_whitespace().map(|name| name.trim_start_matches("CAP_").to_lowercase());
    let bounds = kept.fold("-all".to_owned(), |bounds, name| format!("{bounds},+{name}"));
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--no-new-privs", "--inh-caps=-all", "--bounding-set", &bounds]);
    Ok(setpriv)
}

/// The child that reads what strangers wrote has no rights, and the service can end it all the same.
#[test]
fn the_process_that_parses_is_nobody_under_the_unit() -> Result<()> {
    need_root!();
    let (stream, theirs) = UnixStream::pair()?;
    let mut analyst = as_the_unit()?;
    analyst.arg(place::profile_dir()?.join("dbwarden")).arg("analyst");
    analyst.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
    let mut analyst = Running::start("dbwarden analyst", &mut analyst, Signal::SIGTERM)?;
    let status = format!("/proc/{}/status", analyst.pid());
    let confined = await_until("a filter of system calls", || {
        let status = fs::read_to_string(&status)?;
        Ok(status.lines().any(|line| line == "Seccomp:\t2").then_some(status))
    })?;
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "Groups:\t ",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        ensure!(confined.lines().any(|known| known == line), "{line:?} isn't in\n{confined}");
    }
    said(as_the_unit()?.args(["/bin/kill", "-KILL", &analyst.pid().to_string()]))?;
    ensure!(!analyst.wait()?.success());
    drop(stream);
    Ok(())
}

fn toml_keys(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(line.split_once(" = ")?.0.to_owned())).collect()
}

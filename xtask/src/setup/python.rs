//! A Python environment with the database drivers of `tests/requirements.txt`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use dbwarden_tests::place;

use super::program;
use crate::steps::Step;

pub fn install(step: &mut Step) -> Result<String> {
    let requirements = place::workspace().join("tests/requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("reading {}", requirements.display()))?;
    let home = place::tool_dir()?.join("python");
    // Written last: an environment without it was not finished.
    let stamp = home.join("installed-requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok("already there".to_owned());
    }
    // Debian's own first: python3-venv belongs to it.
    let debian = Path::new("/usr/bin/python3");
    let python = if debian.is_file() { Some(debian.to_owned()) } else { program("python3") };
    let python = python.context("there is no python3: apt-get install python3-venv")?;
    step.run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&home))
        .context("python3 -m venv failed: apt-get install python3-venv")?;
    step.run(
        Command::new(home.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .arg("--requirement")
            .arg(&requirements),
    )
    .context("installing drivers from PyPI")?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok("installed".to_owned())
}

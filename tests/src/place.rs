//! Where things are: the checkout, the build's output, and the tools that setup installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the checkout, from the package that cargo runs.
///
/// Asked at run time: two checkouts can share a build, and then what was compiled in is the other's.
pub fn workspace() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let package = package.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map(Path::to_owned).unwrap_or(package)
}

/// The output folder of the profile that the running program was built with, as in `target/debug`.
pub fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("asking for the path of the running program")?;
    let folder = exe.parent().context("the running program has no folder")?;
    // Test programs are one folder deeper.
    let folder = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    folder.map(Path::to_owned).context("the running program is outside of a target folder")
}

/// The output folder of the build, as in `target`.
pub fn target_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    profile.parent().map(Path::to_owned).context("the profile's folder has no parent")
}

/// Tools that `cargo xtask setup` installs for itself, shared by all checkouts of one user.
pub fn tool_dir() -> Result<PathBuf> {
    Ok(cache_dir()?.join("tools"))
}

/// The Python that has the database drivers.
pub fn python() -> Result<PathBuf> {
    Ok(tool_dir()?.join("python/bin/python"))
}

/// What judges a page of metrics, where the system has none.
pub fn promtool() -> Result<PathBuf> {
    Ok(tool_dir()?.join("promtool"))
}

/// PostgreSQL's driver for Java.
pub fn jdbc() -> Result<PathBuf> {
    Ok(tool_dir()?.join("postgresql-jdbc.jar"))
}

/// The folder in which Node.js finds its driver.
pub fn node_modules() -> Result<PathBuf> {
    Ok(tool_dir()?.join("node/node_modules"))
}

fn cache_dir() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
        _ => PathBuf::from(
            std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?,
        )
        .join(".cache"),
    };
    Ok(cache.join("dbwarden"))
}

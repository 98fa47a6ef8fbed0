//! Tells the agent where the BPF objects are that it carries.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// `cargo xtask build` puts the objects into the target folder. Where nobody has built them, empty files
/// stand in, so that everything else compiles and is tested; the loader refuses them in words.
fn main() -> Result<()> {
    let folder = target_dir()?.join("bpf");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    println!("cargo:rerun-if-changed=build.rs");
    for (name, file) in
        [("DBWARDEN_BPF_OBJECT", "dbwarden.bpf.o"), ("DBWARDEN_STEER_OBJECT", "steer.bpf.o")]
    {
        let object = folder.join(file);
        if !object.exists() {
            fs::write(&object, b"").with_context(|| format!("writing {}", object.display()))?;
        }
        println!("cargo:rerun-if-changed={}", object.display());
        println!("cargo:rustc-env={name}={}", object.display());
    }
    Ok(())
}

/// `OUT_DIR` is `<target>/[<triple>/]<profile>/build/…`.
fn target_dir() -> Result<PathBuf> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let triple = env::var_os("TARGET").context("cargo sets TARGET")?;
    let above_profile = out_dir
        .ancestors()
        .find(|folder| folder.ends_with("build"))
        .and_then(Path::parent)
        .and_then(Path::parent)
        .with_context(|| format!("{} is no build script's folder", out_dir.display()))?;
    let target = if above_profile.ends_with(&triple) { above_profile.parent() } else { None };
    Ok(target.unwrap_or(above_profile).to_owned())
}

//! Hosts that can't be steered, and in which words they are told.

use anyhow::{Context, Result, ensure};
use dbwarden::capture::steer::{GuardDown, SteerError, SteerOptions, Steering, trial};
use dbwarden_tests::{Cgroup, need_root};

fn refused(options: &SteerOptions) -> Result<SteerError> {
    Steering::attach(options).err().context("it is attached")
}

#[test]
fn this_host_can_be_steered() -> Result<()> {
    need_root!();
    let trial = trial();
    trial.local?;
    Ok(trial.network?)
}

#[test]
fn pins_need_a_bpf_file_system() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let options = SteerOptions { pins: Some(folder.path().join("a/b")), ..SteerOptions::default() };
    let error = refused(&options)?;
    ensure!(matches!(error, SteerError::NoBpffs { .. }), "{error}");
    ensure!(error.to_string().contains("run `mount -t bpf bpf /sys/fs/bpf`"), "{error}");
    Ok(())
}

#[test]
fn only_the_root_of_the_tree_will_do() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let options = SteerOptions { cgroup: Some(folder.path().into()), ..SteerOptions::default() };
    let error = refused(&options)?;
    ensure!(matches!(error, SteerError::Cgroup { .. }), "{error}");
    // As a container sees it.
    let part = Cgroup::create("dbwarden-part")?;
    let options = SteerOptions { cgroup: Some(part.path().into()), ..SteerOptions::default() };
    let error = refused(&options)?;
    ensure!(matches!(error, SteerError::PartOfTree { .. }), "{error}");
    Ok(())
}

#[test]
fn a_server_and_its_guard_are_of_one_family() -> Result<()> {
    need_root!();
    let mut steering = Steering::attach(&SteerOptions::default())?;
    let refused = steering.steer(1, "127.0.0.1:1".parse()?, "[::1]:2".parse()?, GuardDown::Direct);
    ensure!(matches!(refused, Err(SteerError::Mismatch { .. })));
    Ok(())
}

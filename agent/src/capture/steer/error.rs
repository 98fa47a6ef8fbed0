//! Why a host, or one server of it, can't be steered: `doctor` prints it behind "not guardable: ".

use std::{io, net::SocketAddr, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, links::LinkError},
};

use crate::capture::{
    OffsetsError,
    refusal::{Refusal, steering_explained},
};

#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    #[error("this dbwarden was built without its BPF programs; build it with `cargo xtask build`")]
    NoObject,
    #[error(
        "no cgroup v2 tree is mounted, and local clients are steered at its root; run \
         `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`, or at another place that is empty"
    )]
    NoCgroup2,
    #[error(
        "the cgroup v2 tree at {} begins inside of a container or another namespace: clients outside of it \
         would not be steered; run dbwarden on the host itself", path.display()
    )]
    PartOfTree { path: PathBuf },
    #[error("the cgroup v2 tree at {} cannot be opened", path.display())]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("steering {what} needs Linux {needs} or newer")]
    OldKernel { what: &'static str, needs: &'static str },
    #[error("the BPF object for steering cannot be loaded{why}")]
    Object { why: String, source: Box<EbpfError> },
    #[error("BPF program `{name}` cannot be loaded or attached{why}")]
    Program { name: &'static str, why: String, source: Box<ProgramError> },
    #[error(
        "another program is alone at the root of the cgroup v2 tree, for `{hook}`, and suffers no second; \
         `bpftool cgroup show` names it: its owner can attach it with the flag `multi`"
    )]
    Occupied { hook: &'static str, source: Box<ProgramError> },
    #[error("BPF program `{name}` is attached in a way that can't be kept")]
    Link { name: &'static str, source: LinkError },
    #[error(
        "the BPF object has no {kind} `{name}`: it and this dbwarden are of different versions"
    )]
    Missing { kind: &'static str, name: &'static str },
    #[error("BPF map `{name}` cannot be used")]
    Map { name: &'static str, source: MapError },
    #[error(
        "{} is not on a BPF file system, without which steering can't outlive dbwarden \
         (on_guard_down = \"refuse\"); run `mount -t bpf bpf /sys/fs/bpf`", path.display()
    )]
    NoBpffs { path: PathBuf },
    #[error("the pin {} cannot be changed", path.display())]
    Pin { path: PathBuf, source: io::Error },
    #[error("the network namespace cannot be looked at{}", old_netns(source))]
    Namespace { source: io::Error },
    #[error(
        "clients of {original} can't be led to {guard}: both must be IPv4 or both IPv6, and have a port"
    )]
    Mismatch { original: SocketAddr, guard: SocketAddr },
    #[error("steering clients of unix sockets needs Linux 6.8 or newer")]
    NoUnixHook { source: OffsetsError },
    #[error("BPF program `{name}` cannot be loaded or attached")]
    UnixProgram { name: &'static str, source: io::Error },
    #[error("{} is no path of a socket", path.display())]
    NoSocketPath { path: PathBuf },
    #[error("there is no room for more listeners in this network namespace (at most {most})")]
    TooManyListeners { most: u32 },
}

/// The kernel doesn't know the socket option.
fn old_netns(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOPROTOOPT) => ": steering needs Linux 5.14 or newer",
        _ => "",
    }
}

impl SteerError {
    pub(super) fn program(name: &'static str, source: ProgramError) -> Self {
        Self::Program { name, why: steering_explained(&source), source: Box::new(source) }
    }

    pub(super) fn at_cgroup(name: &'static str, hook: &'static str, source: ProgramError) -> Self {
        // A lack of rights would have shown when it was loaded.
        match Refusal::of(&source).is_about_rights() {
            true => Self::Occupied { hook, source: Box::new(source) },
            false => Self::program(name, source),
        }
    }

    pub(super) fn object(source: EbpfError) -> Self {
        Self::Object { why: steering_explained(&source), source: Box::new(source) }
    }

    pub(super) fn map(name: &'static str) -> impl Fn(MapError) -> Self + Copy {
        move |source| Self::Map { name, source }
    }

    pub(super) fn pin(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Pin { path, source }
    }
}

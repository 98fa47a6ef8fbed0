//! The BPF programs of dbwarden: what the databases' processes read and write, and who connects to them.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)] // `core` offers this target no atomics, though the kernel has had them since 5.12

mod atomic;
mod connection;
mod emit;
mod kernel;
mod maps;
mod object;
mod process;
mod socket;
mod syscall;
mod tcp;
mod tls;

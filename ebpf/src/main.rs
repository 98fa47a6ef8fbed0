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
mod process;
mod socket;
mod syscall;
mod tcp;
mod tls;

/// The kernel lends its tracing helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}

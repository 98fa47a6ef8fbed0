//! Ctrl-C and SIGTERM as an error that unwinds, so that what was started is stopped and removed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on both signals are remembered instead of ending this program.
pub fn listen() {
    let action =
        SigAction::new(SigHandler::Handler(remember), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing but store an atomic.
        if let Err(error) = unsafe { sigaction(signal, &action) } {
            eprintln!("{signal} will end this program without cleaning up: {error}");
        }
    }
}

/// An error once a signal has come.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

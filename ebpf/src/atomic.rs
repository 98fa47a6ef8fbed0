//! Atomic steps on map values, which programs on other CPUs change at the same time.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Adds, and returns what was there before.
///
/// # Safety
/// `at` must be valid and aligned, and changed by atomic steps only.
#[inline(always)]
pub unsafe fn add(at: *mut u64, n: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(at, n) }
}

/// Puts `new` in the place of `old`; false if something else was there.
///
/// # Safety
/// As for `add`.
#[inline(always)]
pub unsafe fn replace(at: *mut u64, old: u64, new: u64) -> bool {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<u64, ORDER, ORDER>(at, old, new).1 }
}

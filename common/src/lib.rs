//! The kernel ABI of dbwarden: records, limits and settings shared by the BPF programs and the agent.
#![no_std]

mod control;
mod data;
mod settings;
mod state;
mod steer;

pub use control::*;
pub use data::*;
pub use settings::*;
pub use state::*;
pub use steer::*;

/// Lets the agent hand a type to the loader and read it from maps; `bytemuck`'s derive has checked that
/// it has no padding.
macro_rules! plain {
    ($($name:ty),+ $(,)?) => {$(
        // SAFETY: `repr(C)` integers and arrays of integers without padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    )+};
}
pub(crate) use plain;

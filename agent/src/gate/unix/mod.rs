//! Clients of unix sockets: where they come in, who they are, and how they get to their servers in their own names.

mod account;
mod caller;
mod doors;
mod keeper;
mod led;
mod queue;
mod roots;
mod seat;

pub use self::{caller::Caller, keeper::keep, seat::FileId};
pub(super) use self::{
    doors::Doors,
    led::Led,
    queue::{Queue, RETRY, Reached},
};

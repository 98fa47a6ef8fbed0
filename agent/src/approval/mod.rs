//! Statements that wait for people: what is asked, who may decide, what a decision is good for.
//!
//! The [`Registry`] is pure: times and chance come in, rows and answers go out. The [`Desk`] is what the threads of
//! the service share of it. Nothing of it outlives the service or the guard: what is open then is denied.

mod ask;
mod binding;
mod desk;
mod journal;
mod registry;
mod shown;
mod standing;
#[cfg(test)]
mod tests;

pub use ask::{Answer, Ask, Need, Over};
pub use binding::{Binding, Context, Difference, Given, Who};
pub use desk::{Desk, NOpen};
pub use registry::{Decision, Limits, Outcome, Ran, Registry, Request, State, Undecided};
pub use shown::{Shown, ShownDecision, Step};
pub use standing::Unfit;

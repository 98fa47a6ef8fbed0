//! Statements of the guard's that need an approval, on their way to the desk, and the answers back.

use crate::{
    approval::{Ask, Over},
    event::{Origin, WallTime},
    guard::wire::{Number, Order},
};

use super::Gate;

impl Gate {
    /// The guard asks for a statement of somebody who was let in.
    pub(super) fn wants_approval(&self, ask: Ask) {
        let origin = self.state().admitted.get(&ask.number).map(|who| who.origin.clone());
        // Whoever has left meanwhile waits for nothing.
        let Some(origin) = origin else { return };
        let server = self.server_of(ask.number);
        let origin =
            Origin { server: server.or_else(|| origin.server.clone()), ..(*origin).clone() };
        self.desk.ask(ask, &origin, rand::random(), now());
    }

    fn server_of(&self, number: Number) -> Option<std::sync::Arc<str>> {
        let state = self.state();
        let server = state.clients.get(&number)?.server;
        let target = state.targets.get(server)?.as_ref().ok()?;
        Some(target.name.clone())
    }

    pub(super) fn approval_is_over(&self, number: Number, why: Over) {
        self.desk.over(number, why, now());
    }

    pub(super) fn ends_approvals(&self, why: &str) {
        self.desk.end(why, now());
    }
}

/// What was decided, for the guard.
pub(super) fn tell(gate: &Gate) {
    let channel = gate.state().channel.clone();
    for (number, answer) in gate.desk.take_answers() {
        if let Some(channel) = &channel {
            // Without the guard nobody waits any more.
            let _ = channel.send(&Order::Approval { number, answer }, None);
        }
    }
}

pub(super) fn now() -> WallTime {
    WallTime::from_utc(time::UtcDateTime::now())
}

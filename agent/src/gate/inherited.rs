//! What the guard tells of columns that inherit labels, kept by the service; and what the guard is told of that.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use super::{Gate, admission::Job, approvals::now};
use crate::{
    event::{Access, ConnectionId, Facts, Heir, Lane, Record, in_full},
    guard::wire::{self, Order},
    inheritance::{InheritanceError, Inherited, Place},
};

/// Statements past the guard that wait to be told of.
const MAX_RAN: usize = 1_000;

impl Gate {
    /// Before any client comes.
    pub(super) fn inherited(&self) -> Order {
        let mut all: BTreeMap<(usize, String), Vec<Heir>> = BTreeMap::new();
        for one in self.inheritance.list() {
            // One that isn't guarded now may be another time.
            if let Some(server) = self.place_of(&one.server) {
                all.entry((server, one.database.clone())).or_default().extend(one.heirs());
            }
        }
        let all = all.into_iter();
        let all =
            all.map(|((server, database), heirs)| wire::Inherited { server, database, heirs });
        Order::Inherited(all.collect())
    }

    fn place_of(&self, server: &str) -> Option<usize> {
        self.servers.iter().position(|one| one.name.as_deref() == Some(server))
    }

    pub(super) fn inherits(
        &self,
        server: usize,
        database: &str,
        connection: ConnectionId,
        statement: &str,
        heirs: Vec<Heir>,
    ) {
        let origin = {
            let mut state = self.state();
            let known = state.admitted.values().find(|who| who.connection == connection);
            let known = known.map(|who| who.origin.clone());
            known.or_else(|| state.departed.get(&connection).cloned()).unwrap_or_default()
        };
        let Some(place) = self.database(server, database) else { return };
        told(self.inheritance.add(place, heirs, statement, origin, now()));
    }

    pub(super) fn gone(&self, server: usize, database: &str, relations: &[u32]) {
        if let Some(place) = self.database(server, database) {
            told(self.inheritance.gone(place, relations));
        }
    }

    fn database<'a>(&'a self, server: usize, database: &'a str) -> Option<Place<'a>> {
        let server = self.servers.get(server)?.name.as_deref()?;
        Some(Place { server, database })
    }

    /// A statement has run: the guard is told of one that went past it and may have copied something.
    pub fn has_run(&self, record: &Record) {
        let Record { origin, text: Some(text), facts: Some(facts), .. } = record else { return };
        let is_past = origin.lane != Some(Lane::Guarded);
        if !is_past || record.error_code.is_some() || !may_copy(facts) {
            return;
        }
        let (Some(connection), Some(database)) = (origin.connection, &origin.database) else {
            return;
        };
        let server = origin.server.as_deref().and_then(|name| self.place_of(name));
        let is_guarded = |place: &usize| {
            self.servers.get(*place).is_some_and(|server| !server.lane.is_observe())
        };
        let Some(server) = server.filter(is_guarded) else { return };
        if !self.rules().1.as_ref().is_some_and(|set| set.masks()) {
            return;
        }
        if self.n_ran.fetch_add(1, Ordering::Relaxed) >= MAX_RAN {
            self.n_ran.fetch_sub(1, Ordering::Relaxed);
            tracing::error!("the guard is too slow to be told what may have been copied past it");
            return;
        }
        self.state().departed.put(connection, origin.clone());
        let (database, text) = (database.to_string(), text.clone());
        self.job(Job::Ran(Box::new(Order::Ran { server, database, connection, text })));
    }

    pub(super) fn tells_of(&self, order: &Order) {
        self.n_ran.fetch_sub(1, Ordering::Relaxed);
        let Some(channel) = self.state().channel.clone() else { return };
        if let Err(error) = channel.send(order, None) {
            tracing::debug!(%error, "the guard can't be told");
        }
    }

    /// Somebody has taken something back.
    pub fn disinherits(&self) {
        let mut all: BTreeMap<(usize, String), Vec<(u32, i16)>> = BTreeMap::new();
        for Inherited { server, database, relation, place, .. } in self.inheritance.forgotten() {
            if let Some(server) = self.place_of(&server) {
                all.entry((server, database)).or_default().push((relation, place));
            }
        }
        let Some(channel) = self.state().channel.clone() else { return };
        for ((server, database), columns) in all {
            let order = Order::Disinherited { server, database, columns };
            if let Err(error) = channel.send(&order, None) {
                // The next guard is told anew what there is.
                tracing::debug!(%error, "the guard can't be told");
            }
        }
    }
}

/// It writes, and not only what its client has said.
fn may_copy(facts: &Facts) -> bool {
    let writes = |access| matches!(access, Access::Insert | Access::Update | Access::Define);
    let mut written = facts.tables.iter().filter(|table| writes(table.access));
    let updates = facts.tables.iter().any(|table| table.access == Access::Update);
    written.next().is_some() && (facts.tables.len() > 1 || updates) || !facts.calls.is_empty()
}

fn told(outcome: Result<(), InheritanceError>) {
    if let Err(error) = outcome {
        tracing::error!("inherited labels: {}", in_full(&error));
    }
}

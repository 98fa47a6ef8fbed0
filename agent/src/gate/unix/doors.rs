//! The guard's sockets in the places of servers that have moved: opened and closed with guard and server.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    account::Account,
    keeper::Keeper,
    seat::{FileId, Seat, socket_of, stands},
};
use crate::{
    config::OnGuardDown,
    event::in_full,
    gate::{
        Gate, Target,
        listeners::{Accepting, Listening},
    },
    guard::wire::Channel,
};

/// By the servers' places in the settings; what can't be opened is told.
#[derive(Default)]
pub(in crate::gate) struct Doors {
    open: BTreeMap<usize, Door>,
}

struct Door {
    seat: Seat,
    file: FileId,
    server_pid: u32,
    channel: Arc<Channel>,
    /// Closed before anybody else is let in there.
    accepting: Option<Accepting>,
    /// Where clients may go straight on without a guard.
    keeper: Option<Keeper>,
}

impl Doors {
    /// Brings them up to date: where the servers are, and whether there is a guard.
    pub fn follow(&mut self, gate: &Arc<Gate>) {
        let (targets, channel, known) = {
            let state = gate.state();
            let channel = state.channel.clone().filter(|_| state.stands);
            (state.targets(), channel, state.sockets.clone())
        };
        let mut sockets = vec![None; gate.servers.len()];
        for (place, server) in gate.servers.iter().enumerate() {
            let Some(at) = server.guard_socket.as_ref().filter(|_| !server.lane.is_observe())
            else {
                continue;
            };
            let target = targets.get(place).cloned();
            let target = target.unwrap_or_else(|| Err("no such server".to_owned()));
            let outcome = match (&channel, target) {
                (Some(channel), Ok(target)) => self.keep_open(gate, place, at, &target, channel),
                (None, _) => Err("there is no guard yet".to_owned()),
                (_, Err(why)) => Err(why),
            };
            if outcome.is_err() {
                self.open.remove(&place);
            }
            if known.get(place).and_then(Option::as_ref) != Some(&outcome) {
                let (name, at) = (server.name.as_deref().unwrap_or_default(), at.display());
                match &outcome {
                    Ok(()) => tracing::info!(server = name, "the guard listens at {at}"),
                    Err(why) if channel.is_none() => tracing::info!(server = name, "{at}: {why}"),
                    Err(why) => tracing::error!(server = name, "no guard at {at}: {why}"),
                }
            }
            if let Some(socket) = sockets.get_mut(place) {
                *socket = Some(outcome);
            }
        }
        gate.state().sockets = sockets;
    }

    fn keep_open(
        &mut self,
        gate: &Arc<Gate>,
        place: usize,
        at: &Path,
        target: &Target,
        channel: &Arc<Channel>,
    ) -> Result<(), String> {
        let moved_to = target
            .socket
            .as_ref()
            .ok_or_else(|| format!("the server has no unix socket but {0}", at.display()))?;
        if self.open.get(&place).is_some_and(|door| {
            door.server_pid == target.pid
                && door.seat.moved_to == *moved_to
                && Arc::ptr_eq(&door.channel, channel)
                && stands(at, door.file)
        }) {
            return Ok(());
        }
        self.open.remove(&place);
        let may_be_missed = gate
            .servers
            .get(place)
            .is_some_and(|server| server.on_guard_down == OnGuardDown::Direct);
        let door = open(gate, place, at, moved_to, target.pid, channel, may_be_missed)?;
        self.open.insert(place, door);
        Ok(())
    }
}

fn open(
    gate: &Arc<Gate>,
    place: usize,
    at: &Path,
    moved_to: &Path,
    pid: u32,
    channel: &Arc<Channel>,
    may_be_missed: bool,
) -> Result<Door, String> {
    let in_words = |error: std::io::Error| error.to_string();
    let account = Account::of_process(pid).map_err(in_words)?;
    let like = File::from(socket_of(pid, moved_to).map_err(in_words)?);
    let like = like.metadata().map_err(in_words)?;
    let seat = Seat { at: PathBuf::from(at), moved_to: moved_to.to_owned(), account };
    let (socket, file) = seat.take(&like).map_err(|error| in_full(&error))?;
    let listening = vec![Listening::at_socket(place, socket)];
    let accepting = Accepting::start(gate, channel.clone(), listening).map_err(in_words)?;
    let keeper = match may_be_missed {
        true => Some(Keeper::start(&seat, file).map_err(in_words)?),
        false => None,
    };
    let channel = channel.clone();
    Ok(Door { seat, file, server_pid: pid, channel, accepting: Some(accepting), keeper })
}

impl Drop for Door {
    /// Without a guard its file refuses clients, or lets them go on.
    fn drop(&mut self) {
        self.accepting = None;
        if let Some(keeper) = self.keeper.take() {
            if let Err(error) = self.seat.give_way(self.file) {
                let at = self.seat.at.display();
                tracing::error!(%error, "clients of {at} can't be led to the server");
            }
            keeper.dismiss();
        }
    }
}

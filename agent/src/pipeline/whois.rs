//! Who somebody is, as the pipeline knows it at this moment.

use super::{connections::Connections, now, profile};
use crate::{
    control::{Identified, Question, Whois},
    event::{Client, Endpoint},
    identity::{Peer, ProcessTable},
    principal::Subject,
};

/// In one answer.
const MAX_FOUND: usize = 100;

pub fn whois(
    question: Question,
    connections: &mut Connections,
    processes: &mut ProcessTable,
) -> Whois {
    if let Question::Process { pid, uid } = question {
        let peer = Peer { pid, key: 0, at: now(), uid: Some(uid) };
        return Whois { found: unconnected(peer, connections, processes), more: 0 };
    }
    let (profiles, shared) = connections.profiles();
    let mut meant: Vec<_> = profiles
        .filter(|profile| match question {
            Question::Pid(pid) => matches!(profile.client(), Client::Local(p) if p.pid == pid),
            Question::Process { .. } => false,
            Question::Connection(id) => profile.id == id,
            Question::Address { address, port } => matches!(profile.remote,
                Endpoint::Ip { address: from, port: at }
                    if from.to_canonical() == address.to_canonical()
                        && port.is_none_or(|port| port == at)),
        })
        .collect();
    meant.sort_by_key(|profile| profile.id);
    let more = meant.len().saturating_sub(MAX_FOUND) as u64;
    let found: Vec<Identified> = meant
        .into_iter()
        .take(MAX_FOUND)
        .map(|profile| {
            let principal = profile.principal(&shared.rules);
            Identified::new(profile.origin(&shared.host, &shared.rules), principal)
        })
        .collect();
    if let (true, Question::Pid(pid)) = (found.is_empty(), question) {
        let peer = Peer { pid, key: 0, at: now(), uid: None };
        return Whois { found: unconnected(peer, connections, processes), more: 0 };
    }
    Whois { found, more }
}

fn unconnected(
    peer: Peer,
    connections: &mut Connections,
    processes: &mut ProcessTable,
) -> Vec<Identified> {
    let shared = &connections.shared;
    let process = processes.resolve(peer, shared.clock);
    let found = process.map(|process| {
        let client = Client::Local(process.clone());
        let principal = shared.rules.decide(&Subject::of_client(&client));
        let origin = profile::unconnected(&shared.host, &process, &principal);
        Identified::new(origin.into(), principal)
    });
    found.into_iter().collect()
}

//! Everything that the guard is told: its rules, and what becomes of those who want to get through.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use super::{
    Asked, Gate, Identified, Way,
    accounts::Accounts,
    certificate::Certificates,
    client_certificates,
    steering::{Caller, Lead},
};
use crate::{
    event::{Client, Endpoint},
    guard::wire::{Admission, Number, Order, Refusal, Rules, Ticket, Wants},
};

pub(super) enum Job {
    /// Something that the guard judges by has changed, or the guard is new.
    Rules,
    /// The guard listens, or the servers have moved.
    Lead,
    Admit {
        asked: Asked,
        identified: Box<Identified>,
    },
    /// A socket for the guard's own questions.
    Catalog {
        ticket: Ticket,
        server: usize,
    },
    Refuse {
        number: Number,
        refusal: Refusal,
    },
    Stop,
}

/// How often the files of the servers' certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);

pub(super) fn start(
    gate: Arc<Gate>,
    jobs: Receiver<Job>,
    pins: &Path,
) -> io::Result<thread::JoinHandle<()>> {
    let mut lead = Lead::new(pins);
    thread::Builder::new().name("gate-admit".into()).spawn(move || {
        let mut certificates = Certificates::default();
        let mut accounts = Accounts::default();
        loop {
            match jobs.recv_timeout(LOOK) {
                Ok(Job::Rules) => {
                    rules(&gate, &mut certificates, &mut accounts);
                    client_certificates::look(&gate);
                    lead.follow(&gate);
                }
                Ok(Job::Lead) => lead.follow(&gate),
                Ok(Job::Admit { asked, identified }) => {
                    admit(&gate, &mut lead, asked, *identified);
                }
                Ok(Job::Catalog { ticket, server }) => catalog(&gate, &mut lead, ticket, server),
                Ok(Job::Refuse { number, refusal }) => refuse(&gate, number, refusal),
                Err(RecvTimeoutError::Timeout) => {
                    if certificates.have_changed(&gate) {
                        tracing::info!("a guarded server's certificate has changed");
                        rules(&gate, &mut certificates, &mut accounts);
                    } else if accounts.have_changed(&gate) {
                        tracing::info!("a password for a catalog has changed");
                        rules(&gate, &mut certificates, &mut accounts);
                    }
                    client_certificates::look(&gate);
                    // The host may have got another address.
                    lead.follow(&gate);
                }
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return lead.stop(&gate),
            }
        }
    })
}

fn rules(gate: &Gate, certificates: &mut Certificates, accounts: &mut Accounts) {
    let accounts = accounts.read(gate);
    let certificates = certificates.read(gate);
    let (channel, policies) = {
        let state = gate.state();
        (state.channel.clone(), state.policies.clone())
    };
    let (Some(channel), Some((policies, starter_pack))) = (channel, policies) else { return };
    let settings = gate.settings.clone();
    let rules = Rules { settings, policies, starter_pack, certificates, accounts };
    if let Err(error) = channel.send(&Order::Rules(Box::new(rules)), None) {
        tracing::error!(%error, "the guard's rules");
    }
}

fn refuse(gate: &Gate, number: Number, refusal: Refusal) {
    gate.figures.refused.fetch_add(1, Ordering::Relaxed);
    let channel = gate.state().channel.clone();
    if let Some(channel) = channel {
        // Without the guard, its client is gone as well.
        let _ = channel.send(&Order::Refused { number, refusal }, None);
    }
}

fn catalog(gate: &Gate, lead: &mut Lead, ticket: Ticket, server: usize) {
    let target = gate.state().targets.get(server).cloned();
    let connected = match target.unwrap_or_else(|| Err("there is no such server".to_owned())) {
        Ok(target) => {
            lead.connect(target.address, Caller::Here(None)).map_err(|error| error.to_string())
        }
        Err(why) => Err(why),
    };
    if let Ok(socket) = &connected
        && let (Ok(from), Ok(to)) = (socket.local_addr(), socket.peer_addr())
    {
        // Before anything is said on it: the server's first look at it tells the observer.
        gate.state().own.put(Way::new(gate.netns, from, to), ());
    }
    let channel = gate.state().channel.clone();
    let Some(channel) = channel else { return };
    let order = Order::CatalogSocket { ticket, refused: connected.as_ref().err().cloned() };
    // Without the guard, its question is gone as well.
    let _ = channel.send(&order, connected.as_ref().ok().map(AsFd::as_fd));
}

fn admit(gate: &Gate, lead: &mut Lead, asked: Asked, identified: Identified) {
    let Asked { number, target, wants, way, is_led, .. } = asked;
    let client = SocketAddr::from(way.from);
    let is_remote = matches!(identified.client, Client::Remote { .. });
    // As the client meant it: the server sees the address that it would have seen.
    let (to, caller) = match target.loopback(client.ip()) {
        Ok(to) if is_remote => (to, Caller::Network(client)),
        Err(why) if is_remote => return refuse(gate, number, Refusal::of_network(&why)),
        _ if is_led => {
            (SocketAddr::new(way.to.0, target.address.port()), Caller::Here(Some(client.ip())))
        }
        _ => {
            let keeps = !client.ip().is_loopback() && client.is_ipv4() == target.address.is_ipv4();
            (target.address, Caller::Here(keeps.then_some(client.ip())))
        }
    };
    let server = match lead.connect(to, caller) {
        Ok(server) => server,
        Err(error) if is_remote => {
            return refuse(gate, number, Refusal::of_network(&error.to_string()));
        }
        Err(error) => return refuse(gate, number, Refusal::unreachable(&error.to_string())),
    };
    let (Ok(from), Ok(to)) = (server.local_addr(), server.peer_addr()) else {
        return refuse(gate, number, Refusal::unreachable("it has hung up"));
    };
    let admitted_as = identified.clone();
    let Identified { connection, client, remote } = identified.clone();
    if matches!(wants, Wants::Session { .. }) {
        // Before anything is said on it: the server's first look at it tells the observer.
        gate.expect(Way::new(gate.netns, from, to), identified);
    }
    let channel = {
        let mut state = gate.state();
        // It may have left meanwhile.
        if state.clients.contains_key(&number) {
            state.admitted.insert(number, admitted_as);
        }
        state.channel.clone()
    };
    let Some(channel) = channel else { return };
    let local = Endpoint::Ip { address: to.ip(), port: to.port() };
    let admission = Admission { connection, server_name: target.name, local, remote, client };
    let admitted = Order::Admitted { number, admission: Box::new(admission) };
    let _ = channel.send(&admitted, Some(server.as_fd()));
}

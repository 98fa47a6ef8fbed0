//! Everything that the guard is told: its rules, and what becomes of those who want to get through.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Asked, Came, Gate, Identified, Target, Upstream, Way,
    accounts::Accounts,
    approvals,
    files::Files,
    steering::{Caller, Lead},
    unix::{Doors, Led, Queue, RETRY, Reached},
};
use crate::{
    event::{Client, Endpoint},
    guard::wire::{Admission, Number, Order, Refusal, Rules, Ticket},
};

pub(super) enum Job {
    /// Something that the guard judges by has changed, or the guard is new.
    Rules,
    /// Whether the ledger can be written has changed.
    Ledger,
    /// The guard listens, or the servers have moved.
    Lead,
    Admit {
        asked: Asked,
        identified: Box<Identified>,
    },
    /// People have decided, or time has.
    Approvals,
    /// Inherited labels were taken back.
    Labels,
    /// For the guard.
    Ran(Box<Order>),
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
    folder: &Path,
) -> io::Result<thread::JoinHandle<()>> {
    let (mut lead, mut led) = (Lead::new(pins), Led::new(folder, pins));
    thread::Builder::new().name("gate-admit".into()).spawn(move || {
        let (mut files, mut accounts) = (Files::default(), Accounts::default());
        let (mut doors, mut queue) = (Doors::default(), Queue::default());
        let mut next_look = Instant::now() + LOOK;
        loop {
            let pause = if queue.is_empty() { LOOK } else { RETRY };
            match jobs.recv_timeout(pause.min(next_look.saturating_duration_since(Instant::now())))
            {
                Ok(Job::Rules) => {
                    files.look(&gate);
                    rules(&gate, &files, &mut accounts);
                    follow(&gate, &mut lead, &mut doors, &mut led);
                }
                Ok(Job::Ledger) => ledger(&gate),
                Ok(Job::Approvals) => approvals::tell(&gate),
                Ok(Job::Labels) => gate.disinherits(),
                Ok(Job::Ran(order)) => gate.tells_of(&order),
                Ok(Job::Lead) => {
                    follow(&gate, &mut lead, &mut doors, &mut led);
                }
                Ok(Job::Admit { asked, identified }) => match asked.came.clone() {
                    Came::Tcp(way) => admit(&gate, &mut lead, asked, way, *identified),
                    Came::Unix(caller) => queue.push(asked, caller, *identified),
                },
                Ok(Job::Catalog { ticket, server }) => catalog(&gate, &mut lead, ticket, server),
                Ok(Job::Refuse { number, refusal }) => refuse(&gate, number, refusal),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= next_look => {
                    next_look = Instant::now() + LOOK;
                    if files.look(&gate) {
                        tracing::info!("a guarded server's certificate has changed");
                        rules(&gate, &files, &mut accounts);
                    } else if accounts.have_changed(&gate) {
                        tracing::info!("a password for a catalog has changed");
                        rules(&gate, &files, &mut accounts);
                    }
                    // The host may have got another address.
                    follow(&gate, &mut lead, &mut doors, &mut led);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    led.stop(&gate);
                    return lead.stop(&gate);
                }
            }
            for Reached { asked, identified, server } in queue.poll(&gate) {
                match server {
                    Ok(server) => {
                        let local = asked.target.end(&asked.came);
                        let_in(&gate, asked, identified, local, server.as_fd());
                    }
                    Err(error) => {
                        let refusal = Refusal::unreachable(&error.to_string());
                        refuse(&gate, asked.number, refusal);
                    }
                }
            }
        }
    })
}

/// Clients are led, by whichever way they come, to where the guard and the servers are now.
fn follow(gate: &Arc<Gate>, lead: &mut Lead, doors: &mut Doors, led: &mut Led) {
    lead.follow(gate);
    doors.follow(gate);
    led.follow(gate);
}

fn rules(gate: &Gate, files: &Files, accounts: &mut Accounts) {
    let accounts = accounts.read(gate);
    let certificates = files.certificates();
    let (channel, policies) = {
        let state = gate.state();
        (state.channel.clone(), state.policies.clone())
    };
    let (Some(channel), Some((policies, starter_pack))) = (channel, policies) else { return };
    let settings = gate.settings.clone();
    let mask_key = gate.mask_key.clone();
    let rules = Rules { settings, policies, starter_pack, certificates, accounts, mask_key };
    if let Err(error) = channel.send(&Order::Rules(Box::new(rules)), None) {
        tracing::error!(%error, "the guard's rules");
    }
    drop(channel);
    // A guard that has just started knows nothing of it.
    ledger(gate);
}

fn ledger(gate: &Gate) {
    let (channel, down) = {
        let state = gate.state();
        (state.channel.clone(), state.ledger_down.clone())
    };
    if let Some(channel) = channel {
        // Without the guard nobody has to know.
        let _ = channel.send(&Order::Ledger { down }, None);
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
        Ok(Target { address: None, .. }) => Err("the server listens on no TCP port".to_owned()),
        Ok(Target { address: Some(address), .. }) => {
            lead.connect(address, Caller::Here(None)).map_err(|error| error.to_string())
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

fn admit(gate: &Gate, lead: &mut Lead, asked: Asked, way: Way, identified: Identified) {
    let Asked { number, target, is_led, .. } = &asked;
    let (number, is_led) = (*number, *is_led);
    let Some(address) = target.address else {
        return refuse(gate, number, Refusal::unreachable("the server listens on no TCP port"));
    };
    let client = SocketAddr::from(way.from);
    let is_remote = matches!(identified.client, Client::Remote { .. });
    // As the client meant it: the server sees the address that it would have seen.
    let (to, caller) = match target.loopback(client.ip()) {
        Ok(to) if is_remote => (to, Caller::Network(client)),
        Err(why) if is_remote => return refuse(gate, number, Refusal::of_network(&why)),
        _ if is_led => (SocketAddr::new(way.to.0, address.port()), Caller::Here(Some(client.ip()))),
        _ => {
            let keeps = !client.ip().is_loopback() && client.is_ipv4() == address.is_ipv4();
            (address, Caller::Here(keeps.then_some(client.ip())))
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
    let local = Endpoint::Ip { address: to.ip(), port: to.port() };
    if asked.wants.is_session() {
        // Before anything is said on it: the server's first look at it tells the observer.
        gate.expect(Upstream::Tcp(Way::new(gate.netns, from, to)), identified.clone());
    }
    let_in(gate, asked, identified, local, server.as_fd());
}

/// With a socket that leads to the server.
fn let_in(
    gate: &Gate,
    asked: Asked,
    identified: Identified,
    local: Endpoint,
    server: BorrowedFd<'_>,
) {
    let Asked { number, target, .. } = asked;
    if !identified.is_judged {
        gate.figures.unjudged.fetch_add(1, Ordering::Relaxed);
    }
    let admitted_as = identified.clone();
    let Identified { connection, client, remote, is_judged, .. } = identified;
    let channel = {
        let mut state = gate.state();
        // It may have left meanwhile.
        if state.clients.contains_key(&number) {
            state.admitted.insert(number, admitted_as);
        }
        state.channel.clone()
    };
    let Some(channel) = channel else { return };
    let server_name = target.name;
    let admission = Admission { connection, server_name, local, remote, client, is_judged };
    let admitted = Order::Admitted { number, admission: Box::new(admission) };
    let _ = channel.send(&admitted, Some(server));
}

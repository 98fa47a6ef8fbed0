//! The guard's process: started, listened to, started again.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Arrived, Asked, Gate, admission::Job, listeners::Listeners};
use crate::guard::wire::{Channel, Refusal, Wants, Word};

/// Between a guard's end and the next one's start; doubles with each that fails, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A guard that has lived so long did not fail at its start.
const PROVEN: Duration = Duration::from_secs(30);
/// For a guard whose channel is closed to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// The guard dies with the thread that starts it, so this one lives as long as the service.
pub(super) fn start(gate: Arc<Gate>) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("gate-guard".into()).spawn(move || {
        let mut pause = SHORTEST_PAUSE;
        while !gate.is_stopping() {
            let started = Instant::now();
            if let Err(error) = keep_one(&gate) {
                tracing::error!(%error, "the guard");
            }
            let mut state = gate.state();
            (state.channel, state.stands) = (None, false);
            drop(state);
            gate.job(Job::Lead);
            if gate.is_stopping() {
                return;
            }
            if started.elapsed() > PROVEN {
                pause = SHORTEST_PAUSE;
            }
            tracing::error!(
                "the guard has ended: nobody gets to a guarded server until the next one stands"
            );
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    })
}

/// Starts a guard and serves it until it ends.
fn keep_one(gate: &Arc<Gate>) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new("/proc/self/exe")
        .arg("guard")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()?;
    gate.figures.starts.fetch_add(1, Ordering::Relaxed);
    let channel = Arc::new(Channel::new(ours));
    gate.state().channel = Some(channel.clone());
    // Between the look above and here somebody may have asked for the end.
    if gate.is_stopping() {
        channel.close();
    }
    if let Err(error) = channel.send(&gate.inherited(), None) {
        tracing::error!(%error, "the guard can't be told of inherited labels");
        channel.close();
    }
    gate.job(Job::Rules);
    let outcome = listen(gate, &channel);
    channel.close();
    gate.ends_approvals("the guard has ended");
    {
        let mut state = gate.state();
        state.clients.clear();
        state.admitted.clear();
        state.catalogs.clear();
    }
    end(&mut child)?;
    outcome
}

fn listen(gate: &Arc<Gate>, channel: &Arc<Channel>) -> io::Result<()> {
    let mut listeners = None;
    while let Some((word, _)) = channel.receive::<Word>()? {
        match word {
            Word::Ready { taken, problem, unusable } => {
                if let Some(problem) = &problem {
                    let how = if taken { "" } else { "its newest rules are not taken, " };
                    tracing::error!("the guard: {how}{problem}");
                }
                {
                    let mut state = gate.state();
                    state.problem = problem;
                    if taken {
                        state.unusable = unusable.into_iter().collect();
                    }
                }
                if taken && listeners.is_none() {
                    listeners = Some(Listeners::open(gate, channel.clone())?);
                    gate.state().stands = true;
                    tracing::info!("the guard stands");
                }
                gate.job(Job::Lead);
            }
            Word::Arrived { number, wants } => arrived(gate, number, wants),
            Word::Denied(denied) => {
                gate.figures.denied.fetch_add(1, Ordering::Relaxed);
                gate.deny(*denied);
            }
            Word::Approval(ask) => gate.wants_approval(*ask),
            Word::ApprovalOver { number, why } => gate.approval_is_over(number, why),
            Word::Veiled(connection) => gate.masked.veil(connection),
            Word::Masked(masked) => gate.masked.put(*masked),
            Word::Nulled(nulled) => gate.masked.put_nulled(*nulled),
            Word::Summed(summed) => gate.summed.push(&summed),
            Word::CatalogSocket { ticket, server } => gate.wanted(ticket, server),
            Word::Catalog { server, state } => gate.catalog(server, state),
            Word::Inherited { server, database, connection, statement, heirs } => {
                gate.inherits(server, &database, connection, &statement, heirs);
            }
            Word::Gone { server, database, relations } => gate.gone(server, &database, &relations),
            Word::Lacks { server, database, lacks } => gate.lacks(server, database, lacks),
            Word::Ended { number, passed, sent, broken } => {
                gate.figures.passed.fetch_add(passed, Ordering::Relaxed);
                gate.ended(number, sent, broken);
            }
        }
    }
    Ok(())
}

fn arrived(gate: &Gate, number: u64, wants: Wants) {
    let state = gate.state();
    let Some(client) = state.clients.get(&number).cloned() else { return };
    let target = state.targets().into_iter().nth(client.server);
    drop(state);
    match target.unwrap_or_else(|| Err("no such server".to_owned())) {
        Ok(target) => {
            let Arrived { server, came, is_led } = client;
            gate.ask(Asked { number, server, target, came, is_led, wants });
        }
        Err(why) => gate.job(Job::Refuse { number, refusal: Refusal::unreachable(&why) }),
    }
}

/// It ends by itself when its channel is closed; one that doesn't is ended.
fn end(child: &mut Child) -> io::Result<()> {
    let until = Instant::now() + GRACE;
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                tracing::error!("the guard has ended with {status}");
            }
            return Ok(());
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

//! What the pipeline knows that the guard needs: who a client is, where the servers are, what a denied row means.

use std::sync::Arc;

use super::{
    connections::Connections, now, profile::Profile, record::connection_row, servers::ServerFacts,
};
use crate::{
    approval::Desk,
    capture::Ends,
    enforce::Quarantine,
    event::{
        BootTime, Client, Endpoint, Entry, Finding, Judgement, Lane, Record, Severity, Verdict,
        WallTime,
    },
    gate::{Asked, BrokenOff, Came, Gate, Identified},
    guard::{
        masking::{NULLED, TextPrint},
        session::POISON,
        wire::{Refusal, Wants},
    },
    identity::{Peer, ProcessTable},
};

/// Says of those who have waited at the gate who they are. What the kernel side has told until they were taken
/// must have been applied: their connects are in it.
pub fn identify(
    waiting: Vec<Asked>,
    connections: &mut Connections,
    processes: &mut ProcessTable,
    quarantine: &Quarantine,
    facts: impl Fn(&str) -> Option<std::rc::Rc<ServerFacts>>,
) {
    let Some(gate) = connections.shared.gate.clone() else { return };
    for asked in waiting {
        let outcome = match facts(&asked.target.name) {
            Some(server) => who(&asked, server, connections, processes, quarantine),
            None => Err(Refusal::unreachable("it has gone")),
        };
        gate.answer(asked, outcome);
    }
}

fn who(
    asked: &Asked,
    server: std::rc::Rc<ServerFacts>,
    connections: &mut Connections,
    processes: &mut ProcessTable,
    quarantine: &Quarantine,
) -> Result<Identified, Refusal> {
    let (client, remote) = whoever(&asked.came, connections, processes);
    if let Came::Tcp(way) = &asked.came {
        let is_servers = asked.target.address.is_some_and(|at| way.to.1 == at.port());
        if matches!(client, Client::Remote { .. }) && asked.is_led && !is_servers {
            // Nobody has led it there, and who may reach the server's port is not who may reach this one.
            return Err(Refusal::of_network(
                "This port of the guard's is for clients that are led to it.",
            ));
        }
    }
    let shared = &mut connections.shared;
    let connection = shared.new_id(now());
    let Wants::Session { user, database, application, encrypted } = &asked.wants else {
        let origin = Arc::default();
        return Ok(Identified { connection, client, remote, is_judged: true, origin });
    };
    // Whoever has come to the guard's own address wants to be guarded; nobody else could come to its socket.
    let is_choice = !asked.is_led && matches!(asked.came, Came::Tcp(_));
    let is_judged = is_choice || !shared.goes_straight(&server, &client, &remote, now());
    if let (Client::Local(process), Some(lanes), false) = (&client, &mut shared.lanes, is_judged) {
        lanes.learn(&server, process);
    }
    let local = asked.target.end(&asked.came);
    let mut profile =
        Profile::new(connection, server, local, remote.clone(), client.clone(), None).guarded();
    profile.started(now(), user, database, application);
    if *encrypted {
        profile.encryption_started();
    }
    let origin = profile.origin(&shared.host, &shared.rules);
    match quarantine.holds(&origin, shared.clock.wall(now())) {
        None => Ok(Identified { connection, client, remote, is_judged, origin }),
        Some(held) => Err(Refusal {
            code: "28000".to_owned(),
            message: format!("dbwarden: {} is in quarantine until {}", held.who, held.until),
            detail: Some(format!("Quarantine {}: {}", held.number, held.reason)),
            hint: Some(format!(
                "Ask whoever runs dbwarden on this host: `dbwarden quarantine release {}`.",
                held.number
            )),
        }),
    }
}

/// The client that has come to the guard so, and its end.
fn whoever(
    came: &Came,
    connections: &mut Connections,
    processes: &mut ProcessTable,
) -> (Client, Endpoint) {
    match came {
        Came::Tcp(way) => {
            let (address, port) = way.from;
            // As the guard's end has it.
            let ends = Ends { local: way.to, remote: way.from };
            let client = connections.client_at(way.netns, ends, processes);
            (client, Endpoint::Ip { address, port })
        }
        Came::Unix(caller) => {
            let since = u64::try_from(caller.accepted.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let at = BootTime(now().0.saturating_sub(since));
            let peer = Peer { pid: caller.pid, key: 0, at, uid: Some(caller.uid) };
            let process = processes.resolve(peer, connections.shared.clock);
            let process = process.filter(|_| !caller.is_replaced());
            let client = process.map_or(Client::LocalUnknown, Client::Local);
            (client, Endpoint::Unix { path: None })
        }
    }
}

/// Makes rows of the sessions that broke off.
pub fn break_off(
    connections: &mut Connections,
    processes: &mut ProcessTable,
    facts: impl Fn(&str) -> Option<std::rc::Rc<ServerFacts>>,
) {
    let Some(gate) = connections.shared.gate.clone() else { return };
    let (broken, uncounted) = gate.take_broken();
    for (left, BrokenOff { target, came, who, why }) in (0..broken.len()).rev().zip(broken) {
        let Some(target) = target else { continue };
        let Some(server) = facts(&target.name) else { continue };
        let (connection, client, remote) = match who {
            Some(Identified { connection, client, remote, .. }) => (connection, client, remote),
            None => {
                let (client, remote) = whoever(&came, connections, processes);
                (connections.shared.new_id(now()), client, remote)
            }
        };
        let shared = &mut connections.shared;
        let local = target.end(&came);
        let mut profile = Profile::new(connection, server, local, remote, client, None).guarded();
        let mut row = connection_row(shared, &mut profile, now(), "broken");
        row.message = Some(why);
        if left == 0 && uncounted > 0 {
            row.counts.push(("others".into(), uncounted));
        }
        shared.outbox.push(Entry::Occurrence(row));
    }
}

/// A statement that an approval has let pass.
pub fn approved(desk: &Desk, record: &mut Record, now: WallTime) -> Option<Arc<Judgement>> {
    if record.origin.lane != Some(Lane::Guarded) {
        return None;
    }
    let (id, judgement) = desk.ran(record, now)?;
    record.approval = Some(id);
    Some(judgement)
}

/// What the guard has masked in the answer to a statement.
pub fn masked(gate: &Gate, record: &mut Record) {
    let Some(connection) = record.origin.connection else { return };
    if record.origin.lane != Some(Lane::Guarded) || !gate.is_veiled(connection) {
        return;
    }
    let Some(text) = record.text.as_deref() else { return };
    let print = TextPrint::of(text);
    let nulled = text.contains(NULLED).then(|| gate.nulled(connection, print)).flatten();
    let has_answer = record.rows.is_some_and(|rows| rows > 0);
    record.masked = gate.masked(connection, print, has_answer);
    if let Some(nulled) = nulled {
        // Who looks for what the client has said finds that.
        record.text = Some(nulled.said.as_str().into());
        record.masked = record.masked.iter().chain(&*nulled.columns).cloned().collect();
    }
}

/// A statement that the guard has denied, in the place of what the server got for it.
pub fn unveil(gate: &Gate, record: &mut Record) -> Option<Arc<Judgement>> {
    let text = record.text.as_deref().filter(|text| text.starts_with(POISON))?;
    if record.origin.lane != Some(Lane::Guarded) {
        return None;
    }
    let denied = gate.denied(text.split(' ').next().unwrap_or_default())?;
    let denial = &denied.denial;
    record.text = denied.text.as_deref().map(Into::into);
    if record.error_code.is_some() {
        record.error_code = Some(denial.code.to_string());
        record.error_message = Some(denial.message.to_string());
    }
    let link = denial.approval.as_ref();
    record.approval = link.map(|link| link.id.clone());
    let verdict = link.map_or(Verdict::Deny, |link| link.verdict);
    Some(Arc::new(Judgement {
        verdict,
        rule: Some(denial.rule.clone()),
        findings: vec![Finding {
            rule: denial.rule.clone(),
            verdict,
            severity: Severity::High,
            message: denial.message.clone(),
            dry_run: false,
        }],
    }))
}

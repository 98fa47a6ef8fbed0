//! The kernel side alone, and what it says: connections, bytes by position, processes.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use dbwarden::{
    capture::{Capture, CaptureSettings, Control, Opened},
    config::HookChoice,
    event::{Direction, Layer, ProcessEvent, SocketId},
};
use dbwarden_common::{Counter, Drop as Reason, Tracked};
use dbwarden_tests::await_until;

pub const SERVER: u32 = 7;
pub const BOTH: [HookChoice; 2] = [HookChoice::TpBtf, HookChoice::Syscalls];
pub const EVERYTHING: u32 = 4 << 20;

/// More than any test moves between two looks, and every byte of a call.
pub fn everything(hooks: HookChoice) -> CaptureSettings {
    CaptureSettings {
        hooks,
        ring_bytes: 32 << 20,
        control_ring_bytes: 4 << 20,
        request_bytes: EVERYTHING,
        response_head_bytes: EVERYTHING,
        response_tail_bytes: 0,
        bpf_log: false,
    }
}

/// The kernel side, and what it has said so far.
pub struct Watched {
    pub capture: Capture,
    pub seen: Seen,
    pub settings: CaptureSettings,
}

#[derive(Default)]
pub struct Seen {
    pub flows: HashMap<(SocketId, Direction, Layer), Flow>,
    pub opened: Vec<Opened>,
    /// Socket, whether it is gone, bytes dropped.
    pub closed: Vec<(SocketId, bool, u64)>,
    pub clients: Vec<(u32, u16)>,
    pub lives: Vec<Life>,
}

#[derive(Debug, PartialEq)]
pub enum Life {
    Fork { parent: u32, child: u32 },
    Exec { pid: u32, filename: String, args: String },
    Exit { pid: u32 },
}

/// One direction of one connection in one layer.
#[derive(Default)]
pub struct Flow {
    pub parts: Vec<(u64, Vec<u8>)>,
    pub dropped: u64,
}

impl Watched {
    pub fn start(settings: CaptureSettings) -> Result<Watched> {
        Ok(Watched { capture: Capture::start(&settings)?, seen: Seen::default(), settings })
    }

    pub fn track(&mut self, pid: u32) -> Result<()> {
        Ok(self.capture.track(pid, Tracked { server: SERVER, flags: 0 })?)
    }

    /// Takes all records that are there: those of a system call are, once it has returned.
    pub fn look(&mut self) -> Result<&mut Seen> {
        let seen = &mut self.seen;
        let mut errors = Vec::new();
        self.capture.control().drain(|record| match record {
            Ok(record) => seen.control(record),
            Err(error) => errors.push(error),
        });
        self.capture.drain_data(usize::MAX, |record, _| match record {
            Ok(record) => {
                let chunk = record.chunk;
                let flow = seen.flows.entry((record.socket, chunk.direction, chunk.layer));
                let flow = flow.or_default();
                flow.dropped = flow.dropped.max(chunk.dropped_total);
                flow.parts.push((chunk.position, chunk.bytes.to_vec()));
            }
            Err(error) => errors.push(error),
        });
        ensure!(errors.is_empty(), "{errors:?}");
        Ok(seen)
    }

    pub fn lost(&self, reason: Reason) -> Counter {
        let drops = self.capture.drops();
        drops.iter().find(|(one, _)| *one == reason).map(|(_, count)| *count).unwrap_or_default()
    }

    /// Which parts of a call of `len` bytes are copied.
    pub fn kept(&self, direction: Direction, len: u64) -> Vec<(u64, u64)> {
        let (head, tail) = match direction {
            Direction::Request => (self.settings.request_bytes.into(), 0),
            Direction::Response => (
                self.settings.response_head_bytes.into(),
                u64::from(self.settings.response_tail_bytes),
            ),
        };
        let head = len.min(head);
        vec![(0, head), (len.saturating_sub(tail).max(head), len)]
    }
}

impl Seen {
    pub fn control(&mut self, record: Control<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match record {
            Control::Opened(opened) => self.opened.push(*opened),
            Control::Closed { socket, gone, extent, .. } => {
                let dropped = extent.as_flattened().iter().map(|reach| reach.dropped).sum();
                self.closed.push((socket, gone, dropped));
            }
            Control::Connected(client) => self.clients.push((client.pid, client.ends.local.1)),
            Control::Process(ProcessEvent::Fork { parent, child, .. }) => {
                self.lives.push(Life::Fork { parent, child });
            }
            Control::Process(ProcessEvent::Exec { pid, filename, args, .. }) => {
                self.lives.push(Life::Exec { pid, filename: text(filename), args: text(args) });
            }
            Control::Process(ProcessEvent::Exit { pid, .. }) => self.lives.push(Life::Exit { pid }),
            Control::Listening { .. } | Control::Certificate { .. } => {}
        }
    }

    /// Runs of bytes without a gap, by position; an overlap is an error.
    pub fn runs(
        &self,
        socket: SocketId,
        direction: Direction,
        layer: Layer,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        let Some(flow) = self.flows.get(&(socket, direction, layer)) else { return Ok(Vec::new()) };
        let mut parts: Vec<_> = flow.parts.iter().collect();
        parts.sort_by_key(|(position, _)| *position);
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (position, bytes) in parts {
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == *position => run.extend(bytes),
                Some((start, run)) if *start + run.len() as u64 > *position => {
                    anyhow::bail!("{direction:?} bytes at {position} were reported twice")
                }
                _ => runs.push((*position, bytes.clone())),
            }
        }
        Ok(runs)
    }
}

/// The newest connection that a client opened.
pub fn newest(watched: &mut Watched) -> Result<Opened> {
    let opened = watched.look()?.opened.last();
    opened.cloned().context("no connection was reported")
}

pub fn await_life(watched: &mut Watched, life: &Life) -> Result<()> {
    await_until(&format!("{life:?}"), || Ok(watched.look()?.lives.contains(life).then_some(())))
}

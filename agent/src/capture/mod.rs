//! The kernel side seen from the agent: loads and feeds the BPF programs, and reads what they send.
//!
//! The only room that names aya.

mod hooks;
mod load;
mod offsets;
mod records;
mod refusal;
pub mod steer;
mod tls;
mod trial;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
};
use dbwarden_common::{
    Connection, Counter, Drop as DropReason, ListenerKey, TRACKED_PROGRAM, Tracked,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    config::HookChoice,
    event::{Extent, SocketId},
};

pub use self::{
    hooks::Hooks,
    load::{LoadError, object_bytes},
    offsets::OffsetsError,
    records::{Connected, Control, DataRecord, Ends, Opened, RecordError},
    tls::{TlsLibrary, TlsProbeError},
    trial::{Attached, Outcome, ProgramSet, Refused, Tried, trial},
};

/// A table of the kernel side could not be changed.
pub use aya::maps::MapError as TableError;

/// How many unverified or verified servers can be told apart at once (the size of the quota map).
pub const MAX_SERVERS: u32 = 256;

/// What the BPF programs are loaded with.
#[derive(Clone, Debug)]
pub struct CaptureSettings {
    pub hooks: HookChoice,
    /// Powers of two, whole pages.
    pub ring_bytes: u32,
    pub control_ring_bytes: u32,
    /// Bytes of one call that are copied.
    pub request_bytes: u32,
    pub response_head_bytes: u32,
    pub response_tail_bytes: u32,
    /// Let the BPF programs log for debugging.
    pub bpf_log: bool,
}

/// The loaded and attached programs. Dropping it detaches everything.
pub struct Capture {
    ebpf: Ebpf,
    hooks: Hooks,
    data: RingBuf<MapData>,
    control: ControlRing,
    tracked: HashMap<MapData, u32, Tracked>,
    listeners: HashMap<MapData, ListenerKey, u32>,
    connections: HashMap<MapData, u64, Connection>,
    counters: PerCpuArray<MapData, Counter>,
    quota: Array<MapData, u64>,
    asleep: Array<MapData, u32>,
    tls: tls::Probes,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Capture {
    /// Loads and attaches all programs.
    ///
    /// # Errors
    /// What this host lacks, and what to do about it.
    pub fn start(settings: &CaptureSettings) -> Result<Self, LoadError> {
        load::start(settings)
    }

    /// Which hooks see the bytes, and why not better ones.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// Counts a process as one of a server's; its children follow by themselves. What the kernel side
    /// has learnt of a process that is tracked already stays, unless it was taken for a program that a
    /// server runs.
    pub fn track(&mut self, pid: u32, tracked: Tracked) -> Result<(), TableError> {
        const BPF_ANY: u64 = 0;
        match self.tracked.get(&pid, 0) {
            Ok(known) if known.flags & TRACKED_PROGRAM == 0 => Ok(()),
            _ => self.tracked.insert(pid, tracked, BPF_ANY),
        }
    }

    /// Forgets a process.
    pub fn untrack(&mut self, pid: u32) -> Result<(), TableError> {
        ignore_missing(self.tracked.remove(&pid))
    }

    /// The tracked processes of one server.
    pub fn tracked_pids(&self, server: u32) -> Vec<u32> {
        self.tracked
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, tracked)| tracked.server == server)
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Makes connects to a port known, and accepted sockets on it a database's.
    pub fn listen(&mut self, netns: u32, port: u16, server: u32) -> Result<(), MapError> {
        self.listeners.insert(ListenerKey { netns, port: port.into() }, server, 0)
    }

    pub fn unlisten(&mut self, netns: u32, port: u16) -> Result<(), TableError> {
        ignore_missing(self.listeners.remove(&ListenerKey { netns, port: port.into() }))
    }

    /// How far a connection has come, while the kernel side still knows it.
    pub fn extent(&self, socket: SocketId) -> Option<Extent> {
        let known = self.connections.get(&socket.sock, 0).ok()?;
        (known.cookie == socket.cookie).then(|| records::extent(known.position, known.dropped))
    }

    /// Sets how many bytes an unverified server may still have copied.
    pub fn refill_quota(&mut self, server: u32, bytes: u64) -> Result<(), MapError> {
        self.quota.set(server, bytes, 0)
    }

    /// Attaches the TLS probes to a library, once for each inode.
    pub fn watch_tls(&mut self, library: &TlsLibrary) -> Result<(), TlsProbeError> {
        self.tls.attach(&mut self.ebpf, library)
    }

    /// What was not delivered so far, by reason.
    pub fn drops(&self) -> Vec<(DropReason, Counter)> {
        let sum = |reason: DropReason| {
            let mut total = Counter::default();
            for one in self.counters.get(&(reason as u32), 0).iter().flat_map(|cpus| cpus.iter()) {
                total.events += one.events;
                total.bytes += one.bytes;
            }
            (reason, total)
        };
        DropReason::ALL.into_iter().map(sum).collect()
    }

    /// The ring of control records.
    pub fn control(&mut self) -> &mut ControlRing {
        &mut self.control
    }

    /// Takes up to `max` data records. `sink` can look at the control ring in between.
    pub fn drain_data(
        &mut self,
        max: usize,
        mut sink: impl FnMut(Result<DataRecord<'_>, RecordError>, &mut ControlRing),
    ) -> Drained {
        let mut drained = Drained::default();
        while drained.records < max {
            let Some(item) = self.data.next() else { break };
            sink(records::data(&item), &mut self.control);
            drained.add(item.len());
        }
        drained
    }

    /// Waits until the kernel side has something, one of `wakers` becomes readable, or the time is over.
    pub fn sleep(&mut self, wakers: [Option<BorrowedFd<'_>>; 2], most: Duration) {
        // From here on the next record wakes us; one that came in between is found at once.
        if self.asleep.set(0, 1, 0).is_err() {
            std::thread::sleep(Duration::from_millis(1));
            return;
        }
        let timeout = PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO);
        let (data, control) = (self.data.as_fd(), self.control.ring.as_fd());
        let [one, other] = wakers.map(|waker| waker.unwrap_or(data));
        let mut fds = [data, control, one, other].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // An interrupted or failed poll is a short sleep.
        let _ = poll(&mut fds, timeout);
        let _ = self.asleep.set(0, 0, 0);
    }

    /// Hands the BPF programs' own log lines to `tracing`.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

/// What was taken from a ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drained {
    pub records: usize,
    pub bytes: usize,
}

impl Drained {
    fn add(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes;
    }
}

impl std::ops::AddAssign for Drained {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Control records, oldest first.
pub struct ControlRing {
    ring: RingBuf<MapData>,
    scratch: Vec<u8>,
}

impl ControlRing {
    /// Takes all that are there.
    pub fn drain(&mut self, mut sink: impl FnMut(Result<Control<'_>, RecordError>)) -> Drained {
        let mut drained = Drained::default();
        while let Some(item) = self.ring.next() {
            sink(records::control(&item, &mut self.scratch));
            drained.add(item.len());
        }
        drained
    }
}

fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        // What aya says where the kernel is asked to remove it.
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

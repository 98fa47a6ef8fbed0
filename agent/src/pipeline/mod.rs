//! The only wiring: kernel records → processes, servers, connections → statements → whoever watches.
//!
//! One thread does all of it, in the order of the records. What may wait (procfs of strangers, control
//! clients) has threads of its own, which this one never waits for.

mod behind;
mod brakes;
mod connections;
mod coverage;
mod crosscheck;
mod destinations;
mod dialogue;
mod enforcing;
mod episodes;
mod figures;
mod guarding;
mod inheriting;
mod keeping;
mod lanes;
mod losses;
mod outbox;
pub(crate) mod places;
mod policing;
mod posting;
pub(crate) mod profile;
mod record;
mod recorder;
mod scout;
pub(crate) mod servers;
mod whois;

use std::{os::fd::AsFd as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use dbwarden_common::Drop;
use nix::time::{ClockId, clock_gettime};

pub use self::keeping::{Configuration, Mistake};
use self::{
    connections::{Connections, Shared},
    enforcing::Enforcing,
    keeping::Keeping,
    lanes::Ground,
    losses::Losses,
    outbox::outbox,
    policing::Policing,
    posting::Posting,
    recorder::{Judges, Recorder, Recording},
    servers::Servers,
};
use crate::{
    capture::{
        Capture, CaptureSettings, Control, ControlRing, DataRecord, Drained, Opened, RecordError,
    },
    config::{self, Settings},
    control::{self, Hub, Notice, Service, Snapshot},
    event::{BootTime, Clock, Entry, Occurrence, OccurrenceKind, Origin, WallTime},
    gate::Gate,
    identity::{Limits, ProcessTable, Procfs, Users},
    ledger::root_log,
    principal::Rules,
    telemetry::{Feed, Pace, Source, Telemetry},
    webhook::Webhooks,
};

/// Data records between two looks at the control ring and the clock.
const BATCH: usize = 4096;
/// How long to let records gather while there is traffic: a wake-up for each would cost more than it. The
/// default ring holds what a host of a few cores makes in ten times as long.
const GATHER: Duration = Duration::from_millis(5);
/// Turns without a record before waiting for the kernel side to say that there is one.
const PATIENCE: u32 = 3;
/// The longest wait: whoever asks for the status gets it within this time.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// How often losses are looked at, quotas refilled and the clock compared.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;
/// How often each server's coverage is told.
const COVERAGE_NS: u64 = 60_000_000_000;
/// For the pipeline to come by and say what it has counted; after that, what it said last has to do.
const FIGURES_PATIENCE: Duration = Duration::from_millis(500);
/// How often at most all of procfs is read because records were lost.
const CATCH_UP_NS: u64 = 10_000_000_000;

/// Captures on the calling thread until `service.shutdown`. `ready` is called once, when everything is
/// attached, with a sentence for `systemctl status`.
///
/// `source` is the file that the settings come from, if they come from one.
///
/// # Errors
/// What keeps this host from being watched, and [`Mistake`]s. A ledger that can't be kept doesn't: it
/// is tried again. What happens later is counted and told, and ends nothing.
pub fn run(
    settings: &Settings,
    source: Option<&Path>,
    service: &Arc<Service>,
    bpf_log: bool,
    ready: &dyn Fn(&str),
) -> Result<()> {
    let capture_settings = capture_settings(settings, bpf_log)?;
    let rules = Rules::new(&settings.principals).context("can't use the rules for principals")?;
    let mut capture = Capture::start(&capture_settings).context("can't watch this host")?;
    let procfs = Procfs::default();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let users = Users::with_name_service(&passwd, now());
    let mut processes = ProcessTable::new(Limits::default(), procfs.clone(), users);
    // After the probes: what starts meanwhile is told by records.
    processes.seed(now()).context("can't read the host's processes")?;

    let live = service.live.clone();
    let host = Arc::new(host(&settings.host));
    let keeping = match settings.ledger.enabled {
        true => {
            let configuration = Configuration::new(settings, source)
                .context("can't write the configuration as TOML")?;
            let (ledger, now) = (&settings.ledger, wall_time());
            Some(Keeping::start(ledger, host.clone(), configuration, now)?)
        }
        false => None,
    };
    let feed = match settings.telemetry.is_wanted() {
        true => Some(telemetry(settings, service, &host)?),
        false => None,
    };
    let telemetry = feed.as_ref().map(Feed::shared);
    let posting = match settings.webhooks.is_empty() {
        true => None,
        false => Some(
            Posting::start(&settings.webhooks, host.clone())
                .context("can't start the thread that posts to webhooks")?,
        ),
    };
    if posting.is_some() && !settings.policy.enabled {
        tracing::warn!("nothing is posted to any [[webhook]]: [policy] is not enabled");
    }
    let webhooks = posting.as_ref().map(Posting::shared);
    let is_wanted = keeping.is_some() || feed.is_some() || posting.is_some();
    let (mut outbox, inbox) = outbox(live.clone(), is_wanted);
    let mask_key = || crate::ledger::keys::mask_key(&settings.ledger.keys);
    let (gate, gate_threads) =
        Gate::open(settings, service.desk.clone(), service.inheritance.clone(), mask_key)?.unzip();
    let policing = match settings.policy.enabled {
        true => {
            let (reload, time) = (service.reload.clone(), clock().wall(now()));
            let (policing, told) =
                Policing::new(settings, host.clone(), reload, time, gate.clone())?;
            told.into_iter().for_each(|entry| outbox.push(entry));
            Some(policing)
        }
        false => None,
    };
    let enforcing = policing
        .is_some()
        .then(|| {
            let (book, host) = (service.quarantine.clone(), host.clone());
            Enforcing::new(&settings.enforce, book, live.clone(), host)
        })
        .transpose()
        .context("can't start the thread that ends connections")?;
    let desk = service.desk.clone();
    let inheritance = service.inheritance.clone();
    let judges = Judges { policing, enforcing, gate: gate.clone(), desk, inheritance };
    let recorder = Recorder::new(live.clone(), host.clone(), keeping, judges, feed, posting);
    let recording = recorder.start(inbox)?;
    let quarantine = service.quarantine.clone();
    let shared = Shared::new(host, rules, live.clone(), outbox, gate.clone(), quarantine);
    let mut state = State {
        processes,
        servers: Servers::new(settings, procfs, live.clone()),
        connections: Connections::new(shared),
        reaching: Vec::new(),
        live,
        decode_errors: 0,
        losses: Losses::default(),
        recording,
        telemetry,
        webhooks,
        control_lost: 0,
        next_catch_up: BootTime(0),
        next_housekeeping: BootTime(0),
        next_coverage: BootTime(now().0 + COVERAGE_NS),
        data_peak: 0,
        control_peak: 0,
        capture_settings,
    };
    state.connections.shared.clock = clock();
    state.servers.find_first(&mut capture, &mut state.connections, &mut state.processes);
    let summary = format!("watching {} by {}", state.servers.summary(), capture.hooks().name());
    let version = env!("CARGO_PKG_VERSION");
    state.tell(OccurrenceKind::Service, "started", format!("dbwarden {version} is {summary}"));
    ready(&summary);
    let mut idle = 0;
    while !service.shutdown.requested() {
        // What the kernel side has told before is applied by the turn.
        let waiting = gate.as_ref().map(|gate| gate.take_asked()).unwrap_or_default();
        let summed = gate.as_ref().map_or_else(|| Some(Vec::new()), |gate| gate.take_summed());
        let n = state.turn(&mut capture);
        state.connections.shared.cross_check.sent(summed);
        if service.status.wanted() {
            service.status.answer(state.snapshot(&capture));
        }
        for asked in service.questions.take() {
            let who = whois::whois(asked.question, &mut state.connections, &mut state.processes);
            asked.answer(who);
        }
        guarding::identify(
            waiting,
            &mut state.connections,
            &mut state.processes,
            &service.quarantine,
            |name| state.servers.named(name),
        );
        guarding::break_off(&mut state.connections, &mut state.processes, |name| {
            state.servers.named(name)
        });
        if n > 0 || state.servers.is_looking() {
            idle = 0;
            std::thread::sleep(GATHER);
        } else if idle < PATIENCE {
            idle += 1;
            std::thread::sleep(GATHER);
        } else {
            let due = state.servers.next_due().0.saturating_sub(now().0);
            let wait = LONGEST_WAIT.min(Duration::from_nanos(due));
            let waker = gate.as_ref().map(|gate| gate.as_fd());
            capture.sleep([Some(service.shutdown.as_fd()), waker], wait);
        }
    }
    // While what its sessions end with is still observed.
    if let Some(threads) = gate_threads {
        threads.stop();
    }
    state.end(&mut capture).join()
}

/// Begins to tell OpenTelemetry's backends what happens here.
fn telemetry(settings: &Settings, service: &Arc<Service>, host: &Arc<Origin>) -> Result<Feed> {
    let (ledger, service) = (&settings.ledger, service.clone());
    let source = Source {
        host: host.clone(),
        gather: Box::new(move || {
            let service = service.clone();
            Box::pin(async move {
                let (snapshot, _) = service.status.ask(FIGURES_PATIENCE).await;
                figures::metrics(&snapshot)
            })
        }),
        checkpoint: ledger
            .enabled
            .then(|| ledger.directory.join(root_log::FOLDER).join(root_log::CHECKPOINT)),
        now: wall_time(),
    };
    Telemetry::start(&settings.telemetry, source, Pace::default())
        .context("can't start the telemetry thread")
}

/// What every record says of this host.
pub(crate) fn host(settings: &config::Host) -> Origin {
    let known = |text: &Option<String>| text.as_deref().map(Into::into);
    Origin {
        host: settings.name.as_str().into(),
        environment: known(&settings.environment),
        region: known(&settings.region),
        ..Origin::default()
    }
}

fn capture_settings(settings: &Settings, bpf_log: bool) -> Result<CaptureSettings> {
    let capture = &settings.capture;
    let size = |size: crate::config::Size| {
        u32::try_from(size.0).context("a size of the configuration is larger than 4 GiB")
    };
    Ok(CaptureSettings {
        hooks: capture.hooks,
        ring_bytes: size(capture.ring_bytes)?,
        control_ring_bytes: size(capture.control_ring_bytes)?,
        request_bytes: size(capture.request_bytes)?,
        response_head_bytes: size(capture.response_head_bytes)?,
        response_tail_bytes: size(capture.response_tail_bytes)?,
        bpf_log,
    })
}

/// Everything between the rings and the watchers.
struct State {
    processes: ProcessTable,
    servers: Servers,
    connections: Connections,
    /// Connections that databases' processes have opened in this turn.
    reaching: Vec<Opened>,
    live: Arc<Hub>,
    decode_errors: u64,
    losses: Losses,
    recording: Recording,
    telemetry: Option<Arc<Telemetry>>,
    webhooks: Option<Arc<Webhooks>>,
    /// Control records that were lost when procfs was last read for it.
    control_lost: u64,
    next_catch_up: BootTime,
    next_housekeeping: BootTime,
    next_coverage: BootTime,
    data_peak: usize,
    control_peak: usize,
    capture_settings: CaptureSettings,
}

impl State {
    /// Takes what the rings have and does what is due; returns how many records there were.
    fn turn(&mut self, capture: &mut Capture) -> usize {
        // A connection's end may be told before its last bytes are read: it is dealt with once the
        // data ring, which was filled before, is empty.
        let mut control = capture.control().drain(|record| self.control(record));
        let ends = self.connections.take_ends();
        let mut data = Drained::default();
        loop {
            let batch = capture.drain_data(BATCH, |record, ring| self.data(record, ring));
            data += batch;
            if batch.records < BATCH {
                break;
            }
            control += capture.control().drain(|record| self.control(record));
        }
        if !ends.is_empty() {
            self.connections.measure(&ends, |socket| capture.extent(socket));
            // One that isn't known any more has been told of by now.
            control += capture.control().drain(|record| self.control(record));
        }
        // What their clients said before has been read by now, and none of them has ended yet.
        for opened in std::mem::take(&mut self.reaching) {
            self.servers.outbound(&opened, &mut self.connections, &mut self.processes);
        }
        self.connections.end(ends, now());
        self.connections.shared.outbox.flush();
        self.data_peak = self.data_peak.max(data.bytes);
        self.control_peak = self.control_peak.max(control.bytes);

        let now = now();
        self.servers.work(capture, now, &mut self.connections, &mut self.processes);
        for server in self.servers.take_new() {
            // What the server forked before it was tracked has been told by now.
            capture.control().drain(|record| self.control(record));
            self.servers.adopt(server, capture, &self.processes);
        }
        let Shared { lanes, host, rules, clock, .. } = &mut self.connections.shared;
        if let Some(lanes) = lanes {
            let ground = Ground { host, rules, clock: *clock, now };
            lanes.work(self.servers.by_policy(), &mut self.processes, &ground);
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = BootTime(now.0 + HOUSEKEEPING_NS);
            self.housekeeping(capture, now);
        }
        control.records + data.records
    }

    fn control(&mut self, record: Result<Control<'_>, RecordError>) {
        match record {
            Ok(Control::Process(event)) => {
                self.processes.apply(&event);
                self.servers.process(&event);
                self.connections.process(&event);
                if let Some(lanes) = &mut self.connections.shared.lanes {
                    lanes.process(&event);
                }
            }
            Ok(Control::Opened(opened)) if opened.inbound => {
                let server = self.servers.facts(opened.server);
                self.connections.open(&opened, server, &mut self.processes);
            }
            Ok(Control::Opened(opened)) => self.reaching.push(*opened),
            Ok(Control::Closed { socket, gone: true, extent, .. }) => {
                self.connections.closed(socket, extent);
            }
            // The client says no more; the socket's owner will follow, a pooler at once.
            Ok(Control::Closed { socket, extent, .. }) => {
                if self.connections.is_front(socket) {
                    self.connections.closed(socket, extent);
                }
            }
            Ok(Control::Connected(connected)) => self.connections.connected(connected),
            Ok(Control::Certificate { time, pid, common_name: Some(name) }) => {
                self.connections.certificate(pid, time, name);
            }
            Ok(Control::Certificate { common_name: None, .. }) => {
                tracing::warn!("the common name of a client's certificate is too long to be used");
            }
            Ok(Control::Listening { time, pid, .. }) => self.servers.listening(pid, time),
            Err(error) => self.undecodable(&error),
        }
    }

    fn data(&mut self, record: Result<DataRecord<'_>, RecordError>, ring: &mut ControlRing) {
        let record = match record {
            Ok(record) => record,
            Err(error) => return self.undecodable(&error),
        };
        if self.connections.data(&record) {
            return;
        }
        // Its opening was told first, but came after the last look at that ring.
        ring.drain(|record| self.control(record));
        if !self.connections.knows(record.socket)
            && let Some(server) = self.servers.facts(record.server)
        {
            self.connections.join(&record, server);
        }
        self.connections.data(&record);
    }

    fn undecodable(&mut self, error: &RecordError) {
        if self.decode_errors == 0 {
            tracing::warn!(%error, "a kernel record can't be read; further ones are only counted");
        }
        self.decode_errors += 1;
    }

    fn housekeeping(&mut self, capture: &mut Capture, now: BootTime) {
        self.connections.shared.clock = clock();
        self.connections.poll(now);
        self.servers.refill_quotas(capture);
        capture.flush_log();
        self.catch_up(capture, now);
        self.connections.cross_check(now);
        if now >= self.next_coverage {
            self.next_coverage = BootTime(now.0 + COVERAGE_NS);
            self.tell_coverage();
        }
        let time = self.connections.shared.clock.wall(now);
        if let Some(row) = self.losses.row(&capture.drops(), time, &self.connections.shared.host) {
            let message = row.message.clone().unwrap_or_default();
            tracing::warn!("{message}");
            // What an unverified server uses up is its own.
            if row.counts.iter().any(|(name, _)| !name.starts_with(Drop::Quota.name())) {
                self.connections.shared.poolers.unsure(now);
            }
            self.live.notice(|| Notice { time, notice: "lost", server: None, message });
            self.connections.shared.outbox.push(Entry::Occurrence(row));
        }
    }

    fn tell_coverage(&mut self) {
        let time = self.connections.shared.clock.wall(now());
        let shared = &mut self.connections.shared;
        for row in self.servers.coverage(time, &shared.host) {
            shared.outbox.push(row);
        }
    }

    /// A row about the agent itself.
    fn tell(&mut self, kind: OccurrenceKind, action: &'static str, message: String) {
        let shared = &mut self.connections.shared;
        shared.outbox.push(Entry::Occurrence(Occurrence {
            time: shared.clock.wall(now()),
            kind,
            action,
            origin: shared.host.clone(),
            message: Some(message),
            counts: Vec::new(),
        }));
    }

    /// The last words: what was captured before the end is still said.
    fn end(mut self, capture: &mut Capture) -> Recording {
        while self.turn(capture) > 0 {}
        self.connections.close_all(now());
        self.tell_coverage();
        let version = env!("CARGO_PKG_VERSION");
        self.tell(OccurrenceKind::Service, "stopped", format!("dbwarden {version} stops"));
        self.connections.shared.outbox.flush();
        // With its outbox goes what the recorder waits for.
        self.recording
    }

    /// Where control records were lost, procfs tells which processes have come and gone.
    fn catch_up(&mut self, capture: &Capture, now: BootTime) {
        let of_control = |(reason, _): &(_, _)| *reason == Drop::ControlRingFull;
        let drops = capture.drops();
        let lost = drops.iter().find(|drop| of_control(drop)).map_or(0, |(_, lost)| lost.events);
        if lost == self.control_lost || now < self.next_catch_up {
            return;
        }
        self.control_lost = lost;
        self.next_catch_up = BootTime(now.0 + CATCH_UP_NS);
        if let Err(error) = self.processes.seed(now) {
            tracing::warn!(%error, "can't read the host's processes after records were lost");
            return;
        }
        self.connections.end_of_gone(&self.processes);
        self.servers.look_everywhere();
        if let Some(lanes) = &mut self.connections.shared.lanes {
            lanes.begin_anew();
        }
    }

    fn snapshot(&self, capture: &Capture) -> Snapshot {
        let drops = capture.drops();
        let mut totals = self.connections.totals();
        totals.unobservable_bytes = drops
            .iter()
            .filter(|(reason, _)| *reason == Drop::UnsupportedCall)
            .map(|(_, counter)| counter.bytes)
            .sum();
        for (reason, counter) in drops.into_iter().filter(|(_, counter)| counter.events > 0) {
            totals.drops.insert(reason.name().to_owned(), counter.events);
            totals.dropped_bytes.insert(reason.name().to_owned(), counter.bytes);
        }
        if self.decode_errors > 0 {
            totals.drops.insert("undecodable".to_owned(), self.decode_errors);
        }
        let unrecorded = self.connections.shared.outbox.lost();
        if unrecorded > 0 {
            totals.drops.insert("recorder_full".to_owned(), unrecorded);
        }
        // A turn may take more than the ring holds, while it is filled again; it never held more.
        let ring = |name: &str, size: u32, peak: usize| control::Ring {
            name: name.to_owned(),
            size_bytes: size.into(),
            peak_bytes: u64::from(size).min(peak as u64),
        };
        let (live, exited) = self.processes.len();
        Snapshot {
            hooks: control::Hooks {
                set: capture.hooks().name().to_owned(),
                why: capture.hooks().to_string(),
            },
            servers: self.servers.status(&self.connections),
            absent: self.servers.absent(),
            totals,
            rings: vec![
                ring("data", self.capture_settings.ring_bytes, self.data_peak),
                ring("control", self.capture_settings.control_ring_bytes, self.control_peak),
            ],
            guard: self.connections.guard_status(),
            processes: (live + exited) as u64,
            ledger: self.recording.status(),
            telemetry: self.telemetry.as_ref().map(|told| figures::status(&told.status())),
            webhooks: self.webhooks.iter().flat_map(|w| posting::status(&w.status())).collect(),
        }
    }
}

/// The kernel records' clock.
fn now() -> BootTime {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    BootTime(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// How far UTC is from the boot clock at this moment.
fn clock() -> Clock {
    let wall = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from).unwrap_or_default();
    Clock { offset_ns: i128::try_from(wall.as_nanos()).unwrap_or(0) - i128::from(now().0) }
}

/// The time of day.
pub fn wall_time() -> WallTime {
    clock().wall(now())
}

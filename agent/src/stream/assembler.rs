//! The assembler: both directions and both layers of one connection, within one byte budget.

use crate::event::{BootTime, Chunk, Direction, Extent, Layer, Piece, Reach};

/// What one connection may hold back, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of chunks that wait for an earlier one.
    pub held_bytes: usize,
    /// Number of such chunks.
    pub held_chunks: usize,
    /// After this long a missing chunk is taken for lost.
    pub hold_ns: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        // Neighbours that two threads swapped arrive within microseconds of each other.
        Limits { held_bytes: 256 << 10, held_chunks: 64, hold_ns: 200_000_000 }
    }
}

/// What happened to the bytes of one connection. All counts are since its first chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes handed on.
    pub bytes: u64,
    /// Gaps handed on, and the bytes that were missing there.
    pub gaps: u64,
    pub gap_bytes: u64,
    /// Of `gap_bytes`, those that were lost rather than left out by budget.
    pub lost_bytes: u64,
    /// Bytes that had been handed on before (or whose place had been given up) and were left out.
    pub duplicate_bytes: u64,
    /// Chunks that came before an earlier one and had to wait.
    pub held: u64,
    /// Holes that were given up because the budget for waiting chunks was full.
    pub evictions: u64,
    /// Holes that were given up because nobody filled them in time.
    pub expired: u64,
    /// Bytes of the socket layer that were ignored because the TLS layer shows their plaintext.
    pub ciphertext_bytes: u64,
}

/// Takes chunks in the order of capture, gives pieces in the order of the stream.
///
/// The sink gets direction, layer, the time of the chunk and the piece. Pieces never overlap. A chunk
/// that comes in order is handed on without a copy.
#[derive(Debug)]
pub struct Assembler {
    limits: Limits,
    flows: [Flow; 4],
    stats: Stats,
}

/// One direction of one layer.
#[derive(Debug)]
struct Flow {
    direction: Direction,
    layer: Layer,
    /// Position of the next byte to hand on.
    next: u64,
    /// Where the newest call that was handed on ends: bytes up to here were moved by a known call.
    call_end: u64,
    /// `dropped_total` as far as gaps have accounted for it.
    dropped_accounted: u64,
    /// The newest `dropped_total`.
    dropped_total: u64,
    last: BootTime,
    started: bool,
    /// Waiting chunks by position.
    held: Vec<Held>,
    held_bytes: usize,
}

#[derive(Debug)]
struct Held {
    time: BootTime,
    position: u64,
    bytes: Vec<u8>,
    call_len: u32,
    call_offset: u32,
    dropped_total: u64,
}

type Sink<'s> = dyn FnMut(Direction, Layer, BootTime, Piece<'_>) + 's;

impl Assembler {
    pub fn new(limits: Limits) -> Assembler {
        let flow = Flow::new;
        Assembler {
            limits,
            flows: [
                flow(Direction::Request, Layer::Socket),
                flow(Direction::Response, Layer::Socket),
                flow(Direction::Request, Layer::Tls),
                flow(Direction::Response, Layer::Tls),
            ],
            stats: Stats::default(),
        }
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Takes one chunk and hands on what it completes.
    pub fn push(&mut self, chunk: Chunk<'_>, sink: &mut Sink<'_>) {
        let [request, response, tls_request, tls_response] = &mut self.flows;
        let (socket, tls) = match chunk.direction {
            Direction::Request => (request, tls_request),
            Direction::Response => (response, tls_response),
        };
        let flow = match chunk.layer {
            Layer::Socket if tls.started => {
                self.stats.ciphertext_bytes += moved(&chunk);
                return;
            }
            Layer::Socket => socket,
            Layer::Tls => {
                if !tls.started {
                    self.stats.ciphertext_bytes += socket.held_bytes as u64;
                    socket.forget();
                }
                tls
            }
        };
        flow.push(chunk, &self.limits, &mut self.stats, sink);
    }

    /// When `poll` has something to do next, if nothing else arrives.
    pub fn deadline(&self) -> Option<BootTime> {
        self.flows.iter().filter_map(|flow| flow.deadline(&self.limits)).min()
    }

    /// Gives up the holes that nobody filled in time.
    pub fn poll(&mut self, now: BootTime, sink: &mut Sink<'_>) {
        for flow in &mut self.flows {
            while flow.deadline(&self.limits).is_some_and(|deadline| deadline <= now) {
                self.stats.expired += 1;
                flow.give_up(now, &mut self.stats, sink);
            }
        }
    }

    /// The connection has ended, and has come so far: what was lost after the last chunk is a gap too.
    pub fn end(&mut self, now: BootTime, extent: &Extent, sink: &mut Sink<'_>) {
        for (flow, reach) in self.flows.iter_mut().zip(by_flow(extent)) {
            flow.dropped_total = flow.dropped_total.max(reach.dropped);
        }
        self.flush(now, sink);
        let [_, _, tls_request, tls_response] = &self.flows;
        // Below TLS there is only ciphertext.
        let hidden = [tls_request.started, tls_response.started, false, false];
        for ((flow, reach), hidden) in self.flows.iter_mut().zip(by_flow(extent)).zip(hidden) {
            if reach.position > flow.next && !hidden {
                flow.gap(reach.position, now, &mut self.stats, sink);
            }
        }
    }

    /// Gives up every hole: the connection has ended.
    pub fn flush(&mut self, now: BootTime, sink: &mut Sink<'_>) {
        for flow in &mut self.flows {
            while flow.unfinished() {
                flow.give_up(now, &mut self.stats, sink);
            }
        }
    }
}

impl Default for Assembler {
    fn default() -> Assembler {
        Assembler::new(Limits::default())
    }
}

/// In the order of [`Assembler::flows`].
fn by_flow(&[[request, tls_request], [response, tls_response]]: &Extent) -> [Reach; 4] {
    [request, response, tls_request, tls_response]
}

/// How many bytes of the stream a chunk stands for.
fn moved(chunk: &Chunk<'_>) -> u64 {
    match chunk.bytes.len() as u64 {
        0 => u64::from(chunk.call_len.saturating_sub(chunk.call_offset)),
        len => len,
    }
}

impl Flow {
    fn new(direction: Direction, layer: Layer) -> Flow {
        Flow {
            direction,
            layer,
            next: 0,
            call_end: 0,
            dropped_accounted: 0,
            dropped_total: 0,
            last: BootTime(0),
            started: false,
            held: Vec::new(),
            held_bytes: 0,
        }
    }

    fn push(&mut self, chunk: Chunk<'_>, limits: &Limits, stats: &mut Stats, sink: &mut Sink<'_>) {
        let first = !self.started;
        self.started = true;
        if chunk.position > self.next && !first && !self.hole_is_explained(&chunk) {
            self.hold(chunk, limits, stats, sink);
            return;
        }
        self.hand_on(chunk, stats, sink);
        self.drain(stats, sink);
    }

    /// Whether the bytes between `next` and `chunk` can't come any more. The chunks of one call are
    /// captured one after the other, so what is missing inside a call was left out; what is missing
    /// between calls is lost if the kernel side has dropped that much, else merely late.
    fn hole_is_explained(&self, chunk: &Chunk<'_>) -> bool {
        let call_start = chunk.position.saturating_sub(u64::from(chunk.call_offset));
        let between_calls = call_start.saturating_sub(self.call_end.max(self.next));
        between_calls == 0
            || chunk.dropped_total.saturating_sub(self.dropped_accounted) >= between_calls
    }

    fn hand_on(&mut self, chunk: Chunk<'_>, stats: &mut Stats, sink: &mut Sink<'_>) {
        self.last = self.last.max(chunk.time);
        self.dropped_total = self.dropped_total.max(chunk.dropped_total);
        let call_start = chunk.position.saturating_sub(u64::from(chunk.call_offset));
        let call_end = call_start.saturating_add(u64::from(chunk.call_len));
        if chunk.position > self.next {
            self.gap(chunk.position, chunk.time, stats, sink);
        }
        if chunk.bytes.is_empty() {
            // The call moved bytes that nobody could read.
            if call_end > self.next {
                self.gap(call_end, chunk.time, stats, sink);
            }
        } else {
            let known = self.next.saturating_sub(chunk.position);
            let fresh = usize::try_from(known).ok().and_then(|known| chunk.bytes.get(known..));
            let fresh = fresh.unwrap_or_default();
            stats.duplicate_bytes += (chunk.bytes.len() - fresh.len()) as u64;
            if !fresh.is_empty() {
                self.next = self.next.saturating_add(fresh.len() as u64);
                stats.bytes += fresh.len() as u64;
                sink(self.direction, self.layer, chunk.time, Piece::Bytes(fresh));
            }
        }
        self.call_end = self.call_end.max(call_end);
    }

    fn gap(&mut self, to: u64, at: BootTime, stats: &mut Stats, sink: &mut Sink<'_>) {
        let len = to - self.next;
        let lost = self.dropped_total.saturating_sub(self.dropped_accounted).min(len);
        self.dropped_accounted += lost;
        self.next = to;
        stats.gaps += 1;
        stats.gap_bytes = stats.gap_bytes.saturating_add(len);
        stats.lost_bytes = stats.lost_bytes.saturating_add(lost);
        sink(self.direction, self.layer, at, Piece::Gap { len, lost });
    }

    fn hold(&mut self, chunk: Chunk<'_>, limits: &Limits, stats: &mut Stats, sink: &mut Sink<'_>) {
        while !self.held.is_empty()
            && (self.held_bytes + chunk.bytes.len() > limits.held_bytes
                || self.held.len() >= limits.held_chunks)
        {
            stats.evictions += 1;
            self.give_up(chunk.time, stats, sink);
        }
        if chunk.bytes.len() > limits.held_bytes || limits.held_chunks == 0 {
            stats.evictions += 1;
            self.hand_on(chunk, stats, sink);
            return;
        }
        if chunk.position <= self.next {
            // Room was made by giving up the hole before it.
            self.hand_on(chunk, stats, sink);
            self.drain(stats, sink);
            return;
        }
        stats.held += 1;
        self.held_bytes += chunk.bytes.len();
        let at = self.held.partition_point(|held| held.position <= chunk.position);
        self.held.insert(
            at,
            Held {
                time: chunk.time,
                position: chunk.position,
                bytes: chunk.bytes.to_vec(),
                call_len: chunk.call_len,
                call_offset: chunk.call_offset,
                dropped_total: chunk.dropped_total,
            },
        );
    }

    /// Hands on the waiting chunks whose turn has come.
    fn drain(&mut self, stats: &mut Stats, sink: &mut Sink<'_>) {
        while let Some(first) = self.held.first() {
            let chunk = first.chunk(self.direction, self.layer);
            if chunk.position > self.next && !self.hole_is_explained(&chunk) {
                return;
            }
            self.release(stats, sink);
        }
    }

    fn release(&mut self, stats: &mut Stats, sink: &mut Sink<'_>) {
        if self.held.is_empty() {
            return;
        }
        let held = self.held.remove(0);
        self.held_bytes = self.held_bytes.saturating_sub(held.bytes.len());
        self.hand_on(held.chunk(self.direction, self.layer), stats, sink);
    }

    /// Makes the first hole a gap, and hands on what stood behind it.
    fn give_up(&mut self, now: BootTime, stats: &mut Stats, sink: &mut Sink<'_>) {
        if self.held.is_empty() {
            if self.call_end > self.next {
                self.gap(self.call_end, now, stats, sink);
            }
            return;
        }
        self.release(stats, sink);
        self.drain(stats, sink);
    }

    /// Whether bytes are known to exist that were not handed on.
    fn unfinished(&self) -> bool {
        !self.held.is_empty() || self.call_end > self.next
    }

    fn deadline(&self, limits: &Limits) -> Option<BootTime> {
        let since = match self.held.iter().map(|held| held.time).min() {
            Some(oldest) => oldest,
            None if self.unfinished() => self.last,
            None => return None,
        };
        Some(BootTime(since.0.saturating_add(limits.hold_ns)))
    }

    fn forget(&mut self) {
        self.held = Vec::new();
        self.held_bytes = 0;
        self.call_end = self.next;
    }
}

impl Held {
    fn chunk(&self, direction: Direction, layer: Layer) -> Chunk<'_> {
        Chunk {
            time: self.time,
            direction,
            layer,
            position: self.position,
            bytes: &self.bytes,
            call_len: self.call_len,
            call_offset: self.call_offset,
            dropped_total: self.dropped_total,
        }
    }
}

//! Copies the bytes of one call into the data ring, and control records into theirs.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_loop, bpf_probe_read_user},
    },
    maps::ring_buf::RingBufEntry,
};
use dbwarden_common::{
    Connection, DataHeader, Drop, MAX_PAYLOAD, MAX_ROUNDS, TRACKED_LIMITED, Tracked,
};

use crate::{
    atomic, kernel,
    maps::{ASLEEP, BUDGETS, CONTROL, DATA, QUOTA, count},
};

/// Where a call's bytes stand in user memory. A plain structure: of an enum, the compiler leaves parts
/// unset that the verifier then sees copied.
#[derive(Clone, Copy)]
pub struct Source {
    /// The buffer, or the first `iovec`; 0 if the bytes cannot be found.
    at: u64,
    /// 0: `at` is a buffer.
    n_vectors: u64,
}

impl Source {
    pub const UNREADABLE: Self = Self { at: 0, n_vectors: 0 };

    pub const fn buffer(at: u64) -> Self {
        Self { at, n_vectors: 0 }
    }

    pub const fn vector(at: u64, n_vectors: u64) -> Self {
        Self { at, n_vectors }
    }
}

/// One call on one connection.
pub struct Call {
    pub time: u64,
    pub sock: u64,
    pub cookie: u64,
    /// Bytes that it moved; not 0.
    pub len: u64,
    pub tgid: u32,
    pub server: u32,
    pub direction: u8,
    pub layer: u8,
}

impl Call {
    /// The head of the call's first record.
    #[inline(always)]
    fn header(&self, position: u64, dropped: u64) -> DataHeader {
        DataHeader {
            time: self.time,
            sock: self.sock,
            cookie: self.cookie,
            position,
            dropped,
            call_len: self.len as u32,
            call_offset: 0,
            captured: 0,
            tgid: self.tgid,
            server: self.server,
            direction: self.direction,
            layer: self.layer,
            reserved: [0; 2],
        }
    }
}

#[repr(C)]
struct Record<const N: usize> {
    header: DataHeader,
    payload: [u8; N],
}

const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;

/// Wakes the agent only if it sleeps: under load it looks by itself every few milliseconds, and a wake-up
/// for each record would cost more than the record.
#[inline(always)]
pub fn wakeup() -> u64 {
    if let Some(asleep) = ASLEEP.get_ptr_mut(0) {
        // SAFETY: a map value; a lost race costs the agent one poll interval.
        unsafe {
            if *asleep != 0 {
                *asleep = 0;
                return BPF_RB_FORCE_WAKEUP;
            }
        }
    }
    BPF_RB_NO_WAKEUP
}

/// Room for a control record; whoever takes it fills and submits it.
#[inline(always)]
pub fn control<T: 'static>() -> Option<RingBufEntry<T>> {
    let entry = CONTROL.reserve::<T>(0);
    if entry.is_none() {
        count(Drop::ControlRingFull, 0);
    }
    entry
}

/// Copies what the budgets allow of `call` and moves the connection's position on.
#[inline(always)]
pub fn call(call: &Call, source: Source, connection: *mut Connection, tracked: Tracked) {
    let (direction, layer) = ((call.direction & 1) as usize, (call.layer & 1) as usize);
    // Two threads may write to one socket at once: each takes a place of its own.
    // SAFETY: a value of `CONNECTIONS`, whose memory stays valid for this program's run.
    let (position, dropped) = unsafe {
        let position = atomic::add(&raw mut (*connection).position[direction][layer], call.len);
        (position, (*connection).dropped[direction][layer])
    };
    let lost =
        if within_quota(call, tracked) { copy(call, source, position, dropped) } else { call.len };
    if lost > 0 {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*connection).dropped[direction][layer], lost) };
    }
}

#[inline(always)]
fn within_quota(call: &Call, tracked: Tracked) -> bool {
    if tracked.flags & TRACKED_LIMITED == 0 {
        return true;
    }
    if let Some(quota) = QUOTA.get_ptr_mut(tracked.server) {
        // SAFETY: a map value; two CPUs may both take the last bytes, which is no harm.
        unsafe {
            if *quota >= call.len {
                *quota -= call.len;
                return true;
            }
        }
    }
    count(Drop::Quota, call.len);
    false
}

/// Returns how many bytes were lost.
#[inline(always)]
fn copy(call: &Call, source: Source, position: u64, dropped: u64) -> u64 {
    let Some(budget) = BUDGETS.get(call.direction as u32) else { return call.len };
    if source.at == 0 {
        count(Drop::UnsupportedCall, call.len);
        return call.len;
    }
    // Most calls by far: one small buffer that is wanted whole needs no walk.
    if source.n_vectors == 0 && call.len <= 512 && call.len <= budget.head {
        let header = call.header(position, dropped);
        let sent = if call.len <= 128 {
            sized::<128>(&header, source.at, call.len, wakeup())
        } else {
            sized::<512>(&header, source.at, call.len, wakeup())
        };
        return if sent { 0 } else { call.len };
    }
    let mut walk = Walk {
        header: call.header(position, dropped),
        place: Place {
            at: 0,
            at_left: 0,
            offset: 0,
            len: call.len,
            head: budget.head,
            tail: budget.tail,
            vectors: 0,
            vectors_left: 0,
            lost: 0,
        },
    };
    if source.n_vectors == 0 {
        walk.place.at = source.at;
        walk.place.at_left = call.len;
    } else {
        walk.place.vectors = source.at;
        walk.place.vectors_left = source.n_vectors;
    }
    // SAFETY: `step` gets the walk, which outlives the loop.
    unsafe { bpf_loop(MAX_ROUNDS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    let unreached = call.len - walk.place.offset;
    if unreached > 0 {
        count(Drop::TooManyIovecs, unreached);
    }
    walk.place.lost + unreached
}

/// A walk over the memory of one call.
struct Walk {
    header: DataHeader,
    place: Place,
}

/// Where a walk stands.
struct Place {
    /// User address that comes next, and bytes left there.
    at: u64,
    at_left: u64,
    offset: u64,
    len: u64,
    head: u64,
    tail: u64,
    /// Address of the next vector.
    vectors: u64,
    vectors_left: u64,
    lost: u64,
}

impl Walk {
    /// Reads the place through a helper, which makes its numbers unknown to the verifier: it would else
    /// trace them from round to round and take every round for a new case.
    #[inline(always)]
    fn place(&self) -> Option<Place> {
        // SAFETY: this program's own stack.
        unsafe { bpf_probe_read_kernel(&raw const self.place) }.ok()
    }
}

/// One round: fetch the next vector, skip what no budget covers, or copy one record. 1 ends the loop.
unsafe extern "C" fn step(_round: u64, walk: *mut Walk) -> u64 {
    // SAFETY: called by `bpf_loop` with the walk of `copy`.
    let walk = unsafe { &mut *walk };
    let Some(place) = walk.place() else { return 1 };
    let left = place.len - place.offset;
    if place.at_left == 0 {
        if place.vectors_left == 0 {
            return 1;
        }
        let vector: Option<[u64; 2]> = kernel::user(place.vectors);
        let Some([base, len]) = vector else { return 1 };
        walk.place.vectors = place.vectors + 16;
        walk.place.vectors_left = place.vectors_left - 1;
        walk.place.at = base;
        walk.place.at_left = len;
        return 0;
    }
    let mut len = if place.at_left < left { place.at_left } else { left };
    if place.offset >= place.head && left > place.tail {
        let skip = left - place.tail;
        if len > skip {
            len = skip;
        }
    } else {
        if len > MAX_PAYLOAD as u64 {
            len = MAX_PAYLOAD as u64;
        }
        if place.offset < place.head && len > place.head - place.offset {
            len = place.head - place.offset;
        }
        if !record(walk, &place, len) {
            walk.place.lost = place.lost + len;
        }
    }
    walk.place.at = place.at + len;
    walk.place.at_left = place.at_left - len;
    walk.place.offset = place.offset + len;
    (len == left) as u64
}

/// Sends one record in the smallest size that holds it; false if it was lost. Small sizes matter: what is
/// reserved and not filled still pushes warm lines out of the caches.
#[inline(always)]
fn record(walk: &Walk, place: &Place, len: u64) -> bool {
    let mut header = walk.header;
    header.position += place.offset;
    header.dropped += place.lost;
    header.call_offset = place.offset as u32;
    let (header, at, wakeup) = (&header, place.at, wakeup());
    if len <= 128 {
        sized::<128>(header, at, len, wakeup)
    } else if len <= 512 {
        sized::<512>(header, at, len, wakeup)
    } else if len <= 2048 {
        sized::<2048>(header, at, len, wakeup)
    } else if len <= 8192 {
        sized::<8192>(header, at, len, wakeup)
    } else {
        sized::<MAX_PAYLOAD>(header, at, len, wakeup)
    }
}

#[inline(always)]
fn sized<const N: usize>(header: &DataHeader, at: u64, len: u64, wakeup: u64) -> bool {
    let Some(mut entry) = DATA.reserve::<Record<N>>(0) else {
        count(Drop::RingFull, len);
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is a reservation of this size; the helper writes `len` <= N bytes.
    let read = unsafe {
        (&raw mut (*record).header).write(*header);
        let captured = &raw mut (*record).header.captured;
        captured.write_volatile(len as u32);
        // Read back, the length is a number without a past for the verifier, which would else trace it
        // through every round of the loop. And a real minimum: masking with N - 1 would turn a full
        // buffer into nothing.
        let len = captured.read_volatile();
        let len = if len > N as u32 { N as u32 } else { len };
        let payload = (&raw mut (*record).payload).cast();
        bpf_probe_read_user(payload, len, kernel::as_ptr(at))
    };
    if read < 0 {
        entry.discard(BPF_RB_NO_WAKEUP);
        count(Drop::PageFault, len);
        return false;
    }
    entry.submit(wakeup);
    true
}

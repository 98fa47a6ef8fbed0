//! Which statements become spans.

use std::time::Duration;

use crate::{
    config,
    event::{Record, Verdict},
};

/// What decides, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Of 2⁵⁶ trace ids, so many are left out.
    threshold: u64,
    slow: Duration,
    follow_parent: bool,
}

/// The bits of a trace id that are random by agreement (W3C Trace Context, level 2).
const RANDOM_BITS: u64 = (1 << 56) - 1;

impl Sampling {
    pub fn new(traces: &config::Traces) -> Self {
        let left_out = (1.0 - traces.ratio.clamp(0.0, 1.0)) * (RANDOM_BITS + 1) as f64;
        Self {
            threshold: left_out as u64,
            slow: traces.slow.0,
            follow_parent: traces.follow_parent,
        }
    }

    /// `parent`: whether the span that it names as its parent is sampled.
    pub fn takes(&self, record: &Record, trace: u128, parent: Option<bool>) -> bool {
        // A client's flags can't hide what policy has flagged.
        if is_flagged(record) {
            return true;
        }
        if let Some(is_sampled) = parent.filter(|_| self.follow_parent) {
            return is_sampled;
        }
        self.is_remarkable(record) || self.takes_trace(trace)
    }

    /// By the ratio alone, and the same for all spans of a trace.
    pub fn takes_trace(&self, trace: u128) -> bool {
        trace as u64 & RANDOM_BITS >= self.threshold
    }

    fn is_remarkable(&self, record: &Record) -> bool {
        let micros = record.duration_us.unwrap_or(0);
        record.error_code.is_some()
            || record.error_message.is_some()
            || Duration::from_micros(micros) >= self.slow
    }
}

/// Policy has something to say of it.
fn is_flagged(record: &Record) -> bool {
    record.judgement.as_ref().is_some_and(|judgement| judgement.verdict != Verdict::Allow)
}

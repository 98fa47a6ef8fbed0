//! What the server has yet to answer, as far as it matters: the ends of its segments.

use std::collections::VecDeque;

/// Segments that a client may have in flight. Nobody's driver comes near it.
const MAX_IN_FLIGHT: usize = 1 << 16;

/// A message after which the server says `ReadyForQuery`, or that ends what the client sends for a COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// `Query` or `FunctionCall`.
    Request,
    Sync,
    /// After copy data: if the server reads that as such, it may ignore this, or have failed by then.
    SyncAfterData,
    CopyEnd,
}

/// The order of requests in flight.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Each with the number of its segment.
    marks: VecDeque<(Mark, u64)>,
    /// Parts of a segment were sent, and its end was not.
    is_open: bool,
    /// Some of them are at the server, and some of those name portals.
    has_passed: bool,
    is_bound: bool,
    /// Of the open segment, how many parts may fail yet.
    n_parts: u64,
    /// The server reads copy data, and ignores `Sync`.
    copy_in: bool,
    /// Copy data was sent that the server has not asked for yet, and no end of it.
    is_ahead: bool,
    /// An error came since everything was last answered.
    failed: bool,
    /// Counts the ends of segments.
    segment: u64,
    /// The last one that is answered.
    answered: Option<u64>,
}

/// The client has more in flight than is followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// Nobody can tell which requests the server answers and which it skips.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Astray;

impl Progress {
    /// A part of a segment goes to the server; gives the segment's number.
    pub(super) fn part(&mut self) -> u64 {
        self.n_parts += 1;
        self.part_that_ends_well()
    }

    /// Likewise `Close`, which never fails. Some drivers send it right before a `Query`.
    pub(super) fn part_that_ends_well(&mut self) -> u64 {
        self.is_open = true;
        self.segment
    }

    /// One of the parts in flight was done.
    pub(super) fn part_done(&mut self) {
        // As long as there are others, it belongs to them.
        if self.marks.iter().all(|(mark, _)| *mark == Mark::CopyEnd) {
            self.n_parts = self.n_parts.saturating_sub(1);
        }
    }

    /// Whether a `Query` would be skipped if one of the parts before it fails, which have no end of their own.
    pub(super) fn is_amid_parts(&self) -> bool {
        self.is_open && self.n_parts > 0
    }

    /// The number of the segment that the next message is a part of.
    pub(super) fn segment(&self) -> u64 {
        self.segment
    }

    /// The last segment that the server has said `ReadyForQuery` for.
    pub(super) fn answered(&self) -> Option<u64> {
        self.answered
    }

    /// Everything that was sent is answered.
    pub(super) fn is_settled(&self) -> bool {
        self.marks.is_empty() && !self.is_open
    }

    /// A part is at the server.
    pub(super) fn passes(&mut self, is_binding: bool) {
        // Sent with the end of its segment, it is over with that.
        self.has_passed |= self.is_open;
        self.is_bound |= self.is_open && is_binding;
    }

    /// A portal of this segment is at the server: its end would be the portal's.
    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// What of the segment has not been sent will be sent later; whether some of it has been.
    pub(super) fn take_back(&mut self) -> bool {
        self.is_open = false;
        self.is_bound = false;
        self.n_parts = 0;
        std::mem::take(&mut self.has_passed)
    }

    pub(super) fn request(&mut self) -> Result<(), TooMany> {
        self.mark(Mark::Request)
    }

    pub(super) fn sync(&mut self) -> Result<(), TooMany> {
        let is_ahead = std::mem::take(&mut self.is_ahead);
        self.mark(if is_ahead { Mark::SyncAfterData } else { Mark::Sync })
    }

    /// Whether the server ignores a `Sync`, or has failed and answers it.
    pub(super) fn is_copying_in(&self) -> bool {
        self.copy_in
    }

    pub(super) fn copy_data(&mut self) {
        self.is_ahead = !self.copy_in;
    }

    /// `CopyDone` or `CopyFail`.
    pub(super) fn copy_end(&mut self) -> Result<(), TooMany> {
        self.is_ahead = false;
        if std::mem::take(&mut self.copy_in) {
            return Ok(());
        }
        self.push(Mark::CopyEnd, self.segment)
    }

    fn mark(&mut self, mark: Mark) -> Result<(), TooMany> {
        self.take_back();
        let segment = self.segment;
        self.segment += 1;
        self.push(mark, segment)
    }

    fn push(&mut self, mark: Mark, segment: u64) -> Result<(), TooMany> {
        if self.marks.len() >= MAX_IN_FLIGHT {
            return Err(TooMany);
        }
        self.marks.push_back((mark, segment));
        Ok(())
    }

    /// `CopyInResponse`: what was sent as the end of this segment is read as copy data and ignored, up to
    /// the end of that.
    pub(super) fn copy_in(&mut self) -> Result<(), Astray> {
        self.is_ahead = false;
        let mark = |marks: &VecDeque<(Mark, u64)>, at: usize| marks.get(at).map(|(mark, _)| *mark);
        let at = usize::from(mark(&self.marks, 0) == Some(Mark::Request));
        while mark(&self.marks, at) == Some(Mark::Sync) {
            self.marks.remove(at);
        }
        match mark(&self.marks, at) {
            Some(Mark::CopyEnd) => _ = self.marks.remove(at),
            Some(Mark::SyncAfterData) => return Err(Astray),
            _ => self.copy_in = true,
        }
        Ok(())
    }

    pub(super) fn error(&mut self) {
        self.failed = true;
        self.copy_in = false;
    }

    /// `ReadyForQuery`. Where everything is answered now: whether all of it went well.
    pub(super) fn ready(&mut self) -> Option<bool> {
        while let Some((mark, segment)) = self.marks.pop_front() {
            // An end of copy data that nobody wanted is ignored.
            if mark != Mark::CopyEnd {
                self.answered = Some(segment);
                break;
            }
        }
        self.copy_in = false;
        self.is_settled().then(|| !std::mem::take(&mut self.failed))
    }
}

#[cfg(test)]
mod tests {
    use super::{Astray, Progress};

    #[test]
    fn all_is_answered_when_each_segment_is() {
        let mut progress = Progress::default();
        progress.part();
        progress.sync().unwrap();
        progress.request().unwrap();
        assert_eq!(progress.ready(), None, "the second is in flight");
        assert_eq!(progress.ready(), Some(true));

        progress.request().unwrap();
        progress.part();
        assert_eq!(progress.ready(), None, "the next has begun");
        progress.sync().unwrap();
        progress.error();
        assert_eq!(progress.ready(), Some(false));
    }

    /// pgjdbc and psycopg send `Sync` with the `Execute` of a COPY, and once more after its data.
    #[test]
    fn a_sync_before_copy_data_is_never_answered() {
        let mut progress = Progress::default();
        progress.part();
        progress.sync().unwrap();
        progress.copy_in().unwrap();
        assert!(progress.is_copying_in());
        progress.copy_data();
        progress.copy_end().unwrap();
        progress.sync().unwrap();
        assert_eq!(progress.ready(), Some(true));

        // All of it at once.
        progress.part();
        progress.sync().unwrap();
        progress.copy_data();
        progress.copy_end().unwrap();
        progress.sync().unwrap();
        progress.copy_in().unwrap();
        assert_eq!(progress.ready(), Some(true));

        progress.request().unwrap();
        progress.sync().unwrap();
        progress.copy_in().unwrap();
        progress.copy_end().unwrap();
        assert_eq!(progress.ready(), Some(true), "a simple COPY has an end of its own");
    }

    #[test]
    fn whether_a_sync_behind_copy_data_is_answered_nobody_knows() {
        for ends in [false, true] {
            let mut progress = Progress::default();
            progress.request().unwrap();
            progress.copy_data();
            progress.sync().unwrap();
            if ends {
                progress.copy_end().unwrap();
            }
            assert_eq!(progress.copy_in(), Err(Astray));
        }
        // It was no COPY.
        let mut progress = Progress::default();
        progress.copy_data();
        progress.sync().unwrap();
        assert_eq!(progress.ready(), Some(true));
    }

    #[test]
    fn a_query_amid_parts_comes_when_they_are_done_or_may_be_skipped() {
        let mut progress = Progress::default();
        progress.sync().unwrap();
        progress.part();
        progress.part_done();
        assert!(progress.is_amid_parts(), "that was none of its own");
        progress.ready();
        progress.part();
        progress.part_done();
        assert!(progress.is_amid_parts());
        progress.part_done();
        assert!(!progress.is_amid_parts());
        progress.part();
        progress.sync().unwrap();
        assert!(!progress.is_amid_parts());
    }

    #[test]
    fn what_is_in_flight_is_bounded() {
        let mut progress = Progress::default();
        let sent = (0..1 << 20).take_while(|_| progress.sync().is_ok()).count();
        assert_eq!(sent, super::MAX_IN_FLIGHT);
    }
}

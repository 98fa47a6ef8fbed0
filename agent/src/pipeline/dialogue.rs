//! What is being said on one connection: pieces of its streams in, records and occurrences out.

use std::sync::Arc;

use super::{
    behind::Part,
    connections::Shared,
    crosscheck::Ended,
    profile::Profile,
    record::{Tally, connection_row, record},
};
use crate::{
    control::Notice,
    event::{BootTime, Direction, Entry, Layer, Occurrence, Piece, SessionEvent},
    protocol::{self, Session},
};

/// Ciphertext of the client's, beyond a handshake's, without any plaintext: the connection is blind.
const BLIND_AFTER: u64 = 4_096;

pub struct Dialogue {
    pub profile: Profile,
    session: Session,
    /// By direction: the session knows that it reads TLS plaintext.
    plaintext: [bool; 2],
    blind: bool,
    /// The ledger has a row of its beginning.
    opened: bool,
    /// Of a pooler's connection.
    part: Option<Part>,
    /// The client has said good-bye.
    terminated: bool,
    tally: Tally,
    /// What the client has sent, on the socket and before encryption.
    sent: [u64; 2],
    /// Of the session's statistics, what is counted in the totals already.
    sync_lost: u64,
    skipped_bytes: u64,
}

impl Dialogue {
    pub fn new(profile: Profile) -> Self {
        let mut session = Session::new(profile.server.engine, protocol::Limits::default());
        if profile.is_guarded() {
            session.sum_requests();
        }
        Self {
            session,
            profile,
            plaintext: [false; 2],
            blind: false,
            opened: false,
            part: None,
            terminated: false,
            tally: Tally::default(),
            sent: [0; 2],
            sync_lost: 0,
            skipped_bytes: 0,
        }
    }

    /// Its requests tell who is behind a pooler, or are told of by it.
    pub fn take_part(&mut self, part: Part) {
        self.part = Some(part);
        self.session.tell_requests();
    }

    /// Is it a client's connection to a pooler?
    pub fn is_front(&self) -> bool {
        self.part.as_ref().is_some_and(Part::is_front)
    }

    /// A pooler lets it go as soon as the client says good-bye.
    pub fn is_over(&self) -> bool {
        self.terminated && self.is_front()
    }

    /// Encrypted, and nothing of it readable: a state that users see, never silence.
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// Hands one piece of a stream to the session.
    pub fn take(
        &mut self,
        shared: &mut Shared,
        direction: Direction,
        layer: Layer,
        at: BootTime,
        piece: Piece<'_>,
    ) {
        if layer == Layer::Tls {
            let [request, response] = &mut self.plaintext;
            let told = if direction == Direction::Request { request } else { response };
            if !*told {
                *told = true;
                self.profile.encryption_started();
                self.session.tls(direction);
            }
        }
        self.count(shared, direction, piece);
        if direction == Direction::Request {
            let [socket, tls] = &mut self.sent;
            *(if layer == Layer::Tls { tls } else { socket }) += piece_len(piece);
        }
        let Self { session, profile, tally, opened, part, terminated, .. } = self;
        let mut listener = Listener { profile, tally, opened, part, terminated, shared, at };
        match piece {
            Piece::Bytes(bytes) => {
                session.bytes(direction, at, bytes, &mut |event| listener.hear(event));
            }
            Piece::Gap { len, lost } => {
                session.gap(direction, at, len, lost, &mut |event| listener.hear(event));
            }
        }
    }

    fn count(&mut self, shared: &mut Shared, direction: Direction, piece: Piece<'_>) {
        let (len, lost) = match piece {
            Piece::Bytes(_) => (piece_len(piece), 0),
            Piece::Gap { len, lost } => (len, lost),
        };
        let truncated = if let Piece::Gap { .. } = piece { len.saturating_sub(lost) } else { 0 };
        let tally = Tally {
            bytes_in: if direction == Direction::Request { len } else { 0 },
            bytes_out: if direction == Direction::Response { len } else { 0 },
            lost_bytes: lost,
            truncated_bytes: truncated,
            ..Tally::default()
        };
        shared.totals.bytes_in += tally.bytes_in;
        shared.totals.bytes_out += tally.bytes_out;
        shared.totals.lost_bytes += lost;
        self.profile.server.coverage.add(&tally);
        self.tally += tally;
    }

    /// What the session alone knows: to be called now and then, and after the last piece.
    pub fn settle(&mut self, shared: &mut Shared, at: BootTime) {
        let stats = self.session.stats();
        shared.totals.sync_losses += stats.sync_lost.saturating_sub(self.sync_lost);
        self.sync_lost = stats.sync_lost;

        let skipped = stats.skipped_bytes.saturating_sub(self.skipped_bytes);
        self.skipped_bytes = stats.skipped_bytes;
        let is_ciphertext = self.is_dark();
        let (blind_bytes, skipped_bytes) = if is_ciphertext { (skipped, 0) } else { (0, skipped) };
        let tally = Tally { blind_bytes, skipped_bytes, ..Tally::default() };
        self.profile.server.coverage.add(&tally);
        self.tally += tally;
        if !self.blind && is_ciphertext && stats.skipped_bytes > BLIND_AFTER {
            self.found_blind(shared, at);
        }
        if !is_ciphertext && let Some((bytes, sum)) = self.session.summed_so_far() {
            shared.cross_check.seen(self.profile.id, Some(bytes), sum);
        }
    }

    /// Encrypted, and nothing of it readable so far.
    fn is_dark(&self) -> bool {
        self.profile.is_encrypted() && !self.plaintext.contains(&true)
    }

    /// Cheap enough to be asked after each call: is it time to `settle`?
    pub fn may_be_blind(&self) -> bool {
        !self.blind && self.is_dark() && self.session.stats().skipped_bytes > BLIND_AFTER
    }

    fn found_blind(&mut self, shared: &mut Shared, at: BootTime) {
        self.blind = true;
        shared.totals.blind_connections += 1;
        let message = "encrypted, and can't be observed";
        let (time, id) = (shared.clock.wall(at), self.profile.id);
        shared.live.notice(|| Notice {
            time,
            notice: "blind",
            server: Some(self.profile.server.name.clone()),
            message: format!("connection {id} is {message}"),
        });
        tell(shared, &mut self.profile, at, "blind", |_| {});
    }

    /// The connection is over.
    pub fn end(&mut self, shared: &mut Shared, at: BootTime) {
        let Self { session, profile, tally, opened, part, terminated, .. } = self;
        let mut listener = Listener { profile, tally, opened, part, terminated, shared, at };
        session.close(at, &mut |event| listener.hear(event));
        if let Some(part) = &self.part {
            shared.poolers.closed(part, self.profile.id, at);
        }
        self.settle(shared, at);
        // One that was too short to be sure of is one all the same.
        if !self.blind && self.is_dark() && self.session.stats().skipped_bytes > 0 {
            self.found_blind(shared, at);
        }
        let tally = &self.tally;
        tell(shared, &mut self.profile, at, "closed", |row| row.counts = tally.counts());
        if self.is_dark() {
            shared.cross_check.forget(self.profile.id);
        } else if self.profile.is_guarded() {
            let [socket, tls] = self.sent;
            shared.cross_check.push(Ended {
                connection: self.profile.id,
                origin: self.profile.origin(&shared.host, &shared.rules),
                at,
                got_bytes: if tls > 0 { tls } else { socket },
                sent: None,
            });
        }
    }
}

fn piece_len(piece: Piece<'_>) -> u64 {
    match piece {
        Piece::Bytes(bytes) => bytes.len() as u64,
        Piece::Gap { len, .. } => len,
    }
}

/// Takes in what a session finds out.
struct Listener<'a> {
    profile: &'a mut Profile,
    tally: &'a mut Tally,
    opened: &'a mut bool,
    part: &'a mut Option<Part>,
    terminated: &'a mut bool,
    shared: &'a mut Shared,
    at: BootTime,
}

impl Listener<'_> {
    fn hear(&mut self, event: SessionEvent<'_>) {
        let Self { profile, tally, shared, part, .. } = self;
        if let Some(part) = part {
            let Shared { poolers, host, rules, .. } = &mut **shared;
            poolers.hear(part, profile, (host, rules), self.at, &event);
        }
        match event {
            // It is told at the database.
            SessionEvent::Statement(_) if part.as_ref().is_some_and(Part::passes_on) => {}
            SessionEvent::Statement(statement) => {
                shared.totals.statements += 1;
                let counted = Tally { statements: 1, ..Tally::default() };
                profile.server.coverage.add(&counted);
                **tally += counted;
                let sender =
                    part.as_mut().and_then(|part| shared.poolers.sender(part, statement.sequence));
                if shared.outbox.is_wanted() {
                    let claims = profile.claims(statement.text.as_deref());
                    let (host, rules) = (&shared.host, &shared.rules);
                    let origin = match &sender {
                        None => profile.origin_claiming(host, rules, claims.as_ref()),
                        Some((pooler, behind)) => {
                            profile.origin_through(host, rules, claims.as_ref(), pooler, behind)
                        }
                    };
                    let record = record(shared.clock, origin, claims.map(Arc::new), statement);
                    if !*self.opened {
                        // It was joined after its log-in.
                        self.row("joined");
                    }
                    self.shared.outbox.push(Entry::Statement(record));
                }
            }
            SessionEvent::Startup { user, database, application, .. } => {
                profile.started(self.at, user, database, application);
            }
            SessionEvent::Authenticated { method } => {
                profile.authenticated(method);
                self.row("opened");
            }
            SessionEvent::Refused { code, message } => {
                tell(shared, profile, self.at, "refused", |row| {
                    row.message = Some(format!("{code} {message}"));
                });
            }
            SessionEvent::Changed { name: "application_name", value } => {
                profile.calls_itself(value);
            }
            SessionEvent::EncryptionStarted { .. } => profile.encryption_started(),
            SessionEvent::SyncLost { direction, why } => {
                let connection = profile.id;
                tracing::debug!(%connection, ?direction, ?why, "lost the message boundaries");
            }
            SessionEvent::SyncFound { direction, skipped } => {
                tracing::debug!(connection = %profile.id, ?direction, skipped, "found them again");
            }
            SessionEvent::Terminated => *self.terminated = true,
            SessionEvent::Summed(sum) => shared.cross_check.seen(profile.id, None, sum),
            SessionEvent::Changed { .. }
            | SessionEvent::Asked { .. }
            | SessionEvent::Ready { .. }
            | SessionEvent::Cancel { .. }
            | SessionEvent::Notice { .. } => {}
        }
    }

    fn row(&mut self, action: &'static str) {
        *self.opened = true;
        tell(self.shared, self.profile, self.at, action, |_| {});
    }
}

/// A row of what happened to a connection, where there is a ledger to keep it.
fn tell(
    shared: &mut Shared,
    profile: &mut Profile,
    at: BootTime,
    action: &'static str,
    complete: impl FnOnce(&mut Occurrence),
) {
    if shared.outbox.keeps() {
        let mut row = connection_row(shared, profile, at, action);
        complete(&mut row);
        shared.outbox.push(Entry::Occurrence(row));
    }
}

//! What becomes of a verdict that ends a connection, and of those who are in quarantine.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
    time::Instant,
};

use super::brakes::{Brakes, By, Pull, Withheld};
use crate::{
    config,
    control::{Hub, Notice},
    enforce::{Change, EnforceError, Enforcer, Outcome, Quarantine, Who},
    event::{
        Destination, Entry, Occurrence, OccurrenceKind, Origin, Outbound, Record, ServerSocket,
        SocketName, StatementKind, Verdict, WallTime, in_full,
    },
};

/// Connections that were ended lately: what they had on their way still comes in.
const MAX_ORDERED: usize = 4_096;

/// Asked by the recorder about each statement and each connection that begins.
pub struct Enforcing {
    enforcer: Enforcer<Ticket>,
    quarantine: Arc<Quarantine>,
    settings: config::Enforce,
    ordered: HashSet<SocketName>,
    order: VecDeque<SocketName>,
    brakes: Brakes,
    live: Arc<Hub>,
    host: Arc<Origin>,
}

/// A connection that is to be ended, and why.
struct Ticket {
    time: WallTime,
    origin: Arc<Origin>,
    cause: Cause,
}

enum Cause {
    Rule { rule: Arc<str>, of: Occasion },
    Quarantine { number: u64, reason: String },
}

/// What a rule was about.
enum Occasion {
    Statement {
        sequence: u64,
        /// It had not failed.
        may_have_committed: bool,
    },
    /// The database connected to it for this client.
    Outbound(Arc<Destination>),
}

impl Enforcing {
    pub fn new(
        settings: &config::Enforce,
        quarantine: Arc<Quarantine>,
        live: Arc<Hub>,
        host: Arc<Origin>,
    ) -> io::Result<Self> {
        Ok(Self {
            enforcer: Enforcer::start()?,
            quarantine,
            settings: settings.clone(),
            ordered: HashSet::new(),
            order: VecDeque::new(),
            brakes: Brakes::new(settings.cuts_per_minute),
            live,
            host,
        })
    }

    /// A statement or a connection of the database that has been judged, or something of a client's connection: that
    /// it has begun, above all.
    pub fn take(&mut self, entry: &Entry, told: &mut Vec<Entry>) {
        match entry {
            Entry::Statement(record) => self.statement(record, told),
            Entry::Occurrence(Occurrence {
                kind: OccurrenceKind::Connection,
                action: "opened" | "joined",
                time,
                origin,
                ..
            }) => self.look(*time, origin, told),
            Entry::Outbound(outbound) => self.outbound(outbound, told),
            Entry::Occurrence(_) | Entry::Finding(_) | Entry::Approval(_) => {}
        }
    }

    fn statement(&mut self, record: &Record, told: &mut Vec<Entry>) {
        let judged = record.judgement.as_deref().filter(|found| found.verdict == Verdict::Cut);
        match judged.and_then(|found| found.rule.clone()) {
            // A replica that is cut off makes its primary keep what it misses until the disk is full.
            Some(_) if record.kind == StatementKind::Replication => {}
            Some(rule) => {
                let may_have_committed = record.error_code.is_none();
                let sequence = record.sequence;
                let of = Occasion::Statement { sequence, may_have_committed };
                let cause = Cause::Rule { rule, of };
                self.cut(record.time, &record.origin, cause, told);
            }
            None => self.look(record.time, &record.origin, told),
        }
    }

    /// Ends the connection of the client for which a database connects to somewhere.
    fn outbound(&mut self, outbound: &Outbound, told: &mut Vec<Entry>) {
        let Outbound { time, origin, destination, judgement, .. } = outbound;
        let judged = judgement.as_deref().filter(|found| found.verdict == Verdict::Cut);
        if let Some(rule) = judged.and_then(|found| found.rule.clone()) {
            let of = Occasion::Outbound(destination.clone());
            self.cut(*time, origin, Cause::Rule { rule, of }, told);
        }
    }

    /// Ends it if its client is in quarantine.
    fn look(&mut self, time: WallTime, origin: &Arc<Origin>, told: &mut Vec<Entry>) {
        if let Some(detainee) = self.quarantine.holds(origin, time) {
            let cause = Cause::Quarantine { number: detainee.number, reason: detainee.reason };
            self.cut(time, origin, cause, told);
        }
    }

    fn cut(&mut self, time: WallTime, origin: &Arc<Origin>, cause: Cause, told: &mut Vec<Entry>) {
        let is_ordered = |socket: ServerSocket| self.ordered.contains(&socket.name);
        let by = match cause {
            Cause::Rule { .. } => By::Rules,
            Cause::Quarantine { .. } => By::Quarantine,
        };
        if origin.socket.is_some_and(is_ordered) || self.brakes(origin, by) {
            return;
        }
        let ticket = Ticket { time, origin: origin.clone(), cause };
        let Some(socket) = origin.socket else {
            return self.over(ticket, &Outcome::Failed(EnforceError::Untouchable), told);
        };
        if self.order.len() >= MAX_ORDERED
            && let Some(old) = self.order.pop_front()
        {
            self.ordered.remove(&old);
        }
        self.ordered.insert(socket.name);
        self.order.push_back(socket.name);
        if let Err(ticket) = self.enforcer.order(socket, ticket) {
            self.over(ticket, &Outcome::Failed(EnforceError::Busy), told);
        }
    }

    /// Whether enough connections of this server were ended for this minute.
    fn brakes(&mut self, origin: &Origin, by: By) -> bool {
        let server = &origin.server;
        let pull = self.brakes.pull(server.as_ref(), by, Instant::now());
        if pull == Pull::First {
            let (limit, advice) = (self.brakes.per_minute(), by.advice());
            let message = format!(
                "{limit} connections were ended within a minute: others go on until it is over; \
                 {advice}"
            );
            tracing::error!(server = server.as_deref(), "{message}");
            self.live.notice(|| Notice {
                time: super::wall_time(),
                notice: "cut_withheld",
                server: server.clone(),
                message,
            });
        }
        pull != Pull::Free
    }

    /// What has become of orders, of quarantine and of the brakes.
    pub fn tick(&mut self, now: WallTime, told: &mut Vec<Entry>) {
        let outcomes: Vec<_> = self.enforcer.outcomes().collect();
        for (ticket, outcome) in outcomes {
            self.over(ticket, &outcome, told);
        }
        for change in self.quarantine.changes(now) {
            told.push(self.changed(&change, now));
        }
        for withheld in self.brakes.tick(Instant::now()) {
            told.push(self.withheld(withheld, now));
        }
    }

    fn withheld(&self, over: Withheld, now: WallTime) -> Entry {
        let Withheld { server, by, cuts, withheld } = over;
        let by = by.name();
        let message = format!("more connections were to be ended by {by} than may be in a minute");
        Entry::Occurrence(Occurrence {
            time: now,
            kind: OccurrenceKind::Connection,
            action: "cut_withheld",
            origin: Arc::new(Origin { server, ..Origin::clone(&self.host) }),
            message: Some(message),
            counts: vec![("cut".into(), cuts.into()), ("withheld".into(), withheld)],
        })
    }

    /// A row of a connection that has ended, or goes on though it should not.
    fn over(&mut self, ticket: Ticket, outcome: &Outcome, told: &mut Vec<Entry>) {
        let Ticket { time, origin, cause } = ticket;
        let mut message = match outcome {
            Outcome::Ended => "ended".to_owned(),
            Outcome::Gone => "had ended already; it was to be ended".to_owned(),
            Outcome::Failed(error) => {
                if let Some(socket) = origin.socket {
                    self.ordered.remove(&socket.name);
                }
                format!("goes on, {}; it was to be ended", in_full(error))
            }
        };
        let mut counts = Vec::new();
        match &cause {
            Cause::Rule { rule, of } => {
                message += &format!(" by rule {rule}; ");
                match of {
                    Occasion::Statement { sequence, may_have_committed } => {
                        let committed = *may_have_committed;
                        let fate = if committed { "may have committed" } else { "has failed" };
                        message += &format!("statement {sequence} {fate}");
                        counts.push(("statement".into(), *sequence));
                        counts.push(("may_have_committed".into(), u64::from(committed)));
                    }
                    Occasion::Outbound(destination) => {
                        message += &format!("the database connected to {destination} for it");
                        counts.push(("may_have_committed".into(), 1));
                    }
                }
            }
            Cause::Quarantine { number, reason } => {
                message += &format!(" by quarantine {number}: {reason}");
                counts.push(("quarantine".into(), *number));
            }
        }
        let failed = matches!(outcome, Outcome::Failed(_));
        if let (Cause::Rule { rule, .. }, false) = (&cause, failed) {
            message += &self.detain(&origin, rule, time);
        }
        let action = if failed { "cut_failed" } else { "cut" };
        match failed {
            true => tracing::error!(server = origin.server.as_deref(), "a connection {message}"),
            false => tracing::warn!(server = origin.server.as_deref(), "a connection {message}"),
        }
        let server = origin.server.clone();
        let words = format!("connection {message}");
        self.live.notice(|| Notice { time, notice: action, server, message: words });
        told.push(Entry::Occurrence(Occurrence {
            time,
            kind: OccurrenceKind::Connection,
            action,
            origin,
            message: Some(message),
            counts,
        }));
    }

    /// Puts whoever it was into quarantine; what to say of that.
    fn detain(&self, origin: &Origin, rule: &str, time: WallTime) -> String {
        let span = self.settings.quarantine.0;
        if span.is_zero() {
            return String::new();
        }
        let who = match Who::behind(origin) {
            Ok(who) => who,
            Err(why) => return format!("; nobody is in quarantine for it: {why}"),
        };
        let until =
            WallTime(time.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)));
        match self.quarantine.add(who, (time, until), &format!("rule {rule}"), "policy") {
            Ok(detainee) => format!("; {} is in quarantine until {until}", detainee.who),
            Err(error) => {
                tracing::error!(%error, "quarantine");
                format!("; quarantine: {}", in_full(&error))
            }
        }
    }

    fn changed(&self, change: &Change, now: WallTime) -> Entry {
        let (action, detainee, message) = match change {
            Change::Added { detainee, by } => {
                let (who, until, reason) = (&detainee.who, detainee.until, &detainee.reason);
                let message = format!("{who} is in quarantine until {until}, by {by}: {reason}");
                ("quarantined", detainee, message)
            }
            Change::Released { detainee, by } => (
                "released",
                detainee,
                format!("{} was let out of quarantine by {by}", detainee.who),
            ),
            Change::Expired { detainee } => {
                ("released", detainee, format!("the quarantine of {} is over", detainee.who))
            }
        };
        tracing::warn!("{message}");
        self.live.notice(|| Notice {
            time: now,
            notice: action,
            server: None,
            message: message.clone(),
        });
        Entry::Occurrence(Occurrence {
            time: now,
            kind: OccurrenceKind::Configuration,
            action,
            origin: self.host.clone(),
            message: Some(message),
            counts: vec![("quarantine".into(), detainee.number)],
        })
    }
}

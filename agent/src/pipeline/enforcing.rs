//! What becomes of a verdict that ends a connection, and of those who are in quarantine.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config,
    control::{Hub, Notice},
    enforce::{Change, EnforceError, Enforcer, Outcome, Quarantine, Who},
    event::{
        Entry, Occurrence, OccurrenceKind, Origin, Record, ServerSocket, SocketName, Verdict,
        WallTime, in_full,
    },
};

/// Connections that were ended lately: what they had on their way still comes in.
const MAX_ORDERED: usize = 4_096;
/// Servers whose cuts are counted.
const MAX_SERVERS: usize = 256;
const MINUTE: Duration = Duration::from_secs(60);

/// Asked by the recorder about each statement and each connection that begins.
pub struct Enforcing {
    enforcer: Enforcer<Ticket>,
    quarantine: Arc<Quarantine>,
    settings: config::Enforce,
    ordered: HashSet<SocketName>,
    order: VecDeque<SocketName>,
    brakes: HashMap<Option<Arc<str>>, Brake>,
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
    Rule {
        rule: Arc<str>,
        sequence: u64,
        /// It had not failed.
        may_have_committed: bool,
    },
    Quarantine {
        number: u64,
        reason: String,
    },
}

/// Of one server: a rule that is written badly doesn't take everybody down.
struct Brake {
    since: Instant,
    cuts: u32,
    withheld: u64,
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
            brakes: HashMap::new(),
            live,
            host,
        })
    }

    /// A statement that has been judged, or something of a connection: that it has begun, above all.
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
            Entry::Occurrence(_) | Entry::Finding(_) => {}
        }
    }

    fn statement(&mut self, record: &Record, told: &mut Vec<Entry>) {
        let judged = record.judgement.as_deref().filter(|found| found.verdict == Verdict::Cut);
        match judged.and_then(|found| found.rule.clone()) {
            Some(rule) => {
                let may_have_committed = record.error_code.is_none();
                let cause = Cause::Rule { rule, sequence: record.sequence, may_have_committed };
                self.cut(record.time, &record.origin, cause, told);
            }
            None => self.look(record.time, &record.origin, told),
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
        if origin.socket.is_some_and(is_ordered) || self.brakes(origin) {
            return;
        }
        let ticket = Ticket { time, origin: origin.clone(), cause };
        let Some(socket) = origin.socket else {
            return self.over(ticket, &Outcome::Failed(EnforceError::Unknown), told);
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
    fn brakes(&mut self, origin: &Origin) -> bool {
        if self.brakes.len() >= MAX_SERVERS && !self.brakes.contains_key(&origin.server) {
            return true;
        }
        let limit = self.settings.cuts_per_minute;
        let fresh = || Brake { since: Instant::now(), cuts: 0, withheld: 0 };
        let brake = self.brakes.entry(origin.server.clone()).or_insert_with(fresh);
        if brake.cuts < limit {
            brake.cuts += 1;
            return false;
        }
        brake.withheld += 1;
        if brake.withheld == 1 {
            let message = format!(
                "{limit} connections were ended within a minute: others go on until it is over; is \
                 a rule wrong?"
            );
            tracing::error!(server = origin.server.as_deref(), "{message}");
            let server = origin.server.clone();
            self.live.notice(|| Notice {
                time: super::wall_time(),
                notice: "cut_withheld",
                server,
                message,
            });
        }
        true
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
        let host = &self.host;
        self.brakes.retain(|server, brake| {
            let goes_on = brake.since.elapsed() < MINUTE;
            if !goes_on && brake.withheld > 0 {
                told.push(Entry::Occurrence(Occurrence {
                    time: now,
                    kind: OccurrenceKind::Connection,
                    action: "cut_withheld",
                    origin: Arc::new(Origin { server: server.clone(), ..Origin::clone(host) }),
                    message: Some(
                        "more connections were to be ended than may be in a minute".into(),
                    ),
                    counts: vec![
                        ("cut".into(), brake.cuts.into()),
                        ("withheld".into(), brake.withheld),
                    ],
                }));
            }
            goes_on
        });
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
            Cause::Rule { rule, sequence, may_have_committed } => {
                let fate = if *may_have_committed { "may have committed" } else { "has failed" };
                message += &format!(" by rule {rule}; statement {sequence} {fate}");
                counts.push(("statement".into(), *sequence));
                counts.push(("may_have_committed".into(), u64::from(*may_have_committed)));
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

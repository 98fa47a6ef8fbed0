//! Entries for the tests of this module: the fullest, the emptiest, and random ones.

use std::sync::Arc;

use crate::event::{
    Access, Analysis, Approval, ApprovalAction, Certainty, ClaimTag, Claims, ConnectionId,
    Destination, Effect, Effects, Engine, Entry, Episode, EpisodeAction, Facts, Finding, Judgement,
    Lane, LoginStrength, Occurrence, OccurrenceKind, Origin, Outbound, Parameter, Parent,
    PrincipalKind, Record, Remote, Severity, StatementKind, TableAccess, Trace, Transport, Verdict,
    WallTime,
};

pub fn full_origin() -> Origin {
    let text = |text: &str| Some(Arc::<str>::from(text));
    Origin {
        host: "db-1".into(),
        environment: text("production"),
        region: text("eu-1"),
        server: text("orders"),
        engine: Some(Engine::Postgresql),
        server_address: text("/run/postgresql/.s.PGSQL.5432"),
        server_port: Some(5432),
        transport: Some(Transport::UnixTls),
        lane: Some(Lane::Observed),
        connection: Some(ConnectionId(0x67ab_0000_0000_0001)),
        database: text("shop"),
        db_user: text("app"),
        application: text("psql"),
        client_address: text("127.0.0.1"),
        client_port: Some(40001),
        principal: None,
        principal_kind: None,
        principal_rule: None,
        initiator: None,
        groups: Arc::default(),
        past_guard: false,
        socket: None,
        pid: Some(4711),
        process_start: Some(WallTime(1_700_000_000_000_000)),
        exe: text("/usr/bin/psql"),
        command: text("psql shop"),
        uid: Some(1000),
        os_user: text("ada"),
        login_uid: Some(1000),
        login_user: text("ada"),
        login_strength: Some(LoginStrength::Strong),
        session: Some(3),
        tty: text("pts/0"),
        parents: [
            Parent { pid: 4000, comm: "bash".into() },
            Parent { pid: 1, comm: "init".into() },
        ]
        .into(),
        cgroup: text("/user.slice/session-3.scope"),
        unit: text("session-3.scope"),
        container: text("c0ffee"),
        pod: text("shop-0"),
        pooler: None,
        client_certainty: None,
    }
}

pub fn full_facts() -> Facts {
    Facts {
        text: "DELETE FROM songs WHERE id = ? AND title = ?".into(),
        fingerprint: 0x0123_4567_89ab_cdef,
        summary: "DELETE songs".into(),
        effects: Effects::from_iter([Effect::Read, Effect::Delete]),
        tables: vec![
            TableAccess { name: "songs".into(), access: Access::Read },
            TableAccess { name: "songs".into(), access: Access::Delete },
        ],
        columns: vec!["songs.id".into(), "songs.title".into()],
        functions: vec!["lower".into()],
        calls: Vec::new(),
        names: Vec::new(),
        traits: Vec::new(),
        settings: Vec::new(),
        keys: Vec::new(),
        restricted: Some(true),
        copy: None,
        analysis: Analysis::Complete,
    }
}

pub fn full_record() -> Record {
    Record {
        time: WallTime(1_764_000_000_000_001),
        duration_us: Some(1_234),
        first_byte_us: Some(1_000),
        origin: Arc::new(full_origin()),
        sequence: 7,
        claims: None,
        text: Some("DELETE FROM songs WHERE id = 5 AND title = 'naïve'".into()),
        standard_conforming_strings: Some(true),
        parameters: vec![
            Parameter::Text("5".to_owned()),
            Parameter::Null,
            Parameter::Text(String::new()),
        ],
        kind: StatementKind::Simple,
        facts: Some(Arc::new(full_facts())),
        keys: vec!["songs.id=00112233445566778899aabbccddeeff".into()],
        rows: Some(2),
        bytes_in: 60,
        bytes_out: 20,
        error_code: Some("23503".to_owned()),
        error_message: Some("key (id)=(5) is still referenced".to_owned()),
        redacted_error: Some("key (id)=(?) is still referenced".to_owned()),
        transaction: Some("failed"),
        judgement: None,
        approval: None,
        masked: Arc::default(),
        truncated_bytes: 1,
        lost_bytes: 2,
        joined_midstream: true,
    }
}

/// What a later version says more of: who it was, and what it said of itself.
pub fn principal_record() -> Record {
    let text = |text: &str| Some(Arc::<str>::from(text));
    let tag = |name: &str, value: &str| ClaimTag { name: name.into(), value: value.into() };
    Record {
        origin: Arc::new(Origin {
            host: "db-1".into(),
            principal: text("claude-code"),
            principal_kind: Some(PrincipalKind::Ai),
            principal_rule: text("builtin:claude-code"),
            initiator: text("ada"),
            ..Origin::default()
        }),
        claims: Some(Arc::new(Claims {
            tags: vec![tag("agent", "billing-bot"), tag("route", "/songs/17")],
            trace: Some(Trace {
                trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
                span_id: "b7ad6b7169203331".into(),
                is_sampled: true,
            }),
        })),
        ..empty_record()
    }
}

/// What came through a pooler.
pub fn pooled_origin() -> Origin {
    Origin {
        host: "db-1".into(),
        pooler: Some("pgbouncer-6432".into()),
        client_certainty: Some(Certainty::Shared),
        ..Origin::default()
    }
}

/// Nothing is known of it but that it was there.
pub fn empty_record() -> Record {
    Record {
        time: WallTime(-1),
        duration_us: None,
        first_byte_us: None,
        origin: Arc::new(Origin::default()),
        sequence: 0,
        claims: None,
        text: None,
        standard_conforming_strings: None,
        parameters: Vec::new(),
        kind: StatementKind::Simple,
        facts: None,
        keys: Vec::new(),
        rows: None,
        bytes_in: 0,
        bytes_out: 0,
        error_code: None,
        error_message: None,
        redacted_error: None,
        transaction: None,
        judgement: None,
        approval: None,
        masked: Arc::default(),
        truncated_bytes: 0,
        lost_bytes: 0,
        joined_midstream: false,
    }
}

pub fn occurrence() -> Occurrence {
    Occurrence {
        time: WallTime(1_764_000_000_000_002),
        kind: OccurrenceKind::Coverage,
        action: "minute",
        origin: Arc::new(Origin { host: "db-1".into(), ..Origin::default() }),
        message: Some("coverage of a minute".to_owned()),
        counts: vec![("seen_bytes".into(), 10), ("decoded_bytes".into(), 9)],
    }
}

pub fn judgement() -> Judgement {
    let finding = finding().finding;
    let rule = Some(finding.rule.clone());
    Judgement { verdict: Verdict::Flag, rule, findings: vec![finding] }
}

pub fn finding() -> Episode {
    Episode {
        time: WallTime(1_764_000_000_000_003),
        began: WallTime(1_764_000_000_000_001),
        action: EpisodeAction::Ended,
        finding: Finding {
            rule: "no-deletes".into(),
            verdict: Verdict::Deny,
            severity: Severity::High,
            message: "ask first".into(),
            dry_run: true,
        },
        origin: Arc::new(Origin { host: "db-1".into(), ..Origin::default() }),
        sequence: 7,
        facts: Some(Arc::new(full_facts())),
        destination: None,
        counts: vec![("statements".into(), 3), ("rows".into(), 9)],
    }
}

pub fn outbound() -> Outbound {
    Outbound {
        time: WallTime(1_764_000_000_000_004),
        action: EpisodeAction::Ended,
        origin: Arc::new(Origin { host: "db-1".into(), ..Origin::default() }),
        pid: 4711,
        destination: Arc::new(Destination {
            to: Remote::Ip([10, 0, 0, 1].into(), 443),
            region: Some("us-east-1".into()),
            server: Some("archive".into()),
            program: Some("/usr/bin/curl".into()),
            by_server: false,
        }),
        judgement: Some(Arc::new(judgement())),
        connections: Some(3),
    }
}

pub fn approval() -> Approval {
    Approval {
        time: WallTime(1_764_000_000_000_005),
        action: ApprovalAction::Executed,
        id: "apr-4f0x7k2m".into(),
        origin: Arc::new(Origin { host: "db-1".into(), ..Origin::default() }),
        rule: "hold-deletes".into(),
        verdict: Verdict::Hold,
        facts: full_record().facts,
        text: Some("naïve".into()),
        message: "the statement has failed: 40001".to_owned(),
        counts: vec![("needed".into(), 2)],
        rows: Some(7),
        duration_us: Some(1_500),
        error_code: Some("40001".to_owned()),
    }
}

/// Random entries (splitmix64): each field there or not, texts of odd lengths and letters. Origins and
/// facts are shared by some of them.
pub struct Entries {
    state: u64,
    origins: Vec<Arc<Origin>>,
    facts: Vec<Arc<Facts>>,
}

impl Entries {
    pub fn new(seed: u64) -> Self {
        let mut this = Self { state: seed, origins: Vec::new(), facts: Vec::new() };
        this.origins = (0..5).map(|_| Arc::new(this.origin())).collect();
        this.facts = (0..5).map(|_| Arc::new(this.facts())).collect();
        this
    }

    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    pub fn entry(&mut self) -> Entry {
        match self.below(8) {
            0 => self.episode(),
            1 => self.occurrence(),
            2 => self.outbound(),
            _ => Entry::Statement(self.record()),
        }
    }

    fn record(&mut self) -> Record {
        let transactions = [None, Some("idle"), Some("in_transaction"), Some("failed")];
        Record {
            time: WallTime(1_764_000_000_000_000 + self.below(1_000_000) as i64),
            duration_us: self.number(),
            first_byte_us: self.number(),
            origin: self.shared_origin(),
            sequence: self.draw(),
            claims: self.maybe(|this| Arc::new(this.claims())),
            text: self.text(),
            standard_conforming_strings: None,
            parameters: self
                .list(|this| this.maybe(Self::string).map_or(Parameter::Null, Parameter::Text)),
            kind: [StatementKind::Simple, StatementKind::Replication][self.below(2)],
            facts: self.maybe(|this| match this.below(7) {
                5.. => Arc::new(this.facts()),
                at => this.facts[at].clone(),
            }),
            keys: self.list(|this| this.string().into()),
            rows: self.number(),
            bytes_in: self.draw(),
            bytes_out: self.draw(),
            error_code: self.maybe(Self::string),
            error_message: self.maybe(Self::string),
            redacted_error: self.maybe(Self::string),
            transaction: transactions[self.below(4)],
            judgement: self.maybe(|this| Arc::new(this.judgement())),
            approval: self.text(),
            masked: Arc::default(),
            truncated_bytes: self.draw(),
            lost_bytes: self.draw(),
            joined_midstream: self.below(2) == 0,
        }
    }

    fn occurrence(&mut self) -> Entry {
        Entry::Occurrence(Occurrence {
            time: WallTime(1_764_000_000_000_000 + self.below(1_000_000) as i64),
            kind: OccurrenceKind::ALL[self.below(OccurrenceKind::ALL.len())],
            action: ["opened", "closed", "minute"][self.below(3)],
            origin: self.shared_origin(),
            message: self.maybe(Self::string),
            counts: self.list(|this| (this.string().into(), this.draw())),
        })
    }

    fn judgement(&mut self) -> Judgement {
        let findings = self.list(Self::finding);
        let rule = self.maybe(|this| this.string().into());
        Judgement { verdict: Verdict::ALL[self.below(Verdict::ALL.len())], rule, findings }
    }

    fn finding(&mut self) -> Finding {
        Finding {
            rule: self.string().into(),
            verdict: Verdict::ALL[self.below(Verdict::ALL.len())],
            severity: Severity::ALL[self.below(Severity::ALL.len())],
            message: self.string().into(),
            dry_run: self.below(2) == 0,
        }
    }

    fn episode(&mut self) -> Entry {
        Entry::Finding(Episode {
            time: WallTime(1_764_000_000_000_000 + self.below(1_000_000) as i64),
            began: WallTime(1_764_000_000_000_000),
            action: EpisodeAction::ALL[self.below(2)],
            finding: self.finding(),
            origin: self.shared_origin(),
            sequence: self.draw(),
            facts: self.maybe(|this| {
                let at = this.below(5);
                this.facts[at].clone()
            }),
            destination: self.maybe(|this| Arc::new(this.destination())),
            counts: self.list(|this| (this.string().into(), this.draw())),
        })
    }

    fn outbound(&mut self) -> Entry {
        Entry::Outbound(Outbound {
            time: WallTime(1_764_000_000_000_000 + self.below(1_000_000) as i64),
            action: EpisodeAction::ALL[self.below(2)],
            origin: self.shared_origin(),
            pid: self.draw() as u32,
            destination: Arc::new(self.destination()),
            judgement: self.maybe(|this| Arc::new(this.judgement())),
            connections: self.number(),
        })
    }

    fn destination(&mut self) -> Destination {
        Destination {
            to: match self.below(2) {
                0 => Remote::Ip((self.draw() as u32).to_be_bytes().into(), self.draw() as u16),
                _ => Remote::Unix(self.text()),
            },
            region: self.text(),
            server: self.text(),
            program: self.text(),
            by_server: self.below(2) == 0,
        }
    }

    fn shared_origin(&mut self) -> Arc<Origin> {
        match self.below(7) {
            5.. => Arc::new(self.origin()),
            at => self.origins[at].clone(),
        }
    }

    fn origin(&mut self) -> Origin {
        let mut origin = Origin { host: self.string().into(), ..Origin::default() };
        let full = full_origin();
        origin.environment = self.text();
        origin.server = self.text();
        origin.server_port = self.maybe(|this| this.draw() as u16);
        origin.transport = self.maybe(|this| Transport::ALL[this.below(4)]);
        origin.connection = self.maybe(|this| ConnectionId(this.draw()));
        origin.principal = self.text();
        origin.principal_kind = self.maybe(|this| PrincipalKind::ALL[this.below(4)]);
        origin.initiator = self.text();
        origin.process_start = self.maybe(|this| WallTime(this.draw() as i64));
        origin.pid = self.maybe(|this| this.draw() as u32);
        origin.login_strength = self.maybe(|_| LoginStrength::Weak);
        origin.parents =
            self.list(|this| Parent { pid: this.draw() as u32, comm: this.string().into() }).into();
        origin.unit = self.text();
        origin.pooler = self.text();
        origin.client_certainty = self.maybe(|this| Certainty::ALL[this.below(3)]);
        if self.below(2) == 0 { origin } else { Origin { host: origin.host, ..full } }
    }

    fn claims(&mut self) -> Claims {
        let mut names: Vec<String> = self.list(Self::string);
        names.sort();
        names.dedup();
        let tag = |name: String| ClaimTag { value: self.string().into(), name: name.into() };
        Claims {
            tags: names.into_iter().map(tag).collect(),
            trace: self.maybe(|this| Trace {
                trace_id: this.string().into(),
                span_id: this.string().into(),
                is_sampled: true,
            }),
        }
    }

    fn facts(&mut self) -> Facts {
        Facts {
            text: self.string().into(),
            fingerprint: self.draw(),
            summary: self.string().into(),
            effects: self.list(|this| Effect::ALL[this.below(17)]).into_iter().collect(),
            tables: self.list(|this| TableAccess {
                name: this.string().into(),
                access: Access::ALL[this.below(9)],
            }),
            columns: self.list(|this| this.string().into()),
            functions: self.list(|this| this.string().into()),
            calls: Vec::new(),
            names: Vec::new(),
            traits: Vec::new(),
            settings: Vec::new(),
            keys: Vec::new(),
            restricted: self.maybe(|this| this.below(2) == 0),
            copy: None,
            analysis: Analysis::ALL[self.below(8)],
        }
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| make(self))
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| make(self)).collect()
    }

    fn number(&mut self) -> Option<u64> {
        self.maybe(Self::draw)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        self.maybe(|this| this.string().into())
    }

    fn string(&mut self) -> String {
        let letters = ['a', ' ', '\'', '\n', '\0', 'ï', '漢', '🦀'];
        (0..self.below(20)).map(|_| letters[self.below(8)]).collect()
    }
}

//! Entries → the bytes of their groups.

use std::{fmt::Write as _, sync::Arc};

use crate::event::{
    Approval, Claims, Destination, Effect, Effects, Entry, Episode, Facts, Finding, LoginStrength,
    Occurrence, Origin, Outbound, Parameter, Parent, Record, StatementKind, TableAccess,
};
use crate::ledger::schema::COLUMNS;

/// Whether what people typed is kept as they typed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Literals {
    /// Texts and error messages with `?` for each literal, no parameters.
    #[default]
    Redacted,
    Kept,
}

/// What the facts group of a record is made from. Two records whose halves are the same have the same
/// group.
#[derive(Clone, Copy, Debug)]
pub struct TextHalf<'a> {
    pub facts: Option<&'a Arc<Facts>>,
    /// The text as it was sent, where that is kept.
    pub text: Option<&'a Arc<str>>,
    /// What is known of a statement without facts: it speaks the replication protocol.
    pub replicates: bool,
}

impl<'a> TextHalf<'a> {
    /// `None` where there is nothing to say.
    pub fn of(record: &'a Record, literals: Literals) -> Option<Self> {
        let half = Self {
            facts: record.facts.as_ref(),
            text: record.text.as_ref().filter(|_| literals == Literals::Kept),
            replicates: record.facts.is_none() && record.kind == StatementKind::Replication,
        };
        (half.facts.is_some() || half.text.is_some() || half.replicates).then_some(half)
    }

    /// Of the statement that an approval is about.
    pub fn of_approval(approval: &'a Approval, literals: Literals) -> Option<Self> {
        let facts = Some(approval.facts.as_ref()?);
        let text = approval.text.as_ref().filter(|_| literals == Literals::Kept);
        Some(Self { facts, text, replicates: false })
    }

    /// Of the statement that an episode began with; never its literals.
    pub fn of_finding(episode: &'a Episode) -> Option<Self> {
        let facts = Some(episode.facts.as_ref()?);
        Some(Self { facts, text: None, replicates: false })
    }
}

/// Appends the origin group.
pub fn encode_origin(origin: &Origin, out: &mut Vec<u8>) {
    let mut put = Writer(out);
    put.text(HOST, Some(&*origin.host).filter(|host| !host.is_empty()));
    put.text(ENVIRONMENT, origin.environment.as_deref());
    put.text(REGION, origin.region.as_deref());
    put.text(SERVER, origin.server.as_deref());
    put.text(ENGINE, origin.engine.map(|engine| engine.name()));
    put.text(SERVER_ADDRESS, origin.server_address.as_deref());
    put.u16(SERVER_PORT, origin.server_port);
    put.text(TRANSPORT, origin.transport.map(|transport| transport.name()));
    put.text(LANE, origin.lane.map(|lane| lane.name()));
    put.hex(CONNECTION, origin.connection.map(|connection| connection.0));
    put.text(DATABASE, origin.database.as_deref());
    put.text(DB_USER, origin.db_user.as_deref());
    put.text(APPLICATION, origin.application.as_deref());
    put.text(CLIENT_ADDRESS, origin.client_address.as_deref());
    put.u16(CLIENT_PORT, origin.client_port);
    put.text(PRINCIPAL, origin.principal.as_deref());
    put.text(PRINCIPAL_KIND, origin.principal_kind.map(|kind| kind.name()));
    put.text(PRINCIPAL_RULE, origin.principal_rule.as_deref());
    put.text(INITIATOR, origin.initiator.as_deref());
    put.u32(PID, origin.pid);
    put.time(PROCESS_START, origin.process_start.map(|start| start.0));
    put.text(EXE, origin.exe.as_deref());
    put.text(COMMAND, origin.command.as_deref());
    put.u32(UID, origin.uid);
    put.text(OS_USER, origin.os_user.as_deref());
    put.u32(LOGIN_UID, origin.login_uid);
    put.text(LOGIN_USER, origin.login_user.as_deref());
    put.text(LOGIN_STRENGTH, origin.login_strength.map(login_strength));
    put.u32(SESSION, origin.session);
    put.text(TTY, origin.tty.as_deref());
    put.parents(PARENTS, &origin.parents);
    put.text(CGROUP, origin.cgroup.as_deref());
    put.text(UNIT, origin.unit.as_deref());
    put.text(CONTAINER, origin.container.as_deref());
    put.text(POD, origin.pod.as_deref());
    put.text(POOLER, origin.pooler.as_deref());
    put.text(CLIENT_CERTAINTY, origin.client_certainty.map(|certainty| certainty.name()));
}

/// Appends the facts group.
pub fn encode_facts(half: TextHalf<'_>, out: &mut Vec<u8>) {
    let mut put = Writer(out);
    let Some(facts) = half.facts else {
        put.text(TEXT, half.text.map(|text| &**text));
        if half.replicates {
            put.effects(EFFECTS, Effects::from_iter([Effect::Replicate]));
        }
        return;
    };
    put.text(TEXT, Some(half.text.unwrap_or(&facts.text)));
    put.hex(FINGERPRINT, Some(facts.fingerprint));
    put.text(SUMMARY, Some(&*facts.summary).filter(|summary| !summary.is_empty()));
    put.effects(EFFECTS, facts.effects);
    put.tables(TABLES, &facts.tables);
    put.texts(COLUMNS_NAMED, &facts.columns);
    put.texts(FUNCTIONS, &facts.functions);
    put.bool(RESTRICTED, facts.restricted);
    put.text(ANALYSIS, Some(facts.analysis.name()));
}

/// Appends the row's own group.
pub fn encode_row(entry: &Entry, literals: Literals, out: &mut Vec<u8>) {
    match entry {
        Entry::Statement(record) => statement(record, literals, out),
        Entry::Occurrence(occurrence) => self::occurrence(occurrence, out),
        Entry::Finding(episode) => finding(episode, out),
        Entry::Outbound(outbound) => self::outbound(outbound, out),
        Entry::Approval(approval) => self::approval(approval, out),
    }
}

fn statement(record: &Record, literals: Literals, out: &mut Vec<u8>) {
    let kept = literals == Literals::Kept;
    let mut put = Writer(out);
    put.text(RECORD, Some("statement"));
    put.time(TIME, Some(record.time.0));
    put.u64(DURATION_US, record.duration_us);
    put.u64(FIRST_BYTE_US, record.first_byte_us);
    put.u64(SEQUENCE, Some(record.sequence));
    if let Some(claims) = &record.claims {
        put.claims(CLAIMS, claims, kept);
        let trace = claims.trace.as_ref();
        put.text(TRACE_ID, trace.map(|trace| &*trace.trace_id));
        put.text(SPAN_ID, trace.map(|trace| &*trace.span_id));
    }
    put.bool(TEXT_KNOWN, Some(record.text.is_some()));
    if kept && !record.parameters.is_empty() {
        put.parameters(PARAMETERS, &record.parameters);
    }
    if !record.keys.is_empty() {
        put.texts(KEYS, &record.keys);
    }
    put.u64(ROWS, record.rows);
    put.u64(BYTES_IN, Some(record.bytes_in));
    put.u64(BYTES_OUT, Some(record.bytes_out));
    put.text(ERROR_CODE, record.error_code.as_deref());
    let error = if kept { &record.error_message } else { &record.redacted_error };
    put.text(ERROR_MESSAGE, error.as_deref());
    put.text(TRANSACTION, record.transaction);
    if let Some(judgement) = &record.judgement {
        put.text(VERDICT, Some(judgement.verdict.name()));
        put.text(RULE, judgement.rule.as_deref());
    }
    put.text(APPROVAL, record.approval.as_deref());
    if !record.masked.is_empty() {
        put.texts(MASKED, &record.masked);
    }
    put.u64(TRUNCATED_BYTES, Some(record.truncated_bytes));
    put.u64(LOST_BYTES, Some(record.lost_bytes));
    put.bool(JOINED_MIDSTREAM, Some(record.joined_midstream));
}

fn approval(approval: &Approval, out: &mut Vec<u8>) {
    let mut put = Writer(out);
    put.text(RECORD, Some("approval"));
    put.time(TIME, Some(approval.time.0));
    put.u64(DURATION_US, approval.duration_us);
    put.u64(ROWS, approval.rows);
    put.text(ERROR_CODE, approval.error_code.as_deref());
    put.text(VERDICT, Some(approval.verdict.name()));
    put.text(RULE, Some(&approval.rule));
    put.text(APPROVAL, Some(&approval.id));
    put.text(ACTION, Some(approval.action.name()));
    put.text(MESSAGE, Some(&approval.message));
    put.counts(COUNTS, &approval.counts);
}

fn occurrence(occurrence: &Occurrence, out: &mut Vec<u8>) {
    let mut put = Writer(out);
    put.text(RECORD, Some(occurrence.kind.name()));
    put.time(TIME, Some(occurrence.time.0));
    put.text(ACTION, Some(occurrence.action));
    put.text(MESSAGE, occurrence.message.as_deref());
    put.counts(COUNTS, &occurrence.counts);
}

fn finding(episode: &Episode, out: &mut Vec<u8>) {
    let Finding { rule, verdict, severity, message, dry_run } = &episode.finding;
    let mut put = Writer(out);
    put.text(RECORD, Some("finding"));
    put.time(TIME, Some(episode.time.0));
    put.u64(SEQUENCE, Some(episode.sequence).filter(|sequence| *sequence > 0));
    put.text(VERDICT, Some(verdict.name()));
    put.text(RULE, Some(rule));
    put.text(ACTION, Some(episode.action.name()));
    match dry_run {
        true => put.text(MESSAGE, Some(&format!("dry-run: {message}"))),
        false => put.text(MESSAGE, Some(message)),
    }
    put.counts(COUNTS, &episode.counts);
    put.text(SEVERITY, Some(severity.name()));
    if let Some(destination) = &episode.destination {
        put.destination(destination, None);
    }
}

fn outbound(outbound: &Outbound, out: &mut Vec<u8>) {
    let mut put = Writer(out);
    put.text(RECORD, Some("destination"));
    put.time(TIME, Some(outbound.time.0));
    if let Some(judgement) = &outbound.judgement {
        put.text(VERDICT, Some(judgement.verdict.name()));
        put.text(RULE, judgement.rule.as_deref());
    }
    put.text(ACTION, Some(outbound.action.name()));
    put.text(MESSAGE, Some(&outbound.message()));
    if let Some(connections) = outbound.connections {
        put.counts(COUNTS, &[("connections".into(), connections)]);
    }
    put.destination(&outbound.destination, Some(outbound.pid));
}

fn login_strength(strength: LoginStrength) -> &'static str {
    match strength {
        LoginStrength::Unset => "unset",
        LoginStrength::Weak => "weak",
        LoginStrength::Strong => "strong",
    }
}

/// Where a column stands in the table; looked up when this is compiled.
#[expect(clippy::panic, reason = "it could only happen to the compiler")]
const fn column(name: &str) -> u8 {
    let mut index = 0;
    while index < COLUMNS.len() {
        if same(COLUMNS[index].name.as_bytes(), name.as_bytes()) {
            return index as u8;
        }
        index += 1;
    }
    panic!("no such column")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

macro_rules! columns {
    ($($name:ident = $column:literal),+ $(,)?) => { $(const $name: u8 = column($column);)+ };
}

columns! {
    RECORD = "record", TIME = "time", DURATION_US = "duration_us", FIRST_BYTE_US = "first_byte_us",
    HOST = "host", ENVIRONMENT = "environment", REGION = "region", SERVER = "server",
    ENGINE = "engine", SERVER_ADDRESS = "server_address", SERVER_PORT = "server_port",
    TRANSPORT = "transport", LANE = "lane", CONNECTION = "connection", SEQUENCE = "sequence",
    DATABASE = "database", DB_USER = "db_user", APPLICATION = "application",
    CLIENT_ADDRESS = "client_address", CLIENT_PORT = "client_port", PRINCIPAL = "principal",
    PRINCIPAL_KIND = "principal_kind", PRINCIPAL_RULE = "principal_rule", INITIATOR = "initiator",
    CLAIMS = "claims", TRACE_ID = "trace_id", SPAN_ID = "span_id", PID = "pid",
    PROCESS_START = "process_start", EXE = "exe", COMMAND = "command", UID = "uid",
    OS_USER = "os_user", LOGIN_UID = "login_uid", LOGIN_USER = "login_user",
    LOGIN_STRENGTH = "login_strength", SESSION = "session", TTY = "tty", PARENTS = "parents",
    CGROUP = "cgroup", UNIT = "unit", CONTAINER = "container", POD = "pod", TEXT = "text",
    TEXT_KNOWN = "text_known", PARAMETERS = "parameters", FINGERPRINT = "fingerprint",
    SUMMARY = "summary", EFFECTS = "effects", TABLES = "tables", COLUMNS_NAMED = "columns",
    FUNCTIONS = "functions", KEYS = "keys", RESTRICTED = "restricted", ANALYSIS = "analysis",
    ROWS = "rows", BYTES_IN = "bytes_in", BYTES_OUT = "bytes_out", ERROR_CODE = "error_code",
    ERROR_MESSAGE = "error_message", TRANSACTION = "transaction",
    TRUNCATED_BYTES = "truncated_bytes", LOST_BYTES = "lost_bytes",
    JOINED_MIDSTREAM = "joined_midstream", ACTION = "action", MESSAGE = "message",
    MASKED = "masked", COUNTS = "counts", VERDICT = "verdict", RULE = "rule", APPROVAL = "approval",
    SEVERITY = "severity",
    POOLER = "pooler", CLIENT_CERTAINTY = "client_certainty",
    DESTINATION_ADDRESS = "destination_address", DESTINATION_PORT = "destination_port",
    DESTINATION_REGION = "destination_region", DESTINATION_SERVER = "destination_server",
    DESTINATION_PID = "destination_pid", DESTINATION_PROGRAM = "destination_program",
    DESTINATION_BY_SERVER = "destination_by_server",
}

/// Appends columns that aren't null. The caller keeps them in the table's order.
pub(in crate::ledger) struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    pub fn column(&mut self, column: u8) {
        self.0.push(column);
    }

    pub fn time(&mut self, column: u8, value: Option<i64>) {
        self.fixed(column, value.map(i64::to_le_bytes));
    }

    pub fn u16(&mut self, column: u8, value: Option<u16>) {
        self.fixed(column, value.map(u16::to_le_bytes));
    }

    pub fn u32(&mut self, column: u8, value: Option<u32>) {
        self.fixed(column, value.map(u32::to_le_bytes));
    }

    pub fn u64(&mut self, column: u8, value: Option<u64>) {
        self.fixed(column, value.map(u64::to_le_bytes));
    }

    pub fn bool(&mut self, column: u8, value: Option<bool>) {
        self.fixed(column, value.map(|value| [u8::from(value)]));
    }

    pub fn text(&mut self, column: u8, value: Option<&str>) {
        if let Some(value) = value {
            self.column(column);
            self.bare_text(value);
        }
    }

    fn fixed<const N: usize>(&mut self, column: u8, value: Option<[u8; N]>) {
        if let Some(value) = value {
            self.column(column);
            self.0.extend_from_slice(&value);
        }
    }

    /// Sixteen hexadecimal digits.
    fn hex(&mut self, column: u8, value: Option<u64>) {
        if let Some(value) = value {
            self.column(column);
            self.count(16);
            let mut digits = Digits { bytes: [0; 16], len: 0 };
            // Sixteen digits are what fits.
            let _ = write!(digits, "{value:016x}");
            self.0.extend_from_slice(&digits.bytes);
        }
    }

    fn texts(&mut self, column: u8, values: &[Arc<str>]) {
        self.column(column);
        self.count(values.len());
        values.iter().for_each(|value| self.bare_text(value));
    }

    fn parameters(&mut self, column: u8, values: &[Parameter]) {
        self.column(column);
        self.count(values.len());
        values.iter().for_each(|value| self.nullable_text(value.shown().as_deref()));
    }

    fn effects(&mut self, column: u8, effects: Effects) {
        self.column(column);
        self.count(effects.iter().count());
        effects.iter().for_each(|effect| self.bare_text(effect.name()));
    }

    fn tables(&mut self, column: u8, tables: &[TableAccess]) {
        self.column(column);
        self.count(tables.len());
        for table in tables {
            self.bare_text(&table.name);
            self.bare_text(table.access.name());
        }
    }

    /// None is as good as not known: every process but init has a parent.
    fn parents(&mut self, column: u8, parents: &[Parent]) {
        if parents.is_empty() {
            return;
        }
        self.column(column);
        self.count(parents.len());
        for parent in parents {
            self.0.extend_from_slice(&parent.pid.to_le_bytes());
            self.bare_text(&parent.comm);
        }
    }

    /// They come in ascending order of their names, each once.
    fn claims(&mut self, column: u8, claims: &Claims, literals: bool) {
        if claims.tags.is_empty() {
            return;
        }
        self.column(column);
        self.count(claims.tags.len());
        for (name, value) in claims.shown(literals) {
            self.bare_text(name);
            self.bare_text(value);
        }
    }

    /// Sorts them; of two with one name, the first counts.
    fn counts(&mut self, column: u8, counts: &[(Arc<str>, u64)]) {
        if counts.is_empty() {
            return;
        }
        let mut counts: Vec<&(Arc<str>, u64)> = counts.iter().collect();
        counts.sort_by(|(a, _), (b, _)| a.cmp(b));
        counts.dedup_by(|(a, _), (b, _)| a == b);
        self.column(column);
        self.count(counts.len());
        for (name, value) in counts {
            self.bare_text(name);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn destination(&mut self, destination: &Destination, pid: Option<u32>) {
        self.text(DESTINATION_ADDRESS, destination.address().as_deref());
        self.u16(DESTINATION_PORT, destination.port());
        self.text(DESTINATION_REGION, destination.region.as_deref());
        self.text(DESTINATION_SERVER, destination.server.as_deref());
        self.u32(DESTINATION_PID, pid);
        self.text(DESTINATION_PROGRAM, destination.program.as_deref());
        self.bool(DESTINATION_BY_SERVER, Some(destination.by_server));
    }

    /// No list or text reaches 4 GiB: what comes from outside is captured up to a limit.
    pub fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u32).to_le_bytes());
    }

    pub fn bare_text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub fn nullable_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.bare_text(text),
            None => self.0.extend_from_slice(&super::decode::NULL_ELEMENT.to_le_bytes()),
        }
    }

    pub fn bare_u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bare_u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

struct Digits {
    bytes: [u8; 16],
    len: usize,
}

impl std::fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

//! The ledger's columns: names, types and the group that each belongs to, for this version and all before.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

/// Written into every file; a reader of a later version knows what was not there yet.
pub const VERSION: u32 = 1;

/// What a column is said of: rows of one connection share `Origin`, rows of one text share `Facts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Row,
    Origin,
    Facts,
}

/// The type of a column's values, of which each may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Microseconds since 1970, UTC.
    Time,
    U16,
    U32,
    U64,
    Bool,
    Text,
    Texts,
    /// `list<struct<name: text, access: text>>`
    Tables,
    /// `list<struct<pid: u32, comm: text>>`
    Parents,
    /// `map<text, text>`
    Claims,
    /// `map<text, u64>`
    Counts,
}

#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub group: Group,
    pub kind: Kind,
}

const fn column(name: &'static str, group: Group, kind: Kind) -> Column {
    Column { name, group, kind }
}

use Group::{Facts as F, Origin as O, Row as R};

/// In the order of the file.
pub const COLUMNS: &[Column] = &[
    // `statement`, `finding`, `destination`, `approval`, or an `OccurrenceKind`.
    column("record", R, Kind::Text),
    column("time", R, Kind::Time),
    column("duration_us", R, Kind::U64),
    column("first_byte_us", R, Kind::U64),
    column("host", O, Kind::Text),
    column("environment", O, Kind::Text),
    column("region", O, Kind::Text),
    column("server", O, Kind::Text),
    column("engine", O, Kind::Text),
    column("server_address", O, Kind::Text),
    column("server_port", O, Kind::U16),
    column("transport", O, Kind::Text),
    column("lane", O, Kind::Text),
    // Sixteen hexadecimal digits.
    column("connection", O, Kind::Text),
    column("sequence", R, Kind::U64),
    column("database", O, Kind::Text),
    column("db_user", O, Kind::Text),
    column("application", O, Kind::Text),
    column("client_address", O, Kind::Text),
    column("client_port", O, Kind::U16),
    column("principal", O, Kind::Text),
    column("principal_kind", O, Kind::Text),
    column("principal_rule", O, Kind::Text),
    column("initiator", O, Kind::Text),
    column("pid", O, Kind::U32),
    column("process_start", O, Kind::Time),
    column("exe", O, Kind::Text),
    column("command", O, Kind::Text),
    column("uid", O, Kind::U32),
    column("os_user", O, Kind::Text),
    column("login_uid", O, Kind::U32),
    column("login_user", O, Kind::Text),
    column("login_strength", O, Kind::Text),
    column("session", O, Kind::U32),
    column("tty", O, Kind::Text),
    column("parents", O, Kind::Parents),
    column("cgroup", O, Kind::Text),
    column("unit", O, Kind::Text),
    column("container", O, Kind::Text),
    column("pod", O, Kind::Text),
    column("claims", R, Kind::Claims),
    column("trace_id", R, Kind::Text),
    column("span_id", R, Kind::Text),
    column("text", F, Kind::Text),
    column("text_known", R, Kind::Bool),
    column("parameters", R, Kind::Texts),
    // Sixteen hexadecimal digits.
    column("fingerprint", F, Kind::Text),
    column("summary", F, Kind::Text),
    column("effects", F, Kind::Texts),
    column("tables", F, Kind::Tables),
    column("columns", F, Kind::Texts),
    column("functions", F, Kind::Texts),
    // `table.column=` and a keyed hash of the value.
    column("keys", R, Kind::Texts),
    column("restricted", F, Kind::Bool),
    column("analysis", F, Kind::Text),
    column("rows", R, Kind::U64),
    column("bytes_in", R, Kind::U64),
    column("bytes_out", R, Kind::U64),
    column("error_code", R, Kind::Text),
    column("error_message", R, Kind::Text),
    column("transaction", R, Kind::Text),
    column("verdict", R, Kind::Text),
    column("rule", R, Kind::Text),
    column("approval", R, Kind::Text),
    column("masked", R, Kind::Texts),
    column("truncated_bytes", R, Kind::U64),
    column("lost_bytes", R, Kind::U64),
    column("joined_midstream", R, Kind::Bool),
    // Of rows that are no statements.
    column("action", R, Kind::Text),
    column("message", R, Kind::Text),
    column("counts", R, Kind::Counts),
    // Of findings.
    column("severity", R, Kind::Text),
    // Of what came through a pooler.
    column("pooler", O, Kind::Text),
    column("client_certainty", O, Kind::Text),
    // Of what a database's own processes connect to, and of findings about it: an address or the path of a
    // unix socket, …
    column("destination_address", R, Kind::Text),
    column("destination_port", R, Kind::U16),
    column("destination_region", R, Kind::Text),
    // … the watched server that it is, and which process connects: the server's own, or a program's.
    column("destination_server", R, Kind::Text),
    column("destination_pid", R, Kind::U32),
    column("destination_program", R, Kind::Text),
    column("destination_by_server", R, Kind::Bool),
];

/// The columns as Arrow knows them.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let fields: Vec<Field> = COLUMNS
            .iter()
            .map(|column| Field::new(column.name, data_type(column.kind), true))
            .collect();
        Arc::new(Schema::new(fields))
    });
    SCHEMA.clone()
}

/// A column of that kind as Arrow knows it.
pub fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::U16 => DataType::UInt16,
        Kind::U32 => DataType::UInt32,
        Kind::U64 => DataType::UInt64,
        Kind::Bool => DataType::Boolean,
        Kind::Text => DataType::Utf8,
        Kind::Texts => list(DataType::Utf8),
        Kind::Tables => list(structure([("name", DataType::Utf8), ("access", DataType::Utf8)])),
        Kind::Parents => list(structure([("pid", DataType::UInt32), ("comm", DataType::Utf8)])),
        Kind::Claims => map(DataType::Utf8),
        Kind::Counts => map(DataType::UInt64),
    }
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, true)))
}

fn structure<const N: usize>(fields: [(&str, DataType); N]) -> DataType {
    let fields = fields.map(|(name, kind)| Field::new(name, kind, true));
    DataType::Struct(Fields::from(fields.to_vec()))
}

fn map(value: DataType) -> DataType {
    let entries = DataType::Struct(Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", value, true),
    ]));
    DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
}

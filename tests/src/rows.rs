//! Rows as a busy host's ledger has them, written as sealed segments: for tests and benchmarks.
//!
//! The same seed gives the same rows. What is said of a connection or of a text is made once and
//! dealt out, so that ten million rows take seconds.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result};
use arrow_array::{
    ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt16Array,
    UInt32Array, UInt64Array,
    builder::{ListBuilder, StringBuilder, StructBuilder},
    new_null_array,
};
use arrow_schema::{DataType, Field, Fields};
use arrow_select::take::take;
use dbwarden::{
    event::WallTime,
    ledger::{
        layout::Layout,
        log::Header,
        schema::{VERSION, schema},
        seal::SegmentWriter,
    },
};

/// How many rows, over which time, in how many files.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    pub n_rows: u64,
    /// Microseconds since 1970.
    pub first_us: i64,
    pub last_us: i64,
    pub segment_rows: u64,
    pub seed: u64,
}

/// User, executable, unit, database user, database, address.
pub type Sender = (
    &'static str,
    &'static str,
    Option<&'static str>,
    &'static str,
    &'static str,
    Option<&'static str>,
);

/// The first half is people.
pub const SENDERS: [Sender; 12] = [
    ("alice", "/usr/bin/psql", Some("session-3.scope"), "alice", "orders", None),
    ("bob", "/usr/bin/psql", Some("session-9.scope"), "bob", "orders", None),
    ("carol", "/usr/bin/python3.11", Some("session-12.scope"), "analyst", "orders", None),
    ("dave", "/usr/bin/pg_dump", Some("session-14.scope"), "postgres", "billing", None),
    ("erin", "/usr/bin/node", Some("user@1004.service"), "erin", "billing", None),
    ("frank", "/usr/bin/psql", Some("session-21.scope"), "frank", "orders", None),
    ("www-data", "/usr/sbin/php-fpm8.2", Some("php8.2-fpm.service"), "shop", "orders", None),
    ("shop", "/opt/shop/api", Some("shop-api.service"), "shop", "orders", None),
    ("shop", "/opt/shop/worker", Some("shop-worker.service"), "shop", "orders", None),
    ("billing", "/opt/billing/run", Some("billing.service"), "billing", "billing", None),
    ("postgres", "/usr/bin/vacuumdb", Some("maintenance.service"), "postgres", "orders", None),
    ("", "", None, "report", "billing", Some("10.0.0.7")),
];

/// Tables that statements are about.
pub const TABLES: [&str; 40] = [
    "accounts",
    "addresses",
    "audit",
    "baskets",
    "branches",
    "brands",
    "campaigns",
    "carriers",
    "categories",
    "coupons",
    "customers",
    "deliveries",
    "discounts",
    "events",
    "history",
    "images",
    "inventory",
    "invoices",
    "items",
    "ledgers",
    "locations",
    "messages",
    "notes",
    "orders",
    "payments",
    "prices",
    "products",
    "profiles",
    "refunds",
    "returns",
    "reviews",
    "roles",
    "sessions",
    "shipments",
    "stocks",
    "suppliers",
    "tags",
    "tellers",
    "vouchers",
    "warehouses",
];

/// Connections that are open in turn, of each sender.
const CONNECTIONS: usize = 16;

/// Texts of one table: text, effect, access; and how often one comes, in a thousand.
const TEXTS: [(&str, &str, &str, u64); 9] = [
    ("SELECT * FROM {} WHERE id = ?", "read", "read", 520),
    ("SELECT count(*) FROM {} WHERE created_at > ?", "read", "read", 180),
    (
        "SELECT id, name FROM {} WHERE customer_id = ? ORDER BY created_at DESC LIMIT ?",
        "read",
        "read",
        120,
    ),
    ("UPDATE {} SET amount = amount + ? WHERE id = ?", "update", "update", 90),
    ("INSERT INTO {} (customer_id, amount, created_at) VALUES (?, ?, ?)", "insert", "insert", 70),
    ("DELETE FROM {} WHERE id = ?", "delete", "delete", 15),
    ("COPY {} TO STDOUT", "copy-out", "read", 3),
    ("TRUNCATE {}", "truncate", "truncate", 1),
    ("ALTER TABLE {} ADD COLUMN note text", "define", "define", 1),
];

impl Rows {
    /// Writes them to `ledger/segments`; the oldest segment is number 1.
    pub fn write(&self, ledger: &Path) -> Result<()> {
        let layout = Layout::new(ledger);
        fs::create_dir_all(layout.segment_dir())?;
        let (origins, facts) = (origins()?, facts()?);
        let mut random = Random(self.seed | 1);
        let step = (self.last_us - self.first_us) as f64 / self.n_rows.max(1) as f64;
        let time = |row: u64| self.first_us + (row as f64 * step) as i64;
        let mut from = 0;
        for number in 1.. {
            let to = (from + self.segment_rows.max(1)).min(self.n_rows);
            if from == to {
                break;
            }
            let header = Header {
                schema_version: VERSION,
                segment: number,
                time: WallTime(time(from)),
                previous: [0; 32],
                host: "db1".into(),
            };
            let unfinished = layout.unfinished_segment(number);
            let mut writer = SegmentWriter::create(&unfinished, &header)?;
            for start in (from..to).step_by(BATCH) {
                let rows = start..(start + BATCH as u64).min(to);
                let times = rows.clone().map(time).collect();
                writer.write(&batch(times, rows.start, &origins, &facts, &mut random)?)?;
            }
            writer.finish([0; 32])?;
            let (first, last) = (WallTime(time(from)), WallTime(time(to - 1)));
            fs::rename(unfinished, layout.segment(number, first, last))?;
            from = to;
        }
        Ok(())
    }
}

/// Rows made at once.
const BATCH: usize = 65_536;

/// One column for each field of the schema; those of a pool are taken from it.
fn batch(
    times: Vec<i64>,
    first_row: u64,
    origins: &[(&'static str, ArrayRef)],
    facts: &[(&'static str, ArrayRef)],
    random: &mut Random,
) -> Result<RecordBatch> {
    let n = times.len();
    let sender = |random: &mut Random| {
        // People are one row in a hundred.
        let people = SENDERS.len() / 2;
        match random.below(100) {
            0 => random.below(people as u64) as usize,
            _ => people + random.below((SENDERS.len() - people) as u64) as usize,
        }
    };
    let origin = (0..n)
        .map(|_| (sender(random) * CONNECTIONS) as u32 + random.below(CONNECTIONS as u64) as u32);
    let origin: UInt32Array = origin.collect::<Vec<_>>().into();
    let text: UInt32Array = (0..n).map(|_| text(random)).collect::<Vec<_>>().into();
    let failed: Vec<bool> = (0..n).map(|_| random.below(200) == 0).collect();
    let numbers = |random: &mut Random, most: u64| -> ArrayRef {
        Arc::new(UInt64Array::from((0..n).map(|_| random.below(most)).collect::<Vec<_>>()))
    };
    let where_failed = |word: &str| -> ArrayRef {
        let words = failed.iter().map(|failed| failed.then_some(word));
        Arc::new(words.collect::<StringArray>())
    };
    let columns = schema()
        .fields()
        .iter()
        .map(|field| {
            let name = field.name().as_str();
            let pooled = |pool: &[(&'static str, ArrayRef)]| {
                pool.iter().find(|(column, _)| *column == name).map(|(_, column)| column.clone())
            };
            if let Some(column) = pooled(origins) {
                return Ok(take(&column, &origin, None)?);
            }
            if let Some(column) = pooled(facts) {
                return Ok(take(&column, &text, None)?);
            }
            Ok(match name {
                "record" => Arc::new(StringArray::from(vec!["statement"; n])) as ArrayRef,
                "time" => {
                    Arc::new(TimestampMicrosecondArray::from(times.clone()).with_timezone("UTC"))
                }
                "sequence" => {
                    Arc::new(UInt64Array::from_iter_values(first_row + 1..first_row + 1 + n as u64))
                }
                "duration_us" => numbers(random, 20_000),
                "first_byte_us" => numbers(random, 10_000),
                "rows" => numbers(random, 50),
                "bytes_in" => numbers(random, 300),
                "bytes_out" => numbers(random, 4_000),
                "text_known" => Arc::new(BooleanArray::from(vec![true; n])),
                "joined_midstream" => Arc::new(BooleanArray::from(vec![false; n])),
                "truncated_bytes" | "lost_bytes" => Arc::new(UInt64Array::from(vec![0; n])),
                "error_code" => where_failed("40001"),
                "error_message" => where_failed("could not serialize access"),
                _ => new_null_array(field.data_type(), n),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(schema(), columns)?)
}

/// Some tables and some texts come far more often than others.
fn text(random: &mut Random) -> u32 {
    let table = (random.below(TABLES.len() as u64) * random.below(TABLES.len() as u64 + 1))
        / TABLES.len() as u64;
    let mut left = random.below(TEXTS.iter().map(|(.., share)| share).sum());
    let kind = TEXTS.iter().position(|(.., share)| {
        let hit = left < *share;
        left = left.saturating_sub(*share);
        hit
    });
    u32::try_from(table as usize * TEXTS.len() + kind.unwrap_or(0)).unwrap_or(0)
}

fn origins() -> Result<Vec<(&'static str, ArrayRef)>> {
    let mut number = 0;
    let connections: Vec<_> = SENDERS
        .iter()
        .flat_map(|sender| std::iter::repeat_n(sender, CONNECTIONS))
        .map(|sender| {
            number += 1;
            (sender, number)
        })
        .collect();
    let texts = |of: &dyn Fn(&Sender, u64) -> Option<String>| {
        let texts = connections.iter().map(|(sender, number)| of(sender, *number));
        Arc::new(texts.collect::<StringArray>()) as ArrayRef
    };
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let port: UInt16Array = connections.iter().map(|_| Some(5_432)).collect();
    let pids: UInt32Array = connections
        .iter()
        .map(|(sender, n)| (!sender.0.is_empty()).then_some(1_000 + *n as u32))
        .collect();
    Ok(vec![
        ("host", texts(&|_, _| Some("db1".into()))),
        ("environment", texts(&|_, _| Some("production".into()))),
        ("server", texts(&|_, _| Some("main".into()))),
        ("engine", texts(&|_, _| Some("postgresql".into()))),
        ("server_port", Arc::new(port)),
        (
            "transport",
            texts(&|sender, _| Some(if sender.5.is_some() { "tls" } else { "unix" }.into())),
        ),
        ("lane", texts(&|_, _| Some("observed".into()))),
        (
            "connection",
            texts(&|_, n| Some(format!("{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))),
        ),
        ("database", texts(&|sender, _| Some(sender.4.into()))),
        ("db_user", texts(&|sender, _| Some(sender.3.into()))),
        ("application", texts(&|sender, _| sender.1.rsplit('/').next().and_then(filled))),
        ("client_address", texts(&|sender, _| sender.5.map(str::to_owned))),
        ("pid", Arc::new(pids)),
        ("exe", texts(&|sender, _| filled(sender.1))),
        ("command", texts(&|sender, _| filled(sender.1))),
        ("os_user", texts(&|sender, _| filled(sender.0))),
        ("unit", texts(&|sender, _| sender.2.map(str::to_owned))),
    ])
}

fn facts() -> Result<Vec<(&'static str, ArrayRef)>> {
    /// Text, table, effect, access.
    type Said = (String, &'static str, &'static str, &'static str);
    let all: Vec<Said> = TABLES
        .iter()
        .flat_map(|table| {
            TEXTS.iter().map(move |(text, effect, access, _)| {
                (text.replace("{}", table), *table, *effect, *access)
            })
        })
        .collect();
    let texts = |of: &dyn Fn(usize, &Said) -> String| {
        let texts = all.iter().enumerate().map(|(at, fact)| Some(of(at, fact)));
        Arc::new(texts.collect::<StringArray>()) as ArrayRef
    };
    let element = |name: &str| match schema().field_with_name(name).map(Field::data_type) {
        Ok(DataType::List(element)) => Ok(element.clone()),
        other => anyhow::bail!("{name} is {other:?} and no list"),
    };
    let mut effects = ListBuilder::new(StringBuilder::new()).with_field(element("effects")?);
    let pair: Fields =
        vec![Field::new("name", DataType::Utf8, true), Field::new("access", DataType::Utf8, true)]
            .into();
    let mut tables =
        ListBuilder::new(StructBuilder::from_fields(pair, 0)).with_field(element("tables")?);
    for (_, table, effect, access) in &all {
        effects.append_value([Some(effect)]);
        let pair = tables.values();
        pair.field_builder::<StringBuilder>(0).context("name")?.append_value(table);
        pair.field_builder::<StringBuilder>(1).context("access")?.append_value(access);
        pair.append(true);
        tables.append(true);
    }
    Ok(vec![
        ("text", texts(&|_, fact| fact.0.clone())),
        (
            "fingerprint",
            texts(&|at, _| format!("{:016x}", (at as u64 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93))),
        ),
        (
            "summary",
            texts(&|_, fact| {
                let verb = fact.0.split(' ').next().unwrap_or_default();
                format!("{verb} {}", fact.1)
            }),
        ),
        ("effects", Arc::new(effects.finish())),
        ("tables", Arc::new(tables.finish())),
        ("analysis", texts(&|_, _| "complete".into())),
    ])
}

/// Good enough to look busy, and the same every time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most.max(1)
    }
}

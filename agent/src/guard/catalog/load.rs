//! Reads a [`Snapshot`](super::snapshot::Snapshot)'s rows from a database.

use futures_util::future::try_join_all;
use tokio_postgres::{Client, Error, Row, error::SqlState};

use super::snapshot::{Code, Column, Events, Function, Kind, Relation, Rows, What};
use crate::event::Access;

/// Of each sort. A database with more is not looked into.
const MAX_ROWS: usize = 50_000;

#[derive(Debug, thiserror::Error)]
pub(in crate::guard) enum Unread {
    #[error(transparent)]
    Asking(#[from] Error),
    #[error("the database has more than {MAX_ROWS} {0}: it is not looked into")]
    TooMany(&'static str),
}

impl Unread {
    /// A client's lock was in the way.
    pub(super) fn is_held_up(&self) -> bool {
        matches!(self, Self::Asking(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE))
    }
}

/// Definitions that are longer are not read, and count as unknown code.
const DEFINITION: &str = "65536";

/// Stands for the definition of a view that somebody is changing, or what it is of: PostgreSQL would wait for them.
pub(super) const TORN: &str = "?";

const RELATIONS: &str = "
    WITH held AS MATERIALIZED (
        SELECT DISTINCT relation FROM pg_locks
        WHERE granted AND mode = 'AccessExclusiveLock' AND relation >= 16384
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ), torn AS MATERIALIZED (
        SELECT relation AS oid FROM held
        UNION
        SELECT r.ev_class FROM held
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = held.relation
            AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = d.objid
    )
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.reltuples::float8,
        CASE WHEN c.relkind NOT IN ('v', 'm') OR e.objid IS NOT NULL THEN NULL
            WHEN EXISTS (SELECT FROM torn WHERE torn.oid = c.oid) THEN '?'
            ELSE left(pg_get_viewdef(c.oid), {definition}) END
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_depend e ON e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.objsubid = 0
        AND e.deptype = 'e'
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
    ORDER BY c.oid LIMIT {limit}";

const FUNCTIONS: &str = "
    SELECT p.oid, n.nspname::text, p.proname::text,
        CASE WHEN l.lanname IN ('sql', 'plpgsql') AND e.objid IS NULL AND p.prokind IN ('f', 'p')
            AND length(p.prosrc) < {definition} THEN pg_get_functiondef(p.oid) END,
        x.extname::text, (p.pronargs - p.pronargdefaults)::int4,
        CASE WHEN p.provariadic <> 0 THEN 1000 ELSE p.pronargs END::int4,
        ARRAY(SELECT f FROM unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn,
            a.aggmfinalfn, a.aggserialfn, a.aggdeserialfn]::oid[]) f WHERE f >= 16384),
        p.prokind = 'a'
    FROM pg_proc p
    JOIN pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_language l ON l.oid = p.prolang
    LEFT JOIN pg_depend e ON e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e'
    LEFT JOIN pg_extension x ON x.oid = e.refobjid
    LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
    WHERE p.oid >= 16384
    ORDER BY p.oid LIMIT {limit}";

const OPERATORS: &str = "
    SELECT o.oprname::text, o.oprcode::oid FROM pg_operator o
    WHERE o.oid >= 16384 AND o.oprcode <> 0
    ORDER BY o.oid LIMIT {limit}";

const AMBIENT: &str = "
    SELECT c.castfunc::oid FROM pg_cast c
    WHERE c.oid >= 16384 AND c.castfunc >= 16384 AND NOT EXISTS (SELECT FROM pg_depend e
        WHERE e.classid = 'pg_cast'::regclass AND e.objid = c.oid AND e.deptype = 'e')
    UNION
    SELECT amproc::oid FROM pg_amproc WHERE amproc >= 16384
    UNION
    SELECT o.oprcode::oid FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr WHERE o.oprcode >= 16384
    UNION
    SELECT d.refobjid FROM pg_depend d JOIN pg_constraint c ON c.oid = d.objid
    WHERE d.classid = 'pg_constraint'::regclass AND d.refclassid = 'pg_proc'::regclass
        AND d.refobjid >= 16384 AND c.contypid <> 0
    ORDER BY 1 LIMIT {limit}";

const PROGRAMS: &str = "
    SELECT ftrelid FROM pg_foreign_table
    WHERE EXISTS (SELECT FROM pg_options_to_table(ftoptions) WHERE option_name = 'program')
    ORDER BY 1 LIMIT {limit}";

const ON_DEFINITION: &str = "
    SELECT evtfoid FROM pg_event_trigger WHERE evtenabled <> 'D' AND evtfoid >= 16384
    ORDER BY 1 LIMIT {limit}";

const TRIGGERS: &str = "
    SELECT t.tgrelid, t.tgtype::int4, t.tgfoid, pg_get_triggerdef(t.oid) FROM pg_trigger t
    WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgrelid >= 16384
    ORDER BY t.oid LIMIT {limit}";

const RULES: &str = "
    SELECT r.ev_class, r.ev_type::text, left(pg_get_ruledef(r.oid), {definition}), r.is_instead
    FROM pg_rewrite r
    WHERE r.rulename <> '_RETURN' AND r.ev_enabled <> 'D' AND r.ev_class >= 16384
    ORDER BY r.oid LIMIT {limit}";

/// What calls something, and not only what everybody's identifiers and times come from.
const EXPRESSIONS: &str = r"
    SELECT x.of, x.at, x.expression FROM (
        SELECT d.adrelid, 'default', pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
        UNION ALL
        SELECT a.attrelid, 'default', pg_get_expr(t.typdefaultbin, 0) FROM pg_type t
        JOIN pg_attribute a ON a.atttypid = t.oid AND a.attnum > 0 WHERE t.typdefaultbin IS NOT NULL
        UNION ALL
        SELECT c.conrelid, 'write', pg_get_expr(c.conbin, c.conrelid) FROM pg_constraint c
        WHERE c.contype = 'c' AND c.conrelid <> 0
        UNION ALL
        SELECT i.indrelid, 'write', pg_get_expr(x.e, i.indrelid) FROM pg_index i
        CROSS JOIN LATERAL (VALUES (i.indexprs), (i.indpred)) x (e) WHERE x.e IS NOT NULL
        UNION ALL
        SELECT t.partrelid, 'write', pg_get_expr(t.partexprs, t.partrelid) FROM pg_partitioned_table t
        WHERE t.partexprs IS NOT NULL
        UNION ALL
        SELECT s.stxrelid, 'anew', substring(pg_get_statisticsobjdef(s.oid) FROM ' ON (.*) FROM ')
        FROM pg_statistic_ext s
        UNION ALL
        SELECT p.polrelid, 'any', pg_get_expr(x.e, p.polrelid) FROM pg_policy p
        CROSS JOIN LATERAL (VALUES (p.polqual), (p.polwithcheck)) x (e) WHERE x.e IS NOT NULL
    ) x (of, at, expression)
    WHERE x.of >= 16384 AND (x.expression ~ '[[:alnum:]_$]\(' OR x.expression ~ '[[:alnum:]_$]\x22\(')
        AND x.expression !~ '^(nextval\(''[^'']*''::regclass\)|now\(\)|gen_random_uuid\(\))$'
    ORDER BY x.of, x.expression LIMIT {limit}";

const CASCADES: &str = "
    SELECT confrelid, conrelid, confdeltype::text, confupdtype::text FROM pg_constraint
    WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
    ORDER BY oid LIMIT {limit}";

const CHILDREN: &str = "
    SELECT inhparent, inhrelid FROM pg_inherits WHERE inhparent >= 16384 ORDER BY 1, 2 LIMIT {limit}";

const KEYS: &str = "
    SELECT i.indrelid, ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (n, at)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n WHERE k.at <= i.indnkeyatts
        ORDER BY k.at)
    FROM pg_index i
    WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indrelid >= 16384
    ORDER BY i.indexrelid LIMIT {limit}";

/// More columns than these are not kept: then nothing can be hidden from anybody, and who may not see all sees
/// nothing.
const MAX_COLUMNS: usize = 300_000;

const COLUMNS: &str = "
    SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid,
        CASE WHEN a.attgenerated <> '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), '') END
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON a.attgenerated <> '' AND d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
        AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
    ORDER BY a.attrelid, a.attnum LIMIT {limit}";

const READS: &str = "
    SELECT DISTINCT r.ev_class, d.refobjid FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
        AND r.rulename = '_RETURN' AND d.refobjid >= 16384 AND d.refobjid <> r.ev_class
    ORDER BY 1, 2 LIMIT {limit}";

/// What columns there are, and which views show them.
type Shown = (Option<Vec<Column>>, Vec<(u32, u32)>);

async fn shown(client: &Client) -> Result<Shown, Unread> {
    let limited = |text: &str, limit: usize| text.replace("{limit}", &(limit + 1).to_string());
    let asked = [limited(COLUMNS, MAX_COLUMNS), limited(READS, MAX_ROWS)];
    let answers = try_join_all(asked.iter().map(|text| client.query(text.as_str(), &[]))).await?;
    let Ok([columns, reads]) = <[Vec<Row>; 2]>::try_from(answers) else {
        return Ok((None, Vec::new()));
    };
    let is_all = columns.len() <= MAX_COLUMNS && reads.len() <= MAX_ROWS;
    let columns = each(columns, column)?;
    let reads = each(reads, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    Ok((is_all.then_some(columns), reads))
}

/// All at once; names are read as they are where nothing but `pg_catalog` is searched. Columns where somebody wants
/// them.
pub(in crate::guard) async fn rows(client: &Client, wants_columns: bool) -> Result<Rows, Unread> {
    client.batch_execute("SET search_path = ''").await?;
    let (columns, reads) = match wants_columns {
        true => shown(client).await?,
        false => (None, Vec::new()),
    };
    let asked = [
        RELATIONS,
        FUNCTIONS,
        OPERATORS,
        AMBIENT,
        ON_DEFINITION,
        TRIGGERS,
        RULES,
        EXPRESSIONS,
        CASCADES,
        CHILDREN,
        KEYS,
        PROGRAMS,
    ];
    let asked = asked.map(|text| {
        text.replace("{limit}", &(MAX_ROWS + 1).to_string()).replace("{definition}", DEFINITION)
    });
    let answers = try_join_all(asked.iter().map(|text| client.query(text.as_str(), &[]))).await?;
    let names = [
        "relations",
        "functions",
        "operators",
        "casts",
        "event triggers",
        "triggers",
        "rules",
        "expressions",
        "foreign keys",
        "partitions",
        "keys",
        "foreign tables",
    ];
    let mut answers = answers.into_iter().zip(names).map(|(rows, name)| match rows.len() {
        0..=MAX_ROWS => Ok(rows),
        _ => Err(Unread::TooMany(name)),
    });
    let mut next = || answers.next().unwrap_or(Ok(Vec::new()));
    let relations = each(next()?, relation)?;
    let functions = each(next()?, function)?;
    let operators = each(next()?, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    let ambient = each(next()?, |row| row.try_get(0))?;
    let on_definition = each(next()?, |row| row.try_get(0))?;
    let mut code = each(next()?, trigger)?;
    code.extend(each(next()?, rule)?);
    code.extend(each(next()?, expression)?);
    code.extend(each(next()?, cascades)?.into_iter().flatten());
    let children = each(next()?, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    let keys = each(next()?, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    let on = Events::READ.and(Events::INSERT).and(Events::UPDATE).and(Events::DELETE);
    let program = |row: &Row| Ok((row.try_get(0)?, Code { on, what: What::Program }));
    code.extend(each(next()?, program)?);
    Ok(Rows {
        relations,
        functions,
        operators,
        ambient,
        on_definition,
        code,
        children,
        keys,
        columns,
        reads,
    })
}

fn each<T>(rows: Vec<Row>, one: impl Fn(&Row) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    rows.iter().map(one).collect()
}

fn column(row: &Row) -> Result<Column, Error> {
    let name: &str = row.try_get(2)?;
    let made_by: Option<&str> = row.try_get(4)?;
    Ok(Column {
        relation: row.try_get(0)?,
        place: row.try_get(1)?,
        name: name.into(),
        kind: row.try_get(3)?,
        made_by: made_by.map(Into::into),
    })
}

fn relation(row: &Row) -> Result<Relation, Error> {
    let kind = match row.try_get(3)? {
        "v" => Kind::View,
        "m" => Kind::MaterializedView,
        "f" => Kind::Foreign,
        "S" => Kind::Sequence,
        _ => Kind::Table,
    };
    let rows: f64 = row.try_get(4)?;
    let definition: Option<&str> = row.try_get(5)?;
    Ok(Relation {
        oid: row.try_get(0)?,
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        kind,
        rows: (rows >= 0.0).then_some(rows as u64),
        definition: definition.map(Into::into),
    })
}

fn function(row: &Row) -> Result<Function, Error> {
    let definition: Option<&str> = row.try_get(3)?;
    let count = |place| Ok::<_, Error>(u16::try_from(row.try_get::<_, i32>(place)?).unwrap_or(0));
    Ok(Function {
        oid: row.try_get(0)?,
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        definition: definition.map(Into::into),
        extension: row.try_get(4)?,
        takes: (count(5)?, count(6)?),
        parts: row.try_get(7)?,
        is_aggregate: row.try_get(8)?,
    })
}

fn trigger(row: &Row) -> Result<(u32, Code), Error> {
    let bits: i32 = row.try_get(1)?;
    let definition: &str = row.try_get(3)?;
    let what = What::Trigger {
        function: row.try_get(2)?,
        definition: definition.into(),
        is_instead: bits & 64 != 0,
    };
    Ok((row.try_get(0)?, Code { on: Events::of_trigger(bits), what }))
}

fn rule(row: &Row) -> Result<(u32, Code), Error> {
    let on = match row.try_get(1)? {
        "1" => Events::READ,
        "2" => Events::UPDATE,
        "3" => Events::INSERT,
        _ => Events::DELETE,
    };
    let definition: &str = row.try_get(2)?;
    let what = What::Rule { definition: definition.into(), is_instead: row.try_get(3)? };
    Ok((row.try_get(0)?, Code { on, what }))
}

fn expression(row: &Row) -> Result<(u32, Code), Error> {
    let on = match row.try_get(1)? {
        "default" | "write" => Events::INSERT.and(Events::UPDATE),
        "anew" => Events::default(),
        _ => Events::READ.and(Events::INSERT).and(Events::UPDATE).and(Events::DELETE),
    };
    let expression: &str = row.try_get(2)?;
    Ok((row.try_get(0)?, Code { on, what: What::Expression(expression.into()) }))
}

fn cascades(row: &Row) -> Result<Vec<(u32, Code)>, Error> {
    let (from, to): (u32, u32) = (row.try_get(0)?, row.try_get(1)?);
    let mut code = Vec::new();
    for (place, on) in [(2, Events::DELETE), (3, Events::UPDATE)] {
        let access = match row.try_get(place)? {
            "c" if on == Events::DELETE => Access::Delete,
            "c" | "n" | "d" => Access::Update,
            _ => continue,
        };
        code.push((from, Code { on, what: What::Cascade { to, access } }));
    }
    Ok(code)
}

//! Which statements a report is about: told of each row by what its text does, and to which data.

use std::{net::IpAddr, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, AsArray, StringViewArray, StructArray, UInt32Array},
        record_batch::RecordBatch,
    },
    common::{DataFusionError, Result},
};

use super::Population;
use crate::{
    config,
    event::{Access, Analysis, Effect, Effects, Facts, TableAccess},
    policy::{Label, RESIDENCY, Whereabouts, World, wider},
};

/// What leaves everything as it was, where the analysis is complete.
const UNCHANGING: [Effect; 4] = [Effect::Read, Effect::CopyOut, Effect::Lock, Effect::Session];
/// What may read anything, whatever tables the text names.
const READS_ANYTHING: [Effect; 4] =
    [Effect::Unknown, Effect::Replicate, Effect::Call, Effect::Program];

/// What [`Members::of`] wants to know of a row.
pub(super) const COLUMNS: [&str; 11] = [
    "database",
    "effects",
    "tables",
    "columns",
    "analysis",
    "client_address",
    "unit",
    "container",
    "pid",
    "transport",
    "region",
];

/// A population, ready to be asked.
pub(super) struct Members {
    about: About,
    world: World,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Changes,
    Access,
    Residency,
}

/// Why a statement belongs to the population.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// Labels of data that it reads, as its text says.
    pub labels: Vec<Arc<str>>,
    /// Labels of data that it may have read besides, as far as anybody can tell.
    pub possible_labels: Vec<Arc<str>>,
    pub client_region: Option<Arc<str>>,
    /// All that it reads may be read from where its client is.
    pub in_region: bool,
}

impl Members {
    pub fn new(population: &Population) -> Self {
        let (about, world) = match population {
            Population::Changes => (About::Changes, World::default()),
            Population::Access { labels } => (About::Access, config::world(labels, &[])),
            Population::Residency { labels, regions } => {
                let is_residency = |label: &&config::LabelOn| label.name.starts_with(RESIDENCY);
                let labels: Vec<_> = labels.iter().filter(is_residency).cloned().collect();
                (About::Residency, config::world(&labels, regions))
            }
        };
        Self { about, world }
    }

    /// What is said of each row of a batch; `None` where it doesn't belong.
    pub fn of(&self, batch: &RecordBatch) -> Result<Vec<Option<Member>>> {
        let rows = Columns::of(batch)?;
        Ok((0..batch.num_rows()).map(|at| self.member(&rows, at)).collect())
    }

    fn member(&self, rows: &Columns<'_>, at: usize) -> Option<Member> {
        let (effects, analysis) = (rows.effects(at), rows.analysis(at));
        if self.about == About::Changes {
            let is_unchanging = analysis.is_complete()
                && effects
                    .is_some_and(|effects| effects.iter().all(|one| UNCHANGING.contains(&one)));
            return (!is_unchanging).then(Member::default);
        }
        let database = rows.database.text(at);
        let is_certain = analysis.is_complete()
            && effects
                .is_some_and(|effects| !READS_ANYTHING.iter().any(|one| effects.contains(*one)));
        let facts = rows.facts(at, effects.unwrap_or_default(), analysis);
        let read: Vec<Vec<&Label>> =
            self.world.labels_read(&facts, database).filter(|labels| !labels.is_empty()).collect();
        let possible = if is_certain { Vec::new() } else { self.world.labels_in(database) };
        if read.is_empty() && possible.is_empty() {
            return None;
        }
        let mut member = Member::default();
        for label in read.iter().flatten() {
            if !member.labels.contains(&label.name) {
                member.labels.push(label.name.clone());
            }
        }
        let more = possible.iter().filter(|label| !member.labels.contains(&label.name));
        member.possible_labels = more.map(|label| label.name.clone()).collect();
        if self.about == About::Residency {
            member.client_region = rows.client_region(at, &self.world);
            let region = member.client_region.as_deref();
            let may = |label: &&Label| {
                let wanted = label.residency();
                region.is_some_and(|region| wider(region).any(|one| Some(one) == wanted))
            };
            // One of a table's regions is enough; of what may have been read besides, nobody knows which.
            member.in_region =
                read.iter().all(|labels| labels.iter().any(may)) && possible.iter().all(may);
        }
        Some(member)
    }
}

/// The columns of a batch that membership depends on.
struct Columns<'a> {
    database: Texts<'a>,
    effects: List<'a>,
    tables: Pairs<'a>,
    columns: List<'a>,
    analysis: Texts<'a>,
    client_address: Texts<'a>,
    unit: Texts<'a>,
    container: Texts<'a>,
    pid: &'a UInt32Array,
    transport: Texts<'a>,
    region: Texts<'a>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self> {
        let texts = |name| Texts::of(batch, name);
        let tables = column(batch, "tables")?;
        let tables = tables.as_list_opt::<i32>().ok_or_else(|| odd("tables"))?;
        let pairs = tables.values().as_struct_opt().ok_or_else(|| odd("tables"))?;
        let pid = column(batch, "pid")?;
        Ok(Self {
            database: texts("database")?,
            effects: List::of(batch, "effects")?,
            tables: Pairs { offsets: tables.value_offsets(), pairs },
            columns: List::of(batch, "columns")?,
            analysis: texts("analysis")?,
            client_address: texts("client_address")?,
            unit: texts("unit")?,
            container: texts("container")?,
            pid: pid.as_primitive_opt().ok_or_else(|| odd("pid"))?,
            transport: texts("transport")?,
            region: texts("region")?,
        })
    }

    /// `None` where nobody has analysed the statement; an effect that this version doesn't know is one
    /// that can't be told.
    fn effects(&self, at: usize) -> Option<Effects> {
        let named = |name: &str| Effect::ALL.iter().copied().find(|effect| effect.name() == name);
        let effects = self.effects.texts(at)?;
        Some(effects.map(|name| named(name).unwrap_or(Effect::Unknown)).collect())
    }

    fn analysis(&self, at: usize) -> Analysis {
        let name = self.analysis.text(at);
        let known = Analysis::ALL.iter().copied().find(|one| Some(one.name()) == name);
        known.unwrap_or(Analysis::Unavailable)
    }

    /// As far as labels need them.
    fn facts(&self, at: usize, effects: Effects, analysis: Analysis) -> Facts {
        let columns = self.columns.texts(at).into_iter().flatten();
        Facts {
            effects,
            tables: self.tables.at(at),
            columns: columns.map(Arc::from).collect(),
            ..Facts::nothing(analysis)
        }
    }

    /// As policies see it.
    fn client_region(&self, at: usize, world: &World) -> Option<Arc<str>> {
        let address: Option<IpAddr> =
            self.client_address.text(at).and_then(|address| address.parse().ok());
        let client = Whereabouts {
            address,
            unit: self.unit.text(at),
            container: self.container.text(at),
            is_local: self.pid.is_valid(at)
                || self.transport.text(at).is_some_and(|one| one.starts_with("unix"))
                || address.is_some_and(|address| address.is_loopback()),
        };
        let host: Option<Arc<str>> = self.region.text(at).map(Arc::from);
        world.region_of(client, host.as_ref())
    }
}

struct Texts<'a>(&'a StringViewArray);

impl<'a> Texts<'a> {
    fn of(batch: &'a RecordBatch, name: &str) -> Result<Self> {
        column(batch, name)?.as_string_view_opt().map(Self).ok_or_else(|| odd(name))
    }

    fn text(&self, at: usize) -> Option<&'a str> {
        self.0.is_valid(at).then(|| self.0.value(at))
    }
}

/// Lists of texts.
struct List<'a> {
    lists: &'a datafusion::arrow::array::ListArray,
    texts: &'a datafusion::arrow::array::StringArray,
}

impl<'a> List<'a> {
    fn of(batch: &'a RecordBatch, name: &str) -> Result<Self> {
        let lists = column(batch, name)?.as_list_opt::<i32>().ok_or_else(|| odd(name))?;
        let texts = lists.values().as_string_opt::<i32>().ok_or_else(|| odd(name))?;
        Ok(Self { lists, texts })
    }

    fn texts(&self, at: usize) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        let texts = self.texts;
        self.lists.is_valid(at).then(|| {
            let range = range(self.lists.value_offsets(), at);
            range.filter(|n| texts.is_valid(*n)).map(|n| texts.value(n))
        })
    }
}

/// Lists of tables with what is done to them.
struct Pairs<'a> {
    offsets: &'a [i32],
    pairs: &'a StructArray,
}

impl Pairs<'_> {
    fn at(&self, at: usize) -> Vec<TableAccess> {
        let texts = |name| self.pairs.column_by_name(name)?.as_string_opt::<i32>();
        let (Some(names), Some(accesses)) = (texts("name"), texts("access")) else {
            return Vec::new();
        };
        let one = |n: usize| {
            let access = accesses.is_valid(n).then(|| accesses.value(n))?;
            Some(TableAccess {
                name: names.is_valid(n).then(|| names.value(n))?.into(),
                access: Access::ALL.iter().copied().find(|known| known.name() == access)?,
            })
        };
        range(self.offsets, at).filter_map(one).collect()
    }
}

fn range(offsets: &[i32], at: usize) -> std::ops::Range<usize> {
    let place = |at: usize| offsets.get(at).map_or(0, |place| usize::try_from(*place).unwrap_or(0));
    place(at)..place(at + 1)
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    let column = batch.column_by_name(name);
    column.map(|column| &**column).ok_or_else(|| odd(name))
}

fn odd(name: &str) -> DataFusionError {
    DataFusionError::Internal(format!("the column {name} is not what it should be"))
}

//! Which columns of a database have labels, and which of those are hidden from one client, by whatever name.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::views::{Lineage, Place};
use crate::{
    event::{Ancestor, Heir, Mask},
    guard::{
        catalog::Snapshot,
        masking::{Cover, Form, Masked, Masks},
    },
    policy::{ColumnName, Hidden, World},
    statement::qualified,
};

/// More are asked about by nobody.
const MAX_LABELLED: usize = 5_000;

/// Columns that have a label; `None` where there are too many.
pub(super) fn labelled(snapshot: &Snapshot, world: &World) -> Option<Vec<Place>> {
    let mut places = Vec::new();
    for relation in snapshot.all() {
        let name = |column| ColumnName {
            schema: Some(relation.schema.as_str()),
            table: &relation.name,
            column,
        };
        if !world.is_labelled(snapshot.database(), name(None)) {
            continue;
        }
        for column in snapshot.columns(relation.oid) {
            if world.is_labelled(snapshot.database(), name(Some(&column.name))) {
                places.push((relation.oid, column.place));
            }
        }
        if places.len() > MAX_LABELLED {
            return None;
        }
    }
    Some(places)
}

/// What labels name that isn't there.
pub(super) fn absent(snapshot: &Snapshot, world: &World) -> Vec<String> {
    let same =
        |one: &str, other: Option<&str>| other.is_none_or(|other| other == one.to_lowercase());
    world.absent(snapshot.database(), |name| {
        let mut relations = snapshot.all().iter().filter(|relation| {
            same(&relation.schema, name.schema) && same(&relation.name, Some(name.table))
        });
        relations.any(|relation| {
            let columns = snapshot.columns(relation.oid);
            columns.iter().any(|column| same(&column.name, name.column))
        })
    })
}

/// Columns whose masks make no sense for their types.
pub(super) fn unfit(snapshot: &Snapshot, masks: &Masks) -> Vec<String> {
    let unfit = masks.columns.iter().filter_map(|((relation, place), masked)| {
        let column = snapshot.column(*relation, *place)?;
        let form = Form { kind: column.kind, modifier: -1, format: 0, is_utf8: true };
        let is_unfit = masked.mask != Mask::Null && Cover::new(&masked.mask, form).is_null();
        is_unfit.then(|| {
            let Masked { mask, rule, column, flow: _ } = masked;
            format!("rule {rule}: the mask {mask} makes no sense for {column}, which is NULL")
        })
    });
    let mut unfit: Vec<String> = unfit.collect();
    unfit.sort_unstable();
    unfit
}

/// `schema`, `table` and `column` of each.
pub(super) fn names<'a>(snapshot: &'a Snapshot, places: &[Place]) -> Vec<ColumnName<'a>> {
    let name = |place: &Place| {
        let relation = snapshot.relation(place.0)?;
        let column = snapshot.column(place.0, place.1)?;
        Some(ColumnName {
            schema: Some(relation.schema.as_str()),
            table: &relation.name,
            column: Some(&column.name),
        })
    };
    // One that isn't there has no name that a label could mean.
    places.iter().map(|place| name(place).unwrap_or(NOTHING)).collect()
}

const NOTHING: ColumnName<'static> = ColumnName { schema: None, table: "", column: Some("") };

/// All that is hidden where these columns are, those that show something of them included. The stricter mask wins, and
/// the stricter flow.
pub(super) fn masks(
    snapshot: &Snapshot,
    lineage: &Lineage,
    hidden: impl Iterator<Item = (Place, Hidden)>,
) -> Masks {
    let mut found: HashMap<Place, Hidden> = HashMap::new();
    let mut waiting: Vec<(Place, Hidden)> = hidden.collect();
    while let Some((place, hidden)) = waiting.pop() {
        let hidden = match found.get(&place) {
            None => hidden,
            Some(known) if known.mask >= hidden.mask && known.flow >= hidden.flow => continue,
            Some(known) => hidden.and(known.clone()),
        };
        for (shows, is_derived) in lineage.shown_by(place) {
            let hidden = hidden.clone();
            let mask = if *is_derived { Mask::Null } else { hidden.mask };
            waiting.push((*shows, Hidden { mask, ..hidden }));
        }
        found.insert(place, hidden);
    }
    let is_there = |place: &Place| snapshot.relation(place.0).is_some();
    let found = found.into_iter().filter(|(place, _)| is_there(place));
    let columns = found.map(|(place, Hidden { mask, rule, flow })| {
        let [name] = names(snapshot, &[place]).try_into().unwrap_or([NOTHING]);
        (place, Masked { mask, rule, column: shown(name), flow })
    });
    Masks {
        columns: columns.collect(),
        relations: snapshot.all().iter().map(|relation| relation.oid).collect(),
    }
}

/// What is hidden of those who inherit: by the names that those have, or had, whom they inherit from.
pub(super) fn inherited(
    heirs: &[Arc<Heir>],
    hides: impl FnOnce(&[ColumnName<'_>]) -> Vec<Option<Hidden>>,
) -> Vec<(Place, Hidden)> {
    let ancestors: HashSet<&Ancestor> = heirs.iter().map(|heir| &heir.from).collect();
    let ancestors: Vec<&Ancestor> = ancestors.into_iter().collect();
    let names = ancestors.iter().map(|Ancestor { schema, table, column }| ColumnName {
        schema: Some(&**schema),
        table,
        column: Some(&**column),
    });
    let hidden = hides(&names.collect::<Vec<_>>());
    let hidden: HashMap<&Ancestor, Option<Hidden>> = ancestors.into_iter().zip(hidden).collect();
    let inherited = heirs.iter().filter_map(|heir| {
        let hidden = hidden.get(&heir.from)?.clone()?;
        let mask = if heir.is_derived { Mask::Null } else { hidden.mask };
        Some(((heir.relation, heir.place), Hidden { mask, ..hidden }))
    });
    inherited.collect()
}

/// As it is recorded, and told.
pub(super) fn shown(name: ColumnName<'_>) -> Arc<str> {
    let parts = [name.schema, Some(name.table), name.column];
    qualified(parts.into_iter().flatten())
}

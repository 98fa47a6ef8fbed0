//! Which columns have something of labelled ones: by what shows them, and by what was written.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    columns::names,
    own::Roots,
    own_name,
    views::{Lineage, Place},
};
use crate::{
    event::{Ancestor, Heir},
    guard::catalog::Snapshot,
};

/// What comes from which labelled columns, at one moment.
#[derive(Debug, Default)]
pub(super) struct Kinship {
    pub roots: HashMap<Place, Roots>,
    /// Of those, what labels themselves say, and nobody has inherited.
    pub configured: HashSet<(Place, Arc<Ancestor>)>,
    /// Last parts of the names of these relations.
    pub names: HashSet<Arc<str>>,
}

impl Kinship {
    pub(super) fn new(
        snapshot: &Snapshot,
        lineage: &Lineage,
        places: &[Place],
        heirs: &[Arc<Heir>],
    ) -> Self {
        let mut kinship = Self::default();
        for (place, name) in places.iter().zip(names(snapshot, places)) {
            let ancestor = Ancestor {
                schema: name.schema.unwrap_or_default().into(),
                table: name.table.into(),
                column: name.column.unwrap_or_default().into(),
            };
            kinship.spread(lineage, *place, &Arc::new(ancestor), false);
        }
        let all = kinship.roots.iter();
        let all = all.flat_map(|(place, roots)| roots.keys().map(|one| (*place, one.clone())));
        kinship.configured = all.collect();
        for heir in heirs {
            let place = (heir.relation, heir.place);
            kinship.spread(lineage, place, &Arc::new(heir.from.clone()), heir.is_derived);
        }
        for relation in kinship.roots.keys().filter_map(|place| snapshot.relation(place.0)) {
            kinship.names.insert(own_name(&relation.name));
        }
        kinship
    }

    /// To all that shows it.
    fn spread(
        &mut self,
        lineage: &Lineage,
        place: Place,
        ancestor: &Arc<Ancestor>,
        is_derived: bool,
    ) {
        let mut waiting = vec![(place, is_derived)];
        while let Some((place, is_derived)) = waiting.pop() {
            let roots = self.roots.entry(place).or_default();
            match roots.get(ancestor) {
                Some(known) if *known || !is_derived => continue,
                _ => roots.insert(ancestor.clone(), is_derived),
            };
            for (shows, is_made) in lineage.shown_by(place) {
                waiting.push((*shows, is_derived || *is_made));
            }
        }
    }
}

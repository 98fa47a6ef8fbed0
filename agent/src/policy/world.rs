//! What a site says of itself: labels for its data, regions, groups.

use std::{net::IpAddr, sync::Arc};

use super::{
    Label, Region,
    label::{TableName, Touched},
};
use crate::event::{Access, Facts};

/// From the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub labels: Vec<Label>,
    pub regions: Vec<Region>,
    /// All that [[principal]] gives.
    pub groups: Vec<Arc<str>>,
}

/// What tells where a client is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whereabouts<'a> {
    pub address: Option<IpAddr>,
    pub unit: Option<&'a str>,
    pub container: Option<&'a str>,
    /// It is a process of this host.
    pub is_local: bool,
}

impl World {
    /// The region of a client: the first that names its unit, container or network; a client on this
    /// host is where the host is.
    pub fn region_of(&self, client: Whereabouts<'_>, host: Option<&Arc<str>>) -> Option<Arc<str>> {
        let holds = |names: &[Arc<str>], name: Option<&str>| {
            name.is_some_and(|name| names.iter().any(|one| **one == *name))
        };
        let named = self.regions.iter().find(|region| {
            holds(&region.units, client.unit)
                || holds(&region.containers, client.container)
                || client.address.is_some_and(|address| {
                    region.networks.iter().any(|network| network.contains(address))
                })
        });
        match named {
            Some(region) => Some(region.name.clone()),
            None if client.is_local => host.cloned(),
            None => None,
        }
    }

    /// Labels that something in this database may have.
    pub fn labels_in(&self, database: Option<&str>) -> Vec<&Label> {
        let fits = |label: &&Label| label.on.iter().any(|on| on.fits_database(database));
        self.labels.iter().filter(fits).collect()
    }

    /// Labels of these columns.
    pub(super) fn labels_on(&self, name: &TableName<'_>, touched: &Touched) -> Vec<&Label> {
        let fits = |label: &&Label| label.on.iter().any(|on| on.fits(name, touched));
        self.labels.iter().filter(fits).collect()
    }

    /// For each table that a statement reads the labels of what it reads there, as far as its text tells.
    pub fn labels_read<'a>(
        &'a self,
        facts: &'a Facts,
        database: Option<&'a str>,
    ) -> impl Iterator<Item = Vec<&'a Label>> {
        let read = facts.tables.iter().filter(|table| table.access == Access::Read);
        read.map(move |table| {
            let name = TableName::new(&table.name, database);
            self.labels_on(&name, &Touched::by(Some(facts), &table.name, &name))
        })
    }
}

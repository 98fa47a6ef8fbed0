//! Where clients are: regions by network, unit or container.

use std::sync::Arc;

use crate::principal::Network;

/// A place that data may not leave, and who is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub name: Arc<str>,
    pub networks: Vec<Network>,
    pub units: Vec<Arc<str>>,
    pub containers: Vec<Arc<str>>,
}

/// The region and what it is a part of: `eu-central-1`, `eu-central`, `eu`.
pub fn wider(region: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(region), |region| region.rsplit_once('-').map(|(wider, _)| wider))
}

#[cfg(test)]
mod tests {
    use super::wider;

    #[test]
    fn a_region_is_part_of_wider_ones() {
        let all: Vec<&str> = wider("eu-central-1").collect();
        assert_eq!(all, ["eu-central-1", "eu-central", "eu"]);
    }
}

//! Where clients are: regions by network, unit or container.

use std::{net::IpAddr, str::FromStr, sync::Arc};

/// A place that data may not leave, and who is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub name: Arc<str>,
    pub networks: Vec<Network>,
    pub units: Vec<Arc<str>>,
    pub containers: Vec<Arc<str>>,
}

/// Addresses that begin alike, as in `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write 10.1.0.0/16 or 2001:db8::/32, without bits after the prefix")]
pub struct NoNetwork(String);

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let wrong = || NoNetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(longest), |bits| bits.parse().map_err(|_| wrong()))?;
        let network = Self { address, bits };
        if bits > longest || value(address) & !mask(address, bits) != 0 {
            return Err(wrong());
        }
        Ok(network)
    }
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && value(address) & mask(address, self.bits) == value(self.address)
    }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => address.into(),
    }
}

fn mask(address: IpAddr, bits: u8) -> u128 {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let all = if address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    all.checked_shl(longest - u32::from(bits)).unwrap_or(0) & all
}

/// The region and what it is a part of: `eu-central-1`, `eu-central`, `eu`.
pub fn wider(region: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(region), |region| region.rsplit_once('-').map(|(wider, _)| wider))
}

#[cfg(test)]
mod tests {
    use super::{Network, wider};

    #[test]
    fn networks_hold_their_addresses() {
        for (network, address, expected) in [
            ("10.1.0.0/16", "10.1.255.3", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("10.1.0.0/16", "::ffff:10.1.0.9", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), expected, "{network} {address}");
        }
        for wrong in ["", "10.1.0.0/33", "10.1.0.1/16", "10.1.0/16", "::1/129", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_region_is_part_of_wider_ones() {
        let all: Vec<&str> = wider("eu-central-1").collect();
        assert_eq!(all, ["eu-central-1", "eu-central", "eu"]);
    }
}

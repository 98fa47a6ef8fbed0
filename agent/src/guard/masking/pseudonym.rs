//! Keyed hashes: what stands for a value, the same every time, and tells nobody without the key which it is.

use std::fmt;

/// Of one host: the same value has the same pseudonym wherever it stands.
#[derive(Clone)]
pub struct Pseudonyms {
    name: [u8; 32],
    noise: [u8; 32],
}

/// Of nobody's: for whoever masks nothing yet.
impl Default for Pseudonyms {
    fn default() -> Self {
        Self::new(&[0; 32])
    }
}

/// What a hash is taken for: one says nothing of the other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Name,
    Noise,
}

impl Pseudonyms {
    /// BLAKE3, keyed: a third of what an HMAC of SHA-256 takes for a value, and rows have many.
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            name: blake3::derive_key("dbwarden 2026-11-29 pseudonyms of masked values", key),
            noise: blake3::derive_key("dbwarden 2026-11-29 noise in masked values", key),
        }
    }

    pub(super) fn digest(&self, purpose: Purpose, value: &[u8]) -> Digest {
        let key = match purpose {
            Purpose::Name => &self.name,
            Purpose::Noise => &self.noise,
        };
        Digest(*blake3::keyed_hash(key, value).as_bytes())
    }
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonyms")
    }
}

/// 256 bits that look random.
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn half(&self) -> [u8; 16] {
        self.0.first_chunk().copied().unwrap_or_default()
    }

    pub(super) fn number(&self) -> u64 {
        self.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// From 1 up to `most`, which isn't 0.
    pub(super) fn up_to(&self, most: u64) -> u64 {
        self.number() % most.max(1) + 1
    }

    /// Says nothing of [`Self::number`].
    pub(super) fn is_odd(&self) -> bool {
        self.0.last().is_some_and(|last| last & 1 == 1)
    }

    /// Between 0 and 1; likewise no part of the sign.
    pub(super) fn part(&self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Hexadecimal digits of these bytes.
pub(super) fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(HEX.get(usize::from(digit)).copied().unwrap_or(b'0'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Pseudonyms, Purpose};

    /// What has been written down of a pseudonym must be found again after an upgrade.
    #[test]
    fn a_pseudonym_stays_what_it_is() {
        let pseudonyms = Pseudonyms::new(&[7; 32]);
        let number = |purpose, value: &[u8]| pseudonyms.digest(purpose, value).number();
        assert_eq!(number(Purpose::Name, b"x"), number(Purpose::Name, b"x"));
        assert_ne!(number(Purpose::Name, b"x"), number(Purpose::Noise, b"x"));
        assert_ne!(number(Purpose::Name, b"x"), number(Purpose::Name, b"y"));
        assert_ne!(
            number(Purpose::Name, b"x"),
            Pseudonyms::new(&[8; 32]).digest(Purpose::Name, b"x").number()
        );
        assert!(!format!("{pseudonyms:?}").contains('7'));
    }
}

//! What was learnt lately, within bounds.

use std::hash::RandomState;

use lru::LruCache;

/// Values by text; the least recently used make room. Hashing is keyed at random, because strangers
/// choose the texts.
pub struct Cache<V> {
    values: LruCache<Box<str>, (V, usize), RandomState>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
    n_evicted: u64,
}

impl<V> Cache<V> {
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            values: LruCache::unbounded_with_hasher(RandomState::new()),
            bytes: 0,
            max_entries,
            max_bytes,
            n_evicted: 0,
        }
    }

    pub fn find(&mut self, key: &str) -> Option<&V> {
        self.values.get(key).map(|(value, _)| value)
    }

    /// `weight` in bytes, without the key. What is heavier than a tenth of all isn't worth its room.
    pub fn keep(&mut self, key: &str, value: V, weight: usize) {
        let weight = weight + key.len();
        if weight > self.max_bytes / 10 {
            return;
        }
        self.bytes += weight;
        if let Some((_, (_, old))) = self.values.push(key.into(), (value, weight)) {
            self.bytes = self.bytes.saturating_sub(old);
        }
        while self.values.len() > self.max_entries || self.bytes > self.max_bytes {
            let Some((_, (_, weight))) = self.values.pop_lru() else { break };
            self.bytes = self.bytes.saturating_sub(weight);
            self.n_evicted += 1;
        }
    }

    pub fn n_evicted(&self) -> u64 {
        self.n_evicted
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut cache = Cache::new(2, 1000);
        cache.keep("a", 1, 10);
        cache.keep("b", 2, 10);
        assert_eq!(cache.find("a"), Some(&1));
        cache.keep("c", 3, 10);
        let found = ["a", "b", "c"].map(|key| cache.find(key).copied());
        assert_eq!(found, [Some(1), None, Some(3)]);
        assert_eq!(cache.n_evicted(), 1);
    }

    #[test]
    fn bytes_are_bounded_and_replacing_counts_once() {
        let mut cache = Cache::new(1000, 1000);
        for _ in 0..100 {
            cache.keep("a", 1, 90);
        }
        assert_eq!((cache.bytes, cache.n_evicted()), (91, 0));
        for key in ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k"] {
            cache.keep(key, 2, 90);
        }
        assert_eq!((cache.bytes, cache.n_evicted()), (910, 1));
        assert_eq!(cache.find("a"), None);
        cache.keep("heavy", 3, 100);
        assert_eq!(cache.find("heavy"), None);
    }
}

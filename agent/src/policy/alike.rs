//! Statements that no rule can tell apart: one number for all facts that say the same.

use std::{hash::RandomState, sync::Arc};

use lru::LruCache;
use rustc_hash::FxHashMap;

use crate::event::Facts;

/// Facts that are known by address, all together and one alone. Most are held by the analyst anyway.
const MAX_HELD: usize = 16_384;
const MAX_HELD_BYTES: usize = 16 << 20;
const MAX_FACTS_BYTES: usize = 64 << 10;
/// What facts say, and its bytes.
const MAX_KNOWN: usize = 16_384;
const MAX_KNOWN_BYTES: usize = 8 << 20;

/// Numbers of facts; they are given once and for all.
pub(super) struct Alike {
    /// What stands at an address is held, so that nothing else can come to stand there.
    held: FxHashMap<usize, (u64, Arc<Facts>)>,
    held_bytes: usize,
    /// By what they say. Strangers choose it, so hashing is keyed at random.
    known: LruCache<Box<[u8]>, u64, RandomState>,
    known_bytes: usize,
    n_given: u64,
    words: Vec<u8>,
}

impl Default for Alike {
    fn default() -> Self {
        Self {
            held: FxHashMap::default(),
            held_bytes: 0,
            known: LruCache::unbounded_with_hasher(RandomState::new()),
            known_bytes: 0,
            n_given: 0,
            words: Vec::new(),
        }
    }
}

impl Alike {
    /// From 1; never the same for two that say different things.
    pub(super) fn number(&mut self, facts: &Arc<Facts>) -> u64 {
        let address = Arc::as_ptr(facts).addr();
        if let Some((number, _)) = self.held.get(&address) {
            return *number;
        }
        self.words.clear();
        say(facts, &mut self.words);
        let number = match self.known.get(self.words.as_slice()) {
            Some(number) => *number,
            None => {
                self.n_given += 1;
                let number = self.n_given;
                self.known_bytes += self.words.len();
                self.known.put(self.words.as_slice().into(), number);
                while self.known.len() > MAX_KNOWN || self.known_bytes > MAX_KNOWN_BYTES {
                    let Some((old, _)) = self.known.pop_lru() else { break };
                    self.known_bytes -= old.len().min(self.known_bytes);
                }
                number
            }
        };
        let bytes = size_of::<Facts>() + facts.text.len() + self.words.len();
        if bytes <= MAX_FACTS_BYTES {
            if self.held.len() >= MAX_HELD || self.held_bytes + bytes > MAX_HELD_BYTES {
                self.held.clear();
                self.held_bytes = 0;
            }
            self.held_bytes += bytes;
            self.held.insert(address, (number, facts.clone()));
        }
        number
    }
}

/// Everything that rules can know of facts.
fn say(facts: &Facts, words: &mut Vec<u8>) {
    let mut put = |word: &str| {
        words.extend_from_slice(&(word.len() as u32).to_le_bytes());
        words.extend_from_slice(word.as_bytes());
    };
    // An empty word ends a list: names are never empty, and where one is, it only tells facts apart.
    facts.effects.iter().for_each(|effect| put(effect.name()));
    put("");
    for table in &facts.tables {
        put(&table.name);
        put(table.access.name());
    }
    put("");
    facts.columns.iter().for_each(|column| put(column));
    put("");
    facts.functions.iter().for_each(|function| put(function));
    put("");
    facts.settings.iter().for_each(|setting| put(setting));
    put("");
    facts.calls.iter().for_each(|call| put(call));
    put("");
    facts.traits.iter().for_each(|one| put(one.name()));
    put("");
    put(match facts.restricted {
        None => "",
        Some(true) => "restricted",
        Some(false) => "unrestricted",
    });
    put(facts.analysis.name());
}

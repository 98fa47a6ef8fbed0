//! What the client has prepared and bound, by name, as the server may know it.

use std::{collections::HashMap, sync::Arc};

use crate::guard::court::Reading;

/// Statements or portals of one session.
const MAX_NAMES: usize = 4_096;
/// Meanings of one name that are told apart until the server has answered.
const MAX_MEANINGS: usize = 8;
const MAX_BYTES: usize = 8 << 20;
/// Memory for so many is kept for the next ones.
const SPARE_NAMES: usize = 8;

/// Within a segment (up to `Sync`) a name means what was said last: the server skips what follows a failure.
/// In a later segment, while the earlier ones are not answered, it may mean anything that it was said to mean.
#[derive(Debug, Default)]
pub(super) struct Names {
    named: HashMap<Box<[u8]>, Named>,
    bytes: usize,
    /// Names that changed since everything was last answered.
    touched: Vec<Box<[u8]>>,
}

#[derive(Debug)]
struct Named {
    /// Oldest first.
    meanings: Vec<Meaning>,
    /// The segment in which the last one was given.
    segment: u64,
    is_touched: bool,
    is_closed: bool,
    /// There were more meanings than are kept.
    is_lost: bool,
}

/// The server looks at no more of a name (`NAMEDATALEN` without its end).
const NAME_BYTES: usize = 63;

/// As much of a name as tells it from others.
pub(super) fn kept(name: &[u8]) -> &[u8] {
    name.get(..NAME_BYTES).unwrap_or(name)
}

/// Of a portal all that its statement may mean.
pub(super) type Meaning = Arc<[Arc<Reading>]>;

/// There is no room for another name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// What a name may stand for.
#[derive(Debug)]
pub(super) enum Found {
    /// No message has named anything so.
    Nothing,
    Readings(Meaning),
    /// Too much to be told.
    Anything,
}

impl Names {
    pub(super) fn find(&self, name: &[u8], segment: u64) -> Found {
        let Some(named) = self.named.get(kept(name)) else { return Found::Nothing };
        match named.meanings.as_slice() {
            [.., newest] if named.segment == segment => Found::Readings(newest.clone()),
            _ if named.is_lost => Found::Anything,
            [only] => Found::Readings(only.clone()),
            meanings => Found::Readings(meanings.iter().flat_map(|m| m.iter().cloned()).collect()),
        }
    }

    /// Gives a name a meaning; those of before stay possible until the server has answered.
    pub(super) fn define(&mut self, name: &[u8], meaning: Meaning, at: u64) -> Result<(), Full> {
        let name = kept(name);
        if !self.named.contains_key(name) {
            if self.named.len() >= MAX_NAMES {
                return Err(Full);
            }
            let fresh = Named {
                meanings: Vec::new(),
                segment: at,
                is_touched: false,
                is_closed: false,
                is_lost: false,
            };
            self.named.insert(name.into(), fresh);
        }
        let Some(named) = self.named.get_mut(name) else { return Err(Full) };
        let is_same = named.meanings.last().is_some_and(|last| same(last, &meaning));
        let weight = if is_same { 0 } else { weight(&meaning) };
        if self.bytes + weight > MAX_BYTES {
            return Err(Full);
        }
        named.segment = at;
        named.is_closed = false;
        if !std::mem::replace(&mut named.is_touched, true) {
            self.touched.push(name.into());
        }
        if is_same {
            return Ok(());
        }
        self.bytes += weight;
        named.meanings.push(meaning);
        if named.meanings.len() > MAX_MEANINGS {
            self.bytes = self.bytes.saturating_sub(self::weight(&named.meanings.remove(0)));
            named.is_lost = true;
        }
        Ok(())
    }

    /// The client doesn't need it any more.
    pub(super) fn close(&mut self, name: &[u8]) {
        let name = kept(name);
        let Some(named) = self.named.get_mut(name) else { return };
        named.is_closed = true;
        if !std::mem::replace(&mut named.is_touched, true) {
            self.touched.push(name.into());
        }
    }

    /// Everything is answered. If nothing failed, each name means what was said last.
    pub(super) fn settle(&mut self, went_well: bool) {
        let mut touched = std::mem::take(&mut self.touched);
        for name in touched.drain(..) {
            let Some(named) = self.named.get_mut(&name) else { continue };
            named.is_touched = false;
            // Numbers of segments are never used again.
            named.segment = u64::MAX;
            if !went_well {
                continue;
            }
            named.is_lost = false;
            let kept = usize::from(!named.is_closed);
            let gone = named.meanings.len().saturating_sub(kept);
            let gone: usize = named.meanings.drain(..gone).map(|meaning| weight(&meaning)).sum();
            self.bytes = self.bytes.saturating_sub(gone);
            if named.is_closed {
                self.named.remove(&name);
            }
        }
        if touched.capacity() <= SPARE_NAMES {
            self.touched = touched;
        }
    }

    /// All is over, and nothing is in flight.
    pub(super) fn clear(&mut self) {
        if self.named.capacity() > SPARE_NAMES {
            *self = Self::default();
        } else if !self.named.is_empty() {
            self.named.clear();
            self.touched.clear();
            self.bytes = 0;
        }
    }

    /// The server has forgotten all that it knew; what came after that is in flight already, perhaps.
    pub(super) fn forget_settled(&mut self) {
        if self.touched.is_empty() {
            return self.clear();
        }
        self.named.retain(|_, named| named.is_touched);
        let meanings = self.named.values().flat_map(|named| &named.meanings);
        self.bytes = meanings.map(weight).sum();
    }
}

fn same(one: &Meaning, other: &Meaning) -> bool {
    one.len() == other.len() && one.iter().zip(other.iter()).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn weight(meaning: &Meaning) -> usize {
    meaning.iter().map(|reading| reading.weight()).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Found, Full, MAX_BYTES, MAX_NAMES, Meaning, Names};
    use crate::{guard::court::Reading, statement::Analysed};

    fn meaning(text: &str) -> Meaning {
        let analysed = Arc::new(Analysed::ambiguous(""));
        Arc::new([Arc::new(Reading::of(Some(text.into()), analysed, None))])
    }

    fn texts(names: &Names, name: &[u8], segment: u64) -> Option<Vec<String>> {
        match names.find(name, segment) {
            Found::Nothing => Some(Vec::new()),
            Found::Readings(readings) => {
                let texts = readings.iter().filter_map(|reading| reading.text.as_deref());
                Some(texts.map(str::to_owned).collect())
            }
            Found::Anything => None,
        }
    }

    #[test]
    fn a_name_is_no_longer_than_the_server_takes_it() {
        let mut names = Names::default();
        let (one, other) = ([b'n'; 64], [[b'n'; 63].as_slice(), b"xyz"].concat());
        names.define(&one, meaning("a"), 0).unwrap();
        names.settle(true);
        // There is one: the server refuses it.
        names.define(&other, meaning("b"), 1).unwrap();
        names.settle(false);
        for name in [one.as_slice(), &other, &[b'n'; 63]] {
            assert_eq!(texts(&names, name, 2).unwrap(), ["a", "b"]);
        }
        assert_eq!(texts(&names, &[b'n'; 62], 2).unwrap(), [""; 0]);
        names.close(&[b'n'; 90]);
        names.settle(true);
        assert_eq!(texts(&names, &one, 3).unwrap(), [""; 0]);
    }

    #[test]
    fn a_name_means_all_that_the_server_may_have_taken() {
        let mut names = Names::default();
        assert_eq!(texts(&names, b"s", 0).unwrap(), [""; 0]);
        names.define(b"s", meaning("a"), 0).unwrap();
        names.settle(true);
        names.define(b"s", meaning("b"), 1).unwrap();
        assert_eq!(texts(&names, b"s", 1).unwrap(), ["b"], "in the same segment");
        assert_eq!(texts(&names, b"s", 2).unwrap(), ["a", "b"], "b may have failed");
        names.settle(false);
        assert_eq!(texts(&names, b"s", 3).unwrap(), ["a", "b"]);
        names.define(b"s", meaning("c"), 3).unwrap();
        names.settle(true);
        assert_eq!(texts(&names, b"s", 4).unwrap(), ["c"]);

        names.close(b"s");
        names.settle(false);
        assert_eq!(texts(&names, b"s", 5).unwrap(), ["c"], "the close may have been skipped");
        names.close(b"s");
        names.settle(true);
        assert_eq!(texts(&names, b"s", 6).unwrap(), [""; 0]);
        assert_eq!(names.bytes, 0);
    }

    #[test]
    fn what_is_forgotten_was_there_before() {
        let mut names = Names::default();
        for (name, segment) in [(b"s", 0), (b"t", 1)] {
            names.define(name, meaning("old"), segment).unwrap();
        }
        names.settle(true);
        names.define(b"t", meaning("new"), 3).unwrap();
        names.forget_settled();
        assert_eq!(texts(&names, b"s", 4).unwrap(), [""; 0]);
        assert_eq!(texts(&names, b"t", 4).unwrap(), ["old", "new"]);
        names.settle(true);
        assert_eq!(texts(&names, b"t", 5).unwrap(), ["new"]);
        names.forget_settled();
        assert_eq!(names.bytes, 0);
    }

    #[test]
    fn what_is_too_much_is_not_guessed() {
        let mut names = Names::default();
        for n in 0..20 {
            names.define(b"", meaning(&n.to_string()), n).unwrap();
        }
        assert_eq!(texts(&names, b"", 19).unwrap(), ["19"]);
        assert_eq!(texts(&names, b"", 20), None);
        names.settle(true);
        assert_eq!(texts(&names, b"", 21).unwrap(), ["19"]);

        for n in 1..MAX_NAMES {
            names.define(&n.to_be_bytes(), meaning("x"), 22).unwrap();
        }
        assert_eq!(names.define(b"more", meaning("x"), 22), Err(Full));
        let long = "x".repeat(MAX_BYTES);
        assert_eq!(names.define(b"", meaning(&long), 22), Err(Full));
    }
}

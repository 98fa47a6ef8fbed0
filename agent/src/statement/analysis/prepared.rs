//! What `EXECUTE` may run by a name, as far as the server's answers tell.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::session::Said;
use crate::event::Facts;

/// Names of one session, and what it has said since all was answered last.
const MAX_NAMES: usize = 256;
/// Meanings of one name.
const MAX_MEANINGS: usize = 8;
/// Of all texts that one session has prepared.
const MAX_BODY_BYTES: usize = 512 << 10;

/// A prepared statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    pub name: Arc<str>,
    pub facts: Arc<Facts>,
    /// See `Analysed`.
    pub is_parameter_sensitive: bool,
    /// By `PREPARE`, and not by a message of the protocol.
    pub is_by_text: bool,
    /// `None` where it isn't known (any more). Who analyses has no need of it.
    #[serde(skip)]
    pub body: Option<Body>,
}

/// What was prepared, in words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Body {
    /// Of its parameters: in brackets, or nothing.
    pub types: Arc<str>,
    pub statement: Arc<str>,
}

impl Body {
    pub fn new(types: &str, statement: &str) -> Self {
        Self { types: types.into(), statement: statement.into() }
    }

    fn len(&self) -> usize {
        self.types.len() + self.statement.len()
    }
}

impl Prepared {
    /// Not all that it does is known before its values are.
    fn hangs_on_values(&self) -> bool {
        self.is_parameter_sensitive || self.facts.restricted.is_some()
    }
}

/// Whatever a session may have prepared: a text that was sent may have failed, or never have been reached.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Preparations {
    known: Vec<Known>,
    /// What isn't answered yet.
    said: Vec<Said>,
    /// There were more names than are kept; and such by `PREPARE`.
    has_forgotten: bool,
    has_forgotten_texts: bool,
    /// Something was prepared by `PREPARE`.
    has_texts: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    name: Arc<str>,
    /// One of these.
    meanings: Vec<Prepared>,
    /// Or something else.
    is_lost: bool,
}

impl Preparations {
    pub(super) fn follow(&mut self, said: &Said) {
        if matches!(said, Said::Prepare(_) | Said::Deallocate(_) | Said::DeallocateAll) {
            if self.said.len() >= MAX_NAMES {
                self.settle(false);
            }
            self.has_texts |= matches!(said, Said::Prepare(prepared) if prepared.is_by_text);
            self.said.push(said.clone());
        }
    }

    pub fn push(&mut self, prepared: Prepared) {
        self.follow(&Said::Prepare(prepared));
        self.forget_bodies();
    }

    /// The oldest first, and those first that are there for sure.
    fn forget_bodies(&mut self) {
        let said = self.said.iter_mut().filter_map(|said| match said {
            Said::Prepare(prepared) => Some(prepared),
            _ => None,
        });
        let known = self.known.iter_mut().flat_map(|known| &mut known.meanings);
        let bodies: Vec<&mut Option<Body>> = known.chain(said).map(|one| &mut one.body).collect();
        let mut n_bytes: usize =
            bodies.iter().filter_map(|body| body.as_ref()).map(Body::len).sum();
        for body in bodies {
            if n_bytes <= MAX_BODY_BYTES {
                break;
            }
            n_bytes -= body.take().map_or(0, |body| body.len());
        }
    }

    /// All that a name may mean, in words; `None` where nobody can tell.
    pub fn bodies(&self, name: &str) -> Option<Vec<&Body>> {
        let known = self.find(name);
        let mut bodies: Vec<&Body> =
            known.iter().map(|one| one.body.as_ref()).collect::<Option<_>>()?;
        bodies.dedup();
        Some(bodies).filter(|bodies| !bodies.is_empty())
    }

    /// All that was sent is answered. If nothing failed, each name means what was said last.
    pub fn settle(&mut self, went_well: bool) {
        for said in std::mem::take(&mut self.said) {
            match said {
                Said::Prepare(prepared) => self.prepare(prepared, went_well),
                Said::Deallocate(name) if went_well => self.known.retain(|one| one.name != name),
                Said::DeallocateAll if went_well => self.known.clear(),
                Said::Deallocate(_) | Said::DeallocateAll | Said::Begin | Said::End => {}
            }
        }
    }

    fn prepare(&mut self, prepared: Prepared, is_sure: bool) {
        if let Some(known) = self.known.iter_mut().find(|known| known.name == prepared.name) {
            if is_sure {
                (known.meanings, known.is_lost) = (vec![prepared], false);
            } else if !known.meanings.contains(&prepared) {
                known.is_lost |= known.meanings.len() >= MAX_MEANINGS;
                known.meanings.truncate(MAX_MEANINGS - 1);
                known.meanings.push(prepared);
            }
            return;
        }
        if self.known.len() >= MAX_NAMES {
            let is_by_text = |known: &Known| known.meanings.iter().any(|one| one.is_by_text);
            let other = self.known.iter().position(|known| !is_by_text(known));
            self.has_forgotten = true;
            self.has_forgotten_texts |= other.is_none();
            self.known.remove(other.unwrap_or(0));
        }
        let is_lost = !is_sure && self.has_forgotten;
        self.known.push(Known { name: prepared.name.clone(), meanings: vec![prepared], is_lost });
    }

    /// All that a name may mean; none where nobody can tell.
    pub(super) fn find(&self, name: &str) -> Vec<&Prepared> {
        let known = self.known.iter().find(|known| *known.name == *name);
        if known.map_or(self.has_forgotten, |known| known.is_lost) {
            return Vec::new();
        }
        let mut all: Vec<&Prepared> = known.iter().flat_map(|known| &known.meanings).collect();
        all.extend(self.unanswered(name));
        all.dedup();
        all
    }

    fn unanswered(&self, name: &str) -> impl Iterator<Item = &Prepared> {
        self.said.iter().filter_map(move |said| match said {
            Said::Prepare(prepared) if *prepared.name == *name => Some(prepared),
            _ => None,
        })
    }

    /// By that name there may be something that was prepared by `PREPARE`, and hangs on values.
    pub fn may_hang_on_values(&self, name: &str) -> bool {
        if !self.has_texts {
            return false;
        }
        let known = self.known.iter().filter(|known| *known.name == *name);
        let by_text = |one: &Prepared| one.is_by_text && one.hangs_on_values();
        self.has_forgotten_texts
            || known.clone().any(|known| known.is_lost)
            || known.flat_map(|known| &known.meanings).any(by_text)
            || self.unanswered(name).any(by_text)
    }

    /// What it is, where that is known for sure or hangs on nothing.
    pub(super) fn run(&self, name: &str) -> Option<Vec<Arc<Facts>>> {
        let all = self.find(name);
        let is_one = all.len() == 1;
        let is_told =
            all.iter().all(|one| !one.is_parameter_sensitive && (is_one || !one.hangs_on_values()));
        (is_told && !all.is_empty()).then(|| all.iter().map(|one| one.facts.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Body, MAX_BODY_BYTES, MAX_NAMES, Preparations, Prepared, Said};
    use crate::event::{Analysis, Facts};

    fn prepared(name: &str, what: u64, is_by_text: bool) -> Prepared {
        let facts = Facts { fingerprint: what, ..Facts::nothing(Analysis::Complete) };
        let is_parameter_sensitive = what >= 100;
        Prepared {
            name: name.into(),
            facts: Arc::new(facts),
            is_parameter_sensitive,
            is_by_text,
            body: Some(Body::new("", &what.to_string())),
        }
    }

    fn run(all: &Preparations, name: &str) -> Option<Vec<u64>> {
        all.run(name).map(|facts| facts.iter().map(|one| one.fingerprint).collect())
    }

    #[test]
    fn a_name_means_what_may_be_there_by_it() {
        let mut all = Preparations::default();
        assert_eq!(run(&all, "p"), None);
        all.push(prepared("p", 1, true));
        assert_eq!(run(&all, "p"), Some(vec![1]));
        all.settle(true);
        // This one may not have come about: there is one by that name.
        all.push(prepared("p", 2, true));
        assert_eq!(run(&all, "p"), Some(vec![1, 2]));
        all.settle(false);
        all.settle(true);
        assert_eq!(run(&all, "p"), Some(vec![1, 2]));
        all.follow(&Said::Deallocate("p".into()));
        all.settle(false);
        assert_eq!(run(&all, "p"), Some(vec![1, 2]));
        all.follow(&Said::Deallocate("p".into()));
        all.push(prepared("p", 3, true));
        assert_eq!(run(&all, "p"), Some(vec![1, 2, 3]));
        all.settle(true);
        assert_eq!(run(&all, "p"), Some(vec![3]));
        all.follow(&Said::DeallocateAll);
        all.settle(true);
        assert_eq!(run(&all, "p"), None);
    }

    #[test]
    fn what_hangs_on_values_is_not_run_by_its_name() {
        let mut all = Preparations::default();
        all.push(prepared("p", 100, true));
        all.settle(true);
        all.push(prepared("p", 1, true));
        all.settle(false);
        assert_eq!(run(&all, "p"), None);
        assert!(all.may_hang_on_values("p") && !all.may_hang_on_values("q"));
        // Judged with its values, message by message.
        all.push(prepared("q", 100, false));
        assert!(!all.may_hang_on_values("q"));
    }

    #[test]
    fn what_is_forgotten_may_be_there() {
        let mut all = Preparations::default();
        all.push(prepared("p", 100, false));
        all.push(prepared("text", 100, true));
        all.settle(true);
        for n in 0..MAX_NAMES as u64 {
            all.push(prepared(&format!("n{n}"), 1, false));
        }
        all.settle(true);
        all.push(prepared("p", 1, true));
        assert_eq!(run(&all, "p"), None);
        all.settle(false);
        assert_eq!(run(&all, "p"), None);
        assert!(all.may_hang_on_values("text"));
        all.push(prepared("p", 1, true));
        all.settle(true);
        assert_eq!(run(&all, "p"), Some(vec![1]));
        for n in 0..=MAX_NAMES as u64 {
            all.push(prepared(&format!("t{n}"), 1, true));
        }
        all.settle(true);
        assert!(all.may_hang_on_values("text") && all.may_hang_on_values("anything"));
    }

    #[test]
    fn what_a_name_means_is_told_in_words_or_not_at_all() {
        let mut all = Preparations::default();
        let told = |all: &Preparations, name: &str| -> Option<Vec<String>> {
            Some(all.bodies(name)?.iter().map(|body| body.statement.to_string()).collect())
        };
        assert_eq!(told(&all, "p"), None);
        all.push(prepared("p", 1, true));
        all.settle(true);
        all.push(prepared("p", 2, true));
        assert_eq!(told(&all, "p"), Some(vec!["1".to_owned(), "2".to_owned()]));
        all.settle(true);
        assert_eq!(told(&all, "p"), Some(vec!["2".to_owned()]));
        // There is no room for all of it.
        let long = Some(Body::new("(int)", &"x".repeat(MAX_BODY_BYTES - 5)));
        all.push(Prepared { body: long.clone(), ..prepared("q", 3, true) });
        assert!(told(&all, "p").is_none() && told(&all, "q").is_some());
        all.settle(true);
        all.push(prepared("q", 4, true));
        assert_eq!(told(&all, "q"), None);
        all.settle(true);
        assert_eq!(told(&all, "q"), Some(vec!["4".to_owned()]));
        assert_eq!(run(&all, "p"), Some(vec![2]));
    }
}

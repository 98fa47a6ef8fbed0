//! What a session has defined or locked and nobody else may see: of what hangs on it, the server can't be asked.

use std::{collections::HashSet, sync::Arc};

use super::catalog::Snapshot;
use crate::{
    event::{Access, Effect, Facts, TableAccess},
    guard::lineage::{last_part, may_be_system},
};

/// Names of one session.
const MAX_NAMES: usize = 1_000;

#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled {
    /// It has defined something that may not be committed yet.
    pub has_defined: bool,
    /// It may hold locks that whoever asks for it would wait for.
    has_locked: bool,
    /// What it has defined since all was committed last.
    open: HashSet<Arc<str>>,
    /// What it has ever defined: others will never see some of it, as temporary tables.
    made: HashSet<Arc<str>>,
    /// Of that, tables that were new.
    new: HashSet<Arc<str>>,
    /// There were more names than are kept.
    has_forgotten: bool,
}

impl Unsettled {
    pub(super) fn settle(&mut self) {
        self.has_defined = false;
        self.has_locked = false;
        self.open.clear();
    }

    pub(super) fn made(&self) -> &HashSet<Arc<str>> {
        &self.made
    }

    /// A statement was let through.
    pub(super) fn follow(&mut self, said: &Facts) {
        self.has_defined |= defines(said);
        self.has_locked |= said.effects.contains(Effect::Lock);
        let is = |verbs: &[&str]| verbs.iter().any(|verb| said.summary.starts_with(verb));
        // `SELECT … INTO` is one, too.
        let is_creation = is(&["CREATE TABLE", "SELECT"]);
        let defined = said.tables.iter().filter(|table| table.access == Access::Define);
        // More than one: what was another table's may be this one's now, as by `ATTACH PARTITION`, or its name.
        let leaves_rows =
            is(&["ALTER TABLE", "CREATE INDEX", "COMMENT"]) && defined.clone().count() == 1;
        for TableAccess { name, .. } in defined {
            if self.made.len() >= MAX_NAMES || self.open.len() >= MAX_NAMES {
                self.has_forgotten = true;
                self.new.remove(name);
                continue;
            }
            self.open.insert(name.clone());
            let is_new = self.made.insert(name.clone());
            match (is_creation, is_new) {
                (true, true) => drop(self.new.insert(name.clone())),
                // It may be there already: `IF NOT EXISTS`.
                (true, false) => {}
                (false, _) if leaves_rows => {}
                // In whatever schema.
                (false, _) => self.new.retain(|new| last_part(new) != last_part(name)),
            }
        }
    }

    /// It is a table that the session has made, and holds nothing of others.
    pub(super) fn is_own(&self, name: &str, snapshot: &Snapshot) -> bool {
        self.new.contains(name) && snapshot.relations(name).next().is_none()
    }

    /// What is meant by that name, nobody but the session sees.
    pub(super) fn hides(&self, name: &str, snapshot: &Snapshot) -> bool {
        let is_seen = snapshot.relations(name).next().is_some();
        let may_be_any = (self.has_defined || self.has_forgotten) && !may_be_system(name);
        let may_be_its = self.made.contains(name) || may_be_any;
        self.open.contains(name) || !is_seen && may_be_its
    }

    /// Somebody who asks may have to wait for it.
    pub(super) fn blocks(&self) -> bool {
        self.has_defined || self.has_locked
    }
}

/// Code of somebody's own may define anything.
pub(super) fn defines(said: &Facts) -> bool {
    [Effect::Define, Effect::Drop, Effect::Grant, Effect::Call, Effect::Unknown]
        .into_iter()
        .any(|effect| said.effects.contains(effect))
}

#[cfg(test)]
mod tests {
    use super::{MAX_NAMES, Unsettled};
    use crate::{
        event::{Access, Analysis, Facts, TableAccess},
        guard::catalog::{Kind, Relation, Rows, Snapshot},
        statement::{Lexing, STACK_BYTES, analyse},
    };

    fn snapshot() -> Snapshot {
        let relation = Relation {
            oid: 1,
            schema: "public".to_owned(),
            name: "old".to_owned(),
            kind: Kind::Table,
            rows: Some(100),
            definition: None,
        };
        Snapshot::new("app", Rows { relations: vec![relation], ..Rows::default() })
    }

    /// After these texts: whether a table is the session's own, and whether it is hidden from others.
    fn after(texts: &[&'static str], name: &str) -> (bool, bool) {
        let mut unsettled = Unsettled::default();
        for text in texts.iter().copied() {
            if text == "COMMIT" {
                unsettled.settle();
                continue;
            }
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let facts = thread.spawn(move || analyse(text, Lexing::default()).whole).unwrap();
            let facts = facts.join().unwrap();
            unsettled.follow(&facts);
        }
        (unsettled.is_own(name, &snapshot()), unsettled.hides(name, &snapshot()))
    }

    #[test]
    fn what_only_the_session_sees_is_told_from_what_others_see() {
        let check = |texts: &[&'static str], name, expected| {
            assert_eq!(after(texts, name), expected, "{texts:?} {name}");
        };
        check(&[], "old", (false, false));
        check(&[], "unknown", (false, false));
        let create = "CREATE TABLE a (n int)";
        check(&[create], "a", (true, true));
        check(&["SELECT 1 AS n INTO a"], "a", (true, true));
        check(&["CREATE TEMP TABLE a AS SELECT 1 AS n"], "a", (true, true));
        check(&[create, "CREATE TABLE IF NOT EXISTS a (n int)"], "a", (true, true));
        check(&[create], "old", (false, false));
        check(&[create, "COMMIT"], "a", (true, true));
        check(&[create, "COMMIT"], "unknown", (false, false));
        // Other rows than its own.
        check(&[create, "ALTER TABLE a ATTACH PARTITION old DEFAULT"], "a", (false, true));
        let view = "CREATE VIEW a AS SELECT * FROM old";
        check(&[view, "CREATE TABLE IF NOT EXISTS a (n int)"], "a", (false, true));
        check(&["CREATE TABLE IF NOT EXISTS old (n int)"], "old", (false, true));
        check(&["ALTER TABLE old RENAME TO a"], "a", (false, true));
        check(&[create, "CREATE INDEX ON a (n)", "COMMENT ON TABLE a IS 'x'"], "a", (true, true));
        check(&[create, "ALTER TABLE a ADD m int, ADD PRIMARY KEY (n)"], "a", (true, true));
        check(&[create, "ALTER TABLE public.old INHERIT a"], "a", (false, true));
        check(
            &[create, "CREATE RULE r AS ON DELETE TO a DO ALSO DELETE FROM old"],
            "a",
            (false, true),
        );
        // It isn't there any more, as far as one knows.
        check(&[create, "ROLLBACK", "ALTER TABLE public.old RENAME TO a"], "a", (false, true));
        check(&["ALTER TABLE old RENAME TO a"], "old", (false, true));
        check(&["ALTER TABLE old RENAME TO a", "COMMIT"], "a", (false, true));
        check(&[create], "pg_class", (false, false));
    }

    #[test]
    fn more_names_than_are_kept_may_be_any() {
        let mut unsettled = Unsettled::default();
        for n in 0..=MAX_NAMES {
            let table = TableAccess { name: format!("t{n}").into(), access: Access::Define };
            unsettled.follow(&Facts {
                summary: "CREATE TABLE".into(),
                tables: vec![table],
                ..Facts::nothing(Analysis::Complete)
            });
        }
        unsettled.settle();
        let last = format!("t{MAX_NAMES}");
        assert!(unsettled.is_own("t0", &snapshot()) && !unsettled.is_own(&last, &snapshot()));
        assert!(unsettled.hides(&last, &snapshot()) && !unsettled.hides("old", &snapshot()));
    }
}

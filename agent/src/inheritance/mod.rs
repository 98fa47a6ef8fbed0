//! Columns that have inherited labels: who has put something of labelled ones there, kept across restarts.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    event::{Ancestor, Heir, Origin, WallTime},
    ledger::durable,
};

/// Of a file that is read at the start.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Columns at a time. The guard refuses what would make more long before.
const MAX_COLUMNS: usize = 20_000;

/// A column with what it inherits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// From 1; never given twice by one file.
    pub number: u64,
    pub server: String,
    pub database: String,
    /// Number of the relation in its database, and the column's in that.
    pub relation: u32,
    pub place: i16,
    /// `schema.table.column`, as it was called then.
    pub column: String,
    pub from: Vec<From>,
    pub since: WallTime,
    /// Whose statement it was first, as far as that is known, and its fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub statement: String,
}

/// A labelled column that another one inherits from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct From {
    #[serde(flatten)]
    pub ancestor: Ancestor,
    /// It is made of that, and not the same.
    pub derived: bool,
}

/// Where columns are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub server: &'a str,
    pub database: &'a str,
}

/// What has changed, to be told.
#[derive(Clone, Debug)]
pub enum Change {
    /// By one statement.
    Inherited {
        origin: Arc<Origin>,
        statement: String,
        columns: Vec<Inherited>,
    },
    Forgotten {
        column: Inherited,
        by: String,
    },
    /// Their relations are gone.
    Gone {
        columns: Vec<Inherited>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum InheritanceError {
    #[error("no inherited label has the number {0}")]
    NoSuch(u64),
    #[error("can't write {}: it would be other labels at the next start", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("can't read {}: what inherits labels is not known; remove it if nothing is to", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{MAX_COLUMNS} columns have inherited labels already")]
    Full,
}

/// Shared by those who tell of them, those who ask, and those who take them back.
#[derive(Debug, Default)]
pub struct Inheritance {
    file: Option<PathBuf>,
    book: Mutex<Book>,
    wake: OnceLock<Wake>,
}

/// For whoever tells the guard.
struct Wake(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Book {
    last_number: u64,
    inherited: Vec<Inherited>,
    #[serde(skip)]
    changes: Vec<Change>,
    /// Taken back, and the guard doesn't know yet.
    #[serde(skip)]
    forgotten: Vec<Inherited>,
}

impl Inheritance {
    /// What the file of before says; where there is none, nothing is inherited.
    pub fn open(file: &Path) -> Result<Self, InheritanceError> {
        let unreadable = |source| InheritanceError::Read { path: file.to_owned(), source };
        let book: Book = durable::read_json(file, MAX_FILE_BYTES).map_err(unreadable)?;
        Ok(Self { file: Some(file.to_owned()), book: Mutex::new(book), wake: OnceLock::new() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the order of their numbers.
    pub fn list(&self) -> Vec<Inherited> {
        self.book().inherited.clone()
    }

    pub fn n_columns(&self) -> u64 {
        self.book().inherited.len() as u64
    }

    /// Columns of a database inherit by a statement of somebody's.
    ///
    /// # Errors
    /// They do so for the running service only, or there are too many.
    pub fn add(
        &self,
        place: Place<'_>,
        heirs: Vec<Heir>,
        statement: &str,
        origin: Arc<Origin>,
        since: WallTime,
    ) -> Result<(), InheritanceError> {
        let mut book = self.book();
        let mut changed: Vec<usize> = Vec::new();
        let mut is_full = false;
        for heir in heirs {
            let Heir { relation, place: at, column, from: ancestor, is_derived: derived } = heir;
            let same =
                |one: &Inherited| one.is_in(place) && one.relation == relation && one.place == at;
            let known = book.inherited.iter().position(same);
            if known.is_none() && book.inherited.len() >= MAX_COLUMNS {
                is_full = true;
                continue;
            }
            let known = known.unwrap_or_else(|| {
                book.last_number += 1;
                let inherited = Inherited {
                    number: book.last_number,
                    server: place.server.to_owned(),
                    database: place.database.to_owned(),
                    relation,
                    place: at,
                    column: column.to_string(),
                    from: Vec::new(),
                    since,
                    by: who(&origin),
                    statement: statement.to_owned(),
                };
                book.inherited.push(inherited);
                book.inherited.len() - 1
            });
            let Some(inherited) = book.inherited.get_mut(known) else { continue };
            match inherited.from.iter_mut().find(|from| from.ancestor == ancestor) {
                Some(from) => from.derived |= derived,
                None => inherited.from.push(From { ancestor, derived }),
            }
            if !changed.contains(&known) {
                changed.push(known);
            }
        }
        let columns = changed.iter().filter_map(|known| book.inherited.get(*known).cloned());
        let (columns, statement) = (columns.collect(), statement.to_owned());
        book.changes.push(Change::Inherited { origin, statement, columns });
        self.keep(&book)?;
        if is_full { Err(InheritanceError::Full) } else { Ok(()) }
    }

    /// # Errors
    /// Nothing has changed but, where the file can't be written, for the running service.
    pub fn forget(&self, number: u64, by: &str) -> Result<Inherited, InheritanceError> {
        let mut book = self.book();
        let at = book.inherited.iter().position(|one| one.number == number);
        let column = book.inherited.remove(at.ok_or(InheritanceError::NoSuch(number))?);
        book.changes.push(Change::Forgotten { column: column.clone(), by: by.to_owned() });
        book.forgotten.push(column.clone());
        let kept = self.keep(&book);
        drop(book);
        if let Some(Wake(wake)) = self.wake.get() {
            wake();
        }
        kept.map(|()| column)
    }

    /// Something is to be taken from [`Self::forgotten`]; set once.
    pub fn when_forgotten(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Wake(Box::new(wake)));
    }

    /// These relations are gone.
    pub fn gone(&self, place: Place<'_>, relations: &[u32]) -> Result<(), InheritanceError> {
        let mut book = self.book();
        let is_gone = |one: &mut Inherited| one.is_in(place) && relations.contains(&one.relation);
        let columns: Vec<Inherited> = book.inherited.extract_if(.., is_gone).collect();
        if columns.is_empty() {
            return Ok(());
        }
        book.changes.push(Change::Gone { columns });
        self.keep(&book)
    }

    /// What has changed since the last time.
    pub fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.book().changes)
    }

    /// What was taken back since the last time.
    pub fn forgotten(&self) -> Vec<Inherited> {
        std::mem::take(&mut self.book().forgotten)
    }

    fn keep(&self, book: &Book) -> Result<(), InheritanceError> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |source| InheritanceError::Write { path: file.clone(), source };
        let bytes = serde_json::to_vec(book).map_err(|error| failed(error.into()))?;
        durable::replace(file, &bytes).map_err(failed)
    }
}

impl Inherited {
    fn is_in(&self, place: Place<'_>) -> bool {
        self.server == place.server && self.database == place.database
    }

    /// As the guard has them.
    pub fn heirs(&self) -> impl Iterator<Item = Heir> + '_ {
        self.from.iter().map(|from| Heir {
            relation: self.relation,
            place: self.place,
            column: self.column.as_str().into(),
            from: from.ancestor.clone(),
            is_derived: from.derived,
        })
    }

    /// Whom it inherits from, in words.
    pub fn origins(&self) -> String {
        let from = self.from.iter().map(|From { ancestor, derived }| match derived {
            true => format!("{ancestor} (derived)"),
            false => ancestor.to_string(),
        });
        from.collect::<Vec<_>>().join(", ")
    }
}

fn who(origin: &Origin) -> Option<String> {
    let user = origin.db_user.as_ref().map(|user| format!("as {user}"));
    let parts: Vec<String> =
        [origin.principal.as_deref().map(str::to_owned), user].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Change, Inheritance, InheritanceError, Place};
    use crate::event::{Ancestor, Heir, Origin, WallTime};

    fn heir(relation: u32, place: i16, from: &str, is_derived: bool) -> Heir {
        let (schema, table) = ("public".into(), "people".into());
        let from = Ancestor { schema, table, column: from.into() };
        Heir { relation, place, column: format!("public.t.c{place}").into(), from, is_derived }
    }

    #[test]
    fn what_is_inherited_outlives_the_service() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("inherited.json");
        let at = Place { server: "main", database: "app" };
        let origin = Arc::new(Origin { db_user: Some("etl".into()), ..Origin::default() });
        let add = |book: &Inheritance, heirs| {
            book.add(at, heirs, "00ff", origin.clone(), WallTime(1)).unwrap();
        };
        let book = Inheritance::open(&file).unwrap();
        add(&book, vec![heir(5, 1, "ssn", false), heir(5, 2, "mail", false)]);
        add(
            &book,
            vec![heir(5, 1, "ssn", true), heir(5, 1, "mail", false), heir(6, 1, "ssn", false)],
        );
        assert_eq!(book.changes().len(), 2);

        let book = Inheritance::open(&file).unwrap();
        let shown = |book: &Inheritance| {
            let each = book.list().into_iter();
            each.map(|one| {
                format!("{} {}.{} {}", one.number, one.relation, one.place, one.origins())
            })
            .collect::<Vec<_>>()
        };
        let first = "1 5.1 public.people.ssn (derived), public.people.mail";
        assert_eq!(
            shown(&book),
            [first, "2 5.2 public.people.mail", "3 6.1 public.people.ssn"].map(str::to_owned)
        );
        assert!(matches!(book.forget(9, "uid 0"), Err(InheritanceError::NoSuch(9))));
        assert_eq!(book.forget(2, "uid 0").unwrap().by.as_deref(), Some("as etl"));
        assert_eq!(book.forgotten().len(), 1);
        book.gone(Place { database: "other", ..at }, &[5]).unwrap();
        book.gone(at, &[6]).unwrap();
        let changes = book.changes();
        assert!(
            matches!(&changes[..], [Change::Forgotten { .. }, Change::Gone { columns }] if columns.len() == 1),
            "{changes:?}"
        );
        assert_eq!(shown(&Inheritance::open(&file).unwrap()), [first.to_owned()]);
    }
}

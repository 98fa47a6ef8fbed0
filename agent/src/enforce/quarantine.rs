//! Whose next connections end: for a time, and across restarts of the service.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    event::{Origin, PrincipalKind, WallTime},
    ledger::durable,
};

/// At a time. Who is one too many goes free, and that is told.
const MAX_DETAINEES: usize = 1_000;
/// Of a file that is read at the start.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Programs that connect for many: whom they serve must not suffer for one of them.
const POOLERS: [&str; 5] = ["odyssey", "pgbouncer", "pgcat", "pgpool", "pgagroal"];

/// Who is meant, as narrowly as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_kind: Option<PrincipalKind>,
    /// Of an AI, who launched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_start: Option<WallTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_user: Option<String>,
}

/// One that is in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detainee {
    /// From 1; never given twice by one file.
    pub number: u64,
    #[serde(flatten)]
    pub who: Who,
    pub since: WallTime,
    pub until: WallTime,
    pub reason: String,
}

/// What somebody has changed, to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Added { detainee: Detainee, by: String },
    Released { detainee: Detainee, by: String },
    Expired { detainee: Detainee },
}

#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    #[error("say who: a principal, a process, or an address with or without a database user")]
    Nobody,
    #[error("{MAX_DETAINEES} are in quarantine already: release some")]
    Full,
    #[error("nobody in quarantine has the number {0}")]
    NoSuch(u64),
    #[error("can't write {}: it would be forgotten at the next start", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("can't read {}: remove it if nobody is to be in quarantine", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// Shared by those who judge and those who are asked.
#[derive(Debug, Default)]
pub struct Quarantine {
    file: Option<PathBuf>,
    /// So that where nobody is in it, nobody waits for a lock.
    n_detained: AtomicUsize,
    /// How often it has changed.
    version: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Book {
    last_number: u64,
    detained: Vec<Detainee>,
    #[serde(skip)]
    changes: Vec<Change>,
}

impl Quarantine {
    /// What the file of before says; where there is none, nobody is in quarantine.
    pub fn open(file: &Path) -> Result<Self, QuarantineError> {
        let unreadable = |source| QuarantineError::Read { path: file.to_owned(), source };
        let book: Book = durable::read_json(file, MAX_FILE_BYTES).map_err(unreadable)?;
        let n_detained = AtomicUsize::new(book.detained.len());
        let (file, book) = (Some(file.to_owned()), Mutex::new(book));
        Ok(Self { file, n_detained, version: AtomicU64::new(0), book })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the order of their numbers.
    pub fn list(&self) -> Vec<Detainee> {
        self.book().detained.clone()
    }

    /// Why this one's connections end, if they do.
    pub fn holds(&self, origin: &Origin, now: WallTime) -> Option<Detainee> {
        if self.n_detained.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let book = self.book();
        book.detained.iter().find(|one| now < one.until && one.who.is(origin)).cloned()
    }

    /// Another one wherever somebody else may be in it than before.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whoever is in it already stays as long as the later of both ends says.
    ///
    /// # Errors
    /// Nothing has changed but, where the file can't be written, for the running service.
    pub fn add(
        &self,
        who: Who,
        (since, until): (WallTime, WallTime),
        reason: &str,
        by: &str,
    ) -> Result<Detainee, QuarantineError> {
        if !who.is_somebody() {
            return Err(QuarantineError::Nobody);
        }
        let mut book = self.book();
        let is_full = book.detained.len() >= MAX_DETAINEES;
        let known = book.detained.iter_mut().find(|one| one.who == who);
        let detainee = match known {
            Some(known) => {
                known.until = known.until.max(until);
                known.reason = reason.to_owned();
                known.clone()
            }
            None if is_full => return Err(QuarantineError::Full),
            None => {
                book.last_number += 1;
                let number = book.last_number;
                let detainee = Detainee { number, who, since, until, reason: reason.to_owned() };
                book.detained.push(detainee.clone());
                detainee
            }
        };
        book.changes.push(Change::Added { detainee: detainee.clone(), by: by.to_owned() });
        self.keep(&book)?;
        Ok(detainee)
    }

    /// # Errors
    /// As for [`Self::add`].
    pub fn release(&self, number: u64, by: &str) -> Result<Detainee, QuarantineError> {
        let mut book = self.book();
        let at = book.detained.iter().position(|one| one.number == number);
        let detainee = book.detained.remove(at.ok_or(QuarantineError::NoSuch(number))?);
        book.changes.push(Change::Released { detainee: detainee.clone(), by: by.to_owned() });
        self.keep(&book)?;
        Ok(detainee)
    }

    /// What has changed since the last time, with those whose time is over.
    pub fn changes(&self, now: WallTime) -> Vec<Change> {
        let mut book = self.book();
        if book.detained.iter().any(|one| one.until <= now) {
            let over: Vec<Detainee> =
                book.detained.extract_if(.., |one| one.until <= now).collect();
            book.changes.extend(over.into_iter().map(|detainee| Change::Expired { detainee }));
            // Forgetting it once more at the next start is no harm.
            let _ = self.keep(&book);
        }
        std::mem::take(&mut book.changes)
    }

    fn keep(&self, book: &Book) -> Result<(), QuarantineError> {
        self.n_detained.store(book.detained.len(), Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |source| QuarantineError::Write { path: file.clone(), source };
        let bytes = serde_json::to_vec_pretty(book).map_err(|error| failed(error.into()))?;
        durable::replace(file, &bytes).map_err(failed)
    }
}

impl Who {
    /// Who stands behind a connection. A person or a service by name, an AI with whoever launched it;
    /// one without a name by its process, or by where it comes from and as whom.
    ///
    /// # Errors
    /// Why nobody can be named.
    pub fn behind(origin: &Origin) -> Result<Self, &'static str> {
        let exe = origin.exe.as_deref().and_then(|exe| exe.rsplit('/').next());
        if exe.is_some_and(|exe| POOLERS.contains(&exe)) {
            return Err("a pooler connects for many");
        }
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        let named = origin.principal_kind.is_some_and(|kind| kind != PrincipalKind::Unknown);
        let who = if named {
            Self {
                principal: text(&origin.principal),
                principal_kind: origin.principal_kind,
                initiator: text(&origin.initiator),
                ..Self::default()
            }
        } else if origin.pid.is_some() && origin.process_start.is_some() {
            Self { pid: origin.pid, process_start: origin.process_start, ..Self::default() }
        } else if origin.client_port.is_some() {
            Self {
                client_address: text(&origin.client_address),
                db_user: text(&origin.db_user),
                ..Self::default()
            }
        } else {
            Self::default()
        };
        who.is_somebody().then_some(who).ok_or("nobody knows who it is")
    }

    /// A database user alone is many.
    fn is_somebody(&self) -> bool {
        self.principal.is_some() || self.pid.is_some() || self.client_address.is_some()
    }

    fn is(&self, origin: &Origin) -> bool {
        fn fits<T: PartialEq + ?Sized>(wanted: Option<&T>, is: Option<&T>) -> bool {
            wanted.is_none_or(|wanted| is == Some(wanted))
        }
        fits(self.principal.as_deref(), origin.principal.as_deref())
            && fits(self.principal_kind.as_ref(), origin.principal_kind.as_ref())
            && fits(self.initiator.as_deref(), origin.initiator.as_deref())
            && fits(self.pid.as_ref(), origin.pid.as_ref())
            && fits(self.process_start.as_ref(), origin.process_start.as_ref())
            && fits(self.client_address.as_deref(), origin.client_address.as_deref())
            && fits(self.db_user.as_deref(), origin.db_user.as_deref())
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { principal, principal_kind, initiator, pid, client_address, db_user, .. } = self;
        let kind = principal_kind.map(|kind| format!(" ({})", kind.name())).unwrap_or_default();
        let parts = [
            principal.as_ref().map(|name| format!("{name}{kind}")),
            initiator.as_ref().map(|name| format!("launched by {name}")),
            pid.map(|pid| format!("process {pid}")),
            client_address.clone(),
            db_user.as_ref().map(|user| format!("as {user}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Quarantine, QuarantineError, Who};
    use crate::event::{Origin, PrincipalKind, WallTime};

    fn origin(kind: PrincipalKind, name: &str) -> Origin {
        Origin {
            principal: Some(name.into()),
            principal_kind: Some(kind),
            pid: Some(7),
            process_start: Some(WallTime(5)),
            client_address: Some("10.0.0.7".into()),
            client_port: Some(4_711),
            db_user: Some("app".into()),
            ..Origin::default()
        }
    }

    #[test]
    fn somebody_is_meant_as_narrowly_as_known() {
        let human = origin(PrincipalKind::Human, "alice");
        let agent =
            Origin { initiator: Some("alice".into()), ..origin(PrincipalKind::Ai, "codex") };
        let bobs = Origin { initiator: Some("bob".into()), ..agent.clone() };
        let process = origin(PrincipalKind::Unknown, "unknown");
        let other_life = Origin { process_start: Some(WallTime(6)), ..process.clone() };
        let remote = Origin { pid: None, process_start: None, ..process.clone() };
        let other_user = Origin { db_user: Some("admin".into()), ..remote.clone() };
        let nobody = Origin { client_address: None, client_port: None, ..remote.clone() };
        let pooler = Origin {
            exe: Some("/usr/sbin/pgbouncer".into()),
            ..origin(PrincipalKind::Service, "p")
        };
        for (first, words, also, not) in [
            (&human, Ok("alice (human)"), Some(&human), &agent),
            (&agent, Ok("codex (ai) launched by alice"), Some(&agent), &bobs),
            (&process, Ok("process 7"), Some(&process), &other_life),
            (&remote, Ok("10.0.0.7 as app"), Some(&process), &other_user),
            (&nobody, Err("nobody knows who it is"), None, &human),
            (&pooler, Err("a pooler connects for many"), None, &human),
        ] {
            let who = Who::behind(first);
            assert_eq!(who.clone().map(|who| who.to_string()), words.map(str::to_owned));
            if let Ok(who) = who {
                assert!(also.is_some_and(|also| who.is(also)), "{who}");
                assert!(!who.is(not), "{who}");
            }
        }
    }

    #[test]
    fn it_lasts_as_long_as_was_said_and_outlives_the_service() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quarantine.json");
        let quarantine = Quarantine::open(&file).unwrap();
        let alice = origin(PrincipalKind::Human, "alice");
        assert!(quarantine.holds(&alice, WallTime(10)).is_none());
        let who = Who::behind(&alice).unwrap();
        let time = |until| (WallTime(10), WallTime(until));
        quarantine.add(who.clone(), time(20), "by rule x", "policy").unwrap();
        let longer = quarantine.add(who, time(30), "by rule y", "policy").unwrap();
        assert_eq!((longer.number, longer.until), (1, WallTime(30)));
        assert_eq!(quarantine.changes(WallTime(11)).len(), 2);

        let again = Quarantine::open(&file).unwrap();
        assert_eq!(again.list(), vec![longer.clone()]);
        assert_eq!(again.holds(&alice, WallTime(29)).unwrap().reason, "by rule y");
        assert!(again.holds(&alice, WallTime(30)).is_none());
        assert_eq!(again.changes(WallTime(30)), vec![Change::Expired { detainee: longer }]);
        assert!(again.list().is_empty());

        let who = Who::behind(&alice).unwrap();
        let next = again.add(who, time(90), "by hand", "uid 0").unwrap();
        assert_eq!(next.number, 2);
        assert!(matches!(again.release(1, "uid 0"), Err(QuarantineError::NoSuch(1))));
        again.release(2, "uid 0").unwrap();
        assert!(again.holds(&alice, WallTime(40)).is_none());
        assert!(Quarantine::open(&file).unwrap().list().is_empty());
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quarantine.json");
        std::fs::write(&file, "{\"detained\": 7}").unwrap();
        let error = Quarantine::open(&file).unwrap_err().to_string();
        assert!(error.contains("remove it if nobody is to be in quarantine"), "{error}");
        let quarantine = Quarantine::default();
        let many: Who = serde_json::from_str("{\"db_user\": \"app\"}").unwrap();
        let error = quarantine.add(many, (WallTime(0), WallTime(9)), "", "").unwrap_err();
        assert!(matches!(error, QuarantineError::Nobody));
    }
}

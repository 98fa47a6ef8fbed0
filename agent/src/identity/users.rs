//! Names of uids, from `/etc/passwd` at once and from the host's directory later.
//!
//! The name service (LDAP, SSSD) can take seconds or hang, and might even sit on a database that is
//! being watched. So a name is never waited for: local accounts are read from `/etc/passwd` when the
//! agent starts, any other uid is asked of the name service by a thread of its own, and until it
//! answers the name is [`Name::Pending`]. A uid inside a container has the *host's* name here, if
//! any: the uid is the fact, the name a comfort.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use crate::event::BootTime;

/// Names kept, and questions waiting.
const MAX_NAMES: usize = 8192;
const MAX_QUESTIONS: usize = 64;
/// Age from which a name is asked for again; the old one serves meanwhile.
const FRESH_NS: u64 = 300 * 1_000_000_000;

/// What is known of a uid's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    Known(Arc<str>),
    /// The host has no such account.
    Nobody,
    /// Asked, or to be asked when the question fits.
    Pending,
}

/// The names of this host's accounts.
#[derive(Debug)]
pub struct Users {
    names: HashMap<u32, Entry>,
    service: Option<Service>,
    answers: u64,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    /// When it was learned or last asked for.
    since: BootTime,
}

#[derive(Debug)]
struct Service {
    questions: SyncSender<u32>,
    answers: Receiver<(u32, Option<String>)>,
}

impl Users {
    /// Reads `passwd` (the text of `/etc/passwd`), and asks the name service for everybody else.
    pub fn with_name_service(passwd: &str, now: BootTime) -> Users {
        let mut users = Users::of_passwd(passwd, now);
        users.service = Service::start();
        users
    }

    /// Only what `passwd` says.
    pub fn of_passwd(passwd: &str, now: BootTime) -> Users {
        let names = passwd
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let (name, uid) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
                Some((uid, Entry { name: Name::Known(name.into()), since: now }))
            })
            .take(MAX_NAMES);
        // The first line of a uid names it, as in the C library.
        let mut users = Users { names: HashMap::new(), service: None, answers: 0 };
        for (uid, entry) in names {
            users.names.entry(uid).or_insert(entry);
        }
        users
    }

    /// The name of `uid`, as far as known; never waits.
    pub fn name(&mut self, uid: u32, now: BootTime) -> Name {
        self.take_answers(now);
        let Some(service) = &self.service else {
            return self.names.get(&uid).map_or(Name::Nobody, |entry| entry.name.clone());
        };
        match self.names.get_mut(&uid) {
            Some(entry) => {
                if now.0.saturating_sub(entry.since.0) > FRESH_NS
                    && service.questions.try_send(uid).is_ok()
                {
                    entry.since = now;
                }
                entry.name.clone()
            }
            None => {
                if service.questions.try_send(uid).is_ok() {
                    if self.names.len() >= MAX_NAMES {
                        self.names.clear();
                    }
                    self.names.insert(uid, Entry { name: Name::Pending, since: now });
                }
                Name::Pending
            }
        }
    }

    /// How many answers the name service has given: what was pending before may be known after.
    pub fn answers(&mut self, now: BootTime) -> u64 {
        self.take_answers(now);
        self.answers
    }

    fn take_answers(&mut self, now: BootTime) {
        let Some(service) = &self.service else { return };
        for (uid, name) in service.answers.try_iter() {
            self.answers += 1;
            let name = name.map_or(Name::Nobody, |name| Name::Known(name.into()));
            self.names.insert(uid, Entry { name, since: now });
        }
    }
}

impl Service {
    /// `None` if no thread can be had: names are then those of `/etc/passwd`.
    fn start() -> Option<Service> {
        let (questions, asked) = sync_channel::<u32>(MAX_QUESTIONS);
        let (answer, answers) = sync_channel(MAX_QUESTIONS);
        thread::Builder::new()
            .name("user-names".into())
            .spawn(move || {
                for uid in asked {
                    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
                    if answer.send((uid, user.ok().flatten().map(|user| user.name))).is_err() {
                        return;
                    }
                }
            })
            .ok()?;
        Some(Service { questions, answers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_passwd() {
        let text = "root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\nbad\nx:y\nz:x:no:1\n\
                    ana:x:1000:1000::/home/ana:/bin/bash\n";
        let mut users = Users::of_passwd(text, BootTime(0));
        for (uid, expected) in [
            (0, Name::Known("root".into())),
            (1000, Name::Known("ana".into())),
            (1001, Name::Nobody),
        ] {
            assert_eq!(users.name(uid, BootTime(0)), expected, "{uid}");
        }
    }

    #[test]
    fn the_name_service_answers_later() {
        let mut users = Users::with_name_service("", BootTime(0));
        assert_eq!(users.name(0, BootTime(0)), Name::Pending);
        let (uid, name) = users.service.as_ref().unwrap().answers.recv().unwrap();
        assert_eq!((uid, name.as_deref()), (0, Some("root")));
        users.names.insert(0, Entry { name: Name::Known("root".into()), since: BootTime(0) });
        // Old names serve while they are asked for again.
        assert_eq!(users.name(0, BootTime(FRESH_NS + 1)), Name::Known("root".into()));
        assert_eq!(users.service.as_ref().unwrap().answers.recv().unwrap().0, 0);
    }
}

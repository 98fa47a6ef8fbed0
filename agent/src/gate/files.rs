//! Files of guarded servers, their settings and certificates: looked at again and again, read when they change.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::{Gate, Target, certificate, client_certificates, server_settings};
use crate::{config::Server, discovery::open_as, guard::wire::Certificate};

/// Of a file that is read: certificates with their chain, a server's settings.
const MAX_BYTES: u64 = 1 << 20;

/// By the servers' places in the settings.
#[derive(Default)]
pub(super) struct Files {
    servers: Vec<Option<Known>>,
}

/// Of one server, as long as neither it nor any of these files has changed.
struct Known {
    target: Target,
    seen: Vec<Seen>,
    learned: Learned,
}

/// A file as it was when it was read, or that it wasn't there.
#[derive(PartialEq, Eq)]
struct Seen {
    pid: u32,
    path: PathBuf,
    look: Option<Look>,
}

/// When it changed, its size and its inode.
type Look = (SystemTime, u64, u64);

/// What the files say.
#[derive(Clone, Default, PartialEq, Eq)]
struct Learned {
    /// What TLS is answered with; `None` where the server has none.
    certificate: Option<Arc<Certificate>>,
    /// Why the newest isn't used.
    stale: Option<String>,
    /// Why nobody may be led to the server.
    unfit: Option<String>,
}

/// Reads files of a process, and keeps in mind how they looked.
#[derive(Default)]
pub(super) struct Reader {
    seen: Vec<Seen>,
}

impl Reader {
    /// # Errors
    /// In words, with the path.
    pub(super) fn read(&mut self, pid: u32, path: &Path) -> Result<String, String> {
        self.try_read(pid, path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// `None` for a file that isn't there.
    ///
    /// # Errors
    /// As above.
    pub(super) fn read_if_any(&mut self, pid: u32, path: &Path) -> Result<Option<String>, String> {
        match self.try_read(pid, path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn try_read(&mut self, pid: u32, path: &Path) -> io::Result<String> {
        let opened = open_as(pid, path);
        // Before it is read: what changes meanwhile looks different the next time.
        let look = opened.as_ref().ok().and_then(look);
        self.seen.push(Seen { pid, path: path.to_owned(), look });
        let mut text = String::new();
        opened?.take(MAX_BYTES).read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Seen {
    fn is_the_same(&self) -> bool {
        open_as(self.pid, &self.path).as_ref().ok().and_then(look) == self.look
    }
}

fn look(file: &File) -> Option<Look> {
    let about = file.metadata().ok()?;
    Some((about.modified().ok()?, about.len(), about.ino()))
}

impl Files {
    /// Looks again; whether the guard has to be told of other certificates.
    pub(super) fn look(&mut self, gate: &Gate) -> bool {
        let targets = gate.state().targets.clone();
        self.servers.resize_with(gate.servers.len(), || None);
        let mut is_other = false;
        let servers = gate.servers.iter().zip(&targets);
        for (known, (server, target)) in self.servers.iter_mut().zip(servers) {
            let Ok(target) = target else {
                *known = None;
                continue;
            };
            if known.as_ref().is_some_and(|known| known.is_the_same(target)) {
                continue;
            }
            let before = known.take().filter(|known| known.target == *target);
            let before = before.map(|known| known.learned).unwrap_or_default();
            let mut reader = Reader::default();
            let learned = learn(&mut reader, server, target, &before);
            is_other |= learned.certificate != before.certificate;
            let seen = reader.seen;
            *known = Some(Known { target: target.clone(), seen, learned });
        }
        self.tell(gate);
        is_other
    }

    /// For the guard.
    pub(super) fn certificates(&self) -> Vec<Option<Arc<Certificate>>> {
        self.learned(|learned| learned.certificate.clone())
    }

    fn learned<T>(&self, what: impl Fn(&Learned) -> Option<T>) -> Vec<Option<T>> {
        let known = self.servers.iter().map(Option::as_ref);
        known.map(|known| what(&known?.learned)).collect()
    }

    /// What is wrong, for whoever asks, and for the log once.
    fn tell(&self, gate: &Gate) {
        let unfit = self.learned(|learned| learned.unfit.clone());
        let stale = self.learned(|learned| learned.stale.clone());
        let mut state = gate.state();
        for (server, (now, before)) in gate.servers.iter().zip(unfit.iter().zip(&state.unfit)) {
            if let Some(why) = now.as_ref().filter(|_| now != before) {
                let server = server.name.as_deref().unwrap_or_default();
                tracing::error!(server, "not guardable, clients go straight to it: {why}");
            }
        }
        for (server, (now, before)) in gate.servers.iter().zip(stale.iter().zip(&state.stale)) {
            if let Some(why) = now.as_ref().filter(|_| now != before) {
                let server = server.name.as_deref().unwrap_or_default();
                tracing::error!(server, "the certificate of before stays: {why}");
            }
        }
        (state.unfit, state.stale) = (unfit, stale);
    }
}

impl Known {
    fn is_the_same(&self, target: &Target) -> bool {
        self.target == *target && self.seen.iter().all(Seen::is_the_same)
    }
}

fn learn(reader: &mut Reader, server: &Server, target: &Target, before: &Learned) -> Learned {
    let settings = match server_settings::read(reader, target) {
        Ok(settings) => settings,
        // Nobody knows whether it speaks TLS, nor what it asks of its clients.
        Err(why) => {
            let unfit = Some(format!("its settings can't be read: {why}"));
            return Learned { unfit, ..before.clone() };
        }
    };
    let asked = client_certificates::asked(reader, target, &settings);
    let (certificate, stale) = match certificate::find(reader, server, target, &settings) {
        Ok(certificate) => (certificate.map(Arc::new), None),
        Err(why) => (before.certificate.clone(), Some(why)),
    };
    let stands_in = certificate.as_ref().is_some_and(|certificate| certificate.clients.is_some());
    match (asked.map(|asks| asks.filter(|_| !stands_in)), &certificate, stale) {
        (Ok(None), None, Some(why)) => {
            // Clients that don't insist on TLS would go on in the clear, and not notice.
            let unfit = format!("TLS can't be answered in its place: {why}");
            Learned { certificate: None, stale: None, unfit: Some(unfit) }
        }
        (Ok(unfit), _, stale) => Learned { certificate, stale, unfit },
        (Err(why), _, stale) => {
            let unfit = Some(format!("whom it lets in can't be read: {why}"));
            Learned { certificate, stale, unfit }
        }
    }
}

//! A thread that looks at processes which may be database servers: procfs of strangers can hang.

use std::{
    fs::File,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
};

use anyhow::{Context, Result};

use crate::{
    discovery::{self, LibraryError, Look, Refusal, Server, ServerRule},
    identity::{Procfs, ProcfsError},
};

/// Looks that wait for the scout; what does not fit comes up again by itself.
const QUEUE: usize = 64;

/// A server with its TLS libraries opened, so that the very inodes which it uses are probed.
pub struct Found {
    pub server: Server,
    pub libraries: Vec<(String, Result<File, LibraryError>)>,
}

pub enum Answer {
    At(u32, Result<Box<Found>, Refusal>),
    Everywhere(Result<Vec<Found>, ProcfsError>),
}

pub struct Scout {
    looks: SyncSender<Look>,
    answers: Receiver<Answer>,
}

impl Scout {
    pub fn start(procfs: Procfs, rules: Vec<ServerRule>) -> Result<Self> {
        let (looks, requests) = sync_channel(QUEUE);
        let (results, answers) = sync_channel(QUEUE);
        thread::Builder::new()
            .name("discovery".into())
            .spawn(move || {
                for look in requests {
                    if results.send(answer(&procfs, &rules, look)).is_err() {
                        return;
                    }
                }
            })
            .context("can't start the discovery thread")?;
        Ok(Self { looks, answers })
    }

    /// Asks for a look; false if the scout is too busy.
    pub fn look(&self, look: Look) -> bool {
        !matches!(self.looks.try_send(look), Err(TrySendError::Full(_)))
    }

    /// An answer that has come.
    pub fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }

    /// The next answer, however long it takes; `None` if the scout is gone.
    pub fn wait(&self) -> Option<Answer> {
        self.answers.recv().ok()
    }
}

fn answer(procfs: &Procfs, rules: &[ServerRule], look: Look) -> Answer {
    let open = |server: Server| {
        let libraries = server
            .tls
            .iter()
            .map(|library| (library.path.display().to_string(), library.open(procfs)))
            .collect();
        Found { server, libraries }
    };
    match look {
        Look::At(pid) => Answer::At(
            pid,
            discovery::inspect(procfs, pid, rules).map(|server| Box::new(open(server))),
        ),
        Look::Everywhere => Answer::Everywhere(
            discovery::scan(procfs, rules).map(|servers| servers.into_iter().map(open).collect()),
        ),
    }
}

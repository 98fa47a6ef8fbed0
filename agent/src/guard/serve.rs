//! The guard's process: takes orders on its standard input, which is a socket, until the service ends it.

use std::{
    io,
    sync::Arc,
    thread::{self, available_parallelism},
};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{
    catalog::Catalogs,
    clock::Clock,
    holds::Holds,
    past::Ran,
    rulebook::Rulebook,
    wire::{Channel, Inherited, Number, Order, Word},
    worker::{self, Answer, Task},
};
use crate::confine;

/// More would only share the same sessions among more analysts.
const MAX_WORKERS: usize = 4;

/// # Errors
///
/// The process can't be confined, or the channel to the service broke.
pub fn serve() -> io::Result<()> {
    let (_, most_files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // No limit for files: where the log is one, a line of it would end the process.
    confine::give_up_rights(&[(Resource::RLIMIT_NOFILE, most_files), (Resource::RLIMIT_CORE, 0)])?;
    let channel = Arc::new(Channel::new(confine::standard_input()?));
    let catalogs = Catalogs::start(channel.clone())?;
    let (clock, holds, tasks) = (Clock::start()?, Holds::default(), Vec::new());
    let mut workers = Workers { channel: channel.clone(), catalogs, clock, holds, tasks };
    let mut newest: Option<Arc<Rulebook>> = None;
    while let Some((order, socket)) = channel.receive::<Order>()? {
        match (order, socket) {
            (Order::Rules(rules), _) => {
                let mut unusable = Vec::new();
                let (taken, problem) = match Rulebook::new(*rules, newest.as_deref()) {
                    Ok(rules) => {
                        let rules = Arc::new(rules);
                        newest = Some(rules.clone());
                        unusable = rules.unusable();
                        let lacks = Some(rules.lacks.join("; ")).filter(|lacks| !lacks.is_empty());
                        match workers.take(rules) {
                            Ok(()) => (true, lacks),
                            Err(error) => (false, Some(error.to_string())),
                        }
                    }
                    Err(unusable) => (false, Some(unusable.to_string())),
                };
                channel.send(&Word::Ready { taken, problem, unusable }, None)?;
            }
            (Order::Client { number, server }, Some(socket)) => {
                workers.tell(number, Task::Client { number, server, socket });
            }
            (Order::Admitted { number, admission }, Some(socket)) => {
                let answer = Answer::Admitted(admission, socket);
                workers.tell(number, Task::Answer { number, answer });
            }
            (Order::Refused { number, refusal }, _) => {
                let answer = Answer::Refused(refusal);
                workers.tell(number, Task::Answer { number, answer });
            }
            (Order::Approval { number, answer }, _) => {
                workers.tell(number, Task::Approval { number, answer });
            }
            (Order::Inherited(all), _) => {
                for Inherited { server, database, heirs } in all {
                    workers.catalogs.inherit(server, &database, heirs);
                }
            }
            (Order::Disinherited { server, database, columns }, _) => {
                workers.catalogs.disinherit(server, &database, &columns);
            }
            (Order::Ran { server, database, connection, text }, _) => {
                // Those of one connection go to one worker.
                let ran = Ran { place: (server, database), connection, text };
                workers.tell(connection.0, Task::Ran(ran));
            }
            (Order::Ledger { down }, _) => workers.tell_all(down.map(Into::into)),
            (Order::CatalogSocket { ticket, refused }, socket) => {
                let none = || refused.unwrap_or_else(|| "the socket did not come along".to_owned());
                workers.catalogs.socket(ticket, socket.ok_or_else(none));
            }
            // The kernel had no descriptor left for it: the client is gone with it.
            (Order::Client { .. } | Order::Admitted { .. }, None) => {
                tracing::error!("a client's socket did not come along");
            }
        }
    }
    Ok(())
}

struct Workers {
    channel: Arc<Channel>,
    catalogs: Catalogs,
    clock: Clock,
    holds: Holds,
    tasks: Vec<UnboundedSender<Task>>,
}

impl Workers {
    /// Starts them with the first rules, gives them those after that.
    fn take(&mut self, rules: Arc<Rulebook>) -> io::Result<()> {
        self.catalogs.rules(rules.clone());
        if !self.tasks.is_empty() {
            for worker in &self.tasks {
                let _ = worker.send(Task::Rules(rules.clone()));
            }
            return Ok(());
        }
        let n = available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
        for _ in 0..n {
            let (sender, tasks) = unbounded_channel();
            let (rules, channel) = (rules.clone(), self.channel.clone());
            let (catalogs, clock) = (self.catalogs.clone(), self.clock.clone());
            let holds = self.holds.clone();
            thread::Builder::new().name("sessions".into()).spawn(move || {
                if let Err(error) = worker::work(rules, channel, catalogs, clock, holds, tasks) {
                    tracing::error!(%error, "a thread of the guard can't work");
                    // Without it its share of the clients would wait for ever.
                    std::process::exit(1);
                }
            })?;
            self.tasks.push(sender);
        }
        Ok(())
    }

    fn tell_all(&self, ledger_down: Option<Arc<str>>) {
        for worker in &self.tasks {
            let _ = worker.send(Task::Ledger { down: ledger_down.clone() });
        }
    }

    fn tell(&self, number: Number, task: Task) {
        let worker = self.tasks.get(number as usize % self.tasks.len().max(1));
        // Without rules there is no worker yet, and the client's socket closes.
        if let Some(worker) = worker {
            let _ = worker.send(task);
        }
    }
}

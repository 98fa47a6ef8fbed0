//! One of the guard's threads: its clients from their arrival to their end.

use std::{
    cell::RefCell, collections::HashMap, io, os::fd::OwnedFd, rc::Rc, sync::Arc, time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::{
    entry::{self, Arrival, Failed, Unwelcome},
    judging::{self, ClientCourt, Judging},
    relay::{End, relay},
    report::{Report, Severity},
    rulebook::Rulebook,
    session::Session,
    stream::{Socket, Stream},
    wire::{Admission, Channel, Number, Refusal, Wants, Word},
};
use crate::pipeline::{profile::Profile, servers::ServerFacts};

/// From the first byte to the `StartupMessage`, as PostgreSQL's `authentication_timeout`.
const ENTRY: Duration = Duration::from_secs(60);
/// For the service to say whether a client may go on.
const ADMISSION: Duration = Duration::from_secs(30);
/// For a client to take the reason why not.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a worker is told.
pub(super) enum Task {
    Rules(Arc<Rulebook>),
    Client { number: Number, server: usize, socket: OwnedFd },
    Answer { number: Number, answer: Answer },
}

pub(super) enum Answer {
    Admitted(Box<Admission>, OwnedFd),
    Refused(Refusal),
}

struct Worker {
    judging: Rc<RefCell<Judging>>,
    rules: RefCell<Arc<Rulebook>>,
    waiting: RefCell<HashMap<Number, oneshot::Sender<Answer>>>,
    channel: Arc<Channel>,
}

/// Until there is nobody any more who has tasks.
pub(super) fn work(
    rules: Arc<Rulebook>,
    channel: Arc<Channel>,
    mut tasks: UnboundedReceiver<Task>,
) -> io::Result<()> {
    let judging = rules.judging(channel.clone()).map_err(io::Error::other)?;
    let worker = Rc::new(Worker {
        judging: Rc::new(RefCell::new(judging)),
        rules: RefCell::new(rules),
        waiting: RefCell::default(),
        channel,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        while let Some(task) = tasks.recv().await {
            match task {
                Task::Rules(rules) => worker.replace(rules),
                Task::Client { number, server, socket } => {
                    spawn_local(worker.clone().client(number, server, socket));
                }
                Task::Answer { number, answer } => {
                    let asker = worker.waiting.borrow_mut().remove(&number);
                    if let Some(asker) = asker {
                        // It may have left meanwhile.
                        let _ = asker.send(answer);
                    }
                }
            }
        }
    });
    Ok(())
}

impl Worker {
    fn replace(&self, rules: Arc<Rulebook>) {
        match rules.principals() {
            Ok(principals) => {
                let (set, host) = (rules.set.clone(), rules.host.clone());
                self.judging.borrow_mut().replace(set, host, principals);
            }
            Err(error) => tracing::error!(%error, "the rules for principals"),
        }
        *self.rules.borrow_mut() = rules;
    }

    async fn client(self: Rc<Self>, number: Number, server: usize, socket: OwnedFd) {
        let mut session = Session::new(rand::random());
        let broken = self.serve(number, server, socket, &mut session).await;
        let counts = session.counts();
        let (passed, denied) = (counts.passed, counts.denied);
        self.tell(&Word::Ended { number, passed, denied, broken: broken.err() });
    }

    /// What went wrong, in words.
    async fn serve(
        &self,
        number: Number,
        server: usize,
        socket: OwnedFd,
        session: &mut Session,
    ) -> Result<(), String> {
        let rules = self.rules.borrow().clone();
        let tls = rules.tls.get(server).and_then(Option::as_ref);
        let socket = Socket::given(socket).map_err(|error| error.to_string())?;
        let arrival = match timeout(ENTRY, entry::greet(socket, tls)).await {
            Err(_) => return Err("it did not say what it wants in time".to_owned()),
            Ok(Err(failed)) => return turn_away(failed).await,
            Ok(Ok(arrival)) => arrival,
        };
        let Arrival { mut stream, wants, packet } = arrival;
        let (admission, upstream) = match self.ask(number, wants.clone()).await {
            Answer::Admitted(admission, upstream) => (admission, upstream),
            Answer::Refused(refusal) => {
                say(&mut stream, &refusal.report().encode()).await;
                return Ok(());
            }
        };
        let mut court = match &wants {
            Wants::Cancel => None,
            Wants::Session { user, database, application, encrypted } => {
                let mut profile = self.profile(&rules, server, *admission)?;
                if *encrypted {
                    profile.encryption_started();
                }
                judging::started(&mut profile, user, database, application);
                let mut court = ClientCourt::new(profile, self.judging.clone());
                if let Err(denial) = court.judge_startup(&packet) {
                    say(&mut stream, &denial.encode(Severity::Fatal)).await;
                    return Err(format!("it may not start so: {}", denial.detail));
                }
                Some(court)
            }
        };
        let tls = tls.filter(|_| matches!(stream, Stream::Tls(_)));
        let upstream = Socket::given(upstream).map_err(|error| error.to_string())?;
        let mut upstream = match entry::introduce(upstream, tls, &packet).await {
            Ok(upstream) => upstream,
            Err(error) => {
                let refusal = Refusal::unreachable(&error.to_string());
                say(&mut stream, &refusal.report().encode()).await;
                return Err(format!("the server: {error}"));
            }
        };
        let Some(court) = &mut court else {
            // The server says nothing, and closes.
            let mut nothing = [0; 1];
            let _ = timeout(FAREWELL, upstream.read(&mut nothing)).await;
            return Ok(());
        };
        match relay(&mut stream, &mut upstream, session, court).await {
            End::Closed => Ok(()),
            // Either may go without a word.
            End::Client => Ok(()),
            End::Server(error) => Err(format!("the server: {error}")),
            End::Broken(broken) => {
                say(&mut stream, &broken.report()).await;
                Err(broken.to_string())
            }
        }
    }

    async fn ask(&self, number: Number, wants: Wants) -> Answer {
        let (asker, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, asker);
        self.tell(&Word::Arrived { number, wants });
        let answer = timeout(ADMISSION, answer).await;
        self.waiting.borrow_mut().remove(&number);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => {
                Answer::Refused(Refusal::unreachable("the service does not answer"))
            }
        }
    }

    fn profile(
        &self,
        rules: &Rulebook,
        server: usize,
        admission: Admission,
    ) -> Result<Profile, String> {
        let places = rules.places.get(server).cloned().unwrap_or_default();
        let Admission { connection, server_name, local, remote, client } = admission;
        let facts = ServerFacts::named(server_name, crate::event::Engine::Postgresql, places);
        Ok(Profile::new(connection, Rc::new(facts), local, remote, client, None).guarded())
    }

    fn tell(&self, word: &Word) {
        if let Err(error) = self.channel.send(word, None) {
            tracing::error!(%error, "the service can't be told");
        }
    }
}

impl Refusal {
    pub(super) fn report(&self) -> Report<'_> {
        Report {
            severity: Severity::Fatal,
            code: &self.code,
            message: &self.message,
            detail: self.detail.as_deref(),
            hint: self.hint.as_deref(),
        }
    }

    /// `cannot_connect_now`
    pub fn unreachable(why: &str) -> Self {
        Self {
            code: "57P03".to_owned(),
            message: format!("dbwarden: the guard can't reach the server: {why}"),
            detail: None,
            hint: Some("`dbwarden status` on the server's host says more.".to_owned()),
        }
    }
}

async fn turn_away(failed: Failed) -> Result<(), String> {
    let Failed { stream, why } = failed;
    if let Unwelcome::Io(error) = &why
        && error.kind() == io::ErrorKind::UnexpectedEof
    {
        // It only looked whether somebody listens.
        return Ok(());
    }
    if let Some(mut stream) = stream {
        let message = format!("dbwarden: {why}");
        let report = Report {
            severity: Severity::Fatal,
            code: "08P01",
            message: &message,
            detail: None,
            hint: None,
        };
        say(&mut stream, &report.encode()).await;
    }
    Err(why.to_string())
}

/// The last words.
async fn say(stream: &mut Stream, words: &[u8]) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await
    };
    // A client that doesn't listen misses them.
    let _ = timeout(FAREWELL, said).await;
}

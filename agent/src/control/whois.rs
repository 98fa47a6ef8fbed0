//! Who somebody is: the question, the answer, and how the pipeline is asked without waiting for the asker.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::oneshot, time::timeout};

use crate::event::{ConnectionId, Evidence, Origin, Principal};

/// Questions that wait for the pipeline at a time.
const MAX_ASKED: usize = 16;
/// For the pipeline to come by and answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom somebody asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A process, connected or not.
    Pid(u32),
    /// A process by itself, whatever it is connected to.
    Process {
        pid: u32,
        uid: u32,
    },
    /// All open connections from there.
    Address {
        address: IpAddr,
        port: Option<u16>,
    },
    Connection(ConnectionId),
}

/// One who was found: the fields of a record, and what its principal rests on.
#[derive(Clone, Debug, Serialize)]
pub struct Identified {
    #[serde(flatten)]
    pub origin: Arc<Origin>,
    pub groups: Arc<[Arc<str>]>,
    pub evidence: Vec<Evidence>,
    /// Of an AI, the principal behind `initiator`.
    pub launched_by: Option<Box<Principal>>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Whois {
    /// In the order of their connections.
    pub found: Vec<Identified>,
    /// Those that the answer leaves out.
    pub more: u64,
}

/// A question on its way to the pipeline.
#[derive(Debug)]
pub struct Asked {
    pub question: Question,
    asker: oneshot::Sender<Whois>,
}

/// Where askers leave questions until the pipeline takes them.
#[derive(Debug, Default)]
pub struct Questions {
    are_there: AtomicBool,
    asked: Mutex<Vec<Asked>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("{MAX_ASKED} questions wait already: try again in a moment")]
    TooMany,
    #[error("the pipeline is busy and did not answer within {} s", PATIENCE.as_secs())]
    Busy,
}

impl Identified {
    pub fn new(origin: Arc<Origin>, principal: Principal) -> Self {
        let Principal { groups, evidence, initiator: launched_by, .. } = principal;
        Self { origin, groups, evidence, launched_by }
    }
}

impl Asked {
    /// Whoever has gone meanwhile doesn't mind.
    pub fn answer(self, whois: Whois) {
        let _ = self.asker.send(whois);
    }
}

impl Questions {
    /// What was asked since the last time. Costs one atomic load where nothing was.
    pub fn take(&self) -> Vec<Asked> {
        if !self.are_there.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.are_there.store(false, Ordering::Relaxed);
        mem::take(&mut *asked)
    }

    pub(super) async fn ask(&self, question: Question) -> Result<Whois, Unanswered> {
        let (asker, answer) = oneshot::channel();
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.len() >= MAX_ASKED {
                return Err(Unanswered::TooMany);
            }
            asked.push(Asked { question, asker });
            self.are_there.store(true, Ordering::Relaxed);
        }
        match timeout(PATIENCE, answer).await {
            Ok(Ok(whois)) => Ok(whois),
            Ok(Err(_)) | Err(_) => Err(Unanswered::Busy),
        }
    }
}

impl FromStr for Question {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// Digits of a connection's id; no pid has as many.
        const ID_DIGITS: usize = 16;
        let address = |address: IpAddr| Self::Address { address, port: None };
        let with_port =
            |end: SocketAddr| Self::Address { address: end.ip(), port: Some(end.port()) };
        let id = || (text.len() == ID_DIGITS).then(|| u64::from_str_radix(text, 16).ok())?;
        None.or_else(|| id().map(|id| Self::Connection(ConnectionId(id))))
            .or_else(|| text.parse().ok().filter(|pid| *pid > 0).map(Self::Pid))
            .or_else(|| text.parse().ok().map(address))
            .or_else(|| text.parse().ok().map(with_port))
            .ok_or_else(|| {
                format!(
                    "{text:?} is nobody that can be asked about: give a pid, an address (10.0.0.7, \
                     10.0.0.7:41234, [::1]:41234) or a connection (the 16 digits of its id)"
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::{Question, Questions, Whois};
    use crate::event::ConnectionId;

    #[test]
    fn questions_are_told_apart() {
        let at =
            |address: &str, port| Question::Address { address: address.parse().unwrap(), port };
        for (text, expected) in [
            ("4711", Some(Question::Pid(4711))),
            ("0", None),
            ("10.0.0.7", Some(at("10.0.0.7", None))),
            ("10.0.0.7:41234", Some(at("10.0.0.7", Some(41_234)))),
            ("::1", Some(at("::1", None))),
            ("[::1]:5", Some(at("::1", Some(5)))),
            ("67ab000000000001", Some(Question::Connection(ConnectionId(0x67ab_0000_0000_0001)))),
            ("6700000000000001", Some(Question::Connection(ConnectionId(0x6700_0000_0000_0001)))),
            ("67ab", None),
            ("alice", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Question>().ok(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn the_pipeline_answers_when_it_comes_by() {
        let questions = Arc::new(Questions::default());
        assert!(questions.take().is_empty());
        let pipeline = thread::spawn({
            let questions = questions.clone();
            move || {
                loop {
                    if let Some(asked) = questions.take().pop() {
                        assert_eq!(asked.question, Question::Pid(7));
                        return asked.answer(Whois { more: 3, ..Whois::default() });
                    }
                    thread::yield_now();
                }
            }
        });
        assert_eq!(questions.ask(Question::Pid(7)).await.unwrap().more, 3);
        pipeline.join().unwrap();
    }
}

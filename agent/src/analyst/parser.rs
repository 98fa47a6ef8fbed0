//! The service's side of the child: starts it, asks it, replaces it.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tracing::warn;

use super::wire::{self, Asked};
use crate::{
    event::Uses,
    statement::{Analysed, Lexing},
};

/// Between a child's end and the next one's start; doubles with each that fails, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Starting takes longer than answering does: the program is loaded, the child confines itself.
const START_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The last child failed a moment ago; the next is not started yet.
    Waiting,
    TimedOut,
    /// It ended, could not be started, or answered nonsense.
    Broken,
}

pub struct Parser {
    program: PathBuf,
    time_limit: Duration,
    running: Option<Running>,
    pause: Duration,
    not_before: Option<Instant>,
    n_starts: u64,
}

/// A child and the way to it.
struct Running {
    child: Child,
    stream: UnixStream,
}

impl Parser {
    pub fn new(program: PathBuf, time_limit: Duration) -> Self {
        Self {
            program,
            time_limit,
            running: None,
            pause: SHORTEST_PAUSE,
            not_before: None,
            n_starts: 0,
        }
    }

    pub fn n_starts(&self) -> u64 {
        self.n_starts
    }

    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Waits for at most the time limit; after a failure the child is gone.
    pub fn ask(&mut self, text: &str, asked: Asked<'_>) -> Result<Analysed, Failure> {
        self.ask_for(text, asked, |from| wire::read_answer(from))
    }

    /// The same for uses, statement by statement.
    pub fn ask_uses(&mut self, text: &str, lexing: Lexing) -> Result<Vec<Uses>, Failure> {
        self.ask_for(text, Asked::Uses(lexing), |from| wire::read_uses(from))
    }

    fn ask_for<T>(
        &mut self,
        text: &str,
        asked: Asked<'_>,
        read: impl FnOnce(&mut Timed<'_>) -> io::Result<T>,
    ) -> Result<T, Failure> {
        let is_new = self.running.is_none();
        if is_new {
            self.start()?;
        }
        let limit = if is_new { START_LIMIT } else { self.time_limit };
        let Some(running) = &mut self.running else { return Err(Failure::Broken) };
        let mut timed = Timed { stream: &mut running.stream, until: Instant::now() + limit };
        let answer = wire::write_request(&mut timed, text, asked).and_then(|()| read(&mut timed));
        match answer {
            Ok(analysed) => {
                self.pause = SHORTEST_PAUSE;
                Ok(analysed)
            }
            Err(error) => {
                // What comes after an answer that was late would be taken for the next one.
                self.running = None;
                let is_late =
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                warn!(%error, is_late, "the process that parses failed and will be replaced");
                self.wait_before_next();
                Err(if is_late { Failure::TimedOut } else { Failure::Broken })
            }
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        if self.not_before.is_some_and(|not_before| Instant::now() < not_before) {
            return Err(Failure::Waiting);
        }
        self.n_starts += 1;
        match Running::start(&self.program) {
            Ok(running) => {
                self.running = Some(running);
                Ok(())
            }
            Err(error) => {
                warn!(%error, "the process that parses can't be started");
                self.wait_before_next();
                Err(Failure::Broken)
            }
        }
    }

    fn wait_before_next(&mut self) {
        self.not_before = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

impl Running {
    fn start(program: &PathBuf) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .arg("analyst")
            // Nothing of the service's environment is its business.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // A parser that breaks may print what it was reading.
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, stream })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, and has nothing that it could lose. A service that lacks the right to
        // end another user's process doesn't wait for it: a child without a stream ends by itself, or when
        // its time is up.
        let _ = self.stream.shutdown(Shutdown::Both);
        match self.child.kill() {
            Ok(()) => drop(self.child.wait()),
            Err(error) => warn!(%error, "the process that parses can't be ended"),
        }
    }
}

/// A stream on which all reads and writes together end in time.
struct Timed<'a> {
    stream: &'a mut UnixStream,
    until: Instant,
}

impl Timed<'_> {
    fn rest(&self) -> io::Result<Option<Duration>> {
        let rest = self.until.saturating_duration_since(Instant::now());
        if rest.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(rest)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.rest()?)?;
        self.stream.read(bytes)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.rest()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

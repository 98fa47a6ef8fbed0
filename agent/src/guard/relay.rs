//! Moves the bytes of a session: reads from one side no more than the other takes.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::{
    client_court::ClientCourt,
    outside::Outside,
    session::{Broken, Output, Session, Tiding},
    stream::Stream,
};

/// Read at a time.
const CHUNK: usize = 64 << 10;
/// Of what either side says, before others have their turn.
const ROUNDS: usize = 32;
/// What waits for one side before the other is read again.
const MOST_WAITING: usize = 256 << 10;
/// An idle session holds less than this for either direction.
const SPARE: usize = 4 << 10;

thread_local! {
    /// Shared by all sessions of a worker: between two reads nothing is left in it.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    Closed,
    Client,
    Server(io::Error),
    /// With what the client is yet to get.
    Broken(Broken, Vec<u8>),
}

/// Of what one side says.
#[derive(Debug, Default)]
struct Direction {
    /// Sent of what waits.
    sent: usize,
    /// Something was written that may still stand in a buffer of TLS.
    unflushed: bool,
    /// The side that speaks has said that it says no more …
    ended: bool,
    /// … and the other side was told.
    told: bool,
}

/// A session with both of its sides; until one of them breaks off, or both are done.
///
/// All that a turn of it looks at is here, and no layer of futures around it: each keeps where it is in a place of its
/// own, and each such place costs as much as a rule.
pub(super) struct Relay {
    to_server: Direction,
    to_client: Direction,
    out: Output,
    pub(super) client: Stream,
    server: Stream,
    session: Session,
    court: ClientCourt,
    outside: Outside,
}

impl Future for Relay {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        Poll::Ready(ready!(self.go_on(cx)).err().unwrap_or(End::Closed))
    }
}

impl Relay {
    pub(super) fn new(
        client: Stream,
        server: Stream,
        session: Session,
        court: ClientCourt,
        outside: Outside,
    ) -> Self {
        Self {
            to_server: Direction::default(),
            to_client: Direction::default(),
            out: Output::default(),
            client,
            server,
            session,
            court,
            outside,
        }
    }

    /// Closes both sides.
    pub(super) fn over(self) -> Session {
        self.session
    }

    fn broken(&mut self, broken: Broken) -> End {
        let sent = self.to_client.sent.min(self.out.to_client.len());
        let mut words = self.out.to_client.split_off(sent);
        // In the midst of an answer it would be taken for a part of that.
        if self.session.is_between_answers() {
            words.append(&mut broken.report());
        }
        End::Broken(broken, words)
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        for _ in 0..ROUNDS {
            let mut moved = false;
            let waiting = &mut self.out.to_server;
            moved |= self.to_server.write(waiting, &mut self.server, cx).map_err(End::Server)?;
            let waiting = &mut self.out.to_client;
            moved |=
                self.to_client.write(waiting, &mut self.client, cx).map_err(|_| End::Client)?;
            if self.to_client.told {
                // The server has ended the session.
                return Poll::Ready(Ok(()));
            }
            moved |= self.hear_outside(cx)?;
            moved |= self.hear_client(cx)?;
            moved |= self.hear_server(cx)?;
            if !moved {
                return Poll::Pending;
            }
        }
        // Others want to go on too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What people have decided, what time has, and whether a client that isn't read is still there.
    fn hear_outside(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.session.waits() {
            self.outside.rest();
            return Ok(false);
        }
        if let Some(tiding) = self.outside.hear(self.session.cancel_key(), cx) {
            self.hear(tiding)?;
            return Ok(true);
        }
        if self.outside.is_over(self.session.patience(), cx) {
            self.hear(Tiding::TimedOut)?;
            return Ok(true);
        }
        if self.outside.is_time_to_look(cx) && !self.session.has_room() && self.client.has_left() {
            return Err(End::Client);
        }
        Ok(false)
    }

    fn hear(&mut self, tiding: Tiding) -> Result<(), End> {
        let heard = self.session.hear(tiding, &mut self.court, &mut self.out);
        heard.map_err(|broken| self.broken(broken))
    }

    fn hear_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.to_server.ended || self.out.to_server.len() > MOST_WAITING {
            return Ok(false);
        }
        if self.session.waits() && !self.session.has_room() {
            return Ok(false);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let heard = match read(&mut self.client, cx, scratch) {
                Poll::Pending => return Ok(false),
                Poll::Ready(heard) => heard.map_err(|_| End::Client)?,
            };
            if heard.is_empty() && self.session.waits() {
                // Nobody is there any more for whom it would wait.
                return Err(End::Client);
            }
            if heard.is_empty() {
                self.to_server.ended = true;
                return Ok(true);
            }
            let passed = self.session.take_client_bytes(heard, &mut self.court, &mut self.out);
            let passed = passed.map_err(|broken| self.broken(broken))?;
            let waiting = &mut self.out.to_server;
            self.to_server.pass(passed, waiting, &mut self.server, cx).map_err(End::Server)?;
            Ok(true)
        })
    }

    fn hear_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.to_client.ended || self.out.to_client.len() > MOST_WAITING {
            return Ok(false);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let heard = match read(&mut self.server, cx, scratch) {
                Poll::Pending => return Ok(false),
                Poll::Ready(heard) => heard.map_err(End::Server)?,
            };
            if heard.is_empty() {
                self.to_client.ended = true;
                return Ok(true);
            }
            let passed = self.session.take_server_bytes(heard, &mut self.court, &mut self.out);
            let passed = passed.map_err(|broken| self.broken(broken))?;
            let waiting = &mut self.out.to_client;
            self.to_client.pass(passed, waiting, &mut self.client, cx).map_err(|_| End::Client)?;
            Ok(true)
        })
    }
}

fn read<'s>(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    scratch: &'s mut [u8],
) -> Poll<io::Result<&'s [u8]>> {
    let mut buffer = ReadBuf::new(scratch);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    let n = buffer.filled().len();
    Poll::Ready(Ok(scratch.get(..n).unwrap_or_default()))
}

impl Direction {
    /// Sends what has just come, after what waits; what isn't taken waits with it.
    fn pass(
        &mut self,
        mut bytes: &[u8],
        waiting: &mut Vec<u8>,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        // Most of it goes on at once, without being copied.
        while waiting.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, bytes) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => bytes = bytes.get(written?..).unwrap_or_default(),
            }
            self.unflushed = true;
        }
        waiting.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what waits, as far as it is taken; whether anything moved.
    fn write(
        &mut self,
        waiting: &mut Vec<u8>,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        let mut moved = false;
        while let Some(bytes @ [_, ..]) = waiting.get(self.sent..) {
            match Pin::new(&mut *stream).poll_write(cx, bytes) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.sent += written?,
            }
            moved = true;
            self.unflushed = true;
        }
        self.sent = 0;
        waiting.clear();
        if waiting.capacity() > SPARE {
            *waiting = Vec::new();
        }
        if self.unflushed {
            match Pin::new(&mut *stream).poll_flush(cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(flushed) => flushed?,
            }
            self.unflushed = false;
        }
        if self.ended && !self.told {
            match Pin::new(&mut *stream).poll_shutdown(cx) {
                Poll::Pending => return Ok(moved),
                // Whoever has gone already doesn't mind.
                Poll::Ready(_) => self.told = true,
            }
            moved = true;
        }
        Ok(moved)
    }
}

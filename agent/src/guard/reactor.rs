//! What a worker's thread runs on: it sleeps until a socket is ready or somebody wakes a task, and goes on with that.
//!
//! A session does little between two system calls, and a general runtime's book-keeping around them (a lock for each
//! socket that isn't ready, wakers that are counted across threads, states of tasks) costs as much as judging a
//! statement. Here a socket's readiness is a cell, and belongs to the task that has waited for it last. So a task
//! must ask its sockets itself when it is woken: no combinator that keeps wakers of its own may stand between.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use mio::{Events, Interest, Registry, Token, event::Event, unix::SourceFd};
use slab::Slab;

/// Told of at a time.
const EVENTS: usize = 256;
/// Of the waker; sockets have their places in the list.
const WOKEN: Token = Token(usize::MAX);

/// The sockets and tasks of one thread.
#[derive(Clone)]
pub(super) struct Reactor(Rc<Inner>);

struct Inner {
    registry: Registry,
    poll: RefCell<mio::Poll>,
    sources: RefCell<Slab<Rc<Readiness>>>,
    tasks: RefCell<Slab<Rc<Task>>>,
    /// Places of tasks that have something to do.
    due: RefCell<VecDeque<usize>>,
    /// The one that runs.
    current: Cell<usize>,
    outside: Arc<Outside>,
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    /// `None` while it runs, and after that.
    work: RefCell<Option<Work>>,
    waker: Waker,
    is_due: Cell<bool>,
}

/// What other threads see of it.
struct Outside {
    woken: Mutex<Woken>,
    bell: mio::Waker,
}

#[derive(Default)]
struct Woken {
    tasks: Vec<usize>,
    is_asleep: bool,
}

impl Outside {
    fn lock(&self) -> MutexGuard<'_, Woken> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the task at a place. Who has it no more wakes another one in vain, at worst.
struct Alarm {
    task: usize,
    outside: Arc<Outside>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let was_asleep = {
            let mut woken = self.outside.lock();
            woken.tasks.push(self.task);
            std::mem::take(&mut woken.is_asleep)
        };
        if was_asleep && let Err(error) = self.outside.bell.wake() {
            tracing::error!(%error, "a thread of the guard can't be woken");
        }
    }
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let bell = mio::Waker::new(&registry, WOKEN)?;
        Ok(Self(Rc::new(Inner {
            registry,
            poll: RefCell::new(poll),
            sources: RefCell::default(),
            tasks: RefCell::default(),
            due: RefCell::default(),
            current: Cell::new(0),
            outside: Arc::new(Outside { woken: Mutex::default(), bell }),
        })))
    }

    /// From the next turn on.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let mut tasks = self.0.tasks.borrow_mut();
        let place = tasks.vacant_entry();
        let task = place.key();
        let alarm = Alarm { task, outside: self.0.outside.clone() };
        place.insert(Rc::new(Task {
            work: RefCell::new(Some(Box::pin(work))),
            waker: Arc::new(alarm).into(),
            is_due: Cell::new(true),
        }));
        self.0.due.borrow_mut().push_back(task);
    }

    /// Until `main` is done; what else was spawned ends with it.
    ///
    /// # Errors
    /// The kernel tells of no socket any more.
    pub(super) fn run<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> io::Result<T> {
        let outcome = Rc::new(RefCell::new(None));
        let told = outcome.clone();
        self.spawn(async move {
            let value = main.await;
            *told.borrow_mut() = Some(value);
        });
        let mut events = Events::with_capacity(EVENTS);
        let mut turn = Vec::new();
        loop {
            turn.extend(self.0.due.borrow_mut().drain(..));
            for task in turn.drain(..) {
                self.0.go_on(task);
            }
            if let Some(value) = outcome.borrow_mut().take() {
                // What is left may have sockets, which want to leave.
                let left = std::mem::take(&mut *self.0.tasks.borrow_mut());
                drop(left);
                return Ok(value);
            }
            self.0.wait(&mut events)?;
        }
    }
}

impl Inner {
    fn mark(&self, place: usize) {
        if let Some(task) = self.tasks.borrow().get(place)
            && !task.is_due.replace(true)
        {
            self.due.borrow_mut().push_back(place);
        }
    }

    fn go_on(&self, place: usize) {
        let Some(task) = self.tasks.borrow().get(place).cloned() else { return };
        task.is_due.set(false);
        let Some(mut work) = task.work.borrow_mut().take() else { return };
        self.current.set(place);
        let mut context = Context::from_waker(&task.waker);
        // One client's misfortune is not the others'.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context)));
        match polled {
            Ok(Poll::Pending) => *task.work.borrow_mut() = Some(work),
            Ok(Poll::Ready(())) | Err(_) => {
                drop(work);
                self.tasks.borrow_mut().try_remove(place);
            }
        }
    }

    /// For something to do.
    fn wait(&self, events: &mut Events) -> io::Result<()> {
        let has_more = {
            let mut woken = self.outside.lock();
            woken.tasks.drain(..).for_each(|task| self.mark(task));
            let has_more = !self.due.borrow().is_empty();
            woken.is_asleep = !has_more;
            has_more
        };
        let patience = has_more.then_some(Duration::ZERO);
        match self.poll.borrow_mut().poll(events, patience) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in events.iter() {
            let source = self.sources.borrow().get(event.token().0).cloned();
            if let Some(source) = source {
                source.hear(event);
                self.mark(source.task.get());
            }
        }
        let mut woken = self.outside.lock();
        woken.is_asleep = false;
        woken.tasks.drain(..).for_each(|task| self.mark(task));
        Ok(())
    }
}

/// What is known of a socket.
#[derive(Default)]
struct Readiness {
    reads: Cell<bool>,
    writes: Cell<bool>,
    /// Nothing more comes, after what is there: no event tells of that once more.
    is_closed: Cell<bool>,
    /// Who has waited for it last.
    task: Cell<usize>,
}

impl Readiness {
    fn hear(&self, event: &Event) {
        let is_over = event.is_error() || event.is_write_closed();
        if event.is_readable() || event.is_read_closed() || is_over {
            self.reads.set(true);
        }
        if event.is_writable() || is_over {
            self.writes.set(true);
        }
        if event.is_read_closed() || is_over {
            self.is_closed.set(true);
        }
    }
}

/// A socket's place in the reactor, until it is dropped.
pub(super) struct Registered {
    readiness: Rc<Readiness>,
    place: usize,
    reactor: Reactor,
}

impl Registered {
    /// `socket` doesn't block, and is open for as long as this is there.
    pub(super) fn new(reactor: &Reactor, socket: BorrowedFd<'_>) -> io::Result<Self> {
        let readiness = Rc::new(Readiness { writes: Cell::new(true), ..Readiness::default() });
        readiness.task.set(reactor.0.current.get());
        let place = reactor.0.sources.borrow_mut().insert(readiness.clone());
        let registered = Self { readiness, place, reactor: reactor.clone() };
        let interests = Interest::READABLE | Interest::WRITABLE;
        let mut source = SourceFd(&socket.as_raw_fd());
        mio::event::Source::register(&mut source, &reactor.0.registry, Token(place), interests)?;
        Ok(registered)
    }

    /// Reads by `read` if there may be something to read; it was asked for up to `most` bytes.
    pub(super) fn read(
        &self,
        most: usize,
        read: impl FnOnce() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let Readiness { reads, is_closed, .. } = &*self.readiness;
        let polled = self.attempt(reads, read);
        // Fewer than asked for were all, and more to come wakes.
        if let Poll::Ready(Ok(n)) = &polled
            && *n > 0
            && *n < most
            && !is_closed.get()
        {
            reads.set(false);
        }
        polled
    }

    /// Writes by `write` if there may be room.
    pub(super) fn write(
        &self,
        write: impl FnOnce() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.attempt(&self.readiness.writes, write)
    }

    /// Looks by `peek` at what may be there to be read, and leaves it there.
    pub(super) fn peek(&self, peek: impl FnOnce() -> io::Result<usize>) -> Poll<io::Result<usize>> {
        self.attempt(&self.readiness.reads, peek)
    }

    /// Where it isn't ready, the task that runs is woken when it is.
    fn attempt(
        &self,
        is_ready: &Cell<bool>,
        act: impl FnOnce() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.readiness.task.set(self.reactor.0.current.get());
        if !is_ready.get() {
            return Poll::Pending;
        }
        match act() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                is_ready.set(false);
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    /// Before the socket is closed: another process may have it too, and its events would go on.
    pub(super) fn leave(&self, socket: BorrowedFd<'_>) {
        let mut source = SourceFd(&socket.as_raw_fd());
        let left = mio::event::Source::deregister(&mut source, &self.reactor.0.registry);
        if let Err(error) = left {
            tracing::debug!(%error, "a socket was not there");
        }
        self.reactor.0.sources.borrow_mut().try_remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future::{pending, poll_fn},
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::{fd::OwnedFd, unix::net::UnixStream},
        rc::Rc,
        task::Poll,
        thread,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::{mpsc, oneshot},
    };

    use super::Reactor;
    use crate::guard::stream::Socket;

    fn tcp() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0.into(), one)
    }

    fn unix() -> (OwnedFd, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (one.into(), other)
    }

    /// More than any buffer holds: either side waits for the other, many times.
    #[test]
    fn all_comes_through_in_its_order() {
        fn check(fd: OwnedFd, other: impl std::io::Read + std::io::Write + Send + 'static) {
            const LEN: usize = 20 << 20;
            let byte = |n: usize| (n % 251) as u8;
            let other = thread::spawn(move || {
                let mut other = other;
                let mut all: Vec<u8> = Vec::new();
                let mut chunk = vec![0; 100_000];
                while all.len() < LEN {
                    let n = other.read(&mut chunk).unwrap();
                    assert_ne!(n, 0);
                    all.extend(&chunk[..n]);
                    other.write_all(&chunk[..n]).unwrap();
                }
                assert!(all.iter().enumerate().all(|(n, it)| *it == byte(n)));
            });
            let reactor = Reactor::new().unwrap();
            let socket = Socket::given(fd, &reactor).unwrap();
            let heard = reactor.run(async move {
                let (mut reads, mut writes) = tokio::io::split(socket);
                let all: Vec<u8> = (0..LEN).map(byte).collect();
                let mut heard = vec![0; LEN];
                let write = async {
                    for part in all.chunks(300_001) {
                        writes.write_all(part).await.unwrap();
                    }
                };
                let (_, n) = tokio::join!(write, reads.read_exact(&mut heard));
                assert_eq!(n.unwrap(), LEN);
                assert_eq!(reads.read(&mut [0; 10]).await.unwrap(), 0);
                heard
            });
            other.join().unwrap();
            assert!(heard.unwrap().iter().enumerate().all(|(n, it)| *it == byte(n)));
        }
        let (fd, other) = tcp();
        check(fd, other);
        let (fd, other) = unix();
        check(fd, other);
    }

    /// The last bytes and the end may be told of at once, and the end never again.
    #[test]
    fn an_end_that_comes_with_the_last_bytes_is_heard() {
        for fd in [
            {
                let (fd, mut other) = tcp();
                other.write_all(b"last").unwrap();
                fd
            },
            {
                let (fd, mut other) = unix();
                other.write_all(b"last").unwrap();
                fd
            },
        ] {
            let reactor = Reactor::new().unwrap();
            let mut socket = Socket::given(fd, &reactor).unwrap();
            let heard = reactor.run(async move {
                let mut heard = Vec::new();
                socket.read_to_end(&mut heard).await.unwrap();
                heard
            });
            assert_eq!(heard.unwrap(), b"last");
        }
    }

    #[test]
    fn other_threads_wake_what_waits_for_them() {
        let reactor = Reactor::new().unwrap();
        let (there, mut inbox) = mpsc::unbounded_channel();
        let (answers, from_there) = std::sync::mpsc::channel();
        let other = thread::spawn(move || {
            for n in 0..10_000u32 {
                let (sender, receiver) = oneshot::channel();
                there.send((n, sender)).unwrap();
                // It is asleep by now, or about to be.
                answers.send(receiver.blocking_recv().unwrap()).unwrap();
            }
        });
        let within = reactor.clone();
        let total = reactor.run(async move {
            let total = Rc::new(Cell::new(0u64));
            while let Some((n, sender)) = inbox.recv().await {
                let total = total.clone();
                within.spawn(async move {
                    total.set(total.get() + u64::from(n));
                    sender.send(n + 1).unwrap();
                });
            }
            total.get()
        });
        other.join().unwrap();
        assert_eq!(total.unwrap(), (0..10_000).sum::<u64>());
        assert_eq!(from_there.iter().collect::<Vec<_>>(), (1..=10_000).collect::<Vec<_>>());
    }

    /// One that always has something to do leaves room for others; one that panics ends alone.
    #[test]
    fn tasks_leave_each_other_alone() {
        let reactor = Reactor::new().unwrap();
        let (fd, mut other) = unix();
        let mut socket = Socket::given(fd, &reactor).unwrap();
        let turns = Rc::new(Cell::new(0));
        let own = turns.clone();
        reactor.spawn(poll_fn(move |cx| {
            own.set(own.get() + 1);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let dropped = Rc::new(RefCell::new(()));
        let held = dropped.clone();
        reactor.spawn(async move {
            let _held = held.borrow_mut();
            panic!("one client's misfortune");
        });
        let heard = reactor.run(async move {
            let mut byte = [0];
            socket.write_all(b"?").await.unwrap();
            other.read_exact(&mut byte).unwrap();
            other.write_all(b"!").unwrap();
            socket.read_exact(&mut byte).await.unwrap();
            byte
        });
        assert_eq!(heard.unwrap(), *b"!");
        assert!(turns.get() > 1);
        assert!(dropped.try_borrow().is_ok());
    }

    /// Of a socket that another process holds too, nothing is heard any more, and its place is another's.
    #[test]
    fn a_socket_leaves_its_place() {
        let reactor = Reactor::new().unwrap();
        let (fd, mut other) = unix();
        let held = fd.try_clone().unwrap();
        drop(Socket::given(fd, &reactor).unwrap());
        other.write_all(b"for nobody").unwrap();
        let (fd, mut speaker) = unix();
        let mut socket = Socket::given(fd, &reactor).unwrap();
        assert_eq!(reactor.0.sources.borrow().len(), 1);
        let within = reactor.clone();
        let heard = reactor.run(async move {
            let woken = Rc::new(Cell::new(0));
            let own = woken.clone();
            within.spawn(async move {
                let mut byte = [0];
                poll_fn(|cx| {
                    own.set(own.get() + 1);
                    let mut buffer = tokio::io::ReadBuf::new(&mut byte);
                    tokio::io::AsyncRead::poll_read(
                        std::pin::Pin::new(&mut socket),
                        cx,
                        &mut buffer,
                    )
                })
                .await
                .unwrap();
                pending::<()>().await;
            });
            let (clock, done) = oneshot::channel();
            thread::spawn(move || {
                speaker.write_all(b"!").unwrap();
                clock.send(()).unwrap();
                speaker
            });
            done.await.unwrap();
            woken
        });
        assert!(heard.unwrap().get() <= 2);
        assert_eq!(reactor.0.sources.borrow().len(), 0);
        drop(held);
    }
}

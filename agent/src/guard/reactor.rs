//! What a worker's thread runs on: it sleeps until a socket is ready or somebody wakes a task, and goes on with that.
//!
//! A session does little between two system calls, and a general runtime's book-keeping around them (a lock for each
//! socket that isn't ready, wakers that are counted across threads, states of tasks) costs as much as judging a
//! statement. Here a socket's readiness is a cell, and belongs to the task that has waited for it last. So a task
//! must ask its sockets itself when it is woken: no combinator that keeps wakers of its own may stand between.
//!
//! Between two turns of a session others, the server and its clients among them, have had the processor's caches:
//! what is looked at for each event lies close together.

#[cfg(test)]
mod tests;

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
    sources: RefCell<Slab<Readiness>>,
    tasks: RefCell<Slab<Task>>,
    /// Places of tasks that have something to do.
    due: RefCell<VecDeque<usize>>,
    /// The one that runs.
    current: Cell<usize>,
    outside: Arc<Outside>,
}

struct Task {
    /// `None` while it runs.
    work: Option<Work>,
    is_due: bool,
}

struct Work {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
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
        let work = Work { future: Box::pin(work), waker: Arc::new(alarm).into() };
        place.insert(Task { work: Some(work), is_due: true });
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
        if let Some(task) = self.tasks.borrow_mut().get_mut(place)
            && !std::mem::replace(&mut task.is_due, true)
        {
            self.due.borrow_mut().push_back(place);
        }
    }

    fn go_on(&self, place: usize) {
        let work = self.tasks.borrow_mut().get_mut(place).and_then(|task| {
            task.is_due = false;
            task.work.take()
        });
        let Some(mut work) = work else { return };
        self.current.set(place);
        let mut context = Context::from_waker(&work.waker);
        // One client's misfortune is not the others'.
        let polled = catch_unwind(AssertUnwindSafe(|| work.future.as_mut().poll(&mut context)));
        match polled {
            Ok(Poll::Pending) => {
                if let Some(task) = self.tasks.borrow_mut().get_mut(place) {
                    task.work = Some(work);
                }
            }
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
            if let Some(source) = self.sources.borrow().get(event.token().0) {
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
    place: usize,
    reactor: Reactor,
}

impl Registered {
    /// `socket` doesn't block, and is open for as long as this is there.
    pub(super) fn new(reactor: &Reactor, socket: BorrowedFd<'_>) -> io::Result<Self> {
        let (writes, task) = (Cell::new(true), reactor.0.current.clone());
        let readiness = Readiness { writes, task, ..Readiness::default() };
        let place = reactor.0.sources.borrow_mut().insert(readiness);
        let interests = Interest::READABLE | Interest::WRITABLE;
        let fd = socket.as_raw_fd();
        if let Err(error) = reactor.0.registry.register(&mut SourceFd(&fd), Token(place), interests)
        {
            reactor.0.sources.borrow_mut().try_remove(place);
            return Err(error);
        }
        Ok(Self { place, reactor: reactor.clone() })
    }

    /// Reads by `read` if there may be something to read; it was asked for up to `most` bytes.
    pub(super) fn read(
        &self,
        most: usize,
        read: impl FnOnce() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.attempt(|readiness| {
            let polled = when(&readiness.reads, read);
            // Fewer than asked for were all, and more to come wakes.
            if let Poll::Ready(Ok(n)) = &polled
                && *n > 0
                && *n < most
                && !readiness.is_closed.get()
            {
                readiness.reads.set(false);
            }
            polled
        })
    }

    /// Writes by `write` if there may be room.
    pub(super) fn write(
        &self,
        write: impl FnOnce() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.attempt(|readiness| when(&readiness.writes, write))
    }

    /// Looks by `peek` at what may be there to be read, and leaves it there.
    pub(super) fn peek(&self, peek: impl FnOnce() -> io::Result<usize>) -> Poll<io::Result<usize>> {
        self.attempt(|readiness| when(&readiness.reads, peek))
    }

    /// Where it isn't ready, the task that runs is woken when it is.
    fn attempt(
        &self,
        act: impl FnOnce(&Readiness) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let sources = self.reactor.0.sources.borrow();
        let Some(readiness) = sources.get(self.place) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        readiness.task.set(self.reactor.0.current.get());
        act(readiness)
    }

    /// Before the socket is closed: another process may have it too, and its events would go on.
    pub(super) fn leave(&self, socket: BorrowedFd<'_>) {
        let fd = socket.as_raw_fd();
        if let Err(error) = self.reactor.0.registry.deregister(&mut SourceFd(&fd)) {
            tracing::debug!(%error, "a socket was not there");
        }
        self.reactor.0.sources.borrow_mut().try_remove(self.place);
    }
}

/// Acts if it may be ready, and finds out when it isn't.
fn when(is_ready: &Cell<bool>, act: impl FnOnce() -> io::Result<usize>) -> Poll<io::Result<usize>> {
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

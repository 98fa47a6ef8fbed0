//! What a session hears that neither side says, while its statement waits for people: their answer, its client's
//! request to cancel, the time.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    clock::Clock,
    holds::{Held, Holds},
    session::Tiding,
    wire::Number,
};

/// Between looks at a client that is not read for now.
const LOOK: Duration = Duration::from_secs(1);

/// Sessions of a worker that wait.
pub(super) type Listeners = Rc<RefCell<HashMap<Number, UnboundedSender<Tiding>>>>;

/// Of one session: nothing, as long as nothing of it waits.
pub(super) struct Outside {
    number: Number,
    listeners: Listeners,
    holds: Holds,
    clock: Clock,
    ear: Option<Ear>,
}

type Alarm = Pin<Box<dyn Future<Output = ()>>>;

/// While a statement waits.
struct Ear {
    tell: UnboundedSender<Tiding>,
    tidings: UnboundedReceiver<Tiding>,
    held: Option<Held>,
    /// Since when it has waited for people, and how long it may.
    until: Option<Alarm>,
    look: Alarm,
}

impl Outside {
    pub(super) fn new(number: Number, listeners: Listeners, holds: Holds, clock: Clock) -> Self {
        Self { number, listeners, holds, clock, ear: None }
    }

    /// Nothing waits: what was said too late is for nobody.
    pub(super) fn rest(&mut self) {
        if self.ear.is_some() {
            self.ear = None;
            self.listeners.borrow_mut().remove(&self.number);
        }
    }

    /// What has been said since the last time. `key`: what a request to cancel names the session by.
    pub(super) fn hear(&mut self, key: Option<&[u8]>, cx: &mut Context<'_>) -> Option<Tiding> {
        let Self { number, listeners, holds, clock, ear } = self;
        let ear = ear.get_or_insert_with(|| {
            let (tell, tidings) = unbounded_channel();
            listeners.borrow_mut().insert(*number, tell.clone());
            Ear { tell, tidings, held: None, until: None, look: Box::pin(clock.sleep(LOOK)) }
        });
        if ear.held.is_none() {
            ear.held = key.map(|key| holds.hold(key, ear.tell.clone()));
        }
        match ear.tidings.poll_recv(cx) {
            Poll::Ready(tiding) => tiding,
            Poll::Pending => None,
        }
    }

    /// Whether it has waited for so long.
    pub(super) fn is_over(&mut self, patience: Option<Duration>, cx: &mut Context<'_>) -> bool {
        let (Some(patience), Some(ear)) = (patience, &mut self.ear) else { return false };
        let until = ear.until.get_or_insert_with(|| Box::pin(self.clock.sleep(patience)));
        until.as_mut().poll(cx).is_ready()
    }

    /// Whether to see if a client that isn't read is still there.
    pub(super) fn is_time_to_look(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(ear) = &mut self.ear else { return false };
        if ear.look.as_mut().poll(cx).is_pending() {
            return false;
        }
        ear.look = Box::pin(self.clock.sleep(LOOK));
        // It wakes this task.
        let _ = ear.look.as_mut().poll(cx);
        true
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.rest();
    }
}

//! What a session allocates for a statement that it knows.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use anyhow::Result;
use dbwarden::{
    event::{BootTime, Direction, Engine, SessionEvent},
    protocol::{Limits, Session},
};

/// Counts the allocations of each thread: tests run side by side.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has nowhere to count any more.
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        unsafe { System.realloc(place, layout, size) }
    }
}

/// pgbench prepares its statements in its first transaction and runs them again and again.
#[test]
fn a_prepared_statement_allocates_its_parameters_only() -> Result<()> {
    let transcripts = super::transcripts()?;
    let pgbench = transcripts.iter().find(|t| t.name.ends_with("pgbench-prepared-2"));
    let calls = pgbench.map(|transcript| &*transcript.calls).unwrap_or_default();
    // Between two statements.
    let request = |at: &usize| calls[*at].direction == Direction::Request;
    let middle = (calls.len() / 2..calls.len()).find(request).unwrap_or_default();
    let (first, later) = calls.split_at(middle);

    let (mut statements, mut parameters) = (0, 0);
    let mut sink = |event: SessionEvent<'_>| {
        if let SessionEvent::Statement(statement) = event {
            statements += 1;
            parameters += statement.parameters.len() as u64;
        }
    };
    let mut session = Session::new(Engine::Postgresql, Limits::default());
    for call in first {
        session.bytes(call.direction, BootTime(1), &call.bytes, &mut |_| {});
    }
    let before = ALLOCATIONS.get();
    for call in later {
        session.bytes(call.direction, BootTime(1), &call.bytes, &mut sink);
    }
    let allocations = ALLOCATIONS.get() - before;
    assert!(statements >= 7, "whole transactions, not {statements} statements");
    assert_eq!(allocations, parameters, "of {statements} statements");
    Ok(())
}

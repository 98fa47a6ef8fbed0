//! The query worker: a process that answers one request, so that a search can't slow or grow the agent.

use std::io::{self, BufWriter, Read, Write};

use rustix::{
    process::{Resource, Rlimit},
    thread::{CapabilitySet, CapabilitySets},
};

use super::{Options, Place, Request, SearchError, answer::Answer, run, source::Source};
use crate::event::in_full;

/// Of a request.
const REQUEST_BYTES: u64 = 64 << 10;
/// Polite to everybody else on the host, above all to the database.
const NICE: i32 = 10;
/// More than any query should need; less than what would hurt the host.
const ADDRESS_SPACE_BYTES: u64 = 4 << 30;
/// The planner recurses, on texts that people write.
const STACK_BYTES: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("can't read the request")]
    Input(#[source] io::Error),
    #[error("the request is longer than {REQUEST_BYTES} bytes")]
    TooLong,
    #[error("the request can't be understood")]
    Request(#[source] serde_json::Error),
    #[error("can't start the engine")]
    Engine(#[source] io::Error),
}

/// Reads one request from `input` and writes its answer to `output`. An error is for the log: what
/// the asker shall know stands in the answer.
pub fn work(
    ledger: &Place,
    options: &Options<'_>,
    input: impl Read,
    output: impl Write + Send,
) -> Result<(), WorkerError> {
    let mut output = BufWriter::with_capacity(64 << 10, output);
    let mut answer = Answer::new(&mut output);
    let result = answer_request(ledger, options, input, &mut answer);
    if let Err(error) = &result {
        // Whoever does not read this has gone.
        let _ = answer.error(&in_full(error));
    }
    result
}

fn answer_request(
    ledger: &Place,
    options: &Options<'_>,
    input: impl Read,
    answer: &mut Answer<'_>,
) -> Result<(), WorkerError> {
    let mut request = Vec::new();
    let read = input.take(REQUEST_BYTES + 1).read_to_end(&mut request);
    if read.map_err(WorkerError::Input)? as u64 > REQUEST_BYTES {
        return Err(WorkerError::TooLong);
    }
    let request: Request = serde_json::from_slice(&request).map_err(WorkerError::Request)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.limits.threads)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(WorkerError::Engine)?;
    let answered = async {
        let ledger = Source::open(ledger)?;
        run(&request, &ledger, options, answer).await
    };
    match runtime.block_on(answered) {
        // Nobody is there to be told.
        Ok(()) | Err(SearchError::Unread(_)) => Ok(()),
        Err(error) => {
            let _ = answer.error(&in_full(&error));
            Ok(())
        }
    }
}

/// Gives up what a query does not need: priority, rights, and memory without end. What the kernel does
/// not grant is no reason not to answer.
pub fn become_modest() {
    let _ = rustix::process::setpriority_process(None, NICE);
    let _ = rustix::thread::set_no_new_privs(true);
    let nothing = CapabilitySet::empty();
    let _ = rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing },
    );
    let memory = Rlimit { current: Some(ADDRESS_SPACE_BYTES), maximum: Some(ADDRESS_SPACE_BYTES) };
    let _ = rustix::process::setrlimit(Resource::As, memory);
    // When memory is short on the host, a search is what it can do without best.
    let _ = std::fs::write("/proc/self/oom_score_adj", "900");
    // Not longer than who has asked for it.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

//! Copies of the ledger in an object store: one company's hosts become one table, and a checkpoint is
//! where this host can't take it back.
//!
//! A thread of its own looks for sealed segments that aren't there yet. What is there is known from a
//! listing, so that it goes on where it was, whatever happened in between. Copies are never deleted:
//! how long they are kept is the store's business, as is keeping this host from overwriting them
//! (versioning, object lock).

mod bucket;
mod pass;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use bucket::Bucket;
pub use bucket::{CopyError, open_store};
use pass::Pass;

#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// `s3://bucket/path`, `gs://…`, `az://…` or `file:///path`.
    pub url: String,
    /// Of the store, by the names that its own tools use: `AWS_REGION`, `GOOGLE_SERVICE_ACCOUNT`, ….
    /// Without them, what the machine was given by its cloud is used.
    pub options: Vec<(String, String)>,
    pub host: String,
    pub ledger: PathBuf,
    /// Between two looks at what there is to copy.
    pub interval: Duration,
}

impl CopyOptions {
    /// Between two looks, where nobody says otherwise.
    pub const INTERVAL: Duration = Duration::from_secs(10);

    /// What a store's own tools would look for in this process's environment. A variable that isn't text
    /// is nobody's credential.
    pub fn of_environment() -> Vec<(String, String)> {
        const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
            .collect()
    }
}

/// How copying stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyStatus {
    /// Sealed segments that are there, and that wait.
    pub copied: u64,
    pub waiting: u64,
    /// Bytes that this process has sent.
    pub sent_bytes: u64,
    /// Segments that were removed here before they had been copied.
    pub missed: u64,
    /// Why it doesn't go on; it is tried again.
    pub trouble: Option<String>,
}

/// Copying under way; ends when dropped, in the middle of a file if need be.
pub struct Copies {
    status: Arc<Mutex<CopyStatus>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// After a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Copies {
    pub fn start(options: CopyOptions) -> Result<Self, CopyError> {
        let bucket = Bucket::open(&options.url, &options.host, &options.options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CopyError::Thread)?;
        let status = Arc::new(Mutex::new(CopyStatus::default()));
        let (stop, mut stopped) = watch::channel(false);
        let mut pass = Pass::new(options.ledger, bucket, status.clone());
        let interval = options.interval;
        let work = async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let done = pass.run().await;
                pass.tell(done.as_ref().err());
                let wait = match done {
                    Ok(()) => interval,
                    Err(_) => pause,
                };
                pause = if done.is_ok() { FIRST_PAUSE } else { LONGEST_PAUSE.min(pause * 2) };
                sleep(wait).await;
            }
        };
        let thread = thread::Builder::new().name("copies".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = work => {}
                    _ = stopped.changed() => {}
                }
            });
            // A name that is being looked up doesn't hold up the service's end.
            runtime.shutdown_background();
        });
        Ok(Self { status, stop, thread: Some(thread.map_err(CopyError::Thread)?) })
    }

    pub fn status(&self) -> CopyStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
